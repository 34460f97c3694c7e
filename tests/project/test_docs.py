"""Every Python block of the documentation runs, in its order on the page."""

import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastadam
from fastadam.cpu.jit import JIT_DISABLED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)```python(?P<marker>[^\n]*)\n(?P<code>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE
)
OPTIONAL = {"torch", "jax", "optax", "mpi4py", "onnx", "onnxruntime", "skops", "cupy", "numba_cuda", "plotnine"}


def blocks_of(page):
    """The code of each block, behind so many empty lines that a traceback shows the line of the page.

    A block that begins with "```python no-run" shows what cannot run here.
    """
    text = page.read_text()
    for found in BLOCK.finditer(text):
        assert found["marker"].strip() in ("", "no-run"), (
            f"{page.name} has a block of the unknown kind {found['marker']}"
        )
        if not found["marker"].strip():
            yield "\n" * text.count("\n", 0, found.start("code")) + textwrap.dedent(found["code"])


def readers_own():
    """What a page may take for granted: data, split as scikit-learn splits it."""
    X = np.random.default_rng(0).normal(size=(300, 4))
    y = X @ np.arange(4.0)
    return {"X_train": X[:200], "X_test": X[200:], "y_train": y[:200], "y_test": y[200:]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.skipif(JIT_DISABLED, reason="the pages train")
def test_the_code_of_a_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {"__name__": "__main__"} | readers_own()
    for code in blocks_of(page):
        try:
            exec(compile(code, str(page), "exec"), names)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"needs {error.name}")


def test_blocks_are_found_wherever_they_stand_and_left_out_where_marked(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na = 1\n```\n- in a list\n\n  ```python\n  b = 2\n  ```\n```python no-run\nx\n```\n```\ny\n```\n"
    )
    assert [code.strip() for code in blocks_of(page)] == ["a = 1", "b = 2"]
    assert list(blocks_of(page))[1].count("\n", 0, 6) == 6


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
