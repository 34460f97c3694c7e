"""One element of a step: a rule, with all that is done in the same pass, and the numbers it takes of its group."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastadam.cuda.jit import device, formula
from fastadam.cuda.tables import EXTRA_AT, SCALARS
from fastadam.cuda.views import WORD, loader, memory
from fastadam.formulas import rules
from fastadam.formulas.step import DECAY, EMA, HYPER, StepSpec, preparation


def count_of_scalars(rule: rules.Rule) -> int:
    """Count the scalars that a rule takes after the state."""
    return len(inspect.signature(rule.update).parameters) - 2 - len(rule.states)


@functools.cache
def step_scalars(rule: rules.Rule) -> Callable[..., Any]:
    """Make the function that computes the scalars of step `t` in float64, for a group.

    `group` is the address of its settings, and `carried` that of the number that the rule carries from step to step,
    if it carries one: the last of its hyper-parameters, which is replaced.
    """
    take, compute = loader("float64", len(rule.hyper) - (rule.carry is not None)), formula(rule.scalars)
    if rule.carry is None:

        @device
        def scalars(t, group, carried):
            return compute(t, *take(group + WORD * HYPER))

        return scalars

    carry, load, store = formula(rule.carry), memory("float64").load, memory("float64").store

    @device
    def carrying_scalars(t, group, carried):
        hyper = take(group + WORD * HYPER) + (load(carried),)  # noqa: RUF005 - Numba adds tuples
        store(carried, carry(t, *hyper))
        return compute(t, *hyper)

    return carrying_scalars


@functools.cache
def element(spec: StepSpec) -> Callable[..., tuple[Any, ...]]:
    """Make the function that returns the new parameter and its state, from these, the gradient and a group's numbers.

    The average of the parameters is the last of the state, if there is one.
    """
    states, prepare, update = len(spec.rule.states), preparation(spec, formula), _update(spec.rule)
    average = formula(rules.ema)

    @device
    def plain(p, g, state, numbers):
        p, g = prepare(p, g, numbers[DECAY], numbers[EXTRA_AT:SCALARS])
        return update(p, g, state, numbers)

    @device
    def averaged(p, g, state, numbers):
        p, g = prepare(p, g, numbers[DECAY], numbers[EXTRA_AT:SCALARS])
        new = update(p, g, state, numbers)
        return new + (average(state[states], new[0], numbers[EXTRA_AT + EMA]),)  # noqa: RUF005 - see above

    return averaged if spec.ema else plain


def _update(rule: rules.Rule) -> Callable[..., Any]:
    """Compile a rule so that it takes tuples, and returns one, also without a state."""
    states, update = len(rule.states), formula(rule.update)

    @device
    def without_state(p, g, state, numbers):
        return (update(p, g, *numbers[SCALARS:]),)

    @device
    def with_state(p, g, state, numbers):
        return update(p, g, *(state[:states] + numbers[SCALARS:]))

    return with_state if rule.states else without_state
