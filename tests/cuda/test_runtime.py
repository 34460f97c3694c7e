"""CuPy, and NumPy in its place, for the estimators on a device."""

import sys

import numpy as np
import pytest

from fastadam.cuda import arrays
from fastadam.cuda import runtime as runtimes
from fastadam.cuda.runtime import numpy_runtime
from tests.helpers.cuda_arrays import FakeDeviceArray

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def test_numpy_in_the_place_of_cupy():
    runtime, array = numpy_runtime(), FakeDeviceArray(np.arange(3.0))
    view = runtime.in_place(arrays.described("X", array))
    assert np.shares_memory(view, array.host)
    assert runtime.address(view) == array.host.ctypes.data
    assert not np.shares_memory(runtime.to_host(view), view)


def test_cupy_that_cannot_be_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"device='cuda' needs CuPy, which cannot be loaded .*fastadam\[cuda\]"):
        runtimes.cupy_runtime()
