"""Our optimizers as methods of `scipy.optimize.minimize`.

Examples
--------
>>> from scipy.optimize import minimize, rosen, rosen_der
>>> from fastadam.interop.scipy import adam
>>> result = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=adam, options={"lr": 0.05})
>>> result.success, result.x.round(3)
(True, array([1., 1.]))
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning
from scipy.optimize._numdiff import approx_derivative  # public `approx_fprime` would step over the bounds

from fastadam.optimizers import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSprop

__all__ = [
    "adadelta", "adagrad", "adam", "adamax", "adamw", "lion", "minimizer", "nadam", "radam", "rmsprop", "sgd",
]  # fmt: skip

Array = NDArray[np.float64]

_SCHEMES = ("2-point", "3-point", "cs")
_USER_CODE = 5  # stack levels up from `_warn`: what calls it, the method, `minimize`, the user

_DOC = """Minimize a function with `{package}.{optimizer}`: a method of `scipy.optimize.minimize`.

    Give it as `method={name}`; it takes what `minimize` hands on, and the entries of `options`. An option that is None
    has its default, as with SciPy's own methods.

    Parameters
    ----------
    fun : callable
        The objective, `fun(x, *args) -> float`; with `jac=True` it returns the pair `(float, gradient)`.
    x0 : array_like
        Where to start; clipped to `bounds`. All is computed in float64.
    args : tuple, default=()
        Further arguments of `fun` and `jac`.
    jac : callable, {{"2-point", "3-point", "cs"}} or None, default=None
        The gradient, `jac(x, *args) -> array_like of shape (n,)`, or how to estimate it from `fun`. `minimize` turns
        the names into None for a method of one's own; then `finite_diff_method` says how.
    bounds : sequence of (min, max) or scipy.optimize.Bounds, optional
        Each step is followed by a projection onto them. `fun` is not evaluated beyond them.
    callback : callable, optional
        Called after each iteration as `callback(x)`, or as `callback(intermediate_result=...)` where that is the name
        of its only parameter. It ends the minimization by raising StopIteration.
    hess, hessp, constraints : optional
        Not used: a RuntimeWarning says so.

    Options
    -------
    lr : float, optional
        The learning rate; by default that of `{optimizer}`.
    schedule : callable, optional
        In place of `lr`: `schedule(t)` is the rate of step t, counted from 0.
    maxiter : int, default=15000
        The largest number of iterations, each of them one step.
    maxfun : int, default=inf
        No iteration begins after this many evaluations of `fun`.
    gtol : float, default=1e-5
        Success when no component of the projected gradient is larger; `tol` of `minimize` sets it too.
    ftol : float, default=0
        Success when an iteration changes `fun` by no more than `ftol * max(abs(before), abs(after), 1)`. 0 is off: on
        its way `fun` rises and falls, and at a turn it changes little.
    disp : bool, default=False
        Print a summary at the end.
    finite_diff_method : {{"2-point", "3-point", "cs"}}, default="2-point"
        How to estimate a gradient that `jac` does not give.
    finite_diff_rel_step : float or array_like, optional
        The relative step of that; by default SciPy's choice.
    {keywords}
        As in `{package}.{optimizer}`. Others are named in an OptimizeWarning, and ignored.

    Returns
    -------
    OptimizeResult
        The last iterate `x`, with `fun` and `jac` there; the counts `nit`, `nfev` (those of finite differences too)
        and `njev`; `success`, `message`, and `status`: 0 converged, 1 at a limit, 3 at a value that is not finite (`x`
        is the last point before it), 99 stopped by the callback. `fun` need not fall at every step, so `best_x` and
        `best_fun` are the lowest point that was seen.

    Raises
    ------
    TypeError
        If an option, a value of `fun` or a gradient is no real number, or `callback` or `schedule` no function.
    ValueError
        If an option is out of its range, a gradient has another shape than `x`, the bounds do not fit `x0` or exclude
        every point, or both `lr` and `schedule` are given.

    Notes
    -----
    The update's source is in the docstring of `{package}.{optimizer}`; the projected gradient is that of Byrd, Lu,
    Nocedal & Zhu, "A limited memory algorithm for bound constrained optimization" (1995). With finite differences, the
    gradient is 0 in a variable whose bounds are equal. `gtol` looks at the gradient of `fun`, without weight decay.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> from fastadam.interop.scipy import {name}
    >>> result = minimize(rosen, [0.5, 0.5], jac=rosen_der, method={name}, options={{"maxiter": 100}})
    >>> result.nit, result.nfev, bool(result.fun < rosen([0.5, 0.5]))
    (100, 101, True)
    """


class _Optimizer(Protocol):
    lr: float

    def step(self, grads: Array) -> None: ...


class _Ending(Enum):
    """Why a minimization ended: SciPy's status, and SciPy's words for it."""

    SMALL_GRADIENT = (0, "Optimization terminated successfully: the projected gradient is within gtol.")
    SMALL_CHANGE = (0, "Optimization terminated successfully: the relative change of fun is within ftol.")
    MAXITER = (1, "Maximum number of iterations has been exceeded.")
    MAXFUN = (1, "Maximum number of function evaluations has been exceeded.")
    NOT_FINITE = (3, "NaN or infinite result encountered.")
    STOPPED = (99, "`callback` raised `StopIteration`.")


def minimizer(optimizer_class: Callable[..., _Optimizer]) -> Callable[..., OptimizeResult]:
    """Make a method of `scipy.optimize.minimize` that steps with an optimizer, such as one of `fastadam.optimizer`.

    Parameters
    ----------
    optimizer_class : type
        A class of `fastadam.optimizers`, or one that `fastadam.optimizer` made.

    Returns
    -------
    callable
        What `minimize` takes as `method`; its docstring lists the options.

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
        options = {key: _plain(value) for key, value in options.items() if key in keywords and value is not None}
        _check_schedule(schedule, options)
        disp = bool(disp)
        stops = _Stops.of(gtol, tol, ftol, maxiter, maxfun)
        announce = _announcer(callback)
        x = _reals("x0", x0).ravel()
        box = _Box.of(bounds, x.size)
        box.project(x)
        optimizer = optimizer_class(x, **options)
        scheme = "2-point" if finite_diff_method is None else finite_diff_method
        difference = _Difference.of(jac if isinstance(jac, str) else scheme, finite_diff_rel_step, box)
        objective = _Objective(fun, jac if callable(jac) else difference, args)
        walk = _Walk(objective, x, box, optimizer, schedule)
        ending = walk.go(stops, announce)
        result = _result(walk, ending)
        if disp:
            _print_summary(result)
        return result

    method.__name__ = method.__qualname__ = name
    method.__doc__ = _DOC.format(
        name=name,
        optimizer=optimizer_class.__name__,
        package=optimizer_class.__module__,
        keywords=", ".join(sorted(keywords - {"lr"})),
    )
    return method


def _keywords(optimizer_class: Callable[..., _Optimizer]) -> set[str]:
    """The options that go to the optimizer: all it takes, but what would make it maximize, and clipping if it clips."""
    parameters = inspect.signature(optimizer_class).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    clips = len(named) < len(parameters)  # behind ** are the options that all of ours share
    return named - {"params", "maximize"} | ({"max_norm", "clip_value"} if clips else set())


@dataclass(frozen=True)
class _Box:
    """The bounds of the variables."""

    lower: Array
    upper: Array

    @classmethod
    def of(cls, bounds: Any, size: int) -> "_Box":
        lower, upper = _lower_and_upper(bounds)
        try:
            lower, upper = np.broadcast_to(lower, size), np.broadcast_to(upper, size)
        except ValueError as error:
            raise ValueError("The number of bounds is not compatible with the length of `x0`.") from error
        if np.isnan(lower).any() or np.isnan(upper).any():
            raise ValueError("bounds must not be NaN: None, or infinity, leaves a side open.")
        if (upper < lower).any():
            raise ValueError("An upper bound is less than the corresponding lower bound.")
        return cls(lower, upper)

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Which variables can move."""
        return self.lower < self.upper

    @cached_property
    def is_open(self) -> bool:
        """Whether there are no bounds."""
        return bool(np.isneginf(self.lower).all() and np.isposinf(self.upper).all())

    def project(self, x: Array) -> None:
        """Move `x`, in place, to the nearest point within the bounds."""
        np.clip(x, self.lower, self.upper, out=x)

    def projected_gradient(self, point: "_Point") -> float:
        """The largest component of the gradient, each as far as the bounds let a step against it go."""
        jac = point.jac
        if not self.is_open:  # or else a good part of a step is lost on arrays of infinities
            jac = np.clip(jac, point.x - self.upper, point.x - self.lower)
        return float(np.abs(jac).max(initial=0.0))


def _lower_and_upper(bounds: Any) -> tuple[Array, Array]:
    if bounds is None:
        return np.array(-math.inf), np.array(math.inf)
    if isinstance(bounds, Bounds):
        return _reals("bounds.lb", bounds.lb), _reals("bounds.ub", bounds.ub)
    try:
        pairs = [(lower, upper) for lower, upper in bounds]
    except (TypeError, ValueError) as error:
        raise ValueError(f"bounds must be Bounds or a sequence of (min, max), got {bounds!r}") from error
    lower = [-math.inf if value is None else value for value, _ in pairs]
    upper = [math.inf if value is None else value for _, value in pairs]
    return _reals("bounds", lower), _reals("bounds", upper)


@dataclass(frozen=True)
class _Point:
    x: Array
    fun: float
    jac: Array

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.fun) and bool(np.isfinite(self.jac).all())


@dataclass(frozen=True)
class _Difference:
    """Finite differences, as SciPy takes them for methods of its own."""

    scheme: str
    rel_step: Array | None
    box: _Box

    @classmethod
    def of(cls, scheme: Any, rel_step: Any, box: _Box) -> "_Difference":
        if not isinstance(scheme, str) or scheme not in _SCHEMES:
            raise ValueError(f"jac and finite_diff_method must be one of {_SCHEMES}, got {scheme!r}")
        if rel_step is None:
            return cls(scheme, None, box)
        rel_step = _reals("finite_diff_rel_step", rel_step)
        if not np.isfinite(rel_step).all():
            raise ValueError(f"finite_diff_rel_step must be finite, got {rel_step}")
        try:
            return cls(scheme, np.broadcast_to(rel_step, box.lower.shape), box)
        except ValueError as error:
            raise ValueError(f"finite_diff_rel_step must fit x0, got the shape {rel_step.shape}") from error

    def gradient(self, fun: Callable[[NDArray[Any]], Any], x: Array, fun_at_x: float) -> Array:
        free = self.box.free  # SciPy cannot take differences between equal bounds

        def fun_of_free(values: NDArray[Any]) -> Any:
            moved = x.astype(values.dtype)  # complex for "cs"
            moved[free] = values
            return fun(moved)

        rel_step = None if self.rel_step is None else self.rel_step[free]
        bounds = (self.box.lower[free], self.box.upper[free])
        jac = np.zeros_like(x)
        if free.any():
            jac[free] = approx_derivative(fun_of_free, x[free], self.scheme, rel_step, f0=fun_at_x, bounds=bounds)
        return jac


class _Objective:
    """The user's function and gradient: called on copies, counted, and what they return checked."""

    def __init__(self, fun: Callable[..., Any], jac: Callable[..., Any] | _Difference, args: Any) -> None:
        self._fun = fun
        self._jac = jac
        self._args = args if isinstance(args, tuple) else (args,)
        self.nfev = 0
        self.njev = 0

    def at(self, x: Array) -> _Point:
        """The function and its gradient at `x`; past the first thing that is not finite, NaN without a call."""
        fun = self._value(x) if np.isfinite(x).all() else math.nan
        jac = self._gradient(x, fun) if math.isfinite(fun) else np.full_like(x, math.nan)
        return _Point(x.copy(), fun, jac)

    def _value(self, x: Array) -> float:
        value = self._scalar(x)
        if not isinstance(value, Real):
            raise TypeError(f"fun must return a real number, got {value!r}")
        return float(value)

    def _scalar(self, x: NDArray[Any]) -> Any:
        """What `fun` returns, as a Python scalar: complex where finite differences go into the complex plane."""
        self.nfev += 1
        value = self._fun(x.copy(), *self._args)
        try:
            return np.asarray(value).item()
        except ValueError as error:
            raise ValueError(f"fun must return one number, got {value!r}") from error

    def _gradient(self, x: Array, fun: float) -> Array:
        self.njev += 1
        if isinstance(self._jac, _Difference):
            return self._jac.gradient(self._scalar, x, fun)
        jac = np.atleast_1d(_reals("jac", self._jac(x.copy(), *self._args)))
        if jac.shape != x.shape:
            raise ValueError(f"jac must return a gradient of the shape {x.shape} of x, got {jac.shape}")
        return jac


@dataclass(frozen=True)
class _Stops:
    """What ends a walk that neither fails nor is stopped."""

    gtol: float
    ftol: float
    maxiter: float
    maxfun: float

    @classmethod
    def of(
        cls, gtol: float | None, tol: float | None, ftol: float | None, maxiter: float | None, maxfun: float | None
    ) -> "_Stops":
        tol = _at_least_0("tol", tol, 1e-5)
        return cls(
            gtol=_at_least_0("gtol", gtol, tol),
            ftol=_at_least_0("ftol", ftol, 0.0),
            maxiter=_at_least_0("maxiter", maxiter, 15_000),
            maxfun=_at_least_0("maxfun", maxfun, math.inf),
        )

    def ending(self, walk: "_Walk") -> _Ending | None:
        if walk.slope <= self.gtol:
            return _Ending.SMALL_GRADIENT
        if self.ftol and walk.change <= self.ftol:
            return _Ending.SMALL_CHANGE
        if walk.nit >= self.maxiter:
            return _Ending.MAXITER
        if walk.objective.nfev >= self.maxfun:
            return _Ending.MAXFUN
        return None


class _Walk:
    """The way of `x`, which the optimizer moves in place: the last point, the best one, the number of steps."""

    def __init__(
        self,
        objective: _Objective,
        x: Array,
        box: _Box,
        optimizer: _Optimizer,
        schedule: Callable[[int], float] | None,
    ) -> None:
        self.objective = objective
        self._x = x
        self._box = box
        self._optimizer = optimizer
        self._schedule = schedule
        self.last = self.best = objective.at(x)
        self.change = math.inf
        self.nit = 0

    @property
    def slope(self) -> float:
        """The largest component of the projected gradient."""
        return self._box.projected_gradient(self.last)

    def go(self, stops: _Stops, announce: Callable[[_Point], bool]) -> _Ending:
        """Step until something ends it; `announce` is called with each new point, and says whether to go on."""
        if not self.last.is_finite:
            return _Ending.NOT_FINITE
        while (ending := stops.ending(self)) is None:
            point = self._step()
            if not point.is_finite:
                return _Ending.NOT_FINITE
            self._arrive_at(point)
            if not announce(point):
                return _Ending.STOPPED
        return ending

    def _step(self) -> _Point:
        if self._schedule is not None:
            self._optimizer.lr = _plain(self._schedule(self.nit))
        self._optimizer.step(self.last.jac)
        self._box.project(self._x)
        return self.objective.at(self._x)

    def _arrive_at(self, point: _Point) -> None:
        self.change = abs(point.fun - self.last.fun) / max(abs(point.fun), abs(self.last.fun), 1.0)
        self.best = min(self.best, point, key=lambda known: known.fun)
        self.last = point
        self.nit += 1


def _announcer(callback: Callable[..., object] | None) -> Callable[[_Point], bool]:
    """Calls `callback`, in the style that its parameters ask for; False where it raised StopIteration."""
    if callback is None:
        return lambda point: True
    if not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    by_keyword = set(inspect.signature(callback).parameters) == {"intermediate_result"}

    def announce(point: _Point) -> bool:
        x = point.x.copy()
        try:
            if by_keyword:
                callback(intermediate_result=OptimizeResult(x=x, fun=point.fun))
            else:
                callback(x)
        except StopIteration:
            return False
        return True

    return announce


def _result(walk: _Walk, ending: _Ending) -> OptimizeResult:
    status, message = ending.value
    return OptimizeResult(
        x=walk.last.x,
        fun=walk.last.fun,
        jac=walk.last.jac,
        nit=walk.nit,
        nfev=walk.objective.nfev,
        njev=walk.objective.njev,
        success=status == 0,
        status=status,
        message=message,
        best_x=walk.best.x.copy(),
        best_fun=walk.best.fun,
    )


def _print_summary(result: OptimizeResult) -> None:
    """What SciPy's own methods print."""
    print(result.message)
    print(f"         Current function value: {result.fun:f}")
    print(f"         Iterations: {result.nit}")
    print(f"         Function evaluations: {result.nfev}")
    print(f"         Gradient evaluations: {result.njev}")


def _warn_of_unused(name: str, hess: Any, hessp: Any, constraints: Any) -> None:
    """As `minimize` does for its own methods."""
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


def _plain(value: Any) -> Any:
    """An array of no dimensions as the number in it, which is what SciPy takes it for."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _at_least_0(name: str, value: Any, default: float) -> float:
    number: Any = default if value is None else _plain(value)
    if not isinstance(number, Real) or isinstance(number, bool | np.bool_):
        raise TypeError(f"{name} must be a number, got {number!r}")
    if not float(number) >= 0:
        raise ValueError(f"{name} must be at least 0, got {number!r}")
    return float(number)


def _reals(what: str, values: Any) -> Array:
    """A new array of `values` in float64."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{what} must be an array, got {values!r}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must be real numbers, got {values!r}")
    return array.astype(np.float64)


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
