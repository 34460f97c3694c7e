"""Arrays of parameters and gradients on the host: which are taken, which are refused, and where they lie."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.buffers import FlatBuffer
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.arrays import (
    BAD_GRADS,
    BAD_PARAMS,
    EVERYTHING,
    a_dict,
    arrays_of,
    error_of,
    flat_buffer,
    flattened,
    one_array,
    snapshot,
    train,
)
from tests.helpers.effort import examples
from tests.helpers.naive import assert_same_bits


def assert_equals_reference(optimizer, reference):
    state = optimizer.state_dict()
    assert state["t"] == optimizer.t == reference.t
    assert_same_bits(flattened(optimizer.params), reference.p)
    assert_same_bits(state["m"], reference.m)
    assert_same_bits(state["v"], reference.v)
    if "v_max" in state:
        assert_same_bits(state["v_max"], reference.v_max)


@pytest.mark.thin(5)
@pytest.mark.parametrize("shape", [(12, 5), (3, 4, 5), (1000, 333)])
@pytest.mark.parametrize("orders", ["FC", "FF", "CF", "F-strided"])
def test_memory_orders_of_parameters_and_gradients_may_differ(shape, orders):
    start = naive.start(math.prod(shape), np.float32).reshape(shape)
    p = np.array(start, order=orders[0])
    g = naive.gradients(start.size, np.float32)[0].reshape(shape)
    given = np.repeat(g, 2, axis=-1)[..., ::-2][..., ::-1] if orders == "F-strided" else np.array(g, order=orders[1])
    reference, optimizer = naive.Adam(start), Adam(p)
    for _ in range(3):
        optimizer.step(given)
        reference.step(g)
    assert_same_bits(p, reference.p)


@pytest.mark.parametrize(
    "spread",
    [
        lambda g: np.repeat(g, 3)[::3],
        lambda g: g[::-1].copy()[::-1],
        lambda g: np.stack([g, g], 1)[:, 0],
        lambda g: np.broadcast_to(g[:1], g.shape),
    ],
    ids=["every third", "reversed", "column", "broadcast"],
)
def test_gradients_that_are_not_contiguous_are_read_rightly(spread):
    g = spread(naive.gradients(50, np.float32)[0])
    assert not g.flags.c_contiguous
    reference, optimizer = naive.Adam(naive.start(50, np.float32)), Adam(one_array(naive.start(50, np.float32)))
    optimizer.step(g)
    reference.step(g)
    assert_equals_reference(optimizer, reference)


@pytest.mark.parametrize("sizes", [(1, 15, 16), (4096, 4097, 3), (PARALLEL_BYTES // 4, 5, 70_000)])
@pytest.mark.parametrize("gap", [1, 3, 16])
def test_a_step_writes_nothing_outside_its_arrays(sizes, gap):
    whole = np.full(sum(sizes) + gap * (len(sizes) + 1), 123.5, np.float32)
    inside, stop, params = np.zeros(whole.size, bool), 0, []
    for size in sizes:
        start, stop = stop + gap, stop + gap + size
        params.append(whole[start:stop])
        inside[start:stop] = True
    grads = whole.copy()
    optimizer = Adam(params, **EVERYTHING)
    for _ in range(2):
        optimizer.step([grads[p.ctypes.data // 4 - whole.ctypes.data // 4 :][: p.size] for p in params])
    assert (whole[inside] != 123.5).all()
    assert (whole[~inside] == 123.5).all()
    assert (grads == 123.5).all()


def test_gradients_are_read_only_to_a_step():
    g = naive.gradients(100, np.float32)[0]
    assert not g.flags.writeable
    before = g.copy()
    Adam(np.ones(100, np.float32)).step(g)
    assert_same_bits(g, before)


@pytest.mark.parametrize(("params", "error"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_bad_parameters_are_refused_by_name(params, error):
    with pytest.raises(error, match="params"):
        Adam(params)


UNUSUAL_PARAMS = {
    "an empty array": np.ones(0),
    "0-d": np.array(1.0),
    "3-D": np.ones((3, 1, 2)),
    "a row transposed": np.ones((1, 5)).T,
    "no list": [],
    "no tuple": (),
    "no dict": {},
    "halves, swapped": (lambda x: [x[10:], x[:0], x[:10]])(np.ones(20)),
    "the same empty array twice": [np.ones(0)] * 2,
    "keys that are numbers": {1: np.ones(2), (2, 3): np.ones(1)},
}


@pytest.mark.parametrize("params", UNUSUAL_PARAMS.values(), ids=UNUSUAL_PARAMS)
def test_unusual_parameters_are_taken(params):
    optimizer = Adam(params)
    optimizer.step(copy.deepcopy(params))
    assert optimizer.t == 1
    for array in arrays_of(params):
        np.testing.assert_allclose(array, 0.999)


@pytest.mark.parametrize(("params", "grads", "error"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_bad_gradients_are_refused_by_name_and_change_nothing(params, grads, error):
    optimizer = Adam(params())
    before = snapshot(optimizer)
    with pytest.raises(error, match="grads"):
        optimizer.step(grads)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("params", "grads"),
    [
        (slice(0, 5), slice(0, 5)),
        (slice(0, 5), slice(4, 9)),
        (slice(5, 10), slice(1, 6)),
        ([slice(0, 5), slice(10, 15)], [slice(5, 10), slice(14, 19)]),
        ([slice(0, 5), slice(10, 15)], [slice(10, 15), slice(0, 5)]),
    ],
)
def test_gradients_in_the_memory_of_the_parameters_are_refused(params, grads):
    whole = np.ones(20)
    params, grads = ([whole[s] for s in part] if isinstance(part, list) else whole[part] for part in (params, grads))
    optimizer = Adam(params)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"grads.* share memory"):
        optimizer.step(grads)
    assert snapshot(optimizer) == before
    assert (whole == 1).all()


def test_gradients_between_the_parameters_of_one_array_are_taken():
    whole = np.ones(20)
    Adam([whole[0:5], whole[10:15]]).step([whole[5:10], whole[15:20]])
    np.testing.assert_allclose(whole, [*[0.999] * 5, *[1] * 5] * 2)


def test_parameters_that_became_read_only_are_refused_and_unchanged():
    p = np.ones(3)
    optimizer = Adam({"W": p})
    p.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['W'\] must be writeable"):
        optimizer.step({"W": np.ones(3)})
    assert optimizer.t == 0
    assert (p == 1).all()


def test_a_flat_array_of_gradients_serves_a_flat_buffer():
    buffer = flat_buffer(naive.start(50, np.float32))
    optimizer = Adam(buffer)
    train(optimizer, naive.gradients(50, np.float32), 3)
    assert_equals_reference(optimizer, naive.trained(50, np.float32, 3))


def test_the_parameters_stay_the_objects_that_were_given():
    params = a_dict()
    views = dict(params)
    optimizer = Adam(params)
    optimizer.step(a_dict())
    assert optimizer.params is params
    assert all(params[name] is views[name] for name in views)


@given(
    params=st.sampled_from(["array", "list", "dict", "buffer"]),
    grads=st.sampled_from(["array", "list", "dict", "buffer"]),
    dtypes=st.tuples(*[st.sampled_from(["f4", "f8", ">f4", "i4", "f2"])] * 2),
    shapes=st.tuples(*[st.sampled_from([(2,), (3,), (3, 1), (1, 3), ()])] * 2),
)
@examples(150)
def test_a_step_is_taken_or_refused_as_a_whole(params, grads, dtypes, shapes):
    def build(kind, dtype, shape):
        array = np.ones(shape, dtype)
        if kind == "buffer":
            return FlatBuffer.from_arrays({"a": array}, "f8" if dtype == "f8" else "f4")
        return {"array": array, "list": [array], "dict": {"a": array}}[kind]

    p, g = build(params, dtypes[0], shapes[0]), build(grads, dtypes[1], shapes[1])
    if error := error_of(lambda: Adam(p)):
        assert "params" in str(error)
        return
    optimizer = Adam(p)
    before = snapshot(optimizer)
    if error := error_of(lambda: optimizer.step(g)):
        assert "grads" in str(error)
        assert snapshot(optimizer) == before
    else:
        assert (params, dtypes[0], shapes[0]) == (grads, dtypes[1], shapes[1]) or "buffer" in (params, grads)
        assert optimizer.t == 1
        np.testing.assert_allclose(flattened(p), 0.999, rtol=1e-3 if dtypes[0] == "f2" else 1e-6)


def test_the_address_of_a_gradient_is_that_of_the_array_given():
    """Of one array it is remembered between steps, which must not outlive the array or its memory."""
    optimizer = SGD(p := np.zeros(3), 1.0)
    g = np.ones(3)
    optimizer.step(g)
    with pytest.raises(ValueError, match="resize"):
        g.resize(1000)
    g[:] = 2.0
    optimizer.step(g)
    for k in range(50):
        del g
        g = np.full(3, float(k))
        optimizer.step(g)
    optimizer.step(np.full(3, 4.0))
    assert (p == -(1 + 2 + sum(range(50)) + 4)).all()
    g.shape = (1, 3)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(g)
