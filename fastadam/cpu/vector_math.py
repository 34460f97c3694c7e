"""erfc, exp, expm1, log1p and tanh as a few dozen operations without branches, which compilers vectorise.

A loop that calls the C library is not vectorised, since the library takes one number per call. Formulas compiled by
`vector_formula` call the functions of this module in place of those of `math`, for float32 and float64, each computed
in its own type. They give the same bits on every processor, since no operations are fused. The largest errors found, in
units in the last place, are 1.1 for exp, 2.2 for expm1, 2.0 for log1p, 2.6 for tanh and 8 for erfc. As in `math`, NaN
stays NaN and zeros keep their sign. Instead of the errors that `math` raises, an overflow is infinite and the logarithm
of a number below 0 is NaN. An underflow is gradual.

The method is the classical reduction (Cody & Waite 1980; log 2 is split as in Moshier's Cephes library): exp(x) is
2ⁿ exp(r), where n is the integer nearest to x / log 2, and exp(r) - 1 is its Taylor series up to a remainder below the
rounding error. Similarly, log(1 + x) is n log 2 + log(1 + f), with the series of the area hyperbolic tangent of
f / (2 + f), and tanh(x) is e / (e + 2) with e = exp(2x) - 1. The complementary error function is exp(-x²) times a
function that one polynomial approximates for all x (Shepherd & Laframboise 1981).
"""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from math import pi, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from fastadam.cpu.jit import JIT_DISABLED, inner, of_either_type
from fastadam.formulas.backend import Backend, from_text

__all__ = ["erfc", "exp", "expm1", "log1p", "pi", "sqrt", "tanh", "vector_formula"]

_LN2_HIGH, _LN2_LOW = 22713 / 32768, 1.42860682030941723212e-6
"""log 2 in two parts; the first has 15 bits, so that its product with n is exact, even in float32."""

_ERFC_LARGEST, _ERFC_MIDDLE = 28.0, 3.75
"""A number at which erfc is 0 in both types, and the one at which the variable of the polynomial below is 0."""

_ERFC = (
    1.2539674711853876, -0.12066783607454412, -0.028294804466573537, 0.10198698200412867,
    -0.10728411861801782, 0.07635790530014354, -0.04053954209294644, 0.015920527766550233,
    -0.004150791169883816, 0.0003778200991783355, 0.00020076187905615953, -8.345306094790669e-05,
    9.064862192555376e-07, 7.472744383524631e-06, -1.183599700676788e-06, -6.134072568589752e-07,
    1.7541664782192806e-07, 5.60589139706756e-08, -2.107862899026911e-08, -6.0836009863596075e-09,
    2.186637952593993e-09, 6.853921904698525e-10, -1.480905619143661e-10, -5.223371018003139e-11,
)  # fmt: skip
"""Coefficients of (1 + 2x) exp(x²) erfc(x) as a polynomial in a variable that goes from -1 to 1 for x from 0 to 28.

It is the Chebyshev interpolant of degree 23, computed with 60 digits and then rounded. Before rounding, its error is at
most 3e-18. For float32, the coefficients below the rounding error are left out.
"""

_inlined = functools.partial(inner, forceinline=True)


def _magic(t: Any) -> Any:
    """Return a number whose sum with x is x rounded to an integer n, which is then in the lowest bits of the sum."""
    return t(1.5 * 2.0 ** np.finfo(t).nmant)


def _bits(number: Any) -> int:
    """Bits of a NumPy float, as a signed integer."""
    return int(number.view(f"i{number.itemsize}"))


if JIT_DISABLED:

    def _of_bits(bits, t):
        size = np.finfo(t).bits
        return np.dtype(f"u{size // 8}").type(bits % (1 << size)).view(t)

    def _power_of_two(shifted):
        """Compute 2ⁿ, given n + magic."""
        info = np.finfo(shifted)
        return _of_bits((_bits(shifted) + info.maxexp - 1) << info.nmant, type(shifted))

    def _exponent(x):
        """Compute n + magic for the n with x / 2ⁿ between √½ and √2; x is positive and not subnormal."""
        t = type(x)
        n = (_bits(x) - _bits(t(sqrt(0.5)))) >> np.finfo(t).nmant
        return _of_bits(n + _bits(_magic(t)), t)

else:

    def _on_bits(build: Callable[..., Any]) -> Any:
        """Make an intrinsic that computes a float by integer operations on the bits of another one."""

        def typed(typingctx, x):
            t, integer = np.dtype(x.name).type, ir.IntType(x.bitwidth)

            def codegen(context, builder, signature, arguments):
                bits = build(builder, builder.bitcast(arguments[0], integer), integer, t)
                return builder.bitcast(bits, context.get_value_type(x))

            return x(x), codegen

        return intrinsic(typed)

    def _build_power_of_two(builder, bits, integer, t):
        info = np.finfo(t)
        return builder.shl(builder.add(bits, integer(info.maxexp - 1)), integer(info.nmant))

    def _build_exponent(builder, bits, integer, t):
        n = builder.ashr(builder.sub(bits, integer(_bits(t(sqrt(0.5))))), integer(np.finfo(t).nmant))
        return builder.add(n, integer(_bits(_magic(t))))

    _power_of_two, _exponent = _on_bits(_build_power_of_two), _on_bits(_build_exponent)


def _polynomial(t: Any, coefficients: Sequence[float]) -> Any:
    """Make the polynomial with these coefficients, from the constant one on.

    It is summed by Estrin's scheme: in pairs, pairs of pairs, and so on. In Horner's scheme, each operation would have
    to wait for the one before.
    """
    terms, power = [f"c[{k}]" for k in range(len(coefficients))], "x"
    while len(terms) > 1:
        pairs = [f"({low} + {power} * {high})" for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms, power = pairs + terms[2 * len(pairs) :], f"({power} * {power})"
    return _inlined(from_text("polynomial(x)", f"return {terms[0]}", c=tuple(map(t, coefficients))))


def _functions(t: Any, exp_terms: int, log_terms: int) -> SimpleNamespace:
    """Make the functions for one type, with a number of terms of the series of exp and of log."""
    info, magic = np.finfo(t), _magic(t)
    zero, quarter, half, one, two, infinity, nan = map(t, (0, 0.25, 0.5, 1, 2, math.inf, math.nan))
    high, low, per_ln2 = map(t, (_LN2_HIGH, _LN2_LOW, 1 / math.log(2)))
    to_zero, to_infinity = (t(n * math.log(2)) for n in (info.minexp - info.nmant - 2, info.maxexp + 1))
    above_minus_1, largest = np.nextafter(-one, zero), info.max
    exp_tail = _polynomial(t, [1 / math.factorial(k) for k in range(2, exp_terms + 1)])
    log_tail = _polynomial(t, [2 / (2 * k + 1) for k in range(1, log_terms + 1)])
    erfc_tail = _polynomial(t, [c for c in _ERFC if abs(c) > info.eps / 8])
    erfc_largest, erfc_middle, erfc_slope = map(t, (_ERFC_LARGEST, _ERFC_MIDDLE, 1 + 2 * _ERFC_MIDDLE / _ERFC_LARGEST))
    nothing = -zero  # adding 0 would turn -0 into 0; adding -0 changes no number, so the compiler leaves it out
    coarse = t(1.5 * 2.0 ** ((info.nmant + 10) // 2))

    @_inlined
    def reduced(x, rest=nothing):
        """Return e, a, b and 1 / b with exp(x + rest) = (1 + e) a b; a b is a power of two, which could overflow."""
        x = to_zero if x < to_zero else to_infinity if x > to_infinity else x
        n = (x * per_ln2 + magic) - magic
        r = ((x - n * high) - n * low) + rest
        first = (n * half + magic) - magic
        second = n - first
        e = r + r * (r * exp_tail(r))
        return e, _power_of_two(first + magic), _power_of_two(second + magic), _power_of_two(magic - second)

    def exp(x):
        e, a, b, _ = reduced(x)
        return (e * a + a) * b

    @_inlined
    def exp_less_1(x):
        e, a, b, inverse = reduced(x)
        return (e * a + (a - inverse)) * b

    def expm1(x):
        return t(math.copysign(exp_less_1(x), x))

    def tanh(x):
        e = exp_less_1(-two * abs(x))  # of a negative number, which cannot overflow
        return t(math.copysign(e / (two + e), x))

    def erfc(x):
        size = abs(x)
        size = erfc_largest if size > erfc_largest else size
        rough = (size + coarse) - coarse  # with so few bits that its square is exact
        e, a, b, _ = reduced(-(rough * rough), (rough - size) * (rough + size))
        place = (erfc_slope * size - erfc_middle) / (size + erfc_middle)
        y = (e * a + a) * (erfc_tail(place) / (one + two * size)) * b
        return y if x > zero else two - y

    def log1p(x):
        edge = zero if x > -one else -infinity if x == -one else nan
        edge = edge if x < infinity else x
        x = above_minus_1 if x < above_minus_1 else largest if x > largest else x
        n = _exponent(one + x) - magic
        scale = _power_of_two((magic + two) - n)  # 4 / 2ⁿ, as 1 / 2ⁿ could be subnormal
        f = x * scale * quarter + (scale * quarter - one)  # exact, by Sterbenz's lemma
        s = f / (two + f)
        rest = s * (f - (s * s) * log_tail(s * s))
        return t(math.copysign((n * high + (n * low + (f - rest))) + edge, x))

    return SimpleNamespace(erfc=erfc, exp=exp, expm1=expm1, log1p=log1p, tanh=tanh)


_SINGLE, _DOUBLE = _functions(np.float32, exp_terms=8, log_terms=4), _functions(np.float64, exp_terms=13, log_terms=10)

erfc = of_either_type(_SINGLE.erfc, _DOUBLE.erfc)

exp = of_either_type(_SINGLE.exp, _DOUBLE.exp)

expm1 = of_either_type(_SINGLE.expm1, _DOUBLE.expm1)

log1p = of_either_type(_SINGLE.log1p, _DOUBLE.log1p)

tanh = of_either_type(_SINGLE.tanh, _DOUBLE.tanh)


vector_formula = Backend(_inlined, {math: sys.modules[__name__]})
"""Compiles a formula for a vectorised loop, with the functions of this module in place of those of `math`."""
