"""The optimizers on a CUDA device: the same classes, whose steps are launched there and never wait for the host.

`fastadam.Adam(params)` makes one of these where `params` are arrays on a device; see `docs/gpu.md`.
"""

import functools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from fastadam._checks import flag, number
from fastadam.cpu.storage import bfloat16_bits
from fastadam.cuda.arrays import DeviceArray, DeviceArrays, other_streams, stream_of
from fastadam.cuda.chunk import NONFINITE, SKIPPED, T
from fastadam.cuda.jit import cuda, require_device
from fastadam.cuda.launch import (
    Segments,
    StepMemory,
    address_of,
    allocated,
    convert,
    fill,
    is_capturing,
    on_current,
    synchronize,
)
from fastadam.formulas.step import StepSpec
from fastadam.formulas.storage import LARGEST_CODE
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import _assigned, _checked_options


class OnDevice(Optimizer):
    """What an optimizer does otherwise where its parameters lie on a device."""

    def __init__(
        self, params: Any, numbers: Mapping[str, Any], flags: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._flags = {name: flag(name, value) for name, value in flags.items()}
        self._numbers = {name: self._number(name).check(name, value) for name, value in numbers.items()}
        self._options = _checked_options(options)
        self._device_arrays = arrays = DeviceArrays(params, self._options["state_dtype"])
        self._arrays = arrays  # type: ignore[assignment]
        self._check_storage()
        groups = self._options["groups"] or {}
        group_of, self._groups = _assigned(groups, arrays.names, self._check_overrides)
        self._rule = self._choose_rule()
        require_device()
        with on_current(arrays.device):
            self._make_memory(group_of[: len(arrays.names)])
        self._mirror: dict[str, Any] | None = None
        self._grad_scale = 1.0
        self._held: deque[tuple[Any, list[Any]]] = deque()
        self._held_for_graphs: list[Any] = []
        self._set({})

    def _make_memory(self, group_of: Any) -> None:
        arrays = self._device_arrays
        synchronize()  # the parameters' library may be filling them still
        addresses, sizes = [array.address for array in arrays.arrays], [array.size for array in arrays.arrays]
        copies = addresses if arrays.stored else None
        self._masters = self._made("the masters", np.float32, "float32") if arrays.stored else None
        if self._masters is not None:
            addresses = self._starts_in(self._masters)
        form = self._options["copy_dtype"]
        flat = None if form is None else self._made("the copies", "float16" if form == "float16" else "uint16", form)
        self._copies = None if flat is None else self._structured(flat)
        segments = Segments(
            addresses, sizes, arrays.state_at.tolist(), group_of, arrays.offsets[:-1].tolist(),
            copies if flat is None else self._starts_in(flat),
        )  # fmt: skip
        self._memory = StepMemory(self._spec_of("none"), arrays.dtype, segments, 1 + len(self._groups))
        for name, value in self._initial_values().items():
            self._fill(name, value)
        if self._options["ema_decay"] is not None:
            self._convert(self._memory.address("ema"), arrays.dtype.name)
        synchronize()  # the streams of the steps do not wait for the default one

    def _fill(self, name: str, value: float) -> None:
        """Write a value to all of a state, in its form of storage."""
        memory, packed = self._memory, self._options["state_dtype"]
        if packed == "uint8":
            memory.fill(name, 255)
            memory.fill(f"{name}_scale", float(np.float32(value) / LARGEST_CODE))
        else:
            memory.fill(name, int(bfloat16_bits(np.array([value], np.float32))[0]) if packed else value)

    def _made(self, purpose: str, kind: Any, form: str) -> Any:
        """A flat array on the device with the parameters in a form of storage, each where its state begins."""
        flat = allocated(int(self._device_arrays.state_at[-1]), kind, purpose)
        fill(address_of(flat), flat.size, f"uint{8 * flat.dtype.itemsize}", 0)  # between the arrays as on the host
        self._convert(address_of(flat), form)
        return flat

    def _convert(self, address: int, form: str) -> None:
        """Write the parameters from an address on, in a form of storage."""
        arrays, itemsize = self._device_arrays, 2 if form == "bfloat16" else np.dtype(form).itemsize
        for array, start in zip(arrays.arrays, arrays.state_at.tolist(), strict=False):
            convert(array.address, array.kind, address + start * itemsize, form, array.size)

    def _starts_in(self, flat: Any) -> list[int]:
        """Where the part of each array of parameters begins in a flat array."""
        return [address_of(flat) + flat.dtype.itemsize * start for start in self._device_arrays.state_at[:-1].tolist()]

    def _structured(self, flat: Any) -> Any:
        """Views of a flat array in the structure of the parameters."""
        arrays = self._device_arrays
        parts = [
            flat[start : start + array.size].reshape(*array.shape)
            for start, array in zip(arrays.state_at.tolist(), arrays.arrays, strict=False)
        ]
        if arrays.names == (None,):
            return parts[0]
        return dict(zip(arrays.names, parts, strict=True)) if isinstance(arrays.params, Mapping) else parts

    def _spec_of(self, decay: str) -> StepSpec:
        options, stored = self._options, self._device_arrays.stored
        return StepSpec(
            self._rule,
            decay=decay,
            maximize=self._flags.get("maximize", False),
            clip=options["clip_value"] is not None,
            ema=options["ema_decay"] is not None,
            zero_grad=options["zero_grad"],
            state=options["state_dtype"] or "",
            grad=stored,
            copy=options["copy_dtype"] or stored,
        )

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
            Where to launch: a stream of Numba, CuPy or PyTorch, or a handle. By default the stream on which the first
            gradient's library works at the moment; the launch waits there for the streams of the others.

        Raises
        ------
        TypeError
            If the structure or a dtype is another than that of `params`, a gradient is not on a device, or `stream` is
            none.
        ValueError
            If a shape, a name, the device or the memory order is another than that of `params`, or a gradient shares
            memory with them.
        FloatingPointError
            If a gradient is not finite and the optimizer was made with `on_nonfinite="raise"`, which waits for the
            device in each step.
        RuntimeError
            If something had to be written to the device while a CUDA graph is captured, or the host had to wait.
        """
        if not grads:
            raise TypeError("step needs at least one argument, the gradients")
        scale = 1.0 if grad_scale is None else number("grad_scale", grad_scale, "(0, inf)")
        located = [self._device_arrays.locate(rows, self._options["zero_grad"]) for rows in grads]
        gradients = np.array([addresses for addresses, _ in located], np.int64)
        arrays = [array for _, arrays in located for array in arrays]
        launched_on = stream_of(stream, arrays)
        memory, policy = self._memory, self._options["on_nonfinite"]
        measures = self._options["max_norm"] is not None or policy != "ignore"
        with on_current(self._device_arrays.device):
            self._wait_for(launched_on, arrays)
            if scale != self._grad_scale:
                self._grad_scale = scale
                memory.configure(self._settings_table())
            memory.spec = self._scaling_spec if measures or scale != 1.0 else self._spec
            goes_on = memory.step(gradients, launched_on, measures=measures, raises=policy == "raise")
            self._hold(launched_on, [array.owner for array in arrays if array.borrowed])
            if not goes_on:
                counters = memory.counters
                counters[SKIPPED] -= 1  # it was not skipped but refused
                counters[NONFINITE] = 0
                memory.counters = counters
                raise FloatingPointError("grads must be finite, got infinity or NaN; nothing was changed")

    def _wait_for(self, launched_on: Any, arrays: list[DeviceArray]) -> None:
        """Have the stream of the launch wait for those on which the gradients come about.

        Not in a graph: a capture may not wait for what is outside of it.
        """
        others = other_streams(launched_on, arrays)
        if others and not is_capturing(launched_on):
            for other in others:
                event = cuda.event(timing=False)
                event.record(other)
                event.wait(launched_on)

    def _hold(self, launched_on: Any, owners: list[Any]) -> None:
        """Keep what DLPack has lent until the step is done with it; what a graph reads, for good."""
        while self._held and self._held[0][0].query():
            self._held.popleft()
        if not owners:
            return
        if is_capturing(launched_on):
            self._held_for_graphs += owners
            return
        event = cuda.event(timing=False)
        event.record(launched_on)
        self._held.append((event, owners))

    def _set(self, numbers: Mapping[str, Any]) -> None:
        if not hasattr(self, "_memory"):
            self._numbers |= numbers
            return
        self._check_change(numbers, self._groups)
        self._numbers |= numbers
        decays = any(values.get("weight_decay", 0.0) > 0 for values in self._rows)
        kind = "decoupled" if self._is_decoupled else "coupled"
        spec = self._spec_of(kind if decays else "none")
        if spec != self.__dict__.get("_variant"):  # kernels are found by the identity
            self._spec, self._scaling_spec = spec, spec._replace(scale=True)
        with on_current(self._device_arrays.device):
            self._memory.configure(self._settings_table())

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
    def _counted(self) -> Any:
        """The counters, of the optimizer's own device; waits for it."""
        with on_current(self._device_arrays.device):
            return self._memory.counters

    def _count(self, which: int, value: int) -> None:
        counters = self._counted
        counters[which] = value
        with on_current(self._device_arrays.device):
            self._memory.counters = counters

    @property
    def t(self) -> int:
        """The number of steps taken, replays of captured ones included; asking waits for the device."""
        return int(self._counted[T])

    @t.setter
    def t(self, value: int) -> None:
        self._count(T, value)

    @property
    def skipped_steps(self) -> int:
        """Steps that `on_nonfinite="skip"` has skipped; asking waits for the device."""
        return int(self._counted[SKIPPED])

    @skipped_steps.setter
    def skipped_steps(self, value: int) -> None:
        self._count(SKIPPED, value)

    @property
    def state(self) -> dict[str, Any]:
        """The state itself, on the device, by PyTorch's names: each a flat array of Numba's.

        The part of each array of parameters begins at a multiple of 128 bytes. `state_dict` has it without gaps. How
        numbers are stored in fewer bytes is as on the host, "master" included.
        """
        if self._mirror is not None:
            return self._mirror
        return self._on_device

    @property
    def copies(self) -> Any:
        """The copy of the parameters that each step writes, in their structure; None without `copy_dtype`."""
        return self._copies

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
            synchronize()
            self._mirror = {name: self._without_gaps(row) for name, row in self._on_device.items()}
            try:
                yield self._mirror
            finally:
                self._mirror = None

    def _upload(self, mirror: Mapping[str, Any]) -> None:
        for name, row in self._on_device.items():
            whole = row.copy_to_host()
            for there, here in self._places(row):
                whole[there] = mirror[name][here]
            row.copy_to_device(whole)
        if hasattr(self, "_mu_products"):
            self._memory.carried = np.array(self._mu_products)
        synchronize()  # the streams of the steps do not wait for the default one

    @property
    def _on_device(self) -> dict[str, Any]:
        """The rows of the state, and the masters."""
        return self._memory.rows | ({} if self._masters is None else {"master": self._masters})

    def _without_gaps(self, row: Any) -> Any:
        """A row as the host has it."""
        rows = row.copy_to_host()
        flat = np.zeros(int(self._device_arrays.offsets[-1]) // self._share(row), rows.dtype)
        for there, here in self._places(row):
            flat[here] = rows[there]
        return flat

    def _share(self, row: Any) -> int:
        """Elements of the parameters that share one of a row."""
        return max(1, self._memory.width // row.size)

    def _places(self, row: Any) -> Iterator[tuple[slice, slice]]:
        """Where the part of each array of parameters is in a row: on the device, and on the host."""
        arrays, share = self._device_arrays, self._share(row)
        for at, (start, stop) in zip(arrays.state_at.tolist(), pairwise(arrays.offsets.tolist()), strict=False):
            yield slice(at // share, (at + stop - start) // share), slice(start // share, stop // share)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} on a CUDA device cannot be pickled or copied: save its state_dict()")


@functools.cache
def class_on_device(owner: type[Optimizer]) -> type[Optimizer]:
    """The class of an optimizer's on a device: its own methods come first, then those of `OnDevice`."""
    if issubclass(owner, OnDevice):
        return owner
    names = {"__module__": owner.__module__, "__doc__": owner.__doc__, "__qualname__": owner.__qualname__}
    return type(owner.__name__, (owner, OnDevice), names)
