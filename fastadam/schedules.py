"""Learning-rate schedules: functions of the step, and what couples one to an optimizer.

A schedule is any function of the step t, counted from 0, that gives a learning rate: a finite number of at least 0. The
classes here are such functions, immutable and made of plain numbers, with the names, formulas and defaults of
`torch.optim.lr_scheduler`. What a step is, an update or an epoch, is for the caller of `Scheduler.step` to say.
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

from fastadam._checks import Checked, ascending, choice, count, items, number, real


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


# The types of the fields, each with its check.
_Rate = Annotated[float, number]

_Positive = Annotated[float, partial(number, interval="(0, inf)")]

_Part = Annotated[float, partial(number, interval="[0, 1]")]

_Steps = Annotated[int, count]

_StepsOrNone = Annotated[int, partial(count, least=0)]

_Milestones = Annotated[Sequence[int], ascending]

_Schedule = Annotated[Any, _schedule]

_Schedules = Annotated[Sequence[Any], _schedules]


@dataclass(frozen=True)
class Schedule(Checked):
    """What the schedules share: they are immutable, compare by value, and are called with the step.

    Raises
    ------
    TypeError
        If a parameter, the step, or the rate at a step is not of its type.
    ValueError
        If a parameter or the step is out of its range, or the rate at a step is NaN, infinite or negative.
    """

    def __call__(self, t: int) -> float:
        """The learning rate for step `t`, an integer of at least 0."""
        t = count("t", t, 0)
        try:
            rate = self._at(t)
        except OverflowError:  # what Python makes of gamma ** t
            rate = math.inf
        if type(rate) is float and 0 <= rate < math.inf:  # at once: the name below costs more than most schedules
            return rate
        return number(f"the rate of {self!r} at step {t}", rate)

    def _at(self, t: int) -> float:
        raise NotImplementedError


def _between(start: float, end: float, part: float) -> float:
    """From `start` to `end`, both met exactly: no rate falls below 0 by rounding."""
    return start * (1 - part) + end * part


def _half_cosine(part: float) -> float:
    return (1 - math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class Function(Schedule):
    """`function(t)`: any function of the step as a schedule, which is what `get_schedule` makes of one.

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
    """The same rate `lr` at every step.

    Examples
    --------
    >>> from fastadam.schedules import Constant
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: _Rate

    def _at(self, t: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Step(Schedule):
    """`lr * gamma ** (t // step_size)`, as `StepLR`: the rate is multiplied by `gamma` every `step_size` steps.

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


@dataclass(frozen=True)
class MultiStep(Schedule):
    """`lr * gamma ** n` where n of the ascending `milestones` are at most t, as `MultiStepLR`.

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


@dataclass(frozen=True)
class Exponential(Schedule):
    """`lr * gamma ** t`, as `ExponentialLR`.

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


@dataclass(frozen=True)
class Cosine(Schedule):
    """`eta_min + (lr - eta_min) * (1 + cos(pi * t / T_max)) / 2`, as `CosineAnnealingLR`.

    The rate is `eta_min` at step `T_max`, and rises again after it, back to `lr` at `2 * T_max`.

    Notes
    -----
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


@dataclass(frozen=True)
class CosineWarmRestarts(Schedule):
    """`Cosine` that begins anew after `T_0` steps, and then after `T_mult` times as many steps each time.

    As `CosineAnnealingWarmRestarts`: each run falls from `lr` towards `eta_min`, which the next one's start forestalls.

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
        while t >= length:  # in integers: a logarithm would round, and so miss a restart
            t -= length
            length *= self.T_mult
        return _between(self.lr, self.eta_min, _half_cosine(t / length))


@dataclass(frozen=True)
class Linear(Schedule):
    """`lr` times what goes from `start_factor` to `end_factor`, both in [0, 1], in `total_iters` steps, as `LinearLR`.

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


@dataclass(frozen=True)
class Polynomial(Schedule):
    """`lr * (1 - t / total_iters) ** power`, and 0 from step `total_iters` on, as `PolynomialLR`.

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
    """Up from `max_lr / div_factor` to `max_lr`, and down to `max_lr / div_factor / final_div_factor`: `OneCycleLR`.

    Parameters
    ----------
    max_lr : float
        The highest rate.
    total_steps : int
        Length of the cycle. The last rate is that of step `total_steps - 1`, and it stays, where PyTorch would raise.
    pct_start : float, default=0.3
        The part of the cycle, in [0, 1], in which the rate rises.
    anneal_strategy : {"cos", "linear"}, default="cos"
        The shape of each way up or down: half a cosine or a straight line.
    div_factor, final_div_factor : float, default=25.0 and 1e4
        What `max_lr` is divided by for the first rate, and the first rate for the last one; above 0.
    three_phase : bool, default=False
        Go down to the first rate as slowly as up from it, and only then to the last rate.

    Notes
    -----
    Smith & Topin, "Super-convergence: very fast training of neural networks using large learning rates" (2019), whose
    own form is `three_phase=True`. The rate alone is cycled: the betas are left as they are.

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
    three_phase: Annotated[bool, partial(choice, allowed=(True, False))] = False

    def _at(self, t: int) -> float:
        last, rise = self.total_steps - 1, self.pct_start * self.total_steps
        first_rate = self.max_lr / self.div_factor
        knots = [(0.0, first_rate), (rise - 1, self.max_lr), (last, first_rate / self.final_div_factor)]
        if self.three_phase:
            knots.insert(2, (2 * rise - 2, first_rate))
        t = min(t, last)
        (start, from_rate), (end, to_rate) = next(way for way in pairwise(knots) if t <= way[1][0])
        part = (t - start) / (end - start) if end > start else 1.0  # a rise of no length is over at once
        return _between(from_rate, to_rate, part if self.anneal_strategy == "linear" else _half_cosine(part))


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise to the first rate of `schedule`, from `start_factor` times it, and then `schedule` itself.

    Parameters
    ----------
    schedule : callable, number, str or mapping
        As `get_schedule` takes it. Its own step 0 is step `steps`.
    steps : int
        Length of the rise; 0 for none.
    start_factor : float, default=1/3
        The first rate is this part, in [0, 1], of `schedule(0)`.

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


@dataclass(frozen=True)
class Sequential(Schedule):
    """One schedule after another, each counting its steps from its own beginning, as `SequentialLR`.

    Parameters
    ----------
    schedules : sequence of callables, numbers, str or mappings
        Each as `get_schedule` takes it; at least one.
    milestones : sequence of int
        The ascending steps at which the second, third, ... schedule begins: one fewer than `schedules`.

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


@dataclass(frozen=True)
class Product(Schedule):
    """The product of several schedules at the same step: one gives the rate, and the others factors of it.

    It is what `ChainedScheduler` gives for schedulers that multiply the rate.

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


@dataclass(frozen=True)
class Plateau(Checked):
    """Multiply the rate by `factor` when a metric has not improved for more than `patience` steps.

    As `ReduceLROnPlateau`. It is no function of the step: a `Scheduler` keeps its state, and is given the metric.

    Parameters
    ----------
    lr : float
        The first rate.
    mode : {"min", "max"}, default="min"
        Whether the metric is to fall or to rise.
    factor : float, default=0.1
        In [0, 1).
    patience : int, default=10
        So many steps in a row without improvement are borne.
    threshold : float, default=1e-4
        What counts as an improvement on the best metric so far.
    threshold_mode : {"rel", "abs"}, default="rel"
        Whether that is a part of the best metric, or in the metric's own unit.
    cooldown : int, default=0
        After a reduction, so many steps are not counted as bad.
    min_lr : float, default=0.0
        No rate is reduced below it.
    eps : float, default=1e-8
        A reduction of the rate by this or less is not made.

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
        """The state after a step with this metric; NaN is no improvement."""
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
    """A schedule from a function, a number, or a name and its parameters.

    Parameters
    ----------
    spec : callable, number, str or mapping
        A `Schedule` or a `Plateau`, which is returned as it is; another function of the step; a number, for a constant
        rate; the name of a schedule, as "cosine_warm_restarts" is of `CosineWarmRestarts`; or a mapping of "name" and
        the parameters.
    **parameters
        The parameters of the schedule, where `spec` is a name.

    Returns
    -------
    Schedule or Plateau

    Raises
    ------
    TypeError
        If `spec` is none of these, or a parameter is missing, unknown or of another type.
    ValueError
        If there is no such name, or a parameter is out of its range.

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
    return Function(_function("spec, if no number, name, or mapping with a name,", spec))


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
    """Sets the learning rate of an optimizer: at once to the first rate of a schedule, and to the next at every `step`.

    Parameters
    ----------
    optimizer : Adam, or any object with an attribute `lr`
        Its `lr` is set, and nothing else of it is looked at. What else sets it is overruled at the next step.
    schedule : callable, Plateau, number, str or mapping
        As `get_schedule` takes it.
    group : str, optional
        Set the rate of this one of the optimizer's `groups` instead. A group without a rate of its own has the
        optimizer's.

    Attributes
    ----------
    optimizer, schedule, group : object
        As given, the schedule through `get_schedule`.
    t : int
        The number of steps taken, and the step that the present rate is for.

    Raises
    ------
    TypeError
        If `optimizer` has no `lr`, or no groups where one is named, `schedule` is none, or its rate at a step is not a
        number.
    KeyError
        If the optimizer has no group of that name.
    ValueError
        If the rate at a step is NaN, infinite or negative. The optimizer and the scheduler stay as they were.

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
        if not hasattr(optimizer, "lr"):  # to set one nonetheless would change nothing, and say nothing
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
            What a `Plateau` watches, and no other schedule looks at.

        Raises
        ------
        TypeError
            If the metric that a `Plateau` needs, or the new rate, is not a number.
        ValueError
            If the new rate is NaN, infinite or negative. Nothing is changed then.
        """
        self._go_to(self.t + 1, self.schedule._after(self._plateau, metric) if self._plateau else None)

    def state_dict(self) -> dict[str, Any]:
        """A copy of what `load_state_dict` needs to go on from here: plain numbers, without the schedule itself.

        Returns
        -------
        dict
            "t", and for a `Plateau` also "lr", "best", "num_bad_epochs" and "cooldown_counter".
        """
        return {"t": self.t} | (asdict(self._plateau) if self._plateau else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, and set the optimizer's rate to the one at that step.

        Raises
        ------
        TypeError
            If `state` is not a mapping, or an entry has another type.
        ValueError
            If an entry is missing, unknown or out of range. Nothing is changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping as state_dict returns it, got {type(state).__name__}")
        expected = self.state_dict().keys()
        if set(state) != expected:
            raise ValueError(f"state must have the keys {sorted(expected)}, got {sorted(map(str, state))}")
        entries = dict(state)
        t = count("t", entries.pop("t"), 0)
        self._go_to(t, _PlateauState(**entries) if entries else None)

    def _go_to(self, t: int, plateau: _PlateauState | None) -> None:
        rate = plateau.lr if plateau else self.schedule(t)
        if self.group is None:  # to set it comes first, since it may raise
            self.optimizer.lr = rate
        else:
            self.optimizer.set_group(self.group, lr=rate)
        self.t, self._plateau = t, plateau

    def __repr__(self) -> str:
        group = f", group={self.group!r}" if self.group is not None else ""
        return f"Scheduler({self.optimizer!r}, {self.schedule!r}{group}, t={self.t})"
