"""The decorators: strict arithmetic, NumPy's error model, and functions that only kernels call."""

import re

import numpy as np
import pytest
from numba.core import config

from fastadam.cpu.jit import JIT_DISABLED, formula, inner, kernel, of_either_type
from fastadam.formulas import rules


def root_of_quotient(a, b):
    return np.sqrt(a) / b


def test_a_division_by_zero_is_infinite_or_nan_and_no_error():
    compiled = kernel(root_of_quotient, cached=False)
    with np.errstate(all="ignore"):
        assert compiled(np.float64(4), np.float64(0)) == np.inf
        assert np.isnan(compiled(np.float64(-1), np.float64(1)))


@pytest.mark.skipif(JIT_DISABLED or config.BOUNDSCHECK, reason="looks at the compiled code")
def test_nothing_is_reassociated_or_fused_and_divisions_do_not_branch():
    update = formula(rules.adam)

    @kernel(cached=False)
    def adam(p, g, m, v):
        c = p.dtype.type(0.5)
        for i in range(p.size):
            p[i], m[i], v[i] = update(p[i], g[i], m[i], v[i], c, c, c, c, c, c, c)

    adam(*np.ones((4, 3), np.float32))
    code = next(iter(adam.inspect_llvm().values()))
    assert re.search(r"fdiv <\d+ x float>", code)
    assert not re.search(r"f(add|sub|mul|div) (fast|reassoc|contract)|llvm\.fma", code)


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_a_call_is_compiled_once_whatever_constants_it_is_given():
    half = inner(lambda x, n: x / n)

    @kernel(cached=False)
    def both(x):
        return half(x, 2) + half(x, 4)

    assert both(8.0) == 6.0
    assert len(half.overloads) == 1


def test_a_function_of_either_type_chooses_by_its_argument():
    chosen = of_either_type(lambda x: x + np.float32(1), lambda x: x + 2.0)

    @kernel(cached=False)
    def apply(x):
        x[0] = chosen(x[0])

    for dtype, added in ((np.float32, 1), (np.float64, 2)):
        apply(x := np.zeros(1, dtype))
        assert x[0] == added
