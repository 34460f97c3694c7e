"""The processor that is compiled for: what is read from Numba, and that code without its instructions is right."""

import os
import platform
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba.core import config
from numba.core.registry import cpu_target

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.matmul import INNER, PANEL_BYTES, TILE_ROWS
from fastadam.cpu.target import TARGET, probed_instructions, target_of
from fastadam.environment import info

x86 = pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="the names of x86 processors")
compiled = pytest.mark.skipif(JIT_DISABLED or config.BOUNDSCHECK, reason="looks at code that is compiled as usual")
TRIPLE = llvm.get_process_triple()


# name, features: fused, masked, halves, bytes of a vector
X86 = {
    ("generic", ""): (False, False, False, 16),
    ("x86-64-v2", ""): (False, False, False, 16),
    ("sandybridge", ""): (False, True, False, 16),
    ("ivybridge", ""): (False, True, True, 16),
    ("bdver2", ""): (True, True, True, 16),
    ("x86-64-v3", ""): (True, True, True, 32),
    ("haswell", ""): (True, True, True, 32),
    ("haswell", "-fma"): (False, True, True, 16),
    ("haswell", "-avx"): (False, False, False, 16),
    ("generic", "+fma"): (True, True, False, 16),
    ("generic", "+fma,+avx2,+f16c"): (True, True, True, 32),
    ("generic", "+fma,-avx"): (False, False, False, 16),
    ("sapphirerapids", ""): (True, True, True, 32),
    ("znver3", ""): (True, True, True, 32),
    ("znver4", ""): (True, True, True, 64),
    ("znver5", ""): (True, True, True, 64),
    ("znver5", "-avx512f"): (True, True, True, 32),
}


@x86
@pytest.mark.parametrize(("name", "features"), X86)
def test_a_processor_has_the_instructions_of_its_name_and_its_features(name, features):
    target = target_of(TRIPLE, name, features)
    found = target.fused, target.masked, target.halves, target.vector_bytes
    assert found == X86[name, features]
    assert target.many_registers == (target.vector_bytes == 64)


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin", "powerpc64le-unknown-linux-gnu"])
def test_other_processors_have_a_fused_multiply_add(triple):
    target = target_of(triple, "any", "")
    assert (target.fused, target.masked, target.vector_bytes) == (True, False, 16)
    assert target.halves == target.many_registers == triple.startswith(("aarch64", "arm64"))


@x86
def test_the_list_of_the_host_says_what_its_code_shows():
    features = llvm.get_host_cpu_features()
    listed = {name for name in ("avx", "avx2", "avx512f", "f16c", "fma") if features[name]}
    assert probed_instructions(TRIPLE, llvm.get_host_cpu_name(), features.flatten()) == listed


def test_it_is_the_target_of_numba_and_all_sizes_come_from_it():
    assert target_of(*cpu_target.target_context.codegen().magic_tuple()) == TARGET
    assert (INNER * 2 * TARGET.vector_bytes, 8 if TARGET.many_registers else 6) == (PANEL_BYTES, TILE_ROWS)
    described = info()["CPU"]
    assert f"code for {TARGET.name}, with{'' if TARGET.fused else 'out'} fused multiply-add" in described
    assert f"vectors of {TARGET.vector_bytes} bytes" in described


# --- for other processors than this one -------------------------------------------------------------------------------

GENERIC = {"NUMBA_CPU_NAME": "generic"}


def run(code, environment, cache):
    """Lines printed by a process that compiles for another processor."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU_")}
    arguments, environment = [sys.executable, "-W", "error", "-c", code], own | environment
    environment["NUMBA_CACHE_DIR"] = str(cache)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


SIZES_ON_ANOTHER_HOST = """
import llvmlite.binding as llvm
from llvmlite.binding.targets import FeatureMap
host = llvm.get_host_cpu_name(), llvm.get_host_cpu_features()
if {old!r}:
    llvm.get_host_cpu_name = lambda: "nehalem"
    llvm.get_host_cpu_features = lambda: FeatureMap(dict.fromkeys(host[1], False))
from fastadam.cpu import matmul
print(matmul.VECTOR_BYTES, matmul.TILE_ROWS, matmul.PANEL_BYTES)
"""


@pytest.mark.thin(2)
@x86
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("environment", "sizes"),
    [(GENERIC, "16 6 8192"), ({"NUMBA_CPU_NAME": "znver5", "NUMBA_CPU_FEATURES": "+avx512f"}, "64 8 32768")],
    ids=["generic", "znver5"],
)
def test_the_sizes_do_not_depend_on_the_host(environment, sizes, old, tmp_path):
    """Hosts that share a cache of code for one target must agree on the memory that the code is given."""
    assert run(SIZES_ON_ANOTHER_HOST.format(old=old), environment, tmp_path) == [sizes]


PRODUCTS = """
import re
import numpy as np
from fastadam.cpu.matmul import PANEL_BYTES, matmul, matmul_transposed, squared_norm, transposed_matmul
from fastadam.cpu.jit import kernel

@kernel(cached=False)
def products(A, B, BT, AT, C, panel):
    matmul(A, B, C[0], False, panel)
    matmul_transposed(A, BT, C[1], panel)
    transposed_matmul(AT, B, C[2], False, panel)
    return squared_norm(A.reshape(A.size), 1, A.size)

for dtype in (np.float32, np.float64):
    for rows, inner, columns in ((1, 1, 2), (13, 7, 3), (6, 300, 8), (12, 5, 19)):
        rng = np.random.default_rng(0)
        A, B = rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((inner, columns)).astype(dtype)
        C, panel = np.empty((3, rows, columns), dtype), np.empty(PANEL_BYTES // A.itemsize, dtype)
        norm = products(A, B, np.ascontiguousarray(B.T), np.ascontiguousarray(A.T), C, panel)
        print(C.tobytes().hex(), dtype(norm).tobytes().hex())
for code in products.inspect_asm().values():
    print(len(re.findall(r"\\bfmaf?\\b", code)))  # the functions of the C library
"""


def expected_products():
    """The sums in their order, each product and each sum rounded; and the norm, which is in another order."""
    for dtype in (np.float32, np.float64):
        for rows, inner, columns in ((1, 1, 2), (13, 7, 3), (6, 300, 8), (12, 5, 19)):
            rng = np.random.default_rng(0)
            A, B = rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((inner, columns)).astype(dtype)
            C = np.zeros((rows, columns), dtype)
            for k in range(inner):
                C += A[:, k : k + 1] * B[k]
            yield C, A.reshape(A.size)[1:] @ A.reshape(A.size)[1:]


@pytest.mark.thin(1)
@x86
@compiled
@pytest.mark.parametrize(
    "environment",
    [GENERIC, pytest.param({"NUMBA_CPU_FEATURES": "-fma"}, marks=pytest.mark.slow)],
    ids=["generic", "native-without-fma"],
)
def test_without_a_fused_multiply_add_products_and_sums_are_rounded_and_nothing_is_called(environment, tmp_path):
    *results, single_calls, double_calls = run(PRODUCTS, environment, tmp_path)
    assert (single_calls, double_calls) == ("0", "0")
    for line, (product, norm) in zip(results, expected_products(), strict=True):
        found, found_norm = (np.frombuffer(bytes.fromhex(part), product.dtype) for part in line.split())
        for one in found.reshape(3, *product.shape):
            np.testing.assert_array_equal(one, product)
        np.testing.assert_allclose(found_norm[0], norm, rtol=100 * np.finfo(product.dtype).eps)


@x86
@compiled
@pytest.mark.slow
@pytest.mark.skipif(not TARGET.fused, reason="runs code with fused multiply-adds")
def test_processors_with_a_fused_multiply_add_give_the_same_bits_whatever_their_vectors(tmp_path):
    narrow = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+fma"}
    assert run(PRODUCTS, narrow, tmp_path) == run(PRODUCTS, {}, tmp_path)


FIT = """
import warnings
import numpy as np
from sklearn.neural_network import MLPRegressor as Theirs
from fastadam import Adam, MLPRegressor, info

rng = np.random.default_rng(0)
X = rng.standard_normal((70, 5))
y = X[:, 0] - X[:, 1] ** 2
warnings.simplefilter("ignore")
settings = {"hidden_layer_sizes": (11,), "activation": "tanh", "max_iter": 3, "random_state": 0, "batch_size": 32}
ours, theirs = (model(**settings).fit(X, y) for model in (MLPRegressor, Theirs))
for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9, atol=1e-12)
print(info()["CPU"].partition("; ")[2])
"""


@x86
@compiled
@pytest.mark.slow
def test_a_network_is_trained_right_on_the_plainest_processor(tmp_path):
    described = "code for generic, without fused multiply-add (slower, and rounded differently), vectors of 16 bytes, "
    assert run(FIT, GENERIC, tmp_path) == [described + "tiles of 6 rows"]


HALVES = """
import numpy as np
from fastadam import SGD

p = np.linspace(-2, 2, 41).astype(np.float16)
SGD(p, 0.5).step(np.full(41, 0.25, np.float16))
print(p.tobytes().hex())
"""


@x86
@compiled
def test_float16_needs_no_instruction_of_its_own(tmp_path):
    expected = (np.linspace(-2, 2, 41).astype(np.float16).astype(np.float32) - np.float32(0.125)).astype(np.float16)
    assert run(HALVES, GENERIC, tmp_path) == [expected.tobytes().hex()]
