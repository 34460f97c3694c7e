"""The optimizers on a CUDA device: the same classes, whose steps are launched there and never wait for the host.

`fastadam.Adam(params)` makes one of these where `params` are arrays on a device; see `docs/gpu.md`.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastadam._checks import flag, number
from fastadam._optimizer import Optimizer, _assigned, _checked_options
from fastadam.cpu import Variant
from fastadam.cuda.arrays import DeviceArrays, stream_of
from fastadam.cuda.jit import require_device
from fastadam.cuda.launch import Segments, StepMemory, address_of, allocated, on_current, synchronize
from fastadam.cuda.step import NONFINITE, SKIPPED, T


class OnDevice(Optimizer):
    """What an optimizer does otherwise where its parameters lie on a device."""

    def __init__(
        self, params: Any, numbers: Mapping[str, Any], flags: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._flags = {name: flag(name, value) for name, value in flags.items()}
        self._numbers = {name: self._spec(name).check(name, value) for name, value in numbers.items()}
        self._options = _checked_options(options)
        if self._options["state_dtype"] is not None:
            raise ValueError(f"state_dtype must be None for arrays on a device, got {self._options['state_dtype']!r}")
        self._device_arrays = arrays = DeviceArrays(params)
        self._arrays = arrays  # type: ignore[assignment]
        groups = self._options["groups"] or {}
        group_of, self._groups = _assigned(groups, arrays.names, self._check_overrides)
        self._rule = self._choose_rule()
        if self._options["copy_dtype"] is not None and arrays.dtype != np.float32:
            raise ValueError(f"copy_dtype needs float32 parameters, got {arrays.dtype}")
        require_device()
        with on_current(arrays.device):
            self._make_memory(group_of[: len(arrays.names)])
        self._mirror: dict[str, Any] | None = None
        self._grad_scale = 1.0
        self._set({})

    def _make_memory(self, group_of: Any) -> None:
        arrays, states = self._device_arrays, self._rule.states
        synchronize()  # the parameters' library may be filling them still
        variant = Variant(
            self._rule, ema=self._options["ema_decay"] is not None, copy=self._options["copy_dtype"] or ""
        )
        addresses, sizes = [array.address for array in arrays.arrays], [array.size for array in arrays.arrays]
        segments = Segments(addresses, sizes, arrays.state_at.tolist(), group_of)
        self._memory = memory = StepMemory(variant, arrays.dtype, segments, 1 + len(self._groups))
        for name, value in self._initial_values().items():
            memory.fill(states.index(name) * memory.width, memory.width, value)
        if variant.ema:
            for array, start in zip(arrays.arrays, arrays.state_at, strict=False):
                memory.copy(array.address, len(states) * memory.width + int(start), array.size)
        self._copies = self._make_copies()
        synchronize()  # the streams of the steps do not wait for the default one

    def _make_copies(self) -> Any:
        form = self._options["copy_dtype"]
        if form is None:
            return None
        arrays = self._device_arrays
        flat = allocated(max(1, int(arrays.state_at[-1])), np.float16 if form == "float16" else np.uint16, "the copies")
        starts = [address_of(flat) + 2 * int(start) for start in arrays.state_at[:-1]]
        self._memory.set_copies(starts)
        parts = [
            flat[start : start + array.size].reshape(*array.shape)
            for start, array in zip(arrays.state_at, arrays.arrays, strict=False)
        ]
        if arrays.names == (None,):
            return parts[0]
        return dict(zip(arrays.names, parts, strict=True)) if isinstance(arrays.params, Mapping) else parts

    # --- stepping ----------------------------------------------------------------------------------------------------

    def step(self, *grads: Any, grad_scale: float | None = None, stream: Any = None) -> None:
        """Launch a step that updates every parameter, in place; it waits for nothing.

        Parameters
        ----------
        *grads : array, sequence of arrays, or mapping of str to arrays
            Gradients on the device of the parameters, in their structure, shapes, dtype and memory order. Of several,
            the step takes the sum.
        grad_scale : float, optional
            What the gradients were scaled by: they are divided by it first.
        stream : Stream or int, optional
            Where to launch: a stream of Numba, CuPy or PyTorch, or a handle. By default the stream on which the
            gradients' library works at the moment.

        Raises
        ------
        TypeError
            If the structure or a dtype is another than that of `params`, or a gradient is not on a device.
        ValueError
            If a shape, a name, the device or the memory order is another than that of `params`, or a gradient shares
            memory with them.
        FloatingPointError
            If a gradient is not finite and the optimizer was made with `on_nonfinite="raise"`, which waits for the
            device in each step.
        RuntimeError
            If something had to be written to the device while a CUDA graph is captured.
        """
        if not grads:
            raise TypeError("step needs at least one argument, the gradients")
        scale = 1.0 if grad_scale is None else number("grad_scale", grad_scale, "(0, inf)")
        located = [self._device_arrays.locate(rows, self._options["zero_grad"]) for rows in grads]
        gradients = np.array([addresses for addresses, _ in located], np.int64)
        launched_on = stream_of(stream, [array for _, arrays in located for array in arrays])
        memory, policy = self._memory, self._options["on_nonfinite"]
        measures = self._options["max_norm"] is not None or policy != "ignore"
        with on_current(self._device_arrays.device):
            memory.stream = launched_on
            if scale != self._grad_scale:
                self._grad_scale = scale
                memory.configure(self._settings_table())
            memory.variant = self._scaling_variant if measures or scale != 1.0 else self._variant
            if not memory.step(gradients, launched_on, measures=measures, raises=policy == "raise"):
                counters = memory.counters
                counters[SKIPPED] -= 1  # it was not skipped but refused
                counters[NONFINITE] = 0
                memory.counters = counters
                raise FloatingPointError("grads must be finite, got infinity or NaN; nothing was changed")

    def _set(self, numbers: Mapping[str, Any]) -> None:
        if not hasattr(self, "_memory"):
            self._numbers |= numbers
            return
        self._check_change(numbers)
        self._numbers |= numbers
        kind, options = "decoupled" if self._is_decoupled else "coupled", self._options
        variant = Variant(
            self._rule,
            decay=kind if any(values.get("weight_decay", 0.0) > 0 for values in self._rows) else "none",
            maximize=self._flags.get("maximize", False),
            clip=options["clip_value"] is not None,
            ema=options["ema_decay"] is not None,
            zero_grad=options["zero_grad"],
            copy=options["copy_dtype"] or "",
        )
        if variant != self.__dict__.get("_variant"):  # kernels are found by the identity
            self._variant, self._scaling_variant = variant, variant._replace(scale=True)
        with on_current(self._device_arrays.device):
            self._memory.configure(self._settings_table())

    @property
    def _rows(self) -> list[dict[str, Any]]:
        """The numbers of each row of the table."""
        return [self._numbers, *(self._numbers | group for group in self._groups.values())]

    def _settings_table(self) -> Any:
        options = self._options
        clip, ema, most = (
            options["clip_value"] or math.inf,
            options["ema_decay"] or 0.0,
            options["max_norm"] or math.inf,
        )
        table = [[self._grad_scale, clip, 1.0 - ema, most, float(options["on_nonfinite"] != "ignore")]]
        table += [self._row(k, values) for k, values in enumerate(self._rows)]
        width = max(map(len, table))
        return np.array([row + [0.0] * (width - len(row)) for row in table])

    # --- what the device knows ---------------------------------------------------------------------------------------

    @property
    def t(self) -> int:
        """The number of steps taken, replays of captured ones included; asking waits for the device."""
        return int(self._memory.counters[T])

    @t.setter
    def t(self, value: int) -> None:
        counters = self._memory.counters
        counters[T] = value
        self._memory.counters = counters

    @property
    def skipped_steps(self) -> int:
        """Steps that `on_nonfinite="skip"` has skipped; asking waits for the device."""
        return int(self._memory.counters[SKIPPED])

    @skipped_steps.setter
    def skipped_steps(self, value: int) -> None:
        counters = self._memory.counters
        counters[SKIPPED] = value
        self._memory.counters = counters

    @property
    def state(self) -> dict[str, Any]:
        """The state itself, on the device, by PyTorch's names: each a flat array of Numba's.

        The part of each array of parameters begins at a multiple of 128 bytes. `state_dict` has it without gaps.
        """
        if self._mirror is not None:
            return self._mirror
        return {name: self._memory.state[k] for k, name in enumerate(self._state_names)}

    @property
    def copies(self) -> Any:
        """The copy of the parameters that each step writes, in their structure; None without `copy_dtype`."""
        return self._copies

    @property
    def _state_names(self) -> tuple[str, ...]:
        return (*self._rule.states, "ema") if self._options["ema_decay"] is not None else self._rule.states

    def state_dict(self) -> dict[str, Any]:
        """A copy, on the host, of everything that `load_state_dict` needs to go on from here; waits for the device.

        It is the same as that of an optimizer on the host, and either goes on from the other's.
        """
        with self._on_host():
            return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, also of an optimizer on the host; see `fastadam.Adam.load_state_dict`."""
        with self._on_host() as mirror:
            super().load_state_dict(state)
            self._upload(mirror)

    @contextmanager
    def _on_host(self) -> Iterator[dict[str, Any]]:
        """Have `state` show copies on the host, without gaps."""
        arrays, memory = self._device_arrays, self._memory
        with on_current(arrays.device):
            if hasattr(self, "_mu_products"):
                self._mu_products = memory.carried.tolist()
            rows = memory.read_state()
            keep = np.concatenate([np.arange(a.size) + s for a, s in zip(arrays.arrays, arrays.state_at, strict=False)])
            self._mirror = {name: rows[k, keep] for k, name in enumerate(self._state_names)}
            try:
                yield self._mirror
            finally:
                self._mirror = None

    def _upload(self, mirror: Mapping[str, Any]) -> None:
        arrays, memory = self._device_arrays, self._memory
        rows = np.zeros(memory.state.shape, arrays.dtype)
        offsets = np.cumsum([0, *(array.size for array in arrays.arrays)])
        for k, array in enumerate(arrays.arrays):
            start = arrays.state_at[k]
            for row, name in enumerate(self._state_names):
                rows[row, start : start + array.size] = mirror[name][offsets[k] : offsets[k + 1]]
        memory.write_state(list(rows))
        if hasattr(self, "_mu_products"):
            memory.carried = np.array(self._mu_products)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} on a CUDA device cannot be pickled or copied: save its state_dict()")


@functools.cache
def class_on_device(owner: type[Optimizer]) -> type[Optimizer]:
    """The class of an optimizer's on a device: its own methods come first, then those of `OnDevice`."""
    if issubclass(owner, OnDevice):
        return owner
    names = {"__module__": owner.__module__, "__doc__": owner.__doc__, "__qualname__": owner.__qualname__}
    return type(owner.__name__, (owner, OnDevice), names)
