"""Selection of the docstring examples: modules whose library is not installed are skipped."""

from importlib.util import find_spec

collect_ignore_glob = []
if not find_spec("torch"):
    collect_ignore_glob += ["fastadam/interop/torch.py", "fastadam/interop/_torch.py"]
if not find_spec("onnx"):
    collect_ignore_glob += ["fastadam/interop/onnx.py"]
if not find_spec("numba_cuda"):
    collect_ignore_glob += ["fastadam/cuda/*.py", "tests/helpers/cuda_arrays.py", "tests/helpers/machine_code.py"]


def pytest_collection() -> None:
    """Load the public classes, whose examples belong to the package and not to the module that defines them."""
    import fastadam

    vars(fastadam).update({name: getattr(fastadam, name) for name in fastadam.__all__})
