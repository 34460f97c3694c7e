"""Threads of a gang that are held up: the one that leads neither dies of it nor waits for long."""

import ast
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from naive import assert_same_bits
from sklearn.exceptions import ConvergenceWarning

import fastadam
from fastadam import MLPRegressor, engine, gang
from fastadam.gang import await_phase, claim, finish, is_alone, kind_of, takes_part, tasks_of, was_kept_waiting
from fastadam.jit import JIT_DISABLED

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="interpreted code has one thread"),
]


# --- the stack --------------------------------------------------------------------------------------------------------

HELD_FOLLOWER = """
    import threading, time
    import numba, numpy as np
    from fastadam import gang
    from fastadam.gang import FOREVER, Gang, await_phase, claim, done_in_time, finish, open_phase

    gang.available_threads = lambda: 2

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
        with Gang(2, follow, exact=True) as one:
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


@pytest.mark.parametrize("source", sorted(Path(fastadam.__file__).parent.rglob("*.py")), ids=lambda source: source.stem)
def test_no_intrinsic_takes_stack_where_it_stands(source):
    """Only `cgutils.alloca_once` and its kin may: they do it in the entry block, whatever loop calls the intrinsic."""
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    names = [call.func.attr for call in calls if isinstance(call.func, ast.Attribute)]
    assert not {"alloca"} & set(names)


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
            do_pass(self._job, control, thread, self._gang.threads, phase)
        return int(phase)

    alone = fit(n_threads=1, max_iter=50)
    monkeypatch.setattr(gang, "available_threads", lambda: 2)
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
