"""What all optimizers share: state, step count, settings and the choice of the kernel.

A subclass names its numbers and flags and chooses a rule of `rules.py`; all else is here. The settings become a table,
one row a group of parameters, that the kernel reads: no change of a value compiles anything.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Self, TypedDict

import numpy as np

from fastadam import rules
from fastadam._arrays import Array, Arrays, ParameterArrays, label, on_device
from fastadam._threads import may_launch_parallel
from fastadam.buffers import aligned_zeros
from fastadam.cpu import (
    ACTIVE,
    CLIP,
    DECAY,
    EMA,
    HYPER,
    PARALLEL_BYTES,
    SCALE,
    Variant,
    gradient_norm,
    step_kernel,
)

_MAX_STEPS = 2**63 - 1  # the kernels count in 64 bits
_NORM_EPS = 1e-6
"""What PyTorch adds to the norm before it divides by it."""


class Options(TypedDict, total=False):
    """What every optimizer can do in the same pass over memory, by keyword."""

    max_norm: float | None
    clip_value: float | None
    ema_decay: float | None
    zero_grad: bool
    on_nonfinite: str
    groups: Mapping[str, Mapping[str, Any]] | None


class Number:
    """A hyper-parameter: a number in [0, `below`) that may be set between steps."""

    def __init__(self, doc: str, below: float = math.inf) -> None:
        self.__doc__ = doc
        self.below = below

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else optimizer._numbers[self.name]

    def __set__(self, optimizer: "Optimizer", value: Any) -> None:
        optimizer._set({self.name: self.check(self.name, value)})

    def check(self, name: str, value: Any) -> Any:
        """The value as a float, if it is allowed."""
        return number_in(name, value, self.below)

    def parts(self, value: Any) -> dict[str, float]:
        """What the rules call this number."""
        return {self.name: value}


class Betas(Number):
    """Two decay rates, each in [0, 1)."""

    def check(self, name: str, value: Any) -> tuple[float, float]:
        """The value as two floats, if it is allowed."""
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise TypeError(f"{name} must be two numbers, got {value!r}")
        if len(value) != 2:
            raise ValueError(f"{name} must be two numbers, got {value!r}")
        return number_in(f"{name}[0]", value[0], 1.0), number_in(f"{name}[1]", value[1], 1.0)

    def parts(self, value: Any) -> dict[str, float]:
        """What the rules call them."""
        return {"beta1": value[0], "beta2": value[1]}


class Optimizer:
    """What all optimizers share. Do not make one itself: see `fastadam.optimizers`, or `fastadam.optimizer`.

    Attributes
    ----------
    t : int
        The number of steps taken.
    params : ndarray, sequence, mapping or FlatBuffer
        What was given as `params`.
    skipped_steps : int
        Steps that `on_nonfinite="skip"` has skipped.
    """

    def __new__(cls, params: Any = None, *arguments: Any, **settings: Any) -> Self:
        """For arrays on a CUDA device, the subclass that is made for them: loaded here, as it needs an extra."""
        if on_device(params):
            cls = importlib.import_module("fastadam.cuda.optimizer").class_on_device(cls)
        return super().__new__(cls)

    def __init__(
        self, params: Arrays, numbers: Mapping[str, Any], flags: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._flags = {name: flag_of(name, value) for name, value in flags.items()}
        self._numbers = {name: self._spec(name).check(name, value) for name, value in numbers.items()}
        self._options = _checked_options(options)
        groups = self._options["groups"]
        self._arrays = ParameterArrays(params, by_name=bool(groups))
        self._group_of, self._groups = _assigned(groups or {}, self._arrays.segments, self._check_overrides)
        self._rule = self._choose_rule()
        self.t, self.skipped_steps = 0, 0
        self._extra = np.array([1.0, self._options["clip_value"] or math.inf, 0.0])
        self._state = self._initial_state()
        names = (*self._rule.states, "ema") if self._options["ema_decay"] is not None else self._rule.states
        self._views = {name: row[: self._arrays.size] for name, row in zip(names, self._state, strict=True)}
        self._set({})

    def _choose_rule(self) -> rules.Rule:
        """The rule that the flags and numbers ask for."""
        raise NotImplementedError

    def _hyper(self, row: int) -> dict[str, float]:
        """What the rule takes beside the numbers, for a row of the table."""
        return {}

    def _advance(self) -> None:
        """Called after each step."""

    @property
    def params(self) -> Arrays:
        """What was given as `params`."""
        return self._arrays.params

    @property
    def state(self) -> dict[str, Array]:
        """The state itself, not a copy, by PyTorch's names: each flat over all parameters in their order.

        With `ema_decay`, "ema" is the average of the parameters.
        """
        return dict(self._views)

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]:
        """The settings of each group that differ from those of the optimizer; `set_group` changes them."""
        return MappingProxyType({name: MappingProxyType(dict(values)) for name, values in self._groups.items()})

    def set_group(self, name: str, **settings: Any) -> None:
        """Change settings of a group, from the next step on; nothing is compiled.

        Parameters
        ----------
        name : str
            A name among `groups`.
        **settings
            Any of the optimizer's numbers, and `frozen`.

        Raises
        ------
        KeyError
            If there is no such group.
        TypeError, ValueError
            If a setting is unknown or out of its range. Nothing is changed then.
        """
        if name not in self._groups:
            raise KeyError(f"{name!r} is not a group of this optimizer, which has {list(self._groups)}")
        checked = self._check_overrides(name, settings)
        self._groups[name] |= checked
        self._set({})

    def step(self, grads: Arrays, *, grad_scale: float | None = None) -> None:
        """Update every parameter, in place, in one compiled call.

        Parameters
        ----------
        grads : ndarray, sequence, mapping or FlatBuffer
            Gradients in the structure of `params`, with its shapes and dtype. They are read, never written, unless the
            optimizer was made with `zero_grad`. For a FlatBuffer, another of the same layout (`params.like()`), or its
            `flat` array.
        grad_scale : float, optional
            What the gradients were scaled by: they are divided by it first.

        Raises
        ------
        TypeError
            If the structure or a dtype is another than that of `params`.
        ValueError
            If a shape or a name is another than that of `params`, or a gradient shares memory with the parameters.
        FloatingPointError
            If a gradient is not finite and the optimizer was made with `on_nonfinite="raise"`.
        """
        arrays = self._arrays
        located = arrays.locate(grads, self._options["zero_grad"])
        if self._plain and grad_scale is None:
            kernel = self._kernel
        else:
            factor = self._gradient_factor(located, grad_scale)
            if factor is None:
                self.skipped_steps += 1
                return
            self._extra[SCALE] = factor
            kernel = self._kernel if factor == 1.0 else self._scaling_kernel
        kernel(
            arrays.p_at, arrays.g_at, arrays.offsets, self._group_of, self._state, self._table, self.t + 1, self._extra
        )
        self.t += 1
        self._advance()

    def _gradient_factor(self, grads: list[Array], grad_scale: float | None) -> float | None:
        """What to multiply the gradient with: the scale undone, the norm clipped; None if the step is skipped."""
        scale = 1.0 if grad_scale is None else _positive("grad_scale", grad_scale)
        max_norm, on_nonfinite = self._options["max_norm"], self._options["on_nonfinite"]
        if max_norm is None and on_nonfinite == "ignore":
            return 1.0 / scale
        norm = gradient_norm(grads, self._arrays.g_at, self._arrays.offsets, self._state, self._runs_parallel)
        if not math.isfinite(norm) and on_nonfinite == "raise":
            raise FloatingPointError("grads must be finite, got infinity or NaN; nothing was changed")
        if not math.isfinite(norm) and on_nonfinite == "skip":
            return None
        if max_norm is None:
            return 1.0 / scale
        clip = max_norm / (norm / scale + _NORM_EPS)
        return (1.0 if clip > 1.0 else clip) / scale  # NaN stays NaN, as in PyTorch

    # --- settings -----------------------------------------------------------------------------------------------------

    @classmethod
    def _spec(cls, name: str) -> Number:
        for owner in cls.__mro__:
            if isinstance(owner.__dict__.get(name), Number):
                return owner.__dict__[name]  # type: ignore[no-any-return]
        raise TypeError(f"{cls.__name__} has no number {name!r}")

    def _check_overrides(self, group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a group, checked."""
        checked: dict[str, Any] = {}
        for name, value in settings.items():
            if name == "frozen":
                checked[name] = flag_of(f"groups[{group!r}]['frozen']", value)
            elif name in self._numbers:
                checked[name] = self._spec(name).check(f"groups[{group!r}][{name!r}]", value)
            else:
                allowed = ["params", "frozen", *self._numbers]
                raise ValueError(f"groups[{group!r}] has {name!r}, where only {allowed} are known")
        return checked

    def _set(self, numbers: Mapping[str, Any]) -> None:
        """Take checked numbers, make the table that the kernel reads, and choose the kernel."""
        if not hasattr(self, "_state"):  # the constructor is not that far yet
            self._numbers |= numbers
            return
        self._check_change(numbers)
        self._numbers |= numbers
        rows = [self._numbers, *(self._numbers | group for group in self._groups.values())]
        self._table = np.array([self._row(k, values) for k, values in enumerate(rows)])
        options = self._options
        kind = "decoupled" if self._is_decoupled else "coupled"
        self._variant = Variant(
            self._rule,
            decay=kind if any(values.get("weight_decay", 0.0) > 0 for values in rows) else "none",
            maximize=self._flags.get("maximize", False),
            clip=options["clip_value"] is not None,
            ema=options["ema_decay"] is not None,
            zero_grad=options["zero_grad"],
        )
        if options["ema_decay"] is not None:
            self._extra[EMA] = 1.0 - options["ema_decay"]
        self._extra[CLIP] = math.inf if options["clip_value"] is None else options["clip_value"]
        self._plain = options["max_norm"] is None and options["on_nonfinite"] == "ignore"
        self._serial_kernel = step_kernel(self._variant, False)

    def _check_change(self, numbers: Mapping[str, Any]) -> None:
        """Refuse numbers that the rule, chosen when the optimizer was made, has no place for."""

    @property
    def _is_decoupled(self) -> bool:
        return self._flags.get("decoupled_weight_decay", False)

    def _row(self, k: int, values: Mapping[str, Any]) -> list[float]:
        """A row of the table: the decay's scalar, whether the group is trained, what the rule takes."""
        row = [0.0] * (HYPER + len(self._rule.hyper))
        decay = values.get("weight_decay", 0.0)
        row[DECAY] = 1.0 - values["lr"] * decay if self._is_decoupled else decay
        row[ACTIVE] = float(not values.get("frozen", False))
        parts = self._hyper(k)
        for name, value in values.items():
            if name != "frozen":
                parts |= self._spec(name).parts(value)
        row[HYPER:] = [parts[name] for name in self._rule.hyper]
        return row

    def _initial_state(self) -> Array:
        """A row for each state of the rule, zeros, then the average of the parameters."""
        arrays, with_average = self._arrays, self._options["ema_decay"] is not None
        count = len(self._rule.states) + with_average
        width = -(-arrays.size * arrays.dtype.itemsize // 64) * 64 // arrays.dtype.itemsize
        state = aligned_zeros(count * width, arrays.dtype).reshape(count, width)
        if with_average and arrays.size:
            state[-1, : arrays.size] = np.concatenate([array.ravel("K") for array in arrays.arrays])
        return state

    @property
    def _runs_parallel(self) -> bool:
        return self._arrays.nbytes >= PARALLEL_BYTES and may_launch_parallel()

    @property
    def _kernel(self) -> Callable[..., None]:
        return step_kernel(self._variant, True) if self._runs_parallel else self._serial_kernel

    @property
    def _scaling_kernel(self) -> Callable[..., None]:
        return step_kernel(self._variant._replace(scale=True), self._runs_parallel)

    # --- saving and loading -------------------------------------------------------------------------------------------

    def _counters(self) -> dict[str, Any]:
        """What is counted, for `state_dict`."""
        counters: dict[str, Any] = {"t": self.t}
        return (
            counters if self._options["on_nonfinite"] == "ignore" else counters | {"skipped_steps": self.skipped_steps}
        )

    def _load_counters(self, state: Mapping[str, Any]) -> None:
        self.t = state["t"]
        self.skipped_steps = state.get("skipped_steps", 0)

    def _settings(self) -> dict[str, Any]:
        """Numbers, flags and those options that are not as usual, by their names."""
        options = {name: value for name, value in self._options.items() if value != _USUAL[name]}
        if options.get("groups"):
            options["groups"] = {
                name: {"params": list(self._options["groups"][name]["params"]), **values}
                for name, values in self._groups.items()
            }
        return {**self._numbers, **self._flags, **options}

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that `load_state_dict` needs to go on from here: plain numbers and arrays.

        Returns
        -------
        dict
            "t", the hyper-parameters, flags and options by their names, and the state, each one flat array over all
            parameters in their order.
        """
        return self._counters() | self._settings() | {name: array.copy() for name, array in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`: state, step count and hyper-parameters are replaced by its own.

        Raises
        ------
        TypeError
            If `state` is not a mapping, or an entry has another type.
        ValueError
            If an entry is missing, unknown, out of range, or was made for parameters of another size or dtype; or if
            it was made with other flags or options. Nothing is changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping as state_dict returns it, got {type(state).__name__}")
        own, arrays = self._counters() | self._settings(), self.state
        if set(state) != {*own, *arrays}:
            raise ValueError(f"state must have the keys {sorted({*own, *arrays})}, got {sorted(map(str, state))}")
        for name, value in self._flags.items():
            if flag_of(f"state[{name!r}]", state[name]) != value:
                raise ValueError(f"state[{name!r}] must be {value}, as this optimizer was made, got {state[name]}")
        for name in own.keys() & (_USUAL.keys() - {"groups"}):
            if state[name] != own[name]:
                raise ValueError(
                    f"state[{name!r}] must be {own[name]!r}, as this optimizer was made, got {state[name]!r}"
                )
        for name, array in arrays.items():
            _check_array(name, state[name], array)
        counters = {name: _count(name, state[name]) for name in ("t", "skipped_steps") if name in state}
        groups = self._checked_groups(state) if "groups" in own else {}
        numbers = {name: self._spec(name).check(name, state[name]) for name in self._numbers}
        self._check_change(numbers)
        self._load_counters({**state, **counters})
        self._groups |= groups
        self._set(numbers)
        for name, array in arrays.items():
            array[:] = state[name]

    def _checked_groups(self, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        given, own = state["groups"], self._settings()["groups"]
        same = isinstance(given, Mapping) and given.keys() == own.keys()
        if not same or any(list(given[name]["params"]) != own[name]["params"] for name in own):
            raise ValueError(f"state['groups'] must have the groups of this optimizer, {own!r}, got {given!r}")
        return {name: self._check_overrides(name, _without_params(values)) for name, values in given.items()}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value}" for name, value in self._numbers.items())
        rest = {name: value for name, value in self._settings().items() if name not in self._numbers and value}
        flags = "".join(f", {name}={value}" for name, value in rest.items())
        size, dtype = self._arrays.size, self._arrays.dtype
        return f"{type(self).__name__}({size} {dtype} parameters, {numbers}{flags}, t={self.t})"

    def __getstate__(self) -> dict[str, Any]:
        return {"params": self.params, "settings": self._settings(), "state": self.state_dict()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(saved["params"], **saved["settings"])  # type: ignore[misc]
        self.load_state_dict(saved["state"])


_USUAL: dict[str, Any] = {
    "max_norm": None, "clip_value": None, "ema_decay": None, "zero_grad": False, "on_nonfinite": "ignore",
    "groups": None,
}  # fmt: skip


def _checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options, checked; those that are not given have their usual values."""
    unknown = given.keys() - _USUAL.keys()
    if unknown:
        raise TypeError(f"got an unexpected keyword argument {min(unknown)!r}; known options are {list(_USUAL)}")
    options = {**_USUAL, **given}
    for name in ("max_norm", "clip_value"):
        if options[name] is not None:
            options[name] = _positive(name, options[name])
    if options["ema_decay"] is not None:
        options["ema_decay"] = number_in("ema_decay", options["ema_decay"], 1.0)
    options["zero_grad"] = flag_of("zero_grad", options["zero_grad"])
    policies = ("ignore", "skip", "raise")
    if not isinstance(options["on_nonfinite"], str) or options["on_nonfinite"] not in policies:
        raise ValueError(f"on_nonfinite must be one of {policies}, got {options['on_nonfinite']!r}")
    if options["groups"] is not None and not isinstance(options["groups"], Mapping):
        raise TypeError(f"groups must be a mapping of names to settings, got {type(options['groups']).__name__}")
    return options


def _assigned(
    groups: Mapping[str, Mapping[str, Any]],
    segments: tuple[Any, ...],
    check: Callable[[str, Mapping[str, Any]], dict[str, Any]],
) -> tuple[Array, dict[str, dict[str, Any]]]:
    """The row of the table for each segment, and the checked settings of each group. Row 0 is of what has no group."""
    group_of = np.zeros(max(1, len(segments)), np.int64)
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


def _without_params(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "params"}


def number_in(name: str, value: Any, below: float = math.inf) -> float:
    """`value` as a float, if it is a number in [0, `below`)."""
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)  # before the comparison: 1 - 10**-30 is below 1, and its float is not
    except OverflowError:
        number = math.inf
    if not 0 <= number < below:
        raise ValueError(f"{name} must be in [0, {below:g}), got {value!r}")
    return number


def _positive(name: str, value: Any) -> float:
    number = number_in(name, value)
    if number == 0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}")
    return number


def flag_of(name: str, value: Any) -> bool:
    """`value`, if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"state[{name!r}] must be an integer, got {value!r}")
    if not 0 <= int(value) < _MAX_STEPS:
        raise ValueError(f"state[{name!r}] must be in [0, 2**63 - 1), got {value}")
    return int(value)


def _check_array(name: str, given: Any, own: Array) -> None:
    if not isinstance(given, np.ndarray):
        raise TypeError(f"state[{name!r}] must be an array, got {type(given).__name__}")
    if given.shape != own.shape or given.dtype != own.dtype:
        raise ValueError(
            f"state[{name!r}] must have shape {own.shape} and dtype {own.dtype}, got {given.shape} and {given.dtype}"
        )
