"""Threads of a team that are held up: the one that leads neither dies of it nor waits for long."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPRegressor
from fastadam.cpu import engine
from fastadam.cpu import team as team
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.team import (
    Team,
    await_phase,
    claim,
    done_in_time,
    finish,
    finisher,
    is_alone,
    kind_of,
    open_phase,
    rows_of,
    takes_part,
    tasks_of,
    was_kept_waiting,
)
from tests.helpers.naive import assert_same_bits

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="interpreted code has one thread"),
]


# --- the stack --------------------------------------------------------------------------------------------------------

HELD_FOLLOWER = """
    import threading, time
    import numba, numpy as np
    from fastadam.cpu import team
    from fastadam.cpu.team import FOREVER, Team, await_phase, claim, done_in_time, finish, open_phase

    team.available_threads = lambda: 2

    @numba.njit(nogil=True)
    def take(control, thread, seen):
        phase = await_phase(control, thread, seen)
        return phase, claim(control, 0, phase)

    @numba.njit(nogil=True)
    def wait(control):
        phase = open_phase(control, 1, 1, 0, 10)
        return done_in_time(control, 0, phase, FOREVER)

    @numba.njit
    def report(control, thread, phase):
        finish(control, 0, phase, thread)

    def follow(thread, control, seen):
        phase, claimed = take(control, thread, seen)
        if claimed:
            time.sleep(2)
            report(control, thread, phase)
        return phase

    def fit():
        with Team(2, follow, exact=True) as one:
            one.wake()
            print(wait(one.control))

    threading.stack_size(512 * 1024)
    leader = threading.Thread(target=fit)
    leader.start()
    leader.join()
"""


def test_a_leader_waits_for_two_seconds_on_a_small_stack():
    """An alloca in the loop that waits would take megabytes of it in every second."""
    result = run(HELD_FOLLOWER)
    assert (result.returncode, result.stdout) == (0, "True\n"), result


def run(code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_engine_takes_all_of_its_stack_when_it_is_called(monkeypatch):
    compiled = numba.njit(error_model="numpy", nogil=True)(engine.run.py_func)  # of what was cached there is no IR
    monkeypatch.setattr(engine, "run", compiled)
    fit(n_threads=1, max_iter=1)
    (code,) = compiled.inspect_llvm().values()
    functions = [function for function in llvm.parse_assembly(code).functions if not function.is_declaration]
    blocks = [(function.name, list(function.blocks)) for function in functions]
    assert any(is_alloca(instruction) for _, (entry, *_) in blocks for instruction in entry.instructions)
    elsewhere = [
        f"{name}: {instruction}"
        for name, (_, *others) in blocks
        for block in others
        for instruction in block.instructions
        if is_alloca(instruction)
    ]
    assert not elsewhere


def is_alloca(instruction):
    return instruction.opcode == "alloca"


# --- the time ---------------------------------------------------------------------------------------------------------

MILLISECOND = 10**6


@numba.njit
def alone_after(waited, own, now):
    """Until when, after `now`, a leader makes its passes alone."""
    control = np.zeros(1000, np.int64)
    was_kept_waiting(control, waited, own, now)
    until = now
    while is_alone(control, until):
        until += 1000
    return until - now


def test_a_leader_that_was_kept_waiting_is_alone_for_ten_times_as_long():
    assert alone_after(3 * MILLISECOND, MILLISECOND // 2, 10**15) == 30 * MILLISECOND
    assert alone_after(20 * MILLISECOND, 4 * MILLISECOND, 10**15) == 200 * MILLISECOND


@numba.njit
def alone_after_losing_its_own_core(control):
    was_kept_waiting(control, 0, 10**6, 10**15)
    was_kept_waiting(control, 10**8, 10**8, 10**15)
    return is_alone(control, 10**15 + 10**9 - 1), is_alone(control, 10**15 + 10**9)


def test_a_leader_that_lost_its_own_core_as_well_is_alone_nevertheless():
    assert alone_after_losing_its_own_core(np.zeros(1000, np.int64)) == (True, False)


def test_a_leader_goes_on_sharing_after_waits_that_are_the_rule():
    """Others may take as long as it did, and their caches and the clock add a little."""
    assert alone_after(MILLISECOND, MILLISECOND, 10**15) == 0
    assert alone_after(MILLISECOND // 20, 1000, 10**15) == 0


def fit(n_threads, max_iter, n=800):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, 200)).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    model = MLPRegressor(hidden_layer_sizes=(200, 200), random_state=0, n_iter_no_change=np.inf, n_threads=n_threads)
    return model.set_params(batch_size=200, max_iter=max_iter).fit(X, y)


@numba.njit(nogil=True)
def claim_pass(control, thread, seen):
    """Claim the own task of the next pass; returns the phase, and whether it is this thread's."""
    while True:
        phase = await_phase(control, thread, seen)
        if phase == seen or not takes_part(control, thread):
            return phase, False
        if kind_of(phase) == engine.UPDATE and thread < tasks_of(phase) and claim(control, thread, phase):
            return phase, True
        seen = phase


@numba.njit(nogil=True)
def do_pass(job, control, thread, threads, phase):
    engine.pass_task(job, thread, threads, control, phase)
    finish(control, thread, phase, thread)


def test_a_thread_that_is_held_in_its_passes_costs_a_small_part_of_a_fit(monkeypatch):
    """One whose core is taken away whenever it has begun to update parameters: here it sleeps."""
    held, seconds = [], 0.2

    def follow(self, thread, control, seen):
        phase, is_own = claim_pass(control, thread, seen)
        if is_own:
            time.sleep(seconds)
            held.append(phase)
            do_pass(self._job, control, thread, self._team.threads, phase)
        return int(phase)

    alone = fit(n_threads=1, max_iter=50)
    monkeypatch.setattr(team, "available_threads", lambda: 2)
    monkeypatch.setattr(engine.Engine, "_follow", follow)
    claim_pass(np.zeros(1000, np.int64), 1, 0)
    fit(n_threads=2, max_iter=200)  # compiles `do_pass`
    held.clear()
    start = time.perf_counter()
    shared = fit(n_threads=2, max_iter=50)
    took = time.perf_counter() - start
    assert held
    assert len(held) * seconds <= took / 5 + 2 * seconds
    assert shared.loss_curve_ == alone.loss_curve_
    assert_same_bits(shared._params.flat, alone._params.flat)


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


def test_a_thread_that_sleeps_hears_a_ring_from_the_moment_on_that_it_looked(monkeypatch):
    """It is told to end just before it uses its bell for the first time after it saw that it takes no part."""
    followed = []

    class Bell(threading.Event):
        def end(self):
            if followed == ["followed"]:
                followed.append("ended")
                one.control[team._TAKE_PART] = 0
                self.set()

        def clear(self):
            self.end()
            super().clear()

        def wait(self, timeout=None):
            self.end()
            return super().wait(timeout)

    def takes_no_part_any_longer(thread, control, seen):
        control[team._TAKE_PART] = 1
        followed.append("followed")
        return seen

    monkeypatch.setattr(team, "available_threads", lambda: 2)
    monkeypatch.setattr(team.threading, "Event", Bell)
    one = Team(2, takes_no_part_any_longer, exact=False)
    monkeypatch.undo()
    monkeypatch.setattr(team, "available_threads", lambda: 2)
    with one:
        one.wake()
        one._others[0].join(timeout=5)
        assert not one._others[0].is_alive()
