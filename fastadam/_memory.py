"""Arrays in memory: aligned, at an address, and writeable views of them."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""


def aligned_zeros(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """A flat array of zeros whose first element stands at a multiple of 64 bytes.

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
    """The `size` elements at `address` as a flat writeable array; it and every view of it keep `owner` alive."""
    dtype = np.dtype(dtype)
    if size == 0:
        return np.empty(0, dtype)
    memory = (ctypes.c_byte * (size * dtype.itemsize)).from_address(address)
    memory.owner = owner  # type: ignore[attr-defined]
    return np.frombuffer(memoryview(memory), dtype)


def writeable_view(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous array itself, or its memory without the read-only flag: for kernels, which do not write to it.

    Numba compiles a function anew for read-only arrays, which memory-mapped data is, as joblib hands it to its workers.
    """
    if array.flags.writeable:
        return array
    return array_in_memory(array.ctypes.data, array.size, array.dtype, owner=array).reshape(array.shape)
