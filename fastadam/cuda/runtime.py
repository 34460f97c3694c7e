"""Needs of the estimators on a device beside kernels: arrays and their products, a stream, CUDA graphs.

All of it comes from CuPy; the tests put NumPy in its place.
"""

import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastadam._typing import Array
from fastadam.cuda.arrays import DeviceArray
from fastadam.cuda.jit import INSTALL, cuda, require_device


class Runtime(NamedTuple):
    """An array module, with its stream."""

    xp: Any
    """CuPy, or NumPy in its place."""
    address: Callable[[Any], int]
    """Return the address of an array."""
    stream: Any
    """Stream on which Numba launches."""
    working: Callable[[], AbstractContextManager[Any]]
    """Make the context in which the array module works on that stream."""
    capture: Callable[[Callable[[], None]], Callable[[], None]] | None
    """Record the launches of a function, and return the function that repeats them; None if nothing can be recorded."""
    to_host: Callable[[Any], Array]
    """Wait for the stream, and copy an array to the host."""
    in_place: Callable[[DeviceArray], Any]
    """Make an array of the module over the memory of one that is on the device already."""


def cupy_runtime() -> Runtime:
    """Make the runtime of CuPy, with a stream per thread and device, as CuPy keeps freed memory for its stream.

    Raises
    ------
    ImportError
        If CuPy is not installed.
    """
    require_device()
    try:
        import cupy
    except Exception as error:
        raise ImportError(f"device='cuda' needs CuPy, which cannot be loaded ({error}); {INSTALL}") from error
    return _runtime_of(threading.get_ident(), int(cupy.cuda.Device().id))


@functools.cache
def _runtime_of(thread: int, device: int) -> Runtime:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)

    def capture(launch: Callable[[], None]) -> Callable[[], None]:
        with stream:
            stream.begin_capture()
            try:
                launch()
            finally:
                graph = stream.end_capture()
        return lambda: graph.launch(stream=stream)

    def to_host(array: Any) -> Array:
        stream.synchronize()
        return cupy.asnumpy(array, stream=stream)

    handle = cuda.external_stream(stream.ptr)

    def in_place(array: DeviceArray) -> Any:
        return cupy.asarray(array.owner)

    return Runtime(cupy, lambda array: int(array.data.ptr), handle, lambda: stream, capture, to_host, in_place)


def numpy_runtime() -> Runtime:
    """Make the runtime of NumPy, for the simulator."""

    def in_place(array: DeviceArray) -> Any:
        return np.asarray(SimpleNamespace(__array_interface__=array.owner.__cuda_array_interface__))

    return Runtime(np, lambda array: int(array.ctypes.data), 0, nullcontext, None, np.array, in_place)
