"""Storage in two bytes, compiled for the CPU."""

from fastadam.cpu.jit import formula
from fastadam.formulas import storage

DECODERS = {
    "": formula(lambda x: x),
    "float16": formula(storage.from_float16),
    "bfloat16": formula(storage.from_bfloat16),
}
"""Functions that return the value of a number in a form of storage, in the type computed with."""

ENCODERS = {"": None, "float16": formula(storage.to_float16), "bfloat16": formula(storage.to_bfloat16)}
"""Functions that return the bits of the nearest number in a form of storage."""
