"""The engine: a whole epoch of training in one compiled call, on one thread or several, with the same bits.

A batch is cut into lanes, the same for any number of threads. Each lane goes forward and backward through the network
into its own row of gradients. Then, in one pass, the rows are summed, the L2 term joins them and the rule updates the
parameters, part by part of the flat buffer. These are the two phases of a step; `gang.py` has how threads share them.

Activations, losses and updates are called by their address: the engine itself is compiled once for each type.

A lane may be done twice, by a thread that was held up and by the leader that would not wait for it. So each thread has
a row of its own for each lane, and reads its rows again after claiming: one that comes late writes where nobody looks.
"""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from fastadam._cores import default_threads
from fastadam.atomics import clock
from fastadam.buffers import FlatBuffer, aligned_zeros
from fastadam.cpu import DECAY, HYPER, Variant, element_loop, row_reader, step_scalars
from fastadam.dropout import drop_address
from fastadam.gang import (
    FOREVER,
    Gang,
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
from fastadam.gemm import squared_norm
from fastadam.interrupts import LOOK_EVERY, Watch, begin, is_halted, look
from fastadam.jit import address_of, calling, device, inlined, kernel, rounded, shaped, taker
from fastadam.losses import loss_address
from fastadam.network import Layout, Samples, gradient, panel_size, total_weight, work_size
from fastadam.rules import Rule

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
ALPHA, LOSS_SETTING, MAX_NORM, DROPOUT, SEED, STEPS, WEIGHT, MEAN_LOSS, N_SETTINGS = range(9)
"""`STEPS` and `MEAN_LOSS` are of whole steps, wherever an epoch was given up."""
GRADIENT, UPDATE, SUM = range(1, 4)

NORM_EPS = 1e-6
"""What PyTorch adds to the norm before it divides by it."""


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
    rows_at: Array
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
def row_of(matrix, i):
    """A row of a contiguous matrix."""
    return shaped(matrix, i * matrix.shape[1], (matrix.shape[1],))


@device
def add_lanes(g, control, lanes, start, stop):
    """Sum the lanes' gradients of elements `start:stop` into those of the first lane, in the order of the lanes."""
    summed = g[finisher(control, 0, GRADIENT), 0]
    for lane in range(1, lanes):
        row = g[finisher(control, lane, GRADIENT), lane]
        for i in range(np.uint64(start), np.uint64(stop)):
            summed[i] += row[i]
    return summed


@functools.cache
def update_kernel(variant: Variant, dtype: str) -> Callable[..., None]:
    """Update chunks of the flat buffer, in one pass: sum the lanes, note the weights' norm, apply the rule.

    Weights decay towards zero, biases do not: by `penalty` if the decay is coupled, else as the optimizer says.
    """
    coupled = variant.decay == "coupled"
    update_weights, update_biases = element_loop(variant), element_loop(variant._replace(decay="none"))
    scalars_of, read_rows = step_scalars(variant.rule), row_reader(variant, dtype)

    @kernel(variant=f"{variant}_{dtype}", cached=variant.rule.cached)
    def update(weights_at, biases_at, p, rows_at, g, control, lanes, norms, first, last, t, penalty, group):
        rows, scalars, layers = read_rows(rows_at, p.size), scalars_of(p, t, group), weights_at.size
        factor = rounded(p, (group[group.size - 1],))
        decay = p.dtype.type(penalty if coupled else group[DECAY])
        for chunk in range(first, last):
            start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, p.size)
            summed = add_lanes(g, control, lanes, start, stop)
            norms[chunk] = 0
            for k in range(layers):
                weights, biases = weights_at[k], biases_at[k]
                end = weights_at[k + 1] if k + 1 < layers else p.size
                a, b = max(start, weights), min(stop, biases)
                if a < b:
                    norms[chunk] += squared_norm(p, a, b)
                    update_weights(p, summed, rows, a, b, 0, decay, scalars, factor)
                a, b = max(start, biases), min(stop, end)
                if a < b:
                    update_biases(p, summed, rows, a, b, 0, decay, scalars, factor)

    return update


@functools.cache
def sum_kernel(coupled: bool) -> Callable[..., None]:
    """Make the whole gradient, the penalty's part with it, in the place of the first lane's, and note its norm.

    It takes what an update takes.
    """

    @kernel(variant="coupled" if coupled else "decoupled")
    def add(weights_at, biases_at, p, rows_at, g, control, lanes, norms, first, last, t, penalty, group):
        decay, layers = p.dtype.type(penalty), weights_at.size
        for chunk in range(first, last):
            start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, p.size)
            summed = add_lanes(g, control, lanes, start, stop)
            if coupled:
                for k in range(layers):
                    for i in range(np.uint64(max(start, weights_at[k])), np.uint64(min(stop, biases_at[k]))):
                        summed[i] += decay * p[i]
            norms[chunk] = squared_norm(summed, start, stop)

    return add


@functools.cache
def carry_kernel(rule: Rule) -> Callable[..., None]:
    """Change the last hyper-parameter as a step does."""
    assert rule.carry is not None
    carried, take, last = device(rule.carry), taker(HYPER, len(rule.hyper)), HYPER + len(rule.hyper) - 1

    @kernel(variant=rule.name, cached=rule.cached)
    def carry(group, t):
        group[last] = carried(t, *take(group))

    return carry


def clipping(variant: Variant) -> Variant:
    """The update of a gradient that is scaled to a bound first, and has the penalty's part in it already."""
    return variant._replace(decay="none" if variant.decay == "coupled" else variant.decay, scale=True)


@functools.cache
def update_addresses(variant: Variant, dtype: np.dtype[Any], clips: bool) -> tuple[Any, Any, Any]:
    """Where an update stands; what sums the gradient first, if it is clipped; what carries a hyper-parameter on."""
    coupled = variant.decay == "coupled"
    if clips:
        variant = clipping(variant)
    element, integer, number = numba.from_dtype(dtype), types.int64, types.float64
    places, numbers = types.Array(integer, 1, "C"), types.Array(number, 1, "C")
    flat, lanes = types.Array(element, 1, "C"), types.Array(element, 3, "C")
    kinds = (
        places, places, flat, places, lanes, places, integer, numbers, integer, integer, integer, number, numbers,
    )  # fmt: skip
    return (
        address_of(update_kernel(variant, dtype.name), *kinds),
        address_of(sum_kernel(coupled), *kinds) if clips else 0,
        address_of(carry_kernel(variant.rule), numbers, integer) if variant.rule.carry is not None else 0,
    )


_call = calling(types.none)


@device
def gradient_task(job, lane, thread, control, phase):
    """Put one lane of the batch through the network."""
    s = job.settings
    start, stop = rows_of(control, phase)
    a, b = lane_bounds(lane, _lanes_of(stop - start, job.p.size), stop - start)
    dropout = job.drop, int(s[SEED]), int(s[STEPS]), s[DROPOUT]
    samples = shaped(job.order, start + a, (b - a,))
    work, panel = row_of(job.work, thread), row_of(job.panel, thread)
    g = shaped(job.g, (thread * job.g.shape[1] + lane) * job.g.shape[2], (job.g.shape[2],))
    job.losses[thread, lane] = gradient(
        job.layout, job.loss, s[LOSS_SETTING], dropout, job.p, job.samples, samples, s[WEIGHT], work, panel, g,
        job.watch, thread,
    )  # fmt: skip


@device
def pass_task(job, part, parts, control, phase):
    """Update one part of the flat buffer, or sum its gradient."""
    s, size, updates = job.settings, job.norms.size, kind_of(phase) == UPDATE
    start, stop = rows_of(control, phase)
    lanes = 1 if updates and s[MAX_NORM] > 0 else _lanes_of(stop - start, job.p.size)
    first, last = part * size // parts, (part + 1) * size // parts
    _call(
        job.update if updates else job.sum,
        (job.layout.weights, job.layout.biases, job.p, job.rows_at, job.g, control, lanes, job.norms,
         first, last, int(s[STEPS]), s[ALPHA] / s[WEIGHT], job.group),
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


@device
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
def find_gradient(job, thread, control, lanes, start, stop, patience, began):
    """Lead the phase that puts a batch through the network; returns how long a lane took this thread.

    A lane that another thread has not finished within that time is done again here. Which of the two is first does not
    matter, their bits are the same.
    """
    phase = open_phase(control, GRADIENT, lanes, start, stop)
    done = share(job, thread, control, phase)
    if done > 0:
        patience = (clock() - began) // done
    for lane in range(lanes):
        if not awaited(job, control, lane, phase, patience) and not is_halted(job.watch):
            gradient_task(job, lane, thread, control, phase)
            finish(control, lane, phase, thread)
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


@device
def clipping_factor(norms, max_norm):
    """What brings a gradient of these squared norms down to `max_norm`, or 1; NaN stays NaN."""
    total = 0.0
    for chunk in range(norms.size):
        total += norms[chunk]
    factor = max_norm / (math.sqrt(total) + NORM_EPS)
    return 1.0 if factor > 1.0 else factor


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
        weight = total_weight(job.samples, shaped(job.order, start, (stop - start,)))
        if weight == 0:
            continue
        settings[STEPS] += 1
        settings[WEIGHT] = weight
        lanes = _lanes_of(stop - start, job.p.size)
        patience = find_gradient(job, thread, control, lanes, start, stop, patience, now)
        if is_halted(job.watch):
            settings[STEPS] -= 1
            break
        clips = settings[MAX_NORM] > 0
        for kind in range(SUM if clips else UPDATE, UPDATE - 1, -1):
            make_pass(job, kind, thread, threads, control, start, stop)
            if kind == SUM:
                job.group[job.group.size - 1] = clipping_factor(job.norms, settings[MAX_NORM])
        if job.carry != 0:
            _call(job.carry, (job.group, int(settings[STEPS])))
        loss = batch_loss(job, control, lanes)
        total += loss * (stop - start)
        counted += stop - start
        settings[MEAN_LOSS] = total / counted
    rest(control)


@inlined
def batch_loss(job, control, lanes):
    """The mean loss of the batch, and the penalty on the weights before the update."""
    total = 0.0
    for lane in range(lanes):
        total += job.losses[finisher(control, lane, GRADIENT), lane]
    norm = 0.0
    for chunk in range(job.norms.size):
        norm += job.norms[chunk]
    return (total + 0.5 * job.settings[ALPHA] * norm) / job.settings[WEIGHT]


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


class Update(NamedTuple):
    """An update as the engine makes it: what is compiled, where its state lies, and its hyper-parameters."""

    variant: Variant
    """With `decay="coupled"`, `alpha` is the strength of an L2 penalty on the weights, which is part of the loss."""
    rows_at: Array
    """The address of each state of the rule, flat arrays that must outlive the engine."""
    group: Array
    """A group's row of the optimizer's table, see `cpu.HYPER`; a later one is given with each epoch."""


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
        lanes = lanes_of(batch_size, params.flat.size)
        wanted = worthwhile_threads(layout, batch_size) if n_threads is None else int(n_threads)
        self._gang = Gang(min(wanted, lanes), self._follow, exact=n_threads is not None)
        self._order = np.empty(n_rows, np.int64)
        self._settings = np.zeros(N_SETTINGS)
        fixed = {ALPHA: alpha, LOSS_SETTING: loss_setting, MAX_NORM: clip_norm or 0.0, DROPOUT: dropout, SEED: seed}
        self._settings[list(fixed)] = list(fixed.values())
        self.watch, self.t, self.loss = Watch(), 0, math.nan
        threads, size, dtype = self._gang.threads, params.flat.size, params.dtype
        self._job = Job(
            layout,
            samples,
            self._order,
            batch_size,
            loss_address(loss, dtype),
            drop_address(dtype) if dropout else 0,
            *update_addresses(update.variant, dtype, clip_norm is not None),
            np.append(update.group, 1.0),
            params.flat,
            update.rows_at,
            g=_aligned_rows(threads * lanes, size, dtype).reshape(threads, lanes, -1),
            work=_aligned_rows(threads, work_size(layout, batch_size), dtype),
            panel=_aligned_rows(threads, panel_size(dtype), dtype),
            losses=np.zeros((threads, lanes)),
            norms=np.zeros(-(-size // CHUNK)),
            settings=self._settings,
            watch=self.watch.words,
        )

    def __enter__(self) -> Self:
        self._gang.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gang.__exit__(kind, error, traceback)

    def prepare(self) -> None:
        """Compile, or load, what an epoch needs: by one of no samples."""
        self.watch.start()
        run(self._job._replace(order=self._order[:0]), 0, self._gang.threads, self._gang.control, 0)

    def epoch(self, order: Array, t: int, group: Array) -> tuple[float, int]:
        """Train on the samples in this order, with these hyper-parameters, which a step may change.

        Returns the mean loss, and the step count that was `t` before. It may have been given up, which `watch.check`
        raises: parameters, `group`, `t` and `loss` are those of the last whole step, however it ends.
        """
        self._order[:] = order
        self._job.group[:-1] = group
        self._settings[STEPS], self._settings[MEAN_LOSS] = t, 0.0
        self.watch.start()
        self._gang.wake()
        try:
            run(self._job, 0, self._gang.threads, self._gang.control, 0)
        finally:  # the handler of a signal may raise as soon as the call returns
            group[:] = self._job.group[:-1]
            self.t, self.loss = int(self._settings[STEPS]), float(self._settings[MEAN_LOSS])
            if self.watch.halted and self.t == t:
                self.loss = math.nan
        return self.loss, self.t

    def _follow(self, thread: int, control: Array, seen: int) -> int:
        return int(run(self._job, thread, self._gang.threads, control, seen))


def worthwhile_threads(layout: Layout, batch_size: int) -> int:
    """How many threads the work of a step is worth."""
    units = layout.units
    flops = 6 * batch_size * int((units[:-1] * units[1:]).sum())
    return default_threads() if flops >= THREADED_FLOPS else 1


def _aligned_rows(rows: int, columns: int, dtype: np.dtype[Any]) -> Array:
    """A matrix whose rows each begin on a cache line of their own."""
    width = -(-columns * dtype.itemsize // 64) * 64 // dtype.itemsize
    return aligned_zeros(rows * width, dtype).reshape(rows, width)
