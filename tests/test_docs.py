"""Docstrings with shared texts: filled wherever they are named, and absent without harm."""

import inspect
import re
import subprocess
import sys

import pytest

import fastadam
from fastadam import optimizers, schedules
from fastadam._docs import fill, fill_docstring
from fastadam.interop import scipy

FAMILY = [getattr(optimizers, name) for name in optimizers.__all__]


def test_fill_replaces_the_names_given_and_no_other_braces():
    text = """Head.

    {one}
    {'key': 1} {other}
    """
    assert fill(text, one="a :\n    b\n") == "Head.\n\na :\n    b\n{'key': 1} {other}"


def test_a_docstring_that_is_absent_stays_absent():
    def function():
        pass

    assert fill_docstring(one="text")(function) is function
    assert function.__doc__ is None


@pytest.mark.parametrize("optimizer", FAMILY, ids=optimizers.__all__)
def test_the_docstring_of_an_optimizer_describes_each_argument_once(optimizer):
    assert_describes_each_argument_once(optimizer)
    assert "Raises\n------\nTypeError\n" in optimizer.__doc__


def assert_describes_each_argument_once(documented):
    doc = inspect.getdoc(documented)
    sections = re.split(r"\n(\w+)\n-+\n", doc)
    parameters = dict(zip(sections[1::2], sections[2::2], strict=True))["Parameters"]
    entries = re.findall(r"^([*\w][*\w, ]*?)(?: :.*)?$", parameters, re.M)
    named = [name for names in entries for name in names.split(", ")]
    expected = [f"**{name}" if name == "options" else name for name in inspect.signature(documented).parameters]
    assert sorted(named) == sorted(expected)
    assert not re.search(r"\{\w+\}", doc)


@pytest.mark.parametrize("name", sorted(schedules._KINDS))
def test_the_docstring_of_a_schedule_describes_each_parameter_once(name):
    assert_describes_each_argument_once(schedules._KINDS[name])


@pytest.mark.parametrize("name", sorted(set(scipy.__all__) - {"minimizer"}))
def test_no_placeholder_is_left_in_the_methods_of_scipy(name):
    assert not re.search(r"\{\w+\}", getattr(scipy, name).__doc__)


def test_options_are_all_named():
    from fastadam.optimizers.settings import Options

    assert [name for name in Options.__annotations__ if f"`{name}`" not in fastadam.Adam.__doc__] == []
    assert [name for name in Options.__annotations__ if f"\n{name} : " not in optimizers.__doc__] == []


def test_the_package_imports_without_docstrings():
    code = "import fastadam, fastadam.interop.scipy as s; assert fastadam.Adam.__doc__ is None; print(s.adam.__name__)"
    run = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("adam\n", 0), run.stderr
