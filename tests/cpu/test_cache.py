import compileall
import contextlib
import dataclasses
import errno
import hashlib
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastadam
from fastadam import environment
from fastadam.cpu import cache as _cache
from fastadam.cpu.jit import JIT_DISABLED, kernel

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

ADAGRAD = """
import numpy as np
from fastadam.optimizers import Adagrad
for options in {}:
    Adagrad(p := np.full(3, 10.0), 0.5, **options).step(-np.ones(3))
    print(f"{{p[0]:.3f}}")
"""
SGD = """
from fastadam.cpu.jit import formula, kernel
from fastadam.formulas import rules
update = formula(rules.sgd)
def step(p, g, lr):
    return update(p, g, lr)
sgd = kernel(step)
print(sgd(0.0, 1.0, 1.0), "cached" if sum(sgd.stats.cache_hits.values()) else "compiled")
"""
"""A small kernel that inlines a rule, as those of the package do."""
SGD_RULE = '"""Gradient descent."""\n    return p - lr * g'
TWICE_AS_FAR = SGD_RULE.replace("lr", "2 * lr")
DIGEST = "from fastadam.cpu import cache; print(cache.source_digest())"


def double(x):
    return 2.0 * x


def run(installation, code, wait=True, **variables):
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


def watched(code):
    """The code, and then each warning that it gave, in a line of its own; the second round must give none."""
    return f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
{textwrap.indent(code, "    ")}
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def entries(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def edit_rule(installation, old, new):
    edit(module_file(installation, "rules.py"), old, new)


def edit(path, old, new):
    source = path.read_text()
    assert source.count(old) == 1
    path.write_text(source.replace(old, new))


def module_file(installation, name, folder="."):
    """A source file of the package, wherever in it the file lies."""
    (path,) = (path for path in (installation / "fastadam").rglob(name) if folder in (".", path.parent.name))
    return path


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
    monkeypatch.setattr(_cache, "_places", lambda: [_cache.Place((tmp_path,))])
    monkeypatch.setattr(_cache._SOURCES, "are_as_imported", lambda: True)
    monkeypatch.setattr(_cache, "_not_kept", None)
    return tmp_path


def hits_of(dispatcher):
    return sum(dispatcher.stats.cache_hits.values())


# In processes of their own


@pytest.mark.slow
def test_every_edit_of_a_rule_is_seen_and_without_one_the_next_process_compiles_nothing(installation):
    edit_after_import = (
        "import pathlib, fastadam.formulas.rules\n"
        "rules = pathlib.Path('fastadam/formulas/rules.py'); source = rules.read_text()\n"
        f"rules.write_text(source.replace({SGD_RULE!r}, {TWICE_AS_FAR!r}))\n"
    )
    assert run(installation, "import fastadam.cpu.jit\n" + edit_after_import + SGD) == "-1.0 compiled"
    assert entries(installation / "cache") == []
    assert run(installation, SGD) == "-2.0 compiled"
    edit_rule(installation, TWICE_AS_FAR, SGD_RULE)
    assert run(installation, SGD) == "-1.0 compiled"
    both = entries(installation / "cache")
    assert run(installation, SGD) == "-1.0 cached"
    assert entries(installation / "cache") == both


@pytest.mark.slow
def test_two_processes_may_fill_an_empty_cache_at_once(installation):
    processes = [run(installation, SGD, wait=False) for _ in range(2)]
    assert [output_of(process).split()[0] for process in processes] == ["-1.0", "-1.0"]
    assert {path.suffix for path in entries(installation / "cache")} == {".bin"}
    assert run(installation, SGD) == "-1.0 cached"


def zipped(folder, archive):
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(path for path in (folder / "fastadam").rglob("*") if path.is_file()):
            file.write(path, path.relative_to(folder))
    return str(archive)


def test_a_zip_of_another_version_runs_its_own_kernels_from_a_shared_cache(installation):
    first = zipped(installation, installation / "v1.zip")
    edit_rule(installation, SGD_RULE, TWICE_AS_FAR)
    second = zipped(installation, installation / "v2.zip")
    shutil.rmtree(installation / "fastadam")
    outputs = [run(installation, SGD, PYTHONPATH=path) for path in (first, second, first)]
    assert outputs == ["-1.0 compiled", "-2.0 compiled", "-1.0 cached"]


def without_sources(installation, target):
    """A copy of the package that holds code objects only."""
    shutil.copytree(installation / "fastadam", target / "fastadam")
    assert compileall.compile_dir(target, quiet=2, legacy=True, force=True)
    for source in target.rglob("*.py"):
        source.unlink()
    return str(target)


@pytest.mark.slow
def test_an_upgrade_of_a_package_without_sources_is_seen(installation):
    first = without_sources(installation, installation / "v1")
    same = without_sources(installation, installation / "elsewhere")
    edit_rule(installation, SGD_RULE, TWICE_AS_FAR)
    second = without_sources(installation, installation / "v2")
    shutil.rmtree(installation / "fastadam")
    outputs = [run(installation, SGD, PYTHONPATH=path) for path in (first, second, same)]
    assert outputs == ["-1.0 compiled", "-2.0 compiled", "-1.0 cached"]


FROZEN = """
import importlib.abc, importlib.util, pathlib, pkgutil, sys
root = pathlib.Path({folder!r})

class Finder(importlib.abc.InspectLoader):
    def __init__(self, path):
        self.folder = root / path.removeprefix("frozen").lstrip("/")
        if not path.startswith("frozen"):
            raise ImportError
    def find_spec(self, name, target=None):
        spec = self._spec(name)
        if spec:
            spec.origin, spec.has_location = "frozen/" + name, True  # a file that is not there
        return spec
    def _spec(self, name):
        if (self.folder / name.rpartition(".")[2]).is_dir():
            spec = importlib.util.spec_from_loader(name, self, is_package=True)
            spec.submodule_search_locations = {locations}
            return spec
        return importlib.util.spec_from_loader(name, self) if self._file(name).exists() else None
    def _file(self, name):
        path = self.folder / name.rpartition(".")[2]
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    def get_source(self, name):
        return None
    def get_code(self, name):
        return compile(self._file(name).read_text(), "frozen " + name, "exec", dont_inherit=True)
    def iter_modules(self, prefix=""):
        for path in self.folder.iterdir():
            if path.suffix == ".py" and path.stem != "__init__" or (path / "__init__.py").exists():
                yield prefix + path.stem, path.is_dir()

sys.path_hooks.insert(0, Finder)
sys.path.insert(0, "frozen")
"""
LISTED = '["frozen/" + name.replace(".", "/")]'


@pytest.fixture
def frozen(installation):
    """A program as a freezer makes it: a loader of its own has the code objects of the package, and nothing else."""
    shutil.move(installation / "fastadam", installation / "hidden" / "fastadam")
    return FROZEN.format(folder=str(installation / "hidden"), locations=LISTED) + SGD


@pytest.mark.slow
def test_an_upgrade_of_a_frozen_program_is_seen(installation, frozen):
    assert run(installation, frozen) == "-1.0 compiled"
    edit_rule(installation / "hidden", SGD_RULE, TWICE_AS_FAR)
    assert [run(installation, frozen) for _ in range(2)] == ["-2.0 compiled", "-2.0 cached"]


UNKNOWN_CODE = {
    "no code": ("def get_code(self, name):\n", "def get_code(self, name):\n        if digesting(): return None\n"),
    "no list": ('def iter_modules(self, prefix=""):\n', 'def iter_modules(self, prefix=""):\n        return\n'),
}


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), UNKNOWN_CODE.values(), ids=UNKNOWN_CODE)
def test_where_the_code_cannot_be_told_apart_nothing_is_cached_and_one_warning_says_so(installation, frozen, old, new):
    digesting = "import sys\ndef digesting(): return sys._getframe(2).f_code.co_name == '_code_of'\n"
    assert frozen.count(old) == 1
    code = digesting + frozen.replace(old, new)
    value, *warned = run(installation, watched(code + "sgd(1, 2, 3)")).splitlines()
    assert value == "-1.0 compiled"
    assert len(warned) == 1
    assert warned[0].startswith("RuntimeWarning Compiled kernels are not cached")
    assert entries(installation / "cache") == []


def test_the_digest_is_of_every_module_of_the_package(installation):
    code = "from fastadam.cpu import cache; print(*(spec.origin for spec in cache.module_specs()))"
    assert set(run(installation, code).split()) == set(map(str, (installation / "fastadam").rglob("*.py")))


@pytest.mark.parametrize("place", ["fastadam.cpu.cache", "fastadam.deep.down._cache"])
def test_an_edit_of_any_module_changes_the_digest_however_deep_the_cache_lies(installation, place):
    below = installation / "fastadam" / "deep" / "down"
    below.mkdir(parents=True)
    for folder in (below, below.parent):
        (folder / "__init__.py").touch()
    shutil.copy(_cache.__file__, below / "_cache.py")
    edits = [
        (module_file(installation, "rules.py"), SGD_RULE, TWICE_AS_FAR),
        (module_file(installation, "step.py", "cuda"), "import", "import  "),
        (installation / "fastadam" / "__init__.py", "", "__version__ = '9'"),
        (below / "__init__.py", "", "# edited"),
    ]
    code = f"""
import pathlib, {place} as cache
digests = [cache.source_digest()]
for path, old, new in {[(str(path), old, new) for path, old, new in edits]}:
    source = pathlib.Path(path).read_text()
    pathlib.Path(path).write_text(source.replace(old, new, 1))
    digests.append(cache.source_digest())
    assert not cache._SOURCES.are_as_imported()
print(len(set(digests)))
"""
    assert run(installation, code) == str(len(edits) + 1)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_module_that_is_listed_and_not_there_does_not_stop_the_digest(installation):
    before = run(installation, DIGEST)
    for name in ("away.py", ".#rules.py"):  # the second as Emacs locks a file
        (installation / "fastadam" / name).symlink_to("somebody@nowhere")
    assert run(installation, DIGEST) == before != "None"


@pytest.mark.slow
def test_a_source_that_is_only_touched_is_no_edit(installation):
    touch = "import os, fastadam.cpu.cache; os.utime('fastadam/formulas/rules.py', (1, 1))\n"
    assert run(installation, touch + SGD) == "-1.0 compiled"
    assert run(installation, touch + SGD) == "-1.0 cached"


# What may be read, and what may be written


@pytest.mark.thin(1)
@pytest.mark.skipif(os.name == "nt", reason="Windows finds the user's folder without HOME")
@pytest.mark.parametrize("home", [os.devnull, ""])
def test_where_no_folder_can_be_written_kernels_are_compiled_each_time_and_one_warning_names_the_variable(
    installation, home
):
    before = entries(installation)
    code = watched(SGD + "sgd(1, 2, 3)")
    value, *warned = run(installation, code, NUMBA_CACHE_DIR="", HOME=home, XDG_CACHE_HOME=home).splitlines()
    assert value == "-1.0 compiled"
    assert len(warned) == 1
    assert warned[0].startswith("RuntimeWarning Compiled kernels are not cached")
    assert "Set NUMBA_CACHE_DIR" in warned[0]
    assert entries(installation) == before


needs_users = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users and groups as Unix has them")
AS_ANOTHER_USER = """
import os
from fastadam.cpu.jit import kernel
kernel(lambda x: x, cached=False)(1.0)  # imports what compiling needs, where another user may not look
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@pytest.fixture
def shared_installation(installation):
    """An installation in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.move(installation / "fastadam", folder)
        yield Path(folder)


@contextlib.contextmanager
def read_only(folder):
    """The folders in it cannot be written, by others than root."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield
    for path in folders:
        path.chmod(0o755)


@needs_users
def test_a_warm_cache_that_another_user_may_only_read_is_read(shared_installation):
    cache = shared_installation / "cache"
    assert run(shared_installation, SGD) == "-1.0 compiled"
    before = entries(cache)
    with read_only(cache):
        assert run(shared_installation, AS_ANOTHER_USER + SGD) == "-1.0 cached"
        value, warned = run(
            shared_installation, watched(AS_ANOTHER_USER + SGD + "sgd(1, 2, 3)\nsgd(1, 2, 3.0)")
        ).splitlines()
    assert value == "-1.0 cached"  # and what is not there is compiled, and cannot be kept
    assert warned.startswith("RuntimeWarning Compiled kernels are not cached")
    assert entries(cache) == before


@pytest.mark.slow
@needs_users
def test_the_kernels_in_the_package_are_read_by_every_user_and_written_on_demand_only(shared_installation):
    fill = f"from fastadam.cpu import cache\nwith cache.kept_in_package():\n{textwrap.indent(SGD, '    ')}"
    kept = shared_installation / "fastadam" / "_kernels"
    assert run(shared_installation, SGD) == "-1.0 compiled"
    assert not kept.exists()
    assert run(shared_installation, fill) == "-1.0 compiled"
    (entry,) = entries(kept)
    shutil.rmtree(shared_installation / "cache")
    with read_only(shared_installation):
        assert run(shared_installation, AS_ANOTHER_USER + SGD) == "-1.0 cached"
    assert run(shared_installation, SGD) == "-1.0 cached"
    assert entries(kept) == [entry]
    assert not (shared_installation / "cache").exists()


@pytest.fixture(params=[0o775, 0o757])
def writable_by_others(request, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(request.param)
    return folder


@pytest.mark.thin(1)
@needs_users
def test_a_folder_that_others_may_write_is_not_used_and_one_warning_says_why(installation, writable_by_others):
    code = watched(SGD + "sgd(1, 2, 3)")
    value, *warned = run(installation, code, NUMBA_CACHE_DIR=str(writable_by_others)).splitlines()
    assert value == "-1.0 compiled"
    assert len(warned) == 1
    assert f"{writable_by_others} is not used, since it may be written by others" in warned[0]
    assert entries(writable_by_others) == []


@pytest.mark.slow
@needs_users
def test_an_entry_that_others_may_write_is_not_loaded_but_replaced(directory):
    kernel(double)(1.0)
    (entry,) = entries(directory)
    for mode in (0o664, 0o646):
        entry.chmod(mode)
        again = kernel(double)
        assert (again(1.5), hits_of(again)) == (3.0, 0)
        assert not stat.S_IMODE(entry.stat().st_mode) & 0o022
    after = kernel(double)
    assert (after(1.5), hits_of(after)) == (3.0, 1)


def given_away(path, monkeypatch):
    """Make a file or folder that of another user; who is not root becomes another user than the owner."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


@pytest.mark.slow
@needs_users
def test_an_entry_of_another_user_is_not_loaded(directory, monkeypatch):
    kernel(double)(1.0)
    (entry,) = entries(directory)
    assert _cache.Place((directory,)).read(entry.name) is not None
    given_away(entry, monkeypatch)
    assert _cache.Place((directory,)).read(entry.name) is None


@pytest.mark.slow
@needs_users
@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_of_another_user_is_neither_read_nor_written(tmp_path, monkeypatch, which):
    place = _cache.Place((tmp_path / "outer", tmp_path / "outer" / "inner"))
    place.write("entry", b"content")
    assert place.read("entry") == b"content"
    given_away(place.folders[which], monkeypatch)
    assert place.read("entry") is None
    assert "belongs to another user" in place.obstacle()
    with pytest.raises(PermissionError, match="belongs to another user"):
        place.write("entry", b"other")


@needs_users
def test_folders_and_entries_can_be_written_by_their_owner_only_whatever_the_umask(tmp_path):
    place = _cache.Place((tmp_path / "above" / "outer", tmp_path / "above" / "outer" / "inner"))
    before = os.umask(0)
    try:
        place.write("entry", b"content")
    finally:
        os.umask(before)
    for path in (*place.folders, place.folder / "entry"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022


# The key of an entry


def entry_of(function, codegen=None):
    from numba.core.registry import cpu_target

    return kernel(function)._cache._entry("", codegen or cpu_target.target_context.codegen())


SETTINGS = {
    "OPT": 1, "CPU_NAME": "generic", "CPU_FEATURES": "+sse4.2", "ENABLE_AVX": 0, "BOUNDSCHECK": 0, "LOOP_VECTORIZE": 0,
    "SLP_VECTORIZE": 1, "LLVM_REFPRUNE_PASS": 0, "LLVM_REFPRUNE_FLAGS": "per_bb", "DEBUGINFO_DEFAULT": 1,
    "EXTEND_VARIABLE_LIFETIMES": 1, "DEBUG_NRT": 1, "FULL_TRACEBACKS": 1, "DISABLE_INTEL_SVML": 1,
    "USING_SVML": "other", "PARFOR_MAX_TUPLE_SIZE": 1, "ENABLE_PROFILING": 1, "A_SETTING_OF_A_LATER_NUMBA": 1,
}  # fmt: skip
"""Another value of each setting that changes code; `numba.config` has them from the variables NUMBA_..."""


@pytest.mark.parametrize(("name", "value"), SETTINGS.items(), ids=SETTINGS)
def test_what_changes_code_is_in_the_key(monkeypatch, name, value):
    before = entry_of(double)
    monkeypatch.setattr(_cache.config, name, value, raising=False)
    assert entry_of(double) != before


@pytest.mark.parametrize("name", ["NUMBA_NUM_THREADS", "THREADING_LAYER", "CACHE_DIR", "CUDA_LOG_LEVEL", "SHOW_HELP"])
def test_what_changes_no_code_is_not_in_the_key(monkeypatch, name):
    before = entry_of(double)
    monkeypatch.setattr(_cache.config, name, "other")
    assert entry_of(double) == before


def test_max_is_another_level_of_optimisation_than_3(monkeypatch):
    keys = set()
    for level in ("3", "max"):
        monkeypatch.setattr(_cache.config, "OPT", _cache.config._OptLevel(level))
        keys.add(entry_of(double))
    assert len(keys) == 2


def test_the_target_is_in_the_key(monkeypatch):
    before = entry_of(double)
    monkeypatch.setattr(_cache, "TARGET", dataclasses.replace(_cache.TARGET, vector_bytes=128))
    assert entry_of(double) != before


# The commands


@pytest.fixture
def small_installation(installation):
    """An installation whose `warmup` compiles one small kernel."""
    warmup = textwrap.indent(SGD, "    ")
    (installation / "fastadam" / "environment.py").write_text(f"info = dict\ndef warmup():\n{warmup}    return 0.0\n")
    return installation


def command(*arguments):
    return f"""
import runpy, sys, warnings
warnings.simplefilter("ignore")
sys.argv[1:] = {arguments}
try:
    runpy.run_module("fastadam", run_name="__main__")
except SystemExit as end:
    print(end.code)
"""


def test_warmup_fills_the_package_on_demand_and_says_where_kernels_are(small_installation):
    kept = small_installation / "fastadam" / "_kernels"
    into_package = command("warmup", "--into-package")
    compiled, said = run(small_installation, into_package).splitlines()
    (entry,) = entries(kept)
    assert (compiled, said) == ("-1.0 compiled", f"All kernels are compiled and cached: 0.0 s; in {entry.parent}")
    assert run(small_installation, into_package) == f"-1.0 cached\n{said}"
    assert run(small_installation, command("warmup")) == "-1.0 cached\n" + said.replace(
        str(entry.parent), str(small_installation / "cache" / "fastadam" / entry.parent.name)
    )


@pytest.mark.slow
def test_warmup_says_when_kernels_are_not_cached(small_installation):
    kept = small_installation / "fastadam" / "_kernels"
    kept.touch()
    said = run(small_installation, command("warmup", "--into-package"))
    assert said == f"Nothing was compiled, since no kernel can be stored in the package: {kept} is not a folder"
    compiled, said = run(small_installation, command("warmup"), NUMBA_CACHE_DIR=os.devnull).splitlines()
    assert compiled == "-1.0 compiled"
    assert "not all are cached" in said
    assert "Set NUMBA_CACHE_DIR" in said


def test_info_says_of_each_place_what_is_there_and_why_nothing_can_be_kept(tmp_path, monkeypatch):
    place = _cache.Place((tmp_path / "kernels",))
    monkeypatch.setattr(environment, "user_place", lambda: place)
    monkeypatch.setattr(environment, "package_place", lambda: _cache.Place((), "no home"))
    described = environment.info()
    assert described["kernel cache"] == f"{place.folder}: no kernels; more are stored here"
    assert described["package kernels"] == "none: no home"
    place.write("entry.bin", b"")
    place.write("other.bin", b"")
    assert environment.info()["kernel cache"] == f"{place.folder}: 2 kernels; more are stored here"
    if hasattr(os, "geteuid"):
        place.folder.chmod(0o777)
        assert environment.info()["kernel cache"] == (
            f"{place.folder} is not used, since it may be written by others (drwxrwxrwx)"
        )
    shutil.rmtree(place.folder)
    place.folder.touch()
    assert environment.info()["kernel cache"] == (
        f"{place.folder}: no kernels; none can be added, since {place.folder} is not a folder"
    )


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
    with pytest.warns(RuntimeWarning, match="not cached"):
        assert kernel(double)(1.5) == 3.0
    assert entries(directory) == []


def test_a_cache_directory_that_vanished_is_made_again(directory):
    directory.rmdir()
    assert kernel(double)(1.5) == 3.0
    assert len(entries(directory)) == 1


def test_a_disk_that_is_full_costs_the_cache_and_a_warning(directory, monkeypatch):
    def full(*names):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert kernel(double)(1.5) == 3.0
    assert kernel(double)(1.5) == 3.0  # a second warning would be an error here
    assert entries(directory) == []


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
    place = _cache.user_place()
    place.write("entry.bin", b"content")
    assert place.read("entry.bin") == b"content"
    assert set(place.folder.parent.iterdir()) == {young, place.folder}


def test_a_folder_that_cannot_be_marked_as_used_is_read(tmp_path, monkeypatch):
    def read_only(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    place = _cache.Place((tmp_path,))
    place.write("entry.bin", b"content")
    monkeypatch.setattr(os, "utime", read_only)
    assert place.read("entry.bin") == b"content"


@pytest.mark.slow
@pytest.mark.parametrize("home", ["", "cache", "~/.cache"])
def test_without_a_home_nothing_is_written_to_the_working_directory(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    root = _cache._user_root.__wrapped__("")
    assert root is None or not root.is_relative_to(tmp_path)


@pytest.mark.slow
def test_a_relative_folder_is_that_of_the_working_directory_at_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_cache.config, "CACHE_DIR", tmp_path.name)
    before = _cache.user_place()
    assert before.folder.is_relative_to(tmp_path / tmp_path.name)
    monkeypatch.chdir("/")
    assert _cache.user_place() == before


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
def test_kernels_that_two_processes_compiled_are_told_apart_in_a_third(installation, order):
    both = [{"maximize": True}, {"weight_decay": 0.5}, {}][::order]
    alone = [run(installation, ADAGRAD.format([options])) for options in both]
    assert alone == ["9.500", "9.500", "10.500"][::order]
    assert run(installation, ADAGRAD.format(both)).split() == alone


@pytest.mark.slow
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
