"""Settings of the optimizers: numbers, options and groups, with their checks, and the text of their docstrings."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypedDict

import numpy as np

from fastadam._checks import choice, flag, items, label, number, optional, positive
from fastadam._docs import fill_docstring
from fastadam._typing import Array
from fastadam.formulas import rules
from fastadam.formulas.storage import HALF_DTYPES


class Options(TypedDict, total=False):
    """Options of all optimizers, by keyword; `fastadam.optimizers` describes them."""

    max_norm: float | None
    clip_value: float | None
    ema_decay: float | None
    zero_grad: bool
    on_nonfinite: str
    state_dtype: str | None
    copy_dtype: str | None
    groups: Mapping[str, Mapping[str, Any]] | None


documented = fill_docstring(
    params="""
params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
    Parameters to optimize, updated in place. `fastadam.optimizers` describes the arrays allowed.""",
    betas="""
betas : tuple of two floats, default=(0.9, 0.999)
    Decay rates of the two moments, each in [0, 1).""",
    weight_decay="""
weight_decay : float, default=0.0
    Coupled weight decay, at least 0: `weight_decay * p` is added to the gradient.""",
    decoupled_weight_decay="""
decoupled_weight_decay : bool, default=False
    Whether to multiply `p` by `1 - lr * weight_decay` before the update, as `torch.optim.AdamW` does, instead of
    adding `weight_decay * p` to the gradient.""",
    maximize="""
maximize : bool, default=False
    Whether to maximize the objective, instead of minimizing it.""",
    options=f"""
**options
    Options of all optimizers, which `fastadam.optimizers` describes:
    {", ".join(f"`{name}`" for name in Options.__annotations__)}.""",
    attributes="""
t : int
    The number of steps taken.
params : ndarray, sequence, mapping or FlatBuffer
    The parameters, as they were given.
state : dict of str to ndarray
    The state, not a copy, by PyTorch's names.""",
    raises="""
TypeError
    If `params` has another structure or dtype, or another argument has the wrong type.
ValueError
    If an argument is out of range; if an array is read-only, not contiguous, or overlaps another array.""",
)
"""Class decorator that completes the docstring of an optimizer by the texts that several optimizers share."""


class Number:
    """Descriptor of a hyper-parameter: a number in an interval, which can be changed between steps."""

    def __init__(self, doc: str, interval: str = "[0, inf)") -> None:
        self.__doc__ = doc
        self.interval = interval

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else optimizer._numbers[self.name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer._set({self.name: self.check(self.name, value)})

    def check(self, name: str, value: Any) -> Any:
        """Convert a value to a float, which must be in the interval."""
        return number(name, value, self.interval)

    def parts(self, value: Any) -> dict[str, float]:
        """Values by their names in the rules."""
        return {self.name: value}


class Betas(Number):
    """Descriptor of two decay rates, each in [0, 1)."""

    def __init__(self, doc: str) -> None:
        super().__init__(doc, "[0, 1)")

    def check(self, name: str, value: Any) -> tuple[float, float]:
        """Convert a value to two floats, each of which must be in the interval."""
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if len(items(name, value)) != 2:
            raise ValueError(f"{name} must be two numbers, got {value!r}")
        return number(f"{name}[0]", value[0], self.interval), number(f"{name}[1]", value[1], self.interval)

    def parts(self, value: Any) -> dict[str, float]:
        """Values by their names in the rules."""
        return {"beta1": value[0], "beta2": value[1]}


class Carried(NamedTuple):
    """Number that a rule carries from step to step for each group: its entry in the `state_dict`, and its interval."""

    entry: str
    interval: str

    def checked(self, state: Mapping[str, Any], groups: int) -> dict[str, list[float]]:
        """Check the entry of a state to load, which must have a number for each group."""
        name = f"state[{self.entry!r}]"
        values = items(name, state[self.entry])
        if len(values) != groups:
            raise ValueError(f"{name} must have {groups} numbers, got {values!r}")
        return {self.entry: [number(f"{name}[{k}]", value, self.interval) for k, value in enumerate(values)]}


_DEFAULTS: dict[str, Any] = {
    "max_norm": None, "clip_value": None, "ema_decay": None, "zero_grad": False, "on_nonfinite": "ignore",
    "state_dtype": None, "copy_dtype": None, "groups": None,
}  # fmt: skip


def _checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options given, and add the others with their default values."""
    unknown = given.keys() - _DEFAULTS.keys()
    if unknown:
        raise TypeError(f"got an unexpected keyword argument {min(unknown)!r}; known options are {list(_DEFAULTS)}")
    options = {**_DEFAULTS, **given}
    for name in ("max_norm", "clip_value"):
        options[name] = optional(positive, name, options[name])
    options["ema_decay"] = optional(partial(number, interval="[0, 1)"), "ema_decay", options["ema_decay"])
    options["zero_grad"] = flag("zero_grad", options["zero_grad"])
    choice("on_nonfinite", options["on_nonfinite"], ("ignore", "skip", "raise"))
    for name, allowed in (("state_dtype", ("bfloat16", "uint8")), ("copy_dtype", HALF_DTYPES)):
        optional(partial(choice, allowed=allowed), name, options[name])
    if options["groups"] is not None and not isinstance(options["groups"], Mapping):
        raise TypeError(f"groups must be a mapping of names to settings, got {type(options['groups']).__name__}")
    return options


def _assigned(
    groups: Mapping[str, Mapping[str, Any]],
    segments: tuple[Any, ...],
    check: Callable[[str, Mapping[str, Any]], dict[str, Any]],
) -> tuple[Array, dict[str, dict[str, Any]]]:
    """Assign a row of the table to each segment, and check the settings of each group; row 0 is for no group."""
    group_of = np.zeros(len(segments), np.int64)
    checked: dict[str, dict[str, Any]] = {}
    for row, (group, settings) in enumerate(groups.items(), start=1):
        if not isinstance(settings, Mapping) or "params" not in settings:
            raise TypeError(f"groups[{group!r}] must be a mapping with the entry 'params', got {settings!r}")
        members = settings["params"]
        if isinstance(members, str) or not isinstance(members, Iterable):
            raise TypeError(f"groups[{group!r}]['params'] must be a list of names or indices, got {members!r}")
        for member in members:
            if member not in segments:
                raise ValueError(f"groups[{group!r}]['params'] has {member!r}, where params has {list(segments)}")
            k = segments.index(member)
            if group_of[k]:
                raise ValueError(f"{label('params', member)} must be in one group, is in {group!r} and another")
            group_of[k] = row
        checked[group] = check(group, _without_params(settings))
    return group_of, checked


def _members(groups: Any) -> Any:
    """Parameters of each group; None if `groups` are not groups."""
    if not isinstance(groups, Mapping) or not all(isinstance(values, Mapping) for values in groups.values()):
        return None
    return {name: values.get("params") for name, values in groups.items()}


def _without_params(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "params"}


def _given(name: str, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Values given for a number, in general and for groups, by their names in error messages."""
    given = {name: numbers[name]} if name in numbers else {}
    return given | {f"groups[{group!r}][{name!r}]": own[name] for group, own in groups.items() if name in own}


def _keep_momentum(rule: rules.Rule, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise if momentum is switched on or off: the state has a buffer, or it does not."""
    given = _given("momentum", numbers, groups)
    if "momentum_buffer" in rule.states and not any(given.values()):
        raise ValueError(f"momentum cannot become {numbers['momentum']}: this optimizer was made with momentum")
    for name, value in given.items():
        if "momentum_buffer" not in rule.states and value > 0:
            raise ValueError(f"{name} cannot become {value}: this optimizer was made with no momentum")
