"""Arrays on a device: shapes, streams, and what is refused; under Numba's simulator."""

import math

import numpy as np
import pytest

from fastadam.cuda import arrays
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.cuda_arrays import RequiresGrad
from tests.helpers.cuda_steps import (
    on_device,
)
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize("shape", [(), (3, 25), (1, 75)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_shapes_and_orders(shape, order):
    n = math.prod(shape)
    start, gradient = naive.start(n, np.float32).reshape(shape), naive.gradients(n, np.float32)[0].reshape(shape)
    p = on_device(start, order=order)
    SGD(p, lr=0.5).step(on_device(gradient, order=order))
    assert_same_bits(p.host, start - np.float32(0.5) * gradient)


def test_parameters_that_require_gradients():
    p, g = on_device(np.ones(3)), on_device(np.ones(3))
    SGD([RequiresGrad(p)], lr=1.0).step([g])
    assert not p.host.any()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([on_device(np.ones(3)), np.ones(3)], TypeError, r"params\[1\] must lie on a CUDA device.*got numpy.ndarray"),
        ([on_device(np.ones(3)), 4], TypeError, r"params\[1\] must lie on a CUDA device.*got int"),
        ({"a": on_device(np.ones(3)), "b": on_device(np.ones(3), device=1)}, ValueError, r"params\['b'\].*device"),
        (
            on_device(np.ones(3, np.int32)),
            TypeError,
            r"params must be float32 or float64 \(or float16 or bfloat16\), got int32",
        ),
        (
            [on_device(np.ones(3, np.float16)), on_device(np.ones(3, np.float32))],
            TypeError,
            "must have the dtype of the",
        ),
        ([on_device(np.ones(3)), on_device(np.ones(3, np.float32))], TypeError, "must have the dtype of the other"),
        (on_device(np.ones(3), read_only=True), ValueError, "params must be writeable, got a read-only array"),
        (on_device(np.ones(6)).strided(), ValueError, "params must be contiguous"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        Adam(params)


def test_parameters_off_their_own_size():
    p = on_device(np.ones(4))
    p.host = p.memory.view(np.uint8)[4:28].view(np.float64)
    with pytest.raises(ValueError, match="params must begin at a multiple of 8 bytes"):
        Adam(p)


def test_overlapping_parameters():
    p = on_device(np.ones(6))
    q = on_device(np.ones(3))
    q.host = p.host[2:5]
    with pytest.raises(ValueError, match=r"params\[1\] must not overlap params\[0\] in memory"):
        Adam([p, q])


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (np.ones(3), TypeError, "grads must lie on a CUDA device"),
        (on_device(np.ones(3, np.float32)), TypeError, "grads must have the dtype of params, float64, got float32"),
        (on_device(np.ones(4)), ValueError, r"grads must have the shape \(3,\) of params, got \(4,\)"),
        (on_device(np.ones(3), device=1), ValueError, "grads must lie on the device of params, 0, got 1"),
        (on_device(np.ones(6)).strided(), ValueError, "grads must have the memory order of params"),
        ([on_device(np.ones(3))], TypeError, "grads must have the structure of params"),
        (None, TypeError, "grads must lie on a CUDA device"),
    ],
)
def test_bad_gradients_change_nothing(grads, error, message):
    p = on_device(np.ones(3))
    made = Adam(p)
    with pytest.raises(error, match=message):
        made.step(grads)
    assert made.t == 0
    assert (p.host == 1).all()


def test_gradients_that_are_the_parameters_or_cannot_be_zeroed():
    p = on_device(np.ones(3))
    with pytest.raises(ValueError, match="grads must not share memory with params"):
        Adam(p).step(p)
    with pytest.raises(ValueError, match="grads must be writeable to be zeroed"):
        Adam(p, zero_grad=True).step(on_device(np.ones(3), read_only=True))
    with pytest.raises(TypeError, match="step needs at least one argument"):
        Adam(p).step()


@pytest.mark.parametrize("stream", ["main", 1.5, True, object()])
def test_what_is_no_stream(stream):
    made = Adam(on_device(np.ones(3)))
    with pytest.raises(TypeError, match="stream must be a stream of Numba, CuPy or PyTorch, or its handle, got"):
        made.step(on_device(np.ones(3)), stream=stream)
    assert made.t == 0


@pytest.mark.parametrize(
    ("launched_on", "streams", "waited_for"),
    [
        (0, [None, None], []),
        (0, [1, 1], []),
        (1, [0, 1, None], []),
        (70, [70, None, 70], []),
        (70, [1, 70, 90], [1, 90]),
        (0, [90, 1, 90], [90]),
    ],
)
def test_a_launch_waits_for_the_streams_of_all_gradients(monkeypatch, launched_on, streams, waited_for):
    """Of `__cuda_array_interface__`, version 3: None asks for nothing, 1 is the default stream."""
    monkeypatch.setattr(arrays, "SIMULATED", False)
    monkeypatch.setattr(arrays, "_external_stream", lambda handle: handle)
    described = [arrays.described("g", on_device(np.ones(3), stream=stream)) for stream in streams]
    assert arrays.other_streams(launched_on, described) == [0 if handle == 1 else handle for handle in waited_for]
    assert arrays.stream_of(None, described) in {0, *(stream or 0 for stream in streams)}
