"""Arrays on a CUDA device: the parameters, checked once, and the gradients of each step, checked against them.

An array may be of any library that offers its memory by `__cuda_array_interface__` or DLPack.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastadam._checks import label, structure_error
from fastadam.buffers import FLOAT_DTYPES
from fastadam.cuda.detection import is_device_array
from fastadam.cuda.jit import INSTALL, SIMULATED, cuda
from fastadam.formulas.storage import CODE_BLOCK, HALF_DTYPES

LINE = 128
"""Bytes at whose multiples each segment of the state begins, as arrays of the device do."""

BFLOAT16 = np.dtype("V2")
"""Type that arrays of bfloat16 give in their interface, as NumPy has none."""


class DeviceArray(NamedTuple):
    """Description of an array on a device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    """ "C", "F", or "" if the array is not contiguous. """
    writeable: bool
    device: int
    stream: Any
    """Handle of the stream on which its library computes the array, or None."""
    owner: Any
    borrowed: bool = False
    """Whether the memory may be reused as soon as `owner` is released, whatever has been launched."""

    @property
    def kind(self) -> str:
        """Name of the dtype."""
        return "bfloat16" if self.dtype == BFLOAT16 else self.dtype.name

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def span(self) -> tuple[int, int]:
        """Begin and end of the memory of a contiguous array."""
        return self.address, self.address + self.size * self.dtype.itemsize


def described(name: str, array: Any, streams: dict[Any, int] | None = None) -> DeviceArray:
    """Describe an array by the memory it offers; `streams` keeps the streams that PyTorch has been asked for.

    Raises
    ------
    TypeError
        If it is not on a device.
    """
    if not is_device_array(array):
        kind = f"{type(array).__module__}.{type(array).__name__}".removeprefix("builtins.")
        raise TypeError(
            f"{name} must lie on a CUDA device, as other arrays given here do, got {kind}: move it there, or "
            "the others to the host"
        )
    if getattr(array, "requires_grad", False):
        array = array.detach()
    borrowed = not hasattr(array, "__cuda_array_interface__")
    if borrowed:
        array = _from_dlpack(array)
    interface = array.__cuda_array_interface__
    address, read_only = interface["data"]
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    order = _order(shape, interface.get("strides"), dtype.itemsize)
    device = _device_of(array, address)
    stream = _stream_of(array, interface, {} if streams is None else streams)
    return DeviceArray(int(address or 0), shape, dtype, order, not read_only, device, stream, array, borrowed)


def _from_dlpack(array: Any) -> Any:
    """View an array by CuPy: its library lets the current stream of CuPy wait for the work it has queued."""
    try:
        import cupy
    except Exception as error:
        raise ImportError(f"arrays that only offer DLPack need CuPy; {INSTALL}") from error
    return cupy.from_dlpack(array)


def _order(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> str:
    if strides is None or 0 in shape:
        return "C"

    def is_dense(axes: list[int]) -> bool:
        expected = itemsize
        for axis in axes:
            if shape[axis] != 1 and strides[axis] != expected:
                return False
            expected *= shape[axis]
        return True

    axes = list(range(len(shape)))
    return "C" if is_dense(axes[::-1]) else "F" if is_dense(axes) else ""


def _device_of(array: Any, address: int | None) -> int:
    """Return the number of the device that holds an array."""
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[1])
    if SIMULATED or not address:
        return 0
    from cuda.bindings import driver

    ordinal = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error, device = driver.cuPointerGetAttribute(ordinal, address)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise ValueError(f"the address {address:#x} of an array is not in the memory of a CUDA device ({error.name})")
    return int(device)


def _stream_of(array: Any, interface: Mapping[str, Any], known: dict[Any, int]) -> int | None:
    """Return the stream that the library of an array works on now; PyTorch has to be asked for it."""
    if type(array).__module__.partition(".")[0] != "torch":
        return interface.get("stream")
    device = array.device
    if device not in known:
        known[device] = int(sys.modules["torch"].cuda.current_stream(device).cuda_stream)
    return known[device]


def stream_of(given: Any, arrays: Sequence[DeviceArray]) -> Any:
    """Return the stream to launch on, for Numba: the one given, or else that of the first array that names one.

    Raises
    ------
    TypeError
        If `given` is neither a stream nor a handle.
    """
    for name in ("cuda_stream", "ptr"):  # torch.cuda.Stream, cupy.cuda.Stream
        if hasattr(given, name):
            given = getattr(given, name)
    if hasattr(given, "__cuda_stream__"):
        given = given.__cuda_stream__()[1]
    if given is None:
        given = next((array.stream for array in arrays if array.stream is not None), 0)
    if isinstance(given, bool) or not (isinstance(given, int) or hasattr(given, "synchronize")):
        raise TypeError(f"stream must be a stream of Numba, CuPy or PyTorch, or its handle, got {given!r}")
    if not isinstance(given, int):
        return given  # the simulator's
    if SIMULATED or given in LEGACY:
        return 0
    return cuda.per_thread_default_stream() if given == 2 else _external_stream(given)


LEGACY = (0, 1)
"""Handles of the default stream, which all libraries share by default."""


def other_streams(launched_on: Any, arrays: Sequence[DeviceArray]) -> list[Any]:
    """Return the streams of the arrays other than that of the launch, which has to wait for them."""
    named = {array.stream for array in arrays} - {None}
    if SIMULATED or not named:
        return []
    own = {int(launched_on)} if int(launched_on) not in LEGACY else set(LEGACY)
    return [stream_of(handle, ()) for handle in sorted(named - own)]


_STREAMS: dict[int, Any] = {}


def _external_stream(handle: int) -> Any:
    """Wrap the stream of another library, once per handle: launches are found by the identity of the object."""
    if handle not in _STREAMS:
        if len(_STREAMS) >= 64:
            _STREAMS.clear()
        _STREAMS[handle] = cuda.external_stream(handle)
    return _STREAMS[handle]


class DeviceArrays:
    """The arrays of parameters on a device.

    Parameters
    ----------
    params : array, sequence of arrays, or mapping of str to arrays
        Writeable arrays of one dtype (float32, float64, float16 or bfloat16) on one device, each contiguous, none
        overlapping another.
    state_dtype : str, optional
        Type in which the state is stored, if it is another than that of the parameters.

    Attributes
    ----------
    names : tuple
        Name of each array: a key, an index, or None for a single array.
    dtype : dtype
        Type in which the step is computed: float32 or float64.
    stored : str
        "float16" or "bfloat16" if the parameters are of that type; "" if they are of `dtype`.
    offsets : ndarray of int64
        First element of the part of each array in a state on the host, and length of the state.
    state_at : ndarray of int64
        First element of the part of each array in a row of the state on the device, and length of the row.
    device : int
        Number of the device.
    """

    def __init__(self, params: Any, state_dtype: str | None = None) -> None:
        self.params = params
        self.names, self.arrays = device_structure(params, "params")
        first = self.arrays[0]
        self.device, self._given = first.device, first.kind
        self.stored = self._given if self._given in HALF_DTYPES else ""
        self.dtype = np.dtype(np.float32) if self.stored else first.dtype
        for name, array in zip(self.names, self.arrays, strict=True):
            self._check_parameter(label("params", name), array)
        self._check_disjoint()
        sizes = [array.size for array in self.arrays]
        self.size = sum(sizes)
        self.nbytes = self.size * self.dtype.itemsize
        self.offsets = _starts(sizes, CODE_BLOCK if state_dtype == "uint8" else 1)
        multiple = {"bfloat16": LINE // 2, "uint8": CODE_BLOCK, None: LINE // self.dtype.itemsize}[state_dtype]
        self.state_at = _starts(sizes, multiple)
        self.state_at[-1] = max(self.state_at[-1], multiple)  # a row has at least one element
        spans = [array.span for array in self.arrays if array.size]
        self._span = (min(start for start, _ in spans), max(stop for _, stop in spans)) if spans else (0, 0)

    def locate(self, grads: Any, writeable: bool) -> tuple[list[int], list[DeviceArray]]:
        """Check gradients, and return their addresses and their descriptions."""
        names, arrays = device_structure(grads, "grads")
        if names != self.names and set(names) == set(self.names):  # a dict in another order
            names, arrays = self.names, [arrays[names.index(name)] for name in self.names]
        if names != self.names:
            raise structure_error("grads", self.names, names)
        for name, array, param in zip(names, arrays, self.arrays, strict=True):
            self._check_gradient(label("grads", name), array, param, writeable)
        return [array.address for array in arrays], arrays

    def _check_parameter(self, name: str, array: DeviceArray) -> None:
        if array.dtype not in FLOAT_DTYPES and array.kind not in HALF_DTYPES:
            raise TypeError(f"{name} must be float32 or float64 (or float16 or bfloat16), got {array.kind}")
        if array.kind != self._given:
            raise TypeError(f"{name} must have the dtype of the other params, {self._given}, got {array.kind}")
        if array.device != self.device:
            raise ValueError(f"{name} must lie on the device of the other params, {self.device}, got {array.device}")
        if not array.writeable:
            raise ValueError(f"{name} must be writeable, got a read-only array")
        _check_memory(name, array)

    def _check_gradient(self, name: str, array: DeviceArray, param: DeviceArray, writeable: bool) -> None:
        if array.kind != self._given:
            raise TypeError(f"{name} must have the dtype of params, {self._given}, got {array.kind}")
        if array.shape != param.shape:
            raise ValueError(f"{name} must have the shape {param.shape} of params, got {array.shape}")
        if array.device != self.device:
            raise ValueError(f"{name} must lie on the device of params, {self.device}, got {array.device}")
        if array.order != param.order and array.size > 1:
            raise ValueError(f"{name} must have the memory order of params, contiguous: nothing is copied on a device")
        if writeable and not array.writeable:
            raise ValueError(f"{name} must be writeable to be zeroed")
        _check_memory(name, array)
        start, stop = array.span
        if start < self._span[1] and stop > self._span[0] and any(_overlap(array, p) for p in self.arrays):
            raise ValueError(f"{name} must not share memory with params")

    def _check_disjoint(self) -> None:
        spans = sorted((*array.span, k) for k, array in enumerate(self.arrays) if array.size)
        for (_, stop, k), (start, _, j) in pairwise(spans):
            if start < stop:
                names = label("params", self.names[j]), label("params", self.names[k])
                raise ValueError(f"{names[0]} must not overlap {names[1]} in memory")


def _starts(sizes: list[int], multiple: int) -> NDArray[np.int64]:
    """Return where parts of these sizes begin, each at a multiple of `multiple` elements, and where the last ends."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum([-(-size // multiple) * multiple for size in sizes], out=starts[1:])
    return starts


def _check_memory(name: str, array: DeviceArray) -> None:
    if not array.order:
        raise ValueError(f"{name} must be contiguous, got strides that leave gaps for shape {array.shape}")
    if array.address % array.dtype.itemsize:
        raise ValueError(
            f"{name} must begin at a multiple of {array.dtype.itemsize} bytes, the size of its elements, got the "
            f"address {array.address:#x}"
        )


def _overlap(a: DeviceArray, b: DeviceArray) -> bool:
    return a.span[0] < b.span[1] and b.span[0] < a.span[1]


def device_structure(arrays: Any, what: str) -> tuple[tuple[Any, ...], list[DeviceArray]]:
    """Return the names of the arrays (keys, indices, or one None for a single array) and their descriptions."""
    names: tuple[Any, ...] = (None,)
    values: list[Any] = [arrays]
    if isinstance(arrays, Mapping):
        names, values = tuple(arrays), list(arrays.values())
    elif isinstance(arrays, list | tuple):
        names, values = tuple(range(len(arrays))), list(arrays)
    streams: dict[Any, int] = {}
    return names, [described(label(what, name), value, streams) for name, value in zip(names, values, strict=True)]
