import contextlib
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numba
import numpy as np
import pytest
from counting import threads_of_a_fit
from threadpoolctl import threadpool_limits

from fastadam import Adam, MLPRegressor, _cores, environment
from fastadam.cpu import PARALLEL_BYTES
from fastadam.jit import JIT_DISABLED

HAS_AFFINITY = hasattr(os, "sched_setaffinity")
CORES = _cores.available_threads() if HAS_AFFINITY and not JIT_DISABLED else 1

pytestmark = pytest.mark.skipif(CORES < 2, reason="one thread is all there is, or no mask to set")


def fits_on(**parameters):
    with pytest.warns(match="Maximum iterations"):
        return threads_of_a_fit(MLPRegressor(**parameters))


def steps_in_parallel(monkeypatch):
    chosen = []
    with monkeypatch.context() as patch:
        patch.setattr("fastadam._optimizer.step_kernel", lambda v, d, parallel: lambda *_: chosen.append(parallel))
        Adam(p := np.ones(PARALLEL_BYTES // 4, np.float32)).step(p.copy())
    return chosen[0]


@contextlib.contextmanager
def variable(monkeypatch, name, value):
    with monkeypatch.context() as patch:
        patch.setenv(name, value)
        yield


@contextlib.contextmanager
def numba_threads(monkeypatch):
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextlib.contextmanager
def one_core(monkeypatch):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def groups(monkeypatch, folder, own, **files):
    """Control groups as the kernel shows them: the process's own line, and what is in the files."""
    (folder / "cgroup").write_text(own + "\n")
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(_cores, "_PROCESS", str(folder))
        patch.setattr(_cores, "_GROUPS", str(folder))
        _cores.cpu_quota.cache_clear()
        try:
            yield
        finally:
            _cores.cpu_quota.cache_clear()


def version_2(monkeypatch, folder, quota):
    return groups(monkeypatch, folder, "0::/", cpu_max=quota)


def version_1(monkeypatch, folder, quota):
    files = {"cpu__cpu_cfs_quota_us": quota.split()[0], "cpu__cpu_cfs_period_us": quota.split()[1]}
    return groups(monkeypatch, folder, "4:cpu,cpuacct:/docker/0123", **files)


def around(monkeypatch, folder, quota):
    """The quota is of a group around the process's own, which has none."""
    files = {"user__cpu_max": quota, "user__one__cpu_max": "max 100000"}
    return groups(monkeypatch, folder, "1:name=systemd:/\n0::/user/one", **files)


LIMITS = {
    "OMP_NUM_THREADS": lambda m, _: variable(m, "OMP_NUM_THREADS", "1"),
    "OMP_NUM_THREADS of two levels": lambda m, _: variable(m, "OMP_NUM_THREADS", "1,4"),
    "LOKY_MAX_CPU_COUNT": lambda m, _: variable(m, "LOKY_MAX_CPU_COUNT", "1"),
    "threadpool_limits": lambda m, _: threadpool_limits(1),
    "numba.set_num_threads": lambda m, _: numba_threads(m),
    "affinity": lambda m, _: one_core(m),
    "quota, version 2": lambda m, folder: version_2(m, folder, "50000 100000"),
    "quota, version 1": lambda m, folder: version_1(m, folder, "50000 100000"),
    "quota of a group around": lambda m, folder: around(m, folder, "190000 100000"),
}


@pytest.fixture
def a_moment_later(monkeypatch):
    """Let the optimizers ask again in each step, in place of ten times per second."""
    from fastadam import _threads

    monkeypatch.setattr(_threads, "_available", lambda tenth: _cores.available_threads())


@pytest.mark.parametrize("limit", LIMITS)
def test_fits_and_steps_keep_to_each_limit_unless_told_a_number(limit, monkeypatch, tmp_path, a_moment_later):
    assert fits_on() == CORES
    assert steps_in_parallel(monkeypatch)
    with LIMITS[limit](monkeypatch, tmp_path):
        assert fits_on() == 1
        assert fits_on(n_threads=2) == 2
        assert not steps_in_parallel(monkeypatch)
    assert fits_on() == CORES
    assert steps_in_parallel(monkeypatch)


@pytest.mark.parametrize("value", ["", "0", "-1", "all", "1.5", str(10**9)])
def test_what_is_no_number_of_threads_or_more_than_there_are_does_not_count(value, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", value)
    assert _cores.default_threads() == CORES


@pytest.mark.parametrize("version", [version_1, version_2, around])
@pytest.mark.parametrize(
    ("quota", "threads"),
    [("50000 100000", 1), ("100000 100000", 1), ("19990 10000", 1), ("200000 100000", 2), ("30001 10000", 4),
     ("max 100000", None), ("-1 100000", None)],
)  # fmt: skip
def test_quotas_are_rounded_up_but_below_two_there_is_one_thread(version, quota, threads, monkeypatch, tmp_path):
    with version(monkeypatch, tmp_path, quota):
        assert _cores.process_limits().get("CPU quota") == threads


def test_without_control_groups_there_is_no_quota(monkeypatch, tmp_path):
    with groups(monkeypatch, tmp_path, "0::/../elsewhere"):
        assert "CPU quota" not in _cores.process_limits()
    monkeypatch.setattr(_cores, "_PROCESS", str(tmp_path / "none"))
    assert "CPU quota" not in _cores.process_limits()


@pytest.mark.parametrize(("siblings", "cores"), [(["0-1", "0-1"], 1), (["0", "1"], 2), (["0,2", "1,3"], 2), ([], 2)])
def test_threads_of_one_core_count_once(siblings, cores, monkeypatch, tmp_path):
    for cpu, text in enumerate(siblings):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(text + "\n")
    monkeypatch.setattr(_cores, "_TOPOLOGY", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1})
    _cores._physical_cores.cache_clear()
    try:
        assert _cores.process_limits() | {"affinity": 2, "physical cores": cores} == _cores.process_limits()
    finally:
        _cores._physical_cores.cache_clear()


def test_the_mask_of_a_thread_is_the_limit_of_its_own_fits():
    def alone():
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        return _cores.default_threads(), _cores.available_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(alone).result() == (1, CORES)
    assert _cores.default_threads() == CORES


def pinned(core):
    os.sched_setaffinity(0, {core})


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_that_an_initializer_pins_use_one_thread(method):
    context, core = multiprocessing.get_context(method), max(os.sched_getaffinity(0))
    with ProcessPoolExecutor(1, context, pinned, (core,)) as pool:
        assert pool.submit(_cores.default_threads).result() == 1


def run(code, **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | variables
    arguments = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.split()


BOUND = """
import os
allowed = os.sched_getaffinity(0)
import numpy as np
from counting import threads_of_a_fit
{first}
from fastadam import MLPRegressor, gang
from sklearn.ensemble import HistGradientBoostingRegressor
X = np.random.default_rng(0).random((500, 3))
HistGradientBoostingRegressor(max_iter=2).fit(X, X[:, 0])
assert len(os.sched_getaffinity(0)) < len(allowed), "the main thread is not bound, so nothing is tested"
masks, make_room = [], gang.Gang._make_room
def make_room_and_note(self):
    make_room(self)
    masks.extend(os.sched_getaffinity(other.native_id) for other in self._others)
gang.Gang._make_room = make_room_and_note
bound = os.sched_getaffinity(0)
print(threads_of_a_fit(MLPRegressor()), all(mask and not mask & bound for mask in masks) and len(masks) > 0)
assert os.sched_getaffinity(0) == bound
child = os.fork()
if not child:
    os._exit(threads_of_a_fit(MLPRegressor()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("first", ["", "import sklearn.ensemble"])
def test_a_main_thread_that_openmp_has_bound_trains_on_all_cores(first):
    """scikit-learn's OpenMP binds it as it is loaded: after fastadam, or before."""
    threads, off_the_leaders_core, of_the_child = run(BOUND.format(first=first), OMP_PROC_BIND="true")
    assert (int(threads), off_the_leaders_core, int(of_the_child)) == (CORES, "True", CORES)


NUMBA_IN_A_BOUND_THREAD = f"""
import os
import numpy as np
from fastadam import Adam
import sklearn.ensemble
bound = os.sched_getaffinity(0)
before = set(os.listdir("/proc/self/task"))
p = np.ones({PARALLEL_BYTES}, "f4")
Adam(p).step(p.copy())
workers = set(os.listdir("/proc/self/task")) - before
elsewhere = any(os.sched_getaffinity(int(worker)) - bound for worker in workers)
print(len(bound), elsewhere, os.sched_getaffinity(0) == bound)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no list of the threads here")
@pytest.mark.parametrize("layer", ["omp", "default"])
def test_numbas_threads_that_a_bound_thread_starts_have_other_cores(layer):
    assert run(NUMBA_IN_A_BOUND_THREAD, OMP_PROC_BIND="true", NUMBA_THREADING_LAYER=layer) == ["1", "True", "True"]


NUMBA_UNDER_LIMITS = f"""
import numba
import numpy as np
from counting import threads_of_a_fit
from fastadam import Adam, MLPRegressor, _optimizer
seen, kernel_of = [], _optimizer.step_kernel
def noting(*arguments):
    kernel = kernel_of(*arguments)
    def run(*a):
        seen.append(numba.get_num_threads())
        kernel(*a)
    return run
_optimizer.step_kernel = noting
p = np.ones({PARALLEL_BYTES}, "f4")
Adam(p).step(p.copy())
print(threads_of_a_fit(MLPRegressor()), seen[0], numba.get_num_threads())
"""


def test_a_step_takes_no_more_of_numbas_threads_than_there_are_cores():
    assert run(NUMBA_UNDER_LIMITS, NUMBA_NUM_THREADS=str(2 * CORES)) == [str(CORES), str(CORES), str(2 * CORES)]


def test_numbas_variable_is_a_limit():
    assert run(NUMBA_UNDER_LIMITS, NUMBA_NUM_THREADS="1") == ["1", "1", "1"]


def test_info_shows_every_limit_and_which_one_binds(monkeypatch, tmp_path):
    described = environment.info()["threads"]
    assert described.startswith(f"{CORES}: CPU quota none, affinity ")
    assert described.endswith(("bound by affinity", "bound by physical cores"))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    described = environment.info()["threads"]
    assert described.startswith("1: ")
    assert "LOKY_MAX_CPU_COUNT 1" in described
    assert described.endswith("; bound by LOKY_MAX_CPU_COUNT")
    with version_2(monkeypatch, tmp_path, "50000 100000"):
        described = environment.info()["threads"]
        assert "CPU quota 1" in described
        assert described.endswith("; bound by CPU quota")
