import os
from collections import defaultdict

import numba
import pytest
from hypothesis import settings

from tests.helpers.effort import FULL_VARIABLE, examples, is_full, spread


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every case of every test, as `make test-all`")


def pytest_configure(config):
    if config.getoption("--full"):
        os.environ[FULL_VARIABLE] = "1"
    settings.register_profile("fastadam", examples(50, deadline=None))  # the first example compiles
    settings.load_profile("fastadam")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if is_full():
        return
    left_out = {item for item in items if item.get_closest_marker("slow")}
    groups = defaultdict(list)
    for item in items:
        if item not in left_out and item.get_closest_marker("thin") and hasattr(item, "callspec"):
            groups[item.nodeid.partition("[")[0]].append(item)
    for group in groups.values():
        kept = spread([item.callspec.indices for item in group], group[0].get_closest_marker("thin").args[0])
        left_out |= set(group) - {group[k] for k in kept}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(params=[1, 2])
def threads(request):
    """Runs the test on one Numba thread, then on two."""
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"Numba was started with {numba.config.NUMBA_NUM_THREADS} thread")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)
