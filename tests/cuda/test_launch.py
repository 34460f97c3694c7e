"""Launches, and those that a CUDA graph replays, under Numba's simulator."""

import numpy as np
import pytest

from fastadam.optimizers.adam import Adam, NAdam
from tests.helpers import naive
from tests.helpers.cuda_steps import (
    N,
    assert_equals,
    capture_everything,
    on_device,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def test_other_numbers_compile_no_other_kernels():
    made, g = Adam(on_device(np.ones(3))), on_device(np.ones(3))
    for lr in (0.5, 0.25, 0.125):
        made.lr = lr
        made.step(g)
    assert len(made.stepper._memory._compiled) == 1


class Graph:
    """A captured graph launches the same kernels with the same arguments, and nothing else of a step runs."""

    def __init__(self, made, monkeypatch):
        self._launches, self._memory, self._patch = [], made.stepper._memory, monkeypatch

    def capture(self, step):
        launch = self._memory._launch
        with self._patch.context() as patch:
            capture_everything(patch)
            patch.setattr(self._memory, "_launch", lambda *arguments: self._launches.append(arguments))
            step()
        self._launch = launch

    def replay(self):
        for arguments in self._launches:
            self._launch(*arguments)


def test_a_replayed_step_goes_on_with_what_the_device_knows(monkeypatch):
    p, g = on_device(naive.start(N, np.float32)), on_device(naive.gradients(N, np.float32)[0])
    made, reference = NAdam(p), naive.NAdam(naive.start(N, np.float32))
    made.step(g)
    reference.step(g.host)
    graph = Graph(made, monkeypatch)
    graph.capture(lambda: made.step(g))
    for lr in (2e-3, 1e-1, 1e-3):
        made.lr = reference.lr = lr
        graph.replay()
        reference.step(g.host)
    assert made.t == 4
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("options", [{}, {"on_nonfinite": "skip"}])
def test_a_graph_keeps_its_gradients_whatever_is_stepped_beside_it(monkeypatch, options):
    cycle = naive.gradients(N, np.float32)
    p, grads = on_device(naive.start(N, np.float32)), [on_device(g) for g in cycle]
    made, reference = Adam(p, **options), naive.Adam(naive.start(N, np.float32))
    made.step(grads[0])
    graph = Graph(made, monkeypatch)
    graph.capture(lambda: made.step(grads[0]))
    made.step(grads[1])
    graph.replay()
    made.step(grads[2])
    graph.replay()
    for k in (0, 1, 0, 2, 0):
        reference.step(cycle[k])
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}])
def test_nothing_is_written_while_a_graph_is_captured(monkeypatch, options):
    p, g = on_device(np.ones(3)), on_device(np.ones(3))
    made, fresh = (Adam(p, **options) for _ in range(2))
    made.step(g)
    capture_everything(monkeypatch)
    made.step(g)
    before = "take one step with the same arrays and settings before the capture"
    with pytest.raises(RuntimeError, match=f"the gradients changed while a CUDA graph is captured.*{before}"):
        made.step(on_device(np.ones(3)))
    with pytest.raises(RuntimeError, match=before):
        made.step(g, g)
    with pytest.raises(RuntimeError, match=before):
        fresh.step(g)


def test_settings_that_change_just_before_a_capture(monkeypatch):
    made, g = Adam(on_device(np.ones(3))), on_device(np.ones(3))
    made.step(g)
    made.lr = 0.5
    capture_everything(monkeypatch)
    with pytest.raises(
        RuntimeError, match=r"the settings or .* changed while a CUDA graph is captured, or just before"
    ):
        made.step(g)
    monkeypatch.undo()
    made.step(g)
    assert made.t == 2


def test_a_graph_cannot_wait(monkeypatch):
    made, g = Adam(on_device(np.ones(3)), on_nonfinite="raise"), on_device(np.ones(3))
    made.step(g)
    capture_everything(monkeypatch)
    with pytest.raises(RuntimeError, match='on_nonfinite="raise" waits for the device'):
        made.step(g)
    assert made.t == 1
