"""What all optimizers share: numbers, flags, options and groups, checked, saved and loaded.

A subclass names its numbers and flags and chooses a rule of `formulas.rules`; all else is here. Steps are made by a
stepper, for arrays on the host or on a device, which gets the settings as a `StepPlan`: no change of a value compiles
anything.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from fastadam._checks import count, flag, number
from fastadam.cpu.arrays import Arrays, HostArrays
from fastadam.cpu.stepper import HostStepper
from fastadam.cuda.detection import on_device
from fastadam.formulas import rules
from fastadam.formulas.step import ACTIVE, DECAY, HYPER, StepSpec
from fastadam.formulas.stepper import LocatedArrays, Stepper, StepPlan
from fastadam.optimizers.settings import (
    _USUAL,
    Carried,
    Number,
    _assigned,
    _checked_options,
    _members,
    _without_params,
)

_MAX_STEPS = 2**63 - 1  # the kernels count in 64 bits


class Optimizer:
    """What all optimizers share. Do not make one itself: see `fastadam.optimizers`, or `fastadam.optimizer`.

    Attributes
    ----------
    stepper : Stepper
        What makes the steps, and has the state: `fastadam.formulas.stepper` says what can be asked of it.
    """

    stepper: Stepper

    _carried: ClassVar[Carried | None] = None
    """What `state_dict` calls the values that the rule carries from step to step."""

    def __init__(
        self, params: Arrays, numbers: Mapping[str, Any], flags: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._flags = {name: flag(name, value) for name, value in flags.items()}
        self._numbers = {name: self._number(name).check(name, value) for name, value in numbers.items()}
        self._options = _checked_options(options)
        arrays, make_stepper = self._located(params)
        self._check_storage(arrays)
        group_of, self._groups = _assigned(self._options["groups"] or {}, arrays.names, self._check_overrides)
        self._rule = self._choose_rule()
        self._check_change({}, self._groups)
        self.stepper = make_stepper(arrays, self._plan(arrays), group_of, self._initial_values())

    def _located(self, params: Any) -> tuple[LocatedArrays, Callable[..., Stepper]]:
        """Locate the parameters; the stepper for where they lie is made from them."""
        packed = self._options["state_dtype"]
        if not on_device(params):
            return HostArrays(params, packed, by_name=bool(self._options["groups"])), HostStepper
        from fastadam.cuda.arrays import DeviceArrays  # here, since it needs an extra
        from fastadam.cuda.stepper import DeviceStepper

        return DeviceArrays(params, packed), DeviceStepper

    def _choose_rule(self) -> rules.Rule:
        """Choose the rule that the flags and numbers ask for."""
        raise NotImplementedError

    def _initial_values(self) -> dict[str, float]:
        """The states that do not begin as zeros."""
        return {}

    @property
    def params(self) -> Arrays:
        """What was given as `params`."""
        params: Arrays = self.stepper.arrays.params
        return params

    @property
    def t(self) -> int:
        """The number of steps taken. For arrays on a device, asking waits for it, and replays of graphs are counted."""
        return self.stepper.t

    @t.setter
    def t(self, value: int) -> None:
        self.stepper.t = value

    @property
    def skipped_steps(self) -> int:
        """The number of steps that `on_nonfinite="skip"` has skipped. For arrays on a device, asking waits for it."""
        return self.stepper.skipped_steps

    @skipped_steps.setter
    def skipped_steps(self, value: int) -> None:
        self.stepper.skipped_steps = value

    @property
    def state(self) -> dict[str, Any]:
        """The state itself, not a copy, by PyTorch's names: each flat over all parameters in their order.

        With `ema_decay`, "ema" is the average of the parameters. With `state_dtype="bfloat16"` arrays are uint16 and
        hold the bits; with "uint8" they are codes, each array of parameters beginning at a multiple of 512, and for
        each state "name" there is "name_scale", what the codes of each block of 512 are multiplied by. For parameters
        of float16 or bfloat16, "master" has them in float32.

        For parameters on a device these are arrays of Numba's there, in which the part of each array of parameters
        begins at a multiple of 128 bytes; `state_dict` has them without gaps.
        """
        return self.stepper.state

    @property
    def copies(self) -> Any:
        """The copy of the parameters that each step writes, in their structure; None without `copy_dtype`.

        Arrays are float16, or uint16 with the bits of bfloat16.
        """
        return self.stepper.copies

    @property
    def settings(self) -> dict[str, Any]:
        """Numbers, flags and those options that are not as usual, by their names."""
        options = {name: value for name, value in self._options.items() if value != _USUAL[name]}
        if options.get("groups"):
            options["groups"] = {
                name: {"params": list(self._options["groups"][name]["params"]), **values}
                for name, values in self._groups.items()
            }
        return {**self._numbers, **self._flags, **options}

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
        self._check_change({}, self._groups | {name: self._groups[name] | checked})
        self._groups[name] |= checked
        self._set({})

    def step(self, *grads: Any, grad_scale: float | None = None, stream: Any = None) -> None:
        """Update every parameter, in place, in one compiled call.

        Parameters
        ----------
        *grads : ndarray, sequence, mapping or FlatBuffer
            Gradients in the structure of `params`, with its shapes and dtype. They are read, never written, unless the
            optimizer was made with `zero_grad`. For a FlatBuffer, another of the same layout (`params.like()`), or its
            `flat` array. Of several, as of several workers, the step takes the sum, added up in their order in the same
            pass. For parameters on a device, arrays there, in the memory order of the parameters.
        grad_scale : float, optional
            What the gradients were scaled by: they are divided by it first.
        stream : Stream or int, optional
            For parameters on a device, where to launch the step, which waits for nothing: a stream of Numba, CuPy or
            PyTorch, or a handle. By default the stream on which the first gradient's library works at the moment; the
            launch waits there for the streams of the others.

        Raises
        ------
        TypeError
            If the structure or a dtype is another than that of `params`, a gradient does not lie where they do, or
            `stream` is no stream, or given for parameters on the host.
        ValueError
            If a shape or a name is another than that of `params`, or a gradient shares memory with the parameters; on a
            device, also if the device or the memory order is another.
        FloatingPointError
            If a gradient is not finite and the optimizer was made with `on_nonfinite="raise"`, which on a device waits
            for it in each step.
        RuntimeError
            If something had to be written to the device while a CUDA graph is captured, or the host had to wait.
        """
        if not grads:
            raise TypeError("step needs at least one argument, the gradients")
        if grad_scale is not None:
            grad_scale = number("grad_scale", grad_scale, "(0, inf)")
        self.stepper.step(grads, grad_scale, stream)

    # --- settings -----------------------------------------------------------------------------------------------------

    @classmethod
    def _number(cls, name: str) -> Number:
        for owner in cls.__mro__:
            if isinstance(owner.__dict__.get(name), Number):
                return owner.__dict__[name]  # type: ignore[no-any-return]
        raise TypeError(f"{cls.__name__} has no number {name!r}")

    def _check_overrides(self, group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a group, checked."""
        checked: dict[str, Any] = {}
        for name, value in settings.items():
            if name == "frozen":
                checked[name] = flag(f"groups[{group!r}]['frozen']", value)
            elif name in self._numbers:
                checked[name] = self._number(name).check(f"groups[{group!r}][{name!r}]", value)
            else:
                allowed = ["params", "frozen", *self._numbers]
                raise ValueError(f"groups[{group!r}] has {name!r}, where only {allowed} are known")
        return checked

    def _set(self, numbers: Mapping[str, Any]) -> None:
        """Take checked numbers."""
        self._check_change(numbers, self._groups)
        self._numbers |= numbers
        self.stepper.configure(self._plan(self.stepper.arrays))

    def _plan(self, arrays: LocatedArrays) -> StepPlan:
        """The settings as the stepper takes them."""
        rows, options = self._rows, self._options
        kind = "decoupled" if self._is_decoupled else "coupled"
        spec = StepSpec(
            self._rule,
            decay=kind if any(values.get("weight_decay", 0.0) > 0 for values in rows) else "none",
            maximize=self._flags.get("maximize", False),
            clip=options["clip_value"] is not None,
            ema=options["ema_decay"] is not None,
            zero_grad=options["zero_grad"],
            state=options["state_dtype"] or "",
            grad=arrays.stored,
            copy=options["copy_dtype"] or arrays.stored,
        )
        return StepPlan(
            spec,
            [self._row(values) for values in rows],
            clip_value=options["clip_value"],
            ema_decay=options["ema_decay"],
            max_norm=options["max_norm"],
            on_nonfinite=options["on_nonfinite"],
        )

    @property
    def _rows(self) -> list[dict[str, Any]]:
        """The numbers of each row of the table: of what has no group, then of each group."""
        return [self._numbers, *(self._numbers | group for group in self._groups.values())]

    def _check_change(self, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse numbers, of all or of groups, that the rule, chosen when the optimizer was made, has no place for."""

    @property
    def _is_decoupled(self) -> bool:
        return self._flags.get("decoupled_weight_decay", False)

    def _row(self, values: Mapping[str, Any]) -> list[float]:
        """A row of the table: the decay's scalar, whether the group is trained, what the rule takes."""
        row = [0.0] * (HYPER + len(self._rule.hyper))
        decay = values.get("weight_decay", 0.0)
        row[DECAY] = 1.0 - values["lr"] * decay if self._is_decoupled else decay
        row[ACTIVE] = float(not values.get("frozen", False))
        parts = {} if self._rule.carry is None else {self._rule.hyper[-1]: 1.0}
        for name, value in values.items():
            if name != "frozen":
                parts |= self._number(name).parts(value)
        row[HYPER:] = [parts[name] for name in self._rule.hyper]
        return row

    def _check_storage(self, arrays: LocatedArrays) -> None:
        """Refuse types of storage that do not go with the parameters."""
        for option in ("state_dtype", "copy_dtype"):
            if self._options[option] is not None and arrays.dtype != np.float32:
                raise ValueError(f"{option} needs float32 parameters, got {arrays.dtype}")
        if self._options["copy_dtype"] is not None and arrays.stored:
            raise ValueError(f"copy_dtype must be None for parameters of {arrays.stored}, which are the copy")

    # --- saving and loading -------------------------------------------------------------------------------------------

    def _counters(self) -> dict[str, Any]:
        """What is counted, and carried from step to step, for `state_dict`."""
        counters: dict[str, Any] = {"t": self.t}
        if self._options["on_nonfinite"] != "ignore":
            counters["skipped_steps"] = self.skipped_steps
        return counters if self._carried is None else counters | {self._carried.entry: self.stepper.carried}

    def _checked_counters(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a state that is to be loaded."""
        names = [name for name in ("t", "skipped_steps") if name in state]
        checked = {name: count(f"state[{name!r}]", state[name], 0, _MAX_STEPS - 1) for name in names}
        return checked if self._carried is None else checked | self._carried.checked(state, 1 + len(self._groups))

    def _load_counters(self, counters: Mapping[str, Any]) -> None:
        self.t = counters["t"]
        self.skipped_steps = counters.get("skipped_steps", 0)
        if self._carried is not None:
            self.stepper.carried = counters[self._carried.entry]

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that `load_state_dict` needs to go on from here: plain numbers and arrays.

        Returns
        -------
        dict
            "t", the hyper-parameters, flags and options by their names, and the state, each one flat array over all
            parameters in their order. It is the same for parameters on the host and on a device, and an optimizer on
            either goes on from the other's; a device is waited for.
        """
        return self._counters() | self.settings | self.stepper.read_state()

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
        own, layout = self._counters() | self.settings, self.stepper.state_layout()
        if set(state) != {*own, *layout}:
            raise ValueError(f"state must have the keys {sorted({*own, *layout})}, got {sorted(map(str, state))}")
        for name, value in self._flags.items():
            if flag(f"state[{name!r}]", state[name]) != value:
                raise ValueError(f"state[{name!r}] must be {value}, as this optimizer was made, got {state[name]}")
        for name in own.keys() & (_USUAL.keys() - {"groups"}):
            if state[name] != own[name]:
                raise ValueError(
                    f"state[{name!r}] must be {own[name]!r}, as this optimizer was made, got {state[name]!r}"
                )
        for name, (shape, dtype) in layout.items():
            _check_array(name, state[name], shape, dtype)
        counters = self._checked_counters(state)
        groups = self._checked_groups(state) if "groups" in own else {}
        numbers = {name: self._number(name).check(name, state[name]) for name in self._numbers}
        self._check_change(numbers, self._groups | groups)
        self._load_counters(counters)
        self._groups |= groups
        self._set(numbers)
        self.stepper.write_state(state)

    def _checked_groups(self, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        given, own = state["groups"], self.settings["groups"]
        if _members(given) != _members(own):
            raise ValueError(f"state['groups'] must have the groups of this optimizer, {own!r}, got {given!r}")
        return {name: self._check_overrides(name, _without_params(values)) for name, values in given.items()}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value}" for name, value in self._numbers.items())
        rest = {name: value for name, value in self.settings.items() if name not in self._numbers and value}
        flags = "".join(f", {name}={value}" for name, value in rest.items())
        size, dtype = self.stepper.arrays.size, self.stepper.arrays.dtype
        return f"{type(self).__name__}({size} {dtype} parameters, {numbers}{flags}, t={self.t})"

    def __getstate__(self) -> dict[str, Any]:
        if on_device(self.params):
            raise TypeError(
                f"{type(self).__name__} on a CUDA device cannot be pickled or copied: save its state_dict()"
            )
        return {"params": self.params, "settings": self.settings, "state": self.state_dict()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(saved["params"], **saved["settings"])  # type: ignore[misc]
        self.load_state_dict(saved["state"])


def _check_array(name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(given, np.ndarray):
        raise TypeError(f"state[{name!r}] must be an array, got {type(given).__name__}")
    if given.shape != shape or given.dtype != dtype:
        raise ValueError(
            f"state[{name!r}] must have shape {shape} and dtype {dtype}, got {given.shape} and {given.dtype}"
        )
