from itertools import accumulate, product

import naive
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import assert_same_bits

from fastadam import Adam
from fastadam.cpu import BLOCK, PARALLEL_BYTES, AdamVariant, adam_scalars, adam_step_kernel
from fastadam.jit import JIT_DISABLED

FLOATS = [np.float32, np.float64]
VARIANTS = [AdamVariant(*flags) for flags in product(["none", "coupled", "decoupled"], [False, True], [False, True])]
LR, DECAY = 0.01, 0.1


def run(variant, parallel, parts, cycle, steps=3, epsilon_hat=False):
    """Take steps with a kernel on copies of `parts`; returns the parameters and the moments, flat."""
    dtype = cycle.dtype
    params = [np.array(part) for part in parts]
    offsets = np.array([0, *accumulate(part.size for part in params)])
    m, v, v_max = np.zeros((3, offsets[-1]), dtype)
    p_at = np.array([part.ctypes.data for part in params], np.int64)
    decay = {"none": 0.0, "coupled": DECAY, "decoupled": 1.0 - LR * DECAY}[variant.decay]
    for t in range(1, steps + 1):
        grads = np.split(cycle[t % len(cycle)], offsets[1:-1])
        g_at = np.array([part.ctypes.data for part in grads], np.int64)
        kernel = adam_step_kernel(variant, parallel)
        kernel(p_at, g_at, offsets, m, v, v_max, t, LR, 0.9, 0.999, 1e-8, decay, epsilon_hat)
    return np.concatenate([*params, np.zeros(0, dtype)]), m, v, v_max


def expected(variant, start, cycle, steps=3, epsilon_hat=False):
    reference = naive.Adam(
        start, LR, weight_decay=0.0 if variant.decay == "none" else DECAY,
        decoupled_weight_decay=variant.decay == "decoupled",
        amsgrad=variant.amsgrad, maximize=variant.maximize, epsilon_hat=epsilon_hat,
    )  # fmt: skip
    for t in range(1, steps + 1):
        reference.step(cycle[t % len(cycle)])
    return reference.p, reference.m, reference.v, reference.v_max if variant.amsgrad else np.zeros_like(reference.v)


def assert_kernel_is_exact(variant, parallel, parts, dtype, **settings):
    start = np.concatenate([*parts, np.zeros(0, dtype)])
    cycle = naive.gradients(start.size, dtype)
    results = run(variant, parallel, parts, cycle, **settings)
    for actual, wanted in zip(results, expected(variant, start, cycle, **settings), strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.parametrize("epsilon_hat", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_of_the_serial_kernel_equals_the_naive_bits(variant, epsilon_hat):
    assert_kernel_is_exact(variant, False, [naive.start(67, np.float64)], np.float64, epsilon_hat=epsilon_hat)


@pytest.mark.parametrize("variant", [AdamVariant(), AdamVariant("decoupled", True, True)], ids=str)
@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_the_parallel_kernel_equals_the_naive_bits_at_the_borders_of_blocks(variant, n, threads):
    assert_kernel_is_exact(variant, True, [naive.start(n, np.float32)], np.float32)


@pytest.mark.parametrize("parallel", [False, True])
@given(sizes=st.lists(st.sampled_from([0, 1, 2, 15, 1000, BLOCK - 1, BLOCK, 2 * BLOCK + 1]), max_size=8))
@settings(max_examples=25)
def test_any_split_into_arrays_gives_the_same_bits(parallel, sizes):
    start = naive.start(sum(sizes), np.float32)
    parts = np.split(start, list(accumulate(sizes))[:-1]) if sizes else []
    assert_kernel_is_exact(AdamVariant(), parallel, parts, np.float32)


@numba.njit
def scalars_of_step(like, t, lr, beta1, beta2):  # Python cannot call a function that is made for kernels
    return adam_scalars(like, t, lr, beta1, beta2, 1e-8, False)


@pytest.mark.parametrize("dtype", FLOATS)
def test_host_scalars_are_computed_in_float64_and_rounded_once(dtype):
    beta1, beta2 = 0.9, 0.999
    for t in (1, 10, 100_000):
        wide = (0.3 / (1 - beta1**t), 1 / np.sqrt(1 - beta2**t), beta1, 1 - beta1, beta2, 1 - beta2, 1e-8)
        result = scalars_of_step(np.zeros(0, dtype), t, 0.3, beta1, beta2)
        np.testing.assert_array_equal(np.array(result, dtype), np.array(wide).astype(dtype), strict=True)


def test_every_variant_has_a_name_of_its_own_in_the_cache():
    assert len({str(variant) for variant in VARIANTS}) == len(VARIANTS)


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_kernels_are_made_once_and_compiled_on_first_use():
    assert adam_step_kernel(AdamVariant(), False) is adam_step_kernel(AdamVariant(), False)
    Adam(np.zeros(3))
    assert not adam_step_kernel(AdamVariant("coupled", True, True), True).signatures


@pytest.mark.skipif(JIT_DISABLED, reason="looks at compiled signatures")
def test_no_float64_array_argument_reaches_a_float32_kernel():
    Adam(p := np.zeros(3, np.float32)).step(np.ones_like(p))
    arrays = [argument for signature in adam_step_kernel(AdamVariant(), False).signatures for argument in signature]
    assert "array(float32, 1d, C)" in map(str, arrays)


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_large_steps_run_the_parallel_kernel_and_small_ones_the_serial(threads, monkeypatch):
    chosen = []
    monkeypatch.setattr(
        "fastadam.optimizers.adam_step_kernel",
        lambda variant, parallel: lambda *arguments: chosen.append(parallel),
    )
    for n in (PARALLEL_BYTES // 8 - 1, PARALLEL_BYTES // 8):
        Adam(np.zeros(n)).step(np.zeros(n))
    assert chosen == [False, threads > 1]
