"""Storage in two bytes, compiled for the CPU."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam.cpu.jit import formula
from fastadam.formulas import storage


def bfloat16_bits(values: NDArray[Any]) -> NDArray[Any]:
    """Bits, as uint16, of float32 values rounded to bfloat16, to nearest and ties to even."""
    bits = np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bfloat16_values(array: NDArray[Any]) -> NDArray[Any]:
    """Convert an array of bfloat16, or of their bits, to float32."""
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


DECODERS = {
    "": formula(lambda x: x),
    "float16": formula(storage.from_float16),
    "bfloat16": formula(storage.from_bfloat16),
}
"""Functions that return the value of a number in a form of storage, in the type computed with."""

ENCODERS = {"": None, "float16": formula(storage.to_float16), "bfloat16": formula(storage.to_bfloat16)}
"""Functions that return the bits of the nearest number in a form of storage."""
