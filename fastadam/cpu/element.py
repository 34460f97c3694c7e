"""The loop over elements: a rule, with all that is done in the same pass."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.cpu.jit import inner, scalar_rule, unrolled
from fastadam.cpu.minifloat import _loop_over_codes
from fastadam.cpu.storage import _DECODERS, _ENCODERS, _dither, _dithered_bfloat16, _from_bfloat16, _positive_bfloat16
from fastadam.cpu.views import cast_like, taker
from fastadam.formulas import rules
from fastadam.formulas.step import EMA, HYPER, SEED, StepSpec, preparation

_ema = inner(rules.ema)


@functools.cache
def step_scalars(rule: rules.Rule) -> Callable[..., Any]:
    """What computes the rule's scalars of step `t` in float64, and rounds each once to the type of `like`.

    The hyper-parameters are elements of the flat float64 array `group`, from `HYPER` on.
    """
    compute, take = inner(rule.scalars), taker(HYPER, len(rule.hyper))

    @inner
    def scalars(like, t, group):
        return cast_like(like, compute(t, *take(group)))

    return scalars


@functools.cache
def element_loop(spec: StepSpec) -> Callable[..., None]:
    """The loop over elements `start:stop` of the state, whose rows are flat arrays: the rule's, then the average.

    Element i of the state belongs to element `i - shift` of `p` and `g`.
    """
    if spec.state == "uint8":
        return _loop_over_codes(spec)
    update, (load, store) = _update(spec.rule), _access(spec.rule, spec.state)
    prepare, finish = preparation(spec, inner), _completion(spec)
    read = _DECODERS[spec.grad]

    @inner
    def loop(p, g, rows, start, stop, shift, decay, scalars, extra):
        for i in range(np.uint64(start), np.uint64(stop)):  # a signed index might count from the end: no vectors then
            k = i - np.uint64(shift)
            pi, gi = prepare(p[k], read(g[k]), decay, extra)
            new = update(pi, gi, *(load(rows, i) + scalars))
            p[k] = new[0]
            store(rows, i, new, extra)
            finish(rows, i, g, k, new[0], extra)

    return loop


def _update(rule: rules.Rule) -> Callable[..., Any]:
    """The rule, returning a tuple also where it has no state."""
    update = inner(scalar_rule(rule.update))
    if rule.states:
        return update
    return inner(lambda *arguments: (update(*arguments),))


def _access(rule: rules.Rule, form: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    """What loads an element's state as a tuple, and what stores it from behind the parameter."""
    item, assignment = "rows[{k}][i]", "rows[{k}][i] = new[{k} + 1]"
    if form == "bfloat16":
        item = "decoded(rows[{k}][i])"
        assignment = "rows[{k}][i] = encoded{k}(new[{k} + 1], dither(i, extra[SEED][{k}]))"
    states, names = len(rule.states), {"dither": _dither, "SEED": SEED}
    for k, name in enumerate(rule.states):
        names[f"encoded{k}"] = _positive_bfloat16 if name in rule.positive else _dithered_bfloat16
    load = unrolled("load(rows, i)", "return ({})", item + ", ", states, decoded=_from_bfloat16)
    return inner(load), inner(unrolled("store(rows, i, new, extra)", "{}pass", assignment + "; ", states, **names))


def _completion(spec: StepSpec) -> Callable[..., None]:
    """What comes after the rule: the average and the copy of the parameters, and the gradient's end."""
    zero_grad = spec.zero_grad
    average_at = len(spec.rule.states)
    average = f"row = rows[{average_at}]; row[i] = averaged(row[i], new, extra[EMA])"
    copy = f"rows[{average_at + spec.ema}][k] = encoded(new)"
    tasks = [task for task, wanted in ((average, spec.ema), (copy, spec.copy)) if wanted]
    names = {"encoded": _ENCODERS[spec.copy], "averaged": _ema, "EMA": EMA}
    write = inner(unrolled("write(rows, i, k, new, extra)", "{}pass", "; ".join([*tasks, ""]), 1, **names))

    @inner
    def finish(rows, i, g, k, new, extra):
        write(rows, i, k, new, extra)
        if zero_grad:
            g[k] = 0

    return finish
