"""The engine: a whole epoch of training in one compiled call, on one thread or several, with the same bits.

A batch is cut into slices, independent of the number of threads. Each slice goes forward and backward through the
network into its own row of gradients. Then one pass sums the rows, adds the L2 term and updates the parameters by the
rule, chunk by chunk of the flat buffer. These are the two phases of a step; `team` has how threads share their tasks.

Activations, losses and updates are called by address: the engine itself is compiled once per type.

A slice may be done twice: by a thread that was held up, and by the leader, which did not wait for it. Therefore each
thread has its own row for each slice, and reads which samples to take after it has claimed the task: a thread that is
late writes where nobody reads.

Read it from top to bottom: the `Job` that threads share, the tasks of a phase, how the leader leads an epoch and the
others follow, and the `Engine` that Python has.
"""

import math
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numba import types

from fastadam._memory import ALIGNMENT, aligned_zeros
from fastadam._typing import Array
from fastadam._watch import LOOK_EVERY, Watch
from fastadam.buffers import FlatBuffer
from fastadam.cpu.atomics import clock
from fastadam.cpu.cores import default_threads
from fastadam.cpu.dropout import drop_address
from fastadam.cpu.interrupts import begin, is_halted, look
from fastadam.cpu.jit import formula, inlined, inner, kernel
from fastadam.cpu.losses import loss_address
from fastadam.cpu.network import Dropout, Layout, Worker, gradient, panel_size, total_weight, work_size
from fastadam.cpu.pointers import call_pointer
from fastadam.cpu.team import (
    FOREVER,
    Team,
    await_phase,
    claim,
    done_in_time,
    finish,
    finisher,
    is_alone,
    kind_of,
    open_phase,
    rest,
    rows_of,
    takes_part,
    tasks_of,
    was_kept_waiting,
)
from fastadam.cpu.update import CHUNK, GRADIENT, SUM, UPDATE, Buffer, row_of, update_addresses
from fastadam.cpu.views import view
from fastadam.formulas import rules
from fastadam.formulas.network import Samples, Update

MAX_SLICES = 4
"""Maximum number of slices, and so of useful threads: each costs a row of gradients, in memory and in the sum."""

ROWS_PER_SLICE = 100
"""Minimum number of rows in a slice: with fewer, summing the gradients costs more than a second thread wins."""

ROWS_PER_LARGE_SLICE = 200
"""Minimum number of rows in a slice for more than `LARGE` parameters."""

LARGE = 2**18
"""Number of parameters beyond which the gradients do not stay in cache."""

FLOPS_PER_WEIGHT = 6
"""Floating-point operations of a step per weight and row: one multiplication and one addition in three products."""

THREADED_FLOPS = 1_000_000
"""Floating-point operations of a step from which a second thread wins."""

SHARED_UPDATE = 2**4
"""Number of parameters from which the threads share the update: a smaller one takes less time than a phase."""

ALPHA, LOSS_SETTING, CLIP_NORM, DROPOUT, DROPOUT_SEED, STEPS, TOTAL_WEIGHT, MEAN_LOSS, N_SETTINGS = range(9)
"""Words of `Job.settings`. The first five are fixed for a fit. The leader writes `STEPS`, the step count, and
`TOTAL_WEIGHT`, that of the samples of a batch, before the phases of a step, and `MEAN_LOSS`, the mean loss of the epoch
so far, after it: when an epoch is given up, `STEPS` and `MEAN_LOSS` are those of the last whole step."""

_clip_factor = formula(rules.clip_factor)


class Job(NamedTuple):
    """Data that the threads of a team share: the network and its samples, the optimizer's state, and working memory."""

    layout: Layout
    samples: Samples
    order: Array
    """The samples of an epoch, in the order of training."""
    batch_size: int
    loss: int
    """Address of the loop of the loss, see `loss_address`."""
    drop: int
    """Address of `dropout.drop`, or 0."""
    update: int
    """Address of an `update_kernel`."""
    sum: int
    """Address of a `sum_kernel`, if the gradient is clipped."""
    carry: int
    """Address of a `carry_kernel`, or 0."""
    group: Array
    """The row of hyper-parameters that `step_scalars` reads, and at its end the factor of the gradient."""
    p: Array
    """The flat parameters."""
    state_addresses: Array
    """Address of each state of the optimizer."""
    g: Array
    """A row of gradients for each slice of each thread, shape (threads, slices, elements)."""
    work: Array
    """A row of working memory for each thread."""
    panel: Array
    """A row of working memory for the matrix products of each thread."""
    losses: Array
    """The weighted sum of the losses of each slice of each thread."""
    norms: Array
    """The squared norm of the weights of each chunk; between the phases SUM and UPDATE, that of the gradient."""
    settings: Array
    """Numbers that are fixed for a fit, or change between phases: see `ALPHA` and the names beside it."""
    watch: Array
    """The words of a `Watch`."""


def slices_of(rows, n_params):
    """Count the slices of a batch of `rows` rows; the bits depend on it, so the number of threads must not enter."""
    rows_per_slice = ROWS_PER_SLICE if n_params <= LARGE else ROWS_PER_LARGE_SLICE
    return max(1, min(MAX_SLICES, rows // rows_per_slice))


_slices_of = inner(slices_of)


@inner
def slice_bounds(slice_, slices, rows):
    """Return the first row of a slice, and the first one after it."""
    return slice_ * rows // slices, (slice_ + 1) * rows // slices


_call = call_pointer(types.none)


@inner
def gradient_task(job, slice_, thread, control, phase):
    """Send one slice of the batch through the network."""
    s = job.settings
    start, stop = rows_of(control, phase)
    a, b = slice_bounds(slice_, _slices_of(stop - start, job.p.size), stop - start)
    rows = view(job.order, start + a, (b - a,))
    work, panel = row_of(job.work, thread), row_of(job.panel, thread)
    dropout = Dropout(job.drop, int(s[DROPOUT_SEED]), int(s[STEPS]), s[DROPOUT])
    worker = Worker(job.layout, job.p, job.samples, work, panel, dropout, job.watch, thread)
    g = view(job.g, (thread * job.g.shape[1] + slice_) * job.g.shape[2], (job.g.shape[2],))
    job.losses[thread, slice_] = gradient(worker, rows, job.loss, s[LOSS_SETTING], s[TOTAL_WEIGHT], g)


@inner
def pass_task(job, part, parts, control, phase):
    """Update one part of the flat buffer, or sum the gradient there."""
    s, size, updates = job.settings, job.norms.size, kind_of(phase) == UPDATE
    start, stop = rows_of(control, phase)
    slices = 1 if updates and s[CLIP_NORM] > 0 else _slices_of(stop - start, job.p.size)
    first, last = part * size // parts, (part + 1) * size // parts
    offsets = job.layout
    buffer = Buffer(offsets.weights, offsets.biases, job.p, job.g, job.state_addresses, job.group, job.norms)
    arguments = (buffer, control, slices, first, last, int(s[STEPS]), s[ALPHA] / s[TOTAL_WEIGHT])
    _call(job.update if updates else job.sum, arguments)


@inlined
def share(job, thread, control, phase):
    """Do the tasks of the phase that this thread can claim, its own first; return how many it did."""
    kind, tasks, done = kind_of(phase), tasks_of(phase), 0
    for i in range(tasks):
        task = (thread + i) % tasks
        if claim(control, task, phase):
            if kind == GRADIENT:
                gradient_task(job, task, thread, control, phase)
            else:
                pass_task(job, task, tasks, control, phase)
            finish(control, task, phase, thread)
            done += 1
    return done


@inner
def awaited(job, control, task, phase, patience):
    """Wait for a task that another thread has claimed, for `patience` nanoseconds; return whether it is done.

    A task that can be done twice is not waited for when the epoch is to be given up.
    """
    while not done_in_time(control, task, phase, min(patience, LOOK_EVERY)):
        patience -= LOOK_EVERY
        if patience <= 0 or (look(job.watch, clock()) and kind_of(phase) == GRADIENT):
            return False
    return True


@inlined
def find_gradient(job, thread, control, slices, start, stop, patience, began):
    """Lead the phase that sends a batch through the network; return the nanoseconds that this thread took per slice.

    A slice that another thread has not finished within that time is done again here. Either result will do, since both
    have the same bits.
    """
    phase = open_phase(control, GRADIENT, slices, start, stop)
    done = share(job, thread, control, phase)
    if done > 0:
        patience = (clock() - began) // done
    for slice_ in range(slices):
        if not awaited(job, control, slice_, phase, patience) and not is_halted(job.watch):
            gradient_task(job, slice_, thread, control, phase)
            finish(control, slice_, phase, thread)
    return patience


@inlined
def make_pass(job, kind, thread, threads, control, start, stop):
    """Lead a phase that passes over the flat buffer, to update the parameters or to sum the gradient.

    Its tasks change what they read, so none can be done twice: the leader must wait for a task that has been begun.
    """
    began = clock() if threads > 1 else 0
    shares = threads > 1 and job.p.size >= SHARED_UPDATE and not is_alone(control, began)
    phase = open_phase(control, kind, threads if shares else 0, start, stop)
    if shares:
        done, shared = share(job, thread, control, phase), clock()
        for part in range(threads):
            awaited(job, control, part, phase, FOREVER)
        now = clock()
        was_kept_waiting(control, now - shared, (shared - began) // max(done, 1), now)
    else:
        pass_task(job, 0, 1, control, phase)


@inner
def clipping_factor(norms, max_norm):
    """Factor that reduces a gradient, given the squared norm of each chunk, to `max_norm`, or 1; NaN stays NaN."""
    total = 0.0
    for chunk in range(norms.size):
        total += norms[chunk]
    return _clip_factor(math.sqrt(total), max_norm)


@inlined
def lead(job, thread, threads, control):
    """Run an epoch as the leader, and note the mean loss, each batch weighted by its number of rows.

    A batch whose weights are all zero is skipped. When the epoch is to be given up, a step that has changed nothing yet
    is given up as well; one that has changed something is completed.
    """
    total, counted, settings, patience = 0.0, 0, job.settings, FOREVER
    begin(job.watch)
    for start in range(0, job.order.size, job.batch_size):
        now = clock()
        if look(job.watch, now):
            break
        stop = min(start + job.batch_size, job.order.size)
        weight = total_weight(job.samples, view(job.order, start, (stop - start,)))
        if weight == 0:
            continue
        settings[STEPS] += 1
        settings[TOTAL_WEIGHT] = weight
        slices = _slices_of(stop - start, job.p.size)
        patience = find_gradient(job, thread, control, slices, start, stop, patience, now)
        if is_halted(job.watch):
            settings[STEPS] -= 1
            break
        clips = settings[CLIP_NORM] > 0
        for kind in range(SUM if clips else UPDATE, UPDATE - 1, -1):
            make_pass(job, kind, thread, threads, control, start, stop)
            if kind == SUM:
                job.group[job.group.size - 1] = clipping_factor(job.norms, settings[CLIP_NORM])
        if job.carry != 0:
            _call(job.carry, (job.group, int(settings[STEPS])))
        loss = batch_loss(job, control, slices)
        total += loss * (stop - start)
        counted += stop - start
        settings[MEAN_LOSS] = total / counted
    rest(control)


@inlined
def batch_loss(job, control, slices):
    """Compute the mean loss of the batch, plus the penalty on the weights before the update."""
    total = 0.0
    for slice_ in range(slices):
        total += job.losses[finisher(control, slice_, GRADIENT), slice_]
    norm = 0.0
    for chunk in range(job.norms.size):
        norm += job.norms[chunk]
    return (total + 0.5 * job.settings[ALPHA] * norm) / job.settings[TOTAL_WEIGHT]


@inlined
def follow(job, thread, control, seen):
    """Share the phases that the leader opens; return the last one seen when none has been opened for a while."""
    while True:
        phase = await_phase(control, thread, seen)
        if phase == seen or not takes_part(control, thread):
            return seen
        share(job, thread, control, phase)
        seen = phase


@kernel
def run(job, thread, threads, control, seen):
    """Run an epoch: each thread of the team calls this one function, so that its parts are compiled once.

    Returns the last phase seen, for a thread that follows.
    """
    if thread == 0:
        lead(job, thread, threads, control)
        return seen
    return follow(job, thread, control, seen)


class Engine(AbstractContextManager["Engine"]):
    """Trains a network on given samples; its threads live as long as it is used as a context manager.

    Parameters
    ----------
    params : FlatBuffer
        Parameters with the shapes of `formulas.network.shapes_of`, updated in place.
    layout : Layout
        Layout of the network in `params`, for training.
    samples : Samples
        The data.
    loss : str
        A key of `formulas.losses.LOSSES`.
    update : Update
        Update of the parameters.
    n_rows : int
        Number of samples in an epoch.
    batch_size : int
        Number of samples in a step.
    n_threads : int or None
        Number of threads; None chooses it by the work in a step, and shares the cores with other fits.
    alpha : float
        Strength of the L2 penalty.
    loss_setting : float
        Parameter of the loss, if it has one.
    clip_norm : float or None
        Bound on the norm of the whole gradient, including the penalty.
    dropout : float
        Fraction of the hidden units dropped at each step, independently per sample; 0 for none.
    seed : int
        Seed of the dropout masks.
    """

    watch: Watch
    """Limits the time of an epoch, and tells whether it was given up."""
    t: int
    """The step count after the last whole step, also of an epoch that was given up."""
    loss: float
    """The mean loss of the last epoch, or of the steps made of it."""

    def __init__(
        self,
        params: FlatBuffer,
        layout: Layout,
        samples: Samples,
        loss: str,
        update: Update,
        n_rows: int,
        batch_size: int,
        n_threads: int | None = None,
        *,
        alpha: float = 0.0,
        loss_setting: float = 0.0,
        clip_norm: float | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        slices = slices_of(batch_size, params.flat.size)
        wanted = worthwhile_threads(layout, batch_size) if n_threads is None else int(n_threads)
        self._team = Team(min(wanted, slices), self._follow, exact=n_threads is not None)
        self._order = np.empty(n_rows, np.int64)
        self._settings = np.zeros(N_SETTINGS)
        self._settings[: DROPOUT_SEED + 1] = alpha, loss_setting, clip_norm or 0.0, dropout, seed
        self.watch, self.t, self.loss = Watch(), 0, math.nan
        threads, size, dtype = self._team.threads, params.flat.size, params.dtype
        self._job = Job(
            layout,
            samples,
            self._order,
            batch_size,
            loss_address(loss, dtype),
            drop_address(dtype) if dropout else 0,
            *update_addresses(update.spec, dtype, clip_norm is not None),
            np.append(update.group, 1.0),
            params.flat,
            update.state_addresses,
            g=_aligned_rows(threads * slices, size, dtype).reshape(threads, slices, -1),
            work=_aligned_rows(threads, work_size(layout, batch_size), dtype),
            panel=_aligned_rows(threads, panel_size(dtype), dtype),
            losses=np.zeros((threads, slices)),
            norms=np.zeros(-(-size // CHUNK)),
            settings=self._settings,
            watch=self.watch.words,
        )

    def __enter__(self) -> Self:
        self._team.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._team.__exit__(kind, error, traceback)

    def prepare(self) -> None:
        """Compile or load what an epoch needs, by running one without samples."""
        self.watch.start()
        run(self._job._replace(order=self._order[:0]), 0, self._team.threads, self._team.control, 0)

    def epoch(self, order: Array, t: int, group: Array) -> tuple[float, int]:
        """Train on the samples in this order, with the hyper-parameters `group`, which a step may change.

        Returns the mean loss, and the step count, which was `t` before. The epoch may have been given up, which
        `watch.check` raises: parameters, `group`, `self.t` and `self.loss` are always those of the last whole step.
        """
        self._order[:] = order
        self._job.group[:-1] = group
        self._settings[STEPS], self._settings[MEAN_LOSS] = t, 0.0
        self.watch.start()
        self._team.wake()
        try:
            run(self._job, 0, self._team.threads, self._team.control, 0)
        finally:  # the handler of a signal may raise as soon as the call has returned
            group[:] = self._job.group[:-1]
            self.t, self.loss = int(self._settings[STEPS]), float(self._settings[MEAN_LOSS])
            if self.watch.halted and self.t == t:
                self.loss = math.nan
        return self.loss, self.t

    def _follow(self, thread: int, control: Array, seen: int) -> int:
        return int(run(self._job, thread, self._team.threads, control, seen))


def worthwhile_threads(layout: Layout, batch_size: int) -> int:
    """Return the number of threads that the work of a step is worth."""
    units = layout.units
    flops = FLOPS_PER_WEIGHT * batch_size * int((units[:-1] * units[1:]).sum())
    return default_threads() if flops >= THREADED_FLOPS else 1


def _aligned_rows(rows: int, columns: int, dtype: np.dtype[Any]) -> Array:
    """Allocate a matrix whose rows each begin on a cache line of their own."""
    width = -(-columns * dtype.itemsize // ALIGNMENT) * ALIGNMENT // dtype.itemsize
    return aligned_zeros(rows * width, dtype).reshape(rows, width)
