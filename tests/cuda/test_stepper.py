"""Optimizers on a device under Numba's simulator, bit for bit: settings, groups, states, refusals, streams."""

import copy
import math

import numpy as np
import pytest

from fastadam import optimizer
from fastadam.cuda import arrays
from fastadam.cuda import stepper as stepper_module
from fastadam.formulas.stepper import LocatedArrays, Stepper
from fastadam.optimizers.adam import Adam, NAdam
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.cuda_arrays import FakeDeviceArray
from tests.helpers.cuda_steps import (
    STEPS,
    N,
    host_state,
    on_device,
    steps,
)
from tests.helpers.family import EVERYTHING
from tests.helpers.naive import assert_same_bits
from tests.helpers.protocols import public_names

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def test_a_step_that_is_not_finite_is_refused():
    p = on_device(naive.start(N, np.float32))
    made, g = Adam(p, on_nonfinite="raise"), np.ones(N, np.float32)
    made.step(on_device(g))
    before = p.host.copy(), host_state(made)
    g[70] = np.nan
    with pytest.raises(FloatingPointError, match="grads must be finite, got infinity or NaN; nothing was changed"):
        made.step(on_device(g))
    assert (made.t, made.skipped_steps) == (1, 0)
    assert_same_bits(p.host, before[0])
    for now, then in zip(host_state(made), before[1], strict=True):
        assert_same_bits(now, then)
    g[70] = 1.0
    made.step(on_device(g))
    assert made.t == 2


def test_groups_have_their_own_settings():
    sizes, dtype = [40, 33, 5], np.float32
    parts = np.split(naive.start(sum(sizes), dtype), np.cumsum(sizes)[:-1])
    arrays = {name: on_device(part) for name, part in zip("abc", parts, strict=True)}
    groups = {"slow": {"params": ["b"], "lr": 1e-4, "betas": (0.8, 0.99)}, "still": {"params": ["c"], "frozen": True}}
    made = NAdam(arrays, groups=groups)
    references = [naive.NAdam(parts[0]), naive.NAdam(parts[1], lr=1e-4, betas=(0.8, 0.99))]
    for g in naive.gradients(sum(sizes), dtype)[:STEPS]:
        grads = np.split(g, np.cumsum(sizes)[:-1])
        made.step({name: on_device(part) for name, part in zip("abc", grads, strict=True)})
        for reference, part in zip(references, grads, strict=False):
            reference.step(part)
    for name, reference in zip("ab", references, strict=False):
        assert_same_bits(arrays[name].host, reference.p)
    assert_same_bits(arrays["c"].host, parts[2])
    made.set_group("still", frozen=False)
    made.step({name: on_device(np.ones(size, dtype)) for name, size in zip("abc", sizes, strict=True)})
    assert (arrays["c"].host != parts[2]).all()


@pytest.mark.parametrize(
    ("of", "options"), list(EVERYTHING.items()), ids=lambda value: getattr(value, "__name__", None)
)
def test_host_and_device_go_on_from_each_others_state(of, options):
    start, cycle = naive.start(N, np.float32), naive.gradients(N, np.float32)
    p = on_device(start)
    there, here_p = of(p, **options, ema_decay=0.9), start.copy()
    here = of(here_p, **options, ema_decay=0.9)
    steps(there, cycle)
    here.load_state_dict(there.state_dict())
    here_p[:] = p.host
    back_p = on_device(p.host)
    back = of(back_p, **options, ema_decay=0.9)
    back.load_state_dict(here.state_dict())
    for made, params in ((there, p), (back, back_p)):
        made.step(on_device(cycle[3]))
        made.step(on_device(cycle[4]))
        assert made.t == 5
        assert params is not None
    for g in cycle[3:5]:
        here.step(np.array(g))
    assert_same_bits(p.host, here_p)
    assert_same_bits(back_p.host, here_p)
    for name, value in here.state_dict().items():
        if isinstance(value, np.ndarray):
            assert_same_bits(there.state_dict()[name], value)
            assert_same_bits(back.state_dict()[name], value)
        else:
            assert back.state_dict()[name] == value


def test_a_rule_of_the_users_own():
    def bounded(p, g, buffer, lr, bound):
        buffer = 0.5 * buffer + g
        return p - min(max(lr * buffer, -bound), bound), buffer

    p = on_device(np.array([100.0, -1.0, 0.25]))
    made = optimizer(bounded, state=["buffer"], lr=0.5, bound=1.0)(p)
    made.step(on_device(np.array([10.0, -10.0, 0.5])))
    assert_same_bits(p.host, np.array([99.0, 0.0, 0.0]))


def test_an_optimizer_on_a_device_is_of_the_same_class():
    made = Adam(on_device(np.ones(3)), lr=0.5)
    assert type(made) is Adam
    assert all(hasattr(made.stepper, name) for name in public_names(Stepper))
    assert all(hasattr(made.stepper.arrays, name) for name in public_names(LocatedArrays))
    assert repr(made).startswith("Adam(3 float64 parameters, lr=0.5")
    assert set(made.state) == set(made.moments) == {"m", "v"}
    assert made.params.host.shape == (3,)
    assert type(Adam(np.ones(3))) is Adam


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scales(scale):
    with pytest.raises(ValueError, match="grad_scale must be"):
        Adam(on_device(np.ones(3))).step(on_device(np.ones(3)), grad_scale=scale)


def test_device_gradients_for_host_parameters():
    with pytest.raises(TypeError, match="grads must be a NumPy array"):
        Adam(np.ones(3)).step(on_device(np.ones(3)))


def test_it_is_neither_pickled_nor_copied():
    with pytest.raises(TypeError, match="cannot be pickled or copied: save its state_dict"):
        copy.deepcopy(Adam(on_device(np.ones(3))))


def test_a_launch_on_another_stream_waits_by_events(monkeypatch):
    waited = []

    class Event:
        def record(self, stream):
            self.recorded = stream

        def wait(self, stream):
            waited.append((self.recorded, stream))

    monkeypatch.setattr(stepper_module, "other_streams", lambda launched_on, arrays: [70, 90])
    monkeypatch.setattr(stepper_module.cuda, "event", lambda timing: Event())
    made = Adam(on_device(np.ones(3)))
    made.step(on_device(np.ones(3)))
    assert waited == [(70, 0), (90, 0)]
    monkeypatch.setattr(stepper_module, "is_capturing", lambda stream: True)  # a capture may wait for nothing outside
    made.step(on_device(np.ones(3)))
    assert len(waited) == 2


def test_what_dlpack_lends_is_kept_until_the_step_is_done_with_it(monkeypatch):
    done = []

    class Event:
        def record(self, stream):
            pass

        def query(self):
            return bool(done)

    class Lender:  # nothing but DLPack
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return 2, 0

    monkeypatch.setattr(arrays, "_from_dlpack", lambda lender: FakeDeviceArray(lender.array))
    monkeypatch.setattr(stepper_module.cuda, "event", lambda timing: Event())
    p = on_device(np.ones(3))
    made = SGD(p, lr=1.0)
    made.step(Lender(np.full(3, 0.25)))
    made.step(Lender(np.full(3, 0.25)))
    assert len(made.stepper._held) == 2
    done.append(True)
    made.step(on_device(np.full(3, 0.5)))
    assert not made.stepper._held
    assert not p.host.any()
