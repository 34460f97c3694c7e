import re
from itertools import accumulate, product

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config

from fastadam.cpu.element import step_scalars
from fastadam.cpu.gradients import gradient_norm
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.step import step_kernel
from fastadam.cpu.threads import BLOCK, PARALLEL_BYTES
from fastadam.formulas import rules
from fastadam.formulas.step import G_AT, GROUP, HYPER, OFFSET, P_AT, SIZE, StepSpec
from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.naive import assert_same_bits

FLOATS = [np.float32, np.float64]
RULES = [rules.ADAM, rules.AMSGRAD, rules.ADAM_HAT, rules.AMSGRAD_HAT]
VARIANTS = [StepSpec(*flags) for flags in product(RULES, ["none", "coupled", "decoupled"], [False, True])]
PLAIN = StepSpec(rules.ADAM)
LR, DECAY = 0.01, 0.1


def segments_of(params, rows):
    """The table of segments for arrays of parameters and rows of as many gradients."""
    table = np.zeros((G_AT + len(rows), len(params) + 1), np.int64)
    table[GROUP] = 1
    table[SIZE, :-1] = [part.size for part in params]
    table[OFFSET, 1:] = np.cumsum(table[SIZE, :-1])
    for row, arrays in [(P_AT, params), *((G_AT + k, grads) for k, grads in enumerate(rows))]:
        table[row, :-1] = [array.ctypes.data for array in arrays]
    return table


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


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_every_variant_of_the_serial_kernel_equals_the_naive_bits(spec):
    assert_kernel_is_exact(spec, False, [naive.start(67, np.float64)], np.float64)


@pytest.mark.parametrize("spec", [PLAIN, StepSpec(rules.AMSGRAD, "decoupled", True)], ids=str)
@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_the_parallel_kernel_equals_the_naive_bits_at_the_borders_of_blocks(spec, n, threads):
    assert_kernel_is_exact(spec, True, [naive.start(n, np.float32)], np.float32)


@pytest.mark.parametrize("parallel", [False, True])
@given(sizes=st.lists(st.sampled_from([0, 1, 2, 15, 1000, BLOCK - 1, BLOCK, 2 * BLOCK + 1]), max_size=8))
@settings(max_examples=25)
def test_any_split_into_arrays_gives_the_same_bits(parallel, sizes):
    start = naive.start(sum(sizes), np.float32)
    parts = np.split(start, list(accumulate(sizes))[:-1]) if sizes else []
    assert_kernel_is_exact(PLAIN, parallel, parts, np.float32)


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


def test_every_variant_has_a_name_of_its_own_in_the_cache():
    flags = [{}, *({name: True} for name in ("scale", "clip", "ema", "zero_grad"))]
    variants = [spec._replace(**flag) for spec in VARIANTS for flag in flags]
    assert len({str(spec) for spec in variants}) == len(variants)


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_kernels_are_made_once_and_compiled_on_first_use():
    assert step_kernel(PLAIN, "float32", False) is step_kernel(StepSpec(rules.ADAM), "float32", False)
    Adam(np.zeros(3))
    assert not step_kernel(StepSpec(rules.AMSGRAD, "coupled", True, ema=True), "float64", True).signatures


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


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_large_steps_run_the_parallel_kernel_and_small_ones_the_serial(threads, monkeypatch):
    chosen = []
    monkeypatch.setattr(
        "fastadam.optimizers.base.step_kernel", lambda spec, dtype, parallel: lambda *arguments: chosen.append(parallel)
    )
    for n in (PARALLEL_BYTES // 8 - 1, PARALLEL_BYTES // 8):
        Adam(np.zeros(n)).step(np.zeros(n))
    assert chosen == [False, threads > 1]


def norm(*rows, parallel=False):
    return gradient_norm(segments_of(rows[0], rows), rows[0][0].dtype.name, "", parallel)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 7, BLOCK, 3 * BLOCK + 5])
def test_the_norm_is_that_of_all_gradients_and_the_same_on_any_threads(n, dtype, threads):
    g = np.random.default_rng(n).standard_normal(n).astype(dtype)
    for grads in ([g], [g[: n // 2].copy(), g[n // 2 :].copy()]):
        assert norm(grads) == norm(grads, parallel=True) == pytest.approx(np.linalg.norm(g.astype("f8")), rel=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_norm_is_finite_just_where_the_gradient_is(dtype):
    largest = np.finfo(dtype).max / 8
    g = np.full(10, largest, dtype)
    assert norm([g]) == pytest.approx(np.sqrt(10.0) * float(largest), rel=1e-6)
    g[3] = -np.inf
    assert norm([g]) == np.inf
    g[4] = np.nan
    assert np.isnan(norm([np.zeros(3, dtype), g]))
