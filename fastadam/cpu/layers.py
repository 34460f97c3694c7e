"""Activations over a block of rows, compiled for the CPU.

The network calls these loops by address, so that one compiled network serves every activation, and each activation is
compiled when it is first used.

The loops run over all elements of a block instead of over each row, so that they are vectorised even for layers of few
units. If rows are padded, the padding is computed as well, and never read. Activations that are cheaper than another
pass over memory are computed row by row, together with the bias.
"""

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
    """Make the kernel of Z ← f(Z + b); K, unless it is empty, keeps the values that the derivative is computed from."""
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
    """Make the kernel of D ← D · f'(z), where X has the values that the layer kept."""
    backward = vector_formula(ACTIVATIONS[name].backward)

    @kernel(variant=name)
    def differentiate(D, X):
        t = D.dtype.type
        D, X = view(D, 0, (D.size,)), view(X, 0, (X.size,))
        for i in range(D.size):  # load unconditionally: a load in a branch blocks vectorisation
            d, x = D[i], X[i]
            D[i] = backward(d, x, t)

    return differentiate


@functools.cache
def addresses(names: tuple[str, ...], dtype: np.dtype[Any], backward: bool) -> tuple[Any, ...]:
    """Addresses of the kernels of these activations."""
    element = numba.from_dtype(dtype)
    flat, matrix = numba.types.Array(element, 1, "C"), numba.types.Array(element, 2, "C")
    if backward:
        return tuple(address_of(backward_kernel(name), matrix, matrix) for name in names)
    return tuple(address_of(forward_kernel(name), matrix, flat, matrix) for name in names)
