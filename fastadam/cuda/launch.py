"""A step's memory on the device, and its launches: what the optimizers and the estimators share."""

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastadam._typing import Array
from fastadam.cuda.chunk import COLUMNS, COUNTERS, DITHER_AT, FIRST_CHUNK, NONFINITE, Pass
from fastadam.cuda.jit import SIMULATED, THREADS, WORD, cuda, require_device
from fastadam.cuda.step import SETTINGS, advance_kernel, copy_kernel, fill_kernel, norm_kernel, norm_tasks, step_kernel
from fastadam.formulas.step import COPY_AT, GROUP, HYPER, OFFSET, P_AT, SIZE, StepSpec

BLOCKS_PER_SM = 4
"""Blocks that a multiprocessor holds at once: with 64 registers a thread, 1,024 threads."""


def address_of(array: Any) -> int:
    """Where an array of Numba's lies on the device."""
    if SIMULATED:
        return int(array.ctypes.data)
    return int(array.__cuda_array_interface__["data"][0] or 0)


def allocated(shape: int | tuple[int, ...], dtype: DTypeLike, purpose: str) -> Any:
    """Memory on the current device.

    Raises
    ------
    MemoryError
        If there is not enough.
    """
    try:
        return cuda.device_array(shape, dtype)
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error).upper():
            raise
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raise MemoryError(
            f"{purpose} need {nbytes:,} bytes on the CUDA device, more than are free there; train fewer parameters, or "
            "free what other libraries keep: torch.cuda.empty_cache(), cupy.get_default_memory_pool().free_all_blocks()"
        ) from error


def most_blocks() -> int:
    """Blocks that the current device holds at once."""
    return 3 if SIMULATED else BLOCKS_PER_SM * _multiprocessors(cuda.get_current_device().id)


@functools.cache
def _multiprocessors(device: int) -> int:
    return int(cuda.gpus[device].MULTIPROCESSOR_COUNT)


def synchronize() -> None:
    """Wait for all that was launched, on any stream."""
    cuda.synchronize()


def on_current(device: int) -> AbstractContextManager[Any]:
    """Make a device the current one, where it is not."""
    if SIMULATED or cuda.get_current_device().id == device:
        return nullcontext()
    return cuda.gpus[device]


def is_capturing(stream: Any) -> bool:
    """Whether a graph is being captured on a stream; never on the legacy default one, which is the integer 0."""
    if SIMULATED or not stream:
        return False
    driver = _driver()
    error, status = driver.cuStreamIsCapturing(int(stream))
    active = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
    return bool(error == driver.CUresult.CUDA_SUCCESS and status == active)


@functools.cache
def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def blocks_for(size: int) -> int:
    """Blocks for so many elements, a thread each, and few enough to be held at once."""
    return max(1, min(most_blocks(), -(-size // THREADS)))


def fill(address: int, size: int, dtype: str, value: float) -> None:
    """Write a value to so many elements from an address on, on the default stream."""
    if size:
        fill_kernel(dtype)[blocks_for(size), THREADS](address, size, value)


def convert(source: int, source_dtype: str, address: int, dtype: str, size: int) -> None:
    """Copy elements from one address to another and one type to another, on the default stream."""
    if size:
        copy_kernel(source_dtype, dtype)[blocks_for(size), THREADS](source, address, size)


class Table:
    """A small table on the device that the host rewrites, on the stream of the launches, when it changes."""

    def __init__(self, values: Array, stream: Any = 0) -> None:
        self._values = values.copy()
        self._array = cuda.device_array(values.shape, values.dtype)
        self.address = address_of(self._array)
        self.captured = False
        """A graph reads it, which may be replayed at any time."""
        self._copy(stream)

    def __len__(self) -> int:
        return len(self._values)

    def holds(self, values: Array) -> bool:
        """Whether the host last wrote these."""
        return np.array_equal(values, self._values)

    def write(self, values: Array, stream: Any) -> None:
        """Make the table on the device equal to `values`, in the order of the stream."""
        if self.holds(values):
            return
        if is_capturing(stream):
            raise _unprepared("the settings or the addresses of the gradients")
        self._values = values.copy()
        self._copy(stream)

    def read(self) -> Array:
        """What the device has now; waits for it."""
        synchronize()
        values: Array = self._array.copy_to_host()
        self._values = values.copy()
        return values

    def force(self, values: Array, stream: Any) -> None:
        """Write also what the host believes to be there: kernels may have changed it."""
        self._values = np.zeros(0)
        self.write(values, stream)
        if not stream:
            synchronize()  # other streams do not wait for the default one

    def _copy(self, stream: Any) -> None:
        # Without a stream the host would wait for all that was launched on the default one. What is not page-locked has
        # been read when the call returns.
        self._array.copy_to_device(self._values, stream=stream or cuda.legacy_default_stream())


def _unprepared(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what} changed while a CUDA graph is captured, or just before: take one step with the same arrays and "
        "settings before the capture"
    )


class Segments(NamedTuple):
    """Where the parameters lie: the arguments of `StepMemory`."""

    addresses: Sequence[int]
    sizes: Sequence[int]
    state_at: Sequence[int]
    """Where each segment's state begins in a row, and the row's length: at multiples of 128 bytes of the row's type
    where the parameters are at one of 16 bytes, and of whole blocks where the state is of one byte."""
    group_of: Sequence[int]
    dither_at: Sequence[int] | None = None
    """The index from which the elements of each are dithered: of a state in fewer bytes alone."""
    copies: Sequence[int] | None = None
    """The addresses of the copies in two bytes, if there are any."""


class StepMemory:
    """All that a step needs on the device but parameters and gradients, and its launches.

    Parameters
    ----------
    variant : Variant
        What the step does; it may become another with the same state.
    dtype : dtype
        In which it is computed: float32 or float64.
    segments : Segments
        Where the parameters lie.
    groups : int
        Rows of the settings.

    Attributes
    ----------
    stream : Stream or 0
        On which the host writes what it is told to write at once.
    """

    def __init__(self, spec: StepSpec, dtype: np.dtype[Any], segments: Segments, groups: int) -> None:
        require_device()
        self.spec, self.dtype = spec, dtype
        self._groups, self.width = groups, int(segments.state_at[-1])
        self._form = form = Pass(spec, dtype.name)
        table = _table_of(segments, form.chunk)
        self.chunks = int(table[-1, FIRST_CHUNK])
        self._state = allocated(max(WORD, form.state_bytes(self.width)), np.uint8, "the optimizer's states")
        self._state_at = address_of(self._state)
        fill(self._state_at, self._state.size // WORD, "int64", 0)
        self._segments = Table(table)
        self.settings_width = max(SETTINGS, HYPER + len(spec.rule.hyper))
        self._settings = Table(np.zeros((1 + groups, self.settings_width)))
        self._pending: Array | None = None
        self._counters = Table(np.zeros(COUNTERS, np.int64))
        self._carried = Table(np.ones(groups))
        self._gradients: dict[int, Table] = {}
        self._captured: list[Table] = []
        self._numbers = allocated(groups * form.row_size, dtype, "the step's scalars")
        self._numbers_at = address_of(self._numbers)
        self._sums: Any = None
        self._most_blocks = most_blocks()
        self._configured: dict[Any, Any] = {}
        self._compiled: dict[Any, Any] = {}
        self.stream: Any = 0
        synchronize()  # the streams of the steps do not wait for the default one

    # --- the state ---------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> dict[str, Any]:
        """The rows of the state, on the device, by their names: flat arrays of Numba's, bfloat16 as uint16."""
        rows = {}
        for row in self._form.rows:
            start = row.start(self.width)
            dtype = np.dtype("uint16" if row.dtype == "bfloat16" else row.dtype)
            rows[row.name] = self._state[start : start + row.nbytes(self.width)].view(dtype)
        return rows

    def address(self, name: str) -> int:
        """Where a row of the state begins."""
        return self._state_at + next(row.start(self.width) for row in self._form.rows if row.name == name)

    def fill(self, name: str, value: float) -> None:
        """Write a value, or its bits, to all elements of a row of the state."""
        row = self.rows[name]
        fill(self.address(name), row.size, row.dtype.name, value)

    def read_state(self) -> Array:
        """The rows of a state that is of the parameters' type, on the host; waits for the device."""
        synchronize()
        rows: Array = self._state.copy_to_host()[: len(self._form.rows) * self.width * self.dtype.itemsize]
        return rows.view(self.dtype).reshape(-1, self.width)

    def write_state(self, rows: Sequence[Array]) -> None:
        """Bring rows from the host, of no more elements than the device's have."""
        synchronize()  # a step may read them still
        for row, values in zip(self.rows.values(), rows, strict=False):
            if values.size:
                row[: values.size].copy_to_device(np.ascontiguousarray(values))
        synchronize()  # other streams do not wait for the default one

    # --- settings and counters ---------------------------------------------------------------------------------------

    def configure(self, settings: Array) -> None:
        """Set the numbers that the next steps take, replays of captured ones included.

        They are written on the stream of the next step. But if a step was captured, no step may come, and nobody knows
        on which stream the graph will be replayed: then they are written at once, and the host waits for the device.
        """
        self._pending = np.zeros((1 + self._groups, self.settings_width))
        self._pending[:, : settings.shape[1]] = settings
        if self._settings.captured and not self._settings.holds(self._pending):
            synchronize()
            self._settings.force(self._pending, 0)
            self._pending = None

    def force_settings(self, settings: Array) -> None:
        """Set them at once, where a kernel may have changed them since."""
        self._settings.force(settings, self.stream)

    @property
    def settings_at(self) -> int:
        """Where the settings lie."""
        return self._settings.address

    @property
    def segments(self) -> tuple[int, int]:
        """Where the table of segments lies, and how many there are."""
        return self._segments.address, len(self._segments) - 1

    @property
    def chunk(self) -> int:
        """Elements of a chunk."""
        return self._form.chunk

    @property
    def counters_at(self) -> int:
        """Where the counters lie."""
        return self._counters.address

    @property
    def counters(self) -> Array:
        """Steps, skipped steps, and whether the last gradient was not finite; waits for the device."""
        return self._counters.read()

    @counters.setter
    def counters(self, values: Array) -> None:
        self._counters.force(values, self.stream)

    @property
    def carried(self) -> Array:
        """What rules carry from step to step for each group; waits for the device."""
        return self._carried.read()

    @carried.setter
    def carried(self, values: Array) -> None:
        self._carried.force(values, self.stream)

    # --- launches ----------------------------------------------------------------------------------------------------

    def measure(self, gradients: Array, stream: Any) -> tuple[int, int]:
        """Launch the sums of squares: where pairs of them will be, and how many, see `norm_kernel`."""
        rows, count = gradients.shape
        tasks, per_task = norm_tasks(self.chunks)
        if not tasks:
            return 0, 0
        capturing = is_capturing(stream)
        table = self._located(gradients, stream, capturing)
        if self._sums is None:
            if capturing:
                raise _unprepared("what a step measures")
            self._sums = allocated(2 * tasks, np.float64, "the gradient's sums of squares")
        sums_at = address_of(self._sums)
        where = (self._segments.address, count, table.address, rows)
        self._launch(self._kernels(rows, True).norm, tasks, stream, *where, per_task, sums_at)
        return sums_at, tasks

    def _located(self, gradients: Array, stream: Any, capturing: bool) -> Table:
        """The addresses of the gradients, on the device: in a table that no later step changes, if a graph reads it."""
        rows = len(gradients)
        table = self._gradients.get(rows)
        if table is None or (table.captured and not table.holds(gradients)):
            if capturing:
                raise _unprepared("the gradients")
            if table is not None:
                self._captured.append(table)
            table = self._gradients[rows] = Table(gradients, stream)
        table.write(gradients, stream)
        table.captured |= capturing
        return table

    def step(self, gradients: Array, stream: Any, *, measures: bool, raises: bool = False) -> bool:
        """Launch a step; `gradients` has a row of addresses for each row that is summed.

        With `raises`, waits for the device, and returns False, with nothing changed, where the gradient is not finite.
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
            state = (self._state_at, self.width, self._counters.address, self._numbers_at)
            self._launch(kernels.update, self.chunks, stream, *where, *state)
        return True

    def _kernels(self, rows: int, measures: bool) -> "_Kernels":
        """The kernels of a step: found by the variant's identity, since to hash one takes as long as a launch."""
        key = (id(self.spec), rows, measures)
        if key not in self._compiled:
            form = Pass(self.spec._replace(sums=rows > 1), self.dtype.name)
            advance = advance_kernel(self.spec.rule, self.dtype.name, measures)
            norm = norm_kernel(form.dtype, form.gradient, rows > 1, form.chunk) if measures else None
            self._compiled[key] = _Kernels(norm, advance, step_kernel(form), self.spec)
        kernels: _Kernels = self._compiled[key]
        return kernels

    def _launch(self, compiled: Any, tasks: int, stream: Any, *arguments: int) -> None:
        """Launch a kernel whose blocks take one task after the other; looking its configuration up takes long."""
        blocks = min(tasks, self._most_blocks)
        key = (compiled, blocks, id(stream))
        if key not in self._configured:
            if len(self._configured) >= _MOST_CONFIGURED:
                self._configured.clear()  # of a program that makes stream after stream
            self._configured[key] = compiled[blocks, THREADS, stream], stream  # keeps the stream, and so its id
        self._configured[key][0](*arguments)


_MOST_CONFIGURED = 256


class _Kernels(NamedTuple):
    """The kernels of a step."""

    norm: Any
    advance: Any
    update: Any
    spec: StepSpec
    """Kept, so that its identity is not another's."""


def _table_of(segments: Segments, chunk: int) -> Array:
    """The table of segments, see `chunk.py`."""
    count = len(segments.addresses)
    table = np.zeros((count + 1, COLUMNS), np.int64)
    np.cumsum([-(-size // chunk) for size in segments.sizes], out=table[1:, FIRST_CHUNK])
    columns = {
        SIZE: segments.sizes,
        P_AT: segments.addresses,
        GROUP: segments.group_of,
        DITHER_AT: segments.dither_at or [0] * count,
        COPY_AT: segments.copies or [0] * count,
    }
    for column, values in columns.items():
        table[:-1, column] = values
    table[:, OFFSET] = segments.state_at
    return table
