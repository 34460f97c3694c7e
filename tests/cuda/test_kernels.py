"""The functions for kernels of one's own, under Numba's simulator, beside the kernels of the host."""

import numpy as np
import pytest
from numba import cuda

from fastadam import kernels as host_kernels
from fastadam.cuda import kernels as device_kernels
from fastadam.formulas import rules
from tests.helpers.cuda_steps import (
    FLOATS,
)
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def published():
    """Each rule that has its functions, by name."""
    found = {rule.name: rule for rule in vars(rules).values() if isinstance(rule, rules.Rule)}
    return [rule for name, rule in found.items() if f"{name}_update" in device_kernels.__all__]


@pytest.mark.parametrize("rule", published(), ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_functions_for_kernels_do_what_the_kernels_on_the_host_do(rule, dtype):
    scalars, update = (getattr(device_kernels, f"{rule.name}_{name}") for name in ("scalars", "update"))
    hyper = {name: 0.25 + 0.125 * k for k, name in enumerate(rule.hyper)}
    rng, states = np.random.default_rng(0), len(rule.states)
    arrays = [rng.uniform(0.5, 1.0, 9).astype(dtype) for _ in range(2 + states)]
    expected = [array.copy() for array in arrays]
    host = getattr(host_kernels, f"{rule.name}_step_serial")

    @cuda.jit
    def step(p, g, state, t):
        numbers = scalars(p, t, *hyper.values())
        for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
            update(i, p, g, *state, numbers)

    there = [cuda.to_device(array) for array in arrays]
    for t in (1, 2, 3):
        step[2, 3](there[0], there[1], tuple(there[2:]), t)
        host(*expected, t, *hyper.values())
    for actual, wanted in zip(there, expected, strict=True):
        assert_same_bits(actual.copy_to_host(), wanted)


def test_every_rule_with_kernels_on_the_host_has_functions_on_the_device():
    names = {name.removesuffix("_step") for name in host_kernels.__all__ if name.endswith("_step")}
    assert {rule.name for rule in published()} == names
    assert len(device_kernels.__all__) == 2 * len(names)
