"""The losses: scalar functions of a network's output and the target, and the loops over a block of rows made of them.

As the activations, they are called by their address. What a network puts out is turned into a prediction by the link of
its loss; the loss and its derivative are computed from what it puts out before the link.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fastadam.elementary import exp
from fastadam.jit import address_of, device, kernel, shaped

Array = NDArray[Any]


class Loss(NamedTuple):
    """A loss of one output, or of a row of them."""

    link: str
    """What makes predictions of outputs: scikit-learn's `out_activation_`."""
    term: Callable[..., Any] | None
    """`term(z, y, s, t)` gives the loss of an output and its derivative; `s` is the loss's own number, `t` the type.
    None of the one loss that is of a whole row: see `class_log_loss`."""
    averaged: bool = True
    """Whether the loss of a sample is the mean over its outputs, or their sum."""


def squared_error(z, y, s, t):
    """Half the squared error."""
    error = z - y
    return t(0.5) * error * error, error


def absolute_error(z, y, s, t):
    """The absolute error; its derivative at 0 is 0."""
    error = z - y
    return abs(error), t(1) if error > t(0) else t(-1) if error < t(0) else error


def huber(z, y, s, t):
    """Half the squared error up to `s`, linear beyond (Huber 1964)."""
    error = z - y
    size = abs(error)
    if size <= s:
        return t(0.5) * error * error, error
    return s * (size - t(0.5) * s), s if error > s else -s if error < -s else error


def quantile(z, y, s, t):
    """The pinball loss of quantile `s` (Koenker & Bassett 1978)."""
    error = z - y
    if error <= t(0):
        return -s * error, -s if error < t(0) else error
    return (t(1) - s) * error, t(1) - s if error > t(0) else error


def poisson(z, y, s, t):
    """Half the Poisson deviance of a prediction exp(z)."""
    predicted = math.exp(z)
    if y == t(0):
        return predicted, predicted
    ratio = y / predicted
    log_ratio = math.log(ratio) if t(0) < ratio < t(math.inf) else math.log(y) - z  # the ratio may leave the range
    return y * log_ratio - y + predicted, predicted - y


def log_loss(z, y, s, t):
    """The log-loss of a probability 1 / (1 + exp(-z)), which is kept from 0 and 1 by `s`, the type's epsilon."""
    p = t(1) / (t(1) + math.exp(-z))
    clipped = min(max(p, s), t(1) - s)
    return -(y * math.log(clipped) + (t(1) - y) * math.log(t(1) - clipped)), p - y


def class_log_loss(p, y, s, t):
    """The part of one class in the log-loss of a row, and its derivative by the output, from the class's probability.

    In the loss alone, the probability is kept from 0 and 1 by `s`, the type's epsilon.
    """
    return t(0) if y == t(0) else -(y * math.log(min(max(p, s), t(1) - s))), p - y


LOSSES = {
    "squared_error": Loss("identity", squared_error),
    "absolute_error": Loss("identity", absolute_error),
    "huber": Loss("identity", huber),
    "quantile": Loss("identity", quantile),
    "poisson": Loss("exp", poisson, averaged=False),
    "log_loss": Loss("logistic", log_loss, averaged=False),
    "multinomial": Loss("softmax", None, averaged=False),
}


@functools.cache
def loss_kernel(name: str) -> Callable[..., float]:
    """Turn outputs into deltas, in place, and return the weighted sum of the losses of these rows.

    `scale` is what the gradient is divided by: the total weight of the batch.
    """
    return _softmax_kernel() if LOSSES[name].term is None else _elementwise_kernel(name)


def _elementwise_kernel(name: str) -> Callable[..., float]:
    term, averaged = device(LOSSES[name].term), LOSSES[name].averaged  # type: ignore[arg-type]

    @kernel(variant=name)
    def loss(Z, Y, weights, rows, scale, setting):
        t, total = Z.dtype.type, 0.0
        s = t(setting)
        for i in range(rows.size):
            weight = weights[rows[i]] if weights.size else t(1)
            factor = t(weight / scale)
            for j in range(Y.shape[1]):
                value, slope = term(Z[i, j], Y[rows[i], j], s, t)
                total += weight * value
                Z[i, j] = slope * factor
        return total / Y.shape[1] if averaged else total

    return loss


def _softmax_kernel() -> Callable[..., float]:
    term = device(class_log_loss)

    @kernel(variant="multinomial")
    def loss(Z, Y, weights, rows, scale, setting):
        t, total, classes = Z.dtype.type, 0.0, Y.shape[1]
        s = t(setting)
        for i in range(rows.size):
            largest = Z[i, 0]
            for j in range(1, classes):
                largest = max(largest, Z[i, j])
            for j in range(classes):
                Z[i, j] -= largest
        flat = shaped(Z, 0, (Z.size,))
        for i in range(flat.size):  # a loop of whole vectors, for few classes too
            flat[i] = exp(flat[i])
        for i in range(rows.size):
            weight = weights[rows[i]] if weights.size else t(1)
            factor = t(weight / scale)
            summed, value = t(0), t(0)
            for j in range(classes):
                summed += Z[i, j]
            for j in range(classes):
                part, slope = term(Z[i, j] / summed, Y[rows[i], j], s, t)
                value += part
                Z[i, j] = slope * factor
            total += weight * value
        return total

    return loss


@functools.cache
def loss_address(name: str, dtype: np.dtype[Any]) -> Any:
    """Where the loop of a loss stands."""
    element = numba.from_dtype(dtype)
    flat, matrix = numba.types.Array(element, 1, "C"), numba.types.Array(element, 2, "C")
    rows, number = numba.types.Array(numba.types.int64, 1, "C"), numba.types.float64
    return address_of(loss_kernel(name), matrix, matrix, flat, rows, number, number)


def predictions(
    link: str, Z: Array, exp: Callable[..., Array] = np.exp, logistic: Callable[..., Array] = expit
) -> Array:
    """Make predictions of a network's outputs, in place; an array of another library comes with its functions."""
    if link == "exp":
        exp(Z, out=Z)
    elif link == "logistic":
        logistic(Z, out=Z)
    elif link == "softmax":
        exp(Z - Z.max(axis=1)[:, np.newaxis], out=Z)
        Z /= Z.sum(axis=1)[:, np.newaxis]
    return Z
