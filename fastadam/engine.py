"""The engine: a whole epoch of training in one compiled call, on one thread or several, with the same bits.

A batch is cut into lanes, the same for any number of threads. Each lane goes forward and backward through the network
into its own row of gradients. Then, in one pass, the rows are summed, the L2 term joins them and the rule updates the
parameters, part by part of the flat buffer. These are the two phases of a step; `gang.py` has how threads share them.
"""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastadam.buffers import FlatBuffer, aligned_zeros
from fastadam.cpu import AdamVariant, adam_loop, adam_scalars
from fastadam.gang import (
    Gang,
    available_threads,
    await_phase,
    claim,
    close_phase,
    dismissed,
    finish,
    kind_of,
    open_phase,
    tasks_of,
)
from fastadam.gemm import squared_norm
from fastadam.jit import device, inlined, kernel
from fastadam.network import Layout, Samples, gradient, layout_of, panel_size, total_weight, work_size

Array = NDArray[Any]

MAX_LANES = 4
ROWS_PER_LANE = 100
"""Fewer rows in a lane would cost more in summed gradients than they win in parallel."""
ROWS_PER_LARGE_LANE = 200
LARGE = 2**18
"""The same for more parameters than this, whose gradients do not stay in cache."""

THREADED_FLOPS = 1_000_000
"""Floating-point operations of a step from which a second thread wins."""

CHUNK = 256
"""Elements of the flat buffer that are updated together; the penalty is summed chunk by chunk."""

# Words of the settings: what the leader writes before an epoch, and what it writes before each phase.
LR, BETA1, BETA2, EPS, ALPHA, STEPS, START, STOP, WEIGHT = range(9)
GRADIENT, UPDATE = range(2)

_update_weights = adam_loop(AdamVariant("coupled"))
_update_biases = adam_loop(AdamVariant())


class Job(NamedTuple):
    """What the threads of a gang share: the network and its data, the state of Adam, and working memory."""

    layout: Layout
    samples: Samples
    order: Array
    """The samples of an epoch, in the order in which they are trained on."""
    batch_size: int
    p: Array
    m: Array
    v: Array
    g: Array
    """A row of gradients for each lane."""
    work: Array
    """A row for each thread, as is `panel`."""
    panel: Array
    errors: Array
    """The sum of squared errors of each lane."""
    norms: Array
    """The squared norm of the weights of each chunk."""
    settings: Array
    """What changes between epochs and phases, see LR and the names beside it."""


def lanes_of(rows, n_params):
    """Into how many lanes a batch of so many rows is cut; it must not depend on the number of threads."""
    rows_per_lane = ROWS_PER_LANE if n_params <= LARGE else ROWS_PER_LARGE_LANE
    return max(1, min(MAX_LANES, rows // rows_per_lane))


_lanes_of = device(lanes_of)


@device
def lane_bounds(lane, lanes, rows):
    """The rows of one of the lanes."""
    return lane * rows // lanes, (lane + 1) * rows // lanes


@device
def add_rows(g, lanes, start, stop):
    """Sum the lanes' gradients of elements `start:stop` into those of the first lane, in the order of the lanes."""
    for lane in range(1, lanes):
        for i in range(np.uint64(start), np.uint64(stop)):
            g[0, i] += g[lane, i]


@device
def update(layout, p, g, m, v, lanes, norms, chunks, decay, scalars):
    """Update the given chunks of the flat buffer, in one pass: sum the lanes, note the weights' norm, apply the rule.

    Weights decay towards zero, biases do not.
    """
    layers, summed = layout.weights.size, g[0]
    for chunk in range(chunks[0], chunks[1]):
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, p.size)
        add_rows(g, lanes, start, stop)
        norms[chunk] = 0
        for k in range(layers):
            weights, biases = layout.weights[k], layout.biases[k]
            end = layout.weights[k + 1] if k + 1 < layers else p.size
            a, b = max(start, weights), min(stop, biases)
            if a < b:
                norms[chunk] += squared_norm(p, a, b)
                _update_weights(p, summed, m, v, v, a, b, 0, decay, scalars)
            a, b = max(start, biases), min(stop, end)
            if a < b:
                _update_biases(p, summed, m, v, v, a, b, 0, decay, scalars)


@inlined
def gradient_task(job, lane, thread):
    """Put one lane of the batch through the network."""
    start, stop, s = int(job.settings[START]), int(job.settings[STOP]), job.settings
    a, b = lane_bounds(lane, _lanes_of(stop - start, job.p.size), stop - start)
    job.errors[lane] = gradient(
        job.layout, job.p, job.samples, job.order[start + a : start + b], s[WEIGHT],
        job.work[thread], job.panel[thread], job.g[lane],
    )  # fmt: skip


@inlined
def update_task(job, part, parts):
    """Update one part of the flat buffer."""
    s, size = job.settings, job.norms.size
    lanes = _lanes_of(int(s[STOP]) - int(s[START]), job.p.size)
    scalars = adam_scalars(job.p, int(s[STEPS]), s[LR], s[BETA1], s[BETA2], s[EPS], True)
    decay = job.p.dtype.type(s[ALPHA] / s[WEIGHT])
    chunks = part * size // parts, (part + 1) * size // parts
    update(job.layout, job.p, job.g, job.m, job.v, lanes, job.norms, chunks, decay, scalars)


@inlined
def share(job, thread, control, phase):
    """Do what tasks of the phase this thread can claim, its own first."""
    kind, tasks = kind_of(phase), tasks_of(phase)
    for i in range(tasks):
        task = (thread + i) % tasks
        if claim(control, task, phase):
            if kind == GRADIENT:
                gradient_task(job, task, thread)
            else:
                update_task(job, task, tasks)
            finish(control)


@inlined
def lead(job, thread, threads, control):
    """Run an epoch as the leader; returns the mean loss, each batch weighted by its rows.

    A batch whose weights are all zero is passed over.
    """
    total, counted, settings = 0.0, 0, job.settings
    for start in range(0, job.order.size, job.batch_size):
        stop = min(start + job.batch_size, job.order.size)
        weight = total_weight(job.samples, job.order[start:stop])
        if weight == 0:
            continue
        settings[STEPS] += 1
        settings[START], settings[STOP], settings[WEIGHT] = start, stop, weight
        lanes = _lanes_of(stop - start, job.p.size)
        for kind in (GRADIENT, UPDATE):
            tasks = lanes if kind == GRADIENT else threads
            phase = open_phase(control, kind, tasks)
            share(job, thread, control, phase)
            close_phase(control, tasks)
        errors, norm = np.sum(job.errors[:lanes]), np.sum(job.norms)
        loss = 0.5 * (errors / job.layout.units[-1] + settings[ALPHA] * norm) / weight
        total += loss * (stop - start)
        counted += stop - start
    return total / counted if counted else 0.0


@inlined
def follow(job, thread, control, seen):
    """Share the phases that the leader opens; returns the last one seen, after a while without another."""
    while True:
        phase = await_phase(control, seen)
        if phase == seen or dismissed(control):
            return seen
        share(job, thread, control, phase)
        seen = phase


@kernel
def run(job, thread, threads, control, seen):
    """What each thread of the gang calls, in one function so that its parts are compiled once.

    Returns the loss, to the leader; the last phase seen, to the others.
    """
    if thread == 0:
        return lead(job, thread, threads, control), seen
    return 0.0, follow(job, thread, control, seen)


class Engine(AbstractContextManager["Engine"]):
    """Trains a network on given samples; use it as a context manager, which its threads live in.

    Parameters
    ----------
    params : FlatBuffer
        Parameters with the layout of `network.shapes_of`, updated in place.
    moments : (ndarray, ndarray)
        Adam's flat state, updated in place.
    activation : {"identity", "logistic", "tanh", "relu"}
        Of the hidden layers.
    samples : Samples
        The data.
    n_rows : int
        Samples of an epoch.
    batch_size : int
        Samples of a step.
    n_threads : int or None
        Number of threads; None chooses by the work in a step and the cores that are free.
    """

    def __init__(
        self,
        params: FlatBuffer,
        moments: tuple[Array, Array],
        activation: str,
        samples: Samples,
        n_rows: int,
        batch_size: int,
        n_threads: int | None = None,
    ) -> None:
        layout = layout_of(params, activation)
        lanes = lanes_of(batch_size, params.flat.size)
        wanted = worthwhile_threads(layout, batch_size) if n_threads is None else n_threads
        self._gang = Gang(min(wanted, lanes), self._follow, exact=n_threads is not None)
        self._order = np.empty(n_rows, np.int64)
        self._settings = np.zeros(WEIGHT + 1)
        threads, size, dtype = self._gang.threads, params.flat.size, params.dtype
        self._job = Job(
            layout,
            samples,
            self._order,
            batch_size,
            params.flat,
            *moments,
            g=_aligned_rows(lanes, size, dtype),
            work=_aligned_rows(threads, work_size(layout, batch_size), dtype),
            panel=_aligned_rows(threads, panel_size(dtype), dtype),
            errors=np.zeros(lanes),
            norms=np.zeros(-(-size // CHUNK)),
            settings=self._settings,
        )

    def __enter__(self) -> Self:
        self._gang.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gang.__exit__(kind, error, traceback)

    def epoch(
        self, order: Array, t: int, *, lr: float, betas: tuple[float, float], eps: float, alpha: float
    ) -> tuple[float, int]:
        """Train on the samples in this order; returns the mean loss, and the step count that was `t` before."""
        self._order[:] = order
        self._settings[: STEPS + 1] = lr, *betas, eps, alpha, t
        self._gang.wake()
        loss, _ = run(self._job, 0, self._gang.threads, self._gang.control, 0)
        return float(loss), int(self._settings[STEPS])

    def _follow(self, thread: int, control: Array, seen: int) -> int:
        _, seen = run(self._job, thread, self._gang.threads, control, seen)
        return int(seen)


def worthwhile_threads(layout: Layout, batch_size: int) -> int:
    """How many threads the work of a step is worth."""
    units = layout.units
    flops = 6 * batch_size * int((units[:-1] * units[1:]).sum())
    return available_threads() if flops >= THREADED_FLOPS else 1


def _aligned_rows(rows: int, columns: int, dtype: np.dtype[Any]) -> Array:
    """A matrix whose rows each begin on a cache line of their own."""
    width = -(-columns * dtype.itemsize // 64) * 64 // dtype.itemsize
    return aligned_zeros(rows * width, dtype).reshape(rows, width)
