from itertools import accumulate, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.step import step_kernel
from fastadam.cpu.threads import BLOCK
from fastadam.formulas import rules
from fastadam.formulas.step import StepSpec
from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.effort import examples
from tests.helpers.naive import assert_same_bits
from tests.helpers.segments import segments_of

FLOATS = [np.float32, np.float64]
RULES = [rules.ADAM, rules.AMSGRAD, rules.ADAM_HAT, rules.AMSGRAD_HAT]
VARIANTS = [StepSpec(*flags) for flags in product(RULES, ["none", "coupled", "decoupled"], [False, True])]
PLAIN = StepSpec(rules.ADAM)
LR, DECAY = 0.01, 0.1


def run(spec, parallel, parts, cycle, steps=3):
    """Take steps with a kernel on copies of `parts`; returns the parameters and the state, flat."""
    dtype = cycle.dtype
    params = [np.array(part) for part in parts]
    offsets = [0, *accumulate(part.size for part in params)]
    state = np.zeros((len(spec.rule.states), offsets[-1]), dtype)
    state_addresses = np.array([row.ctypes.data for row in state], np.int64)
    decay = {"none": 0.0, "coupled": DECAY, "decoupled": 1.0 - LR * DECAY}[spec.decay]
    settings = np.array([np.zeros(6), [decay, 1.0, LR, 0.9, 0.999, 1e-8]])
    for t in range(1, steps + 1):
        grads = np.split(cycle[t % len(cycle)], offsets[1:-1])
        table = segments_of(params, [grads])
        step_kernel(spec, dtype.name, parallel)(table, state_addresses, settings, t)
    return np.concatenate([*params, np.zeros(0, dtype)]), *state


def expected(spec, start, cycle, steps=3):
    reference = naive.Adam(
        start, LR, weight_decay=0.0 if spec.decay == "none" else DECAY,
        decoupled_weight_decay=spec.decay == "decoupled", amsgrad="amsgrad" in spec.rule.name,
        maximize=spec.maximize, epsilon_hat="hat" in spec.rule.name,
    )  # fmt: skip
    for t in range(1, steps + 1):
        reference.step(cycle[t % len(cycle)])
    return (reference.p, reference.m, reference.v, reference.v_max)[: 1 + len(spec.rule.states)]


def assert_kernel_is_exact(spec, parallel, parts, dtype):
    start = np.concatenate([*parts, np.zeros(0, dtype)])
    cycle = naive.gradients(start.size, dtype)
    results = run(spec, parallel, parts, cycle)
    for actual, wanted in zip(results, expected(spec, start, cycle), strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.thin(8)
@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_every_variant_of_the_serial_kernel_equals_the_naive_bits(spec):
    assert_kernel_is_exact(spec, False, [naive.start(67, np.float64)], np.float64)


@pytest.mark.parametrize("spec", [PLAIN, StepSpec(rules.AMSGRAD, "decoupled", True)], ids=str)
@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_the_parallel_kernel_equals_the_naive_bits_at_the_borders_of_blocks(spec, n, threads):
    assert_kernel_is_exact(spec, True, [naive.start(n, np.float32)], np.float32)


@pytest.mark.parametrize("parallel", [False, True])
@given(sizes=st.lists(st.sampled_from([0, 1, 2, 15, 1000, BLOCK - 1, BLOCK, 2 * BLOCK + 1]), max_size=8))
@examples(25)
def test_any_split_into_arrays_gives_the_same_bits(parallel, sizes):
    start = naive.start(sum(sizes), np.float32)
    parts = np.split(start, list(accumulate(sizes))[:-1]) if sizes else []
    assert_kernel_is_exact(PLAIN, parallel, parts, np.float32)


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_kernels_are_made_once_and_compiled_on_first_use():
    assert step_kernel(PLAIN, "float32", False) is step_kernel(StepSpec(rules.ADAM), "float32", False)
    Adam(np.zeros(3))
    assert not step_kernel(StepSpec(rules.AMSGRAD, "coupled", True, ema=True), "float64", True).signatures
