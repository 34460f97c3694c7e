"""The loop over elements: its scalars, and the type that it computes in."""

import re

import numba
import numpy as np
import pytest
from numba.core import config

from fastadam.cpu.element import step_scalars
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.step import step_kernel
from fastadam.formulas import rules
from fastadam.formulas.step import HYPER, StepSpec
from tests.helpers.segments import segments_of

FLOATS = [np.float32, np.float64]
_adam_scalars = step_scalars(rules.ADAM)


@numba.njit
def scalars_of_step(like, t, group):  # Python cannot call a function that is made for kernels
    return _adam_scalars(like, t, group)


@pytest.mark.parametrize("dtype", FLOATS)
def test_host_scalars_are_computed_in_float64_and_rounded_once(dtype):
    beta1, beta2 = 0.9, 0.999
    group = np.array([*[0.0] * HYPER, 0.3, beta1, beta2, 1e-8])
    for t in (1, 10, 100_000):
        wide = (0.3 / (1 - beta1**t), 1 / np.sqrt(1 - beta2**t), beta1, 1 - beta1, beta2, 1 - beta2, 1e-8)
        result = scalars_of_step(np.zeros(0, dtype), t, group)
        np.testing.assert_array_equal(np.array(result, dtype), np.array(wide).astype(dtype), strict=True)


@pytest.mark.thin(2)
@pytest.mark.skipif(JIT_DISABLED or config.BOUNDSCHECK, reason="checks of bounds keep loops from vectors")
@pytest.mark.parametrize(
    "rule", [rules.ADAM, rules.AMSGRAD, rules.ADAMAX, rules.RADAM, rules.LION], ids=lambda rule: rule.name
)
def test_nothing_in_a_float32_loop_is_computed_in_float64(rule):
    step = step_kernel(StepSpec(rule._replace(cached=False)), "float32", False)  # what is cached cannot be looked at
    step(segments_of([], [[]]), np.zeros(4, np.int64), np.zeros((2, 9)), 1)
    (code,) = step.inspect_llvm().values()
    vectors = re.findall(r"<\d+ x (float|double)>", code)
    assert "float" in vectors
    assert "double" not in vectors
