"""The elementary functions: their distance from the exact values, their edges, and that loops of them are vectors."""

import math
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from numba.core import config
from numba.core.caching import NullCache
from scipy import special

from fastadam.cpu import vector_math
from fastadam.cpu.jit import JIT_DISABLED, kernel
from fastadam.cpu.layers import backward_kernel, forward_kernel

DTYPES = [np.float32, np.float64]
# The largest errors in units in the last place, as the module's docstring has them.
LIMITS = {"erfc": 8, "exp": 1.1, "expm1": 2.2, "log1p": 2.0, "tanh": 2.6}
STEPS = 300 if JIT_DISABLED else 200_001


def numpys(name, x):
    """NumPy's function or, where it has none, SciPy's, or Python's, which is the more precise."""
    if name != "erfc":
        return getattr(np, name)(x)
    return special.erfc(x) if x.dtype == np.float32 else np.array([math.erfc(v) for v in x])


def exactly(name, x):
    return numpys(name, x.astype(float if name == "erfc" else np.longdouble)).astype(np.longdouble)


@pytest.fixture(scope="module")
def loops():
    return {name: loop_of(name) for name in LIMITS}


def loop_of(name):
    function = getattr(vector_math, name)

    @kernel(cached=False)
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return loop


def evaluate(loop, x):
    out = np.empty_like(x)
    loop(x, out)
    return out


def domain(name, dtype):
    info = np.finfo(dtype)
    overflow = math.log(2) * info.maxexp
    return {
        "erfc": (-7.0, math.sqrt(math.log(2) * -info.minexp) - 0.3),
        "exp": (math.log(2) * (info.minexp - info.nmant), overflow),
        "expm1": (-50.0, overflow),
        "log1p": (-1.0, float(info.max)),
        "tanh": (-25.0, 25.0),
    }[name]


def points(name, dtype):
    """Dense where the functions bend, and over all magnitudes of both signs."""
    rng, info = np.random.default_rng(0), np.finfo(dtype)
    low, high = domain(name, dtype)
    logarithms = rng.uniform(math.log(info.tiny), math.log(info.max) * 0.999, STEPS)
    x = np.concatenate([
        np.linspace(max(low, -1e3), min(high, 1e3), STEPS),
        np.linspace(-1, 1, STEPS),
        np.exp(logarithms) * rng.choice([-1, 1], STEPS),
    ]).astype(dtype)  # fmt: skip
    return x[(x > low) & (x < high)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_the_error_is_a_few_units_in_the_last_place(name, dtype, loops):
    if dtype is np.float64 and np.finfo(np.longdouble).nmant < 63:
        pytest.skip("no type here is more precise")
    x = points(name, dtype)
    exact = exactly(name, x)
    with np.errstate(over="ignore"):
        unit = np.spacing(abs(exact.astype(dtype))).astype(np.longdouble)
    assert x.size > STEPS
    assert (abs(evaluate(loops[name], x) - exact) / unit).max() < LIMITS[name]


def edges(dtype):
    info = np.finfo(dtype)
    finite = [0.0, info.smallest_subnormal, info.tiny, info.max, 1.0, 2.0, np.nextafter(dtype(1), dtype(0)), 100.0, 1e4]
    return np.array([*finite, *(-np.array(finite)), math.inf, -math.inf, math.nan], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_zeros_infinities_nan_and_the_smallest_and_largest_numbers_are_as_numpys(name, dtype, loops):
    x = edges(dtype)
    got = evaluate(loops[name], x)
    with np.errstate(all="ignore"):
        expected = numpys(name, x)
    np.testing.assert_allclose(
        got, expected, rtol=max(4, LIMITS[name]) * np.finfo(dtype).eps
    )  # which takes NaN for equal, and ∞
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(expected[number]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_underflows_by_way_of_subnormal_numbers(dtype, loops):
    info = np.finfo(dtype)
    x = np.linspace(math.log(2) * (info.minexp - info.nmant - 2), math.log(2) * info.minexp, 200).astype(dtype)
    got, exact = evaluate(loops["exp"], x), np.exp(x.astype(np.longdouble))
    assert np.abs(got - exact).max() < 1.1 * np.longdouble(info.smallest_subnormal)
    assert got[0] == 0 < got[100] < info.tiny
    assert (np.diff(got) >= 0).all()


@given(st.floats(allow_nan=False))
def test_tanh_is_odd_and_never_beyond_1(loops, x):
    above, below = evaluate(loops["tanh"], np.array([x, -x]))
    assert above == -below
    assert abs(above) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_the_bits_do_not_depend_on_the_place_in_a_vector(name, dtype, loops):
    x = points(name, dtype)[: 200 if JIT_DISABLED else 1000]
    together = evaluate(loops[name], x)
    np.testing.assert_array_equal(together, [evaluate(loops[name], x[i : i + 1])[0] for i in range(x.size)])


BITS = """
import numpy as np
from fastadam.cpu import vector_math
for dtype in (np.float32, np.float64):
    x = np.concatenate([np.linspace(-9, 9, 40), [-1e4, -100, -0.0, 1e-40, 100, 1e4]]).astype(dtype)
    for name in ("erfc", "exp", "expm1", "log1p", "tanh"):
        print(np.array([getattr(vector_math, name)(v) for v in x], dtype).tobytes().hex())
"""


@pytest.mark.skipif(JIT_DISABLED, reason="compares with compiled functions")
def test_interpreted_they_have_the_same_bits(loops):
    arguments = [sys.executable, "-W", "error", "-c", BITS]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=True)
    lines = iter(done.stdout.split())
    for dtype in DTYPES:
        x = np.concatenate([np.linspace(-9, 9, 40), [-1e4, -100, -0.0, 1e-40, 100, 1e4]]).astype(dtype)
        for name in LIMITS:
            interpreted = np.frombuffer(bytes.fromhex(next(lines)), dtype)
            np.testing.assert_array_equal(evaluate(loops[name], x), interpreted)


# --- machine code -----------------------------------------------------------------------------------------------------

compiled = pytest.mark.skipif(JIT_DISABLED or config.BOUNDSCHECK, reason="checks of bounds keep loops from vectors")
has_avx = platform.machine() in {"x86_64", "AMD64"} and get_host_cpu_features().get("avx2", False)


@pytest.mark.thin(5)
@compiled
@pytest.mark.skipif(not has_avx, reason="knows the instructions of AVX")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_a_loop_is_of_whole_vectors_and_no_operation_is_fused(name, dtype):
    loop = loop_of(name)
    evaluate(loop, np.zeros(1, dtype))
    (code,) = loop.inspect_asm().values()
    multiply = "vmulps" if dtype is np.float32 else "vmulpd"
    assert re.search(rf"{multiply}\s[^\n]*%[yz]mm", code)
    assert "vfm" not in code


def llvm_of(made, *arguments):
    """The code of an activation's kernel; what is loaded from a cache cannot be looked at."""
    made._cache = NullCache()
    made(*arguments)
    (code,) = made.inspect_llvm().values()
    return code


@pytest.mark.thin(5)
@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tanh", "logistic", "softplus", "mish", "gelu"])
def test_the_loops_of_the_activations_are_of_vectors_in_the_type_of_their_elements(name, dtype):
    Z = np.zeros((1, 1), dtype)
    for code in (
        llvm_of(forward_kernel.__wrapped__(name), Z, Z[0], Z),
        llvm_of(backward_kernel.__wrapped__(name), Z, Z),
    ):
        multiplied = re.findall(r"= fmul <\d+ x (\w+)>", code)
        assert set(multiplied) == {"float" if dtype is np.float32 else "double"}
