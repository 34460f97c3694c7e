"""The optimizers as methods of `scipy.optimize.minimize`; `_scipy.py` has the iterations.

Examples
--------
>>> from scipy.optimize import minimize, rosen, rosen_der
>>> from fastadam.interop.scipy import adam
>>> result = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=adam, options={"lr": 0.05})
>>> result.success, result.x.round(3)
(True, array([1., 1.]))
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, OptimizeWarning

from fastadam._docs import fill
from fastadam.interop._scipy import (
    Box,
    Difference,
    Objective,
    SteppingOptimizer,
    Stops,
    Walk,
    announcer,
    plain,
    real_array,
    result_of,
)
from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD

__all__ = [
    "adadelta", "adagrad", "adam", "adamax", "adamw", "lion", "minimizer", "nadam", "radam", "rmsprop", "sgd",
]  # fmt: skip

_USER_CODE = 5
"""Stack levels from `_warn` to the user's code: the function that calls it, the method, `minimize`, the user."""

_DOC = """
Minimize a function with `{package}.{optimizer}`: a method of `scipy.optimize.minimize`.

Pass it as `method={name}`. It takes the arguments that `minimize` passes on, and the entries of `options`. An option
that is None has its default, as with SciPy's own methods.

Parameters
----------
fun : callable
    The objective, `fun(x, *args) -> float`; with `jac=True` it returns the pair `(float, gradient)`.
x0 : array_like
    Initial point, which is clipped to `bounds`. All computations are in float64.
args : tuple, default=()
    Further arguments of `fun` and `jac`.
jac : callable, {"2-point", "3-point", "cs"} or None, default=None
    The gradient, `jac(x, *args) -> array_like of shape (n,)`, or the scheme by which to estimate it from `fun`. For
    custom methods, `minimize` replaces the names of schemes by None; use `finite_diff_method` instead.
bounds : sequence of (min, max) or scipy.optimize.Bounds, optional
    Bounds of the variables, onto which each step is projected. `fun` is not evaluated outside of them.
callback : callable, optional
    Called after each iteration as `callback(x)`, or as `callback(intermediate_result=...)` if that is the name of its
    only parameter. If it raises StopIteration, the minimization ends.
hess, hessp, constraints : optional
    Not used: a RuntimeWarning is issued if they are given.

Options
-------
lr : float, optional
    Learning rate; by default that of `{optimizer}`.
schedule : callable, optional
    Function `schedule(t)` that returns the learning rate of step t, counted from 0; not together with `lr`.
maxiter : int, default=15000
    Maximum number of iterations, each of them one step.
maxfun : int, default=inf
    Number of evaluations of `fun` after which no iteration begins.
gtol : float, default=1e-5
    Converged if no component of the projected gradient is larger; `tol` of `minimize` sets it too.
ftol : float, default=0
    Converged if an iteration changes `fun` by no more than `ftol * max(abs(before), abs(after), 1)`. With 0, this is
    not tested: `fun` rises and falls, and changes little where it turns.
disp : bool, default=False
    Whether to print a summary at the end.
finite_diff_method : {"2-point", "3-point", "cs"}, default="2-point"
    Scheme of the finite differences if `jac` does not give the gradient.
finite_diff_rel_step : float or array_like, optional
    Relative step of the finite differences; by default it is chosen by SciPy.
{keywords}
    As in `{package}.{optimizer}`. Other options are ignored, with an OptimizeWarning that names them.

Returns
-------
OptimizeResult
    The last iterate `x`, with `fun` and `jac` there; the counts `nit`, `nfev` (finite differences included) and `njev`;
    `success`, `message`, and `status`: 0 converged, 1 at a limit, 3 at a value that is not finite (`x` is the last
    point before it), 99 stopped by the callback. `fun` need not decrease at every step: `best_x` and `best_fun` are the
    best point that was found.

Raises
------
TypeError
    If an option, a value of `fun` or a gradient is not a real number, or `callback` or `schedule` is not callable.
ValueError
    If an option is out of range, a gradient does not have the shape of `x`, the bounds do not fit `x0` or exclude all
    points, or both `lr` and `schedule` are given.

Notes
-----
The source of the update is in the docstring of `{package}.{optimizer}`. The projected gradient is that of Byrd, Lu,
Nocedal & Zhu, "A limited memory algorithm for bound constrained optimization" (1995). With finite differences, the
gradient is 0 for a variable whose bounds are equal. `gtol` applies to the gradient of `fun`, without weight decay.

Examples
--------
>>> from scipy.optimize import minimize, rosen, rosen_der
>>> from fastadam.interop.scipy import {name}
>>> result = minimize(rosen, [0.5, 0.5], jac=rosen_der, method={name}, options={"maxiter": 100})
>>> result.nit, result.nfev, bool(result.fun < rosen([0.5, 0.5]))
(100, 101, True)
"""


def minimizer(optimizer_class: Callable[..., SteppingOptimizer]) -> Callable[..., OptimizeResult]:
    """Make a method of `scipy.optimize.minimize` from an optimizer, such as one made by `fastadam.optimizer`.

    Parameters
    ----------
    optimizer_class : type
        A class of `fastadam.optimizers`, or one made by `fastadam.optimizer`.

    Returns
    -------
    callable
        The argument `method` of `minimize`; its docstring lists the options.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> from fastadam.interop.scipy import minimizer
    >>> from fastadam.optimizers import Adam
    >>> options = {"amsgrad": True, "lr": 0.1}
    >>> result = minimize(rosen, [1.2, 1.0], jac=rosen_der, method=minimizer(Adam), options=options)
    >>> result.success
    True
    """
    keywords = _keywords(optimizer_class)
    name = optimizer_class.__name__.lower()

    def method(
        fun: Callable[..., Any],
        x0: Any,
        args: Any = (),
        *,
        jac: Callable[..., Any] | str | None = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., object] | None = None,
        tol: float | None = None,
        schedule: Callable[[int], float] | None = None,
        maxiter: float | None = None,
        maxfun: float | None = None,
        gtol: float | None = None,
        ftol: float | None = None,
        disp: bool | None = None,
        finite_diff_method: str | None = None,
        finite_diff_rel_step: Any = None,
        **options: Any,
    ) -> OptimizeResult:
        _warn_of_unused(name, hess, hessp, constraints)
        _warn_of_unknown(options.keys() - keywords)
        options = {key: plain(value) for key, value in options.items() if key in keywords and value is not None}
        _check_schedule(schedule, options)
        disp = bool(disp)
        stops = Stops.of(gtol, tol, ftol, maxiter, maxfun)
        announce = announcer(callback)
        x = real_array("x0", x0).ravel()
        box = Box.of(bounds, x.size)
        box.project(x)
        optimizer = optimizer_class(x, **options)
        scheme = "2-point" if finite_diff_method is None else finite_diff_method
        difference = Difference.of(jac if isinstance(jac, str) else scheme, finite_diff_rel_step, box)
        objective = Objective(fun, jac if callable(jac) else difference, args)
        walk = Walk(objective, x, box, optimizer, schedule)
        ending = walk.go(stops, announce)
        result = result_of(walk, ending)
        if disp:
            _print_summary(result)
        return result

    method.__name__ = method.__qualname__ = name
    method.__doc__ = fill(
        _DOC,
        name=name,
        optimizer=optimizer_class.__name__,
        package=optimizer_class.__module__,
        keywords=", ".join(sorted(keywords - {"lr"})),
    )
    return method


def _keywords(optimizer_class: Callable[..., SteppingOptimizer]) -> set[str]:
    """Names of the options passed to the optimizer: its own but `maximize`, and those for clipping if it has them."""
    parameters = inspect.signature(optimizer_class).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    clips = len(named) < len(parameters)  # ** takes the options that all our optimizers share
    return named - {"params", "maximize"} | ({"max_norm", "clip_value"} if clips else set())


def _print_summary(result: OptimizeResult) -> None:
    """Print a result as SciPy's own methods do."""
    print(result.message)
    print(f"         Current function value: {result.fun:f}")
    print(f"         Iterations: {result.nit}")
    print(f"         Function evaluations: {result.nfev}")
    print(f"         Gradient evaluations: {result.njev}")


def _warn_of_unused(name: str, hess: Any, hessp: Any, constraints: Any) -> None:
    """Warn of arguments that are not used, as `minimize` does for its own methods."""
    if hess is not None:
        _warn(f"Method {name} does not use Hessian information (hess).", RuntimeWarning)
    if hessp is not None:
        _warn(f"Method {name} does not use Hessian-vector product information (hessp).", RuntimeWarning)
    if np.any(constraints):
        _warn(f"Method {name} cannot handle constraints.", RuntimeWarning)


def _warn_of_unknown(options: set[str]) -> None:
    if options:
        _warn(f"Unknown solver options: {', '.join(sorted(options))}", OptimizeWarning)


def _warn(message: str, category: type[Warning]) -> None:
    warnings.warn(message, category, stacklevel=_USER_CODE)


def _check_schedule(schedule: Any, options: Mapping[str, Any]) -> None:
    if schedule is None:
        return
    if not callable(schedule):
        raise TypeError(f"schedule must be a function of the step, got {schedule!r}")
    if "lr" in options:
        raise ValueError("lr and schedule must not both be given: the schedule is the learning rate")


sgd = minimizer(SGD)

rmsprop = minimizer(RMSprop)

adagrad = minimizer(Adagrad)

adadelta = minimizer(Adadelta)

adam = minimizer(Adam)

adamw = minimizer(AdamW)

adamax = minimizer(Adamax)

nadam = minimizer(NAdam)

radam = minimizer(RAdam)

lion = minimizer(Lion)
