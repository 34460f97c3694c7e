"""The update of a network's flat buffer: slices are summed in order, weights decay and biases do not."""

import numpy as np
import pytest

from fastadam.cpu.update import CHUNK, Buffer, carry_kernel, sum_kernel, update_addresses, update_kernel
from fastadam.formulas import rules
from fastadam.formulas.step import DECAY, HYPER, StepSpec
from tests.helpers.naive import assert_same_bits

WEIGHTS_AT, BIASES_AT = np.array([0, CHUNK + 10]), np.array([CHUNK, 2 * CHUNK])
SIZE = 2 * CHUNK + 5
"""Weights, 10 biases, weights, 5 biases: borders of layers within chunks and borders of chunks within layers."""
CHUNKS = -(-SIZE // CHUNK)


def slices_of(count, dtype):
    return np.random.default_rng(count).standard_normal((1, count, SIZE)).astype(dtype)


def is_weight():
    mask = np.zeros(SIZE, bool)
    for first, last in zip(WEIGHTS_AT, BIASES_AT, strict=True):
        mask[first:last] = True
    return mask


def control_of(count):
    """The board of a team on which one thread has done everything."""
    return np.zeros(100_000, np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_a_step_of_gradient_descent_decays_weights_and_leaves_biases(decay, dtype):
    p, g = np.full(SIZE, 2.0, dtype), slices_of(1, dtype)
    group = np.zeros(HYPER + 2)
    group[DECAY], group[HYPER], group[-1] = 0.75, 0.5, 1.0
    norms, penalty, half = np.zeros(CHUNKS), 0.25, dtype(0.5)
    buffer = Buffer(WEIGHTS_AT, BIASES_AT, p, g.copy(), np.zeros(4, np.int64), group, norms)
    update_kernel(StepSpec(rules.SGD, decay), np.dtype(dtype).name)(buffer, control_of(1), 1, 0, CHUNKS, 1, penalty)
    start, summed = np.full(SIZE, 2.0, dtype), g[0, 0]
    if decay == "coupled":
        expected = start - half * np.where(is_weight(), summed + dtype(penalty) * start, summed)
    else:
        expected = np.where(is_weight(), start * dtype(0.75), start) - half * summed
    np.testing.assert_allclose(p, expected, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)
    assert norms.sum() == 4.0 * is_weight().sum()  # of the weights before the step


@pytest.mark.parametrize("coupled", [False, True])
def test_the_whole_gradient_is_the_sum_of_the_slices_and_of_the_penalty(coupled):
    p, g = np.full(SIZE, 2.0), slices_of(3, float)
    expected = (g[0, 0] + g[0, 1]) + g[0, 2] + (0.25 * 2.0 * is_weight() if coupled else 0.0)
    norms = np.zeros(CHUNKS)
    buffer = Buffer(WEIGHTS_AT, BIASES_AT, p, g, np.zeros(4, np.int64), np.zeros(4), norms)
    sum_kernel(coupled)(buffer, control_of(3), 3, 0, CHUNKS, 1, 0.25)
    assert_same_bits(g[0, 0], expected)
    assert norms.sum() == pytest.approx((expected**2).sum(), rel=1e-12)
    assert (p == 2.0).all()


def test_the_product_of_momenta_is_carried():
    group = np.zeros(HYPER + len(rules.NADAM.hyper))
    names = list(rules.NADAM.hyper)
    group[HYPER:] = [{"beta1": 0.9, "momentum_decay": 4e-3, "mu_product": 0.5}.get(name, 0.1) for name in names]
    expected = rules.NADAM.carry(3, *group[HYPER:])
    carry_kernel(rules.NADAM)(group, 3)
    assert group[-1] == expected != 0.5


def test_only_what_an_update_needs_is_compiled():
    step, total, carry = update_addresses(StepSpec(rules.SGD, "coupled"), np.dtype(float), clips=False)
    assert step
    assert (total, carry) == (0, 0)
    assert all(update_addresses(StepSpec(rules.NADAM, "coupled"), np.dtype(float), clips=True))
