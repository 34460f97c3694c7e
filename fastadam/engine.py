"""The engine: a whole epoch of training in one compiled call, on one thread or several, with the same bits.

A batch is cut into lanes, the same for any number of threads. Each lane goes forward and backward through the network
into its own row of gradients. Then, in one pass, the rows are summed, the L2 term joins them and the rule updates the
parameters, part by part of the flat buffer. These are the two phases of a step; `gang.py` has how threads share them.

A lane may be done twice, by a thread that was held up and by the leader that would not wait for it. So each thread has
a row of its own for each lane, and reads its rows again after claiming: one that comes late writes where nobody looks.
"""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastadam import rules
from fastadam.atomics import clock
from fastadam.buffers import FlatBuffer, aligned_zeros
from fastadam.cpu import HYPER, Variant, element_loop, step_scalars
from fastadam.gang import (
    FOREVER,
    Gang,
    available_threads,
    await_phase,
    claim,
    dismissed,
    done_in_time,
    finish,
    finisher,
    kind_of,
    open_phase,
    rest,
    rows_of,
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

CHUNK = 1024
"""Elements of the flat buffer that are updated together; the penalty is summed chunk by chunk."""

SHARED_UPDATE = 2**4
"""Parameters from which the threads share the update; that of fewer takes the leader alone less than a phase."""

# Words of the settings: what the leader writes before an epoch, and what it writes before each phase.
# The first are a group's, as `step_scalars` wants them.
LR, BETA1, BETA2, EPS, ALPHA, STEPS, WEIGHT = range(HYPER, HYPER + 7)
GRADIENT, UPDATE = range(1, 3)

_update_weights = element_loop(Variant(rules.ADAM_HAT, "coupled"))
_update_biases = element_loop(Variant(rules.ADAM_HAT))
_adam_scalars = step_scalars(rules.ADAM_HAT)


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
    """A row of gradients for each lane of each thread: (threads, lanes, elements)."""
    work: Array
    """A row for each thread, as is `panel`."""
    panel: Array
    errors: Array
    """The sum of squared errors of each lane of each thread."""
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
def add_lanes(g, control, lanes, start, stop):
    """Sum the lanes' gradients of elements `start:stop` into those of the first lane, in the order of the lanes."""
    summed = g[finisher(control, 0, GRADIENT), 0]
    for lane in range(1, lanes):
        row = g[finisher(control, lane, GRADIENT), lane]
        for i in range(np.uint64(start), np.uint64(stop)):
            summed[i] += row[i]
    return summed


@inlined
def update(layout, p, g, m, v, control, lanes, norms, chunks, decay, scalars):
    """Update the given chunks of the flat buffer, in one pass: sum the lanes, note the weights' norm, apply the rule.

    Weights decay towards zero, biases do not.
    """
    layers = layout.weights.size
    for chunk in range(chunks[0], chunks[1]):
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, p.size)
        summed = add_lanes(g, control, lanes, start, stop)
        norms[chunk] = 0
        for k in range(layers):
            weights, biases = layout.weights[k], layout.biases[k]
            end = layout.weights[k + 1] if k + 1 < layers else p.size
            a, b = max(start, weights), min(stop, biases)
            if a < b:
                norms[chunk] += squared_norm(p, a, b)
                _update_weights(p, summed, (m, v), a, b, 0, decay, scalars, ())
            a, b = max(start, biases), min(stop, end)
            if a < b:
                _update_biases(p, summed, (m, v), a, b, 0, decay, scalars, ())


@device
def gradient_task(job, lane, thread, control, phase):
    """Put one lane of the batch through the network."""
    start, stop = rows_of(control, phase)
    a, b = lane_bounds(lane, _lanes_of(stop - start, job.p.size), stop - start)
    job.errors[thread, lane] = gradient(
        job.layout, job.p, job.samples, job.order[start + a : start + b], job.settings[WEIGHT],
        job.work[thread], job.panel[thread], job.g[thread, lane],
    )  # fmt: skip


@device
def update_task(job, part, parts, control, phase):
    """Update one part of the flat buffer."""
    s, size = job.settings, job.norms.size
    start, stop = rows_of(control, phase)
    lanes = _lanes_of(stop - start, job.p.size)
    scalars = _adam_scalars(job.p, int(s[STEPS]), s)
    decay = job.p.dtype.type(s[ALPHA] / s[WEIGHT])
    chunks = part * size // parts, (part + 1) * size // parts
    update(job.layout, job.p, job.g, job.m, job.v, control, lanes, job.norms, chunks, decay, scalars)


@inlined
def share(job, thread, control, phase):
    """Do what tasks of the phase this thread can claim, its own first; returns how many it did."""
    kind, tasks, done = kind_of(phase), tasks_of(phase), 0
    for i in range(tasks):
        task = (thread + i) % tasks
        if claim(control, task, phase):
            if kind == GRADIENT:
                gradient_task(job, task, thread, control, phase)
            else:
                update_task(job, task, tasks, control, phase)
            finish(control, task, phase, thread)
            done += 1
    return done


@inlined
def find_gradient(job, thread, control, lanes, start, stop, patience):
    """Lead the phase that puts a batch through the network; returns how long a lane took this thread.

    A lane that another thread has not finished within that time is done again here. Which of the two is first does not
    matter, their bits are the same.
    """
    phase, began = open_phase(control, GRADIENT, lanes, start, stop), clock()
    done = share(job, thread, control, phase)
    if done > 0:
        patience = (clock() - began) // done
    for lane in range(lanes):
        if not done_in_time(control, lane, phase, patience):
            gradient_task(job, lane, thread, control, phase)
            finish(control, lane, phase, thread)
    return patience


@inlined
def make_update(job, thread, threads, control, start, stop):
    """Lead the phase that updates the parameters."""
    tasks = threads if job.p.size >= SHARED_UPDATE else 0
    phase = open_phase(control, UPDATE, tasks, start, stop)
    if tasks == 0:
        update_task(job, 0, 1, control, phase)
    share(job, thread, control, phase)
    for part in range(tasks):
        done_in_time(control, part, phase, FOREVER)


@inlined
def lead(job, thread, threads, control):
    """Run an epoch as the leader; returns the mean loss, each batch weighted by its rows.

    A batch whose weights are all zero is passed over.
    """
    total, counted, settings, patience = 0.0, 0, job.settings, FOREVER
    for start in range(0, job.order.size, job.batch_size):
        stop = min(start + job.batch_size, job.order.size)
        weight = total_weight(job.samples, job.order[start:stop])
        if weight == 0:
            continue
        settings[STEPS] += 1
        settings[WEIGHT] = weight
        lanes = _lanes_of(stop - start, job.p.size)
        patience = find_gradient(job, thread, control, lanes, start, stop, patience)
        make_update(job, thread, threads, control, start, stop)
        loss = batch_loss(job, control, lanes)
        total += loss * (stop - start)
        counted += stop - start
    rest(control)
    return total / counted if counted else 0.0


@inlined
def batch_loss(job, control, lanes):
    """Half the mean squared error of the batch, and the penalty on the weights before the update."""
    errors = 0.0
    for lane in range(lanes):
        errors += job.errors[finisher(control, lane, GRADIENT), lane]
    norm = 0.0
    for chunk in range(job.norms.size):
        norm += job.norms[chunk]
    return 0.5 * (errors / job.layout.units[-1] + job.settings[ALPHA] * norm) / job.settings[WEIGHT]


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
            g=_aligned_rows(threads * lanes, size, dtype).reshape(threads, lanes, -1),
            work=_aligned_rows(threads, work_size(layout, batch_size), dtype),
            panel=_aligned_rows(threads, panel_size(dtype), dtype),
            errors=np.zeros((threads, lanes)),
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
        self._settings[LR : STEPS + 1] = lr, *betas, eps, alpha, t
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
