"""Storage in two bytes, compiled for the CPU."""

from fastadam.cpu.jit import formula
from fastadam.formulas import storage

DECODERS = {
    "": formula(lambda x: x),
    "float16": formula(storage.from_float16),
    "bfloat16": formula(storage.from_bfloat16),
}
"""Functions that return the value of a stored number in the type computed with, by form of storage."""

ENCODERS = {"": None, "float16": formula(storage.to_float16), "bfloat16": formula(storage.to_bfloat16)}
"""Functions that return the bits of the nearest number, by form of storage; None if numbers are stored as they are."""
