"""Steppers of optimizers whose parameters lie on the host; `formulas.stepper` has the protocol."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastadam._memory import aligned_zeros
from fastadam._typing import Array
from fastadam.cpu.arrays import Arrays, HostArrays
from fastadam.cpu.gradients import gradient_norm
from fastadam.cpu.rows import rows_kernel
from fastadam.cpu.step import step_kernel
from fastadam.cpu.threads import PARALLEL_BYTES, on_threads, parallel_threads
from fastadam.formulas import rules
from fastadam.formulas.step import COPY_AT, EXTRA, GROUP, HYPER, OFFSET, SCALE, StepSpec, carried_column
from fastadam.formulas.stepper import StepPlan, settings_table
from fastadam.formulas.storage import CODE_BLOCK, LARGEST_CODE, bfloat16_bits


class HostStepper:
    """Makes the steps of an optimizer on the host, each in one compiled call.

    Parameters
    ----------
    arrays : HostArrays
        The parameters.
    plan : StepPlan
        Settings of the first steps.
    group_of : ndarray of int64
        The group of each array.
    initial : mapping of str to float
        Initial values of the states that do not begin as zeros.

    Attributes
    ----------
    spec : StepSpec
        Description of a step.
    state_addresses : ndarray of int64
        Address of each state; the states are flat arrays that live as long as the stepper.
    """

    def __init__(self, arrays: HostArrays, plan: StepPlan, group_of: Array, initial: Mapping[str, float]) -> None:
        self.arrays = arrays
        self.t, self.skipped_steps = 0, 0
        arrays.segments[GROUP] = EXTRA + 1
        arrays.segments[GROUP, :-1] += group_of
        self._state = _initial_state(arrays, plan.spec, initial)
        self.state_addresses = np.array([array.ctypes.data for array in self._state.values()], np.int64)
        self.copies = None if arrays.stored or not plan.spec.copy else _make_copies(arrays, plan.spec.copy)
        self._carry = plan.spec.rule.carry
        self._use(plan.spec)
        self._write_settings(plan)

    def configure(self, plan: StepPlan) -> None:
        """Use other settings in the next steps."""
        if plan.spec != self.spec:  # finding a kernel takes longer than all else here
            self._use(plan.spec)
        carried = self.carried
        self._write_settings(plan)
        self.carried = carried

    def _use(self, spec: StepSpec) -> None:
        self.spec, self._zero_grad = spec, spec.zero_grad
        self._serial_kernel = step_kernel(spec, self.arrays.dtype.name, False)

    def _write_settings(self, plan: StepPlan) -> None:
        self._max_norm, self._on_nonfinite = plan.max_norm, plan.on_nonfinite
        self._is_plain = plan.max_norm is None and plan.on_nonfinite == "ignore"
        extra = [1.0, plan.clip_value or math.inf, 1.0 - (plan.ema_decay or 0.0)]
        self._settings = settings_table(extra, plan.groups)
        if self._carry is not None:  # views of the table, which would take time in each step
            self._hyper = self._settings[EXTRA + 1 :, HYPER : HYPER + len(plan.spec.rule.hyper)]
            self._carried = self._settings[EXTRA + 1 :, carried_column(plan.spec.rule)]

    # --- stepping -----------------------------------------------------------------------------------------------------

    def step(self, grads: Sequence[Arrays], grad_scale: float | None = None, stream: Any = None) -> None:
        """Make a step with the sum of the gradients, each in the structure of the parameters, divided by `grad_scale`.

        The usual step, with a single gradient that needs no preparation, is written out here, to save calls.
        """
        if len(grads) != 1 or grad_scale is not None or stream is not None or not self._is_plain:
            self._step_with_care(grads, grad_scale, stream)
            return
        arrays, t = self.arrays, self.t + 1
        located = arrays.locate(grads[0], self._zero_grad)
        kernel = self._serial_kernel if arrays.nbytes < PARALLEL_BYTES else self._kernel(self.spec)
        kernel(arrays.segments, self.state_addresses, self._settings, t)
        del located  # until here, it kept the arrays at the addresses alive
        self.t = t
        if self._carry is not None:
            self._carry_on(self._carry)

    def _step_with_care(self, grads: Sequence[Arrays], grad_scale: float | None, stream: Any) -> None:
        """Make a step with several gradients, or one that first checks the norm of the gradient, or scales it."""
        if stream is not None:
            raise TypeError(f"stream must be None where params lie on the host, got {stream!r}")
        arrays, spec, scale = self.arrays, self.spec, 1.0 if grad_scale is None else grad_scale
        if len(grads) == 1:
            table, located = arrays.segments, arrays.locate(grads[0], self._zero_grad)
        else:
            table, located = arrays.locate_rows(grads, self._zero_grad)
            spec = spec._replace(sums=True)
        factor = self._gradient_factor(table, scale)
        if factor is None:
            self.skipped_steps += 1
            return
        self._settings[EXTRA, SCALE] = factor
        kernel = self._kernel(spec if factor == 1.0 else spec._replace(scale=True))
        kernel(table, self.state_addresses, self._settings, self.t + 1)
        del located
        self.t += 1
        if self._carry is not None:
            self._carry_on(self._carry)

    def _carry_on(self, carry: Callable[..., float]) -> None:
        """Update the value that the rule carries from step to step, after step `self.t`."""
        t, carried = self.t, self._carried
        for group, hyper in enumerate(self._hyper.tolist()):
            carried[group] = carry(t, *hyper)

    def _gradient_factor(self, table: Array, scale: float) -> float | None:
        """Factor of the gradient, which undoes the scale and clips the norm; None to skip the step."""
        if self._is_plain:
            return 1.0 / scale
        threads = self._threads
        norm_of = on_threads(threads, gradient_norm)
        norm = norm_of(table, self.arrays.dtype.name, self.arrays.stored, threads > 1)
        if not math.isfinite(norm) and self._on_nonfinite == "raise":
            raise FloatingPointError("grads must be finite, got infinity or NaN; nothing was changed")
        if not math.isfinite(norm) and self._on_nonfinite == "skip":
            return None
        if self._max_norm is None:
            return 1.0 / scale
        return rules.clip_factor(norm / scale, self._max_norm) / scale

    @property
    def _threads(self) -> int:
        return parallel_threads() if self.arrays.nbytes >= PARALLEL_BYTES else 1

    def _kernel(self, spec: StepSpec) -> Callable[..., None]:
        threads = self._threads
        return on_threads(threads, step_kernel(spec, self.arrays.dtype.name, threads > 1))

    # --- settings and state -------------------------------------------------------------------------------------------

    def group_settings(self, group: int) -> Array:
        """View the row of a group in the table, for an engine that makes steps on this state and updates this row.

        The view is valid until the settings change.
        """
        row: Array = self._settings[EXTRA + 1 + group]
        return row

    @property
    def carried(self) -> list[float]:
        """The value that the rule carries from step to step, per group; it is kept only in the table."""
        return [] if self._carry is None else self._carried.tolist()

    @carried.setter
    def carried(self, values: Sequence[float]) -> None:
        if self._carry is not None:
            self._carried[:] = values

    @property
    def state(self) -> dict[str, Array]:
        """The state by name, not copied; it includes the masters of parameters that are stored in two bytes."""
        return self._state | ({} if self.arrays.masters is None else {"master": self.arrays.masters})

    def state_layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of each state."""
        return {name: (array.shape, array.dtype) for name, array in self.state.items()}

    def read_state(self) -> dict[str, Array]:
        """Copy the state."""
        return {name: array.copy() for name, array in self.state.items()}

    def write_state(self, state: Mapping[str, Array]) -> None:
        """Replace the state by arrays as `read_state` returns them."""
        for name, array in self.state.items():
            array[:] = state[name]


def _initial_state(arrays: HostArrays, spec: StepSpec, initial: Mapping[str, float]) -> dict[str, Array]:
    """Allocate each state of the rule, the scales if states are codes, and the average of the parameters."""
    size, dtype, names, packed = arrays.size, arrays.dtype, spec.rule.states, spec.state
    kind = {"": dtype, "bfloat16": np.dtype(np.uint16), "uint8": np.dtype(np.uint8)}[packed]
    state = {name: aligned_zeros(size, kind) for name in names}
    if packed == "uint8":
        state |= {f"{name}_scale": aligned_zeros(size // CODE_BLOCK, dtype) for name in names}
    for name, value in initial.items():
        if packed == "uint8":
            state[name][:], state[f"{name}_scale"][:] = np.iinfo(np.uint8).max, value / LARGEST_CODE
        else:
            state[name][:] = bfloat16_bits(np.array([value], dtype)) if packed else value
    return state | {"ema": arrays.concatenated()} if spec.ema else state


def _make_copies(arrays: HostArrays, form: str) -> Any:
    """Copy the parameters to two bytes each, in their structure, and write the addresses to the table of segments."""
    with np.errstate(over="ignore"):
        whole = arrays.concatenated()
        flat = bfloat16_bits(whole) if form == "bfloat16" else whole.astype(np.float16)
    arrays.segments[COPY_AT] = flat.ctypes.data + flat.itemsize * arrays.segments[OFFSET]
    return arrays.structured(flat)


# --- rows of a table --------------------------------------------------------------------------------------------------


class RowStepper(HostStepper):
    """Makes the steps of an optimizer that updates rows of one table.

    Parameters
    ----------
    arrays, plan, group_of, initial
        As for `HostStepper`.
    catch_up : bool
        Whether the moments of a row decay for the steps that did not name it; `state["last_step"]` is kept for this.

    Attributes
    ----------
    table : ndarray of shape (n_rows, dim)
        The parameters.
    """

    def __init__(
        self, arrays: HostArrays, plan: StepPlan, group_of: Array, initial: Mapping[str, float], *, catch_up: bool
    ) -> None:
        super().__init__(arrays, plan, group_of, initial)
        self.table = table = arrays.arrays[0]
        self._table_at = _address(table)
        self._places = np.zeros(len(table), np.int64)
        self._m, self._v = self._state.values()
        self._state = {name: flat.reshape(table.shape) for name, flat in self._state.items()}
        self._last_step = np.zeros(len(table) if catch_up else 0, np.int64)
        if catch_up:
            self._state["last_step"] = self._last_step
        self._serial_rows, self._parallel_rows = (rows_kernel(self.spec, parallel) for parallel in (False, True))

    def step_rows(self, rows: Array, grads: Array) -> int:
        """Make a step of some rows, given as 64-bit integers, with their contiguous gradients.

        Returns the number of distinct rows. If the table does not have a row, returns `-1 - its position` and changes
        nothing.
        """
        threads = parallel_threads() if grads.nbytes >= PARALLEL_BYTES else 1
        step = on_threads(threads, self._parallel_rows if threads > 1 else self._serial_rows)
        found: int = step(
            self._table_at, self._m, self._v, rows, _address(grads), self.table.shape[1], self._places, self._last_step,
            self._settings[EXTRA + 1], self.t + 1,
        )  # fmt: skip
        if found >= 0:
            self.t += 1
        return found


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
