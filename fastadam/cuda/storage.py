"""Storage in fewer bytes, compiled for CUDA, and rows of such numbers in memory."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from fastadam.cuda.jit import device, formula
from fastadam.cuda.views import loader, memory
from fastadam.formulas import storage
from fastadam.formulas.backend import from_text

_DECODERS = {"float16": formula(storage.from_float16), "bfloat16": formula(storage.from_bfloat16)}
"""Functions that return the value of a number in two bytes, in float32."""

_ENCODERS = {"float16": formula(storage.to_float16), "bfloat16": formula(storage.to_bfloat16)}
"""Functions that return the bits of the nearest number in two bytes."""

dither, seed_of = formula(storage.dither), formula(storage.seed_of)


class Codec(NamedTuple):
    """Functions that decode a code of one byte, `(code, scale)`, and encode a value, `(x, inverse scale, noise)`."""

    decode: Callable[..., Any]
    encode: Callable[..., Any]


SIGNED = Codec(formula(storage.signed_value), formula(storage.signed_code))

POSITIVE = Codec(formula(storage.positive_value), formula(storage.positive_code))


class Row(NamedTuple):
    """Loads and stores of neighbours in a row, as tuples of the type that is computed with."""

    itemsize: int
    load: Callable[[int], tuple[Any, ...]]
    """`load(address)`"""
    store: Callable[[int, tuple[Any, ...]], None]
    """`store(address, values)`, each rounded to the nearest."""


def each(lanes: int, expression: str) -> str:
    """Write the text of a tuple that has the expression for each lane."""
    return "(" + "".join(expression.format(lane=lane) + ", " for lane in range(lanes)) + ")"


@functools.cache
def row(dtype: str, lanes: int) -> Row:
    """Make the access to a row of numbers, one by one or in whole vectors of `memory(dtype).lanes`.

    `dtype` may also be "bfloat16".
    """
    if dtype in _DECODERS:
        bits = row("uint16", lanes)
        decoded, encoded = each(lanes, "decode(bits[{lane}])"), each(lanes, "encode(values[{lane}])")
        read = ("load(address)", "bits = load_bits(address)", f"return {decoded}")
        write = ("store(address, values)", f"store_bits(address, {encoded})")
        return Row(
            bits.itemsize,
            device(from_text(*read, load_bits=bits.load, decode=_DECODERS[dtype])),
            device(from_text(*write, store_bits=bits.store, encode=_ENCODERS[dtype])),
        )
    one = memory(dtype)
    if lanes == 1:
        return Row(one.itemsize, loader(dtype, 1), one.store_all)
    return Row(one.itemsize, one.load_vector, one.store_vector)


@functools.cache
def dithered_store(lanes: int, *, positive: bool) -> Callable[..., None]:
    """Make the function that stores neighbours as dithered bfloat16: `store(address, values, first index, seed)`."""
    encoded = each(lanes, "encode(values[{lane}], dither({lane}, first))")
    lines = ("first = dither(index, seed)", f"store_bits(address, {encoded})")
    encode = formula(storage.positive_bfloat16 if positive else storage.dithered_bfloat16)
    names = {"store_bits": row("uint16", lanes).store, "encode": encode, "dither": dither}
    return device(from_text("store(address, values, index, seed)", *lines, **names))
