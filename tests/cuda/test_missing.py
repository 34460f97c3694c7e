"""Arrays on a device where there is no driver, no numba-cuda, or no toolkit: the message says what is missing."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = "install the extra: pip install 'fastadam[cuda]'"
STEP = """
import numpy as np, fastadam
from tests.helpers.cuda_arrays import FakeDeviceArray
fastadam.Adam(FakeDeviceArray(np.ones(3)))
"""

NO_PACKAGE = """
import importlib.util as util
find_spec = util.find_spec
util.find_spec = lambda name, *rest: None if name == "numba_cuda" else find_spec(name, *rest)
"""
NO_TOOLKIT = """
import importlib.util as util, sys
find_spec = util.find_spec
util.find_spec = lambda name, *rest: object() if name == "numba_cuda" else find_spec(name, *rest)
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda":
            raise RuntimeError("DynamicLibNotFoundError: libnvvm")
sys.meta_path.insert(0, Broken())
"""


def last_line(code, **environment):
    arguments = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={"PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return result.stderr.strip().splitlines()[-1]


def test_without_numba_cuda():
    message = "arrays on a CUDA device need numba-cuda, which is not installed; "
    assert last_line(NO_PACKAGE + STEP) == f"ImportError: {message}{INSTALL}"


def test_without_the_toolkit():
    message = "numba-cuda cannot be loaded (DynamicLibNotFoundError: libnvvm); "
    assert last_line(NO_TOOLKIT + STEP) == f"ImportError: {message}{INSTALL}"


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason="needs numba-cuda, to find no device")
def test_without_a_device():
    line = last_line(STEP, CUDA_VISIBLE_DEVICES="-1")
    assert line.startswith("fastadam.cuda.jit.NoDeviceError: no CUDA device can be used: ")
    assert "It needs an NVIDIA GPU and its driver" in line
