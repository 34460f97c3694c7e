"""Arrays in memory: aligned arrays, arrays at an address, and writeable views."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNMENT = 64
"""Alignment in bytes: that of a cache line, and of the widest vector register."""


def aligned_zeros(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """Allocate a flat array of zeros whose first element is aligned to 64 bytes.

    Examples
    --------
    >>> from fastadam.buffers import aligned_zeros
    >>> aligned_zeros(5, "float32").ctypes.data % 64
    0
    """
    dtype = np.dtype(dtype)
    memory = np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size * dtype.itemsize].view(dtype)


def array_in_memory(address: int, size: int, dtype: DTypeLike, owner: object = None) -> NDArray[Any]:
    """View the `size` elements at `address` as a flat writeable array; the array and its views keep `owner` alive."""
    dtype = np.dtype(dtype)
    if size == 0:
        return np.empty(0, dtype)
    memory = (ctypes.c_byte * (size * dtype.itemsize)).from_address(address)
    memory.owner = owner  # type: ignore[attr-defined]
    return np.frombuffer(memoryview(memory), dtype)


def writeable_view(array: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous array, or a writeable view of its memory if it is read-only, for kernels that only read it.

    Numba compiles a function again for read-only arrays, such as the memory-mapped data that joblib passes to workers.
    """
    if array.flags.writeable:
        return array
    return array_in_memory(array.ctypes.data, array.size, array.dtype, owner=array).reshape(array.shape)
