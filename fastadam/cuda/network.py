"""A network trained on a CUDA device: what `fastadam.engine.Engine` does on the host, with the same interface.

Data, parameters and the optimizer's state lie on the device, and nothing comes back within an epoch. A step is a row of
launches: matrix products by cuBLAS, through CuPy, and between them the kernels of `layers.py`, `losses.py` and
`step.py`. Those of a full batch are captured in a CUDA graph once and replayed, as small networks are bound by
launching.
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fastadam.buffers import FlatBuffer, array_in_memory
from fastadam.cpu import ACTIVE, DECAY, HYPER
from fastadam.cuda import runtime as runtimes
from fastadam.cuda.dropout import mask_table
from fastadam.cuda.jit import THREADS
from fastadam.cuda.launch import Segments, StepMemory, blocks_for, most_blocks, synchronize
from fastadam.cuda.layers import (
    BATCH,
    COUNTED,
    LOSS,
    POSITION,
    TILE,
    account_kernel,
    activate_kernel,
    backward_kernel,
    begin_kernel,
    gather_kernel,
    gather_sparse_kernel,
    kept_by,
    penalize_kernel,
)
from fastadam.cuda.losses import loss_kernel, loss_tasks
from fastadam.cuda.runtime import Runtime
from fastadam.cuda.step import GRAD_SCALE, MAX_NORM, WORD, T
from fastadam.engine import Update, clipping
from fastadam.interrupts import LOOK_EVERY, SignalsHeld, Watch
from fastadam.losses import LOSSES
from fastadam.network import Samples

Array = NDArray[Any]

WARM_UP = 2
"""Steps before one is captured: they compile, and let cuBLAS take its memory."""

LOOK_SECONDS = LOOK_EVERY / 1e9
"""From one look at signals and the time to the next."""

WEIGHTS, BIASES = range(2)
"""Groups of the settings."""


class DeviceEngine(AbstractContextManager["DeviceEngine"]):
    """Trains a network on given samples, on a CUDA device; as `fastadam.engine.Engine` does on the host.

    `watch`, `t` and `loss` are as there.

    Parameters
    ----------
    params : FlatBuffer
        Parameters with the layout of `network.shapes_of`, on the host: brought up to date after each epoch.
    activations : sequence of str
        Of the hidden layers.
    samples : Samples
        The data: copied to the device once, and an array that is there already not at all. Sparse rows stay sparse
        there, and those of a batch are made dense.
    loss : str
        A name among `losses.LOSSES`.
    update : Update
        What is done with a gradient; its state is brought up to date after each epoch, too.
    n_rows, batch_size : int
        Samples of an epoch, and of a step.
    alpha, loss_setting : float
        Strength of the L2 penalty; the loss's own number.
    clip_norm : float or None
        Bound on the norm of the whole gradient, the penalty's part with it.
    dropout : float
        Part of the hidden units that are off in each step, for each sample others; 0 for none.
    seed : int
        Says which: the same as on the host.
    runtime : Runtime, optional
        CuPy by default.

    Raises
    ------
    MemoryError
        If it does not fit the device.
    """

    def __init__(
        self,
        params: FlatBuffer,
        activations: Sequence[str],
        samples: Samples,
        loss: str,
        update: Update,
        n_rows: int,
        batch_size: int,
        *,
        alpha: float = 0.0,
        loss_setting: float = 0.0,
        clip_norm: float | None = None,
        dropout: float = 0.0,
        seed: int = 0,
        runtime: Runtime | None = None,
    ) -> None:
        self._runtime = runtime or runtimes.cupy_runtime()
        self._params, self._update, self._batch_size, self._loss = params, update, batch_size, loss
        self._clip_norm, self._dropout = clip_norm, dropout
        self._functions = (*activations, "identity")
        self._units = [params["W0"].shape[0], *(params[f"b{k}"].size for k in range(len(params) // 2))]
        self._alpha = alpha
        self._replay: Callable[[], None] | None = None
        self._full_steps = 0
        self._burst = 1
        """Steps that are launched before they are waited for."""
        self.watch, self.t, self.loss = Watch(), 0, math.nan
        try:
            with self._runtime.working():
                self._allocate(samples, n_rows, alpha, loss_setting)
                if dropout:
                    self._mask = self._mask_memory(seed)
        except Exception as error:
            if "memory" not in f"{type(error).__name__}{error}".lower():
                raise
            raise MemoryError(
                f"the network and its {n_rows} samples do not fit the CUDA device; use device='cpu', or a smaller "
                f"batch_size ({error})"
            ) from error

    def _allocate(self, samples: Samples, n_rows: int, alpha: float, loss_setting: float) -> None:
        synchronize()  # memory that is taken again, of predictions, may still be read on other streams
        xp, dtype, rows = self._runtime.xp, self._params.dtype, self._batch_size
        self._csr = self._sparse_rows(samples) if samples.X.shape[0] == 0 else ()
        self._X, self._Y, self._weight = (xp.asarray(a) for a in (samples.X, samples.y, samples.weight))
        self._order = xp.zeros(n_rows, np.int64)
        self._batch = xp.zeros(BATCH, np.float64)
        self._constants = xp.asarray(np.array([alpha, loss_setting]))
        width = -(-self._params.flat.size // 32) * 32
        self._p, self._g = xp.zeros(width, dtype), xp.zeros(width, dtype)
        self._outputs = [xp.zeros((rows, units), dtype) for units in self._units]
        self._deltas = [xp.zeros((rows, units), dtype) for units in self._units[1:-1]]
        self._kept = [
            xp.zeros((rows, units), dtype) if kept_by(name) or self._drops(k) else None
            for k, (units, name) in enumerate(zip(self._units[1:], self._functions, strict=True))
        ]
        self._targets, self._weights = xp.zeros((rows, self._units[-1]), dtype), xp.zeros(rows, dtype)
        self._sums = xp.zeros(self._loss_blocks(rows), np.float64)
        self._memory = self._step_memory(width)
        self._weights_norm = self._norm_memory()

    def _sparse_rows(self, samples: Samples) -> tuple[Any, ...]:
        """The values, the columns and the bounds of a CSR matrix on the device."""
        shape = samples.indptr.size - 1, self._units[0]
        matrix = sparse.csr_matrix((samples.data, samples.indices, samples.indptr), shape)
        if not matrix.has_canonical_format:  # two entries in one place would be one lost
            matrix = matrix.copy()
            matrix.sum_duplicates()
        return tuple(self._runtime.xp.asarray(part) for part in (matrix.data, matrix.indices, matrix.indptr))

    def _mask_memory(self, seed: int) -> Any:
        """What says which units are off, see `dropout.py`."""
        at = self._runtime.address
        where = at(self._order), at(self._batch) + WORD * POSITION, self._memory.counters_at + WORD * T
        return self._runtime.xp.asarray(mask_table(seed, self._dropout, self._params.dtype, *where))

    def _drops(self, layer: int) -> bool:
        """Whether units of a layer are off: of a hidden one."""
        return self._dropout > 0 and layer < len(self._functions) - 1

    def _step_memory(self, width: int) -> StepMemory:
        params, at = self._params, self._runtime.address(self._p)
        offsets, sizes = list(params.offsets.values()), [view.size for view in params.values()]
        addresses = [at + offset * params.dtype.itemsize for offset in offsets]
        groups = [BIASES if name.startswith("b") else WEIGHTS for name in params]
        segments = Segments(addresses, sizes, [*offsets, width], groups)
        variant = self._update.variant
        memory = StepMemory(variant if self._clip_norm is None else clipping(variant), params.dtype, segments, 2)
        memory.stream = self._runtime.stream
        start = self._runtime.address(self._g)
        self._gradients = np.array([[start + offset * params.dtype.itemsize for offset in offsets]])
        return memory

    def _norm_memory(self) -> StepMemory:
        """The weights alone, of which the penalty is."""
        names = [name for name in self._params if name.startswith("W")]
        at, itemsize = self._runtime.address(self._p), self._params.dtype.itemsize
        addresses = [at + self._params.offsets[name] * itemsize for name in names]
        sizes = [self._params[name].size for name in names]
        segments = Segments(addresses, sizes, [0] * (len(names) + 1), [0] * len(names))
        self._weights_at = np.array([addresses])
        return StepMemory(self._update.variant, self._params.dtype, segments, 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._replay = None

    # --- an epoch -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Compile all that an epoch needs, and capture a step: by steps on the device whose results are not used."""
        size, rows = self._order.size, self._batch_size
        with self._runtime.working():
            for count in [rows] * (WARM_UP + 1) + [size % rows] * (size % rows > 0):
                self._upload(np.arange(size), 0, self._update.group)
                self._step(count)
            self._runtime.to_host(self._batch)

    def epoch(self, order: Array, t: int, group: Array) -> tuple[float, int]:
        """Train on the samples in this order, with these hyper-parameters, which a step may change.

        Returns the mean loss, and the step count that was `t` before. It may have been given up, which is raised by
        itself or by `watch.check`: parameters, `group`, `t` and `loss` are those of the last whole step.
        """
        self.watch.start()
        raised = None
        with SignalsHeld() as signals, self._runtime.working():
            self._upload(order, t, group)
            try:
                self._steps(order.size, signals)
            except BaseException as error:
                raised = error
            self.loss, self.t = self._download(group)
            if self.t == t and (raised or self.watch.halted):
                self.loss = math.nan
        if raised is not None:
            raise raised
        return self.loss, self.t

    def _steps(self, size: int, signals: SignalsHeld) -> None:
        """Launch the steps of an epoch; a signal raises between two of them.

        So many are in the queue that waiting for them takes no longer than the host does from one look to the next.
        """
        rows, began = self._batch_size, time.monotonic()
        launched, since = 0, began
        for start in range(0, size, rows):
            signals.handle()
            self._step(min(rows, size - start))
            launched += 1
            if launched >= self._burst:
                self._runtime.to_host(self._batch)
                now = time.monotonic()
                self._burst = max(1, min(2 * self._burst, int(launched * LOOK_SECONDS / max(now - since, 1e-9))))
                launched, since = 0, now
                if now >= max(self.watch.end, began + LOOK_SECONDS):
                    self.watch.run_out()
                    break

    def _step(self, rows: int) -> None:
        """A step on the next rows: replayed where it has been captured."""
        capture = self._runtime.capture
        if rows < self._batch_size or capture is None:
            self._launch_step(rows)
        elif self._full_steps < WARM_UP:
            self._launch_step(rows)
            self._full_steps += 1
        else:
            if self._replay is None:
                self._replay = self._captured(capture)
            self._replay()

    def _captured(self, capture: Callable[[Callable[[], None]], Callable[[], None]]) -> Callable[[], None]:
        try:
            return capture(lambda: self._launch_step(self._batch_size))
        except Exception as error:
            warnings.warn(
                f"a step could not be captured in a CUDA graph, its parts are launched one by one: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return lambda: self._launch_step(self._batch_size)

    def _upload(self, order: Array, t: int, group: Array) -> None:
        xp, memory, size = self._runtime.xp, self._memory, self._params.flat.size
        self._order[:] = xp.asarray(np.ascontiguousarray(order, np.int64))
        self._batch[:] = xp.zeros(BATCH, np.float64)
        self._p[:size] = xp.asarray(self._params.flat)
        memory.write_state([self._state_row(k) for k in range(len(self._update.variant.rule.states))])
        rule = self._update.variant.rule
        settings = np.zeros((3, memory.settings_width))
        settings[0, [GRAD_SCALE, MAX_NORM]] = 1.0, np.inf if self._clip_norm is None else self._clip_norm
        settings[1:, : HYPER + len(rule.hyper)] = group[: HYPER + len(rule.hyper)]
        settings[1:, ACTIVE] = 1.0
        settings[1 + BIASES, DECAY] = 0.0 if self._update.variant.decay == "coupled" else 1.0
        memory.force_settings(settings)
        memory.counters = np.array([t, 0, 0])
        if rule.carry is not None:
            memory.carried = np.full(2, group[HYPER + len(rule.hyper) - 1])

    def _download(self, group: Array) -> tuple[float, int]:
        """Bring parameters and state back to the host; the mean loss, and the steps."""
        memory, rule, size = self._memory, self._update.variant.rule, self._params.flat.size
        batch = self._runtime.to_host(self._batch)
        self._params.flat[:] = self._runtime.to_host(self._p)[:size]
        rows = memory.read_state()
        for k in range(len(rule.states)):
            self._state_row(k)[:] = rows[k, :size]
        if rule.carry is not None:
            group[HYPER + len(rule.hyper) - 1] = memory.carried[0]
        loss = batch[LOSS] / batch[COUNTED] if batch[COUNTED] else 0.0
        return float(loss), int(memory.counters[T])

    def _state_row(self, k: int) -> Array:
        """A row of the optimizer's own state, on the host."""
        return array_in_memory(int(self._update.rows_at[k]), self._params.flat.size, self._params.dtype)

    # --- a step -------------------------------------------------------------------------------------------------------

    def _launch_step(self, rows: int) -> None:
        """All launches of a step on so many rows."""
        self._begin(rows)
        self._forward(rows)
        self._find_deltas(rows)
        self._backward(rows)
        self._account(rows)
        clips = self._clip_norm is not None
        if clips and self._alpha > 0:
            self._penalize()
        self._memory.step(self._gradients, self._runtime.stream, measures=clips)

    def _begin(self, rows: int) -> None:
        at, memory, name = self._runtime.address, self._memory, self._params.dtype.name
        where = (at(self._order), at(self._weight) if self._weight.size else 0, int(self._weight.size > 0), rows)
        settings = (memory.settings_at, memory.settings_width)
        constants = (at(self._constants), int(self._update.variant.decay == "coupled"))
        self._launch(begin_kernel(name), 1, at(self._batch), *where, *constants, *settings)
        if self._csr:
            self._gather_sparse(rows)
        for source, target in ((self._X, self._outputs[0]), (self._Y, self._targets), (self._weight, self._weights)):
            if source.size:
                columns = target.shape[1] if target.ndim == 2 else 1
                blocks = blocks_for(rows * columns)
                batch = (columns, at(self._order), at(self._batch), rows)
                self._launch(gather_kernel(name), blocks, at(source), *batch, at(target))

    def _gather_sparse(self, rows: int) -> None:
        at, target = self._runtime.address, self._outputs[0]
        batch = (target.shape[1], at(self._order), at(self._batch), rows)
        compiled = gather_sparse_kernel(self._params.dtype.name, self._csr[1].dtype.name)
        self._launch(compiled, min(rows, most_blocks()), *map(at, self._csr), *batch, at(target))

    def _matrix(self, flat: Any, name: str) -> Any:
        """A weight matrix, or its gradient, as a view of the flat array."""
        start, shape = self._params.offsets[name], self._params[name].shape
        return flat[start : start + shape[0] * shape[1]].reshape(shape)

    def _address_in(self, flat: Any, name: str) -> int:
        return self._runtime.address(flat) + self._params.offsets[name] * self._params.dtype.itemsize

    def _forward(self, rows: int) -> None:
        at, xp, dtype = self._runtime.address, self._runtime.xp, self._params.dtype.name
        for k, function in enumerate(self._functions):
            Z = self._outputs[k + 1][:rows]
            xp.dot(self._outputs[k][:rows], self._matrix(self._p, f"W{k}"), out=Z)
            kept = 0 if self._kept[k] is None else at(self._kept[k])
            bias, columns = self._address_in(self._p, f"b{k}"), self._units[k + 1]
            blocks = blocks_for(rows * columns)
            compiled = activate_kernel(function, dtype, self._drops(k))
            self._launch(compiled, blocks, at(Z), bias, rows, columns, kept, *self._mask_of(k))

    def _mask_of(self, layer: int) -> tuple[int, int]:
        return (self._runtime.address(self._mask), layer) if self._drops(layer) else (0, 0)

    def _find_deltas(self, rows: int) -> None:
        at, columns = self._runtime.address, self._units[-1]
        weights = (at(self._weights), int(self._weight.size > 0))
        where = (at(self._batch), rows, columns, at(self._constants) + 8, at(self._sums))
        compiled = loss_kernel(self._loss, self._params.dtype.name)
        self._launch(compiled, self._loss_blocks(rows), at(self._outputs[-1]), at(self._targets), *weights, *where)

    def _backward(self, rows: int) -> None:
        """Gradients of all layers, from the last on: a layer's deltas take the place of nothing that is still read."""
        at, xp, dtype = self._runtime.address, self._runtime.xp, self._params.dtype.name
        for k in reversed(range(len(self._functions))):
            last = k == len(self._functions) - 1
            D = (self._outputs[-1] if last else self._deltas[k])[:rows]
            came_out = self._outputs[k + 1] if self._kept[k] is None else self._kept[k]
            compiled, columns = backward_kernel(self._functions[k], dtype, self._drops(k)), self._units[k + 1]
            out, blocks = self._address_in(self._g, f"b{k}"), -(-columns // TILE)
            self._launch(compiled, blocks, at(D), at(came_out), rows, columns, out, *self._mask_of(k))
            xp.dot(self._outputs[k][:rows].T, D, out=self._matrix(self._g, f"W{k}"))
            if k > 0:  # nobody needs the gradient of the input
                xp.dot(D, self._matrix(self._p, f"W{k}").T, out=self._deltas[k - 1][:rows])

    def _account(self, rows: int) -> None:
        at, columns = self._runtime.address, self._units[-1]
        squares, n_squares = 0, 0
        if self._alpha > 0:
            squares, n_squares = self._weights_norm.measure(self._weights_at, self._runtime.stream)
        per_sample = columns if LOSSES[self._loss].averaged else 1
        n_sums = self._loss_blocks(rows)
        where = (at(self._sums), n_sums, per_sample, squares, n_squares, at(self._constants))
        self._launch(account_kernel(), 1, at(self._batch), rows, *where)

    def _penalize(self) -> None:
        """Make the penalty's part one of the gradient, whose norm is to be bounded."""
        memory, behind = self._memory, self._runtime.address(self._g) - self._runtime.address(self._p)
        decay_at = memory.settings_at + WORD * ((1 + WEIGHTS) * memory.settings_width + DECAY)
        blocks = max(1, min(most_blocks(), self._weights_norm.chunks))
        self._launch(
            penalize_kernel(self._params.dtype.name, self._weights_norm.chunk),
            blocks,
            *self._weights_norm.segments,
            behind,
            decay_at,
        )

    def _loss_blocks(self, rows: int) -> int:
        """Blocks that find the deltas, each of which writes a sum."""
        return max(1, min(most_blocks(), loss_tasks(self._loss, rows, self._units[-1])))

    def _launch(self, compiled: Any, blocks: int, *arguments: int) -> None:
        compiled[blocks, THREADS, self._runtime.stream](*arguments)
