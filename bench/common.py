"""Measurement functions of the benchmarks: medians over alternating turns."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
from numpy.typing import DTypeLike

import fastadam

Work = Callable[[], object]

SECONDS_A_TURN = 0.02


def ratio(ours: Work, peer: Work, rounds: int = 15) -> float:
    """Return the time of `ours` over that of `peer` in the median round; the order alternates between rounds."""
    turns = [(work, _calls_a_turn(work)) for work in (ours, peer)]
    ratios = []
    with _warning_of_others():
        for k in range(rounds):
            if k % 2:
                peer_time, our_time = _take_turn(*turns[1]), _take_turn(*turns[0])
            else:
                our_time, peer_time = _take_turn(*turns[0]), _take_turn(*turns[1])
            ratios.append(our_time / peer_time)
    return median(ratios)


def seconds(work: Work, rounds: int = 15) -> float:
    """Return the seconds per call of `work` in the median turn."""
    calls = _calls_a_turn(work)
    with _warning_of_others():
        return median(_take_turn(work, calls) for _ in range(rounds))


def _calls_a_turn(work: Work) -> int:
    work()  # compiles, and touches every page
    return max(1, int(SECONDS_A_TURN / _take_turn(work, 1)))


def _take_turn(work: Work, calls: int) -> float:
    if calls > 1:
        work()  # wakes up the threads of this library while those of the other one go to sleep
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def _seconds_of_others() -> float:
    """Return the CPU seconds used by other processes, if the system reports them."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, *rest = map(int, stat.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


@contextmanager
def _warning_of_others() -> Iterator[None]:
    """Warn about other processes: with them, a library whose threads wait for each other can be ten times slower."""
    start, before = time.perf_counter(), _seconds_of_others()
    yield
    cores = (_seconds_of_others() - before) / (time.perf_counter() - start)
    if cores > 0.2:
        print(f"Unreliable measurement: other processes kept {cores:.1f} cores busy.", file=sys.stderr)


def ours(name: str) -> Any:
    """Return an attribute of fastadam; skip the benchmark for commits that do not have it."""
    if not hasattr(fastadam, name):
        raise NotImplementedError(f"fastadam has no {name}")
    return getattr(fastadam, name)


def peer(make: Callable[..., Work], *case: object) -> Work:
    """Return `make(*case)`; skip the benchmark if the library it needs is missing."""
    try:
        return make(*case)
    except ImportError as error:
        raise NotImplementedError(f"{error.name} is not installed") from None


def run_python(code: str, **environment: str) -> str:
    """Run `code` in a new interpreter, with the installed fastadam and not that of the current folder."""
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment).stdout


def product_rate(dtype: DTypeLike) -> float:
    """Return the floating-point operations per second of NumPy's matrix product."""
    n = 1024
    left, right = np.random.default_rng(0).random((2, n, n)).astype(dtype)
    out = np.empty((n, n), dtype)
    return 2 * n**3 / seconds(lambda: np.dot(left, right, out=out))


def stream(size: int) -> Work:
    """Return a memory-bound loop: on all threads, read `size / 2` bytes and overwrite them.

    A copy would underestimate the bandwidth of memory: before a processor writes to a cache line that it has not read,
    it reads the line, and these bytes would not be counted. A step of an optimizer writes only where it has read.
    """
    threads = numba.get_num_threads()
    parts = np.array_split(np.ones(size // 8, np.float32), threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.negative, parts, parts))


# Like the kernels of the package, but without the disk cache, which would not notice an edit of this file.
compiled = functools.partial(numba.njit, error_model="numpy", nogil=True)


@compiled
def _read_and_write(p, g, state, start, stop):
    for i in range(np.uint64(start), np.uint64(stop)):  # Numba does not vectorize loops over signed indices
        p[i] = g[i] - p[i]
    for row in range(state.shape[0]):
        values = state[row]
        for i in range(np.uint64(start), np.uint64(stop)):
            values[i] = -values[i]


@compiled(parallel=True)
def _read_and_write_all(p, g, state, block):
    for k in numba.prange((p.size + block - 1) // block):
        _read_and_write(p, g, state, k * block, min((k + 1) * block, p.size))


def traffic(n: int, states: int) -> Work:
    """Return a step without arithmetic: on all threads, read p, g and the states, and write all but g."""
    p, g, state = np.ones(n, np.float32), np.ones(n, np.float32), np.ones((states, n), np.float32)
    return lambda: _read_and_write_all(p, g, state, 4096)
