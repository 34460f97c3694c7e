"""The one-pass step over many arrays, serial and parallel.

Read from the inside out: `element.element_loop` is a rule, and all that is done in the same pass, in a loop over flat
arrays; `array_blocks` runs it over the virtual concatenation of any number of arrays; `step_kernel` is launched from
Python. The factories take a `StepSpec`, which is fixed for the life of an optimizer, as a constant, so that the loops
have no branches; everything is compiled on first use.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import DTypeLike

from fastadam.cpu.element import element_loop, step_scalars
from fastadam.cpu.gradients import SUM_BLOCK, gradient_sum
from fastadam.cpu.jit import formula, inner, kernel
from fastadam.cpu.threads import BLOCK
from fastadam.cpu.views import array_at, cast_like, empty_of, empty_stored, stack_array, taker
from fastadam.formulas import storage
from fastadam.formulas.backend import from_text, repeated
from fastadam.formulas.step import ACTIVE, COPY_AT, DECAY, EXTRA, G_AT, GROUP, OFFSET, P_AT, SEED, SIZE, StepSpec

_seed_of = formula(storage.seed_of)


@functools.cache
def state_reader(spec: StepSpec, dtype: DTypeLike) -> Callable[..., Any]:
    """Make the function that returns the arrays of the state, given their addresses."""
    rule = spec.rule
    whole = {"": empty_of(dtype), "bfloat16": empty_of(np.uint16), "uint8": empty_of(np.uint8)}[spec.state]
    kinds: list[Any] = [whole for _ in rule.states]
    if spec.state == "uint8":
        kinds += [empty_of(np.float32)] * len(rule.states)
    kinds += [empty_of(dtype)] * spec.ema
    parts = [f"array_at(state_addresses[{k}], size, like{k}), " for k in range(len(kinds))]
    likes = {f"like{k}": like for k, like in enumerate(kinds)}
    return inner(from_text("state(state_addresses, size)", f"return ({''.join(parts)})", array_at=array_at, **likes))


@functools.cache
def array_blocks(spec: StepSpec, dtype: str) -> Callable[..., None]:
    """Make the loop over elements `start:stop` of the virtual concatenation of separate arrays.

    `segments` describes the arrays, `state_addresses` has the address of each state, and `settings` a row of
    hyper-parameters for each group.
    """
    apply, read_state, scalars_of = _application(spec, dtype), state_reader(spec, dtype), step_scalars(spec.rule)
    extra_of, like = _extra(spec), empty_of(dtype)

    @inner
    def blocks(segments, state_addresses, settings, t, start, stop):
        extra = extra_of(like, settings, t)
        state = read_state(state_addresses, segments[OFFSET, -1])
        k = np.searchsorted(segments[OFFSET], start, side="right") - 1
        group = segments[GROUP, k]
        scalars, decay = scalars_of(like, t, settings[group]), cast_like(like, (settings[group, DECAY],))
        while start < stop:
            last = segments[OFFSET, k] + segments[SIZE, k]  # elements between segments belong to none
            if start < last and settings[segments[GROUP, k], ACTIVE] != 0:
                if segments[GROUP, k] != group:
                    group = segments[GROUP, k]
                    scalars, decay = scalars_of(like, t, settings[group]), cast_like(like, (settings[group, DECAY],))
                apply(segments, k, state, start, min(last, stop), decay[0], scalars, extra)
            k += 1
            start = segments[OFFSET, k]

    return blocks


def _application(spec: StepSpec, dtype: str) -> Callable[..., None]:
    """Make the function that runs the loop over elements `start:stop` of the concatenation, all of segment k."""
    if spec.sums:
        return _application_to_sums(spec, dtype)
    loop, with_copy = element_loop(spec), _copy_reader(spec)
    like, like_g = empty_of(dtype), empty_stored(dtype, spec.grad)

    @inner
    def apply(segments, k, state, start, stop, decay, scalars, extra):
        size = segments[SIZE, k]
        p, g = array_at(segments[P_AT, k], size, like), array_at(segments[G_AT, k], size, like_g)
        state = with_copy(state, segments[COPY_AT, k], size)
        loop(p, g, state, start, stop, segments[OFFSET, k], decay, scalars, extra)

    return apply


def _application_to_sums(spec: StepSpec, dtype: str) -> Callable[..., None]:
    """Make the same function for several rows of gradients, which are summed piece by piece in cache."""
    loop, with_copy = element_loop(spec._replace(zero_grad=False, grad="")), _copy_reader(spec)
    sum_rows, work, like = gradient_sum(dtype, spec.grad), stack_array(SUM_BLOCK), empty_of(dtype)
    like_g, zero_grad, itemsize = empty_stored(dtype, spec.grad), spec.zero_grad, np.dtype(dtype).itemsize

    @inner
    def apply(segments, k, state, start, stop, decay, scalars, extra):
        total, first = work(like), segments[OFFSET, k]
        for a in range(start, stop, SUM_BLOCK):
            size, at = min(SUM_BLOCK, stop - a), a - first
            sum_rows(segments, k, at, total[:size])
            p = array_at(segments[P_AT, k] + at * itemsize, size, like)
            rest = with_copy(state, segments[COPY_AT, k] + 2 * at, size)  # two bytes each
            loop(p, total, rest, a, a + size, a, decay, scalars, extra)
        if zero_grad:
            for row in range(G_AT, segments.shape[0]):
                array_at(segments[row, k], segments[SIZE, k], like_g)[start - first : stop - first] = 0

    return apply


def _copy_reader(spec: StepSpec) -> Callable[..., Any]:
    """Make the function that appends the copy of a segment to the state, if there is one."""
    if not spec.copy:
        return inner(lambda state, at, size: state)
    like = empty_of(np.uint16)
    return inner(lambda state, at, size: state + (array_at(at, size, like),))  # noqa: RUF005 a tuple of unlike types


@functools.cache
def step_kernel(spec: StepSpec, dtype: str, parallel: bool) -> Callable[..., None]:
    """Compile the step over separate arrays, a single call; the serial and the parallel form give the same bits."""
    blocks, cached, name = array_blocks(spec, dtype), spec.rule.cached, f"{spec}_{dtype}"
    if parallel:

        @kernel(parallel=True, variant=name, cached=cached)
        def parallel_step(segments, state_addresses, settings, t):
            size = segments[OFFSET, -1]
            for block in prange((size + BLOCK - 1) // BLOCK):
                start, stop = block * BLOCK, min((block + 1) * BLOCK, size)
                blocks(segments, state_addresses, settings, t, start, stop)

        return parallel_step

    @kernel(variant=name, cached=cached)
    def serial_step(segments, state_addresses, settings, t):
        blocks(segments, state_addresses, settings, t, 0, segments[OFFSET, -1])

    return serial_step


def _extra(spec: StepSpec) -> Callable[..., Any]:
    """Make the function that reads the extra scalars, and appends a seed for each dithered state."""
    take = taker(0, SEED)
    count = len(spec.rule.states) if spec.state else 0
    seeds = inner(from_text("seeds(t)", f"return ({repeated('seed_of(t, {k}), ', count)})", seed_of=_seed_of))
    return inner(lambda like, settings, t: cast_like(like, take(settings[EXTRA])) + (seeds(t),))  # noqa: RUF005 unlike types
