"""Numbers in fewer bytes: the formats of `fastadam.formats` compiled for CUDA, and rows of such numbers in memory.

The functions are those of the host, code object by code object; only what they take a float's bits with is another.
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

from fastadam import formats
from fastadam.cuda.jit import bits_of, device, float_of, from_float16, loader, maximum, memory, to_float16, written


def _compiled(function: Any, **names: Any) -> Any:
    """A function of `fastadam.formats`, with the names in it that mean something else here."""
    function = getattr(function, "__wrapped__", function)  # on the host it may be one that ignores NumPy's warnings
    own = function.__globals__ | {"_bits_of": bits_of, "_float_of": float_of, "max": maximum} | names
    return device(FunctionType(function.__code__, own, function.__name__))


dither, seed_of = _compiled(formats.dither), _compiled(formats.seed_of)
_safe_bits, _uniform = _compiled(formats.nan_safe_bits), _compiled(formats.uniform)
from_bfloat16 = _compiled(formats.from_bfloat16)
to_bfloat16 = _compiled(formats.to_bfloat16, _safe_bits=_safe_bits)
dithered_bfloat16 = _compiled(formats.dithered_bfloat16, _safe_bits=_safe_bits)
positive_bfloat16 = _compiled(formats.positive_bfloat16, _dithered_bfloat16=dithered_bfloat16)
block_scale = _compiled(formats.block_scale)


class Codec(NamedTuple):
    """What decodes a code of one byte, `(code, scale)`, and what encodes a value, `(x, inverse_of_scale, noise)`."""

    decode: Callable[..., Any]
    encode: Callable[..., Any]


SIGNED = Codec(_compiled(formats.signed_value), _compiled(formats.signed_code, _uniform=_uniform))
POSITIVE = Codec(_compiled(formats.positive_value), _compiled(formats.positive_code))

_DECODERS = {"float16": from_float16, "bfloat16": from_bfloat16}
_ENCODERS = {"float16": to_float16, "bfloat16": to_bfloat16}


class Row(NamedTuple):
    """How a thread reads and writes neighbours in a row: as tuples of the type that is computed with."""

    itemsize: int
    load: Callable[[int], tuple[Any, ...]]
    """`load(address)`"""
    store: Callable[[int, tuple[Any, ...]], None]
    """`store(address, values)`, each rounded to the nearest."""


def each(lanes: int, expression: str) -> str:
    """The text of a tuple: the expression, for each lane."""
    return "(" + "".join(expression.format(lane=lane) + ", " for lane in range(lanes)) + ")"


@functools.cache
def row(dtype: str, lanes: int) -> Row:
    """A row of numbers of a type, "bfloat16" among them: one by one, or in whole vectors of `memory(dtype).lanes`."""
    if dtype in _DECODERS:
        bits = row("uint16", lanes)
        load = f"def function(address):\n    bits = load(address)\n    return {each(lanes, 'decode(bits[{lane}])')}\n"
        store = f"def function(address, values):\n    store(address, {each(lanes, 'encode(values[{lane}])')})\n"
        return Row(
            bits.itemsize,
            written(load, load=bits.load, decode=_DECODERS[dtype]),
            written(store, store=bits.store, encode=_ENCODERS[dtype]),
        )
    one = memory(dtype)
    if lanes == 1:
        return Row(one.itemsize, loader(dtype, 1), one.store_all)
    return Row(one.itemsize, one.load_vector, one.store_vector)


@functools.cache
def dithered_store(lanes: int, *, positive: bool) -> Callable[..., None]:
    """What stores neighbours as bfloat16, dithered: `store(address, values, index of the first, seed)`."""
    rounded = each(lanes, "encode(values[{lane}], dither({lane}, first))")
    text = (
        f"def function(address, values, index, seed):\n    first = dither(index, seed)\n    store(address, {rounded})\n"
    )
    encode = positive_bfloat16 if positive else dithered_bfloat16
    return written(text, store=row("uint16", lanes).store, encode=encode, dither=dither)
