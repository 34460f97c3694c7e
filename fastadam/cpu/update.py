"""The update of a network: sum the gradients of the slices, add the penalty, apply the rule."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastadam._typing import Array
from fastadam.cpu.element import element_loop, step_scalars
from fastadam.cpu.jit import formula, inner, kernel
from fastadam.cpu.matmul import squared_norm
from fastadam.cpu.pointers import address_of
from fastadam.cpu.step import state_reader
from fastadam.cpu.team import finisher
from fastadam.cpu.views import cast_like, taker, view
from fastadam.formulas.rules import Rule
from fastadam.formulas.step import DECAY, HYPER, StepSpec, carried_column, clipping

CHUNK = 1024
"""Elements of the flat buffer that are updated together, while their gradients are in cache. The norm of the weights is
summed chunk by chunk, so its bits depend on this number."""

GRADIENT, UPDATE, SUM = range(1, 4)
"""Kinds of the phases of a step: the gradient of each slice; the update of the parameters; the sum of the gradient, if
it is clipped before the update."""


class Buffer(NamedTuple):
    """The flat buffer of a network, and all that an update of it reads and writes."""

    weights: Array
    """Offset of each weight matrix."""
    biases: Array
    """Offset of each bias."""
    p: Array
    """The parameters."""
    g: Array
    """A row of gradients for each slice of each thread, shape (threads, slices, elements)."""
    state_addresses: Array
    """Address of each state of the optimizer."""
    group: Array
    """The row of hyper-parameters, and at its end the factor of the gradient."""
    norms: Array
    """A squared norm per chunk: of the weights after an update, of the gradient after a sum."""


@inner
def row_of(matrix, i):
    """View a row of a contiguous matrix."""
    return view(matrix, i * matrix.shape[1], (matrix.shape[1],))


@inner
def add_slices(g, control, slices, start, stop):
    """Add the gradients of elements `start:stop` of all slices, in their order, to those of the first; return these."""
    summed = g[finisher(control, 0, GRADIENT), 0]
    for slice_ in range(1, slices):
        row = g[finisher(control, slice_, GRADIENT), slice_]
        for i in range(np.uint64(start), np.uint64(stop)):
            summed[i] += row[i]
    return summed


@functools.cache
def update_kernel(spec: StepSpec, dtype: str) -> Callable[..., None]:
    """Make the kernel that updates chunks `first:last` in one pass: sum the slices, note the norm, apply the rule.

    `norms` gets the squared norm of the weights of each chunk. Only weights decay, and not biases: by `penalty` if the
    decay is coupled, otherwise by the weight decay of the optimizer.
    """
    coupled = spec.decay == "coupled"
    update_weights, update_biases = element_loop(spec), element_loop(spec._replace(decay="none"))
    scalars_of, read_state = step_scalars(spec.rule), state_reader(spec, dtype)

    @kernel(variant=f"{spec}_{dtype}", cached=spec.rule.cached)
    def update(buffer, control, slices, first, last, t, penalty):
        weights_at, biases_at, p, g, state_addresses, group, norms = buffer
        state, scalars, layers = read_state(state_addresses, p.size), scalars_of(p, t, group), weights_at.size
        factor = cast_like(p, (group[group.size - 1],))
        decay = p.dtype.type(penalty if coupled else group[DECAY])
        for chunk in range(first, last):
            start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, p.size)
            summed = add_slices(g, control, slices, start, stop)
            norms[chunk] = 0
            for k in range(layers):
                weights, biases = weights_at[k], biases_at[k]
                end = weights_at[k + 1] if k + 1 < layers else p.size
                a, b = max(start, weights), min(stop, biases)
                if a < b:
                    norms[chunk] += squared_norm(p, a, b)
                    update_weights(p, summed, state, a, b, 0, decay, scalars, factor)
                a, b = max(start, biases), min(stop, end)
                if a < b:
                    update_biases(p, summed, state, a, b, 0, decay, scalars, factor)

    return update


@functools.cache
def sum_kernel(coupled: bool) -> Callable[..., None]:
    """Make the kernel that sums the whole gradient, including the penalty, into that of the first slice.

    `norms` gets its squared norm per chunk. The arguments are those of an update.
    """

    @kernel(variant="coupled" if coupled else "decoupled")
    def add(buffer, control, slices, first, last, t, penalty):
        weights_at, biases_at, p, g, _, _, norms = buffer
        decay, layers = p.dtype.type(penalty), weights_at.size
        for chunk in range(first, last):
            start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, p.size)
            summed = add_slices(g, control, slices, start, stop)
            if coupled:
                for k in range(layers):
                    for i in range(np.uint64(max(start, weights_at[k])), np.uint64(min(stop, biases_at[k]))):
                        summed[i] += decay * p[i]
            norms[chunk] = squared_norm(summed, start, stop)

    return add


@functools.cache
def carry_kernel(rule: Rule) -> Callable[..., None]:
    """Make the kernel that changes the last hyper-parameter of a rule with `carry`, as step `t` does."""
    assert rule.carry is not None
    carried, take, last = formula(rule.carry), taker(HYPER, len(rule.hyper)), carried_column(rule)

    @kernel(variant=rule.name, cached=rule.cached)
    def carry(group, t):
        group[last] = carried(t, *take(group))

    return carry


@functools.cache
def update_addresses(spec: StepSpec, dtype: np.dtype[Any], clips: bool) -> tuple[Any, Any, Any]:
    """Addresses of an update, of the sum of the gradient, and of the change of a hyper-parameter.

    The second is 0 without clipping, the third for a rule without `carry`.
    """
    coupled = spec.decay == "coupled"
    if clips:
        spec = clipping(spec)
    element, integer, number = numba.from_dtype(dtype), types.int64, types.float64
    places, numbers = types.Array(integer, 1, "C"), types.Array(number, 1, "C")
    flat, slices = types.Array(element, 1, "C"), types.Array(element, 3, "C")
    buffer = types.NamedTuple((places, places, flat, slices, places, numbers, numbers), Buffer)
    kinds = (buffer, places, integer, integer, integer, integer, number)
    return (
        address_of(update_kernel(spec, dtype.name), *kinds),
        address_of(sum_kernel(coupled), *kinds) if clips else 0,
        address_of(carry_kernel(spec.rule), numbers, integer) if spec.rule.carry is not None else 0,
    )
