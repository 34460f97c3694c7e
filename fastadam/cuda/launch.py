"""The tables of a step on the device, and its launches; shared by the optimizers and the estimators."""

from typing import Any, NamedTuple

import numpy as np

from fastadam._typing import Array
from fastadam.cuda.allocation import Table, allocated, device_address
from fastadam.cuda.chunk import Pass
from fastadam.cuda.devices import is_capturing, most_blocks, synchronize, unprepared
from fastadam.cuda.gradients import norm_kernel, norm_tasks
from fastadam.cuda.jit import THREADS, require_device
from fastadam.cuda.segments import FIRST_CHUNK, Segments, table_of
from fastadam.cuda.state import DeviceState
from fastadam.cuda.step import advance_kernel, step_kernel
from fastadam.cuda.tables import COUNTERS, NONFINITE, SETTINGS
from fastadam.formulas.step import HYPER, StepSpec


class StepMemory:
    """State and tables of a step on the device, and its launches.

    Parameters
    ----------
    spec : StepSpec
        The step; it may be replaced by another one with the same state.
    dtype : dtype
        Type it is computed in: float32 or float64.
    segments : Segments
        Places of the parameters.
    groups : int
        Number of groups with settings of their own.

    Attributes
    ----------
    state : DeviceState
        The state.
    stream : Stream or 0
        Stream on which the host writes what it is told to write at once.
    """

    def __init__(self, spec: StepSpec, dtype: np.dtype[Any], segments: Segments, groups: int) -> None:
        require_device()
        self.spec, self.dtype, self._groups = spec, dtype, groups
        self._form = form = Pass(spec, dtype.name)
        table = table_of(segments, form.chunk)
        self.chunks = int(table[-1, FIRST_CHUNK])
        self.state = DeviceState(spec, dtype, int(segments.state_at[-1]))
        self._segments = Table(table)
        self.settings_width = max(SETTINGS, HYPER + len(spec.rule.hyper))
        self._settings = Table(np.zeros((1 + groups, self.settings_width)))
        self._pending: Array | None = None
        self._counters = Table(np.zeros(COUNTERS, np.int64))
        self._carried = Table(np.ones(groups))
        self._gradients: dict[int, Table] = {}
        self._captured: list[Table] = []
        self._numbers = allocated(groups * form.row_size, dtype, "the step's scalars")
        self._numbers_at = device_address(self._numbers)
        self._sums: Any = None
        self._most_blocks = most_blocks()
        self._configured: dict[Any, Any] = {}
        self._compiled: dict[Any, Any] = {}
        self.stream: Any = 0
        synchronize()  # the streams of the steps do not wait for the default one

    # --- settings and counters ---------------------------------------------------------------------------------------

    def configure(self, settings: Array) -> None:
        """Set the settings of the next steps, replays of captured ones included.

        They are written on the stream of the next step. After a capture there may be no next step, and the stream on
        which the graph will be replayed is unknown: then they are written at once, and the host waits for the device.
        """
        self._pending = np.zeros((1 + self._groups, self.settings_width))
        self._pending[:, : settings.shape[1]] = settings
        if self._settings.captured and not self._settings.holds(self._pending):
            synchronize()
            self._settings.force(self._pending, 0)
            self._pending = None

    def force_settings(self, settings: Array) -> None:
        """Write settings at once, also if a kernel may have changed them."""
        self._settings.force(settings, self.stream)

    @property
    def settings_at(self) -> int:
        """Address of the settings."""
        return self._settings.address

    @property
    def segments(self) -> tuple[int, int]:
        """Address of the table of segments, and number of segments."""
        return self._segments.address, len(self._segments) - 1

    @property
    def chunk(self) -> int:
        """Elements of a chunk."""
        return self._form.chunk

    @property
    def counters_at(self) -> int:
        """Address of the counters."""
        return self._counters.address

    @property
    def counters(self) -> Array:
        """Steps, skipped steps, and whether the last gradient was not finite; reading them waits for the device."""
        return self._counters.read()

    @counters.setter
    def counters(self, values: Array) -> None:
        self._counters.force(values, self.stream)

    @property
    def carried(self) -> Array:
        """Number that the rule carries from step to step, for each group; reading them waits for the device."""
        return self._carried.read()

    @carried.setter
    def carried(self, values: Array) -> None:
        self._carried.force(values, self.stream)

    # --- launches ----------------------------------------------------------------------------------------------------

    def measure(self, gradients: Array, stream: Any) -> tuple[int, int]:
        """Launch the sums of squares; return the address of pairs of them and their number, see `norm_kernel`."""
        rows, count = gradients.shape
        tasks, per_task = norm_tasks(self.chunks)
        if not tasks:
            return 0, 0
        capturing = is_capturing(stream)
        table = self._located(gradients, stream, capturing)
        if self._sums is None:
            if capturing:
                raise unprepared("what a step measures")
            self._sums = allocated(2 * tasks, np.float64, "the gradient's sums of squares")
        sums_at = device_address(self._sums)
        where = (self._segments.address, count, table.address, rows)
        self._launch(self._kernels(rows, True).norm, tasks, stream, *where, per_task, sums_at)
        return sums_at, tasks

    def _located(self, gradients: Array, stream: Any, capturing: bool) -> Table:
        """Put the addresses of the gradients into a table, which no later step changes if a graph reads it."""
        rows = len(gradients)
        table = self._gradients.get(rows)
        if table is None or (table.captured and not table.holds(gradients)):
            if capturing:
                raise unprepared("the gradients")
            if table is not None:
                self._captured.append(table)
            table = self._gradients[rows] = Table(gradients, stream)
        table.write(gradients, stream)
        table.captured |= capturing
        return table

    def step(self, gradients: Array, stream: Any, *, measures: bool, raises: bool = False) -> bool:
        """Launch a step; `gradients` has a row of addresses for each row that is summed.

        With `raises`, wait for the device, and return False, with nothing changed, if the gradient is not finite.
        """
        rows, count = gradients.shape
        capturing = is_capturing(stream)
        if capturing and raises:
            raise RuntimeError(
                'on_nonfinite="raise" waits for the device, which a step in a CUDA graph cannot do: use "skip"'
            )
        if self._pending is not None:
            self._settings.write(self._pending, stream)
            self._pending = None
        self._settings.captured |= capturing
        table = self._located(gradients, stream, capturing)
        sums_at, tasks = self.measure(gradients, stream) if measures else (0, 0)
        where = (self._segments.address, count, table.address, rows)
        kernels = self._kernels(rows, measures)
        self._launch(
            kernels.advance, 1, stream, self._settings.address, self.settings_width, self._groups,
            self._counters.address, self._carried.address, sums_at, tasks, self._numbers_at,
        )  # fmt: skip
        if raises and self.counters[NONFINITE]:
            return False
        if self.chunks:
            state = (self.state.start, self.state.width, self._counters.address, self._numbers_at)
            self._launch(kernels.update, self.chunks, stream, *where, *state)
        return True

    def _kernels(self, rows: int, measures: bool) -> "_Kernels":
        """Return the kernels of a step, found by the identity of `spec`, whose hash takes as long as a launch."""
        key = (id(self.spec), rows, measures)
        if key not in self._compiled:
            form = Pass(self.spec._replace(sums=rows > 1), self.dtype.name)
            advance = advance_kernel(self.spec.rule, self.dtype.name, measures)
            norm = norm_kernel(form.dtype, form.gradient, rows > 1, form.chunk) if measures else None
            self._compiled[key] = _Kernels(norm, advance, step_kernel(form), self.spec)
        kernels: _Kernels = self._compiled[key]
        return kernels

    def _launch(self, compiled: Any, tasks: int, stream: Any, *arguments: int) -> None:
        """Launch a kernel whose blocks take one task after the other; configurations, slow to make, are kept."""
        blocks = min(tasks, self._most_blocks)
        key = (compiled, blocks, id(stream))
        if key not in self._configured:
            if len(self._configured) >= _MOST_CONFIGURED:
                self._configured.clear()  # a program may make stream after stream
            self._configured[key] = compiled[blocks, THREADS, stream], stream  # keeps the stream, and so its id
        self._configured[key][0](*arguments)


_MOST_CONFIGURED = 256
"""Configurations to keep, far more than a program with a few streams has."""


class _Kernels(NamedTuple):
    """Kernels of a step."""

    norm: Any
    advance: Any
    update: Any
    spec: StepSpec
    """Kept alive, so that no other has its identity."""
