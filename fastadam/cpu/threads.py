"""When a Numba parallel region may be launched.

GNU OpenMP ends a forked child that enters a parallel region when its parent had entered one, and Numba's workqueue
layer aborts when two threads launch at once. In both cases the serial kernels give the same bits, so they are used.
"""

import functools
import os

import numba

_inherited_layer: str | None = None


@functools.cache
def _layer() -> str:
    numba.get_num_threads()  # starts the layer, which has no name before
    return str(numba.threading_layer())


def _remember_layer_of_parent() -> None:
    global _inherited_layer
    try:
        _inherited_layer = numba.threading_layer()
    except ValueError:  # not started, so the child may start its own
        _inherited_layer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_layer_of_parent)


def may_launch_parallel() -> bool:
    """Whether a parallel region is safe here, and has more than one thread to run on."""
    if _inherited_layer not in (None, "tbb"):
        return False
    return numba.get_num_threads() > 1 and _layer() != "workqueue"


PARALLEL_BYTES = 256 * 1024
"""Size of the parameters from which two threads win. Between threads that never slept they win from half of this on;
but most programs do something else between two steps, and waking a thread costs what it then saves."""

BLOCK = 4_096
"""Elements that a thread takes at a time: the state of a block stays in its L1 cache."""
