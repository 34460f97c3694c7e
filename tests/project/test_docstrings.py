"""The example of every public name runs, and so does every other example in a docstring of the package."""

import doctest
import importlib
import inspect
import io
import pkgutil
import types

import pytest

import fastadam
from fastadam.cpu.jit import JIT_DISABLED
from tests.helpers.names import unbound

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules():
    """The package and its modules but for those whose own library is not installed."""
    yield fastadam
    for found in pkgutil.walk_packages(fastadam.__path__, "fastadam."):
        try:
            yield importlib.import_module(found.name)
        except ImportError as error:
            assert (error.name or "").partition(".")[0] != "fastadam"  # noqa: PT017


def examples():
    """The examples of each docstring by the name of its object; classes are found under the names that users import."""
    find, found = doctest.DocTestFinder().find, []
    for name in fastadam.__all__:
        if inspect.isclass(public := getattr(fastadam, name)):
            found += find(public, f"fastadam.{name}")
    for module in modules():
        found += find(module)
    return {test.name: test for test in found if test.examples}


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.skipif(JIT_DISABLED, reason="the examples train")
def test_an_example_runs(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    printed = io.StringIO()
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(EXAMPLES[name], out=printed.write, clear_globs=False)
    assert result.failed == 0, printed.getvalue()


def homes():
    """Every public name with the object or module that it stands for."""
    for name in fastadam.__all__:
        yield f"fastadam.{name}", getattr(fastadam, name)
    for module in modules():
        public = module.__name__.removeprefix("fastadam.") in {
            "schedules", "presets", "interop.scipy", "interop.torch", "interop.onnx", "cuda",
        }  # fmt: skip
        for name in getattr(module, "__all__", ()) if public else ():
            yield f"{module.__name__}.{name}", getattr(module, name)


@pytest.mark.parametrize(("name", "value"), list(homes()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_public_name_has_an_example(name, value):
    if isinstance(value, type | types.FunctionType):
        module = value.__module__
        assert {name, f"{module}.{value.__qualname__}"} & EXAMPLES.keys()
    elif isinstance(value, types.ModuleType):
        assert any(found.startswith(value.__name__) for found in EXAMPLES)


def test_examples_need_nothing_of_the_module_that_they_are_in():
    needed = {name: unbound("".join(example.source for example in test.examples)) for name, test in EXAMPLES.items()}
    assert len(needed) > 50
    assert {name: names for name, names in needed.items() if names} == {}
