"""Storage in fewer bytes, compiled for the CPU."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastadam.cpu.jit import JIT_DISABLED, inner
from fastadam.cpu.target import TARGET
from fastadam.formulas import storage as formats
from fastadam.formulas.storage import half_bits, half_value


def bfloat16_bits(values: NDArray[Any]) -> NDArray[Any]:
    """The bits, as uint16, of float32 values rounded to bfloat16, to the nearest and the even one of two."""
    bits = np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bfloat16_values(array: NDArray[Any]) -> NDArray[Any]:
    """An array of bfloat16, or of their bits, in float32."""
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


_dither, _seed_of = inner(formats.dither), inner(formats.seed_of)

_largest, _block_scale = inner(formats.largest), inner(formats.block_scale)

_dithered_bfloat16, _positive_bfloat16 = inner(formats.dithered_bfloat16), inner(formats.positive_bfloat16)

_from_bfloat16 = inner(formats.from_bfloat16)

_DECODERS = {"": inner(lambda x: x), "float16": formats.from_float16, "bfloat16": _from_bfloat16}

_ENCODERS = {"": None, "float16": formats.to_float16, "bfloat16": inner(formats.to_bfloat16)}

if JIT_DISABLED:

    def bits_of(x):
        """The bits of a float32, as an integer."""
        return int(np.float32(x).view(np.uint32))

    def float_of(bits):
        """The float32 with these bits."""
        return np.uint32(bits).view(np.float32)

    def from_float16(bits):
        """The value of a float16, in float32."""
        return np.float32(np.uint16(bits).view(np.float16))

    def to_float16(x):
        """The bits of the nearest float16."""
        with np.errstate(over="ignore"):
            return np.float16(x).view(np.uint16)

else:

    def _bitwise(argument: Any, result: Any, build: Any) -> Any:
        """An intrinsic of one argument that is a few instructions."""

        def typed(typingctx, x):
            def codegen(context, builder, signature, arguments):
                value = context.cast(builder, arguments[0], signature.args[0], argument)
                return build(builder, value, context.get_value_type(result))

            return result(argument), codegen

        return intrinsic(typed)

    bits_of = _bitwise(types.float32, types.uint32, lambda builder, x, kind: builder.bitcast(x, kind))
    float_of = _bitwise(types.uint32, types.float32, lambda builder, x, kind: builder.bitcast(x, kind))
    from_float16 = _bitwise(
        types.uint16,
        types.float32,
        lambda builder, x, kind: builder.fpext(builder.bitcast(x, ir.HalfType()), kind),
    )
    to_float16 = _bitwise(
        types.float32,
        types.uint16,
        lambda builder, x, kind: builder.bitcast(builder.fptrunc(x, ir.HalfType()), kind),
    )

if not (JIT_DISABLED or TARGET.halves):  # the function that LLVM would call is not found, and ends the process
    from_float16, to_float16 = inner(half_value), inner(half_bits)
