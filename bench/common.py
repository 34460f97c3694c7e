"""How the benchmarks measure: turn by turn, and the median of the turns."""

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
    """How many times as long `ours` takes as `peer`, in the median round. Each round begins with the other one."""
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
    """Seconds that one call of `work` takes, in the median turn."""
    calls = _calls_a_turn(work)
    with _warning_of_others():
        return median(_take_turn(work, calls) for _ in range(rounds))


def _calls_a_turn(work: Work) -> int:
    work()  # compiles, and touches every page
    return max(1, int(SECONDS_A_TURN / _take_turn(work, 1)))


def _take_turn(work: Work, calls: int) -> float:
    if calls > 1:
        work()  # wakes our threads, while those of the other library fall asleep
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def _seconds_of_others() -> float:
    """Seconds that other processes have kept the processors busy, as far as the system tells."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, *rest = map(int, stat.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


@contextmanager
def _warning_of_others() -> Iterator[None]:
    """No median helps against them: a library whose threads wait for one another can take ten times as long."""
    start, before = time.perf_counter(), _seconds_of_others()
    yield
    cores = (_seconds_of_others() - before) / (time.perf_counter() - start)
    if cores > 0.2:
        print(f"Not a fair measurement: other processes kept {cores:.1f} cores busy.", file=sys.stderr)


def ours(name: str) -> Any:
    """A class of fastadam; skips the benchmark for commits from before it was written."""
    if not hasattr(fastadam, name):
        raise NotImplementedError(f"fastadam has no {name}")
    return getattr(fastadam, name)


def peer(make: Callable[..., Work], *case: object) -> Work:
    """What `make` makes of the case; skips the benchmark where the library that it needs is missing."""
    try:
        return make(*case)
    except ImportError as error:
        raise NotImplementedError(f"{error.name} is not installed") from None


def run_python(code: str, **environment: str) -> str:
    """Run `code` in a new interpreter, which finds the installed fastadam and not that of the current folder."""
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment).stdout


def product_rate(dtype: DTypeLike) -> float:
    """Floating-point operations a second of NumPy's matrix product: what its BLAS makes of the machine."""
    n = 1024
    left, right = np.random.default_rng(0).random((2, n, n)).astype(dtype)
    out = np.empty((n, n), dtype)
    return 2 * n**3 / seconds(lambda: np.dot(left, right, out=out))


def stream(size: int) -> Work:
    """What memory allows: on all threads, read `size / 2` bytes and write as many over them.

    A plain copy would seem slower than memory is: before a processor writes to a line it has not read, it reads it, and
    nobody counts those bytes. An optimizer's step writes only what it has read.
    """
    threads = numba.get_num_threads()
    parts = np.array_split(np.ones(size // 8, np.float32), threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.negative, parts, parts))


# As the kernels of the package, but in no cache on disk: that one would not see an edit of this file.
compiled = functools.partial(numba.njit, error_model="numpy", nogil=True)


@compiled
def _read_and_write(p, g, state, start, stop):
    for i in range(np.uint64(start), np.uint64(stop)):  # of signed indices Numba makes no vectors
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
    """An optimizer's step without its arithmetic: on all threads, read p, g and the states, and write all but g."""
    p, g, state = np.ones(n, np.float32), np.ones(n, np.float32), np.ones((states, n), np.float32)
    return lambda: _read_and_write_all(p, g, state, 4096)
