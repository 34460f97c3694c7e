"""Memory, tables and copies on a device, under Numba's simulator."""

import numpy as np
import pytest
from numba import cuda

from fastadam.cuda import allocation
from fastadam.formulas.storage import bfloat16_values
from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.cuda_steps import (
    STEPS,
    N,
    on_device,
)
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
@pytest.mark.parametrize("shift", [0, 1])
def test_copies_in_two_bytes(form, shift):
    sizes = [N, 0, 9]
    parts = np.split(naive.start(sum(sizes), np.float32) * np.float32(1e3), np.cumsum(sizes)[:-1])
    params = {name: on_device(part, shift=shift) for name, part in zip("abc", parts, strict=True)}
    made = Adam(params, lr=10.0, copy_dtype=form)

    def assert_rounded():
        for name, p in params.items():
            wide = p.host.view(np.uint32).astype(np.uint64)
            bits = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
            copied = made.copies[name].copy_to_host()
            assert_same_bits(copied, p.host.astype(np.float16) if form == "float16" else bits)

    assert_rounded()
    for g in naive.gradients(sum(sizes), np.float32)[:STEPS]:
        grads = np.split(g, np.cumsum(sizes)[:-1])
        made.step({name: on_device(part) for name, part in zip("abc", grads, strict=True)})
        assert_rounded()
    assert Adam(on_device(np.ones(3))).copies is None


@pytest.fixture
def full_device(monkeypatch):

    def device_array(*arguments, **options):
        raise RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(cuda, "device_array", device_array)


@pytest.mark.usefixtures("full_device")
def test_a_full_device():
    with pytest.raises(
        MemoryError, match="the optimizer's states need 256 bytes on the CUDA device, more than are free"
    ):
        Adam(on_device(np.ones(3)))


def test_a_table_is_written_only_when_it_changes(monkeypatch):
    values = np.array([1.0, 2.0])
    table = allocation.Table(values)
    copies = []
    monkeypatch.setattr(table, "_copy", copies.append)
    table.write(values.copy(), 70)
    assert table.holds(values)
    assert not copies
    table.write(values + 1, 70)
    table.force(values + 1, 70)
    assert copies == [70, 70]
    assert len(table) == 2


def test_values_are_filled_in_and_converted():
    source, target = np.arange(5, dtype=np.float32), np.zeros(5, np.uint16)
    allocation.convert(source.ctypes.data, "float32", target.ctypes.data, "bfloat16", 4)
    assert_same_bits(bfloat16_values(target), np.array([0, 1, 2, 3, 0], np.float32))
    allocation.fill(source.ctypes.data, 3, "float32", 7.0)
    assert source.tolist() == [7, 7, 7, 3, 4]
