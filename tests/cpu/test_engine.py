"""The engine: the same bits on any number of threads, whatever the other threads are doing."""

import threading
import time

import numba
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPRegressor
from fastadam.cpu import team as team
from fastadam.cpu.atomics import load
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.team import Team, claim, done_in_time, finish, finisher, kind_of, open_phase, rows_of, tasks_of
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


@pytest.mark.thin(4)
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
    first = open_phase(control, 1, 2, 0, 10)
    done = [claim(control, task, first) for task in range(tasks_of(first))]
    second = open_phase(control, 2, 4, 10, 30)
    late = [claim(control, task, first) for task in range(tasks_of(first))]
    own = [claim(control, task, second) for task in range(tasks_of(second))]
    return done, late, own, (kind_of(first), kind_of(second)), (rows_of(control, first), rows_of(control, second))


def test_a_phase_keeps_its_tasks_and_nobody_claims_one_of_a_phase_that_is_over():
    done, late, own, kinds, rows = claims_of_a_late_thread(np.zeros(1000, np.int64))
    assert (list(done), list(late), list(own), kinds) == ([True] * 2, [False] * 2, [True] * 4, (1, 2))
    assert rows == ((0, 0), (10, 30))


@numba.njit
def results_of_a_late_thread(control):
    """Thread 3 claims a task and is late: thread 0 does it again, and then all of the next phases."""
    first = open_phase(control, 1, 1, 0, 10)
    claimed = claim(control, 0, first)
    in_time = done_in_time(control, 0, first, 1000)
    finish(control, 0, first, 0)
    finish(control, 0, first, 3)
    results = [finisher(control, 0, 1)]
    second = open_phase(control, 2, 1, 0, 10)
    finish(control, 0, second, 2)
    results += [finisher(control, 0, 1), finisher(control, 0, 2)]
    third = open_phase(control, 1, 1, 10, 20)
    finish(control, 0, first, 3)
    still_waiting = not done_in_time(control, 0, third, 1000)
    finish(control, 0, third, 1)
    results += [finisher(control, 0, 1), finisher(control, 0, 2)]
    return claimed, in_time, still_waiting, results


def test_of_a_task_done_twice_the_first_result_counts_and_a_late_one_is_no_result_of_a_later_phase():
    claimed, in_time, still_waiting, results = results_of_a_late_thread(np.zeros(1000, np.int64))
    assert (claimed, in_time, still_waiting) == (True, False, True)
    assert list(results) == [0, 0, 2, 1, 2]


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


def no_tasks(thread, control, seen):
    return seen


def test_teams_share_the_cores_and_have_them_back(monkeypatch):
    monkeypatch.setattr(team, "available_threads", lambda: 4)
    monkeypatch.setattr(team, "_LULL_SECONDS", -1)

    def take_part(*teams):
        teams[0].wake()
        return [int(one.control[team._TAKE_PART]) for one in teams]

    with Team(4, no_tasks, exact=False) as first:
        assert take_part(first) == [4]
        with Team(3, no_tasks, exact=False) as second:
            assert take_part(first, second) == [2, 2]
            with Team(1, no_tasks, exact=True) as third:
                assert sorted(take_part(first, second)) == [1, 2]
                assert take_part(third) == [1]
            assert take_part(first, second) == [2, 2]
        with Team(1, no_tasks, exact=False) as small:
            assert take_part(first, small) == [3, 1]
        with Team(6, no_tasks, exact=True) as greedy:
            assert take_part(first, greedy) == [1, 6]
        assert take_part(first) == [4]


def test_a_thread_sleeps_while_its_core_is_another_teams(monkeypatch):
    monkeypatch.setattr(team, "available_threads", lambda: 2)
    calls = []

    def follow(thread, control, seen):
        calls.append(thread)
        return seen

    def calls_in_a_while():
        before = len(calls)
        time.sleep(0.2)
        return len(calls) - before

    def soon(condition):
        return any(condition() for _ in range(50))

    with Team(2, follow, exact=False) as one:
        one.wake()
        assert soon(lambda: calls_in_a_while() > 0)
        with Team(2, no_tasks, exact=False) as other:
            other.wake()
            assert soon(lambda: calls_in_a_while() == 0)
            one.wake()
            assert calls_in_a_while() == 0
        time.sleep(2 * team._LULL_SECONDS)
        one.wake()
        assert soon(lambda: calls_in_a_while() > 0)
    assert set(calls) == {1}


@pytest.mark.parametrize("bell_is", ["cleared", "waited for"])
def test_a_thread_hears_the_end_whenever_it_comes(monkeypatch, bell_is):
    """The team is dismissed just before its thread clears its bell, or just before it waits for it."""

    class Bell(threading.Event):
        uses = 0

        def end(self, after):
            self.uses += 1
            if self.uses == after:
                one.control[team._TAKE_PART] = 0
                self.set()

        def clear(self):
            if bell_is == "cleared":
                self.end(2)
            super().clear()

        def wait(self, timeout=None):
            if bell_is == "waited for":
                self.end(1)
            return super().wait(timeout)

    monkeypatch.setattr(team, "available_threads", lambda: 2)
    monkeypatch.setattr(team.threading, "Event", Bell)
    monkeypatch.setattr(team, "_NAP_SECONDS", 1e-3)
    one = Team(2, no_tasks, exact=False)
    monkeypatch.undo()
    monkeypatch.setattr(team, "available_threads", lambda: 2)
    with one:
        one.wake()
        one._others[0].join(timeout=20)
        assert not one._others[0].is_alive()


@pytest.mark.slow
def test_late_threads_do_not_take_tasks_of_a_phase_that_is_over():
    """More threads than cores, and phases of four and of three tasks in turn: threads are late all the time."""
    one = fit(1, np.float64, 450, max_iter=200)
    for _ in range(60):
        assert fit(3, np.float64, 450, max_iter=200).loss_curve_ == one.loss_curve_
