"""Arrays for optimizers: ways to hold the same values, and parameters and gradients that are refused."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

from fastadam._memory import aligned_zeros
from fastadam.buffers import FlatBuffer

FLOATS = [np.float32, np.float64]
EVERYTHING = {"weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True, "maximize": True}  # of Adam


def one_array(values):
    array = aligned_zeros(values.size, values.dtype)
    array[:] = values
    return array


def split_into_37(values):
    return [part.copy() for part in np.array_split(values, 37)]


def an_element_off(values):
    array = aligned_zeros(values.size + 1, values.dtype)[1:]
    array[:] = values
    return array


def a_byte_off(values):
    array = np.frombuffer(bytearray(values.nbytes + 1), values.dtype, values.size, offset=1)
    array[:] = values
    assert not array.flags.aligned or not array.size
    return array


def dict_of_shapes(values):
    half = values.size // 2
    return {"W": values[: half // 4 * 4].reshape(-1, 4).copy(), "b": values[half // 4 * 4 :].copy()}


def flat_buffer(values):
    return FlatBuffer.from_arrays(dict_of_shapes(values))


HOLDERS = [one_array, split_into_37, an_element_off, a_byte_off, dict_of_shapes, flat_buffer]
each_holder = pytest.mark.parametrize("hold", HOLDERS, ids=lambda hold: hold.__name__)


def arrays_of(structure):
    if isinstance(structure, np.ndarray):
        return [structure]
    return list(structure.values() if hasattr(structure, "values") else structure)


def flattened(structure):
    """The values in memory order."""
    return np.concatenate([array.ravel("K") for array in arrays_of(structure)])


def snapshot(optimizer):
    """Bytes that a failed call must leave as they were."""
    return flattened(optimizer.params).tobytes(), pickle.dumps(optimizer.state_dict())


def error_of(call):
    """The TypeError or ValueError that `call` raises, if any."""
    try:
        call()
    except (TypeError, ValueError) as error:
        return error
    return None


def train(optimizer, cycle, steps):
    """Take steps through a cycle of gradients, from where the optimizer stands."""
    for _ in range(steps):
        optimizer.step(cycle[optimizer.t % len(cycle)])


def pickled(value):
    return pickle.loads(pickle.dumps(value))


NOT_NUMBERS = [True, np.True_, "0.1", b"0.1", None, 0.1j, [0.1], np.array(0.1), np.array([0.1]), object()]
OUT_OF_RANGE = [
    -1e-9,
    -1,
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
    np.float64("inf"),
    10**400,
    Fraction(-1, 3),
]


def read_only(array):
    array.flags.writeable = False
    return array


X, MEMORY = np.zeros(20), bytearray(24)
BAD_PARAMS = {
    "integers": (np.zeros(3, int), TypeError),
    "bools": (np.zeros(3, bool), TypeError),
    "complex": (np.zeros(3, complex), TypeError),
    "objects": (np.zeros(3, object), TypeError),
    "longdouble": (np.zeros(3, np.longdouble), TypeError),
    "records": (np.zeros(3, "f8,f8"), TypeError),
    "byte order": (np.zeros(3, np.dtype(float).newbyteorder()), TypeError),
    "two dtypes": ([np.zeros(3), np.zeros(3, np.float32)], TypeError),
    "None": (None, TypeError),
    "a number": (1.0, TypeError),
    "a list of numbers": ([1.0, 2.0], TypeError),
    "text": ("params", TypeError),
    "a list of text": (["a"], TypeError),
    "a nested list": ([[np.zeros(3)]], TypeError),
    "a generator": ((x for x in [np.zeros(3)]), TypeError),
    "values of a dict": ({"a": np.zeros(3)}.values(), TypeError),
    "a set": ({1.0}, TypeError),
    "read-only": (read_only(np.zeros(3)), ValueError),
    "read-only among others": ([np.zeros(3), read_only(np.zeros(3))], ValueError),
    "broadcast": (np.broadcast_to(np.zeros(1), 3), ValueError),
    "every other": (X[::2], ValueError),
    "reversed": (X[::-1], ValueError),
    "a column": (np.zeros((4, 4))[:, 1], ValueError),
    "part of the columns": (np.zeros((4, 4))[:, :2], ValueError),
    "permuted axes": (np.zeros((2, 3, 4)).transpose(1, 0, 2), ValueError),
    "one array twice": ([X, X], ValueError),
    "an array and its view": ({"a": X, "b": X.reshape(4, 5)}, ValueError),
    "overlapping slices": ([X[:11], np.zeros(2), X[10:]], ValueError),
    "a slice within another": ([X[5:8], X], ValueError),
    "overlapping bytes": ([np.frombuffer(MEMORY), np.frombuffer(MEMORY, offset=4, count=2)], ValueError),
}


def a_dict(dtype=np.float64):
    return {"W": np.ones((2, 3), dtype), "b": np.ones(3, dtype)}


BAD_GRADS = {
    "None": (a_dict, None, TypeError),
    "a number": (a_dict, 1.0, TypeError),
    "one array for a dict": (a_dict, np.ones(9), TypeError),
    "a list for a dict": (a_dict, [np.ones((2, 3)), np.ones(3)], TypeError),
    "a FlatBuffer for a dict": (a_dict, FlatBuffer({"W": (2, 3), "b": 3}, float), TypeError),
    "a missing key": (a_dict, {"W": np.ones((2, 3))}, ValueError),
    "one more key": (a_dict, a_dict() | {"c": np.ones(1)}, ValueError),
    "another key": (a_dict, {"W": np.ones((2, 3)), "c": np.ones(3)}, ValueError),
    "another dtype": (a_dict, a_dict(np.float32), TypeError),
    "integers": (a_dict, a_dict(int), TypeError),
    "another byte order": (a_dict, a_dict(np.dtype(float).newbyteorder()), TypeError),
    "lists within": (a_dict, {"W": np.ones((2, 3)), "b": [1.0, 1.0, 1.0]}, TypeError),
    "another shape": (a_dict, {"W": np.ones((3, 2)), "b": np.ones(3)}, ValueError),
    "another dimension": (a_dict, {"W": np.ones((2, 3)), "b": np.ones((3, 1))}, ValueError),
    "a broadcast shape": (a_dict, {"W": np.ones(3), "b": np.ones(3)}, ValueError),
    "a shorter list": (lambda: [np.ones(2), np.ones(3)], [np.ones(2)], ValueError),
    "an empty list": (lambda: [np.ones(2), np.ones(3)], [], ValueError),
    "one array for a list": (lambda: [np.ones(2)], np.ones(2), TypeError),
    "a list for one array": (lambda: np.ones(2), [np.ones(2)], TypeError),
    "a longer array": (lambda: np.ones(2), np.ones(3), ValueError),
    "a 0-d array": (lambda: np.ones(1), np.array(1.0), ValueError),
    "float16": (lambda: np.ones(2), np.ones(2, np.float16), TypeError),
    "objects": (lambda: np.ones(2), np.ones(2, object), TypeError),
    "another layout": (lambda: FlatBuffer({"W": 2, "b": 3}), FlatBuffer({"W": 3, "b": 2}), ValueError),
    "other names": (lambda: FlatBuffer({"W": 2, "b": 3}), FlatBuffer({"V": 2, "b": 3}), ValueError),
    "a FlatBuffer of float64": (lambda: FlatBuffer({"W": 2}), FlatBuffer({"W": 2}, float), TypeError),
    "a dict for a FlatBuffer": (lambda: FlatBuffer({"W": 2}), {"W": np.ones(2, np.float32)}, TypeError),
}
