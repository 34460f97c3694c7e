"""Losses: scalar functions of an output of the network and its target.

The link of a loss turns outputs into predictions; the loss and its derivative are computed from the outputs before the
link.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from fastadam._typing import Array


class Loss(NamedTuple):
    """A loss of one output, or of a row of them."""

    link: str
    """Function that turns outputs into predictions: scikit-learn's `out_activation_`."""
    term: Callable[..., Any] | None
    """`term(z, y, s, t)` returns the loss of an output and its derivative; `s` is the parameter of the loss, `t` the
    type. None for the loss of a whole row, see `class_log_loss`."""
    averaged: bool = True
    """True if the loss of a sample is the mean over its outputs, False if it is their sum."""


def squared_error(z, y, s, t):
    """Half the squared error."""
    error = z - y
    return t(0.5) * error * error, error


def absolute_error(z, y, s, t):
    """Compute the absolute error; its derivative at 0 is 0."""
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
    """Compute the pinball loss of quantile `s` (Koenker & Bassett 1978)."""
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
    """Compute the log-loss of a probability 1 / (1 + exp(-z)), clipped to [s, 1 - s] by the type's epsilon s."""
    p = t(1) / (t(1) + math.exp(-z))
    clipped = min(max(p, s), t(1) - s)
    return -(y * math.log(clipped) + (t(1) - y) * math.log(t(1) - clipped)), p - y


def class_log_loss(p, y, s, t):
    """Contribution of one class to the log-loss of a row, and its derivative, from the probability of the class.

    Only in the loss, the probability is clipped to [s, 1 - s], where `s` is the epsilon of the type.
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


def predictions(
    link: str, Z: Array, exp: Callable[..., Array] = np.exp, logistic: Callable[..., Array] = expit
) -> Array:
    """Turn outputs of a network into predictions, in place; pass the functions of another library for its arrays."""
    if link == "exp":
        exp(Z, out=Z)
    elif link == "logistic":
        logistic(Z, out=Z)
    elif link == "softmax":
        exp(Z - Z.max(axis=1)[:, np.newaxis], out=Z)
        Z /= Z.sum(axis=1)[:, np.newaxis]
    return Z
