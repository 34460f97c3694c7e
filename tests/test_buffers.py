import copy
import gc
import math
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam._memory import ALIGNMENT, aligned_zeros, writeable_view
from fastadam.buffers import FlatBuffer

SHAPES = {"W0": (2, 3), "b0": (3,), "empty": (0, 4), "scale": (), "W1": (3, 1)}
COPIES = {
    "copy": lambda buffer: buffer.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    **{f"pickle{k}": lambda buffer, k=k: pickle.loads(pickle.dumps(buffer, k)) for k in range(6)},
}
shape_dicts = st.dictionaries(st.text(max_size=3), st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=6)
float_dtypes = st.sampled_from([np.float32, np.float64])


def filled(shapes=SHAPES, dtype=np.float32):
    buffer = FlatBuffer.zeros(shapes, dtype)
    buffer.flat[:] = np.arange(1, buffer.flat.size + 1)
    return buffer


def assert_views_of_flat(buffer):
    """Every view lies in `flat` where its offset says, in order and without gaps."""
    expected_offset = 0
    for name, view in buffer.items():
        assert view.shape == buffer.shapes[name]
        assert buffer.offsets[name] == expected_offset
        assert view.flags.c_contiguous
        assert view.flags.writeable
        if view.size:
            assert view.ctypes.data == buffer.flat.ctypes.data + expected_offset * buffer.dtype.itemsize
            assert np.shares_memory(view, buffer.flat)
        expected_offset += view.size
    assert buffer.flat.shape == (expected_offset,)
    assert not expected_offset or buffer.flat.ctypes.data % ALIGNMENT == 0


@given(st.integers(0, 1000), float_dtypes)
def test_aligned_zeros_are_aligned_and_zero(size, dtype):
    array = aligned_zeros(size, dtype)
    assert size == 0 or array.ctypes.data % 64 == 0
    assert array.shape == (size,)
    assert array.dtype == dtype
    assert array.flags.carray
    assert not array.any()


@given(shape_dicts, float_dtypes)
def test_views_lie_in_order_without_gaps_for_any_shapes(shapes, dtype):
    buffer = FlatBuffer(shapes, dtype)
    assert buffer.dtype == dtype
    assert list(buffer) == list(shapes)
    assert buffer.shapes == shapes
    assert_views_of_flat(buffer)


@given(shape_dicts, float_dtypes, st.sampled_from(sorted(COPIES)))
def test_every_kind_of_copy_is_equal_and_independent(shapes, dtype, kind):
    buffer = filled(shapes, dtype)
    other = COPIES[kind](buffer)
    assert other == buffer
    assert other.dtype == dtype
    assert_views_of_flat(other)
    assert not np.shares_memory(other.flat, buffer.flat)
    for view in other.values():
        view[...] = -1
    assert (other.flat == -1).all()
    assert (buffer.flat > 0).all()


@given(shape_dicts, float_dtypes)
def test_from_arrays_copies_values_and_dtype(shapes, dtype):
    arrays = {name: np.full(shape, k, dtype) for k, (name, shape) in enumerate(shapes.items())}
    buffer = FlatBuffer.from_arrays(arrays)
    assert_views_of_flat(buffer)
    assert buffer.dtype == (dtype if arrays else np.float32)
    for name, array in arrays.items():
        np.testing.assert_array_equal(buffer[name], array)
        assert not np.shares_memory(buffer[name], array)


def test_zeros_is_the_constructor_and_float32_the_default():
    assert FlatBuffer.zeros(SHAPES) == FlatBuffer(SHAPES)
    assert FlatBuffer(SHAPES).dtype == np.float32
    assert not FlatBuffer(SHAPES).flat.any()


def test_an_integer_is_the_shape_of_a_flat_array():
    assert FlatBuffer({"b": 3, "c": np.int64(2)}).shapes == {"b": (3,), "c": (2,)}


def test_from_arrays_takes_the_wider_dtype_and_any_memory_order():
    w, b = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), np.arange(6.0)[::-2]
    buffer = FlatBuffer.from_arrays({"W": w, "b": b, "c": 1.5})
    assert buffer.dtype == np.float64
    np.testing.assert_array_equal(buffer.flat, [0, 1, 2, 3, 4, 5, 5, 3, 1, 1.5])
    assert FlatBuffer.from_arrays({"W": w, "b": b}, dtype="float32").dtype == np.float32
    assert FlatBuffer.from_arrays(buffer) == buffer


def test_from_arrays_casts_integers_only_when_asked():
    with pytest.raises(TypeError, match="float32 or float64, got int64"):
        FlatBuffer.from_arrays({"a": np.arange(3)})
    np.testing.assert_array_equal(FlatBuffer.from_arrays({"a": np.arange(3)}, np.float32)["a"], [0, 1, 2])


def test_like_has_the_layout_but_not_the_values():
    buffer = filled()
    other = buffer.like()
    assert other.has_layout_of(buffer)
    assert not other.flat.any()
    assert buffer.like(np.float64).dtype == np.float64
    assert not buffer.like(np.float64).has_layout_of(buffer)
    assert_views_of_flat(other)


def test_setting_an_entry_writes_into_the_view():
    buffer = filled()
    view = buffer["b0"]
    buffer["b0"] = 7
    np.testing.assert_array_equal(view, [7, 7, 7])
    buffer["W0"] = [[1, 2, 3]]
    np.testing.assert_array_equal(buffer["W0"], [[1, 2, 3], [1, 2, 3]])
    buffer["scale"] = 5
    assert buffer["scale"] == 5
    buffer["b0"] += 1
    assert buffer["b0"] is view
    np.testing.assert_array_equal(buffer.flat[6:9], [8, 8, 8])
    assert_views_of_flat(buffer)


def test_it_is_a_mapping_without_deletion():
    buffer = filled()
    assert len(buffer) == 5
    assert "b0" in buffer
    assert "b9" not in buffer
    assert list(buffer.keys()) == list(SHAPES)
    assert [view.shape for view in buffer.values()] == list(SHAPES.values())
    assert dict(buffer)["W0"] is buffer["W0"]
    assert buffer.get("b9") is None
    assert not hasattr(buffer, "pop")


@pytest.mark.parametrize("access", [lambda b: b["b9"], lambda b: b.__setitem__("b9", 1)], ids=["get", "set"])
def test_an_unknown_name_is_a_key_error_that_names_it(access):
    with pytest.raises(KeyError, match="b9"):
        access(filled())


def test_a_value_that_does_not_fit_changes_nothing():
    buffer = filled()
    before = buffer.copy()
    for value in ([1.0, 2.0], np.zeros((2, 2)), "text"):
        with pytest.raises(ValueError, match=r"broadcast|convert"):
            buffer["b0"] = value
    assert buffer == before


def test_equality_compares_names_order_shapes_dtype_and_values():
    buffer = filled()
    assert buffer == filled()
    assert buffer != FlatBuffer(SHAPES)
    assert buffer != filled(dtype=np.float64)
    assert buffer != filled({name: SHAPES[name] for name in reversed(SHAPES)})
    assert buffer != filled({**SHAPES, "W0": (3, 2)})
    assert buffer != dict(buffer).keys()
    with pytest.raises(TypeError, match="unhashable"):
        hash(buffer)


def test_a_pickled_pair_shares_one_buffer_again():
    buffer = filled()
    first, second = pickle.loads(pickle.dumps((buffer, buffer)))
    assert first is second


def test_repr_tells_shapes_dtype_and_size():
    assert repr(FlatBuffer({"b": (3,)})) == "FlatBuffer({'b': (3,)}, dtype=float32, size=3)"


@pytest.mark.parametrize("dtype", [int, bool, complex, object, np.float16, np.longdouble, ">f4", "text"])
def test_a_dtype_other_than_float32_and_float64_is_a_type_error(dtype):
    with pytest.raises(TypeError):
        FlatBuffer(SHAPES, dtype)
    with pytest.raises(TypeError):
        filled().like(dtype)


@pytest.mark.parametrize("shape", [-1, (-1,), (2, -3), (0, -1), np.array([2, -1])])
def test_a_negative_dimension_is_a_value_error_that_names_the_tensor(shape):
    with pytest.raises(ValueError, match=r"shapes\['W'\]"):
        FlatBuffer({"W": shape})


@pytest.mark.parametrize("shape", [None, 2.0, (2.5,), "34", ("3",), ((1, 2),), {"n": 1}], ids=repr)
def test_a_shape_that_is_not_integers_is_a_type_error_that_names_the_tensor(shape):
    with pytest.raises(TypeError, match=r"shapes\['W'\]"):
        FlatBuffer({"W": shape})


@pytest.mark.parametrize("value", [None, [(2, 3)], "W", (2, 3)])
def test_what_is_not_a_mapping_is_a_type_error(value):
    with pytest.raises(TypeError, match="shapes must be a mapping"):
        FlatBuffer(value)
    with pytest.raises(TypeError, match="arrays must be a mapping"):
        FlatBuffer.from_arrays(value)


def test_the_sizes_add_up():
    assert filled().flat.size == sum(math.prod(shape) for shape in SHAPES.values())


@pytest.mark.parametrize("shape", [(3, 4), (), (0, 2)])
def test_a_writeable_view_is_the_memory_of_a_read_only_array_without_its_flag(shape):
    array = np.ones(shape)
    assert writeable_view(array) is array
    array.flags.writeable = False
    view = writeable_view(array)
    assert view.flags.carray
    assert view.size == 0 or view.ctypes.data == array.ctypes.data
    np.testing.assert_array_equal(view, array, strict=True)


def test_a_part_of_a_writeable_view_keeps_the_memory_alive():
    array = np.ones(10)
    array.flags.writeable = False
    alive = weakref.ref(array)
    part = writeable_view(array)[5:]
    del array
    gc.collect()
    assert alive() is not None
    del part
    gc.collect()
    assert alive() is None
