"""The network: forward, loss and backward, compiled, over views of one flat buffer.

Reads from the inside out: what happens to a block of rows in one layer; forward and backward through all layers. The
products are in `gemm.py`, activations and losses in modules of their own, called by their address; the epoch that calls
`gradient` is in `engine.py`. At the end, the Python side: how parameters and data are laid out for the compiled
functions, and prediction.
"""

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray
from scipy import sparse

from fastadam.activations import ACTIVATIONS, addresses
from fastadam.buffers import FlatBuffer, writeable_view
from fastadam.gemm import PANEL_BYTES, matmul, matmul_transposed, transposed_matmul
from fastadam.interrupts import UNWATCHED, Watch, begin, gives_up, is_halted
from fastadam.jit import JIT_DISABLED, calling, device, inlined, kernel, shaped

Array = NDArray[Any]

FORWARD, BACKWARD = range(2)

BLOCK_ROWS = 256
"""Rows that go through the network at a time."""

LARGE_PRODUCT = 2**28
"""Multiplications of a product before which it is asked whether to go on: elsewhere from block to block."""

MOMENT = 2**24
"""Multiplications of a prediction that ends before anybody would interrupt it."""


class Layout(NamedTuple):
    """Where everything of a network lies: in the parameters, and in the working memory of a block of rows."""

    units: Array
    """Units of each layer, the input first: n_layers."""
    columns: Array
    """Elements from one row of each layer's activations to the next: n_layers; see `row_length`."""
    weights: Array
    """Offset of each weight matrix in the flat parameters: n_layers - 1."""
    biases: Array
    """Offset of each bias in the flat parameters: n_layers - 1."""
    functions: Array
    """Addresses of the loops of each layer's activation, forward and, for training, backward: 2 x (n_layers - 1)."""
    widest: int
    """Elements of a row of the widest layer."""
    work: int
    """Elements of working memory for a row: the activations of each layer and two areas of deltas; see `kept`."""
    kept: int
    """Where some derivative needs more than what came out of its layer: elements of a row from a layer's activations to
    what it keeps for that, which doubles the working memory. Else 0."""


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


_call = calling(types.none)
_call_loss = calling(types.float64)


@device
def sum_rows(D, out, accumulate):
    """Write the sum of the rows of D, the gradient of the bias, to `out`, or add it there."""
    if not accumulate:
        out[:] = 0
    for i in range(D.shape[0]):
        for j in range(out.size):
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
            for j in range(w.size):
                Z[i, j] += x * w[j]


@device
def sparse_weight_gradient(samples, rows, D, G, accumulate):
    """G ← X[rows]ᵀ · D, or G + X[rows]ᵀ · D, for CSR rows."""
    if not accumulate:
        G[:] = 0
    for i in range(rows.size):
        for entry in range(samples.indptr[rows[i]], samples.indptr[rows[i] + 1]):
            x, g = samples.data[entry], G[samples.indices[entry]]
            for j in range(g.size):
                g[j] += x * D[i, j]


# --- all layers, one block of rows ----------------------------------------------------------------------------------


@device
def matrix(flat, offset, rows, columns):
    """The view of `flat` from `offset` on as a matrix."""
    return shaped(flat, offset, (rows, columns))


NO_DROPOUT = (0, 0, 0, 0.0)
"""The address of `dropout.drop`, its seed, the step and the rate."""


@inlined
def forward(layout, p, samples, rows, work, panel, dropout, watch, thread):
    """Run the rows through the network; returns the offset in `work` of the last layer's activations.

    The activations of layer k, a (rows, columns[k]) matrix, follow those of layer k - 1 in `work`, which begins with
    the gathered input, or a gap in its place if the input is sparse. Where the call is to be given up, large products
    are left out, and what lies there then means nothing.
    """
    n, last = rows.size, layout.units.size - 1
    here, dense = 0, samples.X.shape[0] > 0
    if dense:
        gather_rows(samples.X, rows, matrix(work, 0, n, layout.columns[0]))
    for k in range(last):
        fan_in, fan_out = layout.units[k], layout.units[k + 1]
        after = here + n * layout.columns[k]
        W = matrix(p, layout.weights[k], fan_in, fan_out)
        Z = matrix(work, after, n, layout.columns[k + 1])
        if n * fan_in * fan_out >= LARGE_PRODUCT and gives_up(watch, thread):
            Z[:] = 0
        elif k > 0 or dense:
            matmul(matrix(work, here, n, layout.columns[k]), W, Z, False, panel)
        else:
            sparse_forward(samples, rows, W, Z)
        K = matrix(work, after + n * layout.kept, n if layout.kept > 0 else 0, layout.columns[k + 1])
        _call(layout.functions[FORWARD, k], (Z, shaped(p, layout.biases[k], (fan_out,)), K))
        if dropout[0] != 0 and k < last - 1:
            _call(dropout[0], (Z, rows, fan_out, k, dropout[1], dropout[2], dropout[3]))
        here = after
    return here


@inlined
def backward(layout, p, samples, rows, work, here, g, accumulate, panel, dropout, watch, thread):
    """Carry the deltas at `work[here:]` back through the network; the gradient is written to, or added to, `g`.

    Deltas of the hidden layers alternate between two areas behind the activations.
    """
    n, last = rows.size, layout.units.size - 1
    behind, widest = here + n * layout.columns[last], n * layout.widest
    delta_at = here
    for k in range(last - 1, -1, -1):
        fan_in, fan_out = layout.units[k], layout.units[k + 1]
        before = here - n * layout.columns[k]
        D = matrix(work, delta_at, n, layout.columns[k + 1])
        G = matrix(g, layout.weights[k], fan_in, fan_out)
        A = matrix(work, before, n, layout.columns[k])
        if n * fan_in * fan_out >= LARGE_PRODUCT and gives_up(watch, thread):
            break
        if k > 0 or samples.X.shape[0] > 0:
            transposed_matmul(A, D, G, accumulate, panel)
        else:
            sparse_weight_gradient(samples, rows, D, G, accumulate)
        sum_rows(D, shaped(g, layout.biases[k], (fan_out,)), accumulate)
        if k > 0:  # nobody needs the gradient of the input
            delta_at = behind + (k % 2) * widest
            D_before = matrix(work, delta_at, n, layout.columns[k])
            matmul_transposed(D, matrix(p, layout.weights[k], fan_in, fan_out), D_before, panel)
            if dropout[0] != 0:
                _call(dropout[0], (D_before, rows, fan_in, k - 1, dropout[1], dropout[2], dropout[3]))
            X = matrix(work, before + n * layout.kept, n, layout.columns[k])
            _call(layout.functions[BACKWARD, k - 1], (D_before, X))
        here = before


@device
def total_weight(samples, rows):
    """Sum the weights of the samples: their number, if they have none."""
    if samples.weight.size == 0:
        return float(rows.size)
    total = 0.0
    for i in rows:
        total += samples.weight[i]
    return total


@inlined
def gradient(layout, loss, setting, dropout, p, samples, rows, scale, work, panel, g, watch, thread):
    """Write the gradient of the loss over these rows, divided by `scale`, to `g`; return the weighted sum of the loss.

    The rows go through the network in blocks whose activations stay in the core's own cache. Between blocks it is asked
    whether to go on; if not, what was written means nothing.
    """
    total = 0.0
    for start in range(0, rows.size, BLOCK_ROWS):
        if is_halted(watch) or (start > 0 and gives_up(watch, thread)):
            break
        block = shaped(rows, start, (min(BLOCK_ROWS, rows.size - start),))
        here = forward(layout, p, samples, block, work, panel, dropout, watch, thread)
        Z = matrix(work, here, block.size, layout.columns[-1])
        total += _call_loss(loss, (Z, samples.y, samples.weight, block, scale, setting))
        backward(layout, p, samples, block, work, here, g, start > 0, panel, dropout, watch, thread)
    return total


@kernel
def predict_rows(layout, p, samples, rows, work, panel, watch, out):
    """Write the network's output for the samples `rows` to `out`, a block of rows at a time."""
    begin(watch)
    for start in range(0, rows.size, BLOCK_ROWS):
        if start > 0 and gives_up(watch, 0):
            break
        block = shaped(rows, start, (min(BLOCK_ROWS, rows.size - start),))
        here = forward(layout, p, samples, block, work, panel, NO_DROPOUT, watch, 0)
        Z = matrix(work, here, block.size, layout.columns[-1])
        out[start : start + block.size] = Z[:, : out.shape[1]]


# --- the Python side ------------------------------------------------------------------------------------------------


def shapes_of(units: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a network with these units a layer: W0, b0, W1, b1, ..."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (fan_in, fan_out) in enumerate(pairwise(units)):
        shapes |= {f"W{k}": (fan_in, fan_out), f"b{k}": (fan_out,)}
    return shapes


def as_samples(X: Any, dtype: Any, y: Array | None = None, weight: Array | None = None) -> Samples:
    """Bring validated data into the form that the kernels read, without a copy where it has that form already."""
    arrays = _no_samples(np.dtype(dtype))._asdict()
    if sparse.issparse(X):
        X = X.tocsr()
        index_type = np.result_type(X.indices, X.indptr)
        arrays |= {"data": X.data.astype(dtype, copy=False), "indices": X.indices, "indptr": X.indptr}
        arrays |= {name: arrays[name].astype(index_type, copy=False) for name in ("indices", "indptr")}
    else:
        arrays["X"] = np.ascontiguousarray(X, dtype)
    if y is not None:
        arrays["y"] = np.ascontiguousarray(y, dtype)
    if weight is not None:
        arrays["weight"] = np.ascontiguousarray(weight, dtype)
    return Samples(**{name: writeable_view(array) for name, array in arrays.items()})


@functools.cache
def _no_samples(dtype: np.dtype[Any]) -> Samples:
    none, no_index = np.empty(0, dtype), np.empty(0, np.int32)
    return Samples(np.empty((0, 1), dtype), none, no_index, no_index, np.empty((0, 1), dtype), none)


def samples_of_dense(X: Array) -> Samples:
    """Wrap a matrix that is C-contiguous, writeable and of the network's type already."""
    return Samples(X, *_no_samples(X.dtype)[1:])


def layout_of(
    params: FlatBuffer, activations: Sequence[str] | None = None, *, training: bool = False, dropout: bool = False
) -> Layout:
    """Where the weights and biases of a network with the shapes of `shapes_of` lie in its buffer.

    `activations` are those of the hidden layers: without them, the functions are still to be set. Only a layout for
    training can go backward.
    """
    layers = range(len(params) // 2)
    units = [params["W0"].shape[0], *(params[f"b{k}"].size for k in layers)]
    columns = [row_length(n, params.dtype.itemsize) for n in units]
    work = sum(columns) + 2 * max(columns)
    names = () if activations is None else tuple(activations)
    keeps = training and (dropout or any(ACTIVATIONS[name].by_input for name in names))
    return Layout(
        units=np.array(units, np.int64),
        columns=np.array(columns, np.int64),
        weights=np.array([params.offsets[f"W{k}"] for k in layers], np.int64),
        biases=np.array([params.offsets[f"b{k}"] for k in layers], np.int64),
        functions=_NONE if activations is None else functions_of(names, params.dtype, training),
        widest=max(columns),
        work=2 * work if keeps else work,
        kept=work if keeps else 0,
    )


_NONE = np.zeros((2, 0), np.int64)


@functools.cache
def functions_of(activations: tuple[str, ...], dtype: np.dtype[Any], training: bool) -> Array:
    """Addresses of the layers' functions; the output layer has the identity, whatever its loss makes of it."""
    forward_at = addresses((*activations, "identity"), dtype, backward=False)
    backward_at = addresses(activations, dtype, backward=True) if training else (0,) * len(activations)
    return np.array([forward_at, (*backward_at, 0)], object if JIT_DISABLED else np.int64)


def row_length(units: int, itemsize: int) -> int:
    """Elements from one row of activations to the next: a cache line more than the units where these fill whole pages.

    Elements that stand below each other, which a transposed product reads together, would all fall into the same few
    places of the cache.
    """
    return units + 64 // itemsize if units * itemsize % 4096 == 0 else units


def work_size(layout: Layout, rows: int) -> int:
    """Elements of working memory for so many rows, which go through the network in blocks."""
    return min(rows, BLOCK_ROWS) * layout.work


def panel_size(dtype: np.dtype[Any]) -> int:
    """Elements of the working memory of a matrix product."""
    return PANEL_BYTES // dtype.itemsize


def predict(layout: Layout, p: Array, samples: Samples, rows: Array, watch: Watch | None = None) -> Array:
    """Outputs of the network with the flat parameters `p` for the samples `rows`, shape (len(rows), n_outputs).

    `watch` may end it in time, see `interrupts.OutOfTimeError`. What the handler of a signal raises always ends it.
    """
    if watch is None and rows.size * p.size > MOMENT:
        watch = Watch()
    if watch is not None:
        watch.start()
    out = np.empty((rows.size, layout.units[-1]), p.dtype)
    work = np.empty(work_size(layout, rows.size), p.dtype)
    panel, words = np.empty(panel_size(p.dtype), p.dtype), UNWATCHED if watch is None else watch.words
    predict_rows(layout, p, samples, rows, work, panel, words, out)
    if watch is not None:
        watch.check()
    return out
