import os
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.naive import assert_same_bits

LARGE = PARALLEL_BYTES // 4 + 3

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="no thread is launched")

STEP = f"""
import os, sys, threading
import numpy as np
from fastadam import Adam
def step():
    p = np.linspace(1, 2, {LARGE}, dtype="f4")
    optimizer = Adam(p)
    for _ in range(3):
        optimizer.step(p.copy())
    return p.tobytes()
"""
IN_CHILDREN = """
def in_child(task):
    child = os.fork()
    if not child:
        os._exit(0 if task() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert in_child(lambda: step())  # before its parent started any thread
bits = step()
assert in_child(lambda: step() == bits)
assert in_child(lambda: in_child(lambda: step() == bits))
assert step() == bits
"""
IN_TWO_THREADS = """
results = []
threads = [threading.Thread(target=lambda: [results.append(step()) for _ in range(20)]) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert results == [step()] * 40
"""


def run(code, **variables):
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], env=environment | variables,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_children_take_large_steps_with_the_same_bits():
    run(STEP + IN_CHILDREN)


def test_two_threads_may_step_at_once_on_the_layer_that_cannot_launch_twice():
    run(STEP + IN_TWO_THREADS, NUMBA_THREADING_LAYER="workqueue")


def test_two_optimizers_may_step_in_two_threads_at_once():
    start, cycle = naive.start(LARGE, np.float32), naive.gradients(LARGE, np.float32)
    optimizers = [Adam(start.copy()) for _ in range(2)]

    def train(optimizer):
        for t in range(30):
            optimizer.step(cycle[t % len(cycle)])

    threads = [threading.Thread(target=train, args=(optimizer,)) for optimizer in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for optimizer in optimizers:
        assert_same_bits(optimizer.params, naive.trained(LARGE, np.float32, 30).p)


def test_a_step_leaves_the_number_of_threads_as_it_was(threads):
    Adam(p := np.ones(LARGE, np.float32)).step(p.copy())
    assert numba.get_num_threads() == threads


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_large_steps_run_the_parallel_kernel_and_small_ones_the_serial(threads, monkeypatch):
    chosen = []
    monkeypatch.setattr(
        "fastadam.cpu.stepper.step_kernel", lambda spec, dtype, parallel: lambda *arguments: chosen.append(parallel)
    )
    for n in (PARALLEL_BYTES // 8 - 1, PARALLEL_BYTES // 8):
        Adam(np.zeros(n)).step(np.zeros(n))
    assert chosen == [False, threads > 1]
