"""Minimization of a function by an optimizer, as the methods of `fastadam.interop.scipy` do it.

An `Objective` calls the user's function and gradient, within a `Box` of bounds; a `Walk` moves from `Point` to `Point`
until `Stops`, the callback or a value that is not finite ends it, with an `Ending`; `result_of` is what SciPy returns.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, OptimizeResult
from scipy.optimize._numdiff import approx_derivative

from fastadam._checks import number

Vector = NDArray[np.float64]
"""An array of one dimension, in float64."""

_SCHEMES = ("2-point", "3-point", "cs")


class SteppingOptimizer(Protocol):
    """Optimizer that a `Walk` can use."""

    lr: float

    def step(self, grads: Vector) -> None:
        """Update the parameters in place."""


class Ending(Enum):
    """Reason why a minimization ended: SciPy's status and message."""

    SMALL_GRADIENT = (0, "Optimization terminated successfully: the projected gradient is within gtol.")
    SMALL_CHANGE = (0, "Optimization terminated successfully: the relative change of fun is within ftol.")
    MAXITER = (1, "Maximum number of iterations has been exceeded.")
    MAXFUN = (1, "Maximum number of function evaluations has been exceeded.")
    NOT_FINITE = (3, "NaN or infinite result encountered.")
    STOPPED = (99, "`callback` raised `StopIteration`.")


@dataclass(frozen=True)
class Point:
    """Point with the value of the function and its gradient there."""

    x: Vector
    fun: float
    jac: Vector

    @property
    def is_finite(self) -> bool:
        """True if the function and its gradient are finite."""
        return math.isfinite(self.fun) and bool(np.isfinite(self.jac).all())


# --- bounds, function and gradient ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """Bounds of the variables."""

    lower: Vector
    upper: Vector

    @classmethod
    def of(cls, bounds: Any, size: int) -> "Box":
        """Make the box of `size` variables from bounds as `minimize` takes them."""
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
        """Mask of the variables that can move."""
        return self.lower < self.upper

    @cached_property
    def is_open(self) -> bool:
        """True if no variable is bounded."""
        return bool(np.isneginf(self.lower).all() and np.isposinf(self.upper).all())

    def project(self, x: Vector) -> None:
        """Move `x`, in place, to the nearest point within the bounds."""
        np.clip(x, self.lower, self.upper, out=x)

    def projected_gradient(self, point: Point) -> float:
        """Compute the largest component of the gradient, each limited to the step that the bounds allow against it."""
        jac = point.jac
        if not self.is_open:  # clipping to infinite bounds would take a good part of the time of a step
            jac = np.clip(jac, point.x - self.upper, point.x - self.lower)
        return float(np.abs(jac).max(initial=0.0))


def _lower_and_upper(bounds: Any) -> tuple[Vector, Vector]:
    if bounds is None:
        return np.array(-math.inf), np.array(math.inf)
    if isinstance(bounds, Bounds):
        return real_array("bounds.lb", bounds.lb), real_array("bounds.ub", bounds.ub)
    try:
        pairs = [(lower, upper) for lower, upper in bounds]
    except (TypeError, ValueError) as error:
        raise ValueError(f"bounds must be Bounds or a sequence of (min, max), got {bounds!r}") from error
    lower = [-math.inf if value is None else value for value, _ in pairs]
    upper = [math.inf if value is None else value for _, value in pairs]
    return real_array("bounds", lower), real_array("bounds", upper)


@dataclass(frozen=True)
class Difference:
    """Gradient by finite differences, as SciPy estimates it for its own methods."""

    scheme: str
    rel_step: Vector | None
    box: Box

    @classmethod
    def of(cls, scheme: Any, rel_step: Any, box: Box) -> "Difference":
        """Make the estimate from a scheme and a relative step as `minimize` takes them."""
        if not isinstance(scheme, str) or scheme not in _SCHEMES:
            raise ValueError(f"jac and finite_diff_method must be one of {_SCHEMES}, got {scheme!r}")
        if rel_step is None:
            return cls(scheme, None, box)
        rel_step = real_array("finite_diff_rel_step", rel_step)
        if not np.isfinite(rel_step).all():
            raise ValueError(f"finite_diff_rel_step must be finite, got {rel_step}")
        try:
            return cls(scheme, np.broadcast_to(rel_step, box.lower.shape), box)
        except ValueError as error:
            raise ValueError(f"finite_diff_rel_step must fit x0, got the shape {rel_step.shape}") from error

    def gradient(self, fun: Callable[[NDArray[Any]], Any], x: Vector, fun_at_x: float) -> Vector:
        """Estimate the gradient of `fun` at `x`; it is 0 for variables that cannot move."""
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


class Objective:
    """The user's function and gradient: called with copies, counted, and checked for what they return."""

    def __init__(self, fun: Callable[..., Any], jac: Callable[..., Any] | Difference, args: Any) -> None:
        self._fun = fun
        self._jac = jac
        self._args = args if isinstance(args, tuple) else (args,)
        self.nfev = 0
        self.njev = 0

    def at(self, x: Vector) -> Point:
        """Evaluate the function and its gradient at `x`; nothing is called after a value that is not finite."""
        fun = self._value(x) if np.isfinite(x).all() else math.nan
        jac = self._gradient(x, fun) if math.isfinite(fun) else np.full_like(x, math.nan)
        return Point(x.copy(), fun, jac)

    def _value(self, x: Vector) -> float:
        value = self._scalar(x)
        if not isinstance(value, Real):
            raise TypeError(f"fun must return a real number, got {value!r}")
        return float(value)

    def _scalar(self, x: NDArray[Any]) -> Any:
        """Evaluate `fun` to a Python scalar, which is complex for the finite differences "cs"."""
        self.nfev += 1
        value = self._fun(x.copy(), *self._args)
        try:
            return np.asarray(value).item()
        except ValueError as error:
            raise ValueError(f"fun must return one number, got {value!r}") from error

    def _gradient(self, x: Vector, fun: float) -> Vector:
        self.njev += 1
        if isinstance(self._jac, Difference):
            return self._jac.gradient(self._scalar, x, fun)
        jac = np.atleast_1d(real_array("jac", self._jac(x.copy(), *self._args)))
        if jac.shape != x.shape:
            raise ValueError(f"jac must return a gradient of the shape {x.shape} of x, got {jac.shape}")
        return jac


# --- the iterations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stops:
    """Criteria that end a walk: convergence and limits."""

    gtol: float
    ftol: float
    maxiter: float
    maxfun: float

    @classmethod
    def of(
        cls, gtol: float | None, tol: float | None, ftol: float | None, maxiter: float | None, maxfun: float | None
    ) -> "Stops":
        """Make the criteria from options of `minimize`, of which None stands for the default."""
        tol = _at_least_0("tol", tol, 1e-5)
        return cls(
            gtol=_at_least_0("gtol", gtol, tol),
            ftol=_at_least_0("ftol", ftol, 0.0),
            maxiter=_at_least_0("maxiter", maxiter, 15_000),
            maxfun=_at_least_0("maxfun", maxfun, math.inf),
        )

    def ending(self, walk: "Walk") -> Ending | None:
        """Return why a walk ends at its last point, or None if it does not."""
        if walk.slope <= self.gtol:
            return Ending.SMALL_GRADIENT
        if self.ftol and walk.change <= self.ftol:
            return Ending.SMALL_CHANGE
        if walk.nit >= self.maxiter:
            return Ending.MAXITER
        if walk.objective.nfev >= self.maxfun:
            return Ending.MAXFUN
        return None


def _at_least_0(name: str, value: Any, default: float) -> float:
    return number(name, default if value is None else plain(value), "[0, inf]")


class Walk:
    """Iterations of an optimizer, which moves `x` in place: the last point, the best point, the number of steps."""

    def __init__(
        self,
        objective: Objective,
        x: Vector,
        box: Box,
        optimizer: SteppingOptimizer,
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

    def go(self, stops: Stops, announce: Callable[[Point], bool]) -> Ending:
        """Step until the end; `announce` is called with each new point, and returns whether to continue."""
        if not self.last.is_finite:
            return Ending.NOT_FINITE
        while (ending := stops.ending(self)) is None:
            point = self._step()
            if not point.is_finite:
                return Ending.NOT_FINITE
            self._arrive_at(point)
            if not announce(point):
                return Ending.STOPPED
        return ending

    def _step(self) -> Point:
        if self._schedule is not None:
            self._optimizer.lr = plain(self._schedule(self.nit))
        self._optimizer.step(self.last.jac)
        self._box.project(self._x)
        return self.objective.at(self._x)

    def _arrive_at(self, point: Point) -> None:
        self.change = abs(point.fun - self.last.fun) / max(abs(point.fun), abs(self.last.fun), 1.0)
        self.best = min(self.best, point, key=lambda known: known.fun)
        self.last = point
        self.nit += 1


def announcer(callback: Callable[..., object] | None) -> Callable[[Point], bool]:
    """Make a function that calls `callback` in the style of its parameters, and returns False on StopIteration."""
    if callback is None:
        return lambda point: True
    if not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    by_keyword = set(inspect.signature(callback).parameters) == {"intermediate_result"}

    def announce(point: Point) -> bool:
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


def result_of(walk: Walk, ending: Ending) -> OptimizeResult:
    """Make the result that SciPy returns."""
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


# --- values -----------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return the number in an array without dimensions, as SciPy does; other values are returned as they are."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def real_array(what: str, values: Any) -> Vector:
    """Copy values, which must be real numbers, to a new array of float64."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{what} must be an array, got {values!r}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must be real numbers, got {values!r}")
    return array.astype(np.float64)
