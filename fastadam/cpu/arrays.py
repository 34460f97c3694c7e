"""Arrays on the host: the parameters, checked once, and the gradients of each step, checked against them."""

import math
import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastadam._checks import label, structure_error
from fastadam._memory import aligned_zeros
from fastadam._typing import Array
from fastadam.buffers import FLOAT_DTYPES, FlatBuffer
from fastadam.formulas.step import COPY_AT, G_AT, OFFSET, P_AT, SIZE
from fastadam.formulas.storage import CODE_BLOCK, HALF_DTYPES, bfloat16_values

Arrays = Array | Sequence[Array] | Mapping[str, Array] | FlatBuffer

_NO_ARRAYS: list[Array] = []


def _nothing() -> None:
    """Return None, as a reference to an array that was deleted does."""


class HostArrays:
    """Arrays of parameters on the host, and the table of segments that the kernels take.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        Writeable arrays of one dtype (float32, float64, float16, or bfloat16 of a package that defines it), each
        contiguous, none overlapping another.
    state_dtype : str, optional
        Form of the state, if it is stored in fewer bytes.
    by_name : bool, default=False
        Make each tensor of a FlatBuffer a segment of its own, which can have its own hyper-parameters.

    Attributes
    ----------
    names : tuple
        Name of each segment: a key, an index, or None for a single array.
    dtype : dtype
        Type in which the step is computed: float32 or float64.
    stored : str
        "float16" or "bfloat16" for parameters of that type; "" for parameters of `dtype`.
    masters : ndarray or None
        The parameters in `dtype`, flat, if they are stored in another type.
    segments : ndarray of int64
        The table of segments; `formulas.step` names its rows.
    size : int
        Size of the concatenation.
    """

    def __init__(self, params: Arrays, state_dtype: str | None = None, by_name: bool = False) -> None:
        self.params = params
        self._names, arrays = structure(params, "params")
        for name, array in zip(self._names, arrays, strict=True):
            _check_parameter(label("params", name), array, arrays[0].dtype)
        _check_disjoint(self._names, arrays)
        self.arrays = arrays
        self._given_dtype = arrays[0].dtype if arrays else np.dtype(np.float64)
        self.stored = self._given_dtype.name if self._given_dtype not in FLOAT_DTYPES else ""
        self.dtype = np.dtype(np.float32) if self.stored else self._given_dtype
        self._shapes = [array.shape for array in arrays]
        self._orders: list[Literal["C", "F"]] = ["C" if array.flags.c_contiguous else "F" for array in arrays]
        self._lay_out(params, by_name, CODE_BLOCK if state_dtype == "uint8" else 1)
        starts = [array.__array_interface__["data"][0] for array in arrays]
        stops = [start + array.nbytes for start, array in zip(starts, arrays, strict=True)]
        self._last: list[Array] = []
        self._last_one: Callable[[], Array | None] = _nothing
        self._last_type: type = list
        self._span = (min(starts), max(stops)) if arrays else (0, 0)

    def _lay_out(self, params: Arrays, by_name: bool, multiple: int) -> None:
        """Fill in the table; each segment begins at a multiple of `multiple` elements of the concatenation."""
        self.names, self._parts = self._names, [array.ravel("K") for array in self.arrays]
        self._parts_of_one = isinstance(params, FlatBuffer) and by_name and len(params) > 0
        if isinstance(params, FlatBuffer) and self._parts_of_one:
            self.names, self._parts = tuple(params), [view.ravel() for view in params.values()]
        starts, sizes = ([part.ctypes.data for part in self._parts], [part.size for part in self._parts])
        self.segments = np.zeros((G_AT + 1, len(sizes) + 1), np.int64)
        self.segments[SIZE, :-1] = sizes
        np.cumsum([-(-size // multiple) * multiple for size in sizes], out=self.segments[OFFSET, 1:])
        self.size = int(self.segments[OFFSET, -1])
        self.nbytes = self.size * self.dtype.itemsize
        self.segments[P_AT, :-1] = starts
        self.masters = None
        if self.stored:
            self.segments[COPY_AT] = self.segments[P_AT]
            self.masters = self.concatenated()
            self.segments[P_AT] = self.masters.ctypes.data + self.dtype.itemsize * self.segments[OFFSET]

    def concatenated(self) -> Array:
        """Copy the parameters to a flat array of type `dtype`, laid out as the concatenation."""
        flat = aligned_zeros(self.size, self.dtype)
        for part, offset in zip(self._parts, self.segments[OFFSET], strict=False):
            flat[offset : offset + part.size] = bfloat16_values(part) if self.stored == "bfloat16" else part
        return flat

    def structured(self, flat: Array) -> Any:
        """View a flat array, laid out as the concatenation, in the structure of the parameters."""
        if isinstance(self.params, FlatBuffer):
            starts = self.segments[OFFSET].tolist() if self._parts_of_one else self.params.offsets.values()
            shapes = self.params.shapes.items()
            return {
                name: flat[a : a + math.prod(shape)].reshape(shape)
                for a, (name, shape) in zip(starts, shapes, strict=False)
            }
        layout = zip(self._parts, self.segments[OFFSET], self._shapes, self._orders, strict=False)
        views = [flat[a : a + part.size].reshape(shape, order=order) for part, a, shape, order in layout]
        if self.names == (None,):
            return views[0]
        return dict(zip(self.names, views, strict=True)) if isinstance(self.params, Mapping) else views

    def locate(self, grads: Arrays, writeable: bool) -> list[Array]:
        """Check the gradients, and the parameters again, and write the addresses of the gradients to the table.

        Returns the arrays at these addresses, some of which may be copies: the caller must keep them for as long as it
        uses the addresses. Asking NumPy for an address takes longer than all else here. In the usual case of a single
        array, its address is therefore kept while the array lives: it cannot move, since NumPy refuses to resize an
        array that has a weak reference.
        """
        self._check_writeable()
        if self._is_the_usual(grads):
            if grads is not self._last_one() or (writeable and not grads.flags.writeable):
                self._located(grads, "grads", self.segments[G_AT], writeable)
                self._last_one = weakref.ref(grads)
            return _NO_ARRAYS
        if self._are_the_last(grads) and not (writeable and any(not array.flags.writeable for array in self._last)):
            return self._last
        self._last, self._last_one = [], _nothing
        arrays = self._located(grads, "grads", self.segments[G_AT], writeable)
        if len(arrays) > 1 and not isinstance(grads, np.ndarray):
            self._last, self._last_type = arrays, type(grads)
        return arrays

    def locate_rows(self, rows: Sequence[Arrays], writeable: bool) -> tuple[Array, list[Array]]:
        """Do the same for several gradients of each parameter; return a separate table, and the arrays."""
        self._check_writeable()
        table = np.vstack([self.segments[:G_AT], np.zeros((len(rows), self.segments.shape[1]), np.int64)])
        located = [
            self._located(grads, f"grads[{row}]", table[G_AT + row], writeable) for row, grads in enumerate(rows)
        ]
        return table, [array for arrays in located for array in arrays]

    def _located(self, grads: Arrays, what: str, addresses: Array, writeable: bool) -> list[Array]:
        """Check gradients and write their addresses to `addresses`."""
        arrays = [grads] if self._is_the_usual(grads) else self._matching_arrays(grads, what, writeable)
        for k, array in enumerate(arrays):
            start = array.__array_interface__["data"][0]
            if start < self._span[1] and start + array.nbytes > self._span[0]:
                self._check_no_overlap(label(what, self._names[k]), array)
            if writeable and not array.flags.writeable:
                raise ValueError(f"{label(what, self._names[k])} must be writeable to be zeroed")
            if self._parts_of_one:
                np.add(self.segments[P_AT, :-1], start - self._span[0], out=addresses[:-1])
            else:
                addresses[k] = start
        return arrays

    def _are_the_last(self, grads: Arrays) -> bool:
        """Check whether these are the same arrays as in the last step, as when a network writes into them.

        For a thousand small arrays, checking each again would take longer than the step.
        """
        if not self._last or type(grads) is not self._last_type or len(grads) != len(self._last):
            return False
        if isinstance(grads, Mapping):
            return tuple(grads) == self._names and all(map(operator.is_, grads.values(), self._last))
        return all(map(operator.is_, grads, self._last))

    def _is_the_usual(self, grads: Arrays) -> TypeGuard[Array]:
        """Check quickly for the usual case: a single array, as `params` is, that can be used as it is."""
        return (
            type(grads) is np.ndarray
            and self._names == (None,)
            and grads.dtype == self._given_dtype
            and grads.shape == self._shapes[0]
            and grads.flags.c_contiguous
            and self._orders[0] == "C"
        )

    def _matching_arrays(self, grads: Arrays, what: str, writeable: bool) -> list[Array]:
        """Return the gradients as arrays in the memory order of the parameters, copied only if their order differs."""
        if not isinstance(grads, np.ndarray):
            self._check_layout(grads, what)
        names, arrays = structure(grads, what)
        if names != self._names and set(names) == set(self._names):  # a dict in another order
            names, arrays = self._names, [arrays[names.index(name)] for name in self._names]
        if names != self._names:
            raise structure_error(what, self._names, names)
        matching = []
        for name, array, shape, order in zip(names, arrays, self._shapes, self._orders, strict=True):
            if array.dtype != self._given_dtype:
                raise TypeError(
                    f"{label(what, name)} must have the dtype of params, {self._given_dtype}, got {array.dtype}"
                )
            if array.shape != shape:
                raise ValueError(f"{label(what, name)} must have the shape {shape} of params, got {array.shape}")
            in_order = array.flags.c_contiguous if order == "C" else array.flags.f_contiguous
            if writeable and not in_order:
                raise ValueError(f"{label(what, name)} must have the memory order of params to be zeroed")
            if not in_order:
                self._check_no_overlap(label(what, name), array)
                array = array.copy(order)
            matching.append(array)
        return matching

    def _check_layout(self, grads: Arrays, what: str) -> None:
        params = self.params
        if not (isinstance(grads, FlatBuffer) and isinstance(params, FlatBuffer)) or grads.has_layout_of(params):
            return
        error = ValueError if grads.dtype == params.dtype else TypeError
        raise error(f"{what} must have the layout of params, {params!r}, got {grads!r}")

    def _check_writeable(self) -> None:
        for array in self.arrays:
            if not array.flags.writeable:
                name = next(name for name, given in zip(self._names, self.arrays, strict=True) if given is array)
                raise ValueError(f"{label('params', name)} must be writeable, got a read-only array")

    def _check_no_overlap(self, name: str, grad: Array) -> None:
        start, stop = byte_bounds(grad)
        if stop <= self._span[0] or start >= self._span[1]:
            return
        if any(np.may_share_memory(grad, param) for param in self.arrays):
            raise ValueError(f"{name} must not share memory with params")


def structure(arrays: Arrays, what: str) -> tuple[tuple[Any, ...], list[Array]]:
    """Return the names of the arrays (keys, indices, or one None for a single array) and the arrays themselves."""
    if isinstance(arrays, FlatBuffer):
        arrays = arrays.flat
    names: tuple[Any, ...] = (None,)
    values: list[Any] = [arrays]
    if isinstance(arrays, np.ndarray):  # the usual case first: the checks below take longer than a small step
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


def _check_parameter(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    if array.dtype not in FLOAT_DTYPES and array.dtype.name not in HALF_DTYPES:
        raise TypeError(f"{name} must be float32 or float64 (or float16 or bfloat16), got {array.dtype}")
    if array.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of the other params, {dtype}, got {array.dtype}")
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    if not array.flags.forc:
        raise ValueError(f"{name} must be contiguous, got strides {array.strides} for shape {array.shape}")


def _check_disjoint(names: tuple[Any, ...], arrays: list[Array]) -> None:
    spans = sorted((a.__array_interface__["data"][0], a.nbytes, k) for k, a in enumerate(arrays) if a.size)
    for (start, size, k), (next_start, _, j) in pairwise(spans):
        if next_start < start + size:
            raise ValueError(f"{label('params', names[j])} must not overlap {label('params', names[k])} in memory")
