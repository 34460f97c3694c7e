"""Steps of an optimizer whose parameters lie on a CUDA device; `formulas.stepper` has the protocol.

Steps are launched and wait for nothing; see `docs/gpu.md`.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam._typing import Array
from fastadam.cuda.allocation import allocated, convert, device_address, fill
from fastadam.cuda.arrays import DeviceArray, DeviceArrays, other_streams, stream_of
from fastadam.cuda.devices import is_capturing, on_current, synchronize
from fastadam.cuda.jit import cuda, require_device
from fastadam.cuda.launch import StepMemory
from fastadam.cuda.segments import Segments
from fastadam.cuda.tables import NONFINITE, SKIPPED, T
from fastadam.formulas.stepper import StepPlan, settings_table
from fastadam.formulas.storage import LARGEST_CODE, to_bfloat16


class DeviceStepper:
    """Steps of an optimizer on a device: each is launched, and waits for nothing.

    Parameters
    ----------
    arrays : DeviceArrays
        The parameters.
    plan : StepPlan
        Settings of the first steps.
    group_of : ndarray of int64
        The group of each array.
    initial : mapping of str to float
        Initial values of the states that do not begin as zeros.

    Attributes
    ----------
    copies : array, sequence or mapping
        Copies of the parameters in two bytes, in their structure, or None.
    """

    def __init__(
        self, arrays: DeviceArrays, plan: StepPlan, group_of: NDArray[np.int64], initial: Mapping[str, float]
    ) -> None:
        require_device()
        self.arrays, self._plan, self._spec = arrays, plan, plan.spec
        self._grad_scale = 1.0
        self._held: deque[tuple[Any, list[Any]]] = deque()
        self._held_for_graphs: list[Any] = []
        with on_current(arrays.device):
            self._make_memory(group_of, initial)
        self._scaling_spec = plan.spec._replace(scale=True)
        self.configure(plan)

    def _make_memory(self, group_of: NDArray[np.int64], initial: Mapping[str, float]) -> None:
        arrays, spec = self.arrays, self._spec
        synchronize()  # the library of the parameters may still be filling them
        addresses, sizes = [array.address for array in arrays.arrays], [array.size for array in arrays.arrays]
        copies = addresses if arrays.stored else None
        self._masters = self._made("the masters", np.float32, "float32") if arrays.stored else None
        if self._masters is not None:
            addresses = self._starts_in(self._masters)
        form = None if arrays.stored else spec.copy or None
        flat = None if form is None else self._made("the copies", "float16" if form == "float16" else "uint16", form)
        self.copies = None if flat is None else self._structured(flat)
        segments = Segments(
            addresses, sizes, arrays.state_at.tolist(), group_of.tolist(), arrays.offsets[:-1].tolist(),
            copies if flat is None else self._starts_in(flat),
        )  # fmt: skip
        self._memory = StepMemory(spec, arrays.dtype, segments, len(self._plan.groups))
        for name, value in initial.items():
            self._fill(name, value)
        if spec.ema:
            self._convert(self._memory.state.address("ema"), arrays.dtype.name)
        synchronize()  # the streams of the steps do not wait for the default one

    def _fill(self, name: str, value: float) -> None:
        """Write a value to all elements of a state, in its form of storage."""
        state, packed = self._memory.state, self._spec.state
        if packed == "uint8":
            state.fill(name, 255)
            state.fill(f"{name}_scale", float(np.float32(value) / LARGEST_CODE))
        else:
            state.fill(name, int(to_bfloat16(np.float32(value))) if packed else value)

    def _made(self, purpose: str, kind: Any, form: str) -> Any:
        """Make a flat array on the device with the parameters in a form of storage, each where its state begins."""
        flat = allocated(int(self.arrays.state_at[-1]), kind, purpose)
        # Also between the arrays, as on the host.
        fill(device_address(flat), flat.size, f"uint{8 * flat.dtype.itemsize}", 0)
        self._convert(device_address(flat), form)
        return flat

    def _convert(self, address: int, form: str) -> None:
        """Write the parameters from an address on, in a form of storage."""
        arrays, itemsize = self.arrays, 2 if form == "bfloat16" else np.dtype(form).itemsize
        for array, start in zip(arrays.arrays, arrays.state_at.tolist(), strict=False):
            convert(array.address, array.kind, address + start * itemsize, form, array.size)

    def _starts_in(self, flat: Any) -> list[int]:
        """Return the addresses of the parts of a flat array, one for each array of parameters."""
        return [device_address(flat) + flat.dtype.itemsize * start for start in self.arrays.state_at[:-1].tolist()]

    def _structured(self, flat: Any) -> Any:
        """View a flat array in the structure of the parameters."""
        arrays = self.arrays
        parts = [
            flat[start : start + array.size].reshape(*array.shape)
            for start, array in zip(arrays.state_at.tolist(), arrays.arrays, strict=False)
        ]
        if arrays.names == (None,):
            return parts[0]
        return dict(zip(arrays.names, parts, strict=True)) if isinstance(arrays.params, Mapping) else parts

    def configure(self, plan: StepPlan) -> None:
        """Take settings for the next steps, replays of captured ones included."""
        self._plan = plan
        if plan.spec != self._spec:  # kernels are found by its identity
            self._spec, self._scaling_spec = plan.spec, plan.spec._replace(scale=True)
        with on_current(self.arrays.device):
            self._memory.configure(self._settings_table())

    def _settings_table(self) -> NDArray[np.float64]:
        """Make the table that the kernels read, see `tables.py`."""
        plan = self._plan
        extra = [
            self._grad_scale, plan.clip_value or math.inf, 1.0 - (plan.ema_decay or 0.0), plan.max_norm or math.inf,
            float(plan.on_nonfinite != "ignore"),
        ]  # fmt: skip
        return settings_table(extra, plan.groups)

    # --- stepping ----------------------------------------------------------------------------------------------------

    def step(self, grads: Sequence[Any], grad_scale: float | None = None, stream: Any = None) -> None:
        """Launch a step with the sum of the gradients, each in the structure of the parameters, divided by their scale.

        It waits for nothing; only with `on_nonfinite="raise"`, for the device.
        """
        scale = 1.0 if grad_scale is None else grad_scale
        located = [self.arrays.locate(rows, self._spec.zero_grad) for rows in grads]
        gradients = np.array([addresses for addresses, _ in located], np.int64)
        arrays = [array for _, arrays in located for array in arrays]
        launched_on = stream_of(stream, arrays)
        memory, policy = self._memory, self._plan.on_nonfinite
        measures = self._plan.max_norm is not None or policy != "ignore"
        with on_current(self.arrays.device):
            self._wait_for(launched_on, arrays)
            if scale != self._grad_scale:
                self._grad_scale = scale
                memory.configure(self._settings_table())
            memory.spec = self._scaling_spec if measures or scale != 1.0 else self._spec
            is_finite = memory.step(gradients, launched_on, measures=measures, raises=policy == "raise")
            self._hold(launched_on, [array.owner for array in arrays if array.borrowed])
            if not is_finite:
                counters = memory.counters
                counters[SKIPPED] -= 1  # the step was refused, not skipped
                counters[NONFINITE] = 0
                memory.counters = counters
                raise FloatingPointError("grads must be finite, got infinity or NaN; nothing was changed")

    def _wait_for(self, launched_on: Any, arrays: list[DeviceArray]) -> None:
        """Let the stream of the launch wait for those on which the gradients are computed.

        A graph cannot: a capture may not wait for work outside of it.
        """
        others = other_streams(launched_on, arrays)
        if others and not is_capturing(launched_on):
            for other in others:
                event = cuda.event(timing=False)
                event.record(other)
                event.wait(launched_on)

    def _hold(self, launched_on: Any, owners: list[Any]) -> None:
        """Keep arrays that DLPack has lent until the step has read them, and those that a graph reads for good."""
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

    # --- counters and state -------------------------------------------------------------------------------------------

    @property
    def _counted(self) -> Any:
        """Counters of the device of the parameters; reading them waits for it."""
        with on_current(self.arrays.device):
            return self._memory.counters

    def _count(self, which: int, value: int) -> None:
        counters = self._counted
        counters[which] = value
        with on_current(self.arrays.device):
            self._memory.counters = counters

    @property
    def t(self) -> int:
        """Number of steps taken, replays of captured ones included; reading it waits for the device."""
        return int(self._counted[T])

    @t.setter
    def t(self, value: int) -> None:
        self._count(T, value)

    @property
    def skipped_steps(self) -> int:
        """Number of steps that `on_nonfinite="skip"` has skipped; reading it waits for the device."""
        return int(self._counted[SKIPPED])

    @skipped_steps.setter
    def skipped_steps(self, value: int) -> None:
        self._count(SKIPPED, value)

    @property
    def carried(self) -> list[float]:
        """Number that the rule carries from step to step, for each group; reading it waits for the device."""
        if self._spec.rule.carry is None:
            return []
        with on_current(self.arrays.device):
            values: list[float] = self._memory.carried.tolist()
        return values

    @carried.setter
    def carried(self, values: Sequence[float]) -> None:
        if self._spec.rule.carry is not None:
            with on_current(self.arrays.device):
                self._memory.carried = np.array(values)

    @property
    def state(self) -> dict[str, Any]:
        """The state by its names, not copied: flat Numba arrays on the device.

        The part of each array of parameters begins at a multiple of 128 bytes.
        """
        return self._memory.state.rows | ({} if self._masters is None else {"master": self._masters})

    def state_layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and dtype of each state as it is on the host."""
        return {name: ((self._size_without_gaps(row),), row.dtype) for name, row in self.state.items()}

    def read_state(self) -> dict[str, Array]:
        """Copy the state to the host, without gaps; waits for the device."""
        with on_current(self.arrays.device):
            synchronize()
            return {name: self._without_gaps(row) for name, row in self.state.items()}

    def write_state(self, state: Mapping[str, Array]) -> None:
        """Replace the state by arrays of the host as `read_state` returns them; waits for the device."""
        with on_current(self.arrays.device):
            synchronize()  # a step may still read it
            for name, row in self.state.items():
                whole = row.copy_to_host()
                for there, here in self._places(row):
                    whole[there] = state[name][here]
                row.copy_to_device(whole)
            synchronize()  # the streams of the steps do not wait for the default one

    def _size_without_gaps(self, row: Any) -> int:
        return int(self.arrays.offsets[-1]) // self._share(row)

    def _without_gaps(self, row: Any) -> Array:
        """Copy a row to the host, as the host lays it out."""
        rows = row.copy_to_host()
        flat = np.zeros(self._size_without_gaps(row), rows.dtype)
        for there, here in self._places(row):
            flat[here] = rows[there]
        return flat

    def _share(self, row: Any) -> int:
        """Return how many elements of the parameters share one of a row."""
        return max(1, self._memory.state.width // row.size)

    def _places(self, row: Any) -> Iterator[tuple[slice, slice]]:
        """Yield the place of the part of each array of parameters in a row: on the device, and on the host."""
        arrays, share = self.arrays, self._share(row)
        for at, (start, stop) in zip(arrays.state_at.tolist(), pairwise(arrays.offsets.tolist()), strict=False):
            yield slice(at // share, (at + stop - start) // share), slice(start // share, stop // share)
