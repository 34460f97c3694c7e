"""Data of the estimators on a device, and predictions in the library of such data.

The library of an array may still be filling it, on a stream of its own: all launches are waited for before it is read.
"""

import sys
from typing import Any

import numpy as np

from fastadam._typing import Array
from fastadam.buffers import FLOAT_DTYPES
from fastadam.cuda import runtime as runtimes
from fastadam.cuda.arrays import DeviceArray, described
from fastadam.cuda.devices import synchronize
from fastadam.cuda.jit import SIMULATED, cuda


class DeviceMatrix:
    """A matrix on the device, used in place if it is contiguous and float32 or float64, and converted there if not.

    Code of the host finds in it a shape, a dtype, and copies of some rows.

    Parameters
    ----------
    X : array
        Array of real numbers on the current device; any type but float32 becomes float64.

    Raises
    ------
    TypeError
        If its elements are not numbers.
    ValueError
        If it lies on another device than the current one.
    """

    def __init__(self, X: Any) -> None:
        given = _on_current_device("X", X)
        if given.dtype.kind not in "fiubc":
            raise TypeError(f"X must have numbers, got an array of {given.dtype} on a CUDA device")
        self.runtime = runtimes.cupy_runtime()
        self.shape = given.shape
        self.dtype = given.dtype if given.dtype in FLOAT_DTYPES or given.dtype.kind == "c" else np.dtype(np.float64)
        synchronize()
        with self.runtime.working():
            self.array = self.runtime.xp.ascontiguousarray(self.runtime.in_place(given), self.dtype)
            self._blemish = self._find_blemish()

    def _find_blemish(self) -> float:
        """Return NaN if there is one, otherwise infinity if there is one, otherwise 0."""
        xp = self.runtime.xp
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(float(abs(self.array.sum()))):
                return 0.0
        if xp.isnan(self.array).any():
            return np.nan
        return np.inf if xp.isinf(self.array).any() else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether all elements are finite."""
        return self._blemish == 0

    @property
    def outline(self) -> Array:
        """Array on the host of this shape and dtype that takes no memory, and is finite if and only if this one is."""
        return np.broadcast_to(np.array(self._blemish, self.dtype), self.shape)

    def __getitem__(self, rows: Array) -> Array:
        """Copy some rows to the host."""
        with self.runtime.working():
            return self.runtime.to_host(self.array[self.runtime.xp.asarray(rows)])

    def of_dtype(self, dtype: Any) -> Any:
        """Return the array, converted if necessary."""
        with self.runtime.working():
            converted = self.array.astype(dtype, copy=False)
        synchronize()
        return converted


def brought_to_host(name: str, array: Any) -> Array:
    """Copy an array to the host; `name` is for the messages.

    Raises
    ------
    ValueError
        If it lies on another device than the current one.
    """
    given, runtime = _on_current_device(name, array), runtimes.cupy_runtime()
    synchronize()
    with runtime.working():
        return runtime.to_host(runtime.in_place(given))


def in_kind_of(given: Any, values: Any) -> Any:
    """Convert values of NumPy or CuPy to an array of the library of `given`, on the device.

    Values that no device holds, such as strings, stay on the host.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biufc":
            return values
        values = runtimes.cupy_runtime().xp.asarray(values)
        synchronize()
    library = type(given).__module__.partition(".")[0]
    if SIMULATED or library == "cupy":
        return values
    if library == "torch":
        return sys.modules["torch"].from_dlpack(values)
    if library in ("numba", "numba_cuda"):
        return cuda.as_cuda_array(values)
    return given.__array_namespace__().from_dlpack(values) if hasattr(given, "__array_namespace__") else values


def _on_current_device(name: str, array: Any) -> DeviceArray:
    given, current = described(name, array), 0 if SIMULATED else int(cuda.get_current_device().id)
    if given.device != current:
        raise ValueError(
            f"{name} must lie on the current CUDA device, {current}, got one on device {given.device}: make that the "
            f"current one, for example by cupy.cuda.Device({given.device}).use()"
        )
    return given
