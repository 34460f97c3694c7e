"""The current device: its size, streams and captures, and launches that fit it."""

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fastadam.cuda.jit import SIMULATED, THREADS, cuda

BLOCKS_PER_SM = 4
"""Blocks that a multiprocessor holds at once: with 64 registers per thread, 1,024 threads."""


def most_blocks() -> int:
    """Return the number of blocks that the current device holds at once."""
    return 3 if SIMULATED else BLOCKS_PER_SM * _multiprocessors(cuda.get_current_device().id)


@functools.cache
def _multiprocessors(device: int) -> int:
    return int(cuda.gpus[device].MULTIPROCESSOR_COUNT)


def blocks_for(size: int) -> int:
    """Return the blocks to launch for `size` elements, one per thread; no more than are held at once."""
    return max(1, min(most_blocks(), -(-size // THREADS)))


def synchronize() -> None:
    """Wait for all that was launched, on any stream."""
    cuda.synchronize()


def on_current(device: int) -> AbstractContextManager[Any]:
    """Make a device the current one in a context, unless it is."""
    if SIMULATED or cuda.get_current_device().id == device:
        return nullcontext()
    return cuda.gpus[device]


def is_capturing(stream: Any) -> bool:
    """Tell whether a graph is being captured on a stream; never on the legacy default one, which is the integer 0."""
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


def unprepared(what: str) -> RuntimeError:
    """Make the error for something that cannot change while a graph is captured."""
    return RuntimeError(
        f"{what} changed while a CUDA graph is captured, or just before: take one step with the same arrays and "
        "settings before the capture"
    )
