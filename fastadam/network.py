"""The network: forward, loss, backward and a whole epoch of Adam, compiled, over views of one flat buffer.

Reads from the inside out: what happens to a block of rows in one layer; forward and backward through all layers; the
gradient of a batch; the update; the epoch. `Network`, at the end, is the Python side: it lays the parameters out, owns
the working memory and calls the compiled functions.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fastadam.buffers import FlatBuffer, aligned_zeros, writeable_view
from fastadam.cpu import AdamVariant, adam_loop, adam_scalars
from fastadam.jit import device, kernel

Array = NDArray[Any]

IDENTITY, LOGISTIC, TANH, RELU = range(4)
ACTIVATIONS = {"identity": IDENTITY, "logistic": LOGISTIC, "tanh": TANH, "relu": RELU}

PREDICT_ROWS = 256
"""Rows that are predicted at a time: their activations stay in cache."""

_update_weights = adam_loop(AdamVariant("coupled"))
_update_biases = adam_loop(AdamVariant())


class Layout(NamedTuple):
    """Where everything of a network lies: in the parameters, and in the working memory of a block of rows."""

    units: Array
    """Units of each layer, the input first: n_layers."""
    weights: Array
    """Offset of each weight matrix in the flat parameters: n_layers - 1."""
    biases: Array
    """Offset of each bias in the flat parameters: n_layers - 1."""
    activation: int
    """Code of the hidden activation; the output has none."""


class Samples(NamedTuple):
    """The data as the kernels read it: dense rows or, where `X` has no rows, those of a CSR matrix."""

    X: Array
    data: Array
    indices: Array
    indptr: Array
    y: Array
    weight: Array
    """One weight a sample, or empty."""


# --- one layer, one block of rows -----------------------------------------------------------------------------------


@device
def add_bias_and_activate(Z, b, activation):
    """Z ← f(Z + b), in one pass."""
    for i in range(Z.shape[0]):
        if activation == RELU:
            for j in range(Z.shape[1]):
                z = Z[i, j] + b[j]
                Z[i, j] = 0 if z <= 0 else z  # written so that NaN stays NaN
        elif activation == TANH:
            for j in range(Z.shape[1]):
                Z[i, j] = math.tanh(Z[i, j] + b[j])
        elif activation == LOGISTIC:
            for j in range(Z.shape[1]):
                Z[i, j] = 1 / (1 + math.exp(-(Z[i, j] + b[j])))
        else:
            for j in range(Z.shape[1]):
                Z[i, j] += b[j]


@device
def multiply_by_derivative(D, A, activation):
    """D ← D · f'(z), from the activations A = f(z)."""
    for i in range(D.shape[0]):
        if activation == RELU:
            for j in range(D.shape[1]):
                D[i, j] = 0 if A[i, j] == 0 else D[i, j]
        elif activation == TANH:
            for j in range(D.shape[1]):
                D[i, j] *= 1 - A[i, j] * A[i, j]
        elif activation == LOGISTIC:
            for j in range(D.shape[1]):
                D[i, j] *= A[i, j] * (1 - A[i, j])


@device
def sum_rows(D, out):
    """Write the sum of the rows of D, the gradient of the bias, to `out`."""
    out[:] = 0
    for i in range(D.shape[0]):
        for j in range(D.shape[1]):
            out[j] += D[i, j]


@device
def gather_rows(X, rows, out):
    """Copy the given rows of X to `out`."""
    for i in range(rows.size):
        row = X[rows[i]]
        for j in range(row.size):
            out[i, j] = row[j]


@device
def sparse_forward(samples, rows, W, Z):
    """Z ← X[rows] · W for CSR rows."""
    Z[:] = 0
    for i in range(rows.size):
        for entry in range(samples.indptr[rows[i]], samples.indptr[rows[i] + 1]):
            x, w = samples.data[entry], W[samples.indices[entry]]
            for j in range(Z.shape[1]):
                Z[i, j] += x * w[j]


@device
def sparse_weight_gradient(samples, rows, D, G):
    """G ← X[rows]ᵀ · D for CSR rows."""
    G[:] = 0
    for i in range(rows.size):
        for entry in range(samples.indptr[rows[i]], samples.indptr[rows[i] + 1]):
            x, g = samples.data[entry], G[samples.indices[entry]]
            for j in range(D.shape[1]):
                g[j] += x * D[i, j]


# --- all layers, one block of rows ----------------------------------------------------------------------------------


@device
def matrix(flat, offset, rows, columns):
    """The view of `flat` from `offset` on as a matrix."""
    return flat[offset : offset + rows * columns].reshape(rows, columns)


@device
def forward(layout, p, samples, rows, work):
    """Run the rows through the network; returns the offset in `work` of the last layer's activations.

    The activations of layer k, a (rows, units[k]) matrix, follow those of layer k - 1 in `work`, which begins with
    the gathered input, or a gap in its place if the input is sparse.
    """
    n, last = rows.size, layout.units.size - 1
    here, dense = 0, samples.X.shape[0] > 0
    if dense:
        gather_rows(samples.X, rows, matrix(work, 0, n, layout.units[0]))
    for k in range(last):
        fan_in, fan_out = layout.units[k], layout.units[k + 1]
        after = here + n * fan_in
        W = matrix(p, layout.weights[k], fan_in, fan_out)
        Z = matrix(work, after, n, fan_out)
        if k > 0 or dense:
            np.dot(matrix(work, here, n, fan_in), W, Z)
        else:
            sparse_forward(samples, rows, W, Z)
        b = p[layout.biases[k] : layout.biases[k] + fan_out]
        add_bias_and_activate(Z, b, layout.activation if k < last - 1 else IDENTITY)
        here = after
    return here


@device
def squared_error(samples, rows, Z, scale):
    """Turn predictions into deltas, in place, and return the sum of the weighted squared errors.

    `scale` is what the gradient is divided by: the total weight of the batch.
    """
    total = 0.0
    for i in range(rows.size):
        weight = samples.weight[rows[i]] if samples.weight.size else Z.dtype.type(1)
        factor = Z.dtype.type(weight / scale)
        for j in range(Z.shape[1]):
            error = Z[i, j] - samples.y[rows[i], j]
            total += weight * error * error
            Z[i, j] = error * factor
    return total


@device
def backward(layout, p, samples, rows, work, here, g):
    """Carry the deltas at `work[here:]` back through the network; the gradient is written to `g`.

    Deltas of the hidden layers alternate between two areas behind the activations.
    """
    n, last = rows.size, layout.units.size - 1
    behind, widest = here + n * layout.units[last], n * layout.units.max()
    delta_at = here
    for k in range(last - 1, -1, -1):
        fan_in, fan_out = layout.units[k], layout.units[k + 1]
        before = here - n * fan_in
        D = matrix(work, delta_at, n, fan_out)
        G = matrix(g, layout.weights[k], fan_in, fan_out)
        A = matrix(work, before, n, fan_in)
        if k > 0 or samples.X.shape[0] > 0:
            np.dot(A.T, D, G)
        else:
            sparse_weight_gradient(samples, rows, D, G)
        sum_rows(D, g[layout.biases[k] : layout.biases[k] + fan_out])
        if k > 0:  # nobody needs the gradient of the input
            delta_at = behind + (k % 2) * widest
            D_before = matrix(work, delta_at, n, fan_in)
            np.dot(D, matrix(p, layout.weights[k], fan_in, fan_out).T, D_before)
            multiply_by_derivative(D_before, A, layout.activation)
        here = before


# --- a batch, an epoch ----------------------------------------------------------------------------------------------


@device
def total_weight(samples, rows):
    """Sum the weights of the samples: their number, if they have none."""
    if samples.weight.size == 0:
        return float(rows.size)
    total = 0.0
    for i in rows:
        total += samples.weight[i]
    return total


@device
def squared_norm_of_weights(layout, p):
    """Sum the squares of all weights, biases excluded."""
    total = 0.0
    for k in range(layout.weights.size):
        w = p[layout.weights[k] : layout.biases[k]]
        total += np.dot(w, w)
    return total


@device
def batch_gradient(layout, p, samples, rows, alpha, work, g):
    """Write the gradient of the data's loss to `g`, without its L2 term; return the loss, with it, and the weight."""
    weight = total_weight(samples, rows)
    if weight == 0:
        return 0.0, weight
    here = forward(layout, p, samples, rows, work)
    n_outputs = layout.units[-1]
    errors = squared_error(samples, rows, matrix(work, here, rows.size, n_outputs), weight)
    backward(layout, p, samples, rows, work, here, g)
    penalty = 0.5 * alpha * squared_norm_of_weights(layout, p)
    return (0.5 * errors / n_outputs + penalty) / weight, weight


@device
def update(layout, p, g, m, v, decay, scalars):
    """Adam on the whole buffer; the weights decay towards zero, the biases do not."""
    for k in range(layout.weights.size):
        w, b, end = layout.weights[k], layout.biases[k], layout.biases[k] + layout.units[k + 1]
        _update_weights(p[w:b], g[w:b], m[w:b], v[w:b], v[w:b], decay, scalars)
        _update_biases(p[b:end], g[b:end], m[b:end], v[b:end], v[b:end], decay, scalars)


@kernel
def adam_epoch(layout, p, g, m, v, work, samples, order, batch_size, t, lr, beta1, beta2, eps, alpha):
    """Train on the samples of `order`, batch after batch.

    Returns the mean loss over the epoch, each batch weighted by its rows, and the step count after it. A batch whose
    weights are all zero is passed over.
    """
    total, counted = 0.0, 0
    for start in range(0, order.size, batch_size):
        rows = order[start : start + batch_size]
        loss, weight = batch_gradient(layout, p, samples, rows, alpha, work, g)
        if weight > 0:
            t += 1
            scalars = adam_scalars(p, t, lr, beta1, beta2, eps, True)
            update(layout, p, g, m, v, p.dtype.type(alpha / weight), scalars)
            total += loss * rows.size
            counted += rows.size
    return total / counted if counted else 0.0, t


@kernel
def predict_rows(layout, p, samples, rows, work, out):
    """Write the network's output for the samples `rows` to `out`, a block of rows at a time."""
    for start in range(0, rows.size, PREDICT_ROWS):
        block = rows[start : start + PREDICT_ROWS]
        here = forward(layout, p, samples, block, work)
        out[start : start + block.size] = matrix(work, here, block.size, layout.units[-1])


# --- the Python side ------------------------------------------------------------------------------------------------


def shapes_of(units: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a network with these units a layer: W0, b0, W1, b1, ..."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (fan_in, fan_out) in enumerate(pairwise(units)):
        shapes |= {f"W{k}": (fan_in, fan_out), f"b{k}": (fan_out,)}
    return shapes


def as_samples(X: Any, dtype: Any, y: Array | None = None, weight: Array | None = None) -> Samples:
    """Bring validated data into the form that the kernels read, without a copy where it has that form already."""
    dense = np.empty((0, X.shape[1]), dtype)
    data, indices, indptr = np.empty(0, dtype), np.empty(0, np.int32), np.empty(0, np.int32)
    if sparse.issparse(X):
        X = X.tocsr()
        index_type = np.result_type(X.indices, X.indptr)
        data, indices, indptr = X.data.astype(dtype), X.indices.astype(index_type), X.indptr.astype(index_type)
    else:
        dense = np.ascontiguousarray(X, dtype)
    y = np.empty((0, 1), dtype) if y is None else np.ascontiguousarray(y, dtype)
    weight = np.empty(0, dtype) if weight is None else np.ascontiguousarray(weight, dtype)
    return Samples(*(writeable_view(array) for array in (dense, data, indices, indptr, y, weight)))


class Network:
    """A multi-layer perceptron over one flat buffer, with the working memory to train it.

    Parameters
    ----------
    params : FlatBuffer
        Parameters with the layout of `shapes_of(units)`, updated in place.
    activation : {"identity", "logistic", "tanh", "relu"}
        Of the hidden layers; the output is linear.
    """

    def __init__(self, params: FlatBuffer, activation: str) -> None:
        self.params = params
        weights = [name for name in params if name.startswith("W")]
        units = [params[name].shape[0] for name in weights] + [params[weights[-1]].shape[1]]
        offsets = params.offsets
        self._layout = Layout(
            units=np.array(units, np.int64),
            weights=np.array([offsets[f"W{k}"] for k in range(len(weights))], np.int64),
            biases=np.array([offsets[f"b{k}"] for k in range(len(weights))], np.int64),
            activation=ACTIVATIONS[activation],
        )
        self._gradient = params.like()
        self._work = aligned_zeros(0, params.dtype)

    def adam_epoch(
        self,
        samples: Samples,
        order: Array,
        batch_size: int,
        moments: tuple[Array, Array],
        t: int,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        alpha: float,
    ) -> tuple[float, int]:
        """Train for one epoch in one compiled call; returns the mean loss and the step count after it."""
        work = self._workspace(min(batch_size, order.size))
        p, g = self.params.flat, self._gradient.flat
        loss, t = adam_epoch(self._layout, p, g, *moments, work, samples, order, batch_size, t, lr, *betas, eps, alpha)
        return float(loss), int(t)

    def predict(self, samples: Samples, rows: Array) -> Array:
        """Outputs for the samples `rows`, shape (len(rows), n_outputs)."""
        out = np.empty((rows.size, int(self._layout.units[-1])), self.params.dtype)
        work = self._workspace(min(PREDICT_ROWS, rows.size))
        predict_rows(self._layout, self.params.flat, samples, rows, work, out)
        return out

    def _workspace(self, rows: int) -> Array:
        """Working memory for a block of rows: the activations of each layer and two areas of deltas."""
        size = rows * int(self._layout.units.sum() + 2 * self._layout.units.max())
        if self._work.size < size:
            self._work = aligned_zeros(size, self.params.dtype)
        return self._work
