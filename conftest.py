"""Selection of the docstring examples: modules whose library is not installed are skipped."""

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


def pytest_collection() -> None:
    """Load the public classes, whose examples belong to the package and not to the module that defines them."""
    import fastadam

    vars(fastadam).update({name: getattr(fastadam, name) for name in fastadam.__all__})
