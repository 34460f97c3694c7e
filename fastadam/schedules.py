"""Learning-rate schedules: functions of the step, and `Scheduler`, which applies one to an optimizer.

A schedule is any function of the step `t`, counted from 0, that returns a learning rate: a finite number, at least 0.
The classes of this module are such functions, immutable and made of plain numbers. Their names, formulas and defaults
are those of `torch.optim.lr_scheduler`. A step is an update or an epoch, depending on when `Scheduler.step` is called.
"""

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from numbers import Real
from typing import Annotated, Any, Literal, Protocol

from fastadam._checks import Checked, ascending, check_entries, choice, count, flag, items, number, positive, real
from fastadam._docs import fill_docstring


def _function(name: str, value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a function of t, got {value!r}")
    return value


def _schedule(name: str, value: Any) -> "Schedule":
    schedule = get_schedule(value)
    if isinstance(schedule, Plateau):
        raise TypeError(f"{name} must be a function of t, which Plateau is not, got {schedule!r}")
    return schedule


def _schedules(name: str, value: Any) -> "tuple[Schedule, ...]":
    schedules = tuple(_schedule(f"{name}[{k}]", item) for k, item in enumerate(items(name, value)))
    if not schedules:
        raise ValueError(f"{name} must hold at least one schedule, got {value!r}")
    return schedules


# Types of the fields, each with its check.
_Rate = Annotated[float, number]

_Positive = Annotated[float, positive]

_Part = Annotated[float, partial(number, interval="[0, 1]")]

_Steps = Annotated[int, count]

_StepsOrNone = Annotated[int, partial(count, least=0)]

_Milestones = Annotated[Sequence[int], ascending]

_Schedule = Annotated[Any, _schedule]

_Schedules = Annotated[Sequence[Any], _schedules]


@dataclass(frozen=True)
class Schedule(Checked):
    """Base class of the schedules, which are immutable, compare by value, and are called with the step.

    Raises
    ------
    TypeError
        If a parameter, the step, or the rate at a step has the wrong type.
    ValueError
        If a parameter or the step is out of range, or the rate at a step is NaN, infinite or negative.
    """

    def __call__(self, t: int) -> float:
        """Compute the learning rate of a step.

        Parameters
        ----------
        t : int
            The step, counted from 0.

        Returns
        -------
        float
            The learning rate, at least 0.
        """
        t = count("t", t, 0)
        try:
            rate = self._at(t)
        except OverflowError:  # raised by gamma ** t for Python floats
            rate = math.inf
        if type(rate) is float and 0 <= rate < math.inf:  # first: the name below costs more than most schedules
            return rate
        return number(f"the rate of {self!r} at step {t}", rate)

    def _at(self, t: int) -> float:
        raise NotImplementedError


_documented = fill_docstring(
    lr="""
lr : float
    Initial learning rate, at least 0.""",
    gamma="""
gamma : float, default=0.1
    Factor of each reduction, at least 0.""",
    eta_min="""
eta_min : float, default=0.0
    The lowest rate, at least 0.""",
    schedules="""
schedules : sequence of callable, number, str or mapping
    At least one schedule, each as accepted by `get_schedule`.""",
)
"""Class decorator that completes the docstring of a schedule by the texts that several schedules share."""


def _between(start: float, end: float, part: float) -> float:
    """Interpolate from `start` to `end`, both exact, so that rounding takes no rate below 0."""
    return start * (1 - part) + end * part


def _half_cosine(part: float) -> float:
    return (1 - math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class Function(Schedule):
    """Any function of the step as a schedule: `function(t)`.

    `get_schedule` wraps functions in this class.

    Parameters
    ----------
    function : callable
        Function of the step `t` that returns the learning rate.

    Examples
    --------
    >>> from fastadam.schedules import Function
    >>> Function(lambda t: 1 / (1 + t))(3)
    0.25
    """

    function: Annotated[Callable[[int], float], _function]

    def _at(self, t: int) -> float:
        return self.function(t)


@dataclass(frozen=True)
class Constant(Schedule):
    """Constant rate `lr`.

    Parameters
    ----------
    lr : float
        Learning rate of every step, at least 0.

    Examples
    --------
    >>> from fastadam.schedules import Constant
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: _Rate

    def _at(self, t: int) -> float:
        return self.lr


@_documented
@dataclass(frozen=True)
class Step(Schedule):
    """Rate multiplied by `gamma` every `step_size` steps: `lr * gamma ** (t // step_size)`, as `StepLR`.

    Parameters
    ----------
    {lr}
    step_size : int
        Number of steps between reductions.
    {gamma}

    Examples
    --------
    >>> from fastadam.schedules import Step
    >>> [Step(8.0, step_size=2, gamma=0.5)(t) for t in range(6)]
    [8.0, 8.0, 4.0, 4.0, 2.0, 2.0]
    """

    lr: _Rate
    step_size: _Steps
    gamma: _Rate = 0.1

    def _at(self, t: int) -> float:
        return self.lr * self.gamma ** (t // self.step_size)


@_documented
@dataclass(frozen=True)
class MultiStep(Schedule):
    """Rate multiplied by `gamma` at each of the milestones, as `MultiStepLR`.

    The rate of step `t` is `lr * gamma ** n`, where `n` is the number of milestones that are at most `t`.

    Parameters
    ----------
    {lr}
    milestones : sequence of int
        Steps at which the rate is multiplied, in ascending order.
    {gamma}

    Examples
    --------
    >>> from fastadam.schedules import MultiStep
    >>> [MultiStep(8.0, milestones=[1, 4], gamma=0.5)(t) for t in range(6)]
    [8.0, 4.0, 4.0, 4.0, 2.0, 2.0]
    """

    lr: _Rate
    milestones: _Milestones
    gamma: _Rate = 0.1

    def _at(self, t: int) -> float:
        return self.lr * self.gamma ** bisect_right(self.milestones, t)


@_documented
@dataclass(frozen=True)
class Exponential(Schedule):
    """Rate multiplied by `gamma` at every step: `lr * gamma ** t`, as `ExponentialLR`.

    Parameters
    ----------
    {lr}
    gamma : float
        Factor of every step, at least 0.

    Examples
    --------
    >>> from fastadam.schedules import Exponential
    >>> [Exponential(8.0, gamma=0.5)(t) for t in range(4)]
    [8.0, 4.0, 2.0, 1.0]
    """

    lr: _Rate
    gamma: _Rate

    def _at(self, t: int) -> float:
        return self.lr * self.gamma**t


@_documented
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `lr` to `eta_min`, as `CosineAnnealingLR`.

    The rate is `eta_min` at step `T_max`. It rises after that, and is `lr` again at step `2 * T_max`.

    Parameters
    ----------
    {lr}
    T_max : int
        Step of the lowest rate.
    {eta_min}

    Notes
    -----
    The rate of step `t` is `eta_min + (lr - eta_min) * (1 + cos(pi * t / T_max)) / 2`.

    Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017).

    Examples
    --------
    >>> from fastadam.schedules import Cosine
    >>> [round(Cosine(1.0, T_max=4)(t), 3) for t in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.146]
    """

    lr: _Rate
    T_max: _Steps
    eta_min: _Rate = 0.0

    def _at(self, t: int) -> float:
        return _between(self.lr, self.eta_min, _half_cosine(t / self.T_max))


@_documented
@dataclass(frozen=True)
class CosineWarmRestarts(Schedule):
    """Cosine schedule with restarts, as `CosineAnnealingWarmRestarts`.

    Each cycle falls from `lr` towards `eta_min`, at which the next cycle starts from `lr`.

    Parameters
    ----------
    lr : float
        Learning rate at the start of each cycle, at least 0.
    T_0 : int
        Number of steps of the first cycle.
    T_mult : int, default=1
        Ratio of the lengths of consecutive cycles.
    {eta_min}

    Notes
    -----
    Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017).

    Examples
    --------
    >>> from fastadam.schedules import CosineWarmRestarts
    >>> [round(CosineWarmRestarts(1.0, T_0=2, T_mult=2)(t), 3) for t in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    lr: _Rate
    T_0: _Steps
    T_mult: _Steps = 1
    eta_min: _Rate = 0.0

    def _at(self, t: int) -> float:
        length = self.T_0
        if self.T_mult == 1:
            t %= length
        while t >= length:  # in integers: a logarithm would be rounded, and could miss a restart
            t -= length
            length *= self.T_mult
        return _between(self.lr, self.eta_min, _half_cosine(t / length))


@dataclass(frozen=True)
class Linear(Schedule):
    """Rate that changes linearly for `total_iters` steps and is constant after them, as `LinearLR`.

    Parameters
    ----------
    lr : float
        Learning rate that the factors multiply, at least 0.
    start_factor : float, default=1/3
        Factor of the first step, in [0, 1].
    end_factor : float, default=1.0
        Factor of step `total_iters` and all later ones, in [0, 1].
    total_iters : int, default=5
        Number of steps of the change.

    Examples
    --------
    >>> from fastadam.schedules import Linear
    >>> [Linear(1.0, start_factor=0.5, total_iters=2)(t) for t in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    lr: _Rate
    start_factor: _Part = 1 / 3
    end_factor: _Part = 1.0
    total_iters: _Steps = 5

    def _at(self, t: int) -> float:
        return self.lr * _between(self.start_factor, self.end_factor, min(t, self.total_iters) / self.total_iters)


@_documented
@dataclass(frozen=True)
class Polynomial(Schedule):
    """Polynomial decay to 0: `lr * (1 - t / total_iters) ** power`, as `PolynomialLR`.

    Parameters
    ----------
    {lr}
    total_iters : int, default=5
        Step from which the rate is 0.
    power : float, default=1.0
        Exponent, at least 0.

    Examples
    --------
    >>> from fastadam.schedules import Polynomial
    >>> [Polynomial(1.0, total_iters=4, power=2.0)(t) for t in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    lr: _Rate
    total_iters: _Steps = 5
    power: _Rate = 1.0

    def _at(self, t: int) -> float:
        return self.lr * math.pow(1 - min(t, self.total_iters) / self.total_iters, self.power)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rate that rises to `max_lr` and falls to almost 0, as `OneCycleLR`.

    The rate rises from `max_lr / div_factor` to `max_lr`, and falls to `max_lr / div_factor / final_div_factor`.

    Parameters
    ----------
    max_lr : float
        The highest rate.
    total_steps : int
        Length of the cycle. Steps after the last one, `total_steps - 1`, have the same rate as that; PyTorch raises.
    pct_start : float, default=0.3
        Fraction of the cycle, in [0, 1], in which the rate rises.
    anneal_strategy : {"cos", "linear"}, default="cos"
        Shape of each rise and fall: half a cosine or a straight line.
    div_factor : float, default=25.0
        Ratio of `max_lr` to the first rate, above 0.
    final_div_factor : float, default=1e4
        Ratio of the first rate to the last rate, above 0.
    three_phase : bool, default=False
        Whether the rate first falls to the first rate, in as many steps as it has risen from it, and then to the last
        rate.

    Notes
    -----
    Smith & Topin, "Super-convergence: very fast training of neural networks using large learning rates" (2019), whose
    own form is `three_phase=True`. Only the rate is cycled, not the momentum.

    Examples
    --------
    >>> from fastadam.schedules import OneCycle
    >>> cycle = OneCycle(1.0, total_steps=10, anneal_strategy="linear", div_factor=4.0)
    >>> [round(cycle(t), 3) for t in range(0, 10, 2)]
    [0.25, 1.0, 0.714, 0.429, 0.143]
    """

    max_lr: _Rate
    total_steps: _Steps
    pct_start: _Part = 0.3
    anneal_strategy: Annotated[Literal["cos", "linear"], partial(choice, allowed=("cos", "linear"))] = "cos"
    div_factor: _Positive = 25.0
    final_div_factor: _Positive = 1e4
    three_phase: Annotated[bool, flag] = False

    def _at(self, t: int) -> float:
        last, rise = self.total_steps - 1, self.pct_start * self.total_steps
        first_rate = self.max_lr / self.div_factor
        knots = [(0.0, first_rate), (rise - 1, self.max_lr), (last, first_rate / self.final_div_factor)]
        if self.three_phase:
            knots.insert(2, (2 * rise - 2, first_rate))
        t = min(t, last)
        (start, from_rate), (end, to_rate) = next(way for way in pairwise(knots) if t <= way[1][0])
        part = (t - start) / (end - start) if end > start else 1.0  # a rise of length 0 ends immediately
        return _between(from_rate, to_rate, part if self.anneal_strategy == "linear" else _half_cosine(part))


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear rise to the first rate of another schedule, followed by that schedule.

    Parameters
    ----------
    schedule : callable, number, str or mapping
        Schedule after the rise, as accepted by `get_schedule`. Its step 0 is step `steps`.
    steps : int
        Number of steps of the rise, at least 0.
    start_factor : float, default=1/3
        Ratio of the first rate to `schedule(0)`, in [0, 1].

    Examples
    --------
    >>> from fastadam.schedules import Step, Warmup
    >>> [Warmup(Step(8.0, step_size=2, gamma=0.5), steps=2, start_factor=0.5)(t) for t in range(6)]
    [4.0, 6.0, 8.0, 8.0, 4.0, 4.0]
    """

    schedule: _Schedule
    steps: _StepsOrNone
    start_factor: _Part = 1 / 3

    def _at(self, t: int) -> float:
        rate: float = self.schedule(max(t - self.steps, 0))
        return rate * _between(self.start_factor, 1.0, t / self.steps) if t < self.steps else rate


@_documented
@dataclass(frozen=True)
class Sequential(Schedule):
    """Several schedules one after another, each counting steps from its own start, as `SequentialLR`.

    Parameters
    ----------
    {schedules}
    milestones : sequence of int
        Steps at which the second, third, ... schedule starts, in ascending order: one fewer than `schedules`.

    Examples
    --------
    >>> from fastadam.schedules import Exponential, Sequential
    >>> [Sequential([1.0, Exponential(8.0, 0.5)], milestones=[2])(t) for t in range(5)]
    [1.0, 1.0, 8.0, 4.0, 2.0]
    """

    schedules: _Schedules
    milestones: _Milestones

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.milestones) != len(self.schedules) - 1:
            raise ValueError(
                f"milestones must be one fewer than the {len(self.schedules)} schedules, got {self.milestones}"
            )

    def _at(self, t: int) -> float:
        k = bisect_right(self.milestones, t)
        rate: float = self.schedules[k](t - (self.milestones[k - 1] if k else 0))
        return rate


@_documented
@dataclass(frozen=True)
class Product(Schedule):
    """Product of several schedules at the same step: one is the rate, the others are factors of it.

    It equals `ChainedScheduler` for schedulers that multiply the rate.

    Parameters
    ----------
    {schedules}

    Examples
    --------
    >>> from fastadam.schedules import Exponential, Product
    >>> [Product([Exponential(8.0, 0.5), lambda t: 1 + t % 2])(t) for t in range(4)]
    [8.0, 8.0, 2.0, 2.0]
    """

    schedules: _Schedules

    def _at(self, t: int) -> float:
        rate: float = math.prod(schedule(t) for schedule in self.schedules)
        return rate


@dataclass(frozen=True)
class _PlateauState(Checked):
    lr: _Rate
    best: Annotated[float, partial(number, interval="[-inf, inf]")]
    num_bad_epochs: _StepsOrNone = 0
    cooldown_counter: _StepsOrNone = 0


@_documented
@dataclass(frozen=True)
class Plateau(Checked):
    """Rate multiplied by `factor` when a metric has stopped improving, as `ReduceLROnPlateau`.

    It is not a function of the step: a `Scheduler` holds its state and passes it the metric.

    Parameters
    ----------
    {lr}
    mode : {"min", "max"}, default="min"
        Whether an improvement is a decrease or an increase of the metric.
    factor : float, default=0.1
        Factor of each reduction, in [0, 1).
    patience : int, default=10
        Steps without improvement to tolerate before the rate is reduced.
    threshold : float, default=1e-4
        Smallest change of the best metric that counts as an improvement.
    threshold_mode : {"rel", "abs"}, default="rel"
        Whether `threshold` is relative to the best metric or absolute.
    cooldown : int, default=0
        Number of steps after a reduction in which the metric is not counted as having failed to improve.
    min_lr : float, default=0.0
        Lower bound of the rate.
    eps : float, default=1e-8
        Reductions of the rate by `eps` or less are skipped.

    Examples
    --------
    >>> from fastadam import Adam
    >>> from fastadam.schedules import Plateau, Scheduler
    >>> import numpy as np
    >>> optimizer = Adam(np.zeros(3))
    >>> scheduler = Scheduler(optimizer, Plateau(0.5, patience=1, factor=0.5))
    >>> for loss in [3.0, 2.0, 2.0, 2.0]:
    ...     scheduler.step(loss)
    >>> optimizer.lr
    0.25
    """

    lr: _Rate
    mode: Annotated[Literal["min", "max"], partial(choice, allowed=("min", "max"))] = "min"
    factor: Annotated[float, partial(number, interval="[0, 1)")] = 0.1
    patience: _StepsOrNone = 10
    threshold: _Rate = 1e-4
    threshold_mode: Annotated[Literal["rel", "abs"], partial(choice, allowed=("rel", "abs"))] = "rel"
    cooldown: _StepsOrNone = 0
    min_lr: _Rate = 0.0
    eps: _Rate = 1e-8

    def _start(self) -> _PlateauState:
        return _PlateauState(self.lr, math.inf if self.mode == "min" else -math.inf)

    def _after(self, state: _PlateauState, metric: Any) -> _PlateauState:
        """Compute the state after a step with this metric; NaN is never an improvement."""
        metric = real("metric", metric)
        better = self._is_better(metric, state.best)
        best = metric if better else state.best
        num_bad = 0 if better or state.cooldown_counter else state.num_bad_epochs + 1
        if num_bad <= self.patience:
            return _PlateauState(state.lr, best, num_bad, max(state.cooldown_counter - 1, 0))
        reduced = max(state.lr * self.factor, self.min_lr)
        return _PlateauState(reduced if state.lr - reduced > self.eps else state.lr, best, 0, self.cooldown)

    def _is_better(self, metric: float, best: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        least = best * (1 + sign * self.threshold) if self.threshold_mode == "rel" else best + sign * self.threshold
        return sign * metric > sign * least


_KINDS: dict[str, type[Schedule | Plateau]] = {
    "constant": Constant,
    "step": Step,
    "multi_step": MultiStep,
    "exponential": Exponential,
    "cosine": Cosine,
    "cosine_warm_restarts": CosineWarmRestarts,
    "linear": Linear,
    "polynomial": Polynomial,
    "one_cycle": OneCycle,
    "warmup": Warmup,
    "sequential": Sequential,
    "product": Product,
    "plateau": Plateau,
}


def get_schedule(spec: Any, **parameters: Any) -> Schedule | Plateau:
    """Make a schedule from a function, a number, or a name and its parameters.

    Parameters
    ----------
    spec : callable, number, str or mapping
        A `Schedule` or a `Plateau`, which is returned as it is; another function of the step; a number, for a constant
        rate; the name of a schedule, such as "cosine_warm_restarts" for `CosineWarmRestarts`; or a mapping with the
        entry "name" and the parameters.
    **parameters
        Parameters of the schedule if `spec` is a name.

    Returns
    -------
    Schedule or Plateau
        The schedule.

    Raises
    ------
    TypeError
        If `spec` is none of these, or a parameter is missing, unknown or has the wrong type.
    ValueError
        If there is no schedule of that name, or a parameter is out of range.

    Examples
    --------
    >>> from fastadam.schedules import get_schedule
    >>> get_schedule("cosine", lr=0.1, T_max=50)
    Cosine(lr=0.1, T_max=50, eta_min=0.0)
    >>> get_schedule({"name": "warmup", "schedule": {"name": "exponential", "lr": 0.1, "gamma": 0.9}, "steps": 5})(5)
    0.1
    """
    if isinstance(spec, str):
        return _named(spec, parameters)
    if parameters:
        raise TypeError(f"parameters must go with the name of a schedule, got {parameters} and {spec!r}")
    if isinstance(spec, Schedule | Plateau):
        return spec
    if isinstance(spec, Mapping) and "name" in spec:
        return _named(spec["name"], {str(key): value for key, value in spec.items() if key != "name"})
    if isinstance(spec, Real):
        return Constant(spec)  # type: ignore[arg-type]  # its check makes it a float
    return Function(_function("spec, unless it is a number, a name or a mapping with a name,", spec))


def _named(name: Any, parameters: dict[str, Any]) -> Schedule | Plateau:
    kind = _KINDS[choice("the name of a schedule", name, tuple(_KINDS))]
    try:
        inspect.signature(kind).bind(**parameters)
    except TypeError as error:
        allowed = ", ".join(field.name for field in fields(kind))
        raise TypeError(f"the schedule {name!r} takes {allowed}: {error}") from None
    return kind(**parameters)


class _HasRate(Protocol):
    lr: float


class Scheduler:
    """Learning-rate scheduler: sets the rate of an optimizer, first when it is made and then at every `step`.

    Parameters
    ----------
    optimizer : Adam, or any object with an attribute `lr`
        Optimizer whose `lr` is set; nothing else of it is used. Values assigned to `lr` elsewhere are overwritten at
        the next step.
    schedule : callable, Plateau, number, str or mapping
        Schedule of the rate, as accepted by `get_schedule`.
    group : str, optional
        Name of a group of the optimizer whose rate is set instead. A group without a rate of its own has the rate of
        the optimizer.

    Attributes
    ----------
    optimizer : object
        The optimizer.
    schedule : Schedule or Plateau
        The schedule.
    group : str or None
        The name of the group.
    t : int
        The number of steps taken, which is the step whose rate is set.

    Raises
    ------
    TypeError
        If `optimizer` has no `lr`, or has no groups and `group` is given; if `schedule` is not a schedule, or its rate
        at a step is not a number.
    KeyError
        If the optimizer has no group of that name.
    ValueError
        If the rate at a step is NaN, infinite or negative. The optimizer and the scheduler are unchanged then.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import Adam
    >>> from fastadam.schedules import Cosine, Scheduler
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = Adam(p)
    >>> scheduler = Scheduler(optimizer, Cosine(0.1, T_max=100))
    >>> for _ in range(100):
    ...     optimizer.step(2 * p)
    ...     scheduler.step()
    >>> scheduler.t, optimizer.lr
    (100, 0.0)
    """

    def __init__(self, optimizer: _HasRate, schedule: Any, *, group: str | None = None) -> None:
        if not hasattr(optimizer, "lr"):  # setting one would have no effect, silently
            raise TypeError(f"optimizer must have an attribute lr, got {optimizer!r}")
        if group is not None and not hasattr(optimizer, "set_group"):
            raise TypeError(f"optimizer must have groups, of which one is {group!r}, got {optimizer!r}")
        self.optimizer: Any = optimizer
        self.group = group
        self.schedule: Any = get_schedule(schedule)
        self._go_to(0, self.schedule._start() if isinstance(self.schedule, Plateau) else None)

    def step(self, metric: float | None = None) -> None:
        """Set the rate for the next step.

        Parameters
        ----------
        metric : float, optional
            Metric for a `Plateau`; ignored by other schedules.

        Raises
        ------
        TypeError
            If the new rate, or the metric for a `Plateau`, is not a number.
        ValueError
            If the new rate is NaN, infinite or negative. Nothing is changed in that case.
        """
        self._go_to(self.t + 1, self.schedule._after(self._plateau, metric) if self._plateau else None)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as plain numbers, for `load_state_dict`; the schedule itself is not included.

        Returns
        -------
        dict
            The entry "t", and for a `Plateau` also "lr", "best", "num_bad_epochs" and "cooldown_counter".
        """
        return {"t": self.t} | (asdict(self._plateau) if self._plateau else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`, and set the rate of the optimizer to that of its step.

        Parameters
        ----------
        state : mapping
            State returned by `state_dict`.

        Raises
        ------
        TypeError
            If `state` is not a mapping, or an entry has the wrong type.
        ValueError
            If an entry is missing, unknown or out of range. Nothing is changed in that case.
        """
        check_entries(state, self.state_dict())
        entries = dict(state)
        t = count("t", entries.pop("t"), 0)
        self._go_to(t, _PlateauState(**entries) if entries else None)

    def _go_to(self, t: int, plateau: _PlateauState | None) -> None:
        rate = plateau.lr if plateau else self.schedule(t)
        if self.group is None:  # set first, since this may raise
            self.optimizer.lr = rate
        else:
            self.optimizer.set_group(self.group, lr=rate)
        self.t, self._plateau = t, plateau

    def __repr__(self) -> str:
        group = f", group={self.group!r}" if self.group is not None else ""
        return f"Scheduler({self.optimizer!r}, {self.schedule!r}{group}, t={self.t})"
