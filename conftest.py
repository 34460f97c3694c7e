"""Which modules pytest does not look into for examples: those whose own library is not installed."""

from importlib.util import find_spec

collect_ignore_glob = []
if not find_spec("torch"):
    collect_ignore_glob += ["fastadam/interop/torch.py", "fastadam/interop/_torch.py"]
if not find_spec("onnx"):
    collect_ignore_glob += ["fastadam/interop/onnx.py"]
if not find_spec("numba_cuda"):
    collect_ignore_glob += ["fastadam/cuda/*.py", "tests/helpers/cuda_arrays.py", "tests/helpers/machine_code.py"]
