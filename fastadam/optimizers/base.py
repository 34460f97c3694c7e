"""Base class of the optimizers: checks, saves and loads their numbers, flags, options and groups.

A subclass names its numbers and flags and chooses a rule of `formulas.rules`. Steps are made by a stepper, for arrays
on the host or on a device, which receives the settings as a `StepPlan`; a change of a value compiles nothing.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from fastadam._checks import check_entries, count, flag, optional, positive
from fastadam.cpu.arrays import Arrays, HostArrays
from fastadam.cpu.stepper import HostStepper
from fastadam.cuda.detection import on_device
from fastadam.formulas import rules
from fastadam.formulas.step import ACTIVE, DECAY, HYPER, StepSpec
from fastadam.formulas.stepper import LocatedArrays, Stepper, StepPlan
from fastadam.optimizers.settings import (
    _DEFAULTS,
    Carried,
    Number,
    _assigned,
    _checked_options,
    _members,
    _without_params,
)

_MAX_STEPS = 2**63 - 1  # the kernels count in 64 bits


class Optimizer:
    """Base class of all optimizers; use those of `fastadam.optimizers`, or make one with `fastadam.optimizer`.

    Attributes
    ----------
    stepper : Stepper
        The object that makes the steps and holds the state; its protocol is in `fastadam.formulas.stepper`.
    """

    stepper: Stepper

    _carried: ClassVar[Carried | None] = None
    """Entry of the `state_dict` for the numbers that the rule carries from step to step."""

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
        """Locate the parameters, and choose the stepper for the host or the device that holds them."""
        packed = self._options["state_dtype"]
        if not on_device(params):
            return HostArrays(params, packed, by_name=bool(self._options["groups"])), HostStepper
        from fastadam.cuda.arrays import DeviceArrays  # imported here, since it needs an extra
        from fastadam.cuda.stepper import DeviceStepper

        return DeviceArrays(params, packed), DeviceStepper

    def _choose_rule(self) -> rules.Rule:
        """Choose the rule for the flags and numbers."""
        raise NotImplementedError

    def _initial_values(self) -> dict[str, float]:
        """Return the initial values of the states that do not begin as zeros."""
        return {}

    @property
    def params(self) -> Arrays:
        """The parameters, as they were given."""
        params: Arrays = self.stepper.arrays.params
        return params

    @property
    def t(self) -> int:
        """The number of steps taken, replays of CUDA graphs included; for parameters on a device, reading it waits."""
        return self.stepper.t

    @t.setter
    def t(self, value: int) -> None:
        self.stepper.t = value

    @property
    def skipped_steps(self) -> int:
        """The number of steps skipped by `on_nonfinite="skip"`; for parameters on a device, reading it waits."""
        return self.stepper.skipped_steps

    @skipped_steps.setter
    def skipped_steps(self, value: int) -> None:
        self.stepper.skipped_steps = value

    @property
    def state(self) -> dict[str, Any]:
        """The state, not a copy, by PyTorch's names: each entry is flat over all parameters in their order.

        With `ema_decay`, "ema" is the average of the parameters. With `state_dtype="bfloat16"`, arrays are uint16 and
        hold the bits of bfloat16. With `state_dtype="uint8"`, they hold codes, where each array of parameters begins at
        a multiple of 512, and for each state "name" the entry "name_scale" has a factor for each block of 512 codes.
        For parameters of float16 or bfloat16, "master" holds them in float32.

        For parameters on a device, entries are Numba device arrays, in which the part of each array of parameters
        begins at a multiple of 128 bytes; `state_dict` returns them without gaps.
        """
        return self.stepper.state

    @property
    def copies(self) -> Any:
        """The copies of the parameters that each step writes, in their structure; None without `copy_dtype`.

        The arrays are float16, or uint16 with the bits of bfloat16.
        """
        return self.stepper.copies

    @property
    def settings(self) -> dict[str, Any]:
        """Numbers, flags and the options that differ from their defaults, by their names."""
        options = {name: value for name, value in self._options.items() if value != _DEFAULTS[name]}
        if options.get("groups"):
            options["groups"] = {
                name: {"params": list(self._options["groups"][name]["params"]), **values}
                for name, values in self._groups.items()
            }
        return {**self._numbers, **self._flags, **options}

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings of each group that differ from those of the optimizer; `set_group` changes them."""
        return MappingProxyType({name: MappingProxyType(dict(values)) for name, values in self._groups.items()})

    def set_group(self, name: str, **settings: Any) -> None:
        """Change settings of a group, without compilation, from the next step on.

        Parameters
        ----------
        name : str
            Name of the group.
        **settings
            Numbers of the optimizer, and `frozen`.

        Raises
        ------
        KeyError
            If there is no such group.
        TypeError, ValueError
            If a setting is unknown, has the wrong type, or is out of range. Nothing is changed in that case.
        """
        if name not in self._groups:
            raise KeyError(f"{name!r} is not a group of this optimizer, which has {list(self._groups)}")
        checked = self._check_overrides(name, settings)
        self._check_change({}, self._groups | {name: self._groups[name] | checked})
        self._groups[name] |= checked
        self._set({})

    def step(self, *grads: Any, grad_scale: float | None = None, stream: Any = None) -> None:
        """Update all parameters, in place, in one compiled call.

        Parameters
        ----------
        *grads : ndarray, sequence, mapping or FlatBuffer
            Gradients in the structure of `params`, with the same shapes and dtype. For a FlatBuffer, another one of the
            same layout (`params.like()`), or its `flat` array. Several gradients, such as those of several workers, are
            summed in their order in the same pass. For parameters on a device, the gradients must be on that device, in
            the memory order of the parameters. Gradients are not modified, unless the optimizer was made with
            `zero_grad`.
        grad_scale : float, optional
            Factor by which the gradients have been multiplied; they are divided by it first.
        stream : Stream or int, optional
            For parameters on a device, the stream on which to launch the step: a stream of Numba, CuPy or PyTorch, or a
            handle. By default, it is the current stream of the library of the first gradient, which then waits for
            those of the other gradients.

        Raises
        ------
        TypeError
            If the structure or a dtype differs from that of `params`; if gradients are not on the host or device of the
            parameters; if `stream` is not a stream, or is given for parameters on the host.
        ValueError
            If a shape or a name differs from that of `params`, or a gradient shares memory with the parameters; on a
            device, also if the device or the memory order differs.
        FloatingPointError
            If a gradient is not finite and the optimizer was made with `on_nonfinite="raise"`, for which the host waits
            for the device at each step.
        RuntimeError
            If, during the capture of a CUDA graph, the step would write settings to the device or wait for it.
        """
        if not grads:
            raise TypeError("step needs at least one argument, the gradients")
        self.stepper.step(grads, optional(positive, "grad_scale", grad_scale), stream)

    # --- settings -----------------------------------------------------------------------------------------------------

    @classmethod
    def _number(cls, name: str) -> Number:
        for owner in cls.__mro__:
            if isinstance(owner.__dict__.get(name), Number):
                return owner.__dict__[name]  # type: ignore[no-any-return]
        raise TypeError(f"{cls.__name__} has no number {name!r}")

    def _check_overrides(self, group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Check the settings of a group."""
        checked: dict[str, Any] = {}
        for name, value in settings.items():
            if name == "frozen":
                checked[name] = flag(f"groups[{group!r}]['frozen']", value)
            elif name in self._numbers:
                checked[name] = self._number(name).check(f"groups[{group!r}][{name!r}]", value)
            else:
                allowed = ["params", "frozen", *self._numbers]
                raise ValueError(f"groups[{group!r}] has {name!r}, where only {allowed} are allowed")
        return checked

    def _set(self, numbers: Mapping[str, Any]) -> None:
        """Store numbers that have been checked."""
        self._check_change(numbers, self._groups)
        self._numbers |= numbers
        self.stepper.configure(self._plan(self.stepper.arrays))

    def _plan(self, arrays: LocatedArrays) -> StepPlan:
        """Make the plan of a step from the settings."""
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
        """Numbers of each row of the table: first those for parameters without a group, then those of each group."""
        return [self._numbers, *(self._numbers | group for group in self._groups.values())]

    def _check_change(self, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise if the rule, which was chosen when the optimizer was made, does not support these numbers."""

    @property
    def _is_decoupled(self) -> bool:
        return self._flags.get("decoupled_weight_decay", False)

    def _row(self, values: Mapping[str, Any]) -> list[float]:
        """Make a row of the table: the scalar of the decay, whether the group is trained, the numbers of the rule."""
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
        """Raise if a type of storage does not suit the parameters."""
        for option in ("state_dtype", "copy_dtype"):
            if self._options[option] is not None and arrays.dtype != np.float32:
                raise ValueError(f"{option} needs float32 parameters, got {arrays.dtype}")
        if self._options["copy_dtype"] is not None and arrays.stored:
            raise ValueError(f"copy_dtype must be None for parameters of {arrays.stored}, which are the copy")

    # --- saving and loading -------------------------------------------------------------------------------------------

    def _counters(self) -> dict[str, Any]:
        """Counters, and numbers carried from step to step, for `state_dict`."""
        counters: dict[str, Any] = {"t": self.t}
        if self._options["on_nonfinite"] != "ignore":
            counters["skipped_steps"] = self.skipped_steps
        return counters if self._carried is None else counters | {self._carried.entry: self.stepper.carried}

    def _checked_counters(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Check the counters of a state to load."""
        names = [name for name in ("t", "skipped_steps") if name in state]
        checked = {name: count(f"state[{name!r}]", state[name], 0, _MAX_STEPS - 1) for name in names}
        return checked if self._carried is None else checked | self._carried.checked(state, 1 + len(self._groups))

    def _load_counters(self, counters: Mapping[str, Any]) -> None:
        self.t = counters["t"]
        self.skipped_steps = counters.get("skipped_steps", 0)
        if self._carried is not None:
            self.stepper.carried = counters[self._carried.entry]

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state and the settings, as plain numbers and arrays, for `load_state_dict`.

        Returns
        -------
        dict
            The step count "t", the hyper-parameters, flags and options by their names, and the states, each one flat
            array over all parameters in their order. It has the same form for parameters on the host and on a device,
            and either can be loaded by an optimizer for the other. For a device, the call waits for it.
        """
        return self._counters() | self.settings | self.stepper.read_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state, step count and hyper-parameters returned by `state_dict`.

        Parameters
        ----------
        state : mapping
            State returned by `state_dict`.

        Raises
        ------
        TypeError
            If `state` is not a mapping, or an entry has the wrong type.
        ValueError
            If an entry is missing, unknown, out of range, or for parameters of another size or dtype; or if flags or
            options differ from those of this optimizer. Nothing is changed in that case.
        """
        own, layout = self._counters() | self.settings, self.stepper.state_layout()
        check_entries(state, {*own, *layout})
        for name, value in self._flags.items():
            if flag(f"state[{name!r}]", state[name]) != value:
                raise ValueError(f"state[{name!r}] must be {value}, as in this optimizer, got {state[name]}")
        for name in own.keys() & (_DEFAULTS.keys() - {"groups"}):
            if state[name] != own[name]:
                raise ValueError(f"state[{name!r}] must be {own[name]!r}, as in this optimizer, got {state[name]!r}")
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
