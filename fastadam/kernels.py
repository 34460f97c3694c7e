"""Kernels for your own `@njit` code: one step of each rule over flat arrays.

Each kernel is a compiled function that can be called from Python and from other compiled functions. It allocates no
memory and updates its arrays in place. There are three kernels for each rule: `<rule>_step` runs serially below 256 KiB
of parameters, and on Numba's threads otherwise; `<rule>_step_serial` runs on the calling thread, for use inside a
`prange` of your own or in a forked process; `<rule>_step_parallel` runs on Numba's threads for any size. All three give
the same bits on any number of threads.

The arguments are the parameters `p`, the gradient `g`, the arrays of the rule's state (zeros before the first step),
the number `t` of the step, counted from 1, and the hyper-parameters:

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

All arrays have the same shape and dtype, float32 or float64; arrays of several dimensions are contiguous, all in C or
all in Fortran order. Hyper-parameters are numbers. `mu_product` is the product of the momenta of the previous steps,
`fastadam.kernels.nadam_momentum(t, beta1, momentum_decay)`, which is 1 at the first step.

Raises
------
ValueError
    If shapes or memory orders differ, an array of several dimensions is not contiguous, an array other than `g` is
    read-only, or `t` is less than 1.
TypeError
    If an array is not float32 or float64, or the dtypes differ.

Notes
-----
The formulas and their sources are in `fastadam.formulas.rules`.

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
from fastadam.formulas.backend import from_text
from fastadam.formulas.rules import nadam_momentum as nadam_momentum
from fastadam.formulas.step import StepSpec

_DOC = """{purpose}

    {summary} See `fastadam.kernels` for the arguments.
    """

_PURPOSES = {
    "": "Perform one step, in place: serially below 256 KiB of parameters, on Numba's threads otherwise.",
    "_serial": "Perform one step, in place, on the calling thread.",
    "_parallel": "Perform one step, in place, on Numba's threads.",
}


def _kernels_of(rule: rules.Rule) -> tuple[Any, Any, Any]:
    """Make the three kernels of a rule: the usual, the serial and the parallel one."""
    serial, parallel, check, flats = _serial(rule), _parallel(rule), _check(rule), _flats(rule)
    scalars = _scalars(rule)

    @inner
    def serial_body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        serial(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))

    @inner
    def parallel_body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        parallel(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))

    @inner
    def body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        if p.size * p.itemsize < PARALLEL_BYTES:
            serial(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))
        else:
            parallel(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))

    bodies = {"": body, "_serial": serial_body, "_parallel": parallel_body}
    return tuple(_public(rule, suffix, _guarded(rule, function)) for suffix, function in bodies.items())


def _public(rule: rules.Rule, suffix: str, body: Callable[..., None]) -> Any:
    """Make the kernel with the rule's own argument names, which Numba requires to be written out."""
    name = f"{rule.name}_step{suffix}"
    states, hyper = (_names(rule.states), rule.hyper)
    arguments = ", ".join(("p", "g", *states, "t", *hyper))
    rows, numbers = "".join(f"{n}, " for n in states), "".join(f"{n}, " for n in hyper)
    call = f"return body(p, g, ({rows}), t, ({numbers}))"
    function = from_text(f"{name}({arguments})", call, body=body, __name__=__name__)
    summary = (rule.update.__doc__ or "").strip().split("\n\n")[0]
    function.__doc__ = _DOC.format(purpose=_PURPOSES[suffix], summary=summary)
    return kernel(function)


def _names(states: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the states as arguments: a hyper-parameter may be called momentum, and `sum` is a builtin."""
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


def _guarded(rule: rules.Rule, body: Callable[..., None]) -> Callable[..., None]:
    """Guard the body of a kernel: for arrays that it cannot take it is not compiled, and one line says why."""
    names = ("p", "g", *_names(rule.states))

    def run(p, g, rows, t, hyper):
        error = _problem(names, (p, g, *rows))
        if error:
            raise error
        body(p, g, rows, t, hyper)

    @overload(run, inline="always")
    def run_compiled(p, g, rows, t, hyper):
        error = _problem(names, (p, g, *rows))
        message = str(error)

        def of_another_type(p, g, rows, t, hyper):
            raise TypeError(message)

        def of_another_layout(p, g, rows, t, hyper):
            raise ValueError(message)

        if error:
            return of_another_type if isinstance(error, TypeError) else of_another_layout
        return lambda p, g, rows, t, hyper: body(p, g, rows, t, hyper)

    return run


def _problem(names: tuple[str, ...], arrays: tuple[Any, ...]) -> Exception | None:
    """Exception that says why a kernel cannot take these arrays, or Numba types of arrays; None if it can."""
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, np.ndarray | types.Array):
            return TypeError(f"{name} must be a float32 or float64 array, got {_kind(array)}")
        if str(array.dtype) not in ("float32", "float64"):
            return TypeError(f"{name} must be a float32 or float64 array, got one of {array.dtype}")
        if array.dtype != arrays[0].dtype:
            return TypeError(f"{name} must have the dtype of p, {arrays[0].dtype}, got {array.dtype}")
        if array.ndim != arrays[0].ndim:
            return ValueError(f"{name} must have the shape of p, of {arrays[0].ndim} dimensions, got {array.ndim}")
        if array.ndim > 1 and _order(array) == "A":
            return ValueError(f"{name} must be contiguous, as it has {array.ndim} dimensions, got strides with gaps")
        if array.ndim > 1 and _order(array) != _order(arrays[0]):
            return ValueError(f"{name} must have the memory order of p, {_order(arrays[0])}, got {_order(array)}")
        if name != "g" and not _is_writable(array):
            return ValueError(f"{name} must be writable, got a read-only array")
    return None


def _kind(value: Any) -> str:
    return str(value) if isinstance(value, types.Type) else type(value).__name__


def _order(array: Any) -> str:
    """Memory order of an array: "C", "F", or "A" if it is not contiguous."""
    if isinstance(array, types.Array):
        return str(array.layout)
    return "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else "A"


def _is_writable(array: Any) -> bool:
    return bool(array.mutable if isinstance(array, types.Array) else array.flags.writeable)


def _flat(array):
    """Flatten a contiguous array in its memory order; an array of one dimension is returned as it is."""
    return array if array.ndim == 1 else array.reshape(-1) if array.flags.c_contiguous else array.T.reshape(-1)


@overload(_flat, inline="always")
def _flat_compiled(array):
    if array.ndim == 1:
        return lambda array: array
    if array.layout == "F":
        return lambda array: array.T.reshape(array.size)
    return lambda array: array.reshape(array.size)


_FLATS: tuple[Callable[..., Any], ...] = (
    lambda rows: (),
    lambda rows: (_flat(rows[0]),),
    lambda rows: (_flat(rows[0]), _flat(rows[1])),
    lambda rows: (_flat(rows[0]), _flat(rows[1]), _flat(rows[2])),
)


def _flats(rule: rules.Rule) -> Callable[..., Any]:
    return inner(_FLATS[len(rule.states)])


def _check(rule: rules.Rule) -> Callable[..., None]:
    """Make the check that raises for arrays of another shape than `p`, and for `t` below 1."""
    same = {f"same{k}": _same_shape(name) for k, name in enumerate(_names(rule.states))}
    checks = [f"same{k}(p, rows[{k}])" for k in range(len(rule.states))]
    states = inner(from_text("states(p, rows)", *checks, "pass", **same))
    gradient = _same_shape("g")

    @inner
    def check(p, g, rows, t):
        gradient(p, g)
        states(p, rows)
        if t < 1:
            raise ValueError("t must be at least 1: it counts the steps, this one included")

    return check


def _same_shape(name: str) -> Callable[..., None]:
    message = f"{name} must have the same size and shape as p"

    @inner
    def same(p, array):
        if array.shape != p.shape:
            raise ValueError(message)

    return same


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

__all__ = sorted([*(name for name in globals() if "_step" in name and not name.startswith("_")), "nadam_momentum"])
