"""How a number is stored in fewer bytes than it is computed with: two, or one and a scale for each block.

Two bytes are bfloat16 (the upper half of a float32) or float16, held as their bits in uint16. Parameters, gradients and
copies are rounded to the nearest. States are *dithered*: rounded up or down so that the mean over steps is exact, since
an average that moves by a thousandth each step would otherwise never move at all. The dither is not random but a Weyl
sequence in the step and the index, `frac(i*a + t*b)`: reproducible, the same on any number of threads, and with less
noise than random numbers, because over any run of steps it comes close to every value about equally often.

One byte is a minifloat, relative to a scale that each block of `CODE_BLOCK` elements has: its largest magnitude is the
largest code. Both kinds have three bits of fraction. A signed state has a sign, four bits of exponent, and subnormals
below; a state that is never negative has five bits, since it holds squares, whose root is what a rule uses. So both
span five decades. The usual one-byte states look up the nearest of 256 unevenly spaced values; a minifloat is as good,
since the dither and not the nearest value makes the mean right, and to encode it takes a few integer instructions on
whole vectors and no square root or search.

What is not zero never becomes zero in a state that is never negative, of either kind, as the rule would divide by it.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastadam._target import TARGET
from fastadam.jit import JIT_DISABLED, device

CODE_BLOCK = 512
"""Elements that share a scale: 0.8 % more bytes, and still few enough that one outlier spoils little."""

_BY_INDEX, _BY_STEP, _BY_STATE = 0x9E3779B1, 0x85EBCA77, 0x2545F491
"""Odd, and in no simple ratio to 2**32 or each other: the golden ratio's and two more."""
_WORD = 0xFFFFFFFF
_QUIET_NAN = np.uint32(0x7FC00000)
_PER_UNIFORM = np.float32(2.0**-20)

LARGEST_CODE = np.float32(1.875)
"""What the largest code of both kinds stands for, in units of the block's scale."""

_LEAST_SCALE = np.finfo(np.float32).tiny
"""The smallest normal number: the reciprocal of a smaller scale may be infinite, and its codes are then others."""

_DROPPED, _UNUSED = np.uint32(20), np.uint32(12)
"""Bits of the fraction that a code has no place for, and bits of the dither that are more than these."""
_SIGNED_OFFSET, _SIGNED_MAX = np.uint32((127 - 15) << 23), np.uint32(127)
_FIRST_NORMAL, _LEAST_NORMAL = np.uint32(8), np.float32(2.0**-14)
_SUBNORMALS, _PER_SUBNORMAL = np.float32(2.0**17), np.float32(2.0**-17)
_POSITIVE_OFFSET, _LEAST_POSITIVE = np.uint32((127 - 31) << 23), np.float32(2.0**-31 * 1.125)

_HALF_BITS_DROPPED, _HALF_OFFSET = np.uint32(23 - 10), np.uint32((127 - 15) << 23)
_HALF_INFINITY, _HALF_NAN, _HALF_SIGN = np.uint32(0x7C00), np.uint32(0x7E00), np.uint32(0x8000)
_INFINITY, _PER_HALF, _LEAST_NORMAL_HALF = np.uint32(0x7F800000), np.float32(2.0**112), np.uint32((127 - 14) << 23)
_HALF, _BITS_OF_A_HALF = np.float32(0.5), np.uint32((127 - 1) << 23)
"""One half, whose last place in float32 is the last place of the subnormal numbers of float16."""


def seed_of(t, state):
    """Where the dither of a state begins at step `t`."""
    return np.uint32((t * _BY_STEP + state * _BY_STATE) & _WORD)


def dither(i, seed):
    """32 bits for element `i`, evenly spread over elements and over steps."""
    return np.uint32((np.uint64(i) * np.uint64(_BY_INDEX) + np.uint64(seed)) & np.uint64(_WORD))


def uniform(noise):
    """The upper 20 bits of `noise` as a float32 in [0, 1): few enough to be added to 7 without being rounded."""
    return np.float32(np.int32(np.uint32(noise) >> _UNUSED)) * _PER_UNIFORM


as_compiled: Any = np.errstate(over="ignore", invalid="ignore") if JIT_DISABLED else lambda function: function
"""Lets NumPy's integers wrap in silence, as compiled ones do."""


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


def half_value(bits):
    """The value of a float16, in float32, by integer operations."""
    bits = np.uint32(bits)
    size = np.uint32(bits & np.uint32(0x7FFF))
    value = np.uint32(_bits_of(_float_of(np.uint32(size << _HALF_BITS_DROPPED)) * _PER_HALF))
    value = np.uint32(value | _INFINITY) if size >= _HALF_INFINITY else value
    return _float_of(np.uint32(value | np.uint32(np.uint32(bits & _HALF_SIGN) << np.uint32(16))))


@as_compiled
def half_bits(x):
    """The bits of the nearest float16, the even one of two, by integer operations."""
    bits = np.uint32(_bits_of(x))
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = np.uint32(np.uint32(size >> _HALF_BITS_DROPPED) & np.uint32(1))
    rounded = np.uint32(np.uint32(size + np.uint32(0xFFF) + odd) - _HALF_OFFSET)
    normal = min(np.uint32(rounded >> _HALF_BITS_DROPPED), _HALF_INFINITY)
    subnormal = np.uint32(np.uint32(_bits_of(_float_of(size) + _HALF)) - _BITS_OF_A_HALF)
    code = subnormal if size < _LEAST_NORMAL_HALF else normal
    code = _HALF_NAN if size > _INFINITY else code
    return np.uint16(np.uint32(code | np.uint32(np.uint32(bits >> np.uint32(16)) & _HALF_SIGN)))


if not (JIT_DISABLED or TARGET.halves):  # the function that LLVM would call is not found, and ends the process
    from_float16, to_float16 = device(half_value), device(half_bits)


def from_bfloat16(bits):
    """The value of a bfloat16, in float32."""
    return _float_of(np.uint32(bits) << np.uint32(16))


def nan_safe_bits(x):
    """The bits of a float32, of which any sum with 16 bits is still NaN where `x` is."""
    return np.uint32(_bits_of(x)) if x == x else _QUIET_NAN


_safe_bits = device(nan_safe_bits)


@as_compiled
def to_bfloat16(x):
    """The bits of the nearest bfloat16, the even one of two."""
    bits = _safe_bits(x)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@as_compiled
def dithered_bfloat16(x, noise):
    """The bits of the bfloat16 below or above `x` in magnitude, as the upper 16 bits of `noise` decide."""
    return np.uint16(np.uint32(_safe_bits(x) + np.uint32(noise >> np.uint32(16))) >> np.uint32(16))


_dithered_bfloat16 = device(dithered_bfloat16)


@as_compiled
def positive_bfloat16(x, noise):
    """The same of a value that is not negative: 0 is for 0 alone, and the smallest number for all that is below it."""
    bits = _dithered_bfloat16(x, noise)
    return np.uint16(1) if bits == 0 and x > 0 else bits


def largest(values):
    """The largest magnitude among float32s: compared as integers, which vectorises and lets NaN win."""
    most = np.uint32(0)
    for j in range(np.uint64(values.size)):
        most = max(most, np.uint32(_bits_of(values[j]) & np.uint32(0x7FFFFFFF)))
    return _float_of(most)


def block_scale(most):
    """What the codes of a block stand for multiples of, from its largest magnitude; a normal number, or NaN."""
    scale = most / LARGEST_CODE
    return _LEAST_SCALE if scale < _LEAST_SCALE else scale  # written so that NaN stays NaN


_uniform = device(uniform)


def signed_value(code, scale):
    """The value of a signed code."""
    code = np.uint32(code)
    size = np.uint32(code & _SIGNED_MAX)
    normal = _float_of(np.uint32(np.uint32(size << _DROPPED) + _SIGNED_OFFSET))
    value = (normal if size >= _FIRST_NORMAL else np.float32(size) * _PER_SUBNORMAL) * scale
    return -value if code > _SIGNED_MAX else value


@as_compiled
def signed_code(x, inverse, noise):
    """The code above or below a signed value in magnitude, as the upper bits of `noise` decide."""
    size = abs(x) * inverse
    bits = np.uint32(np.uint32(_bits_of(size) - _SIGNED_OFFSET) + np.uint32(noise >> _UNUSED))
    subnormal = np.uint32(np.int32(size * _SUBNORMALS + _uniform(noise)))
    code = min(subnormal if size < _LEAST_NORMAL else np.uint32(bits >> _DROPPED), _SIGNED_MAX)
    return np.uint8(np.uint32(code + np.uint32(128)) if x < 0 else code)


def positive_value(code, scale):
    """The value of a code without sign."""
    value = _float_of(np.uint32(np.uint32(np.uint32(code) << _DROPPED) + _POSITIVE_OFFSET)) * scale
    return value if code > 0 else np.float32(0)


@as_compiled
def positive_code(x, inverse, noise):
    """The code above or below a value that is not negative; 0 is for 0 alone, 1 for all that is smaller than it."""
    size = x * inverse
    bits = np.uint32(np.uint32(_bits_of(size) - _POSITIVE_OFFSET) + np.uint32(noise >> _UNUSED))
    code = np.uint32(1) if size < _LEAST_POSITIVE else min(np.uint32(bits >> _DROPPED), np.uint32(255))
    return np.uint8(np.uint32(0) if x == 0 else code)
