"""Checks of arguments: what is kept, and the error of each kind of bad value."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import numpy as np
import pytest

from fastadam import _checks as checks

INSIDE = {
    "[0, inf)": (0, 1e308), "(0, inf)": (5e-324, 1e308), "[0, 1]": (0, 1), "[0, 1)": (0, math.nextafter(1, 0)),
    "(-inf, inf)": (-1e308, 1e308), "[-inf, inf]": (-math.inf, math.inf),
}  # fmt: skip
OUTSIDE = {
    "[0, inf)": (-5e-324, math.inf), "(0, inf)": (0, math.inf), "[0, 1]": (-5e-324, math.nextafter(1, 2)),
    "[0, 1)": (-5e-324, 1, 1 - Fraction(1, 10**30)), "(-inf, inf)": (-math.inf, 10**400), "[-inf, inf]": (),
}  # fmt: skip


@pytest.mark.parametrize("interval", INSIDE)
def test_a_number_is_kept_as_a_float_inside_its_interval_and_refused_outside(interval):
    for value in INSIDE[interval]:
        kept = checks.number("a", value, interval)
        assert type(kept) is float
        assert kept == value
    for value in (*OUTSIDE[interval], math.nan):
        with pytest.raises(ValueError, match=r"a must be in [\[(].*, got"):
            checks.number("a", value, interval)


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1j, np.ones(1)], ids=repr)
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="a must be a number, got"):
        checks.number("a", value)
    with pytest.raises(TypeError, match="a must be an integer, got"):
        checks.count("a", value)


def test_an_integer_too_large_for_a_float_is_infinite():
    assert checks.real("a", 10**400) == math.inf
    assert checks.real("a", Fraction(-(10**400))) == -math.inf


def test_a_count_lies_between_its_bounds():
    assert type(checks.count("a", np.int8(3))) is int
    assert [checks.count("a", value, 0, 2) for value in (0, 2)] == [0, 2]
    for value, text in ((-1, "at least 0, got -1"), (3, "at most 2, got 3")):
        with pytest.raises(ValueError, match=f"a must be {text}"):
            checks.count("a", value, 0, 2)
    with pytest.raises(TypeError, match="integer"):
        checks.count("a", 2.0)


def test_flags_items_and_choices():
    assert checks.flag("a", np.True_) is True
    with pytest.raises(TypeError, match="a must be True or False, got 1"):
        checks.flag("a", 1)
    assert checks.items("a", [1]) == [1]
    for value in ("ab", b"ab", {1}, 3):
        with pytest.raises(TypeError, match="a must be a list or tuple"):
            checks.items("a", value)
    assert checks.choice("a", "x", ("x", "y")) == "x"
    with pytest.raises(ValueError, match=r"a must be one of \('x', 'y'\), got 'z'"):
        checks.choice("a", "z", ("x", "y"))
    with pytest.raises(TypeError, match="got 3"):
        checks.choice("a", 3, ("x", "y"))


def test_ascending_integers_may_repeat_and_never_fall():
    assert checks.ascending("a", [0, 2, 2]) == (0, 2, 2)
    with pytest.raises(ValueError, match=r"a must be in ascending order, got \[2, 1\]"):
        checks.ascending("a", [2, 1])
    with pytest.raises(ValueError, match=r"a\[1\] must be at least 0"):
        checks.ascending("a", [0, -1])


def test_a_dataclass_keeps_what_the_checks_of_its_fields_return():
    @dataclass(frozen=True)
    class Settings(checks.Checked):
        rate: Annotated[float, checks.number]
        name: str = "x"

    assert type(Settings(1).rate) is float
    with pytest.raises(ValueError, match="rate must be in"):
        Settings(-1.0)


def test_structures_that_differ_are_told_by_what_they_are():
    same_kind = checks.structure_error("grads", ("a", "b"), ("a",))
    assert type(same_kind) is ValueError
    assert str(same_kind) == (
        "grads must have the structure of params, a dict with the keys ['a', 'b'], got a dict with the keys ['a']"
    )
    another = checks.structure_error("grads", (None,), (0, 1))
    assert type(another) is TypeError
    assert str(another).endswith("one array, got a list of 2 arrays")
    assert checks.label("grads", None) == "grads"
    assert checks.label("grads", "W") == "grads['W']"
