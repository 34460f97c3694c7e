"""Arrays on a device are told from others without a CUDA library."""

import numpy as np
import pytest

from fastadam.buffers import FlatBuffer
from fastadam.cuda.detection import is_device_array, on_device
from tests.helpers.cuda_arrays import FakeDeviceArray, RequiresGrad


class Lent:
    """An array that offers only DLPack."""

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return self.kind, 0


@pytest.mark.parametrize("kind", [2, 13])
def test_arrays_on_a_device(kind):
    there = FakeDeviceArray(np.ones(3))
    for array in (there, RequiresGrad(there), Lent(kind)):
        assert is_device_array(array)
        assert on_device(array)
        assert on_device([np.ones(3), array])
        assert on_device({"a": array})


def test_arrays_on_the_host():
    for array in (np.ones(3), FlatBuffer({"a": (3,)}), Lent(1), None, 4):
        assert not is_device_array(array)
        assert not on_device([array, array])
    assert not on_device({})
