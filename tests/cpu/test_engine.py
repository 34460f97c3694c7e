"""The engine: the same bits on any number of threads, whatever the other threads are doing."""

import threading

import numba
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPRegressor
from fastadam.cpu import team as team
from fastadam.cpu.atomics import load
from fastadam.cpu.jit import JIT_DISABLED
from tests.helpers.naive import assert_same_bits

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="interpreted code has one thread"),
]


def fit(n_threads, dtype, batch_size, max_iter, hidden=(16,)):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((900, 8)).astype(dtype), rng.standard_normal((900, 2)).astype(dtype)
    model = MLPRegressor(hidden_layer_sizes=hidden, activation="tanh")
    model.set_params(batch_size=batch_size, max_iter=max_iter, random_state=0, n_iter_no_change=np.inf)
    return model.set_params(n_threads=n_threads).fit(X, y)


@pytest.mark.thin(2)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_size", [90, 200, 310, 450, 900])
def test_the_model_is_the_same_bits_on_any_number_of_threads(dtype, batch_size):
    one = fit(1, dtype, batch_size, max_iter=20)
    for n_threads in (2, 3, 4, None):
        other = fit(n_threads, dtype, batch_size, max_iter=20)
        assert other.loss_curve_ == one.loss_curve_
        assert_same_bits(other._params.flat, one._params.flat)


@numba.njit(nogil=True)
def spin(control):
    """Take a core, as the threads of a BLAS do for a while after their last call."""
    while load(control, 0) == 0:
        pass


@pytest.mark.parametrize("hidden", [(16,), (130, 130)])
def test_the_bits_are_the_same_while_other_threads_take_the_cores(hidden):
    """The system takes the core away from threads in the middle of a task, which is then done twice."""
    one = fit(1, np.float32, 450, max_iter=60, hidden=hidden)
    control = np.zeros(1, np.int64)
    spinners = [threading.Thread(target=spin, args=(control,)) for _ in range(2)]
    for spinner in spinners:
        spinner.start()
    try:
        for n_threads in (2, 4):
            other = fit(n_threads, np.float32, 450, max_iter=60, hidden=hidden)
            assert other.loss_curve_ == one.loss_curve_
            assert_same_bits(other._params.flat, one._params.flat)
    finally:
        control[0] = 1
        for spinner in spinners:
            spinner.join()


@pytest.mark.slow
def test_late_threads_do_not_take_tasks_of_a_phase_that_is_over():
    """More threads than cores, and phases of four and of three tasks in turn: threads are late all the time."""
    one = fit(1, np.float64, 450, max_iter=200)
    for _ in range(60):
        assert fit(3, np.float64, 450, max_iter=200).loss_curve_ == one.loss_curve_
