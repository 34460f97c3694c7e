import numpy as np
import pytest

from fastadam.cpu.arrays import HostArrays
from fastadam.cpu.stepper import HostStepper
from fastadam.formulas import rules
from fastadam.formulas.step import HYPER, StepSpec
from fastadam.formulas.stepper import StepPlan


def halving(p, g, weight):
    return p - weight * g


def halving_scalars(t, lr, weight):
    return (lr * weight,)


def halving_carry(t, lr, weight):
    return weight / 2


HALVING = rules.Rule("halving", halving, halving_scalars, (), ("lr", "weight"), carry=halving_carry, cached=False)
"""A rule that carries something else than NAdam does."""


def plan_of(rule, *hyper, **options):
    return StepPlan(StepSpec(rule), [[0.0, 1.0, *row] for row in hyper], **options)


def stepper_of(params, plan, group_of=None):
    arrays = HostArrays(params)
    return HostStepper(arrays, plan, np.zeros(len(arrays.names), np.int64) if group_of is None else group_of, {})


def test_what_a_rule_carries_is_kept_for_each_group_of_any_rule():
    p, q = np.zeros(3), np.zeros(3)
    stepper = stepper_of([p, q], plan_of(HALVING, (1.0, 1.0), (10.0, 1.0)), np.array([0, 1]))
    assert stepper.carried == [1.0, 1.0]
    for _ in range(3):
        stepper.step([[np.ones(3), np.ones(3)]])
    assert (p == -1.75).all()
    assert (q == -17.5).all()
    assert stepper.carried == [0.125, 0.125]


def test_other_settings_leave_what_a_rule_carries():
    p = np.zeros(3)
    stepper = stepper_of(p, plan_of(HALVING, (1.0, 1.0)))
    stepper.step([np.ones(3)])
    stepper.configure(plan_of(HALVING, (8.0, 1.0)))
    stepper.step([np.ones(3)], 2.0)
    assert (p == -3.0).all()
    assert (stepper.t, stepper.carried) == (2, [0.25])


def test_an_engine_carries_on_in_the_settings_of_a_group():
    stepper = stepper_of(np.zeros(3), plan_of(HALVING, (1.0, 1.0)))
    stepper.group_settings(0)[HYPER + 1] = 0.75
    assert stepper.carried == [0.75]


def test_a_rule_without_carry_carries_nothing():
    stepper = stepper_of(np.zeros(3), plan_of(rules.SGD, (1.0,)))
    stepper.carried = []
    stepper.step([np.ones(3)])
    assert stepper.carried == []
    assert stepper.group_settings(0)[HYPER] == 1.0


def test_the_state_is_read_as_copies_and_written_as_a_whole():
    stepper = stepper_of(np.zeros(3), plan_of(rules.ADAM, (0.1, 0.9, 0.999, 1e-8)))
    read = stepper.read_state()
    assert stepper.state_layout() == {name: ((3,), np.dtype(np.float64)) for name in ("m", "v")}
    read["m"][:], read["v"][:] = 1.0, 2.0
    assert not any(array.any() for array in stepper.state.values())
    at = [array.ctypes.data for array in stepper.state.values()]
    stepper.write_state(read)
    assert stepper.state["m"].tolist() == [1.0] * 3
    assert stepper.state["v"].tolist() == [2.0] * 3
    assert [array.ctypes.data for array in stepper.state.values()] == at == stepper.state_addresses.tolist()


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}])
def test_a_stream_is_refused_on_the_host_and_nothing_is_changed(options):
    p = np.zeros(3)
    stepper = stepper_of(p, plan_of(rules.SGD, (1.0,), **options))
    with pytest.raises(TypeError, match="stream must be None where params lie on the host, got 7"):
        stepper.step([np.ones(3)], None, 7)
    assert stepper.t == 0
    assert not p.any()
