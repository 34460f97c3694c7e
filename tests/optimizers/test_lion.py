"""Lion: what only it does."""

import numpy as np
import pytest

from fastadam.optimizers.lion import Lion
from tests.helpers import naive
from tests.helpers.family import assert_close


@pytest.mark.peers
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.6)])
def test_a_hundred_steps_of_lion_equal_optax(weight_decay, betas):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    p, cycle = naive.start(50, np.float64), np.random.default_rng(0).standard_normal((7, 50))
    with jax.enable_x64(True):
        peer = optax.lion(0.01, *betas, weight_decay=weight_decay)
        theirs = jax.numpy.asarray(p)
        state = peer.init(theirs)
        optimizer = Lion(p, 0.01, betas, weight_decay)
        for t in range(100):
            change, state = peer.update(jax.numpy.asarray(cycle[t % 7]), state, theirs)
            theirs = optax.apply_updates(theirs, change)
            optimizer.step(cycle[t % 7])
        assert_close(p, np.asarray(theirs))


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_every_step_is_as_long_as_the_rate_whatever_the_gradient(size):
    p = np.array([1.0, -1.0, 0.5])
    optimizer = Lion(p, lr=0.25)
    for _ in range(3):
        before = p.copy()
        optimizer.step(size * np.array([3.0, -0.01, 0.0]))
        assert (before - p).tolist() == [0.25, -0.25, 0.0]


def test_the_momentum_that_is_kept_is_another_average_than_that_of_the_step():
    p = np.zeros(1)
    optimizer = Lion(p, lr=1.0, betas=(0.5, 0.0))
    optimizer.step(np.array([4.0]))
    assert optimizer.state["exp_avg"] == 4.0
    optimizer.step(np.array([-3.0]))  # 0.5 * 4 - 0.5 * 3 is still positive
    assert p == -2.0
    assert optimizer.state["exp_avg"] == -3.0
