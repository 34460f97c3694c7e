"""How many threads to use: the least of what the cores, the container, the variables and other libraries allow.

What holds for the whole process is apart from what the calling thread sees: fits at once, in threads of the user's,
share what the process has. All of it is read anew for each fit, in a few microseconds; the quota once a second.
"""

import contextlib
import ctypes
import functools
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numba

Cores = frozenset[int]

_VARIABLES = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
_HAS_AFFINITY = hasattr(os, "sched_getaffinity")
_AT_IMPORT: Cores = frozenset(os.sched_getaffinity(os.getpid())) if _HAS_AFFINITY else frozenset()
_TOPOLOGY = "/sys/devices/system/cpu"
_GROUPS = "/sys/fs/cgroup"
_PROCESS = "/proc/self"
_VERSION_1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def available_threads() -> int:
    """Threads that the process may use."""
    return min(process_limits().values())


def default_threads() -> int:
    """Threads that a fit in the calling thread may use."""
    return min(available_threads(), *thread_limits().values())


def process_limits() -> dict[str, int]:
    """Limits of the whole process, by name."""
    if numba.config.DISABLE_JIT:
        return {"NUMBA_DISABLE_JIT": 1}
    limits = _core_limits(os.getpid())
    quota = cpu_quota(int(time.monotonic()))
    if quota < math.inf:
        limits["CPU quota"] = _threads_within(quota)
    limits |= {name: value for name in _VARIABLES if (value := _number(os.environ.get(name)))}
    if "NUMBA_NUM_THREADS" in os.environ or numba.config.NUMBA_NUM_THREADS != numba.config.NUMBA_DEFAULT_NUM_THREADS:
        limits["NUMBA_NUM_THREADS"] = int(numba.config.NUMBA_NUM_THREADS)
    return limits


def thread_limits() -> dict[str, int]:
    """Limits of the calling thread, by name."""
    limits = _core_limits(0)
    if _openmp_runtimes():
        limits["OpenMP"] = openmp_threads()
    try:
        numba.threading_layer()
    except ValueError:  # it has none yet, nor has anybody set its threads: asking for them would start them
        return limits
    limits["numba.set_num_threads"] = numba.get_num_threads()
    return limits


def openmp_threads() -> int:
    """Threads of OpenMP's next region in the calling thread, which `threadpoolctl` limits; many without OpenMP.

    Of several runtimes, the one with most counts: one that was loaded late may have counted a bound thread's cores.
    """
    return max((runtime.num_threads or 1 for runtime in _openmp_runtimes()), default=sys.maxsize)


def allowed_cores(thread: int = 0) -> Cores:
    """Return the cores that a thread may use, the calling one by default, whatever OpenMP has bound it to.

    With `OMP_PROC_BIND` and its like, a runtime binds each thread that loads it or opens a region to one of its places.
    Such a thread, as far as others can tell from its mask, has the cores of all places and those of the process as
    fastadam was imported. Any other mask is the user's.
    """
    mask, places = frozenset(os.sched_getaffinity(thread)), _places(_openmp_runtimes())
    return _AT_IMPORT.union(*places) if mask in places else mask


@contextlib.contextmanager
def unbound() -> Iterator[None]:
    """Let the threads that are started here have all cores that the calling thread is allowed."""
    bound = os.sched_getaffinity(0) if _HAS_AFFINITY else set()
    allowed = allowed_cores() if _HAS_AFFINITY else bound
    if allowed == bound:
        yield
        return
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


# --- cores ------------------------------------------------------------------------------------------------------------


def _core_limits(thread: int) -> dict[str, int]:
    if not _HAS_AFFINITY:
        return _core_limits_elsewhere()
    mask = allowed_cores(thread)
    return {"affinity": len(mask), "physical cores": _physical_cores(mask)}


@functools.cache
def _physical_cores(mask: Cores) -> int:
    """Count the cores of these CPUs, whose SMT siblings share one; where the system does not tell, each has its own."""
    return len({_siblings(cpu) for cpu in mask})


def _siblings(cpu: int) -> str:
    return _text(f"{_TOPOLOGY}/cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def _core_limits_elsewhere() -> dict[str, int]:
    from joblib import cpu_count  # type: ignore[import-untyped]

    return {"CPUs": os.cpu_count() or 1, "physical cores": cpu_count(only_physical_cores=True)}


# --- the container's quota --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def cpu_quota(second: int) -> float:
    """Return the seconds of CPU time per second that the control groups allow; infinity without a quota.

    It may change at any time, but reading it takes tens of microseconds: once per `second` is enough.
    """
    return min(_quotas(), default=math.inf)


def _threads_within(quota: float) -> int:
    """Round as joblib does, but below two CPUs give one thread: a second one would spin away what the first needs."""
    return math.ceil(quota) if quota >= 2 else 1


def _quotas() -> Iterator[float]:
    """The quotas of the groups that the process is in, and of those around them.

    In a container, a group may be named as outside of it, where only the root exists.
    """
    for line in _text(f"{_PROCESS}/cgroup").splitlines():
        _, controllers, own = line.split(":", 2)
        names = [name for name in own.split("/") if name]
        paths = ["/".join(names[:depth]) for depth in range(len(names) + 1)]
        if not controllers:  # version 2
            yield from (_quota(*_text(f"{_GROUPS}/{path}/cpu.max").split()) for path in paths)
        elif "cpu" in controllers.split(","):
            yield from (_quota(*(_text(f"{_GROUPS}/cpu/{path}/{name}") for name in _VERSION_1)) for path in paths)


def _quota(quota: str = "", period: str = "") -> float:
    microseconds, of = _number(quota), _number(period)
    return microseconds / of if microseconds and of else math.inf


def _text(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode()
    except OSError:
        return ""


# --- other libraries --------------------------------------------------------------------------------------------------


def _number(text: str | None) -> int | None:
    """The positive integer that a limit is, the first one if there is one for each level; None for anything else."""
    first = (text or "").partition(",")[0].strip()
    return int(first) or None if first.isdecimal() else None


def _openmp_runtimes() -> tuple[Any, ...]:
    """The OpenMP runtimes found first, scikit-learn's among them: what limits all of them limits these."""
    return _found or _look_for_runtimes(len(sys.modules))


_found: tuple[Any, ...] = ()


@functools.lru_cache(maxsize=1)
def _look_for_runtimes(modules: int) -> tuple[Any, ...]:
    """Look through the loaded libraries if there are other modules than before: it takes up to some milliseconds."""
    global _found
    from threadpoolctl import ThreadpoolController  # only when needed: it would make the import of fastadam slower

    _found = tuple(ThreadpoolController().select(user_api="openmp").lib_controllers)
    return _found


@functools.cache
def _places(runtimes: tuple[Any, ...]) -> tuple[Cores, ...]:
    """The sets of cores that the runtimes bind threads to; none if they do not bind any."""
    return tuple(place for runtime in runtimes for place in _places_of(runtime.dynlib))


def _places_of(library: Any) -> Iterator[Cores]:
    if not hasattr(library, "omp_get_place_proc_ids") or not library.omp_get_proc_bind():
        return
    for place in range(library.omp_get_num_places()):
        cores = (ctypes.c_int * library.omp_get_place_num_procs(place))()
        library.omp_get_place_proc_ids(place, cores)
        yield frozenset(cores)
