"""The activations of a layer, forward and backward, compiled for the CPU."""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from fastadam.cpu.jit import kernel
from fastadam.cpu.pointers import address_of
from fastadam.cpu.vector_math import vector_formula
from fastadam.cpu.views import view
from fastadam.formulas.activations import ACTIVATIONS, identity


@functools.cache
def forward_kernel(name: str) -> Callable[..., None]:
    """Z ← f(Z + b); K, unless it has no rows, keeps what the derivative is computed from."""
    activation = ACTIVATIONS[name]
    value, nothing, by_input = vector_formula(activation.value), vector_formula(identity), activation.by_input
    of_row, of_block = (value, nothing) if activation.piecewise_linear else (nothing, value)

    @kernel(variant=name)
    def activate(Z, b, K):
        t = Z.dtype.type
        for i in range(Z.shape[0]):
            for j in range(b.size):
                Z[i, j] = of_row(Z[i, j] + b[j], t)
        flat, kept = view(Z, 0, (Z.size,)), view(K, 0, (K.size,))
        if K.size == 0:
            for i in range(flat.size):
                flat[i] = of_block(flat[i], t)
        else:
            for i in range(flat.size):
                z = flat[i]
                flat[i] = of_block(z, t)
                kept[i] = z if by_input else flat[i]

    return activate


@functools.cache
def backward_kernel(name: str) -> Callable[..., None]:
    """D ← D · f'(z), from what the layer kept."""
    backward = vector_formula(ACTIVATIONS[name].backward)

    @kernel(variant=name)
    def differentiate(D, X):
        t = D.dtype.type
        D, X = view(D, 0, (D.size,)), view(X, 0, (X.size,))
        for i in range(D.size):  # what is read is read always: a load in a branch is no vector
            d, x = D[i], X[i]
            D[i] = backward(d, x, t)

    return differentiate


@functools.cache
def addresses(names: tuple[str, ...], dtype: np.dtype[Any], backward: bool) -> tuple[Any, ...]:
    """Where the loops of these activations stand: for the layers in turn."""
    element = numba.from_dtype(dtype)
    flat, matrix = numba.types.Array(element, 1, "C"), numba.types.Array(element, 2, "C")
    if backward:
        return tuple(address_of(backward_kernel(name), matrix, matrix) for name in names)
    return tuple(address_of(forward_kernel(name), matrix, flat, matrix) for name in names)
