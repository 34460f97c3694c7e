import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastadam

PACKAGE = Path(fastadam.__file__).parent
# A module may import the modules of the lines above its own, and no other.
LAYERS = [
    {"_files", "_target"},
    {"rules", "buffers", "_cache", "_checks", "_cores"},
    {"jit", "_arrays", "_threads"},
    {"atomics", "elementary", "formats", "gemm"},
    {"activations", "dropout", "losses", "cpu", "gang", "interrupts"},
    {"kernels", "network", "schedules"},
    {"engine", "_archive", "_optimizer"},
    {"optimizers", "custom", "rows"},
    {"cuda"},
    {"trainer"},
    {"_callbacks", "_device", "_lbfgs", "_rates", "_solvers"},
    {"_constraints", "_messages"},
    {"_fit_state", "_model"},
    {"_ranges"},
    {"_estimator"},
    {"classifier", "regressor"},
    {"checkpoint", "display", "environment", "presets"},
    {"interop"},
    {"__init__"},
    {"__main__"},
]
LEVELS = {module: level for level, modules in enumerate(LAYERS) for module in modules}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def level_of(module):
    assert module in LEVELS, f"{module} has no place in LAYERS: give it one"
    return LEVELS[module]


def imported_modules(source):
    """Modules of the package that a source file imports, anywhere in it."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source.name} has a relative import, where absolute ones are the house style"
            names = [f"fastadam.{alias.name}" for alias in node.names] if node.module == "fastadam" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("fastadam."))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(PACKAGE)))
def test_imports_point_one_way(source):
    own = source.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imported_modules(source):
        inside = own == module and own in {"interop", "cuda"}
        assert inside or level_of(module) < level_of(own), f"{own} must not import {module}"


def test_importing_the_package_loads_no_optional_dependency_and_compiles_nothing():
    code = (
        "import sys, fastadam; from fastadam.kernels import adam_step as a, adam_step_parallel as b\n"
        "optional = {'matplotlib', 'cupy', 'numba_cuda', 'numba.cuda', 'torch', 'jax', 'mpi4py', 'onnx'}\n"
        "print(optional & set(sys.modules), [kernel for kernel in (a, b) if getattr(kernel, 'signatures', [])])\n"
    )
    arguments = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(arguments, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120, check=False)
    assert (result.stdout.strip(), result.stderr) == ("set() []", "")


def test_importing_the_package_loads_what_few_need_only_when_it_is_asked_for():
    code = (
        "import sys, fastadam\n"
        "late = {'fastadam.custom', 'fastadam.schedules', 'fastadam.regressor', 'sklearn'}\n"
        "print(late & set(sys.modules))\n"
        "from fastadam import optimizer, schedules\n"
        "print(optimizer.__module__, fastadam.schedules is schedules, schedules.__name__)\n"
    )
    arguments = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(arguments, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120, check=False)
    assert (result.stdout, result.stderr) == ("set()\nfastadam.custom True fastadam.schedules\n", "")


def test_every_public_name_exists():
    assert sorted(fastadam.__all__, key=str.lower) == sorted(set(fastadam.__all__), key=str.lower)
    for name in fastadam.__all__:
        assert hasattr(fastadam, name)


@pytest.mark.parametrize("source", sorted((PACKAGE.parent / "bench").glob("*.py")), ids=lambda source: source.name)
def test_a_benchmark_imports_only_what_asv_installs(source):
    """asv imports every file there, in an environment that has the dependencies and the peers."""
    imported = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    dependencies = {"numpy", "scipy", "numba", "llvmlite", "sklearn", "joblib", "threadpoolctl"}
    assert imported <= {"bench", "fastadam", "torch", "jax", "optax", *dependencies, *sys.stdlib_module_names}
