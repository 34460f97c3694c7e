"""The plan of the package: imports point one way, each idea has one home, each module a test of its path."""

import ast
import itertools
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fastadam

PACKAGE = Path(fastadam.__file__).parent
TESTS = PACKAGE.parent / "tests"

FLOORS = [
    {"_typing", "_checks", "_docs", "_files", "_memory", "_moved", "_watch"},
    {"buffers"},
    {"formulas"},
    {"schedules"},
    {"cpu", "cuda"},
    {"kernels"},
    {"optimizers"},
    {"estimators"},
    {"environment", "presets"},
    {"interop"},
    {"__init__"},
    {"__main__"},
]
"""A room imports from the floors below its own; rooms on one floor do not know each other."""

SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {source.relative_to(PACKAGE).with_suffix("").as_posix(): source for source in SOURCES}


def floor_of(module):
    room = module.partition("/")[0]
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


@cache
def tree_of(module):
    return ast.parse(MODULES[module].read_text())


def named_modules(node):
    """Dotted paths that a statement or a call imports; `importlib.import_module("...")` included."""
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "absolute imports are the house style"
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("fastadam."):
        return [node.value]  # a path that some import_module may be given
    return []


def module_at(path):
    """The module of the package at a dotted path, or None."""
    parts = "/".join(path.split(".")[1:]) if path.partition(".")[0] == "fastadam" else None
    if not parts:
        return None
    return parts if parts in MODULES else f"{parts}/__init__" if f"{parts}/__init__" in MODULES else None


@cache
def imports_of(module, typing_too=False):
    """The modules of the package that a module imports, anywhere in it."""
    tree = tree_of(module)
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found = [path for node in ast.walk(tree) if typing_too or node not in for_types for path in named_modules(node)]
    return {target for target in map(module_at, found) if target and target != module}


def is_marker(module):
    """An `__init__` that only says what its folder is, or re-exports: reaching it is reaching nothing by itself."""
    return module.endswith("__init__")


@pytest.mark.parametrize("module", [module for module in MODULES if module not in ("__init__", "__main__", "_moved")])
def test_imports_point_one_way(module):
    room = module.partition("/")[0]
    for target in imports_of(module):
        inside = target.partition("/")[0] == room and "/" in target
        assert inside or floor_of(target) < floor_of(module), f"{module} must not import {target}"


@pytest.mark.parametrize("room", ["formulas", "cpu", "cuda", "optimizers", "estimators", "interop"])
def test_a_room_has_no_circle(room):
    modules = [module for module in MODULES if module.startswith(f"{room}/") and not is_marker(module)]
    graph = {module: {target for target in imports_of(module) if target in modules} for module in modules}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_package_has_no_circle():
    graph = {
        module: {target for target in imports_of(module) if not is_marker(target)}
        for module in MODULES
        if not is_marker(module) and module != "_moved"  # which names what others may ask for
    }
    list(TopologicalSorter(graph).static_order())


def test_formulas_know_no_numba():
    for module in MODULES:
        if floor_of(module) <= FLOORS.index({"formulas"}):
            imported = {path.partition(".")[0] for node in ast.walk(tree_of(module)) for path in named_modules(node)}
            assert not imported & {"numba", "llvmlite"}, module


@pytest.mark.parametrize("module", [module for module in MODULES if not is_marker(module)])
def test_a_module_has_a_test_of_its_path(module):
    folder, _, name = module.rpartition("/")
    assert (TESTS / folder / f"test_{name.strip('_')}.py").is_file()


def constants():
    """Names in capitals, and the values that modules give them."""
    values = defaultdict(set)
    for module in MODULES:
        for node in tree_of(module).body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    for name, value in pairs(target, node.value):
                        if name.isupper() and not name.startswith("_"):
                            values[name].add((module, value))
    return values


def pairs(target, value):
    """Names and the texts of what they are given, one by one in an assignment of several."""
    if isinstance(target, ast.Name):
        return [(target.id, ast.unparse(value))]
    names = [element.id for element in getattr(target, "elts", []) if isinstance(element, ast.Name)]
    if isinstance(value, ast.Tuple):
        texts = map(ast.unparse, value.elts)
    elif ast.unparse(value).startswith("range("):
        texts = map(str, eval(ast.unparse(value)))
    else:
        texts = itertools.repeat(ast.unparse(value))
    return list(zip(names, texts, strict=False))


def test_no_constant_has_two_values():
    twice = {name: sorted(found) for name, found in constants().items() if len({value for _, value in found}) > 1}
    assert twice == {}


def test_no_constant_has_two_homes():
    twice = {name: sorted(found) for name, found in constants().items() if len(found) > 1}
    assert twice == {}


def lines_of(source):
    """Lines of a source without its docstrings."""
    tree = ast.parse(source.read_text())
    owners = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    strings = [
        node
        for owner in owners
        for node in owner.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return len(source.read_text().splitlines()) - sum(node.end_lineno - node.lineno + 1 for node in strings)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_read_at_one_sitting(module):
    assert lines_of(MODULES[module]) <= 500


def functions_of(module):
    return [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.FunctionDef)]


def body_lines(function):
    """Lines of a function after its docstring."""
    first = function.body[1:] if ast.get_docstring(function) else function.body
    return first[-1].end_lineno - first[0].lineno + 1 if first else 0


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    long = {function.name: body_lines(function) for function in functions_of(module) if body_lines(function) > 60}
    assert long == {}


MANY_ARGUMENTS = {
    "public, with scikit-learn's parameters and ours": {
        "estimators/classifier: __init__", "estimators/regressor: __init__",
    },
    "given its options by keyword by `scipy.optimize.minimize`": {"interop/scipy: method"},
    "a formula, whose scalars are arguments": {
        f"formulas/rules: {rule}" for rule in ("adam", "amsgrad", "nadam", "radam", "rmsprop_centered_momentum")
    },
    "an engine, given its options by keyword": {"cpu/engine: __init__", "cuda/engine: __init__"},
    "launched from Python, where a tuple of unlike types would cost as much as the step": {
        "cpu/rows: serial_rows", "cpu/rows: parallel_rows",
    },
}  # fmt: skip
"""The functions with more than nine arguments, by the reason why."""


def argument_count(function):
    """Number of arguments, without the object of a method and Numba's context of an intrinsic."""
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls", "typingctx")])


def test_functions_have_few_arguments():
    many = {
        f"{module}: {function.name}"
        for module in MODULES
        for function in functions_of(module)
        if argument_count(function) > 9
    }
    assert many == set().union(*MANY_ARGUMENTS.values())


# What an import of the package loads


def run(code):
    arguments = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(arguments, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120, check=False)


def test_importing_the_package_loads_no_optional_dependency_and_compiles_nothing():
    result = run(
        "import sys, fastadam; from fastadam.kernels import adam_step as a, adam_step_parallel as b\n"
        "optional = {'matplotlib', 'cupy', 'numba_cuda', 'numba.cuda', 'torch', 'jax', 'mpi4py', 'onnx'}\n"
        "print(optional & set(sys.modules), [kernel for kernel in (a, b) if getattr(kernel, 'signatures', [])])\n"
    )
    assert (result.stdout.strip(), result.stderr) == ("set() []", "")


def test_importing_the_package_loads_what_few_need_only_when_it_is_asked_for():
    result = run(
        "import sys, fastadam\n"
        "late = {'fastadam.optimizers.custom', 'fastadam.schedules', 'fastadam.estimators.regressor', 'sklearn'}\n"
        "print(late & set(sys.modules))\n"
        "from fastadam import optimizer, schedules\n"
        "print(optimizer.__module__, fastadam.schedules is schedules, schedules.__name__)\n"
    )
    assert (result.stdout, result.stderr) == ("set()\nfastadam.optimizers.custom True fastadam.schedules\n", "")


def test_every_public_name_exists():
    assert sorted(fastadam.__all__, key=str.lower) == sorted(set(fastadam.__all__), key=str.lower)
    for name in fastadam.__all__:
        assert hasattr(fastadam, name)


def test_public_classes_are_of_the_module_that_users_import_them_from():
    for name in fastadam.__all__:
        value = getattr(fastadam, name)
        if isinstance(value, type):
            assert value.__module__ == "fastadam"


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
