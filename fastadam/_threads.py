"""Whether a Numba parallel region may be launched, and on how many threads.

GNU OpenMP ends a forked child that enters a parallel region when its parent had entered one, and Numba's workqueue
layer aborts when two threads launch at once. In both cases the serial kernels give the same bits, so they are used.
"""

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numba

from fastadam._cores import available_threads, openmp_threads, unbound

_inherited_layer: str | None = None


@functools.cache
def _layer() -> str:
    with unbound():  # starts the layer, which has no name before
        numba.get_num_threads()
    return str(numba.threading_layer())


def _remember_layer_of_parent() -> None:
    global _inherited_layer
    try:
        _inherited_layer = numba.threading_layer()
    except ValueError:  # not started, so the child may start its own
        _inherited_layer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_layer_of_parent)


def parallel_threads() -> int:
    """Threads for a parallel region: no more than the limits allow, and 1 also where a region is not safe."""
    if _inherited_layer not in (None, "tbb"):
        return 1
    threads = min(_available(int(10 * time.monotonic())), openmp_threads())
    if threads == 1 or _layer() == "workqueue":
        return 1
    return min(threads, int(numba.get_num_threads()))


@functools.lru_cache(maxsize=1)
def _available(tenth: int) -> int:
    """Threads of the process, read ten times per second: as often as there are steps, it would show in small ones."""
    return available_threads()


def on_threads(threads: int, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, run on that many of Numba's threads, whose number stays as it was for everybody else."""
    if threads == 1 or threads == numba.get_num_threads():  # one thread runs a serial kernel
        return kernel
    return functools.partial(_run_on, threads, kernel)


def _run_on(threads: int, kernel: Callable[..., Any], *arguments: Any) -> Any:
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        return kernel(*arguments)
    finally:
        numba.set_num_threads(before)
