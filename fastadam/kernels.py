"""The kernels for your own `@njit` code: one step of each rule over flat arrays.

Each is a compiled function that can be called from Python and from inside another compiled function, allocates nothing,
and updates its arrays in place. For every rule there are three: `<rule>_step`, which is serial below 256 KiB of
parameters and runs on Numba's threads from there; `<rule>_step_serial`, on the calling thread alone, for use inside a
`prange` of your own or in a forked process; and `<rule>_step_parallel`, on Numba's threads whatever the size. All three
give the same bits, on any number of threads.

All take the parameters `p`, the gradient `g`, the arrays of the rule's state, which are zeros before the first step,
then the number `t` of this step, counted from 1, then the hyper-parameters:

================= ===================================== ==================================================
rule              state                                 hyper-parameters
================= ===================================== ==================================================
sgd                                                     lr
momentum          buffer                                lr, momentum, dampening
nesterov          buffer                                lr, momentum, dampening
rmsprop           square_avg                            lr, alpha, eps
rmsprop_momentum  square_avg, buffer                    lr, alpha, eps, momentum
rmsprop_centered  square_avg, grad_avg                  lr, alpha, eps
adagrad           total                                 lr, lr_decay, eps
adadelta          square_avg, acc_delta                 lr, rho, eps
adam              m, v                                  lr, beta1, beta2, eps
amsgrad           m, v, v_max                           lr, beta1, beta2, eps
adamax            exp_avg, exp_inf                      lr, beta1, beta2, eps
nadam             exp_avg, exp_avg_sq                   lr, beta1, beta2, eps, momentum_decay, mu_product
radam             exp_avg, exp_avg_sq                   lr, beta1, beta2, eps
lion              exp_avg                               lr, beta1, beta2
================= ===================================== ==================================================

Arrays are flat, of one size, all float32 or all float64; hyper-parameters are numbers. `mu_product` is the product of
the momenta of the steps before this one, `fastadam.formulas.rules.nadam_momentum(t, beta1, momentum_decay)`, and 1 at first.

Raises
------
ValueError
    If the sizes differ or `t` is less than 1.
TypeError
    If an array is not flat or not float32 or float64, or the dtypes differ (in compiled code: a TypingError).

Notes
-----
The formulas, with their sources, are those of `fastadam.formulas.rules`.

Examples
--------
A compiled training loop around a kernel:

>>> import numba
>>> import numpy as np
>>> from fastadam.kernels import adam_step
>>> @numba.njit
... def minimise(p, steps):
...     g, m, v = np.empty_like(p), np.zeros_like(p), np.zeros_like(p)
...     for t in range(1, steps + 1):
...         g[:] = 2 * (p - 3)
...         adam_step(p, g, m, v, t, 0.1, 0.9, 0.999, 1e-8)
>>> p = np.zeros(4)
>>> minimise(p, 500)
>>> np.round(p, 3)
array([3., 3., 3., 3.])
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange, types
from numba.extending import overload

from fastadam.cpu.element import element_loop
from fastadam.cpu.jit import formula, inner, kernel
from fastadam.cpu.threads import BLOCK, PARALLEL_BYTES
from fastadam.cpu.views import cast_like
from fastadam.formulas import rules
from fastadam.formulas.step import StepSpec

_SIGNATURE = """
def {name}({arguments}):
    return body(p, g, ({states}), t, ({hyper}))
"""

_DOC = """{purpose}

    {summary} See `fastadam.kernels` for the arguments.
    """

_PURPOSES = {
    "": "One step over flat arrays, in place; serial below 256 KiB of parameters, on Numba's threads from there.",
    "_serial": "One step over flat arrays, in place, on the calling thread alone.",
    "_parallel": "One step over flat arrays, in place, on Numba's threads, whatever the size.",
}


def _kernels_of(rule: rules.Rule) -> tuple[Any, Any, Any]:
    """The three kernels of a rule: the usual one, the serial one, the parallel one."""
    serial, parallel, check = _serial(rule), _parallel(rule), _check(rule)
    scalars = _scalars(rule)

    @inner
    def serial_body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        serial(p, g, rows, scalars(p, t, hyper))

    @inner
    def parallel_body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        parallel(p, g, rows, scalars(p, t, hyper))

    @inner
    def body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        if p.size * p.itemsize < PARALLEL_BYTES:
            serial(p, g, rows, scalars(p, t, hyper))
        else:
            parallel(p, g, rows, scalars(p, t, hyper))

    bodies = {"": body, "_serial": serial_body, "_parallel": parallel_body}
    return tuple(_public(rule, suffix, function) for suffix, function in bodies.items())


def _public(rule: rules.Rule, suffix: str, body: Callable[..., None]) -> Any:
    """The kernel with the rule's own argument names, as Numba wants them: written out."""
    name = f"{rule.name}_step{suffix}"
    states, hyper = (_names(rule.states), rule.hyper)
    arguments = ", ".join(("p", "g", *states, "t", *hyper))
    lists = {"states": "".join(f"{n}, " for n in states), "hyper": "".join(f"{n}, " for n in hyper)}
    namespace: dict[str, Any] = {"body": body, "__name__": __name__}
    exec(_SIGNATURE.format(name=name, arguments=arguments, **lists), namespace)
    function = namespace[name]
    summary = (rule.update.__doc__ or "").strip().split("\n\n")[0]
    function.__doc__ = _DOC.format(purpose=_PURPOSES[suffix], summary=summary)
    return kernel(function)


def _names(states: tuple[str, ...]) -> tuple[str, ...]:
    """The states' names as arguments: a hyper-parameter may be called momentum, and `sum` is Python's."""
    return tuple({"momentum_buffer": "buffer", "sum": "total"}.get(name, name) for name in states)


def _scalars(rule: rules.Rule) -> Callable[..., Any]:
    compute = formula(rule.scalars)
    return inner(lambda p, t, hyper: cast_like(p, compute(t, *hyper)))


def _serial(rule: rules.Rule) -> Callable[..., None]:
    loop = element_loop(StepSpec(rule))
    return inner(lambda p, g, rows, scalars: loop(p, g, rows, 0, p.size, 0, p.dtype.type(0), scalars, ()))


def _parallel(rule: rules.Rule) -> Callable[..., None]:
    loop = element_loop(StepSpec(rule))

    @kernel(parallel=True, variant=rule.name)
    def parallel(p, g, rows, scalars):
        zero = p.dtype.type(0)
        for block in prange((p.size + BLOCK - 1) // BLOCK):
            start, stop = block * BLOCK, min((block + 1) * BLOCK, p.size)
            loop(p, g, rows, start, stop, 0, zero, scalars, ())

    return parallel


def _check(rule: rules.Rule) -> Callable[..., None]:
    """What refuses arrays of another type or size, and steps that do not count from 1."""
    names = ("p", "g", *_names(rule.states))

    def check_types(p, g, rows):
        problem = _type_problem(names, np.ndarray, (p, g, *rows))
        if problem:
            raise TypeError(problem)

    @overload(check_types)
    def check_types_compiled(p, g, rows):
        problem = _type_problem(names, types.Array, (p, g, *rows))

        def passes(p, g, rows):
            pass

        def fails(p, g, rows):
            raise TypeError(problem)

        return fails if problem else passes

    have_size = inner(_HAVE_SIZE[len(rule.states)])

    @inner
    def check(p, g, rows, t):
        check_types(p, g, rows)
        if g.size != p.size or not have_size(rows, p.size):
            raise ValueError("the arrays must have the same size")
        if t < 1:
            raise ValueError("t must be at least 1: it counts the steps, this one included")

    return check


_HAVE_SIZE: tuple[Callable[..., bool], ...] = (
    lambda rows, size: True,
    lambda rows, size: rows[0].size == size,
    lambda rows, size: rows[0].size == size and rows[1].size == size,
    lambda rows, size: rows[0].size == size and rows[1].size == size and rows[2].size == size,
)


def _type_problem(names: tuple[str, ...], kind: Any, arrays: tuple[Any, ...]) -> str:
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, kind) or array.ndim != 1 or str(array.dtype) not in ("float32", "float64"):
            return f"{name} must be a flat float32 or float64 array"
        if array.dtype != arrays[0].dtype:
            return f"{name} must have the dtype of p, {arrays[0].dtype}, got {array.dtype}"
    return ""


sgd_step, sgd_step_serial, sgd_step_parallel = _kernels_of(rules.SGD)

momentum_step, momentum_step_serial, momentum_step_parallel = _kernels_of(rules.MOMENTUM)

nesterov_step, nesterov_step_serial, nesterov_step_parallel = _kernels_of(rules.NESTEROV)

rmsprop_step, rmsprop_step_serial, rmsprop_step_parallel = _kernels_of(rules.RMSPROP)

rmsprop_momentum_step, rmsprop_momentum_step_serial, rmsprop_momentum_step_parallel = _kernels_of(
    rules.RMSPROP_MOMENTUM
)

rmsprop_centered_step, rmsprop_centered_step_serial, rmsprop_centered_step_parallel = _kernels_of(
    rules.RMSPROP_CENTERED
)

adagrad_step, adagrad_step_serial, adagrad_step_parallel = _kernels_of(rules.ADAGRAD)

adadelta_step, adadelta_step_serial, adadelta_step_parallel = _kernels_of(rules.ADADELTA)

adam_step, adam_step_serial, adam_step_parallel = _kernels_of(rules.ADAM)

amsgrad_step, amsgrad_step_serial, amsgrad_step_parallel = _kernels_of(rules.AMSGRAD)

adamax_step, adamax_step_serial, adamax_step_parallel = _kernels_of(rules.ADAMAX)

nadam_step, nadam_step_serial, nadam_step_parallel = _kernels_of(rules.NADAM)

radam_step, radam_step_serial, radam_step_parallel = _kernels_of(rules.RADAM)

lion_step, lion_step_serial, lion_step_parallel = _kernels_of(rules.LION)

__all__ = sorted(name for name in globals() if "_step" in name and not name.startswith("_"))
