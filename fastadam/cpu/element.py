"""The loop over elements: a rule, and all that is done in the same pass."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.cpu.jit import formula, inner
from fastadam.cpu.minifloat import loop_over_codes
from fastadam.cpu.storage import DECODERS, ENCODERS
from fastadam.cpu.views import cast_like, taker
from fastadam.formulas import rules, storage
from fastadam.formulas.backend import from_text, repeated
from fastadam.formulas.step import EMA, HYPER, SEED, StepSpec, preparation


@functools.cache
def step_scalars(rule: rules.Rule) -> Callable[..., Any]:
    """Make the function that computes the scalars of step `t` in float64, and rounds each once to the type of `like`.

    The hyper-parameters are elements of the flat float64 array `group`, from `HYPER` on.
    """
    compute, take = formula(rule.scalars), taker(HYPER, len(rule.hyper))

    @inner
    def scalars(like, t, group):
        return cast_like(like, compute(t, *take(group)))

    return scalars


@functools.cache
def element_loop(spec: StepSpec) -> Callable[..., None]:
    """Make the loop over elements `start:stop` of the state.

    `state` is a tuple of flat arrays: those of the rule, then the average of the parameters and their copy, if there
    are any. Element i of the state belongs to element `i - shift` of `p`, `g` and the copy.
    """
    if spec.state == "uint8":
        return loop_over_codes(spec, element_loop(spec._replace(state="")))
    update, (load, store) = _update(spec.rule), _access(spec.rule, spec.state)
    prepare, finish = preparation(spec, formula), _completion(spec)
    read = DECODERS[spec.grad]

    @inner
    def loop(p, g, state, start, stop, shift, decay, scalars, extra):
        for i in range(np.uint64(start), np.uint64(stop)):  # unsigned: no index counts from the end
            k = i - np.uint64(shift)
            pi, gi = prepare(p[k], read(g[k]), decay, extra)
            new = update(pi, gi, *(load(state, i) + scalars))
            p[k] = new[0]
            store(state, i, new, extra)
            finish(state, i, g, k, new[0], extra)

    return loop


def _update(rule: rules.Rule) -> Callable[..., Any]:
    """Compile a rule so that it returns a tuple, even without a state."""
    update = formula(rule.update)
    if rule.states:
        return update
    return inner(lambda *arguments: (update(*arguments),))


def _access(rule: rules.Rule, form: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    """Make the functions that load the state of an element as a tuple, and store the values after the parameter."""
    item, assignment = "state[{k}][i]", "state[{k}][i] = new[{k} + 1]"
    if form == "bfloat16":
        item = "decoded(state[{k}][i])"
        assignment = "state[{k}][i] = encoded{k}(new[{k} + 1], dither(i, extra[SEED][{k}]))"
    states, names = len(rule.states), {"dither": formula(storage.dither), "SEED": SEED}
    for k, name in enumerate(rule.states):
        encode = storage.positive_bfloat16 if name in rule.positive else storage.dithered_bfloat16
        names[f"encoded{k}"] = formula(encode)
    load = from_text("load(state, i)", f"return ({repeated(item + ', ', states)})", decoded=DECODERS["bfloat16"])
    assignments = [assignment.format(k=k) for k in range(states)]
    return inner(load), inner(from_text("store(state, i, new, extra)", *assignments, "pass", **names))


def _completion(spec: StepSpec) -> Callable[..., None]:
    """Make the function that is called after the rule: average and copy the parameters, zero the gradient."""
    zero_grad = spec.zero_grad
    average_at = len(spec.rule.states)
    average = f"average = state[{average_at}]; average[i] = averaged(average[i], new, extra[EMA])"
    copy = f"state[{average_at + spec.ema}][k] = encoded(new)"
    tasks = [task for task, wanted in ((average, spec.ema), (copy, spec.copy)) if wanted]
    names = {"encoded": ENCODERS[spec.copy], "averaged": formula(rules.ema), "EMA": EMA}
    write = inner(from_text("write(state, i, k, new, extra)", *tasks, "pass", **names))

    @inner
    def finish(state, i, g, k, new, extra):
        write(state, i, k, new, extra)
        if zero_grad:
            g[k] = 0

    return finish
