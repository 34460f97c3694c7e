"""Threads of Numba's parallel regions: how many, and whether a region is safe.

GNU OpenMP ends a forked child that enters a parallel region if its parent had entered one, and Numba's workqueue layer
aborts if two threads launch regions at once. In both cases the serial kernels are used, which give the same bits.
"""

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numba

from fastadam.cpu.cores import available_threads, openmp_threads, unbound

_inherited_layer: str | None = None


@functools.cache
def _layer() -> str:
    with unbound():  # starts the layer, which has no name before that
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
    """Return the number of threads for a parallel region, within all limits; 1 if a region is not safe."""
    if _inherited_layer not in (None, "tbb"):
        return 1
    threads = min(_available(int(10 * time.monotonic())), openmp_threads())
    if threads == 1 or _layer() == "workqueue":
        return 1
    return min(threads, int(numba.get_num_threads()))


@functools.lru_cache(maxsize=1)
def _available(tenth: int) -> int:
    """Threads of the process, read ten times per second: reading them at each step would slow down small steps."""
    return available_threads()


def on_threads(threads: int, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Run a kernel on a number of Numba's threads, and restore the number afterwards."""
    if threads == 1 or threads == numba.get_num_threads():  # a single thread runs a serial kernel
        return kernel
    return functools.partial(_run_on, threads, kernel)


def _run_on(threads: int, kernel: Callable[..., Any], *arguments: Any) -> Any:
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        return kernel(*arguments)
    finally:
        numba.set_num_threads(before)


PARALLEL_BYTES = 256 * 1024
"""Size of the parameters from which a second thread wins. If the threads never sleep, it wins from half of this size
on; but most programs do other work between two steps, and then waking a thread costs as much as it saves."""

BLOCK = 4_096
"""Elements that a thread takes at a time. The blocks of a norm have this size, so its bits depend on it."""
