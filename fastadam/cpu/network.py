"""The network: forward, loss and backward, compiled, over views of one flat buffer.

Read from the inside out: a block of rows in one layer; then forward and backward through all layers. The products are
in `matmul`; activations (`layers`) and losses have modules of their own and are called by address; the epoch that calls
`gradient` is in `engine`. The Python side is at the end: parameters and data as the compiled functions take them, and
prediction.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import types
from scipy import sparse

from fastadam._memory import ALIGNMENT, writeable_view
from fastadam._typing import Array
from fastadam._watch import Watch
from fastadam.buffers import FlatBuffer
from fastadam.cpu.interrupts import UNWATCHED, begin, gives_up, is_halted
from fastadam.cpu.jit import JIT_DISABLED, inlined, inner, kernel
from fastadam.cpu.layers import addresses
from fastadam.cpu.matmul import PANEL_BYTES, matmul, matmul_transposed, transposed_matmul
from fastadam.cpu.pointers import call_pointer
from fastadam.cpu.views import view
from fastadam.formulas.activations import ACTIVATIONS
from fastadam.formulas.network import Samples

FORWARD, BACKWARD = range(2)

BLOCK_ROWS = 256
"""Rows that go through the network at a time, so that their activations stay in the cache of the core."""

LARGE_PRODUCT = 2**28
"""Multiplications of a product from which a thread looks whether to give up before it, too, and not only between
blocks."""

MOMENT = 2**24
"""Multiplications of a prediction that is too short to be interrupted."""

PAGE_BYTES = 4096
"""Period of the addresses that share a place in an L1 cache."""


class Layout(NamedTuple):
    """Layout of a network in its parameters, and in the working memory of a block of rows."""

    units: Array
    """Units of each layer, from the input on; shape (n_layers,)."""
    columns: Array
    """Elements from one row of the activations of each layer to the next, shape (n_layers,); see `row_length`."""
    weights: Array
    """Offset of each weight matrix in the flat parameters, shape (n_layers - 1,)."""
    biases: Array
    """Offset of each bias in the flat parameters, shape (n_layers - 1,)."""
    functions: Array
    """Addresses of the loops of each activation, forward and, for training, backward; shape (2, n_layers - 1)."""
    widest: int
    """Elements of a row of the widest layer."""
    work: int
    """Elements of working memory per row: the activations of each layer and two areas of deltas; see `kept`."""
    kept: int
    """Elements per row from the activations of a layer to what the layer keeps for its derivative, if some derivative
    needs more than the output of its layer: this doubles the working memory. Otherwise 0."""


class Dropout(NamedTuple):
    """Dropout of the hidden units in one step."""

    drop: int
    """Address of `dropout.drop`, or 0 for no dropout."""
    seed: int
    step: int
    rate: float


NO_DROPOUT = Dropout(0, 0, 0, 0.0)


class Worker(NamedTuple):
    """All that a thread needs to send rows through the network."""

    layout: Layout
    p: Array
    """The flat parameters."""
    samples: Samples
    work: Array
    """Working memory for a block of rows."""
    panel: Array
    """Working memory for a matrix product."""
    dropout: Dropout
    watch: Array
    """The words of a `Watch`."""
    thread: int
    """Number of the thread; 0 is the one that looks for signals."""


# --- one layer, one block of rows -----------------------------------------------------------------------------------


_call = call_pointer(types.none)

_call_loss = call_pointer(types.float64)


@inner
def sum_rows(D, out, accumulate):
    """Write the sum of the rows of D, the gradient of the bias, to `out`, or add it there."""
    if not accumulate:
        out[:] = 0
    for i in range(D.shape[0]):
        for j in range(out.size):
            out[j] += D[i, j]


@inner
def gather_rows(X, rows, out):
    """Copy the given rows of X to `out`."""
    for i in range(rows.size):
        row = X[rows[i]]
        for j in range(row.size):
            out[i, j] = row[j]


@inner
def sparse_forward(samples, rows, W, Z):
    """Z ← X[rows] · W for CSR rows."""
    Z[:] = 0
    for i in range(rows.size):
        for entry in range(samples.indptr[rows[i]], samples.indptr[rows[i] + 1]):
            x, w = samples.data[entry], W[samples.indices[entry]]
            for j in range(w.size):
                Z[i, j] += x * w[j]


@inner
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


@inner
def matrix(flat, offset, rows, columns):
    """View `flat` from `offset` on as a matrix."""
    return view(flat, offset, (rows, columns))


@inner
def drop_units(dropout, Z, rows, units, layer):
    """Drop units of a hidden layer, if there is dropout."""
    if dropout.drop != 0:
        _call(dropout.drop, (Z, rows, units, layer, dropout.seed, dropout.step, dropout.rate))


@inner
def gives_up_product(watch, thread, multiplications):
    """Look whether to give up instead of making a product, if it is a large one."""
    return multiplications >= LARGE_PRODUCT and gives_up(watch, thread)


@inlined
def forward(worker, rows):
    """Compute the activations of all layers in the working memory; return where those of the last layer begin.

    The activations of layer k, one row per sample, come after those of layer k - 1. The working memory begins with the
    gathered input, or with a gap in its place if the input is sparse. When giving up, large products are left out, and
    the results mean nothing.
    """
    layout, p, samples, work = worker.layout, worker.p, worker.samples, worker.work
    n, last = rows.size, layout.units.size - 1
    here, dense = 0, samples.X.shape[0] > 0
    if dense:
        gather_rows(samples.X, rows, matrix(work, 0, n, layout.columns[0]))
    for k in range(last):
        fan_in, fan_out = layout.units[k], layout.units[k + 1]
        after = here + n * layout.columns[k]
        W = matrix(p, layout.weights[k], fan_in, fan_out)
        Z = matrix(work, after, n, layout.columns[k + 1])
        if gives_up_product(worker.watch, worker.thread, n * fan_in * fan_out):
            Z[:] = 0
        elif k > 0 or dense:
            matmul(matrix(work, here, n, layout.columns[k]), W, Z, False, worker.panel)
        else:
            sparse_forward(samples, rows, W, Z)
        K = matrix(work, after + n * layout.kept, n if layout.kept > 0 else 0, layout.columns[k + 1])
        _call(layout.functions[FORWARD, k], (Z, view(p, layout.biases[k], (fan_out,)), K))
        if k < last - 1:
            drop_units(worker.dropout, Z, rows, fan_out, k)
        here = after
    return here


@inlined
def backward(worker, rows, here, g, accumulate):
    """Carry the deltas at `work[here:]` back through the network; write the gradient to `g`, or add it there.

    The deltas of the hidden layers alternate between two areas after the activations.
    """
    layout, p, samples, work, panel = worker.layout, worker.p, worker.samples, worker.work, worker.panel
    n, last = rows.size, layout.units.size - 1
    areas, widest = here + n * layout.columns[last], n * layout.widest
    delta_at = here
    for k in range(last - 1, -1, -1):
        fan_in, fan_out = layout.units[k], layout.units[k + 1]
        before = here - n * layout.columns[k]
        D = matrix(work, delta_at, n, layout.columns[k + 1])
        G = matrix(g, layout.weights[k], fan_in, fan_out)
        A = matrix(work, before, n, layout.columns[k])
        if gives_up_product(worker.watch, worker.thread, n * fan_in * fan_out):
            break
        if k > 0 or samples.X.shape[0] > 0:
            transposed_matmul(A, D, G, accumulate, panel)
        else:
            sparse_weight_gradient(samples, rows, D, G, accumulate)
        sum_rows(D, view(g, layout.biases[k], (fan_out,)), accumulate)
        if k > 0:  # the gradient of the input is not needed
            delta_at = areas + (k % 2) * widest
            D_before = matrix(work, delta_at, n, layout.columns[k])
            matmul_transposed(D, matrix(p, layout.weights[k], fan_in, fan_out), D_before, panel)
            drop_units(worker.dropout, D_before, rows, fan_in, k - 1)
            X = matrix(work, before + n * layout.kept, n, layout.columns[k])
            _call(layout.functions[BACKWARD, k - 1], (D_before, X))
        here = before


@inner
def total_weight(samples, rows):
    """Sum the weights of the samples, or count them if they have none."""
    if samples.weight.size == 0:
        return float(rows.size)
    total = 0.0
    for i in rows:
        total += samples.weight[i]
    return total


@inlined
def gradient(worker, rows, loss, setting, scale, g):
    """Write the gradient of the loss over these rows, divided by `scale`, to `g`; return the weighted sum of the loss.

    The rows go through the network block by block. The thread looks whether to give up between blocks; if it does, the
    results mean nothing.
    """
    layout, samples, work, watch = worker.layout, worker.samples, worker.work, worker.watch
    total = 0.0
    for start in range(0, rows.size, BLOCK_ROWS):
        if is_halted(watch) or (start > 0 and gives_up(watch, worker.thread)):
            break
        block = view(rows, start, (min(BLOCK_ROWS, rows.size - start),))
        here = forward(worker, block)
        Z = matrix(work, here, block.size, layout.columns[-1])
        total += _call_loss(loss, (Z, samples.y, samples.weight, block, scale, setting))
        backward(worker, block, here, g, start > 0)
    return total


@kernel
def predict_rows(layout, p, samples, rows, work, panel, watch, out):
    """Write the output of the network for the samples `rows` to `out`, a block of rows at a time."""
    begin(watch)
    worker = Worker(layout, p, samples, work, panel, NO_DROPOUT, watch, 0)
    for start in range(0, rows.size, BLOCK_ROWS):
        if start > 0 and gives_up(watch, 0):
            break
        block = view(rows, start, (min(BLOCK_ROWS, rows.size - start),))
        here = forward(worker, block)
        Z = matrix(work, here, block.size, layout.columns[-1])
        out[start : start + block.size] = Z[:, : out.shape[1]]


# --- the Python side --------------------------------------------------------------------------------------------------


def as_samples(X: Any, dtype: Any, y: Array | None = None, weight: Array | None = None) -> Samples:
    """Convert validated data to the form that the kernels read, without a copy if it has that form already."""
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
    """Describe how a network with the shapes of `shapes_of` lies in its buffer.

    `activations` are those of the hidden layers; without them, the functions are still to be set. Only a layout for
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
    """Addresses of the functions of the layers; the output layer has the identity, for every loss."""
    forward_at = addresses((*activations, "identity"), dtype, backward=False)
    backward_at = addresses(activations, dtype, backward=True) if training else (0,) * len(activations)
    return np.array([forward_at, (*backward_at, 0)], object if JIT_DISABLED else np.int64)


def row_length(units: int, itemsize: int) -> int:
    """Elements from one row of activations to the next: one cache line more than the units if these fill whole pages.

    Otherwise the elements of a column, which a transposed product reads together, would all compete for the same few
    places of the cache.
    """
    return units + ALIGNMENT // itemsize if units * itemsize % PAGE_BYTES == 0 else units


def work_size(layout: Layout, rows: int) -> int:
    """Elements of working memory for a number of rows, which go through the network in blocks."""
    return min(rows, BLOCK_ROWS) * layout.work


def panel_size(dtype: np.dtype[Any]) -> int:
    """Elements of working memory for a matrix product."""
    return PANEL_BYTES // dtype.itemsize


def predict(layout: Layout, p: Array, samples: Samples, rows: Array, watch: Watch | None = None) -> Array:
    """Compute the outputs of the network with the flat parameters `p` for the samples `rows`.

    The result has the shape (len(rows), n_outputs). `watch` may limit the time, see `interrupts.OutOfTimeError`. An
    exception that the handler of a signal raises always ends it.
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
