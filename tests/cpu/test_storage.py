"""Storage in fewer bytes: the formats, states, gradients, copies and masters in them; and summed gradients."""

import copy
import pickle

import numpy as np
import pytest

from fastadam.buffers import FlatBuffer
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.formulas.storage import CODE_BLOCK, bfloat16_bits, bfloat16_values
from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.formats import SPECIAL, N, positive_value, values
from tests.helpers.naive import assert_same_bits

# The formats


def test_float16_is_numpys():
    x = np.concatenate([values(0), SPECIAL])
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    p = np.zeros_like(x)
    optimizer = SGD(p, 0.0, copy_dtype="float16")
    p[:] = x
    optimizer.step(np.zeros_like(p))
    finite = np.isfinite(x)  # NaN's bits may differ
    assert_same_bits(optimizer.copies[finite], expected[finite])
    assert np.isnan(optimizer.copies[np.isnan(x)]).all()


# States


def steps(optimizer, count, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        optimizer.step((scale * rng.standard_normal(optimizer.params.shape)).astype(optimizer.params.dtype))


@pytest.mark.thin(4)
@pytest.mark.parametrize("rule", [Adam, AdamW, SGD, RMSprop, Adagrad, Lion])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_a_packed_state_stays_close_to_the_whole_one(rule, state_dtype):
    options = {"momentum": 0.9} if rule is SGD else {}
    packed, whole = (rule(naive.start(N, np.float32), state_dtype=kind, **options) for kind in (state_dtype, None))
    moved = -naive.start(N, np.float32)
    for optimizer in (packed, whole):
        steps(optimizer, 30)
    moved = moved + whole.params
    difference = np.linalg.norm(packed.params - whole.params) / np.linalg.norm(moved)
    assert 0 < difference < {"bfloat16": 0.03, "uint8": 0.15}[state_dtype] * (10 if rule is Lion else 1)


SMALL_EPS = {Adam: 1e-30, RMSprop: 1e-30, Adagrad: 1e-30, NAdam: 1e-30, RAdam: 1e-30, Adadelta: 1e-38, Adamax: 1e-38}


def moved(rule, state_dtype, size):
    """How far gradients of a size move the parameters, where eps does not hide what the state holds."""
    options = {"eps": SMALL_EPS[rule]} if rule in SMALL_EPS else {}
    options |= {"momentum": 0.9} if rule in (SGD, RMSprop) else {}
    optimizer = rule(p := np.zeros(2 * CODE_BLOCK, np.float32), lr=1.0, state_dtype=state_dtype, **options)
    rng, sizes = np.random.default_rng(0), np.random.default_rng(1).uniform(0.5, 1, p.size)
    for _ in range(10):
        optimizer.step((size * sizes * np.sign(rng.standard_normal(p.size) + 0.5)).astype(np.float32))
    return p.astype(float)


@pytest.mark.thin(6)
@pytest.mark.skipif(JIT_DISABLED, reason="NumPy warns of the denormal numbers that this is about")
@pytest.mark.parametrize("rule", [Adam, SGD, RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam, Lion])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_gradients_of_any_size_move_the_parameters_as_with_a_state_in_float32(rule, state_dtype):
    most = {"bfloat16": 2e-2, "uint8": 8e-2}[state_dtype] * (4 if rule is Lion else 1)
    for exponent in (-30, -25, -22, -21, -20, -19, -18, -17, -10, 0, 10, 18):
        packed, whole = (moved(rule, kind, 10.0**exponent) for kind in (state_dtype, None))
        if state_dtype == "bfloat16" and -23 < exponent < -18:  # squares below bfloat16's smallest number count as that
            assert (abs(packed) <= 1.1 * abs(whole).max()).all()
        else:
            assert np.linalg.norm(packed - whole) <= most * np.linalg.norm(whole), exponent


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_an_average_that_moves_by_a_thousandth_a_step_moves_all_the_same(state_dtype):
    """The nearest value would be the old one at each step: the second moment would stay where it was."""
    p = np.zeros(CODE_BLOCK, np.float32)
    optimizer, count = Adam(p, 0.0, state_dtype=state_dtype), 100 if JIT_DISABLED else 3000
    rng = np.random.default_rng(0)
    size = rng.uniform(0.5, 1, CODE_BLOCK)
    for _ in range(count):
        optimizer.step((size * np.sign(rng.standard_normal(CODE_BLOCK))).astype(np.float32))
    expected = size**2 * (1 - 0.999**count)
    if state_dtype == "bfloat16":
        v = bfloat16_values(optimizer.state["v"])
    else:
        v = positive_value(optimizer.state["v"], np.float32, optimizer.state["v_scale"][0])
    np.testing.assert_allclose(v, expected, rtol=0.5)
    assert abs((v / expected).mean() - 1) < 0.03


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_a_packed_state_gives_the_same_bits_on_any_number_of_threads(state_dtype, threads):
    n = 300 if JIT_DISABLED else 70_001
    with_threads = Adam(naive.start(n, np.float32), state_dtype=state_dtype)
    alone = Adam(naive.start(n, np.float32), state_dtype=state_dtype)
    alone.stepper._kernel = lambda spec: alone.stepper._serial_kernel
    for optimizer in (with_threads, alone):
        steps(optimizer, 3)
    assert_same_bits(with_threads.params, alone.params)


def test_the_split_into_arrays_does_not_change_a_bit_of_a_state_in_bfloat16():
    whole, start = naive.start(700, np.float32), naive.start(700, np.float32)
    parts = [start[:1].copy(), start[1:300].copy(), start[300:].copy()]
    one, several = Adam(whole, state_dtype="bfloat16"), Adam(parts, state_dtype="bfloat16")
    for g in naive.gradients(700, np.float32):
        one.step(g)
        several.step([g[:1].copy(), g[1:300].copy(), g[300:].copy()])
    assert_same_bits(np.concatenate(parts), whole)


@pytest.mark.thin(4)
@pytest.mark.parametrize("options", [
    {"state_dtype": "bfloat16"}, {"state_dtype": "uint8"}, {"state_dtype": "uint8", "ema_decay": 0.9},
    {"copy_dtype": "bfloat16", "state_dtype": "bfloat16", "ema_decay": 0.5},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_saved_and_loaded_it_goes_on_bit_for_bit(options, duplicate):
    original = Adam(naive.start(700, np.float32), **options)
    steps(original, 3)
    params, loaded = duplicate((original.params, original))
    fresh = Adam(params.copy(), **options)
    fresh.load_state_dict(original.state_dict())
    for optimizer in (original, loaded, fresh):
        steps(optimizer, 2, seed=1)
    for optimizer in (loaded, fresh):
        assert_same_bits(optimizer.params, original.params)
        for name in original.state:
            assert_same_bits(optimizer.state[name], original.state[name])


# Copies and masters


def with_bits(array):
    """The copy as float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else bfloat16_values(array)


@pytest.mark.parametrize("copy_dtype", ["float16", "bfloat16"])
def test_the_copy_is_the_rounded_parameters_in_their_structure(copy_dtype):
    shapes = {"a": (3, 2), "b": (5,)}
    structures = [
        np.ones(7, np.float32),
        [np.ones((2, 3), np.float32, order="F"), np.ones(4, np.float32)],
        {"x": np.ones(3, np.float32)},
        FlatBuffer.from_arrays({name: np.ones(shape) for name, shape in shapes.items()}, np.float32),
    ]
    for params in structures:
        optimizer = Adam(params, 0.3, copy_dtype=copy_dtype)
        arrays = params if not isinstance(params, np.ndarray) else {None: params}
        names = range(len(arrays)) if isinstance(arrays, list) else list(arrays)
        grads = copy.deepcopy(params) if not isinstance(params, FlatBuffer) else FlatBuffer.from_arrays(params)
        for _ in range(2):
            for name in names:
                given, ours = (arrays[name], optimizer.copies if name is None else optimizer.copies[name])
                assert ours.shape == given.shape
                expected = (
                    given.astype(np.float16).astype("f4")
                    if copy_dtype == "float16"
                    else bfloat16_values(bfloat16_bits(given))
                )
                assert_same_bits(with_bits(ours), np.asarray(expected).reshape(given.shape))
            optimizer.step(grads)


def test_parameters_of_float16_are_the_rounded_masters():
    start, cycle = naive.start(300, np.float16), naive.gradients(300, np.float16)
    p = start.copy()
    optimizer = Adam(p, 1e-4)
    reference = naive.Adam(start.astype(np.float32), 1e-4)
    for g in cycle:
        optimizer.step(g)
        reference.step(g.astype(np.float32))
    assert_same_bits(optimizer.state["master"], reference.p)
    assert_same_bits(p, reference.p.astype(np.float16))


def test_parameters_of_bfloat16_are_the_rounded_masters():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    start = naive.start(300, np.float32).astype(ml_dtypes.bfloat16)
    cycle = [g.astype(ml_dtypes.bfloat16) for g in naive.gradients(300, np.float32)]
    p = start.copy()
    optimizer = Adam([p], 1e-4, max_norm=1.0)
    reference = naive.Adam(start.astype(np.float32), 1e-4)
    for g in cycle:
        optimizer.step([g])
        wide = g.astype(np.float32)
        reference.step(wide * np.float32(min(1.0, 1.0 / (np.linalg.norm(wide.astype(float)) + 1e-6))))
    np.testing.assert_allclose(optimizer.state["master"], reference.p, rtol=1e-6)
    assert_same_bits(p.view(np.uint16), bfloat16_bits(optimizer.state["master"]))


def test_gradients_of_float16_are_scaled_back_before_anything_else():
    p, q = naive.start(50, np.float16), naive.start(50, np.float16)
    one, other = SGD(p, 0.5, clip_value=0.01), SGD(q, 0.5, clip_value=0.01)
    g = (0.1 * np.random.default_rng(0).standard_normal(50)).astype(np.float16)
    one.step(g)
    other.step((g * np.float16(1024)), grad_scale=1024.0)
    assert_same_bits(p, q)
    one.step(np.full(50, np.inf, np.float16))


def test_an_infinite_float16_is_skipped():
    optimizer = Adam(p := np.ones(10, np.float16), on_nonfinite="skip")
    g = np.ones(10, np.float16)
    g[3] = np.inf
    optimizer.step(g)
    assert (optimizer.t, optimizer.skipped_steps) == (0, 1)
    assert (p == 1).all()


# Sums of gradients


# Bad input


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"state_dtype": "float16"}, ValueError, "state_dtype must be one of"),
    ({"state_dtype": np.uint8}, TypeError, "state_dtype"),
    ({"copy_dtype": "float32"}, ValueError, "copy_dtype"),
    ({"copy_dtype": 16}, TypeError, "copy_dtype"),
], ids=str)  # fmt: skip
def test_a_bad_format_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        Adam(np.zeros(3, np.float32), **options)


def test_formats_that_do_not_go_with_the_parameters_are_refused():
    for option in ({"state_dtype": "bfloat16"}, {"state_dtype": "uint8"}, {"copy_dtype": "float16"}):
        with pytest.raises(ValueError, match="needs float32 parameters, got float64"):
            Adam(np.zeros(3), **option)
    with pytest.raises(ValueError, match="copy_dtype must be None for parameters of float16"):
        Adam(np.zeros(3, np.float16), copy_dtype="float16")
    for packed in ("bfloat16", "uint8"):
        with pytest.raises(ValueError, match="centered"):
            RMSprop(np.zeros(3, np.float32), centered=True, state_dtype=packed)


def test_a_gradient_of_another_type_than_half_parameters_is_refused():
    with pytest.raises(TypeError, match="grads must have the dtype of params, float16"):
        Adam(np.zeros(3, np.float16)).step(np.zeros(3, np.float32))
