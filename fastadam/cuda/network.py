"""Predictions of a network for data on a device, where they stay."""

import functools
from collections.abc import Sequence
from typing import Any

from fastadam.buffers import FlatBuffer
from fastadam.cuda.data import DeviceMatrix
from fastadam.cuda.devices import blocks_for, synchronize
from fastadam.cuda.jit import THREADS
from fastadam.cuda.layers import activate_kernel
from fastadam.formulas.losses import predictions

MOST_ELEMENTS = 2**25
"""Most elements of the activations of a layer, which bound the rows that go through the network at a time."""


def predict(params: FlatBuffer, activations: Sequence[str], link: str, X: DeviceMatrix) -> Any:
    """Predict by a network whose parameters are on the host; returns a CuPy array of their type."""
    runtime, dtype, layers = X.runtime, params.dtype, range(len(params) // 2)
    xp, widest = runtime.xp, max(max(params[f"W{k}"].shape) for k in layers)
    data, rows = X.of_dtype(dtype), max(1, MOST_ELEMENTS // widest)
    with runtime.working():
        weights, biases = ([xp.asarray(params[f"{name}{k}"]) for k in layers] for name in "Wb")
        out = xp.empty((X.shape[0], biases[-1].size), dtype)
        for start in range(0, X.shape[0], rows):
            A = data[start : start + rows]
            for function, W, b in zip((*activations, "identity"), weights, biases, strict=True):
                Z = out[start : start + rows] if b is biases[-1] else xp.empty((A.shape[0], b.size), dtype)
                xp.dot(A, W, out=Z)
                compiled = activate_kernel(function, dtype.name)[blocks_for(Z.size), THREADS, runtime.stream]
                compiled(runtime.address(Z), runtime.address(b), *Z.shape, 0, 0, 0)
                A = Z
        predicted = predictions(link, out, xp.exp, functools.partial(_logistic, xp))
    synchronize()  # other streams will read it
    return predicted


def _logistic(xp: Any, z: Any, out: Any) -> Any:
    """Compute the logistic function, without overflow."""
    e = xp.exp(-xp.abs(z))
    return xp.divide(xp.where(z >= 0, z.dtype.type(1), e), 1 + e, out=out)
