"""Sums and norms of gradients."""

import numpy as np
import pytest

from fastadam.buffers import FlatBuffer
from fastadam.cpu.gradients import gradient_norm
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.threads import BLOCK
from fastadam.formulas.storage import bfloat16_values
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.naive import assert_same_bits
from tests.helpers.segments import segments_of

N = 300 if JIT_DISABLED else 5_000  # more than a block


def with_bits(array):
    """The copy as float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else bfloat16_values(array)


@pytest.mark.thin(3)
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


FLOATS = [np.float32, np.float64]


def norm(*rows, parallel=False):
    return gradient_norm(segments_of(rows[0], rows), rows[0][0].dtype.name, "", parallel)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 7, BLOCK, 3 * BLOCK + 5])
def test_the_norm_is_that_of_all_gradients_and_the_same_on_any_threads(n, dtype, threads):
    g = np.random.default_rng(n).standard_normal(n).astype(dtype)
    for grads in ([g], [g[: n // 2].copy(), g[n // 2 :].copy()]):
        assert norm(grads) == norm(grads, parallel=True) == pytest.approx(np.linalg.norm(g.astype("f8")), rel=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_norm_is_finite_just_where_the_gradient_is(dtype):
    largest = np.finfo(dtype).max / 8
    g = np.full(10, largest, dtype)
    assert norm([g]) == pytest.approx(np.sqrt(10.0) * float(largest), rel=1e-6)
    g[3] = -np.inf
    assert norm([g]) == np.inf
    g[4] = np.nan
    assert np.isnan(norm([np.zeros(3, dtype), g]))
