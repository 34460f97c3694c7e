import numba
import pytest
from hypothesis import settings

settings.register_profile("fastadam", deadline=None, max_examples=50)  # the first example compiles
settings.load_profile("fastadam")


@pytest.fixture(params=[1, 2])
def threads(request):
    """Runs the test on one Numba thread, then on two."""
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"Numba was started with {numba.config.NUMBA_NUM_THREADS} thread")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)
