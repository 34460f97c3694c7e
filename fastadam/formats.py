"""How a number is stored in fewer bytes than it is computed with: two, or one and a scale for each block.

Two bytes are bfloat16 (the upper half of a float32) or float16, held as their bits in uint16. Parameters, gradients and
copies are rounded to the nearest. States are *dithered*: rounded up or down so that the mean over steps is exact, since
an average that moves by a thousandth each step would otherwise never move at all. The dither is not random but a Weyl
sequence in the step and the index, `frac(i*a + t*b)`: reproducible, the same on any number of threads, and with less
noise than random numbers, because over any run of steps it comes close to every value about equally often.

One byte is a code relative to the largest magnitude of its block of `CODE_BLOCK` elements. Codes of signed states are
proportional to the square root of the magnitude, codes of states that are never negative to its fourth root: a state of
squares is used through its root, and both then span five decades. What is not zero never becomes a code 0 of such a
state, as the rule would divide by it.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastadam.jit import JIT_DISABLED, device

CODE_BLOCK = 256
"""Elements that share a scale: 1.6 % more bytes, and still few enough that one outlier spoils little."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Below this, the reciprocal of a scale would be infinite."""

_BY_INDEX, _BY_STEP, _BY_STATE = np.uint64(0x9E3779B1), 0x85EBCA77, 0x2545F491
"""Odd, and in no simple ratio to 2**32 or each other: the golden ratio's and two more."""
_WORD = np.uint64(0xFFFFFFFF)
_HALF, _SHIFT = np.uint64(0xFFFF), np.uint64(16)
_QUIET_NAN = 0x7FC00000

_PER_UNIFORM = np.float32(2.0**-24)
_ZERO, _ONE = np.float32(0), np.float32(1)
_SIGNED, _PER_SIGNED = np.float32(127), np.float32(1 / 127)
_POSITIVE, _PER_POSITIVE = np.float32(255), np.float32(1 / 255)


def seed_of(t, state):
    """Where the dither of a state begins at step `t`."""
    return np.uint64((t * _BY_STEP + state * _BY_STATE) & 0xFFFFFFFF)


def dither(i, seed):
    """32 bits for element `i`, evenly spread over elements and over steps."""
    return (np.uint64(i) * _BY_INDEX + seed) & _WORD


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


_float_of, _bits_of = float_of, bits_of


def from_bfloat16(bits):
    """The value of a bfloat16, in float32."""
    return _float_of(np.uint32(bits) << np.uint32(16))


def _nan_safe_bits(x):
    """The bits of a float32, of which any sum with 16 bits is still NaN where `x` is."""
    return np.uint64(_bits_of(x) if x == x else _QUIET_NAN)


_safe_bits = device(_nan_safe_bits)


def to_bfloat16(x):
    """The bits of the nearest bfloat16, the even one of two."""
    bits = _safe_bits(x)
    return np.uint16((bits + np.uint64(0x7FFF) + ((bits >> _SHIFT) & np.uint64(1))) >> _SHIFT)


def dithered_bfloat16(x, noise):
    """The bits of the bfloat16 below or above `x` in magnitude, as the upper 16 bits of `noise` decide."""
    return np.uint16(((_safe_bits(x) + (noise >> _SHIFT)) >> _SHIFT) & _HALF)


def uniform(noise):
    """The upper 24 bits of `noise` as a float32 in [0, 1)."""
    return np.float32(noise >> np.uint64(8)) * _PER_UNIFORM


def largest(values):
    """The largest magnitude among float32s: compared as integers, which vectorises and lets NaN win."""
    most = np.uint32(0)
    for j in range(np.uint64(values.size)):
        most = max(most, np.uint32(_bits_of(values[j]) & np.uint32(0x7FFFFFFF)))
    return _float_of(most)


def signed_value(code, scale):
    """The value of a signed code: its square with its sign, of the largest that there is."""
    part = np.float32(code) * _PER_SIGNED
    return part * abs(part) * scale


def signed_code(x, inverse, uniform):
    """The code below or above a signed value in magnitude, as a number evenly spread over [0, 1) decides."""
    size = abs(x) * inverse
    code = _whole(math.sqrt(size) * _SIGNED, _SIGNED)
    low, high = code * _PER_SIGNED, (code + _ONE) * _PER_SIGNED
    code = min(code + (_ONE if uniform * (high * high - low * low) < size - low * low else _ZERO), _SIGNED)
    return np.int8(-code if x < 0 else code)


def positive_value(code, scale):
    """The value of a code that has no sign: its fourth power, of the largest that there is."""
    part = np.float32(code) * _PER_POSITIVE
    return part * part * (part * part) * scale


def positive_code(x, inverse, uniform):
    """The code below or above a value that is not negative; 0 is for 0 alone."""
    size = x * inverse
    code = _whole(math.sqrt(math.sqrt(size)) * _POSITIVE, _POSITIVE)
    low, high = code * _PER_POSITIVE, (code + _ONE) * _PER_POSITIVE
    low, high = low * low * (low * low), high * high * (high * high)
    code = min(code + (_ONE if uniform * (high - low) < size - low else _ZERO), _POSITIVE)
    return np.uint8(_ONE if code == 0 and x > 0 else code)


def _whole_part(x, largest):
    """`x` without its fraction, at most `largest`, which NaN becomes too."""
    return np.float32(np.int32(x if x < largest else largest))


_whole = device(_whole_part)
