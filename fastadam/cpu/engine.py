"""The engine: a whole epoch of training in one compiled call, on one thread or several, with the same bits.

A batch is cut into lanes, the same for any number of threads. Each lane goes forward and backward through the network
into its own row of gradients. Then, in one pass, the rows are summed, the L2 term joins them and the rule updates the
parameters, part by part of the flat buffer. These are the two phases of a step; `gang.py` has how threads share them.

Activations, losses and updates are called by their address: the engine itself is compiled once for each type.

A lane may be done twice, by a thread that was held up and by the leader that would not wait for it. So each thread has
a row of its own for each lane, and reads its rows again after claiming: one that comes late writes where nobody looks.
"""

import math
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numba import types

from fastadam._memory import aligned_zeros
from fastadam._typing import Array
from fastadam._watch import LOOK_EVERY, Watch
from fastadam.buffers import FlatBuffer
from fastadam.cpu.atomics import clock
from fastadam.cpu.cores import default_threads
from fastadam.cpu.dropout import drop_address
from fastadam.cpu.interrupts import begin, is_halted, look
from fastadam.cpu.jit import formula, inlined, inner, kernel
from fastadam.cpu.losses import loss_address
from fastadam.cpu.network import Layout, gradient, panel_size, total_weight, work_size
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
from fastadam.cpu.update import CHUNK, GRADIENT, SUM, UPDATE, row_of, update_addresses
from fastadam.cpu.views import view
from fastadam.formulas import rules
from fastadam.formulas.network import Samples, Update

MAX_SLICES = 4

ROWS_PER_SLICE = 100
"""Fewer rows in a lane would cost more in summed gradients than they win in parallel."""

ROWS_PER_LARGE_SLICE = 200

LARGE = 2**18
"""The same for more parameters than this, whose gradients do not stay in cache."""

THREADED_FLOPS = 1_000_000
"""Floating-point operations of a step from which a second thread wins."""

SHARED_UPDATE = 2**4
"""Parameters from which the threads share the update; that of fewer takes the leader alone less than a phase."""

# Words of the settings: what the leader writes before an epoch, and what it writes before each phase.
ALPHA, LOSS_SETTING, CLIP_NORM, DROPOUT, DROPOUT_SEED, STEPS, TOTAL_WEIGHT, MEAN_LOSS, N_SETTINGS = range(9)
"""`STEPS` and `MEAN_LOSS` are of whole steps, wherever an epoch was given up."""

_clip_factor = formula(rules.clip_factor)


class Job(NamedTuple):
    """What the threads of a gang share: the network and its data, the optimizer's state, and working memory."""

    layout: Layout
    samples: Samples
    order: Array
    """The samples of an epoch, in the order in which they are trained on."""
    batch_size: int
    loss: int
    """Address of the loss's loop, as `loss_address` gives it."""
    drop: int
    """Address of `dropout.drop`, or 0."""
    update: int
    """Address of an `update_kernel`."""
    sum: int
    """Address of a `sum_kernel`, if the gradient is clipped."""
    carry: int
    """Address of a `carry_kernel`, or 0."""
    group: Array
    """The optimizer's hyper-parameters, as `step_scalars` wants them, and behind them the gradient's factor."""
    p: Array
    state_addresses: Array
    """Addresses of the rows of the optimizer's state."""
    g: Array
    """A row of gradients for each lane of each thread: (threads, lanes, elements)."""
    work: Array
    """A row for each thread, as is `panel`."""
    panel: Array
    losses: Array
    """The weighted sum of the losses of each lane of each thread."""
    norms: Array
    """The squared norm of the weights of each chunk; between the phases SUM and UPDATE, that of the gradient."""
    settings: Array
    """What changes between epochs and phases, see ALPHA and the names beside it."""
    watch: Array
    """The words of a `Watch`."""


def slices_of(rows, n_params):
    """Into how many lanes a batch of so many rows is cut; it must not depend on the number of threads."""
    rows_per_lane = ROWS_PER_SLICE if n_params <= LARGE else ROWS_PER_LARGE_SLICE
    return max(1, min(MAX_SLICES, rows // rows_per_lane))


_slices_of = inner(slices_of)


@inner
def slice_bounds(slice_, slices, rows):
    """The rows of one of the lanes."""
    return slice_ * rows // slices, (slice_ + 1) * rows // slices


_call = call_pointer(types.none)


@inner
def gradient_task(job, slice_, thread, control, phase):
    """Put one lane of the batch through the network."""
    s = job.settings
    start, stop = rows_of(control, phase)
    a, b = slice_bounds(slice_, _slices_of(stop - start, job.p.size), stop - start)
    dropout = job.drop, int(s[DROPOUT_SEED]), int(s[STEPS]), s[DROPOUT]
    samples = view(job.order, start + a, (b - a,))
    work, panel = row_of(job.work, thread), row_of(job.panel, thread)
    g = view(job.g, (thread * job.g.shape[1] + slice_) * job.g.shape[2], (job.g.shape[2],))
    job.losses[thread, slice_] = gradient(
        job.layout, job.loss, s[LOSS_SETTING], dropout, job.p, job.samples, samples, s[TOTAL_WEIGHT], work, panel, g,
        job.watch, thread,
    )  # fmt: skip


@inner
def pass_task(job, part, parts, control, phase):
    """Update one part of the flat buffer, or sum its gradient."""
    s, size, updates = job.settings, job.norms.size, kind_of(phase) == UPDATE
    start, stop = rows_of(control, phase)
    slices = 1 if updates and s[CLIP_NORM] > 0 else _slices_of(stop - start, job.p.size)
    first, last = part * size // parts, (part + 1) * size // parts
    _call(
        job.update if updates else job.sum,
        (job.layout.weights, job.layout.biases, job.p, job.state_addresses, job.g, control, slices, job.norms,
         first, last, int(s[STEPS]), s[ALPHA] / s[TOTAL_WEIGHT], job.group),
    )  # fmt: skip


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
                pass_task(job, task, tasks, control, phase)
            finish(control, task, phase, thread)
            done += 1
    return done


@inner
def awaited(job, control, task, phase, patience):
    """Wait for a task that another thread has claimed, as long as patience lasts; returns whether it is done.

    Whatever can be done twice is not waited for where the epoch is to be given up.
    """
    while not done_in_time(control, task, phase, min(patience, LOOK_EVERY)):
        patience -= LOOK_EVERY
        if patience <= 0 or (look(job.watch, clock()) and kind_of(phase) == GRADIENT):
            return False
    return True


@inlined
def find_gradient(job, thread, control, slices, start, stop, patience, began):
    """Lead the phase that puts a batch through the network; returns how long a lane took this thread.

    A lane that another thread has not finished within that time is done again here. Which of the two is first does not
    matter, their bits are the same.
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
    """Lead a phase that goes over the flat buffer: one that updates the parameters, or sums the gradient.

    Its tasks change what they read, so none can be done twice: one that has been begun must be waited for.
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
    """What brings a gradient of these squared norms down to `max_norm`, or 1; NaN stays NaN."""
    total = 0.0
    for chunk in range(norms.size):
        total += norms[chunk]
    return _clip_factor(math.sqrt(total), max_norm)


@inlined
def lead(job, thread, threads, control):
    """Run an epoch as the leader, and note the mean loss, each batch weighted by its rows.

    A batch whose weights are all zero is passed over. Where the epoch is to be given up, so is the step that has not
    changed anything yet, and one that has is made to its end.
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
    """The mean loss of the batch, and the penalty on the weights before the update."""
    total = 0.0
    for slice_ in range(slices):
        total += job.losses[finisher(control, slice_, GRADIENT), slice_]
    norm = 0.0
    for chunk in range(job.norms.size):
        norm += job.norms[chunk]
    return (total + 0.5 * job.settings[ALPHA] * norm) / job.settings[TOTAL_WEIGHT]


@inlined
def follow(job, thread, control, seen):
    """Share the phases that the leader opens; returns the last one seen, after a while without another."""
    while True:
        phase = await_phase(control, thread, seen)
        if phase == seen or not takes_part(control, thread):
            return seen
        share(job, thread, control, phase)
        seen = phase


@kernel
def run(job, thread, threads, control, seen):
    """What each thread of the gang calls, in one function so that its parts are compiled once.

    Returns the last phase seen, to those that follow.
    """
    if thread == 0:
        lead(job, thread, threads, control)
        return seen
    return follow(job, thread, control, seen)


class Engine(AbstractContextManager["Engine"]):
    """Trains a network on given samples; use it as a context manager, which its threads live in.

    Parameters
    ----------
    params : FlatBuffer
        Parameters with the layout of `network.shapes_of`, updated in place.
    layout : Layout
        How they lie there, for training.
    samples : Samples
        The data.
    loss : str
        A name among `losses.LOSSES`.
    update : Update
        What is done with a gradient.
    n_rows : int
        Samples of an epoch.
    batch_size : int
        Samples of a step.
    n_threads : int or None
        Number of threads; None chooses by the work in a step, and shares the cores with other fits.
    alpha : float
        Strength of the L2 penalty.
    loss_setting : float
        The loss's own number, if it has one.
    clip_norm : float or None
        Bound on the norm of the whole gradient, the penalty's part with it.
    dropout : float
        Part of the hidden units that are off in each step, for each sample others; 0 for none.
    seed : int
        Says which.
    """

    watch: Watch
    """Whether to give up in the middle of an epoch, and whether it was given up."""
    t: int
    """The step count after the last whole step, wherever an epoch was given up."""
    loss: float
    """The mean loss of the last epoch, or of as much of it as was made."""

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
        fixed = {
            ALPHA: alpha,
            LOSS_SETTING: loss_setting,
            CLIP_NORM: clip_norm or 0.0,
            DROPOUT: dropout,
            DROPOUT_SEED: seed,
        }
        self._settings[list(fixed)] = list(fixed.values())
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
        """Compile, or load, what an epoch needs: by one of no samples."""
        self.watch.start()
        run(self._job._replace(order=self._order[:0]), 0, self._team.threads, self._team.control, 0)

    def epoch(self, order: Array, t: int, group: Array) -> tuple[float, int]:
        """Train on the samples in this order, with these hyper-parameters, which a step may change.

        Returns the mean loss, and the step count that was `t` before. It may have been given up, which `watch.check`
        raises: parameters, `group`, `t` and `loss` are those of the last whole step, however it ends.
        """
        self._order[:] = order
        self._job.group[:-1] = group
        self._settings[STEPS], self._settings[MEAN_LOSS] = t, 0.0
        self.watch.start()
        self._team.wake()
        try:
            run(self._job, 0, self._team.threads, self._team.control, 0)
        finally:  # the handler of a signal may raise as soon as the call returns
            group[:] = self._job.group[:-1]
            self.t, self.loss = int(self._settings[STEPS]), float(self._settings[MEAN_LOSS])
            if self.watch.halted and self.t == t:
                self.loss = math.nan
        return self.loss, self.t

    def _follow(self, thread: int, control: Array, seen: int) -> int:
        return int(run(self._job, thread, self._team.threads, control, seen))


def worthwhile_threads(layout: Layout, batch_size: int) -> int:
    """How many threads the work of a step is worth."""
    units = layout.units
    flops = 6 * batch_size * int((units[:-1] * units[1:]).sum())
    return default_threads() if flops >= THREADED_FLOPS else 1


def _aligned_rows(rows: int, columns: int, dtype: np.dtype[Any]) -> Array:
    """A matrix whose rows each begin on a cache line of their own."""
    width = -(-columns * dtype.itemsize // 64) * 64 // dtype.itemsize
    return aligned_zeros(rows * width, dtype).reshape(rows, width)
