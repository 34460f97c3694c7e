"""The rules for your own `@cuda.jit` kernels: two functions per rule, compiled into the kernel that calls them.

`<rule>_scalars(p, t, *hyper)` returns the scalars of a step, as a tuple of numbers of the type of the elements of `p`.
It computes them in float64 from the number `t` of the step, counted from 1, and from the hyper-parameters. Call it
once, before your loop.

`<rule>_update(i, p, g, *state, scalars)` updates element i of the parameters `p` and of the arrays of the state, which
are zeros before the first step, by element i of the gradient `g`.

Arrays are flat, of one size, all float32 or all float64. Rules, states and hyper-parameters are those of the table in
`fastadam.kernels`. Use only numbers of the type of the arrays in your loop: one Python float makes its arithmetic
float64.

Examples
--------
Steps of Adam, in a kernel that computes the gradient itself:

>>> import numpy as np
>>> from numba import cuda
>>> from fastadam.cuda.kernels import adam_scalars, adam_update
>>> @cuda.jit
... def step(p, g, m, v, t, lr):
...     scalars = adam_scalars(p, t, lr, 0.9, 0.999, 1e-8)
...     for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
...         g[i] = p[i] + p[i]
...         adam_update(i, p, g, m, v, scalars)
>>> p, g, m, v = [cuda.to_device(np.full(2, value, np.float32)) for value in (1, 0, 0, 0)]
>>> for t in range(1, 4):
...     step[1, 32](p, g, m, v, t, 0.5)
>>> np.round(p.copy_to_host(), 3)
array([-0.336, -0.336], dtype=float32)
"""

from collections.abc import Callable
from typing import Any

from fastadam.cuda.jit import device, formula
from fastadam.cuda.views import cast_like
from fastadam.formulas import rules
from fastadam.formulas.backend import from_text

_DOC = """{purpose}

    {summary} See `fastadam.cuda.kernels` for the arguments.
    """


def _functions_of(rule: rules.Rule) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Make the two functions of a rule, with its own argument names."""
    summary = (rule.update.__doc__ or "").strip().split("\n\n")[0]
    states, hyper = [f"{name}_" for name in rule.states], ", ".join(rule.hyper)
    compute = {"cast_like": cast_like, "compute": formula(rule.scalars)}
    scalars = device(from_text(f"scalars(p, t, {hyper})", f"return cast_like(p, compute(t, {hyper}))", **compute))
    loads, arguments = "".join(f"{name}[i], " for name in states), "".join(f"{name}, " for name in states)
    lines = [f"new = apply(p[i], g[i], *(({loads}) + scalars))", f"p[i] = {'new[0]' if states else 'new'}"]
    lines += [f"{name}[i] = new[{k}]" for k, name in enumerate(states, start=1)]
    update = device(from_text(f"update(i, p, g, {arguments}scalars)", *lines, apply=formula(rule.update)))
    for function, purpose in ((scalars, "Return the scalars of a step."), (update, "Make one step of one element.")):
        function.__doc__ = _DOC.format(purpose=purpose, summary=summary)
    return scalars, update


sgd_scalars, sgd_update = _functions_of(rules.SGD)

momentum_scalars, momentum_update = _functions_of(rules.MOMENTUM)

nesterov_scalars, nesterov_update = _functions_of(rules.NESTEROV)

rmsprop_scalars, rmsprop_update = _functions_of(rules.RMSPROP)

rmsprop_momentum_scalars, rmsprop_momentum_update = _functions_of(rules.RMSPROP_MOMENTUM)

rmsprop_centered_scalars, rmsprop_centered_update = _functions_of(rules.RMSPROP_CENTERED)

adagrad_scalars, adagrad_update = _functions_of(rules.ADAGRAD)

adadelta_scalars, adadelta_update = _functions_of(rules.ADADELTA)

adam_scalars, adam_update = _functions_of(rules.ADAM)

amsgrad_scalars, amsgrad_update = _functions_of(rules.AMSGRAD)

adamax_scalars, adamax_update = _functions_of(rules.ADAMAX)

nadam_scalars, nadam_update = _functions_of(rules.NADAM)

radam_scalars, radam_update = _functions_of(rules.RADAM)

lion_scalars, lion_update = _functions_of(rules.LION)

__all__ = sorted(name for name in globals() if name.endswith(("_scalars", "_update")) and not name.startswith("_"))
