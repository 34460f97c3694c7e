"""Storage in fewer bytes: the formats, states, gradients, copies and masters in them; and summed gradients."""

import copy
import pickle

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import assert_same_bits

from fastadam import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, FlatBuffer, Lion, NAdam, RAdam, RMSprop, formats
from fastadam.buffers import bfloat16_bits, bfloat16_values
from fastadam.formats import CODE_BLOCK
from fastadam.jit import JIT_DISABLED, device, kernel

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.5, 1e-45, 1e-39, 3e38, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 6e-8], np.float32
)
N = 300 if JIT_DISABLED else 5_000  # more than a block


def compiled(function):
    """The function as one of a flat array, and of what else it takes."""
    function = device(function)

    @kernel(cached=False)
    def of_array(x, out, *rest):
        for i in range(x.size):
            out[i] = function(x[i], *rest)

    def call(x, dtype, *rest):
        of_array(x, out := np.empty(x.shape, dtype), *rest)
        return out

    return call


from_bfloat16, to_bfloat16 = compiled(formats.from_bfloat16), compiled(formats.to_bfloat16)
dithered_bfloat16 = compiled(formats.dithered_bfloat16)
half_value, half_bits = compiled(formats.half_value), compiled(formats.half_bits)
positive_bfloat16, block_scale = compiled(formats.positive_bfloat16), compiled(formats.block_scale)
signed_code, positive_code = compiled(formats.signed_code), compiled(formats.positive_code)
signed_value, positive_value = compiled(formats.signed_value), compiled(formats.positive_value)


def values(seed, n=N):
    """Numbers of very different sizes."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3, n)).astype(np.float32)


# The formats


def test_every_bfloat16_comes_back():
    bits = np.arange(2**16, dtype=np.uint16)[:: 97 if JIT_DISABLED else 1]
    x = from_bfloat16(bits, np.float32)
    assert_same_bits(x, bfloat16_values(bits))
    there = to_bfloat16(x, np.uint16)
    finite = ~np.isnan(x)
    assert (there[finite] == bits[finite]).all()
    assert np.isnan(bfloat16_values(there[~finite])).all()


@given(seed=st.integers(0, 1000))
def test_bfloat16_is_the_nearest_of_its_neighbours_and_the_even_one_of_two(seed):
    x = np.concatenate([values(seed, 50), SPECIAL])
    there = to_bfloat16(x, np.uint16)
    assert (there == bfloat16_bits(x)).all()
    x, there = x[np.isfinite(x) & (abs(x) < 3e38)], there[np.isfinite(x) & (abs(x) < 3e38)]
    distance = abs(bfloat16_values(there).astype(float) - x)
    for neighbour in (there - 1, there + 1):
        other = abs(bfloat16_values(neighbour.astype(np.uint16)).astype(float) - x)
        assert not (other < distance).any()
        assert (there[other == distance] % 2 == 0).all()


def test_every_float16_has_its_value_by_integer_operations():
    bits = np.arange(2**16, dtype=np.uint16)[:: 97 if JIT_DISABLED else 1]
    assert_same_bits(half_value(bits, np.float32), bits.view(np.float16).astype(np.float32))


def test_float16_is_the_nearest_by_integer_operations():
    """All that lies halfway between two, what lies beside it, and numbers too small and too large."""
    numbers = np.arange(0x7C01, dtype=np.uint16)[:: 97 if JIT_DISABLED else 1].view(np.float16).astype(np.float32)
    halfway = ((numbers[:-1].astype(float) + numbers[1:]) / 2).astype(np.float32)
    edges = np.array([65504, 65519.99, 65520, 1e30, np.inf, np.nan, 2e-8, 3e-8, 2.0**-25, 1e-40, 0], np.float32)
    x = np.concatenate(
        [numbers, halfway, np.nextafter(halfway, np.float32(0)), np.nextafter(halfway, halfway * 2), edges]
    )
    x = np.concatenate([x, -x])
    with np.errstate(over="ignore"):
        assert_same_bits(half_bits(x, np.uint16).view(np.float16), x.astype(np.float16))


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


def test_dither_rounds_to_a_neighbour_and_to_the_number_itself_in_the_mean():
    x = values(1, 100)
    low = bfloat16_values((x.view(np.uint32) >> 16).astype(np.uint16))
    noise = [np.uint64(k << 16) for k in range(0, 2**16, 256 if JIT_DISABLED else 16)]
    rounded = [bfloat16_values(dithered_bfloat16(x, np.uint16, one)) for one in noise]
    assert {tuple(np.sign(x) * np.sign(row - low) >= 0) for row in rounded} == {(True,) * 100}
    np.testing.assert_allclose(np.mean(rounded, axis=0, dtype=float), x, rtol=4e-5)
    assert np.isnan(
        bfloat16_values(dithered_bfloat16(np.uint32([0x7FFFFFFF, 0xFFFFFFFF]).view("f4"), np.uint16, noise[-1]))
    ).all()


ONE = np.float32(1)
signed = (
    signed_code,
    signed_value,
    np.concatenate([-np.geomspace(1.875, 1e-8, 80), [0], np.geomspace(1e-8, 1.875, 80)]),
)
positive = (positive_code, positive_value, np.concatenate([[0], np.geomspace(1e-9, 1.875, 160)]))
each_code = pytest.mark.parametrize(("code_of", "value_of", "x"), [signed, positive], ids=["signed", "positive"])


@each_code
def test_every_code_comes_back(code_of, value_of, x):
    codes = np.arange(256, dtype=np.uint8)
    values = value_of(codes, np.float32, ONE)
    for noise in (0, 2**32 - 1):
        back = code_of(values, np.uint8, ONE, np.uint32(noise))
        assert (back[values != 0] == codes[values != 0]).all()
    assert values.max() == formats.LARGEST_CODE


@each_code
def test_a_code_is_one_of_the_two_around_the_number_and_the_number_in_the_mean(code_of, value_of, x):
    x = x.astype(np.float32)
    count = 64 if JIT_DISABLED else 4096
    noise = [np.uint32((k + 0.5) * (2**32 // count)) for k in range(count)]
    values = np.array([value_of(code_of(x, np.uint8, ONE, n), np.float32, ONE) for n in noise]).astype(float)
    below, above = (value_of(code_of(x, np.uint8, ONE, np.uint32(n)), np.float32, ONE) for n in (0, 2**32 - 1))
    enclosed = (abs(below) <= abs(x)) & (abs(x) <= abs(above)) | (value_of is positive_value) & (x < 2.0**-31 * 1.125)
    assert enclosed.all()
    assert set((values == below).ravel() | (values == above).ravel()) == {True}
    normal = abs(x) >= 2.0**-31 * 1.125
    np.testing.assert_allclose(values.mean(axis=0)[normal], x[normal], rtol=4 / count, atol=2.0**-17 / count)
    assert (above - below)[x > 2.0**-13].max() <= 0.125


@each_code
def test_special_values_become_codes_without_harm(code_of, value_of, x):
    codes = code_of(np.float32([0, np.nan, np.inf]), np.uint8, ONE, np.uint32(12345))
    assert codes[0] == 0


def test_what_is_not_zero_never_becomes_the_code_zero_of_a_square():
    x = np.float32([1e-30, 1e-12, 1e-6])
    assert (positive_code(x, np.uint8, ONE, np.uint32(0)) >= 1).all()


def test_the_dither_is_evenly_spread_over_steps_and_over_elements():
    for noise in (
        [formats.dither(np.uint64(5), formats.seed_of(t, 0)) for t in range(1024)],
        [formats.dither(np.uint64(i), formats.seed_of(3, 1)) for i in range(1024)],
    ):
        counts = np.bincount([int(n) >> 28 for n in noise], minlength=16)
        assert abs(counts - 64).max() <= 4  # independent numbers would be off by 8 and more


# States


def steps(optimizer, count, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        optimizer.step((scale * rng.standard_normal(optimizer.params.shape)).astype(optimizer.params.dtype))


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


@given(most=st.floats(0, float(np.finfo(np.float32).max), width=32))
def test_the_scale_of_a_block_is_never_a_denormal_number(most):
    (scale,) = block_scale(np.float32([most]), np.float32)
    assert np.finfo(np.float32).tiny <= scale < np.inf
    assert most / scale <= formats.LARGEST_CODE * (1 + 1e-6)


def test_the_scale_of_a_block_with_nan_or_infinity_is_that():
    scales = block_scale(np.float32([np.nan, np.inf]), np.float32)
    assert np.isnan(scales[0])
    assert scales[1] == np.inf


def test_what_is_not_zero_never_becomes_zero_as_a_square_in_bfloat16():
    x = np.float32([0, 1e-45, 1e-42, 9e-41, 1e-30, 1, 3e38])
    for noise in np.uint32([0, 2**31, 2**32 - 1]):
        bits = positive_bfloat16(x, np.uint16, noise)
        assert bits[0] == 0
        assert (bits[1:] > 0).all()
        assert (bits[4:] == dithered_bfloat16(x, np.uint16, noise)[4:]).all()


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
    alone._kernel = lambda variant: alone._serial_kernel
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


def test_codes_begin_anew_with_each_array():
    optimizer = Adam([np.zeros(3, np.float32), np.zeros((2, CODE_BLOCK - 50), np.float32)], state_dtype="uint8")
    g = [np.full(3, 100, np.float32), np.full((2, CODE_BLOCK - 50), 1e-3, np.float32)]
    optimizer.step(g)
    np.testing.assert_allclose(1.875 * optimizer.state["m_scale"], [10, 1e-4, 1e-4], rtol=1e-5)
    assert optimizer.state["v"].shape == (3 * CODE_BLOCK,)
    np.testing.assert_allclose(optimizer.params[1], -1e-3, rtol=1e-3)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_not_a_number_stays_where_its_block_is(state_dtype):
    optimizer = Adam(p := np.zeros(1000, np.float32), state_dtype=state_dtype)
    g = np.ones(1000, np.float32)
    g[600] = np.nan
    optimizer.step(g)
    optimizer.step(np.ones(1000, np.float32))
    wrong = np.flatnonzero(np.isnan(p))
    assert wrong.tolist() == ([600] if state_dtype == "bfloat16" else list(range(CODE_BLOCK, 1000)))


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


def test_the_sum_of_adagrad_begins_where_it_should_in_every_format():
    for state_dtype in ("bfloat16", "uint8"):
        one, other = (
            Adagrad(np.zeros(5, np.float32), initial_accumulator_value=0.5, state_dtype=kind)
            for kind in (None, state_dtype)
        )
        for optimizer in (one, other):
            optimizer.step(np.full(5, 2.0, np.float32))
        np.testing.assert_allclose(other.params, one.params, rtol=1e-6)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "ema_decay": 0.9, "maximize": True}], ids=str)
def test_a_step_of_several_gradients_is_the_step_of_their_sum(dtype, options, threads):
    n = 300 if JIT_DISABLED else 70_001
    for count in (2, 5):
        rows = list(np.random.default_rng(0).standard_normal((count, n)).astype(dtype))
        total = rows[0].copy()
        for row in rows[1:]:
            total += row
        one, other = Adam(naive.start(n, dtype), **options), Adam(naive.start(n, dtype), **options)
        before = [row.copy() for row in rows]
        one.step(*rows)
        other.step(total)
        assert_same_bits(one.params, other.params)
        for row, old in zip(rows, before, strict=True):
            assert_same_bits(row, old)


def test_summed_gradients_are_clipped_and_zeroed_as_one():
    rows = [np.full(4, 3.0), np.full(4, -1.0)]
    optimizer = SGD(p := np.zeros(4), 1.0, max_norm=1.0, zero_grad=True)
    optimizer.step(*rows)
    np.testing.assert_allclose(p, -0.5, rtol=1e-6)
    assert not np.any(rows)


def test_summed_gradients_may_have_any_structure_and_format():
    buffer = FlatBuffer.from_arrays({"a": np.zeros((2, 3)), "b": np.zeros(2)}, np.float32)
    one, two = buffer.like(), buffer.like()
    one["a"], two["b"] = 1.0, 2.0
    SGD(buffer, 1.0).step(one, two)
    assert buffer.flat.tolist() == [-1.0] * 6 + [-2.0] * 2
    p = [np.zeros(3, np.float16), np.zeros((2, 2), np.float16)]
    g = [np.full(3, 0.5, np.float16), np.full((2, 2), 0.25, np.float16)]
    SGD(p, 1.0, max_norm=100.0, state_dtype="uint8").step(g, g, g)
    assert p[0].tolist() == [-1.5] * 3
    assert p[1].tolist() == [[-0.75] * 2] * 2


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


def test_rows_of_gradients_that_do_not_fit_are_refused_and_change_nothing():
    optimizer = Adam(p := np.ones(3))
    for grads, error, message in [
        ((np.ones(3), np.ones(4)), ValueError, r"grads\[1\] must have the shape"),
        ((np.ones(3), np.ones(3, np.float32)), TypeError, r"grads\[1\] must have the dtype"),
        ((np.ones(3), [np.ones(3)]), TypeError, r"grads\[1\] must have the structure"),
        ((np.ones(3), p), ValueError, r"grads\[1\] must not share memory"),
        ((), TypeError, "needs at least one argument"),
    ]:
        with pytest.raises(error, match=message):
            optimizer.step(*grads)
    assert (p == 1).all()
    assert optimizer.t == 0


def test_a_gradient_of_another_type_than_half_parameters_is_refused():
    with pytest.raises(TypeError, match="grads must have the dtype of params, float16"):
        Adam(np.zeros(3, np.float16)).step(np.zeros(3, np.float32))
