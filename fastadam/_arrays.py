"""Where the parameters lie: what an optimizer is given, checked once, and each step's gradients, checked against it."""

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastadam.buffers import FLOAT_DTYPES, FlatBuffer

Array = NDArray[Any]
Arrays = Array | Sequence[Array] | Mapping[str, Array] | FlatBuffer


class ParameterArrays:
    """The arrays of parameters, and the addresses that the kernels take.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        Writeable float32 or float64 arrays of one dtype, each contiguous, none overlapping another.
    by_name : bool
        Tell the tensors of a FlatBuffer apart, as different hyper-parameters for each need it.

    Attributes
    ----------
    segments : tuple
        The name of each segment: a key, an index, or None for a single array.
    offsets : ndarray of int64
        Where each segment begins in the concatenation of all, and the end.
    p_at, g_at : ndarray of int64
        The address of each segment's parameters, and of its gradient in the latest step.
    """

    def __init__(self, params: Arrays, by_name: bool) -> None:
        self.params = params
        self._names, arrays = structure(params, "params")
        for name, array in zip(self._names, arrays, strict=True):
            _check_parameter(label("params", name), array, arrays[0].dtype)
        _check_disjoint(self._names, arrays)
        self.arrays = arrays
        self.dtype = arrays[0].dtype if arrays else np.dtype(np.float64)
        self._shapes = [array.shape for array in arrays]
        self._orders: list[Literal["C", "F"]] = ["C" if array.flags.c_contiguous else "F" for array in arrays]
        self._lay_out(params, by_name)
        starts = [array.__array_interface__["data"][0] for array in arrays]
        stops = [start + array.nbytes for start, array in zip(starts, arrays, strict=True)]
        self._last: list[Array] = []
        self._span = (min(starts), max(stops)) if arrays else (0, 0)

    def _lay_out(self, params: Arrays, by_name: bool) -> None:
        """Note where each segment lies."""
        self.segments, sizes = self._names, [array.size for array in self.arrays]
        starts = [array.__array_interface__["data"][0] for array in self.arrays]
        self._parts_of_one = isinstance(params, FlatBuffer) and by_name and len(params) > 0
        if self._parts_of_one:
            assert isinstance(params, FlatBuffer)
            self.segments, sizes = tuple(params), [view.size for view in params.values()]
            starts = [starts[0] + offset * self.dtype.itemsize for offset in params.offsets.values()]
        self.offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=self.offsets[1:])
        self.p_at = np.array(starts, np.int64)
        self.g_at = np.zeros_like(self.p_at)
        self.size = int(self.offsets[-1])
        self.nbytes = self.size * self.dtype.itemsize

    def locate(self, grads: Arrays, writeable: bool) -> list[Array]:
        """Check the gradients, and the parameters once more, and note the gradients' addresses in `g_at`.

        Returns the arrays that lie there, which the caller must keep until it is done with the addresses.
        """
        self._check_writeable()
        if self._are_the_last(grads):
            return self._last
        self._last = []
        arrays = [grads] if self._is_the_usual(grads) else self._matching_arrays(grads, writeable)
        for k, array in enumerate(arrays):
            start = array.__array_interface__["data"][0]
            if start < self._span[1] and start + array.nbytes > self._span[0]:
                self._check_no_overlap(k, array)
            if writeable and not array.flags.writeable:
                raise ValueError(f"{label('grads', self._names[k])} must be writeable to be zeroed")
            if self._parts_of_one:
                np.multiply(self.offsets[:-1], self.dtype.itemsize, out=self.g_at)
                self.g_at += start
            else:
                self.g_at[k] = start
        if len(arrays) > 1 and not isinstance(grads, np.ndarray):
            self._last = arrays
        return arrays

    def _are_the_last(self, grads: Arrays) -> bool:
        """Whether these are the very arrays of the step before, as those of a network are that writes into them.

        Of a thousand small arrays, the checks would take longer than the step.
        """
        if not self._last or isinstance(grads, np.ndarray | FlatBuffer) or len(grads) != len(self._last):
            return False
        if isinstance(grads, Mapping):
            return tuple(grads) == self._names and all(map(operator.is_, grads.values(), self._last))
        return all(map(operator.is_, grads, self._last))

    def _is_the_usual(self, grads: Arrays) -> TypeGuard[Array]:
        """Whether this is one array, as `params` is, that needs nothing done: checked first, and quickly."""
        return (
            type(grads) is np.ndarray
            and self._names == (None,)
            and grads.dtype == self.dtype
            and grads.shape == self._shapes[0]
            and grads.flags.c_contiguous
            and self._orders[0] == "C"
        )

    def _matching_arrays(self, grads: Arrays, writeable: bool) -> list[Array]:
        """The gradients as arrays in the memory order of the parameters; copied only where their order differs."""
        if not isinstance(grads, np.ndarray):
            self._check_layout(grads)
        names, arrays = structure(grads, "grads")
        if names != self._names and set(names) == set(self._names):  # a dict in another order
            names, arrays = self._names, [arrays[names.index(name)] for name in self._names]
        if names != self._names:
            raise _structure_error(self._names, names)
        matching = []
        for name, array, shape, order in zip(names, arrays, self._shapes, self._orders, strict=True):
            if array.dtype != self.dtype:
                raise TypeError(
                    f"{label('grads', name)} must have the dtype of params, {self.dtype}, got {array.dtype}"
                )
            if array.shape != shape:
                raise ValueError(f"{label('grads', name)} must have the shape {shape} of params, got {array.shape}")
            in_order = array.flags.c_contiguous if order == "C" else array.flags.f_contiguous
            if writeable and not in_order:
                raise ValueError(f"{label('grads', name)} must have the memory order of params to be zeroed")
            matching.append(array if in_order else array.copy(order))
        return matching

    def _check_layout(self, grads: Arrays) -> None:
        params = self.params
        if not (isinstance(grads, FlatBuffer) and isinstance(params, FlatBuffer)) or grads.has_layout_of(params):
            return
        error = ValueError if grads.dtype == params.dtype else TypeError
        raise error(f"grads must have the layout of params, {params!r}, got {grads!r}")

    def _check_writeable(self) -> None:
        for k, array in enumerate(self.arrays):
            if not array.flags.writeable:
                raise ValueError(f"{label('params', self._names[k])} must be writeable, got a read-only array")

    def _check_no_overlap(self, k: int, grad: Array) -> None:
        if any(np.may_share_memory(grad, param) for param in self.arrays):
            raise ValueError(f"{label('grads', self._names[k])} must not share memory with params")


def on_device(arrays: Any) -> bool:
    """Whether this is, or holds, an array that lies on a CUDA device."""
    if isinstance(arrays, Mapping):
        arrays = list(arrays.values())
    if isinstance(arrays, list | tuple):
        return any(map(is_device_array, arrays))
    return is_device_array(arrays)


def is_device_array(array: Any) -> bool:
    """Whether an array offers memory of a CUDA device, by `__cuda_array_interface__` or DLPack."""
    if isinstance(array, np.ndarray | FlatBuffer):
        return False
    if getattr(array, "requires_grad", False):  # PyTorch offers no interface for these
        array = array.detach()
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) in _CUDA_MEMORY


_CUDA_MEMORY = (2, 13)
"""What DLPack calls a device's own memory, and memory managed by the driver."""


def structure(arrays: Arrays, what: str) -> tuple[tuple[Any, ...], list[Array]]:
    """The names of the arrays (keys, indices, or one None for a single array) and the arrays themselves."""
    if isinstance(arrays, FlatBuffer):
        arrays = arrays.flat
    names: tuple[Any, ...] = (None,)
    values: list[Any] = [arrays]
    if isinstance(arrays, np.ndarray):  # the common case first: the checks below cost more than a small step
        return names, values
    if isinstance(arrays, Mapping):
        names, values = tuple(arrays), list(arrays.values())
    elif isinstance(arrays, Sequence) and not isinstance(arrays, str | bytes):
        names, values = tuple(range(len(arrays))), list(arrays)
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"{label(what, name)} must be a NumPy array (or {what} a list or dict of arrays, or a FlatBuffer), "
                f"got {type(value).__name__}"
            )
    return names, values


def _structure_error(expected: tuple[Any, ...], got: tuple[Any, ...]) -> ValueError | TypeError:
    def describe(names: tuple[Any, ...]) -> str:
        if names == (None,):
            return "one array"
        return f"a dict with the keys {list(names)}" if isinstance(names[0], str) else f"a list of {len(names)} arrays"

    kinds = [type(names[0]) if names else None for names in (expected, got)]
    error = ValueError if kinds[0] is kinds[1] or not (expected and got) else TypeError
    expected_text, got_text = (describe(names) if names else "an empty list or dict" for names in (expected, got))
    return error(f"grads must have the structure of params, {expected_text}, got {got_text}")


def label(what: str, name: Any) -> str:
    return what if name is None else f"{what}[{name!r}]"


def _check_parameter(label: str, array: Array, dtype: np.dtype[Any]) -> None:
    if array.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{label} must be float32 or float64, got {array.dtype}")
    if array.dtype != dtype:
        raise TypeError(f"{label} must have the dtype of the other params, {dtype}, got {array.dtype}")
    if not array.flags.writeable:
        raise ValueError(f"{label} must be writeable, got a read-only array")
    if not array.flags.forc:
        raise ValueError(f"{label} must be contiguous, got strides {array.strides} for shape {array.shape}")


def _check_disjoint(names: tuple[Any, ...], arrays: list[Array]) -> None:
    spans = sorted((a.__array_interface__["data"][0], a.nbytes, k) for k, a in enumerate(arrays) if a.size)
    for (start, size, k), (next_start, _, j) in pairwise(spans):
        if next_start < start + size:
            raise ValueError(f"{label('params', names[j])} must not overlap {label('params', names[k])} in memory")
