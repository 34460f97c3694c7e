"""How formulas are compiled: with all that they call, with a backend's primitives, and each once."""

import math

import numpy as np
import pytest

from fastadam.formulas import rules, storage
from fastadam.formulas.backend import NUMPY_MATH, Backend, from_text, repeated


def marked(function):
    """A stand-in for a compiler: it calls the function, and can be told from it."""

    def compiled(*arguments):
        return function(*arguments)

    compiled.formula = function
    return compiled


def test_a_formula_calls_compiled_formulas_and_primitives():
    seen = []

    def bits_of(x):
        seen.append(x)
        return np.float32(x).view(np.uint32)

    backend = Backend(marked, {storage.bits_of: bits_of})
    assert backend(storage.to_bfloat16)(np.float32(1.0)) == 0x3F80
    assert seen == [1.0]


def test_each_formula_is_compiled_once():
    compiled = []
    backend = Backend(lambda function: compiled.append(function.__name__) or function, {})
    assert backend(rules.adam) is backend(rules.adam)
    assert compiled.count("adam") == 1


def test_a_formula_itself_is_left_as_it_is():
    def root(x):
        return math.sqrt(x)

    halved = Backend(marked, {math: type("", (), {"sqrt": staticmethod(lambda x: x / 2)})})(root)
    assert halved(16.0) == 8.0
    assert root(16.0) == 4.0


def test_uncompiled_roots_keep_the_type_and_are_nan_below_zero():
    assert type(NUMPY_MATH.sqrt(np.float32(2))) is np.float32
    with np.errstate(invalid="ignore"):
        assert np.isnan(NUMPY_MATH.sqrt(-1.0))
    assert NUMPY_MATH.pow is math.pow


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_function_from_text_is_written_out_for_each_of_several(count):
    scaled = from_text("scaled(x)", f"return ({repeated('x[{k}] * c, ', count)})", c=10)
    assert scaled([1, 2, 3]) == tuple(10 * k for k in range(1, count + 1))
    assert scaled.__name__ == "scaled"
