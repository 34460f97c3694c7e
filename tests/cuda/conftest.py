"""The tests that can run: the simulator replaces the compiler for a whole process, so that each needs a process."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
COMPILED = {"test_code.py", "test_device.py"}
ANYWHERE = {"test_detection.py", "test_missing.py"}


def can_run(name):
    """Tell whether a test module can run in this process."""
    if not find_spec("numba_cuda"):
        return name in ANYWHERE
    return name not in COMPILED if SIMULATED else name in COMPILED | ANYWHERE


collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if not can_run(path.name)]


@pytest.fixture
def numpy_for_cupy(monkeypatch):
    """Put NumPy in the place of CuPy."""
    from fastadam.cuda import runtime

    monkeypatch.setattr(runtime, "cupy_runtime", runtime.numpy_runtime)
