import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam import kernels
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.formulas.rules import nadam_momentum
from fastadam.kernels import adam_step, adam_step_parallel, adam_step_serial
from fastadam.optimizers.adam import Adam, Adamax, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.effort import examples
from tests.helpers.naive import assert_same_bits

FLOATS = [np.float32, np.float64]
KERNELS = [adam_step, adam_step_parallel, adam_step_serial]
HYPER = (0.01, 0.9, 0.999, 1e-8)
each_kernel = pytest.mark.parametrize("step", KERNELS, ids=lambda step: step.__name__)


@numba.njit
def minimise(p, g, m, v, target, steps):
    for t in range(1, steps + 1):
        for i in range(p.size):
            g[i] = p[i] - target[i]
        adam_step(p, g, m, v, t, 0.01, 0.9, 0.999, 1e-8)


@numba.njit(parallel=True, fastmath=True)
def train_each_row(p, g, m, v, steps):
    for k in numba.prange(p.shape[0]):
        for t in range(1, steps + 1):
            adam_step_serial(p[k], g[k], m[k], v[k], t, 0.01, 0.9, 0.999, 1e-8)


def arguments(n, dtype=np.float64):
    """Parameters, gradient and moments for one step."""
    p, g = naive.start(n, dtype), naive.gradients(n, dtype)[0].copy()
    return [p, g, np.zeros_like(p), np.zeros_like(p)]


@pytest.mark.thin(4)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("large", [False, True], ids=["serial", "parallel"])
@pytest.mark.skipif(JIT_DISABLED, reason="a thousand steps of every element")
def test_a_compiled_loop_of_a_thousand_steps_gives_the_bits_of_the_optimizer(dtype, large, threads):
    n = PARALLEL_BYTES // np.dtype(dtype).itemsize + 5 if large else 1003
    start, target = naive.start(n, dtype), np.zeros(n, dtype)
    p, g, m, v = (start.copy(), *np.zeros((3, n), dtype))
    minimise(p, g, m, v, target, 1000)
    q = start.copy()
    optimizer = Adam(q, lr=0.01)
    for _ in range(1000):
        optimizer.step(q - target)
    assert_same_bits(p, q)
    assert_same_bits(m, optimizer.state_dict()["m"])
    assert_same_bits(v, optimizer.state_dict()["v"])


@pytest.mark.thin(4)
@each_kernel
@pytest.mark.parametrize("dtype", FLOATS)
def test_from_python_each_kernel_gives_the_naive_bits(step, dtype, threads):
    for n in (0, 1, 9001):
        p, g, m, v = arguments(n, dtype)
        reference = naive.Adam(p, *HYPER[:1])
        for t in (1, 2, 3):
            reference.step(g)
            assert step(p, g, m, v, t, *HYPER) is None
        for actual, expected in ((p, reference.p), (m, reference.m), (v, reference.v)):
            assert_same_bits(actual, expected)
        assert_same_bits(g, arguments(n, dtype)[1])


def test_the_serial_kernel_works_inside_a_prange_with_other_flags():
    p, g, m, v = (np.tile(array, (6, 1)) for array in arguments(50, np.float32))
    g *= np.arange(6, dtype=np.float32)[:, None]
    references = [naive.Adam(row, *HYPER[:1]) for row in p]
    train_each_row(p, g, m, v, 4)
    for row, gradient, reference in zip(p, g, references, strict=True):
        for _ in range(4):
            reference.step(gradient)
        assert_same_bits(row, reference.p)


@pytest.mark.parametrize("step", [slice(None, None, 2), slice(None, None, -1)], ids=["every other", "reversed"])
def test_strided_arrays_are_updated_in_place_and_nothing_between_them(step):
    whole = arguments(10_001)
    before = [array.copy() for array in whole]
    p, g, m, v = (array[step] for array in whole)
    reference = naive.Adam(p, *HYPER[:1])
    reference.step(g)
    adam_step_parallel(p, g, m, v, 1, *HYPER)
    assert_same_bits(p, reference.p)
    assert_same_bits(v, reference.v)
    between = np.ones(10_001, bool)
    between[step] = False
    for array, old in zip(whole, before, strict=True):
        assert_same_bits(array[between], old[between])


@each_kernel
@pytest.mark.parametrize("name", "gmv")
def test_another_size_is_a_value_error_and_changes_nothing(step, name):
    args = arguments(5)
    args["pgmv".index(name)] = np.zeros(4)
    before = [array.copy() for array in args]
    with pytest.raises(ValueError, match="same size"):
        step(*args, 1, *HYPER)
    for array, old in zip(args, before, strict=True):
        assert_same_bits(array, old)


@each_kernel
@pytest.mark.parametrize("t", [0, -1])
def test_steps_count_from_one(step, t):
    p, g, m, v = arguments(5)
    with pytest.raises(ValueError, match="t must be at least 1"):
        step(p, g, m, v, t, *HYPER)
    assert_same_bits(p, naive.start(5, np.float64))


@pytest.mark.parametrize(
    ("name", "array"),
    [("p", np.zeros(5, np.int64)), ("g", np.zeros(5, np.float32)), ("g", np.zeros((5, 1))), ("v", np.zeros(5, "c16"))],
    ids=["integers", "float32", "2-D", "complex"],
)
def test_arrays_of_another_type_are_refused_before_anything_changes(name, array):
    args = arguments(5)
    args["pgmv".index(name)] = array
    before = [array.copy() for array in args]
    with pytest.raises((TypeError, ValueError), match=f"^{name} must .*$"):
        adam_step_serial(*args, 1, *HYPER)
    for array, old in zip(args, before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize(("name", "dtype"), [("p", np.int64), ("g", np.float32)])
def test_the_error_names_the_array_of_another_type(name, dtype):
    args = arguments(5)
    args["pgmv".index(name)] = np.zeros(5, dtype)
    with pytest.raises(TypeError, match=f"{name} must"):
        adam_step_serial(*args, 1, *HYPER)


def test_a_read_only_parameter_is_refused_and_a_read_only_gradient_read():
    p, g, m, v = arguments(5)
    g.flags.writeable = False
    adam_step_serial(p, g, m, v, 1, *HYPER)
    reference = naive.Adam(naive.start(5, np.float64), *HYPER[:1])
    reference.step(g)
    assert_same_bits(p, reference.p)
    p.flags.writeable = False
    with pytest.raises(ValueError, match="p must be writable, got a read-only array"):
        adam_step_serial(p, g, m, v, 2, *HYPER)


@examples(30)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    order=st.sampled_from("CF"),
    dtype=st.sampled_from(FLOATS),
)
def test_arrays_of_any_shape_are_updated_as_flat_ones(shape, order, dtype):
    n = int(np.prod(shape))
    flat = arguments(n, dtype)
    shaped = [array.reshape(shape, order=order).copy(order=order) for array in flat]
    for t in (1, 2):
        for args in (flat, shaped):
            adam_step_serial(*args, t, *HYPER)
    for one, other in zip(flat, shaped, strict=True):
        assert_same_bits(other.reshape(n, order=order), one)


BAD_ARRAYS = {
    "shape": (np.ones((4, 3)), ValueError, "must have the same size and shape as p"),
    "order": (np.ones((3, 4), order="F"), ValueError, "must have the memory order of p, C, got F"),
    "dimensions": (np.ones(12), ValueError, "must have the shape of p, of 2 dimensions, got 1"),
    "gaps": (np.ones((3, 8))[:, ::2], ValueError, "must be contiguous, as it has 2 dimensions, got strides with gaps"),
    "dtype": (np.ones((3, 4), np.float32), TypeError, "must have the dtype of p, float64, got float32"),
    "integers": (np.ones((3, 4), int), TypeError, "must be a float32 or float64 array, got one of int64"),
    "number": (1.0, TypeError, "must be a float32 or float64 array, got float"),
    "None": (None, TypeError, "must be a float32 or float64 array, got [nN]one"),
}


@numba.njit
def in_compiled_code(p, g, m, v):
    adam_step_serial(p, g, m, v, 1, 0.01, 0.9, 0.999, 1e-8)


@pytest.mark.thin(8)
@pytest.mark.parametrize("name", "gmv")
@pytest.mark.parametrize(("bad", "error", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_bad_array_is_refused_in_one_line_that_names_it(name, bad, error, message):
    args = [np.ones((3, 4)) for _ in "pgmv"]
    args["pgmv".index(name)] = bad
    for call in (lambda: adam_step_serial(*args, 1, *HYPER), lambda: in_compiled_code(*args)):
        with pytest.raises(error, match=f"^{name} {message}") as raised:
            call()
        assert len(str(raised.value).splitlines()) == 1
    assert all((array == 1).all() for array in args if isinstance(array, np.ndarray))


@pytest.mark.thin(1)
@pytest.mark.skipif(JIT_DISABLED, reason="compiles every kernel")
@pytest.mark.parametrize("name", ["sgd_step", "momentum_step_parallel", "amsgrad_step", "lion_step_serial"])
def test_other_kernels_take_matrices_and_refuse_in_one_line_too(name):
    rule = name.partition("_step")[0]
    hyper, states = FAMILY[rule][2], {"sgd": 0, "momentum": 1, "amsgrad": 3, "lion": 1}[rule]
    step, flat = getattr(kernels, name), [naive.start(12, np.float64) for _ in range(2 + states)]
    shaped = [array.reshape(3, 4).copy() for array in flat]
    for args in (flat, shaped):
        step(*args, 1, *hyper)
    assert_same_bits(shaped[0].ravel(), flat[0])
    with pytest.raises(ValueError, match=r"^g must have the memory order of p, C, got F$"):
        step(shaped[0], np.ones((3, 4), order="F"), *shaped[2:], 1, *hyper)


FAMILY = {
    "sgd": (SGD, {}, [0.1]),
    "momentum": (SGD, {"momentum": 0.8, "dampening": 0.1}, [0.1, 0.8, 0.1]),
    "nesterov": (SGD, {"momentum": 0.8, "nesterov": True}, [0.1, 0.8, 0.0]),
    "rmsprop": (RMSprop, {}, [0.1, 0.99, 1e-8]),
    "rmsprop_momentum": (RMSprop, {"momentum": 0.8}, [0.1, 0.99, 1e-8, 0.8]),
    "rmsprop_centered": (RMSprop, {"centered": True}, [0.1, 0.99, 1e-8]),
    "adagrad": (Adagrad, {"lr_decay": 0.1}, [0.1, 0.1, 1e-10]),
    "adadelta": (Adadelta, {}, [0.1, 0.9, 1e-6]),
    "adam": (Adam, {}, [0.1, 0.9, 0.999, 1e-8]),
    "amsgrad": (Adam, {"amsgrad": True}, [0.1, 0.9, 0.999, 1e-8]),
    "adamax": (Adamax, {}, [0.1, 0.9, 0.999, 1e-8]),
    "nadam": (NAdam, {}, [0.1, 0.9, 0.999, 1e-8, 4e-3]),
    "radam": (RAdam, {}, [0.1, 0.9, 0.999, 1e-8]),
    "lion": (Lion, {}, [0.1, 0.9, 0.99]),
}


@pytest.mark.thin(6)
@pytest.mark.parametrize("suffix", ["", "_serial", "_parallel"])
@pytest.mark.parametrize("rule", FAMILY)
def test_each_kernel_of_the_family_gives_the_bits_of_its_optimizer(rule, suffix):
    optimizer_class, settings, hyper = FAMILY[rule]
    step = getattr(kernels, f"{rule}_step{suffix}")
    p, q = (naive.start(9001, np.float32) for _ in range(2))
    optimizer = optimizer_class(q, lr=0.1, **settings)
    state = [np.zeros_like(p) for _ in optimizer.state]
    mu_product = 1.0
    for t in range(1, 5):
        g = naive.gradients(9001, np.float32)[t]
        optimizer.step(g)
        step(p, g, *state, t, *hyper, *([mu_product] if rule == "nadam" else []))
        mu_product *= nadam_momentum(t, 0.9, 4e-3)
    assert_same_bits(p, q)
    for ours, its in zip(state, optimizer.state.values(), strict=True):
        assert_same_bits(ours, its)


def test_the_public_names_are_documented_functions():
    steps = [f"{rule}_step{suffix}" for rule in FAMILY for suffix in ("", "_parallel", "_serial")]
    assert kernels.__all__ == sorted([*steps, "nadam_momentum"])
    for name in kernels.__all__:
        assert getattr(kernels, name).__doc__
        assert getattr(kernels, name).__name__ == name
