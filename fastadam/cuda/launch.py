"""A step's memory on the device, and its launches: what the optimizers and the estimators share."""

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastadam.cpu import HYPER, Variant
from fastadam.cuda.jit import SIMULATED, THREADS, cuda, require_device
from fastadam.cuda.step import (
    COLUMNS,
    COPY_AT,
    COUNTERS,
    FIRST,
    GROUP,
    NONFINITE,
    P_AT,
    SETTINGS,
    SIZE,
    STATE_AT,
    Pass,
    advance_kernel,
    chunk_size,
    copy_kernel,
    fill_kernel,
    norm_kernel,
    norm_tasks,
    step_kernel,
)

Array = NDArray[Any]

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


def blocks_for(elements: int) -> int:
    """Blocks for so many elements, a thread each, but no more than are held at once."""
    return max(1, min(most_blocks(), -(-elements // THREADS)))


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
    """Whether a graph is being captured on a stream."""
    if SIMULATED or not stream:
        return False
    from cuda.bindings import driver

    error, status = driver.cuStreamIsCapturing(int(stream))
    active = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
    return error == driver.CUresult.CUDA_SUCCESS and status == active


class Table:
    """A small table on the device that the host rewrites, on the stream of the launches, when it changes."""

    def __init__(self, values: Array) -> None:
        self._values = values.copy()
        self._array = cuda.to_device(self._values)
        self.address = address_of(self._array)

    def __len__(self) -> int:
        return len(self._values)

    def write(self, values: Array, stream: Any) -> None:
        """Make the table on the device equal to `values`."""
        if np.array_equal(values, self._values):
            return
        if is_capturing(stream):
            raise RuntimeError(
                "settings or addresses of gradients changed while a CUDA graph is captured: take one step with the "
                "same arrays and settings before the capture"
            )
        self._values = values.copy()
        self._array.copy_to_device(self._values, stream=stream)

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


class Segments(NamedTuple):
    """Where the parameters lie: the arguments of `StepMemory`."""

    addresses: Sequence[int]
    sizes: Sequence[int]
    state_at: Sequence[int]
    """Where each segment's state begins in a row, and the row's length: at multiples of 16 bytes where the parameters
    are at one."""
    group_of: Sequence[int]


class StepMemory:
    """All that a step needs on the device but parameters and gradients, and its launches.

    Parameters
    ----------
    variant : Variant
        What the step does; it may become another with the same state.
    dtype : dtype
        float32 or float64.
    segments : Segments
        Where the parameters lie.
    groups : int
        Rows of the settings.
    """

    def __init__(self, variant: Variant, dtype: np.dtype[Any], segments: Segments, groups: int) -> None:
        require_device()
        self.variant, self.dtype = variant, dtype
        self._groups, count = groups, len(segments.addresses)
        self._table = np.zeros((count + 1, COLUMNS), np.int64)
        chunks = [-(-size // chunk_size(dtype.name)) for size in segments.sizes]
        np.cumsum(chunks, out=self._table[1:, FIRST])
        for column, values in zip(
            (SIZE, P_AT, GROUP), (segments.sizes, segments.addresses, segments.group_of), strict=True
        ):
            self._table[:-1, column] = values
        self._table[:, STATE_AT] = segments.state_at
        self.chunks, self.width = int(self._table[-1, FIRST]), int(segments.state_at[-1])
        form = Pass(variant, dtype.name)
        self.state = allocated((max(1, form.rows), max(1, self.width)), dtype, "the optimizer's states")
        self.fill(0, form.rows * self.width, 0.0)
        self._segments = Table(self._table)
        self.settings_width = max(SETTINGS, HYPER + len(variant.rule.hyper))
        self._settings = Table(np.zeros((1 + groups, self.settings_width)))
        self._counters = Table(np.zeros(COUNTERS, np.int64))
        self._carried = Table(np.ones(groups))
        self._gradients: dict[int, Table] = {}
        self._numbers = allocated(groups * form.row_size, dtype, "the step's scalars")
        self._state_at, self._numbers_at = address_of(self.state), address_of(self._numbers)
        self._sums: Any = None
        self._configured: dict[Any, Any] = {}
        self._compiled: dict[Any, Any] = {}
        self.stream: Any = 0
        synchronize()  # the streams of the steps do not wait for the default one

    def fill(self, start: int, size: int, value: float) -> None:
        """Write a value to elements of the state, counted over its rows."""
        if size:
            address = address_of(self.state) + start * self.dtype.itemsize
            fill_kernel(self.dtype.name)[blocks_for(size), THREADS](address, size, value)

    def copy(self, source: int, start: int, size: int) -> None:
        """Copy what lies at an address to elements of the state."""
        if size:
            address = address_of(self.state) + start * self.dtype.itemsize
            copy_kernel(self.dtype.name)[blocks_for(size), THREADS](source, address, size)

    def read_state(self) -> Array:
        """The rows of the state, on the host; waits for the device."""
        synchronize()
        rows: Array = self.state.copy_to_host()
        return rows

    def write_state(self, rows: Sequence[Array]) -> None:
        """Bring rows from the host, of no more elements than the device's have."""
        whole = np.zeros(self.state.shape, self.dtype)
        for k, row in enumerate(rows):
            whole[k, : row.size] = row
        self.state.copy_to_device(whole)
        synchronize()  # other streams do not wait for the default one

    def set_copies(self, addresses: Sequence[int]) -> None:
        """Say where the parameters are written once more, if the variant does that, and write them there now."""
        for k, address in enumerate(addresses):
            size = int(self._table[k, SIZE])
            if size:
                rounded = copy_kernel(self.dtype.name, self.variant.copy)
                rounded[blocks_for(size), THREADS](int(self._table[k, P_AT]), address, size)
        self._table[:-1, COPY_AT] = addresses
        self._segments.write(self._table, 0)

    def configure(self, settings: Array) -> None:
        """Set the numbers that the next steps take, replays of captured ones included."""
        padded = np.zeros((1 + self._groups, self.settings_width))
        padded[:, : settings.shape[1]] = settings
        self._settings.write(padded, self.stream)

    def force_settings(self, settings: Array) -> None:
        """Set them where a kernel may have changed them since."""
        self._settings.force(settings, self.stream)

    @property
    def settings_at(self) -> int:
        """Where the settings lie."""
        return self._settings.address

    @property
    def segments(self) -> tuple[int, int]:
        """Where the table of segments lies, and how many there are."""
        return self._segments.address, len(self._table) - 1

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

    def measure(self, gradients: Array, stream: Any) -> tuple[int, int]:
        """Launch the sums of squares: where pairs of them will be, and how many, see `norm_kernel`."""
        rows, count = gradients.shape
        table, tasks = self._located(gradients, stream), norm_tasks(self.chunks)
        if not tasks:
            return 0, 0
        if self._sums is None:
            self._sums = allocated(2 * tasks, np.float64, "the gradient's sums of squares")
        sums_at = address_of(self._sums)
        where = (self._segments.address, count, table.address, rows)
        self._launch(norm_kernel(self.dtype.name, rows > 1), tasks, stream, *where, sums_at)
        return sums_at, tasks

    def _located(self, gradients: Array, stream: Any) -> Table:
        """The addresses of the gradients, on the device."""
        rows = len(gradients)
        if rows not in self._gradients:
            self._gradients[rows] = Table(gradients)
        self._gradients[rows].write(gradients, stream)
        return self._gradients[rows]

    def step(self, gradients: Array, stream: Any, *, measures: bool, raises: bool = False) -> bool:
        """Launch a step; `gradients` has a row of addresses for each row that is summed.

        With `raises`, waits for the device, and returns False, with nothing changed, where the gradient is not finite.
        """
        self.stream = stream
        rows, count = gradients.shape
        table = self._located(gradients, stream)
        sums_at, tasks = self.measure(gradients, stream) if measures else (0, 0)
        where = (self._segments.address, count, table.address, rows)
        advance, update = self._kernels(rows, measures)
        self._launch(
            advance, 1, stream, self._settings.address, self.settings_width, self._groups, self._counters.address,
            self._carried.address, sums_at, tasks, self._numbers_at,
        )  # fmt: skip
        if raises and self.counters[NONFINITE]:
            return False
        if self.chunks:
            self._launch(update, self.chunks, stream, *where, self._state_at, self.width, self._numbers_at)
        return True

    def _kernels(self, rows: int, measures: bool) -> tuple[Any, Any]:
        """The two kernels of a step: found by the variant's identity, since to hash one takes as long as a launch."""
        key = (id(self.variant), rows, measures)
        if key not in self._compiled:
            form = Pass(self.variant._replace(sums=rows > 1), self.dtype.name)
            advance = advance_kernel(self.variant.rule, self.dtype.name, measures)
            self._compiled[key] = advance, step_kernel(form), self.variant  # which keeps its id from being another's
        advance, update, _ = self._compiled[key]
        return advance, update

    def _launch(self, compiled: Any, tasks: int, stream: Any, *arguments: int) -> None:
        """Launch a kernel whose blocks take one task after the other; looking its configuration up takes long."""
        blocks = min(tasks, most_blocks())
        key = (compiled, blocks, id(stream))
        if key not in self._configured:
            self._configured[key] = compiled[blocks, THREADS, stream], stream  # keeps the stream, and so its id
        self._configured[key][0](*arguments)
