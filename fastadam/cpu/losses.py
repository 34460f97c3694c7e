"""Losses over a block of rows, compiled for the CPU; the network calls them by address."""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from fastadam.cpu.jit import formula, kernel
from fastadam.cpu.pointers import address_of
from fastadam.cpu.vector_math import exp
from fastadam.cpu.views import view
from fastadam.formulas.losses import LOSSES, class_log_loss


@functools.cache
def loss_kernel(name: str) -> Callable[..., float]:
    """Make the kernel that turns outputs into deltas, in place, and returns the weighted sum of the losses of the rows.

    `scale` is the divisor of the gradient: the total weight of the batch.
    """
    return _softmax_kernel() if LOSSES[name].term is None else _elementwise_kernel(name)


def _elementwise_kernel(name: str) -> Callable[..., float]:
    term, averaged = formula(LOSSES[name].term), LOSSES[name].averaged  # type: ignore[arg-type]

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
    term = formula(class_log_loss)

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
        flat = view(Z, 0, (Z.size,))
        for i in range(flat.size):  # all at once: vectorised even for few classes
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
    """Address of the kernel of a loss."""
    element = numba.from_dtype(dtype)
    flat, matrix = numba.types.Array(element, 1, "C"), numba.types.Array(element, 2, "C")
    rows, number = numba.types.Array(numba.types.int64, 1, "C"), numba.types.float64
    return address_of(loss_kernel(name), matrix, matrix, flat, rows, number, number)
