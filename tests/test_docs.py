"""Every Python block of the documentation runs as a reader runs it: pasted on its own, without a warning."""

import ast
import builtins
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import fastadam
from fastadam.jit import JIT_DISABLED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)```python(?P<marker>[^\n]*)\n(?P<code>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE
)
OPTIONAL = {"torch", "onnx", "onnxruntime", "pandas", "skops"}
NEEDS_A_GPU = "no-run"  # what follows "```python" then


def blocks_of(page, marker=""):
    """The code of each block, after so many empty lines that a traceback shows the line of the page."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        assert found["marker"].strip() in ("", NEEDS_A_GPU), f"{page.name} has a block of the kind {found['marker']}"
        if found["marker"].strip() == marker:
            yield "\n" * text.count("\n", 0, found.start("code")) + textwrap.dedent(found["code"])


def blocks(marker=""):
    """Each block of each page, with the page and its line there as the name of the test."""
    found = [(page, code) for page in PAGES for code in blocks_of(page, marker)]
    return [pytest.param(code, str(page), id=f"{page.name}:{line_of(code)}") for page, code in found]


def line_of(code):
    return len(code) - len(code.lstrip("\n")) + 1


@pytest.mark.parametrize(("code", "page"), blocks())
@pytest.mark.skipif(JIT_DISABLED, reason="the pages train")
def test_a_block_runs_on_its_own(code, page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    try:
        exec(compile(code, page, "exec"), {"__name__": "__main__"})
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize(("code", "page"), blocks(NEEDS_A_GPU))
def test_a_block_that_is_not_run_needs_a_gpu_and_nothing_of_the_page(code, page):
    assert "cuda" in code
    assert unbound(code) == set()


def unbound(code):
    """The names that a piece of code uses and neither imports, nor makes, nor finds among Python's own."""
    nodes = list(ast.walk(ast.parse(code)))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    made |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return used - made - vars(builtins).keys()


def docstring_examples():
    """The examples of each docstring of the package; a module that cannot be imported here is left out."""
    for found in pkgutil.walk_packages(fastadam.__path__, "fastadam."):
        try:
            module = importlib.import_module(found.name)
        except ImportError:
            continue
        yield from (test for test in doctest.DocTestFinder().find(module) if test.examples)


def test_the_examples_of_a_docstring_need_nothing_of_the_module():
    needed = {test.name: unbound("".join(example.source for example in test.examples)) for test in docstring_examples()}
    assert len(needed) > 50
    assert {name: names for name, names in needed.items() if names} == {}


def test_blocks_are_found_wherever_they_stand_and_told_apart_by_their_marker(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na = 1\n```\n- in a list\n\n  ```python\n  b = 2\n  ```\n```python no-run\nx\n```\n```\ny\n```\n"
    )
    assert [code.strip() for code in blocks_of(page)] == ["a = 1", "b = 2"]
    assert list(blocks_of(page))[1].count("\n", 0, 6) == 6
    assert [code.strip() for code in blocks_of(page, NEEDS_A_GPU)] == ["x"]


def test_what_code_takes_for_granted_is_found():
    assert unbound("import a.b as c\nfor i in range(3):\n    c.d(i, len(e))\n") == {"e"}
    assert unbound("def f(x):\n    return X_train + x\n") == {"X_train"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_links_to_exist(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        if not path.startswith(("http:", "https:")):
            linked = page.parent / path if path else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not heading or heading in headings_of(linked), f"{page.name} links to {target}"


def headings_of(page):
    """The anchors that GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


DEFAULTS = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", (ROOT / "docs" / "optimizers.md").read_text(), re.MULTILINE)


def test_the_table_of_defaults_has_every_optimizer():
    classes = [name for name, value in vars(fastadam).items() if isinstance(value, type) and hasattr(value, "step")]
    assert sorted(name for name, _ in DEFAULTS) == sorted(classes)


@pytest.mark.parametrize(("name", "arguments"), DEFAULTS, ids=[name for name, _ in DEFAULTS])
def test_the_table_of_defaults_is_that_of_the_signatures(name, arguments):
    parameters = inspect.signature(getattr(fastadam, name)).parameters.values()
    defaults = {
        parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty
    }
    assert eval(f"dict({arguments})") | {"maximize": False} == defaults
