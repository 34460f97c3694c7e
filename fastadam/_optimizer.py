"""What all optimizers share: state, step count, settings and the choice of the kernel.

A subclass names its numbers and flags and chooses a rule of `rules.py`; all else is here. The settings become a table,
one row a group of parameters, that the kernel reads: no change of a value compiles anything.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self, TypedDict

import numpy as np

from fastadam import rules
from fastadam._arrays import COPY_AT, GROUP, HALF_DTYPES, OFFSET, Array, Arrays, ParameterArrays, label, on_device
from fastadam._checks import choice, count, flag, items, number
from fastadam._threads import on_threads, parallel_threads
from fastadam.buffers import aligned_zeros, bfloat16_bits
from fastadam.cpu import (
    ACTIVE,
    DECAY,
    EXTRA,
    HYPER,
    PARALLEL_BYTES,
    SCALE,
    Variant,
    gradient_norm,
    step_kernel,
)
from fastadam.formats import CODE_BLOCK, LARGEST_CODE

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
    state_dtype: str | None
    copy_dtype: str | None
    groups: Mapping[str, Mapping[str, Any]] | None


class Number:
    """A hyper-parameter: a number in an interval, which may be set between steps."""

    def __init__(self, doc: str, interval: str = "[0, inf)") -> None:
        self.__doc__ = doc
        self.interval = interval

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else optimizer._numbers[self.name]

    def __set__(self, optimizer: "Optimizer", value: Any) -> None:
        optimizer._set({self.name: self.check(self.name, value)})

    def check(self, name: str, value: Any) -> Any:
        """The value as a float, if it is allowed."""
        return number(name, value, self.interval)

    def parts(self, value: Any) -> dict[str, float]:
        """What the rules call this number."""
        return {self.name: value}


class Betas(Number):
    """Two decay rates, each in [0, 1)."""

    def __init__(self, doc: str) -> None:
        super().__init__(doc, "[0, 1)")

    def check(self, name: str, value: Any) -> tuple[float, float]:
        """The value as two floats, if it is allowed."""
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if len(items(name, value)) != 2:
            raise ValueError(f"{name} must be two numbers, got {value!r}")
        return number(f"{name}[0]", value[0], self.interval), number(f"{name}[1]", value[1], self.interval)

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
        self._flags = {name: flag(name, value) for name, value in flags.items()}
        self._numbers = {name: self._spec(name).check(name, value) for name, value in numbers.items()}
        self._options = _checked_options(options)
        groups, packed = self._options["groups"], self._options["state_dtype"]
        self._arrays = ParameterArrays(params, bool(groups), CODE_BLOCK if packed == "uint8" else 1)
        self._check_storage()
        group_of, self._groups = _assigned(groups or {}, self._arrays.names, self._check_overrides)
        self._arrays.segments[GROUP] = EXTRA + 1
        self._arrays.segments[GROUP, :-1] += group_of
        self._rule = self._choose_rule()
        self.t, self.skipped_steps = 0, 0
        self._state = self._initial_state()
        self._rows_at = np.array([array.ctypes.data for array in self._state.values()], np.int64)
        self._copies = self._initial_copies()
        self._set({})

    def _choose_rule(self) -> rules.Rule:
        """The rule that the flags and numbers ask for."""
        raise NotImplementedError

    def _hyper(self, row: int) -> dict[str, float]:
        """What the rule takes beside the numbers, for a row of the table."""
        return {}

    def _advance(self) -> None:
        """Called after each step."""

    def _advance_to(self, t: int) -> None:
        """Called after steps that were made elsewhere, on this state and this table."""
        self.t = t

    @property
    def params(self) -> Arrays:
        """What was given as `params`."""
        return self._arrays.params

    @property
    def state(self) -> dict[str, Array]:
        """The state itself, not a copy, by PyTorch's names: each flat over all parameters in their order.

        With `ema_decay`, "ema" is the average of the parameters. With `state_dtype="bfloat16"` arrays are uint16 and
        hold the bits; with "uint8" they are codes, each array of parameters beginning at a multiple of 512, and for
        each state "name" there is "name_scale", what the codes of each block of 512 are multiplied by. For parameters
        of float16 or bfloat16, "master" has them in float32.
        """
        masters = {} if self._arrays.masters is None else {"master": self._arrays.masters}
        return self._state | masters

    @property
    def copies(self) -> Any:
        """The copy of the parameters that each step writes, in their structure; None without `copy_dtype`.

        Arrays are float16, or uint16 with the bits of bfloat16.
        """
        return self._copies

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

    def step(self, *grads: Arrays, grad_scale: float | None = None) -> None:
        """Update every parameter, in place, in one compiled call.

        Parameters
        ----------
        *grads : ndarray, sequence, mapping or FlatBuffer
            Gradients in the structure of `params`, with its shapes and dtype. They are read, never written, unless the
            optimizer was made with `zero_grad`. For a FlatBuffer, another of the same layout (`params.like()`), or its
            `flat` array. Of several, as of several workers, the step takes the sum, added up in their order in the same
            pass.
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
        if len(grads) != 1 or grad_scale is not None or not self._is_plain:
            self._step_with_care(grads, grad_scale)
            return
        located = arrays.locate(grads[0], self._options["zero_grad"])
        kernel = self._serial_kernel if arrays.nbytes < PARALLEL_BYTES else self._kernel(self._variant)
        kernel(arrays.segments, self._rows_at, self._table, self.t + 1)
        del located  # until here it kept alive what lies at the addresses
        self.t += 1
        self._advance()

    def _step_with_care(self, grads: tuple[Arrays, ...], grad_scale: float | None) -> None:
        """A step of several gradients, or one that looks at the gradient's norm first, or scales it."""
        scale = 1.0 if grad_scale is None else number("grad_scale", grad_scale, "(0, inf)")
        if not grads:
            raise TypeError("step needs at least one argument, the gradients")
        arrays, variant, zeroes = self._arrays, self._variant, self._options["zero_grad"]
        if len(grads) == 1:
            table, located = arrays.segments, arrays.locate(grads[0], zeroes)
        else:
            table, located = arrays.locate_rows(grads, zeroes)
            variant = variant._replace(sums=True)
        factor = self._gradient_factor(table, scale)
        if factor is None:
            self.skipped_steps += 1
            return
        self._table[EXTRA, SCALE] = factor
        kernel = self._kernel(variant if factor == 1.0 else variant._replace(scale=True))
        kernel(table, self._rows_at, self._table, self.t + 1)
        del located
        self.t += 1
        self._advance()

    def _gradient_factor(self, table: Array, scale: float) -> float | None:
        """What to multiply the gradient with: the scale undone, the norm clipped; None if the step is skipped."""
        max_norm, on_nonfinite = self._options["max_norm"], self._options["on_nonfinite"]
        if max_norm is None and on_nonfinite == "ignore":
            return 1.0 / scale
        threads = self._threads
        norm_of = on_threads(threads, gradient_norm)
        norm = norm_of(table, self._arrays.dtype.name, self._arrays.stored, threads > 1)
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
                checked[name] = flag(f"groups[{group!r}]['frozen']", value)
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
        self._check_change(numbers, self._groups)
        self._numbers |= numbers
        rows, options = self._rows, self._options
        extra = [1.0, options["clip_value"] or math.inf, 1.0 - (options["ema_decay"] or 0.0)]
        table = [extra, *(self._row(k, values) for k, values in enumerate(rows))]
        width = max(map(len, table))
        self._table = np.array([row + [0.0] * (width - len(row)) for row in table])
        kind = "decoupled" if self._is_decoupled else "coupled"
        self._variant = Variant(
            self._rule,
            decay=kind if any(values.get("weight_decay", 0.0) > 0 for values in rows) else "none",
            maximize=self._flags.get("maximize", False),
            clip=options["clip_value"] is not None,
            ema=options["ema_decay"] is not None,
            zero_grad=options["zero_grad"],
            state=options["state_dtype"] or "",
            grad=self._arrays.stored,
            copy=options["copy_dtype"] or self._arrays.stored,
        )
        self._is_plain = options["max_norm"] is None and options["on_nonfinite"] == "ignore"
        self._serial_kernel = step_kernel(self._variant, self._arrays.dtype.name, False)

    @property
    def _rows(self) -> list[dict[str, Any]]:
        """The numbers of each row of the table: of what has no group, then of each group."""
        return [self._numbers, *(self._numbers | group for group in self._groups.values())]

    def _check_change(self, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse numbers, of all or of groups, that the rule, chosen when the optimizer was made, has no place for."""

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

    def _check_storage(self) -> None:
        """Refuse types of storage that do not go with the parameters."""
        for option in ("state_dtype", "copy_dtype"):
            if self._options[option] is not None and self._arrays.dtype != np.float32:
                raise ValueError(f"{option} needs float32 parameters, got {self._arrays.dtype}")
        if self._options["copy_dtype"] is not None and self._arrays.stored:
            raise ValueError(f"copy_dtype must be None for parameters of {self._arrays.stored}, which are the copy")

    def _initial_state(self) -> dict[str, Array]:
        """Each state of the rule, zeros; with codes, the scales of each; the average of the parameters."""
        size, dtype, packed = self._arrays.size, self._arrays.dtype, self._options["state_dtype"]
        kinds = dict.fromkeys(self._rule.states, dtype)
        if packed == "bfloat16":
            kinds = {name: np.dtype(np.uint16) for name in self._rule.states}
        elif packed == "uint8":
            kinds = {name: np.dtype(np.uint8) for name in self._rule.states}
        state = {name: aligned_zeros(size, kind) for name, kind in kinds.items()}
        if packed == "uint8":
            state |= {f"{name}_scale": aligned_zeros(size // CODE_BLOCK, dtype) for name in self._rule.states}
        for name, value in self._initial_values().items():
            if packed == "uint8":
                state[name][:], state[f"{name}_scale"][:] = 255, value / LARGEST_CODE
            else:
                state[name][:] = bfloat16_bits(np.array([value], dtype)) if packed else value
        return state if self._options["ema_decay"] is None else state | {"ema": self._arrays.concatenated()}

    def _initial_values(self) -> dict[str, float]:
        """The states that do not begin as zeros."""
        return {}

    def _initial_copies(self) -> Any:
        """Copies of the parameters in `copy_dtype`, in their structure, whose addresses are noted in the table."""
        if self._options["copy_dtype"] is None:
            return None
        arrays, bits = self._arrays, self._options["copy_dtype"] == "bfloat16"
        with np.errstate(over="ignore"):
            flat = bfloat16_bits(arrays.concatenated()) if bits else arrays.concatenated().astype(np.float16)
        arrays.segments[COPY_AT] = flat.ctypes.data + flat.itemsize * arrays.segments[OFFSET]
        return arrays.structured(flat)

    @property
    def _threads(self) -> int:
        return parallel_threads() if self._arrays.nbytes >= PARALLEL_BYTES else 1

    def _kernel(self, variant: Variant) -> Callable[..., None]:
        threads = self._threads
        return on_threads(threads, step_kernel(variant, self._arrays.dtype.name, threads > 1))

    # --- saving and loading -------------------------------------------------------------------------------------------

    def _counters(self) -> dict[str, Any]:
        """What is counted, for `state_dict`."""
        counters: dict[str, Any] = {"t": self.t}
        return (
            counters if self._options["on_nonfinite"] == "ignore" else counters | {"skipped_steps": self.skipped_steps}
        )

    def _checked_counters(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a state that is to be loaded."""
        names = [name for name in ("t", "skipped_steps") if name in state]
        return {name: count(f"state[{name!r}]", state[name], 0, _MAX_STEPS - 1) for name in names}

    def _load_counters(self, counters: Mapping[str, Any]) -> None:
        self.t = counters["t"]
        self.skipped_steps = counters.get("skipped_steps", 0)

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
            if flag(f"state[{name!r}]", state[name]) != value:
                raise ValueError(f"state[{name!r}] must be {value}, as this optimizer was made, got {state[name]}")
        for name in own.keys() & (_USUAL.keys() - {"groups"}):
            if state[name] != own[name]:
                raise ValueError(
                    f"state[{name!r}] must be {own[name]!r}, as this optimizer was made, got {state[name]!r}"
                )
        for name, array in arrays.items():
            _check_array(name, state[name], array)
        counters = self._checked_counters(state)
        groups = self._checked_groups(state) if "groups" in own else {}
        numbers = {name: self._spec(name).check(name, state[name]) for name in self._numbers}
        self._check_change(numbers, self._groups | groups)
        self._load_counters(counters)
        self._groups |= groups
        self._set(numbers)
        for name, array in arrays.items():
            array[:] = state[name]

    def _checked_groups(self, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        given, own = state["groups"], self._settings()["groups"]
        if _members(given) != _members(own):
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
    "state_dtype": None, "copy_dtype": None, "groups": None,
}  # fmt: skip


def _checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options, checked; those that are not given have their usual values."""
    unknown = given.keys() - _USUAL.keys()
    if unknown:
        raise TypeError(f"got an unexpected keyword argument {min(unknown)!r}; known options are {list(_USUAL)}")
    options = {**_USUAL, **given}
    for name in ("max_norm", "clip_value"):
        if options[name] is not None:
            options[name] = number(name, options[name], "(0, inf)")
    if options["ema_decay"] is not None:
        options["ema_decay"] = number("ema_decay", options["ema_decay"], "[0, 1)")
    options["zero_grad"] = flag("zero_grad", options["zero_grad"])
    choice("on_nonfinite", options["on_nonfinite"], ("ignore", "skip", "raise"))
    for name, allowed in (("state_dtype", ("bfloat16", "uint8")), ("copy_dtype", HALF_DTYPES)):
        if options[name] is not None:
            choice(name, options[name], allowed)
    if options["groups"] is not None and not isinstance(options["groups"], Mapping):
        raise TypeError(f"groups must be a mapping of names to settings, got {type(options['groups']).__name__}")
    return options


def _assigned(
    groups: Mapping[str, Mapping[str, Any]],
    segments: tuple[Any, ...],
    check: Callable[[str, Mapping[str, Any]], dict[str, Any]],
) -> tuple[Array, dict[str, dict[str, Any]]]:
    """The row of the table for each segment, and the checked settings of each group. Row 0 is of what has no group."""
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
    """The parameters of each group, of what should be groups."""
    if not isinstance(groups, Mapping) or not all(isinstance(values, Mapping) for values in groups.values()):
        return None
    return {name: values.get("params") for name, values in groups.items()}


def _without_params(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "params"}


def _check_array(name: str, given: Any, own: Array) -> None:
    if not isinstance(given, np.ndarray):
        raise TypeError(f"state[{name!r}] must be an array, got {type(given).__name__}")
    if given.shape != own.shape or given.dtype != own.dtype:
        raise ValueError(
            f"state[{name!r}] must have shape {own.shape} and dtype {own.dtype}, got {given.shape} and {given.dtype}"
        )
