"""Formats of storage: every value comes back, numbers are rounded as they should be, and special values do no harm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.formulas import storage as formats
from fastadam.formulas.storage import bfloat16_bits, bfloat16_values
from tests.helpers.formats import (
    SPECIAL,
    block_scale,
    dithered_bfloat16,
    from_bfloat16,
    half_bits,
    half_value,
    positive_bfloat16,
    positive_code,
    positive_value,
    signed_code,
    signed_value,
    to_bfloat16,
    values,
)
from tests.helpers.naive import assert_same_bits


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
    halfway = ((values(seed, 50).view(np.uint32) & 0xFFFF0000) | 0x8000).view(np.float32)
    x = np.concatenate([values(seed, 50), halfway, SPECIAL])
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
