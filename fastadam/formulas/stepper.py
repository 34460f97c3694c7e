"""Protocol of the steppers, which make the steps of an optimizer where its parameters lie.

An optimizer knows names, numbers and checks; a stepper knows memory and kernels. There are two,
`cpu.stepper.HostStepper` and `cuda.stepper.DeviceStepper`. A stepper is made from the located parameters, a `StepPlan`,
the group of each array, and the initial values of states that do not begin as zeros.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastadam._typing import Array
from fastadam.formulas.step import StepSpec


class StepPlan(NamedTuple):
    """Settings of the steps to come."""

    spec: StepSpec
    """Description of a step."""
    groups: Sequence[Sequence[float]]
    """A row of settings per group, see `formulas.step.HYPER`; the first is for parameters without a group. A value that
    the rule carries from step to step has its place there, but the stepper keeps its own."""
    clip_value: float | None = None
    """Bound of each element of the gradient."""
    ema_decay: float | None = None
    """Weight of the old average of the parameters in the new one."""
    max_norm: float | None = None
    """Bound of the norm of the gradient."""
    on_nonfinite: str = "ignore"
    """Treatment of a gradient that is not finite: "ignore", "skip" or "raise"."""


def settings_table(extra: Sequence[float], groups: Sequence[Sequence[float]]) -> Array:
    """Make the table that the kernels read: a row of numbers for all groups, then a row per group."""
    rows = [extra, *groups]
    width = max(map(len, rows))
    return np.array([[*row, *[0.0] * (width - len(row))] for row in rows])


class LocatedArrays(Protocol):
    """Arrays of parameters, checked, and where they lie: `cpu.arrays.HostArrays` or `cuda.arrays.DeviceArrays`."""

    params: Any
    """The parameters as they were given."""
    names: tuple[Any, ...]
    """Name of each array: a key, an index, or None for a single array."""
    dtype: np.dtype[Any]
    """Type in which a step is computed: float32 or float64."""
    stored: str
    """"float16" or "bfloat16" for parameters of that type, which are the rounded copies of masters; else ""."""
    size: int
    """Number of elements of a state, including the gaps between arrays."""


class Stepper(Protocol):
    """Makes the steps of an optimizer, and has its state and counters."""

    @property
    def arrays(self) -> LocatedArrays:
        """The parameters."""

    @property
    def t(self) -> int:
        """Number of steps taken; it may be set."""

    @t.setter
    def t(self, value: int) -> None: ...

    @property
    def skipped_steps(self) -> int:
        """Number of steps skipped because their gradient was not finite; it may be set."""

    @skipped_steps.setter
    def skipped_steps(self, value: int) -> None: ...

    @property
    def carried(self) -> list[float]:
        """The value that the rule carries from step to step, per group; empty if it carries none. It may be set."""

    @carried.setter
    def carried(self, values: Sequence[float]) -> None: ...

    @property
    def state(self) -> dict[str, Any]:
        """The state by name, where it lies and not copied."""

    @property
    def copies(self) -> Any:
        """Copies of the parameters in two bytes, in their structure, or None."""

    def configure(self, plan: StepPlan) -> None:
        """Use another plan in the next steps, for the same state."""

    def step(self, grads: Sequence[Any], grad_scale: float | None, stream: Any) -> None:
        """Make a step with the sum of the gradients, each in the structure of the parameters, divided by `grad_scale`.

        An error changes nothing.
        """

    def state_layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of each state as an array of the host."""

    def read_state(self) -> dict[str, Array]:
        """Copy the state to the host, without gaps."""

    def write_state(self, state: Mapping[str, Array]) -> None:
        """Replace the state by arrays as `read_state` returns them."""
