"""FlatBuffer: one contiguous, 64-byte-aligned array with named views into it."""

import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastadam._memory import aligned_zeros

FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class FlatBuffer(Mapping[str, NDArray[Any]]):
    """One aligned flat array, with a named view of it for each tensor.

    A mapping from names to arrays. Every array is a view of `flat`, also after the buffer was copied or pickled. Create
    a buffer with `FlatBuffer.zeros` or `FlatBuffer.from_arrays`.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of each tensor, in the order of their memory, which has no gaps.
    dtype : {float32, float64}, default=float32
        Data type of all elements.

    Attributes
    ----------
    flat : ndarray of shape (size,)
        The array that holds all elements.
    shapes : dict of str to tuple of int
        Shape of each view.
    offsets : dict of str to int
        Index in `flat` of the first element of each view.

    Raises
    ------
    TypeError
        If `dtype` is neither float32 nor float64, or a dimension is not an integer.
    ValueError
        If a dimension is negative.

    Examples
    --------
    >>> from fastadam import FlatBuffer
    >>> buffer = FlatBuffer.zeros({"W0": (2, 3), "b0": (3,)})
    >>> buffer["b0"] = 1.0
    >>> buffer.flat
    array([0., 0., 0., 0., 0., 0., 1., 1., 1.], dtype=float32)
    """

    __module__ = "fastadam"

    __slots__ = ("_views", "flat", "offsets", "shapes")

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = np.float32) -> None:
        dtype = float_dtype(dtype)
        if not isinstance(shapes, Mapping):
            raise TypeError(f"shapes must be a mapping of names to shapes, got {type(shapes).__name__}")
        self.shapes = {name: _shape(name, shape) for name, shape in shapes.items()}
        self.offsets: dict[str, int] = {}
        size = 0
        for name, shape in self.shapes.items():
            self.offsets[name] = size
            size += math.prod(shape)
        self.flat = aligned_zeros(size, dtype)
        self._views = {
            name: self.flat[start : start + math.prod(self.shapes[name])].reshape(self.shapes[name])
            for name, start in self.offsets.items()
        }

    @classmethod
    def zeros(cls, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = np.float32) -> Self:
        """Create a buffer of zeros; the same as the constructor.

        Parameters
        ----------
        shapes : mapping of str to tuple of int
            Shape of each tensor.
        dtype : {float32, float64}, default=float32
            Data type of all elements.

        Returns
        -------
        FlatBuffer
            The buffer.

        Examples
        --------
        >>> from fastadam import FlatBuffer
        >>> FlatBuffer.zeros({"b0": (3,)}).flat
        array([0., 0., 0.], dtype=float32)
        """
        return cls(shapes, dtype)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike], dtype: DTypeLike | None = None) -> Self:
        """Create a buffer with copies of arrays.

        Parameters
        ----------
        arrays : mapping of str to array_like
            The values of each tensor.
        dtype : {float32, float64}, optional
            Data type of all elements; by default the type of the arrays, or the wider one if they differ.

        Returns
        -------
        FlatBuffer
            The buffer.

        Raises
        ------
        TypeError
            If `dtype`, or the common type of the arrays, is neither float32 nor float64.

        Examples
        --------
        >>> from fastadam import FlatBuffer
        >>> FlatBuffer.from_arrays({"W0": [[1.0, 2.0]], "b0": [3.0]}).flat
        array([1., 2., 3.])
        """
        if not isinstance(arrays, Mapping):
            raise TypeError(f"arrays must be a mapping of names to arrays, got {type(arrays).__name__}")
        given = {name: np.asarray(array) for name, array in arrays.items()}
        if dtype is None:
            dtype = np.result_type(*given.values()) if given else np.dtype(np.float32)
        buffer = cls({name: array.shape for name, array in given.items()}, dtype)
        for name, array in given.items():
            buffer[name] = array
        return buffer

    def like(self, dtype: DTypeLike | None = None) -> Self:
        """Create a buffer of zeros with the same layout, for gradients or for the state of an optimizer.

        Parameters
        ----------
        dtype : {float32, float64}, optional
            Data type of all elements; by default that of this buffer.

        Returns
        -------
        FlatBuffer
            The new buffer.
        """
        return type(self)(self.shapes, self.flat.dtype if dtype is None else dtype)

    def copy(self) -> Self:
        """Create an independent buffer with the same layout and values."""
        new = self.like()
        new.flat[:] = self.flat
        return new

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of all elements."""
        return self.flat.dtype

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._views[name]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        """Write `value` into the view: `buffer["b0"] = 0` fills the view and does not replace it."""
        if name not in self._views:
            raise KeyError(f"{name!r} is not in this FlatBuffer, which holds {list(self._views)}")
        self._views[name][...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlatBuffer):
            return NotImplemented
        return self.has_layout_of(other) and np.array_equal(self.flat, other.flat)

    __hash__ = None  # type: ignore[assignment]

    def has_layout_of(self, other: "FlatBuffer") -> bool:
        """Return whether both buffers have the same names and shapes, in the same order, and the same dtype."""
        return self.dtype == other.dtype and list(self.shapes.items()) == list(other.shapes.items())

    def __repr__(self) -> str:
        return f"FlatBuffer({self.shapes}, dtype={self.dtype}, size={self.flat.size})"

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "flat": self.flat}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FlatBuffer.__init__(self, state["shapes"], state["flat"].dtype)
        self.flat[:] = state["flat"]


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Convert to a NumPy dtype, which must be float32 or float64."""
    dtype = np.dtype(dtype)
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return dtype


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    try:
        dimensions = tuple(operator.index(n) for n in ((shape,) if np.ndim(shape) == 0 else shape))
    except TypeError:
        raise TypeError(f"shapes[{name!r}] must be a tuple of integers, got {shape!r}") from None
    if min(dimensions, default=0) < 0:
        raise ValueError(f"shapes[{name!r}] must have no negative dimension, got {shape}")
    return dimensions
