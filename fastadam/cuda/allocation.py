"""Memory on the current device: arrays, values and conversions in it, and small tables that the host rewrites."""

import functools
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastadam._typing import Array
from fastadam.cuda.devices import blocks_for, is_capturing, synchronize, unprepared
from fastadam.cuda.jit import SIMULATED, THREADS, cuda, kernel
from fastadam.cuda.storage import row
from fastadam.cuda.views import memory


def device_address(array: Any) -> int:
    """Return the address of a Numba array on the device."""
    if SIMULATED:
        return int(array.ctypes.data)
    return int(array.__cuda_array_interface__["data"][0] or 0)


def allocated(shape: int | tuple[int, ...], dtype: DTypeLike, purpose: str) -> Any:
    """Allocate an array on the current device; `purpose` is for the message.

    Raises
    ------
    MemoryError
        If there is not enough memory.
    """
    try:
        return cuda.device_array(shape, dtype)
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error).upper():
            raise
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raise MemoryError(
            f"{purpose} need {nbytes:,} bytes on the CUDA device, more than are free there; train fewer parameters, or "
            "free what other libraries keep: torch.cuda.empty_cache(), cupy.get_default_memory_pool().free_all_blocks()"
        ) from error


@functools.cache
def fill_kernel(dtype: str) -> Any:
    """Write one value to every element from an address on."""
    store, itemsize = memory(dtype).store, memory(dtype).itemsize

    @kernel
    def fill(address, size, value):
        for i in range(np.int64(cuda.grid(1)), size, np.int64(cuda.gridsize(1))):
            store(address + i * itemsize, value)

    return fill


@functools.cache
def copy_kernel(source: str, target: str) -> Any:
    """Copy elements from one address to another, and from one type to another, which may also be "bfloat16"."""
    load, store = row(source, 1).load, row(target, 1).store
    source_bytes, target_bytes = row(source, 1).itemsize, row(target, 1).itemsize

    @kernel
    def copy(source, address, size):
        for i in range(np.int64(cuda.grid(1)), size, np.int64(cuda.gridsize(1))):
            store(address + i * target_bytes, load(source + i * source_bytes))

    return copy


def fill(address: int, size: int, dtype: str, value: float) -> None:
    """Write a value to `size` elements from an address on, on the default stream."""
    if size:
        fill_kernel(dtype)[blocks_for(size), THREADS](address, size, value)


def convert(source: int, source_dtype: str, address: int, dtype: str, size: int) -> None:
    """Copy elements from one address to another and one type to another, on the default stream."""
    if size:
        copy_kernel(source_dtype, dtype)[blocks_for(size), THREADS](source, address, size)


class Table:
    """A small table on the device that the host rewrites, on the stream of the launches, when it changes."""

    def __init__(self, values: Array, stream: Any = 0) -> None:
        self._values = values.copy()
        self._array = cuda.device_array(values.shape, values.dtype)
        self.address = device_address(self._array)
        self.captured = False
        """A graph reads the table, and may be replayed at any time."""
        self._copy(stream)

    def __len__(self) -> int:
        return len(self._values)

    def holds(self, values: Array) -> bool:
        """Tell whether the host last wrote these values."""
        return np.array_equal(values, self._values)

    def write(self, values: Array, stream: Any) -> None:
        """Make the table on the device equal to `values`, in the order of the stream."""
        if self.holds(values):
            return
        if is_capturing(stream):
            raise unprepared("the settings or the addresses of the gradients")
        self._values = values.copy()
        self._copy(stream)

    def read(self) -> Array:
        """Copy the table to the host; waits for the device."""
        synchronize()
        values: Array = self._array.copy_to_host()
        self._values = values.copy()
        return values

    def force(self, values: Array, stream: Any) -> None:
        """Write values also if the host wrote them last: kernels may have changed them."""
        self._values = np.zeros(0)
        self.write(values, stream)
        if not stream:
            synchronize()  # other streams do not wait for the default one

    def _copy(self, stream: Any) -> None:
        # Without a stream the host would wait for all that was launched on the default one. Memory that is not
        # page-locked has been read when the call returns.
        self._array.copy_to_device(self._values, stream=stream or cuda.legacy_default_stream())
