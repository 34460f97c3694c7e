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

Arrays are of one shape, all float32 or all float64; those of several dimensions are contiguous, all in C or all in
Fortran order. Hyper-parameters are numbers. `mu_product` is the product of
the momenta of the steps before this one, `fastadam.rules.nadam_momentum(t, beta1, momentum_decay)`, and 1 at first.

Raises
------
ValueError
    If shapes or memory orders differ, an array of several dimensions is not contiguous, one that is written is
    read-only, or `t` is less than 1.
TypeError
    If an array is not float32 or float64, or the dtypes differ.

Notes
-----
The formulas, with their sources, are those of `fastadam.rules`.

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

from fastadam import rules
from fastadam.cpu import BLOCK, PARALLEL_BYTES, Variant, element_loop
from fastadam.jit import device, kernel, rounded, unrolled

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
    serial, parallel, check, flats = _serial(rule), _parallel(rule), _check(rule), _flats(rule)
    scalars = _scalars(rule)

    @device
    def serial_body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        serial(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))

    @device
    def parallel_body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        parallel(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))

    @device
    def body(p, g, rows, t, hyper):
        check(p, g, rows, t)
        if p.size * p.itemsize < PARALLEL_BYTES:
            serial(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))
        else:
            parallel(_flat(p), _flat(g), flats(rows), scalars(p, t, hyper))

    bodies = {"": body, "_serial": serial_body, "_parallel": parallel_body}
    return tuple(_public(rule, suffix, _guarded(rule, function)) for suffix, function in bodies.items())


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
    compute = device(rule.scalars)
    return device(lambda p, t, hyper: rounded(p, compute(t, *hyper)))


def _serial(rule: rules.Rule) -> Callable[..., None]:
    loop = element_loop(Variant(rule))
    return device(lambda p, g, rows, scalars: loop(p, g, rows, 0, p.size, 0, p.dtype.type(0), scalars, ()))


def _parallel(rule: rules.Rule) -> Callable[..., None]:
    loop = element_loop(Variant(rule))

    @kernel(parallel=True, variant=rule.name)
    def parallel(p, g, rows, scalars):
        zero = p.dtype.type(0)
        for block in prange((p.size + BLOCK - 1) // BLOCK):
            start, stop = block * BLOCK, min((block + 1) * BLOCK, p.size)
            loop(p, g, rows, start, stop, 0, zero, scalars, ())

    return parallel


def _guarded(rule: rules.Rule, body: Callable[..., None]) -> Callable[..., None]:
    """The body for arrays that it takes; for others it is not compiled, and what is raised says why in one line."""
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
    """What keeps a kernel from taking these arrays, or these types of Numba's, as an exception."""
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
    """The order of the elements in memory: "C", "F", or "A" if they are not contiguous."""
    if isinstance(array, types.Array):
        return str(array.layout)
    return "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else "A"


def _is_writable(array: Any) -> bool:
    return bool(array.mutable if isinstance(array, types.Array) else array.flags.writeable)


def _flat(array):
    """The elements of a contiguous array in the order that they have in memory; an array of one dimension itself."""
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
    return device(_FLATS[len(rule.states)])


def _check(rule: rules.Rule) -> Callable[..., None]:
    """What refuses arrays of another shape, and steps that do not count from 1."""
    same = {f"same{k}": _same_shape(name) for k, name in enumerate(_names(rule.states))}
    states = device(unrolled("states(p, rows)", "{}pass", "same{k}(p, rows[{k}]); ", len(rule.states), **same))
    gradient = _same_shape("g")

    @device
    def check(p, g, rows, t):
        gradient(p, g)
        states(p, rows)
        if t < 1:
            raise ValueError("t must be at least 1: it counts the steps, this one included")

    return check


def _same_shape(name: str) -> Callable[..., None]:
    message = f"{name} must have the same size and shape as p"

    @device
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

__all__ = sorted(name for name in globals() if "_step" in name and not name.startswith("_"))
