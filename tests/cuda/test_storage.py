"""States in fewer bytes and parameters of 16 bits on a device, under Numba's simulator, bit for bit as on the host."""

import numpy as np
import pytest
from numba import cuda

from fastadam.cuda import storage
from fastadam.cuda.jit import float_of, formula
from fastadam.formulas import storage as formats
from fastadam.formulas.storage import bfloat16_bits, bfloat16_values
from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.cuda_arrays import BFLOAT16, FakeDeviceArray
from tests.helpers.cuda_steps import (
    BLOCKS,
    SIZES,
    STEPS,
    assert_same,
    assert_same_states,
    gradients,
    on_both,
    split,
    step_both,
)
from tests.helpers.family import EVERYTHING, text_of
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize(
    ("value", "bits"), [(1.0, 0x3F80), (-2.0, 0xC000), (np.inf, 0x7F80), (3.4e38, 0x7F80), (0.0, 0)]
)
def test_rounding_to_bfloat16(value, bits):
    to_bfloat16 = formula(formats.to_bfloat16)
    assert to_bfloat16(np.float32(value)) == bits
    assert to_bfloat16(np.float32(np.nan)) & 0x7FFF > 0x7F80


SPECIAL = np.array([0.0, -0.0, 1.0, -1.5, 1e-39, 3e38, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 6e-8], np.float32)


@pytest.mark.parametrize("noise", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_the_formats_are_the_hosts(noise):
    noise = np.uint32(noise)
    to_bfloat16, from_bfloat16 = formula(formats.to_bfloat16), formula(formats.from_bfloat16)
    dithered_bfloat16 = formula(formats.dithered_bfloat16)
    rng = np.random.default_rng(0)
    values = np.concatenate([SPECIAL, (rng.standard_normal(200) * 10.0 ** rng.integers(-6, 6, 200)).astype(np.float32)])
    for x in values:
        assert to_bfloat16(x) == bfloat16_bits(np.array([x]))[0]
        bits = dithered_bfloat16(x, noise)
        assert bits == formats.dithered_bfloat16(x, noise)
        assert_same_bits(from_bfloat16(bits), bfloat16_values(np.array([bits], np.uint16))[0])
        assert storage.SIGNED.encode(x, np.float32(0.5), noise) == formats.signed_code(x, np.float32(0.5), noise)
        assert storage.POSITIVE.encode(abs(x), np.float32(2), noise) == formats.positive_code(
            abs(x), np.float32(2), noise
        )
    for code in range(256):
        scale = np.float32(0.3)
        assert_same_bits(storage.SIGNED.decode(code, scale), formats.signed_value(code, scale))
        assert_same_bits(storage.POSITIVE.decode(code, scale), formats.positive_value(code, scale))


def test_bits_and_halves():
    for bits in range(0, 2**16, 97):
        assert_same_bits(formula(formats.from_float16)(bits), np.uint16(bits).view(np.float16).astype(np.float32))
        assert_same_bits(float_of(bits << 16), bfloat16_values(np.array([bits], np.uint16))[0])


@pytest.mark.parametrize("form", ["bfloat16", "uint8"])
@pytest.mark.parametrize(
    ("of", "options"), [(of, options) for of, options in EVERYTHING.items() if not options.get("centered")], ids=text_of
)
def test_every_rule(of, options, form):
    sizes = SIZES if form == "bfloat16" else [520]
    made = on_both(of, sizes, **options, state_dtype=form)
    for t in range(STEPS):
        step_both(*made[:2], sizes, t)
    assert_same(*made)


@pytest.mark.parametrize(("form", "sizes"), [("bfloat16", SIZES), ("uint8", BLOCKS)])
@pytest.mark.parametrize(("shift", "gradient_shift"), [(0, 0), (1, 0), (0, 3)])
def test_many_arrays_of_any_alignment(form, sizes, shift, gradient_shift):
    made = on_both(Adam, sizes, shift, amsgrad=True, state_dtype=form)
    for t in range(STEPS):
        step_both(*made[:2], sizes, t, gradient_shift)
    assert_same(*made)


@pytest.mark.parametrize(("form", "sizes"), [("bfloat16", SIZES), ("uint8", BLOCKS)])
def test_what_is_done_in_the_same_pass(form, sizes):
    options = {"ema_decay": 0.9, "copy_dtype": "bfloat16", "zero_grad": True, "clip_value": 0.5, "weight_decay": 0.1}
    made = on_both(Adam, sizes, **options, state_dtype=form)
    for t in range(STEPS):
        for row in step_both(*made[:2], sizes, t, rows=2, grad_scale=2.0):
            assert not any(g.host.any() for g in row)
    assert_same(*made)
    for actual, expected in zip(made[0].copies, made[1].copies, strict=True):
        assert_same_bits(actual.copy_to_host(), expected)


@pytest.mark.parametrize(("form", "n"), [("bfloat16", 75), ("uint8", 600)])
def test_what_is_not_finite_is_skipped_and_what_is_large_is_large(form, n):
    made = on_both(Adam, [n], state_dtype=form, on_nonfinite="skip")
    for t, size in enumerate([1.0, np.nan, 1e30, np.inf, 1e-30]):
        g = gradients(n, t)
        g[n // 2] = size
        made[0].step([FakeDeviceArray(g)])
        made[1].step([g])
    assert made[0].skipped_steps == 2
    assert_same(*made)


@pytest.mark.parametrize(("form", "sizes"), [("bfloat16", SIZES), ("uint8", BLOCKS)])
def test_groups_of_which_one_is_frozen(form, sizes):
    groups = {"still": {"params": [0], "frozen": True}, "slow": {"params": [3], "lr": 1e-5}}
    made = on_both(Adam, sizes, groups=groups, state_dtype=form)
    for t in range(STEPS):
        step_both(*made[:2], sizes, t)
    assert_same(*made)


@pytest.mark.parametrize(("form", "sizes"), [("bfloat16", SIZES), ("uint8", BLOCKS)])
def test_host_and_device_go_on_from_each_others_state(form, sizes):
    options = {"state_dtype": form, "ema_decay": 0.9}
    made, other = on_both(Adam, sizes, **options), on_both(Adam, sizes, **options)
    for t in range(STEPS):
        step_both(*made[:2], sizes, t)
    other[0].load_state_dict(made[1].state_dict())
    other[1].load_state_dict(made[0].state_dict())
    for target, source in zip(other[2] + other[3], made[3] + [p.host for p in made[2]], strict=True):
        (target.host if isinstance(target, FakeDeviceArray) else target)[...] = source
    for pair in (made, other):
        step_both(*pair[:2], sizes, STEPS)
        assert_same(*pair)
    assert_same_states(other[0], made[1])


def test_types_that_do_not_go_together():
    with pytest.raises(ValueError, match="state_dtype needs float32 parameters, got float64"):
        Adam(FakeDeviceArray(np.ones(3)), state_dtype="bfloat16")
    with pytest.raises(ValueError, match="copy_dtype needs float32 parameters, got float64"):
        Adam(FakeDeviceArray(np.ones(3)), copy_dtype="float16")
    with pytest.raises(ValueError, match="copy_dtype must be None for parameters of float16"):
        Adam(FakeDeviceArray(np.ones(3, np.float16)), copy_dtype="float16")
    with pytest.raises(ValueError, match="state_dtype must be"):
        Adam(FakeDeviceArray(np.ones(3, np.float32)), state_dtype="float16")


HALVES = ["float16", "bfloat16"]


def stored(x, form):
    """Float32s in 16 bits: as an array, and as what has their values."""
    if form == "float16":
        return x.astype(np.float16), x.astype(np.float16).astype(np.float32)
    bits = bfloat16_bits(x)
    return bits, bfloat16_values(bits)


def half_on_device(x, form, shift=0):
    return FakeDeviceArray(stored(x, form)[0], shift=shift, typestr=BFLOAT16 if form == "bfloat16" else None)


@pytest.mark.parametrize("form", HALVES)
@pytest.mark.parametrize(("shift", "gradient_shift"), [(0, 0), (1, 0), (0, 2), (4, 4)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"state_dtype": "bfloat16", "ema_decay": 0.9},
        {"state_dtype": "uint8"},
        {"zero_grad": True, "max_norm": 1e9, "on_nonfinite": "skip"},
    ],
)
def test_parameters_of_16_bits(form, shift, gradient_shift, options):
    """Compare with an optimizer of the masters on the host, which writes a copy."""
    sizes = [600, 0, 5, 64] if options.get("state_dtype") == "uint8" else SIZES
    start = stored(naive.start(sum(sizes), np.float32), form)[1]
    there = [half_on_device(part, form, shift) for part in split(start, sizes)]
    masters = split(start.copy(), sizes)
    made, host = Adam(there, **options), Adam(masters, copy_dtype=form, **options)
    for t in range(STEPS):
        rows = [stored(gradients(sum(sizes), 10 * t + row), form)[1] for row in range(1 + t % 2)]
        if t == 2 and "on_nonfinite" in options:
            rows[0][70] = np.inf
        given = [[half_on_device(part, form, gradient_shift) for part in split(row, sizes)] for row in rows]
        made.step(*given, grad_scale=4.0)
        host.step(*[split(row, sizes) for row in rows], grad_scale=4.0)
        skipped = t == 2 and "on_nonfinite" in options
        assert all(
            g.host.any() != bool(options.get("zero_grad")) or skipped for row in given for g in row if g.host.size
        )
    for actual, expected in zip(there, host.copies, strict=True):
        assert_same_bits(actual.host, expected)
        assert not actual.memory[:shift].any()
    saved, expected = made.state_dict(), host.state_dict()
    for name in host.state:
        assert_same_bits(saved[name], expected[name])
    flat = np.zeros_like(saved["master"])  # where blocks are padded, so are the masters
    starts = [0, 1024, 1024, 1536] if options.get("state_dtype") == "uint8" else np.cumsum([0, *sizes[:-1]])
    for begin, master in zip(starts, masters, strict=True):
        flat[begin : begin + master.size] = master
    assert_same_bits(saved["master"], flat)
    assert (made.t, made.skipped_steps) == (host.t, host.skipped_steps)


def test_host_and_device_go_on_from_each_others_masters():
    start = naive.start(75, np.float32).astype(np.float16)
    there_p, here_p = FakeDeviceArray(start), start.copy()
    there, here = (Adam(p, lr=0.1, state_dtype="bfloat16") for p in (there_p, here_p))
    for t in range(2):
        there.step(FakeDeviceArray(gradients(75, t).astype(np.float16)))
    here.load_state_dict(there.state_dict())
    back_p = FakeDeviceArray(start)
    back = Adam(back_p, lr=0.1, state_dtype="bfloat16")
    back.load_state_dict(here.state_dict())
    g = gradients(75, 2).astype(np.float16)
    there.step(FakeDeviceArray(g))
    back.step(FakeDeviceArray(g))
    here.step(g)
    assert_same_bits(there_p.host, here_p)
    assert_same_bits(back_p.host, here_p)
    assert_same_states(there, here)
    assert_same_states(back, here)


def test_gradients_of_another_type_than_the_parameters():
    halves = FakeDeviceArray(np.ones(3, np.float16))
    made = Adam(halves)
    with pytest.raises(TypeError, match="grads must have the dtype of params, float16, got float32"):
        made.step(FakeDeviceArray(np.ones(3, np.float32)))
    with pytest.raises(TypeError, match="grads must have the dtype of params, float16, got bfloat16"):
        made.step(half_on_device(np.ones(3, np.float32), "bfloat16"))
    with pytest.raises(TypeError, match=r"params\[1\] must have the dtype of the other params, float16, got bfloat16"):
        Adam([halves, half_on_device(np.ones(3, np.float32), "bfloat16")])
    assert made.t == 0
    assert (halves.host == 1).all()


def test_the_state_shows_the_masters_on_the_device():
    made = Adam(FakeDeviceArray(np.full(3, 0.5, np.float16)))
    assert set(made.state) == {"m", "v", "master"}
    assert (made.state["master"].copy_to_host()[:3] == 0.5).all()
    assert isinstance(made.state["master"], type(cuda.device_array(1)))
