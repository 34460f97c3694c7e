"""The engine: the same bits on any number of threads, whatever the other threads are doing."""

import numba
import numpy as np
import pytest
from naive import assert_same_bits
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPRegressor
from fastadam.gang import claim, kind_of, open_phase, tasks_of
from fastadam.jit import JIT_DISABLED

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="interpreted code has one thread"),
]


def fit(n_threads, dtype, batch_size, max_iter):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((900, 8)).astype(dtype), rng.standard_normal((900, 2)).astype(dtype)
    model = MLPRegressor(hidden_layer_sizes=(16,), activation="tanh")
    model.set_params(batch_size=batch_size, max_iter=max_iter, random_state=0, n_iter_no_change=np.inf)
    return model.set_params(n_threads=n_threads).fit(X, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_size", [90, 200, 310, 450, 900])
def test_the_model_is_the_same_bits_on_any_number_of_threads(dtype, batch_size):
    one = fit(1, dtype, batch_size, max_iter=20)
    for n_threads in (2, 3, 4, None):
        other = fit(n_threads, dtype, batch_size, max_iter=20)
        assert other.loss_curve_ == one.loss_curve_
        assert_same_bits(other._params.flat, one._params.flat)


@numba.njit
def claims_of_a_late_thread(control):
    """Open a phase of two tasks, do them, open one of four; then claim as a thread that still has the first."""
    first = open_phase(control, 0, 2)
    done = [claim(control, task, first) for task in range(tasks_of(first))]
    second = open_phase(control, 1, 4)
    late = [claim(control, task, first) for task in range(tasks_of(first))]
    own = [claim(control, task, second) for task in range(tasks_of(second))]
    return done, late, own, (kind_of(first), kind_of(second))


def test_a_phase_keeps_its_tasks_and_nobody_claims_one_of_a_phase_that_is_over():
    done, late, own, kinds = claims_of_a_late_thread(np.zeros(1000, np.int64))
    assert (list(done), list(late), list(own), kinds) == ([True] * 2, [False] * 2, [True] * 4, (0, 1))


@pytest.mark.slow
def test_late_threads_do_not_take_tasks_of_a_phase_that_is_over():
    """More threads than cores, and phases of four and of three tasks in turn: threads are late all the time."""
    one = fit(1, np.float64, 450, max_iter=200)
    for _ in range(60):
        assert fit(3, np.float64, 450, max_iter=200).loss_curve_ == one.loss_curve_
