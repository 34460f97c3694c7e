"""Which modules pytest does not look into for examples: those whose own library is not installed."""

import os
from importlib.util import find_spec

collect_ignore_glob = []
if not find_spec("torch"):
    collect_ignore_glob += ["fastadam/interop/torch.py", "fastadam/interop/_torch.py"]
if not find_spec("onnx"):
    collect_ignore_glob += ["fastadam/interop/onnx.py"]
if not find_spec("numba_cuda"):
    collect_ignore_glob += ["tests/helpers/cuda_*.py", "tests/helpers/machine_code.py"]
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    collect_ignore_glob += ["tests/helpers/machine_code.py"]  # which needs the compiler
else:
    collect_ignore_glob += ["fastadam/cuda/*.py"]  # whose examples need a device, or the simulator
