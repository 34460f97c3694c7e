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
