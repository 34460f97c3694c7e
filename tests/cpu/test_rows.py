"""The kernels of `RowAdam`: rows in any order, named more than once, and none that the table does not have."""

import numpy as np
import pytest

from fastadam.cpu.rows import rows_kernel
from fastadam.formulas import rules
from fastadam.formulas.step import HYPER, StepSpec
from tests.helpers.naive import assert_same_bits

SPEC = StepSpec(rules.ADAM)
each_form = pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])


class Table:
    """A table with its moments, and a step on it."""

    def __init__(self, rows=9, dim=3, lazy=False):
        self.p = np.ones((rows, dim))
        self.m, self.v = np.zeros(rows * dim), np.zeros(rows * dim)
        self.places, self.last_step = np.zeros(rows, np.int64), np.zeros(rows * lazy, np.int64)
        self.group = np.array([*[0.0] * HYPER, 0.1, 0.9, 0.999, 1e-8])

    def step(self, rows, grads, t=1, parallel=False):
        rows, grads = np.asarray(rows, np.int64), np.asarray(grads, float)
        return rows_kernel(SPEC, parallel)(
            self.p.ctypes.data, self.m, self.v, rows, grads.ctypes.data, self.p.shape[1], self.places, self.last_step,
            self.group, t,
        )  # fmt: skip


@each_form
def test_only_the_rows_that_are_named_are_updated(parallel):
    table, g = Table(), np.arange(1.0, 7.0).reshape(2, 3)
    assert table.step([7, 2], g, parallel=parallel) == 2
    m = table.m.reshape(9, 3)
    np.testing.assert_allclose(m[[7, 2]], (1 - 0.9) * g, rtol=1e-15)
    np.testing.assert_allclose(table.p[[7, 2]], 0.9, rtol=1e-7)  # the first step of Adam is lr long
    others = np.delete(np.arange(9), [2, 7])
    assert (table.p[others] == 1).all()
    assert not m[others].any()


@each_form
def test_gradients_of_a_row_named_more_than_once_are_summed_in_order(parallel):
    g = np.random.default_rng(0).standard_normal((5, 3))
    several, one = Table(), Table()
    assert several.step([4, 0, 4, 8, 4], g, parallel=parallel) == 3
    one.step([4, 0, 8], [(g[0] + g[2]) + g[4], g[1], g[3]])
    assert_same_bits(several.p, one.p)
    assert_same_bits(several.v, one.v)


@each_form
@pytest.mark.parametrize(("rows", "position"), [([0, 9], 1), ([-1, 3], 0), ([1, 1, 2**62], 2)])
def test_a_row_that_is_not_there_is_told_and_nothing_is_changed(rows, position, parallel):
    table = Table()
    assert table.step(rows, np.ones((len(rows), 3)), parallel=parallel) == -1 - position
    assert (table.p == 1).all()
    assert not table.m.any()


def test_moments_decay_over_the_steps_that_a_row_missed():
    table = Table(rows=2, lazy=True)
    table.step([0], np.ones((1, 3)), t=1)
    table.step([0], np.zeros((1, 3)), t=4)
    np.testing.assert_allclose(table.m[:3], 0.9**3 * (1 - 0.9), rtol=1e-14)
    assert table.last_step.tolist() == [4, 0]
