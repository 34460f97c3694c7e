"""Activations of the hidden layers: two scalar functions for each.

A function takes the type of the elements as its last argument, since a plain number would make float32 arithmetic
float64.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Activation(NamedTuple):
    """An activation function and its derivative."""

    value: Callable[..., Any]
    """`value(z, t)` for elements of type `t`."""
    backward: Callable[..., Any]
    """`backward(d, x, t)` returns d times the derivative at x: the output, or the input if `by_input`."""
    by_input: bool = False
    """True if the derivative is computed from the input instead of the output."""
    piecewise_linear: bool = False
    """True for a function that is cheaper than another pass over memory."""


def identity(z, t):
    """Compute the identity."""
    return z


def identity_backward(d, a, t):
    """Multiply by the derivative, 1."""
    return d


def logistic(z, t):
    """Compute the logistic function, 1 / (1 + exp(-z))."""
    return t(1) / (t(1) + math.exp(-z))


def logistic_backward(d, a, t):
    """Multiply by the derivative, a (1 - a)."""
    return d * (a * (t(1) - a))


def tanh(z, t):
    """Compute the hyperbolic tangent."""
    return math.tanh(z)


def tanh_backward(d, a, t):
    """Multiply by the derivative, 1 - a²."""
    return d * (t(1) - a * a)


def relu(z, t):
    """Compute the positive part; written so that NaN stays NaN."""
    return t(0) if z <= t(0) else z


def relu_backward(d, a, t):
    """Nothing comes back through a unit that is off."""
    return t(0) if a == t(0) else d


def leaky_relu(z, t):
    """Compute the identity above 0, and 0.01 times it below (Maas, Hannun & Ng 2013)."""
    return t(0.01) * z if z <= t(0) else z


def leaky_relu_backward(d, a, t):
    """Multiply by the derivative; the sign of the output is that of the input."""
    return t(0.01) * d if a <= t(0) else d


def elu(z, t):
    """Compute the identity above 0, exp(z) - 1 below (Clevert, Unterthiner & Hochreiter 2016)."""
    return math.expm1(z) if z <= t(0) else z


def elu_backward(d, a, t):
    """Multiply by the derivative, which below 0 is exp(z) = a + 1."""
    return d * (a + t(1)) if a <= t(0) else d


def softplus(z, t):
    """log(1 + exp(z)) (Dugas et al. 2001), without overflow."""
    return max(z, t(0)) + math.log1p(math.exp(-abs(z)))


def softplus_backward(d, a, t):
    """Multiply by the derivative, the logistic function of z, 1 - exp(-a)."""
    return d * -math.expm1(-a)


def silu(z, t):
    """Compute the identity times the logistic function, also called swish (Elfwing, Uchibe & Doya 2018)."""
    return z / (t(1) + math.exp(-z))


def silu_backward(d, z, t):
    """Multiply by the derivative, s (1 + z (1 - s)) with s the logistic function."""
    s = t(1) / (t(1) + math.exp(-z))
    return d * (s * (t(1) + z * (t(1) - s)))


def gelu(z, t):
    """Compute the identity times the normal distribution function (Hendrycks & Gimpel 2016), exactly."""
    return t(0.5) * z * math.erfc(-z * t(math.sqrt(0.5)))


def gelu_backward(d, z, t):
    """Multiply by the derivative, the distribution function plus z times its density."""
    below = t(0.5) * math.erfc(-z * t(math.sqrt(0.5)))
    return d * (below + z * (t(1 / math.sqrt(2 * math.pi)) * math.exp(t(-0.5) * z * z)))


def mish(z, t):
    """Compute the identity times tanh(softplus(z)) (Misra 2020).

    That factor is n / (n + 2) with n = exp(z) (exp(z) + 2): one exponential in place of three functions. Above 0 both
    parts are divided by exp(z)², which would overflow.
    """
    e = math.exp(-abs(z))
    part = t(1) + t(2) * e if z > t(0) else e * (e + t(2))
    rest = t(2) * e * e if z > t(0) else t(2)
    return z * (part / (part + rest))


def mish_backward(d, z, t):
    """Multiply by the derivative, w + z s (1 - w²) with s the logistic function and w = tanh(softplus(z))."""
    e = math.exp(-abs(z))
    part = t(1) + t(2) * e if z > t(0) else e * (e + t(2))
    rest = t(2) * e * e if z > t(0) else t(2)
    w = part / (part + rest)
    s = (t(1) if z > t(0) else e) / (t(1) + e)
    return d * (w + z * s * (rest / (part + rest)) * (t(1) + w))


ACTIVATIONS = {
    "identity": Activation(identity, identity_backward, piecewise_linear=True),
    "logistic": Activation(logistic, logistic_backward),
    "tanh": Activation(tanh, tanh_backward),
    "relu": Activation(relu, relu_backward, piecewise_linear=True),
    "leaky_relu": Activation(leaky_relu, leaky_relu_backward, piecewise_linear=True),
    "elu": Activation(elu, elu_backward),
    "softplus": Activation(softplus, softplus_backward),
    "silu": Activation(silu, silu_backward, by_input=True),
    "gelu": Activation(gelu, gelu_backward, by_input=True),
    "mish": Activation(mish, mish_backward, by_input=True),
}
