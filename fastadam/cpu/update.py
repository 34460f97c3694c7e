"""The update of a network: sum the gradients of the slices, add the penalty, apply the rule."""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

from fastadam.cpu.element import element_loop, step_scalars
from fastadam.cpu.jit import formula, inner, kernel
from fastadam.cpu.matmul import squared_norm
from fastadam.cpu.pointers import address_of
from fastadam.cpu.step import row_reader
from fastadam.cpu.team import finisher
from fastadam.cpu.views import cast_like, taker, view
from fastadam.formulas.rules import Rule
from fastadam.formulas.step import DECAY, HYPER, StepSpec, carried_column, clipping

CHUNK = 1024
"""Elements of the flat buffer that are updated together; the penalty is summed chunk by chunk."""

GRADIENT, UPDATE, SUM = range(1, 4)


@inner
def row_of(matrix, i):
    """A row of a contiguous matrix."""
    return view(matrix, i * matrix.shape[1], (matrix.shape[1],))


@inner
def add_slices(g, control, slices, start, stop):
    """Sum the lanes' gradients of elements `start:stop` into those of the first lane, in the order of the lanes."""
    summed = g[finisher(control, 0, GRADIENT), 0]
    for slice_ in range(1, slices):
        row = g[finisher(control, slice_, GRADIENT), slice_]
        for i in range(np.uint64(start), np.uint64(stop)):
            summed[i] += row[i]
    return summed


@functools.cache
def update_kernel(spec: StepSpec, dtype: str) -> Callable[..., None]:
    """Update chunks of the flat buffer, in one pass: sum the lanes, note the weights' norm, apply the rule.

    Weights decay towards zero, biases do not: by `penalty` if the decay is coupled, else as the optimizer says.
    """
    coupled = spec.decay == "coupled"
    update_weights, update_biases = element_loop(spec), element_loop(spec._replace(decay="none"))
    scalars_of, read_rows = step_scalars(spec.rule), row_reader(spec, dtype)

    @kernel(variant=f"{spec}_{dtype}", cached=spec.rule.cached)
    def update(weights_at, biases_at, p, state_addresses, g, control, slices, norms, first, last, t, penalty, group):
        rows, scalars, layers = read_rows(state_addresses, p.size), scalars_of(p, t, group), weights_at.size
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
    def add(weights_at, biases_at, p, state_addresses, g, control, slices, norms, first, last, t, penalty, group):
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
    """Change the last hyper-parameter as a step does."""
    assert rule.carry is not None
    carried, take, last = formula(rule.carry), taker(HYPER, len(rule.hyper)), carried_column(rule)

    @kernel(variant=rule.name, cached=rule.cached)
    def carry(group, t):
        group[last] = carried(t, *take(group))

    return carry


@functools.cache
def update_addresses(spec: StepSpec, dtype: np.dtype[Any], clips: bool) -> tuple[Any, Any, Any]:
    """Where an update stands; what sums the gradient first, if it is clipped; what carries a hyper-parameter on."""
    coupled = spec.decay == "coupled"
    if clips:
        spec = clipping(spec)
    element, integer, number = numba.from_dtype(dtype), types.int64, types.float64
    places, numbers = types.Array(integer, 1, "C"), types.Array(number, 1, "C")
    flat, slices = types.Array(element, 1, "C"), types.Array(element, 3, "C")
    kinds = (
        places, places, flat, places, slices, places, integer, numbers, integer, integer, integer, number, numbers,
    )  # fmt: skip
    return (
        address_of(update_kernel(spec, dtype.name), *kinds),
        address_of(sum_kernel(coupled), *kinds) if clips else 0,
        address_of(carry_kernel(spec.rule), numbers, integer) if spec.rule.carry is not None else 0,
    )
