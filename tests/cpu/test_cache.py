import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastadam
from fastadam.cpu import cache as _cache
from fastadam.cpu.jit import JIT_DISABLED, kernel

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

STEP = """
import numpy as np
from fastadam.optimizers import Adam
from fastadam import rules
from fastadam.cpu.step import Variant, step_kernel
Adam(p := np.ones(3), 0.5).step(np.ones(3))
hits = sum(step_kernel(Variant(rules.ADAM), "float64", False).stats.cache_hits.values())
print(f"{p[0]:.3f}", "cached" if hits else "compiled")
"""
ADAGRAD = """
import numpy as np
from fastadam.optimizers import Adagrad
for options in {}:
    Adagrad(p := np.full(3, 10.0), 0.5, **options).step(-np.ones(3))
    print(f"{{p[0]:.3f}}")
"""
RULE, CHANGED_RULE = "p = p - step_size * m / (math.sqrt(v)", "p = p + step_size * m / (math.sqrt(v)"


def double(x):
    return 2.0 * x


def run(installation, code=STEP, wait=True, **variables):
    """Run `code` in a new process that imports the package from `installation`, caching beside it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    environment |= {"PYTHONPATH": str(installation), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"NUMBA_CACHE_DIR": str(installation / "cache")} | variables
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], cwd=installation, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return output_of(process) if wait else process


def output_of(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output.strip()


def entries(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def edit_rule(installation, old, new):
    rules = installation / "fastadam" / "rules.py"
    source = rules.read_text()
    assert source.count(old) == 1
    rules.write_text(source.replace(old, new))


@pytest.fixture
def installation(tmp_path):
    """A copy of the package to edit, without its public names: those import scikit-learn, which takes long."""
    package = Path(fastadam.__file__).parent
    shutil.copytree(package, tmp_path / "fastadam", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fastadam" / "__init__.py").write_text("")
    return tmp_path


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A cache directory of this test's own, for kernels made in this process; edits of the package do not matter."""
    monkeypatch.setattr(_cache, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(_cache, "source_digest", lambda: _cache._IMPORTED_DIGEST)
    return tmp_path


def hits_of(dispatcher):
    return sum(dispatcher.stats.cache_hits.values())


# In processes of their own


def test_every_edit_of_a_rule_is_seen_and_without_one_the_next_process_compiles_nothing(installation):
    edit_after_import = (
        "import pathlib, fastadam.optimizers; rules = pathlib.Path('fastadam/rules.py'); source = rules.read_text()\n"
        f"rules.write_text(source.replace({RULE!r}, {CHANGED_RULE!r}))\n"
    )
    assert run(installation, edit_after_import + STEP) == "0.500 compiled"
    assert entries(installation / "cache") == []
    assert run(installation) == "1.500 compiled"
    edit_rule(installation, CHANGED_RULE, RULE)
    assert run(installation) == "0.500 compiled"
    both = entries(installation / "cache")
    assert run(installation) == "0.500 cached"
    assert entries(installation / "cache") == both


def test_two_processes_may_fill_an_empty_cache_at_once(installation):
    processes = [run(installation, wait=False) for _ in range(2)]
    assert [output_of(process).split()[0] for process in processes] == ["0.500", "0.500"]
    assert {path.suffix for path in entries(installation / "cache")} == {".bin"}
    assert run(installation) == "0.500 cached"


@pytest.mark.skipif(os.name == "nt", reason="Windows finds the user's folder without HOME")
def test_where_no_folder_can_be_written_nothing_is_and_kernels_are_compiled_each_time(installation):
    before = entries(installation)
    code = STEP + "from fastadam.cpu.cache import cache_directory; print(cache_directory())"
    assert run(installation, code, NUMBA_CACHE_DIR="", HOME=os.devnull) == "0.500 compiled\nNone"
    assert entries(installation) == before


# In this process


def test_another_kernel_of_the_same_function_is_loaded_and_gives_the_same(directory):
    first, second = kernel(double), kernel(double)
    assert (first(1.5), hits_of(first)) == (3.0, 0)
    assert (second(1.5), hits_of(second)) == (3.0, 1)
    assert second(np.float32(1.5)) == 3.0
    assert len(entries(directory)) == 2


def test_variants_and_parallel_forms_do_not_share_an_entry(directory):
    def scaled_by(factor):
        def scale(x):
            return factor * x

        return kernel(scale, variant=str(factor))

    assert [scaled_by(factor)(1.0) for factor in (2.0, 3.0, 2.0)] == [2.0, 3.0, 2.0]
    assert len(entries(directory)) == 2


CORRUPTIONS = {
    "empty": lambda content: b"",
    "the checksum alone": lambda content: content[:32],
    "half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "a byte longer": lambda content: content + b"\0",
    "a bit flipped": lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
    "random": lambda content: np.random.default_rng(0).bytes(len(content)),
    "not a pickle": lambda content: hashlib.sha256(b"text").digest() + b"text",
    "another pickle": lambda content: hashlib.sha256(pickle.dumps((1, 2))).digest() + pickle.dumps((1, 2)),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corrupted_entry_is_compiled_again_and_replaced(directory, corrupt):
    kernel(double)(1.0)
    (entry,) = entries(directory)
    content = entry.read_bytes()
    entry.write_bytes(corrupt(content))
    again, after = kernel(double), kernel(double)
    assert (again(1.5), hits_of(again)) == (3.0, 0)
    assert (after(1.5), hits_of(after)) == (3.0, 1)
    assert entries(directory) == [entry]


def test_an_entry_that_is_a_folder_is_survived(directory):
    kernel(double)(1.0)
    (entry,) = entries(directory)
    entry.unlink()
    entry.mkdir()
    assert kernel(double)(1.5) == 3.0
    assert entries(directory) == []


def test_a_cache_directory_that_vanished_is_survived(directory):
    directory.rmdir()
    assert kernel(double)(1.5) == 3.0
    assert not directory.exists()


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_source_that_cannot_be_read_does_not_stop_the_digest(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / ".#a.py").symlink_to("somebody@nowhere")  # as Emacs locks a file
    monkeypatch.setattr(_cache, "__file__", str(tmp_path / "_cache.py"))
    before = _cache.source_digest()
    (tmp_path / "a.py").write_text("x = 2\n")
    assert _cache.source_digest() != before


def test_a_kernel_can_be_told_not_to_use_the_cache_and_to_forget_it(directory):
    dispatcher = kernel(double)
    dispatcher._cache.disable()
    assert dispatcher(1.5) == 3.0
    assert entries(directory) == []
    dispatcher._cache.enable()
    assert dispatcher(np.float32(1.5)) == 3.0
    assert len(entries(directory)) == 1
    dispatcher._cache.flush()
    assert entries(directory) == []


def test_entries_that_nobody_used_for_a_month_are_removed(tmp_path, monkeypatch):
    old, young = tmp_path / "fastadam" / "old", tmp_path / "fastadam" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "entry.bin").touch()
    os.utime(old, (0, 0))
    monkeypatch.setattr(_cache.config, "CACHE_DIR", str(tmp_path))
    own = _cache.cache_directory.__wrapped__()
    assert set(own.parent.iterdir()) == {young, own}


def test_a_cache_directory_that_cannot_be_made_is_none(monkeypatch):
    monkeypatch.setattr(_cache.config, "CACHE_DIR", os.devnull)
    assert _cache.cache_directory.__wrapped__() is None


@pytest.mark.parametrize("home", ["", "cache", "~/.cache"])
def test_without_a_home_nothing_is_written_to_the_working_directory(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_cache.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    directory = _cache.cache_directory.__wrapped__()
    assert directory is None or not directory.is_relative_to(tmp_path)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("order", [1, -1])
def test_kernels_that_two_processes_compiled_are_told_apart_in_a_third(installation, order):
    both = [{"maximize": True}, {"weight_decay": 0.5}, {}][::order]
    alone = [run(installation, ADAGRAD.format([options])) for options in both]
    assert alone == ["9.500", "9.500", "10.500"][::order]
    assert run(installation, ADAGRAD.format(both)).split() == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_numbers_its_functions_apart(installation):
    code = """
import os
from numba.core.bytecode import FunctionIdentity
import fastadam.cpu.cache
if child := os.fork():
    os.waitpid(child, 0)
print(next(FunctionIdentity._unique_ids))
"""
    first, second = run(installation, code).split()
    assert abs(int(first) - int(second)) > 2**20
