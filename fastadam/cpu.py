"""The rules compiled for the CPU: the loop, its parallel form, and the one-pass step over many arrays.

Reads from the inside out: `element_loop` is a rule, with all that is done in the same pass, in a loop over flat arrays;
`array_blocks` runs it over the virtual concatenation of any number of arrays; `step_kernel` is what Python launches.
The factories take what is fixed for the life of an optimizer, a `Variant`, as constants, so that the loops hold no
branch; all are compiled on first use.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from fastadam import rules
from fastadam.gemm import squared_norm
from fastadam.jit import array_at, device, kernel, rounded, taker

PARALLEL_BYTES = 256 * 1024
"""Size of the parameters from which two threads win. Between threads that never slept they win from half of this on;
but most programs do something else between two steps, and waking a thread costs what it then saves."""

BLOCK = 4_096
"""Elements that a thread takes at a time: the state of a block stays in its L1 cache."""

DECAY, ACTIVE, HYPER = 0, 1, 2
"""Columns of the table of groups: the weight decay's scalar, whether the group is trained, then what its rule takes."""

SCALE, CLIP, EMA = range(3)
"""Extra scalars: the gradient's factor, its bound, and the weight of the new parameter in the average."""

_ema = device(rules.ema)


class Variant(NamedTuple):
    """What is compiled into a kernel: a rule, and what is done beside it in the same pass."""

    rule: rules.Rule
    decay: str = "none"
    """ "none", "coupled" or "decoupled". """
    maximize: bool = False
    scale: bool = False
    """Multiply the gradient by a factor, which may clip it by norm."""
    clip: bool = False
    """Bound each element of the gradient."""
    ema: bool = False
    """Keep an exponential moving average of the parameters, as one more state behind the rule's own."""
    zero_grad: bool = False
    """Leave zeros where the gradient was."""

    def __str__(self) -> str:
        flags = [name for name, value in self._asdict().items() if value is True]
        return "_".join([self.rule.name, self.decay, *flags])


@functools.cache
def step_scalars(rule: rules.Rule) -> Callable[..., Any]:
    """What computes the rule's scalars of step `t` in float64, and rounds each once to the type of `like`.

    The hyper-parameters are elements of the flat float64 array `group`, from `HYPER` on.
    """
    compute, take = device(rule.scalars), taker(HYPER, len(rule.hyper))

    @device
    def scalars(like, t, group):
        return rounded(like, compute(t, *take(group)))

    return scalars


@functools.cache
def element_loop(variant: Variant) -> Callable[..., None]:
    """The loop over elements `start:stop` of the state, whose rows are flat arrays: the rule's, then the average.

    Element i of the state belongs to element `i - shift` of `p` and `g`.
    """
    update, (load, store) = _update(variant.rule), _access(len(variant.rule.states))
    prepare, finish = preparation(variant, device), _completion(variant)

    @device
    def loop(p, g, rows, start, stop, shift, decay, scalars, extra):
        for i in range(np.uint64(start), np.uint64(stop)):  # a signed index might count from the end: no vectors then
            k = i - np.uint64(shift)
            pi, gi = prepare(p[k], g[k], decay, extra)
            new = update(pi, gi, *(load(rows, i) + scalars))
            p[k] = new[0]
            store(rows, i, new)
            finish(rows, i, g, k, new[0], extra)

    return loop


def _update(rule: rules.Rule) -> Callable[..., Any]:
    """The rule, returning a tuple also where it has no state."""
    update = device(rule.update)
    if rule.states:
        return update
    return device(lambda *arguments: (update(*arguments),))


def _access(states: int) -> tuple[Callable[..., Any], Callable[..., None]]:
    """What loads an element's state as a tuple, and what stores it from behind the parameter. Unrolled by hand."""
    if states == 0:
        return device(lambda rows, i: ()), device(lambda rows, i, new: None)
    if states == 1:
        return device(lambda rows, i: (rows[0][i],)), device(_store_1)
    if states == 2:
        return device(lambda rows, i: (rows[0][i], rows[1][i])), device(_store_2)
    if states == 3:
        return device(lambda rows, i: (rows[0][i], rows[1][i], rows[2][i])), device(_store_3)
    return device(lambda rows, i: (rows[0][i], rows[1][i], rows[2][i], rows[3][i])), device(_store_4)


MAX_STATES = 4


def _store_1(rows, i, new):
    rows[0][i] = new[1]


def _store_2(rows, i, new):
    rows[0][i], rows[1][i] = new[1], new[2]


def _store_3(rows, i, new):
    rows[0][i], rows[1][i], rows[2][i] = new[1], new[2], new[3]


def _store_4(rows, i, new):
    rows[0][i], rows[1][i], rows[2][i], rows[3][i] = new[1], new[2], new[3], new[4]


def preparation(variant: Variant, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """What comes before the rule: the gradient's scale, bound and sign, and weight decay, in PyTorch's order.

    `compiled` is the decorator of the backend: CUDA's is another than `device`.
    """
    coupled_decay, decoupled_decay = compiled(rules.coupled_decay), compiled(rules.decoupled_decay)
    scale, clip, maximize = variant.scale, variant.clip, variant.maximize
    coupled, decoupled = variant.decay == "coupled", variant.decay == "decoupled"

    @compiled
    def prepare(pi, gi, decay, extra):
        if scale:
            gi = gi * extra[SCALE]
        if clip:  # written so that NaN stays NaN
            gi = -extra[CLIP] if gi < -extra[CLIP] else extra[CLIP] if gi > extra[CLIP] else gi
        if maximize:
            gi = -gi
        if coupled:
            gi = coupled_decay(pi, gi, decay)
        if decoupled:
            pi = decoupled_decay(pi, decay)
        return pi, gi

    return prepare


def _completion(variant: Variant) -> Callable[..., None]:
    """What comes after the rule: the average of the parameters, and the gradient's end."""
    average_at, zero_grad = len(variant.rule.states), variant.zero_grad
    if variant.ema:

        @device
        def average(rows, i, new, extra):
            row = rows[average_at]
            row[i] = _ema(row[i], new, extra[EMA])

    else:

        @device
        def average(rows, i, new, extra):
            pass

    @device
    def finish(rows, i, g, k, new, extra):
        average(rows, i, new, extra)
        if zero_grad:
            g[k] = 0

    return finish


@functools.cache
def row_splitter(variant: Variant) -> Callable[..., Any]:
    """What takes the rows of a state, a matrix, apart into flat arrays."""
    rows = len(variant.rule.states) + variant.ema
    if rows == 0:
        return device(lambda state: ())
    if rows == 1:
        return device(lambda state: (state[0],))
    if rows == 2:
        return device(lambda state: (state[0], state[1]))
    if rows == 3:
        return device(lambda state: (state[0], state[1], state[2]))
    if rows == 4:
        return device(lambda state: (state[0], state[1], state[2], state[3]))
    return device(lambda state: (state[0], state[1], state[2], state[3], state[4]))


@functools.cache
def array_blocks(variant: Variant) -> Callable[..., None]:
    """The loop over elements `start:stop` of the virtual concatenation of separate arrays.

    Array k has its parameters at address `p_at[k]`, its gradient at `g_at[k]`, and is elements
    `offsets[k]:offsets[k + 1]` of the concatenation, which is also where its state stands in the rows of `state`. Its
    hyper-parameters are those of row `group_of[k]` of `groups`.
    """
    loop, scalars_of, split = element_loop(variant), step_scalars(variant.rule), row_splitter(variant)

    @device
    def blocks(p_at, g_at, offsets, group_of, state, groups, t, start, stop, extra):
        rows, k, group = split(state), np.searchsorted(offsets, start, side="right") - 1, 0
        scalars, decay = scalars_of(state, t, groups[group]), state.dtype.type(groups[group, DECAY])
        while start < stop:
            end = min(offsets[k + 1], stop)
            if start < end and groups[group_of[k], ACTIVE] != 0:
                if group_of[k] != group:
                    group = group_of[k]
                    scalars, decay = scalars_of(state, t, groups[group]), state.dtype.type(groups[group, DECAY])
                size = offsets[k + 1] - offsets[k]
                p, g = array_at(p_at[k], size, state), array_at(g_at[k], size, state)
                loop(p, g, rows, start, end, offsets[k], decay, scalars, extra)
            start = end
            k += 1

    return blocks


_take_extra = taker(0, 3)


@functools.cache
def step_kernel(variant: Variant, parallel: bool) -> Callable[..., None]:
    """One step over separate arrays in one call, serial or parallel; the results are the same bits."""
    blocks, cached = array_blocks(variant), variant.rule.cached

    if parallel:

        @kernel(parallel=True, variant=str(variant), cached=cached)
        def parallel_step(p_at, g_at, offsets, group_of, state, groups, t, extra):
            rounded_extra, size = rounded(state, _take_extra(extra)), offsets[-1]
            for block in prange((size + BLOCK - 1) // BLOCK):
                start, stop = block * BLOCK, min((block + 1) * BLOCK, size)
                blocks(p_at, g_at, offsets, group_of, state, groups, t, start, stop, rounded_extra)

        return parallel_step

    @kernel(variant=str(variant), cached=cached)
    def serial_step(p_at, g_at, offsets, group_of, state, groups, t, extra):
        rounded_extra = rounded(state, _take_extra(extra))
        blocks(p_at, g_at, offsets, group_of, state, groups, t, 0, offsets[-1], rounded_extra)

    return serial_step


@functools.cache
def norm_kernel(parallel: bool) -> Callable[..., float]:
    """The sum of squares of separate arrays, summed in float64 over blocks of fixed size: the same on any threads."""

    @device
    def blocks(g_at, offsets, like, start, stop):
        total, k = 0.0, np.searchsorted(offsets, start, side="right") - 1
        while start < stop:
            end = min(offsets[k + 1], stop)
            if start < end:
                g = array_at(g_at[k], offsets[k + 1] - offsets[k], like)
                total += squared_norm(g, start - offsets[k], end - offsets[k])
            start = end
            k += 1
        return total

    if parallel:

        @kernel(parallel=True)
        def parallel_norm(g_at, offsets, like, sums):
            for block in prange(sums.size):
                sums[block] = blocks(g_at, offsets, like, block * BLOCK, min((block + 1) * BLOCK, offsets[-1]))

        return parallel_norm

    @kernel
    def serial_norm(g_at, offsets, like, sums):
        for block in range(sums.size):
            sums[block] = blocks(g_at, offsets, like, block * BLOCK, min((block + 1) * BLOCK, offsets[-1]))

    return serial_norm


def gradient_norm(grads: list[Any], g_at: Any, offsets: Any, like: Any, parallel: bool) -> float:
    """The Euclidean norm over all gradients, which lie at `g_at`; infinite or NaN just where a gradient is.

    Squares may overflow where the gradients do not: then they are summed again in float64.
    """
    sums = np.empty(-(-int(offsets[-1]) // BLOCK))
    norm_kernel(parallel)(g_at, offsets, like, sums)
    total = float(sums.sum())
    if not math.isfinite(total):
        if not all(np.isfinite(g).all() for g in grads):
            return math.nan if any(np.isnan(g).any() for g in grads) else math.inf
        largest = max(float(np.abs(g).max()) for g in grads if g.size)
        return largest * math.sqrt(sum(float(np.square(g / largest, dtype=np.float64).sum()) for g in grads))
    return math.sqrt(total)
