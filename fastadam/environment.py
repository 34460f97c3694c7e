"""What fastadam runs on, and compiling everything ahead: `python -m fastadam info` and `python -m fastadam warmup`."""

import os
import platform
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from threadpoolctl import threadpool_info

from fastadam import kernels
from fastadam._cache import Place, package_place, user_place
from fastadam._cores import process_limits, thread_limits
from fastadam._target import TARGET
from fastadam._threads import parallel_threads
from fastadam.classifier import MLPClassifier
from fastadam.cpu import PARALLEL_BYTES
from fastadam.cuda import is_available
from fastadam.gemm import TILE_ROWS
from fastadam.optimizers import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSprop
from fastadam.regressor import MLPRegressor
from fastadam.rows import RowAdam

_OPTIMIZERS = (SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam, Lion)
_PACKAGES = ("fastadam", "numpy", "scipy", "numba", "llvmlite", "scikit-learn", "threadpoolctl")


def info() -> dict[str, str]:
    """Describe the versions, threads, BLAS, CPU, cache and GPU that fastadam finds.

    Returns
    -------
    dict of str to str
        One line for each; `python -m fastadam info` prints them.

    Examples
    --------
    >>> from fastadam.environment import info
    >>> "numba" in info()
    True
    """
    described = {name: _version(name) for name in _PACKAGES}
    described["python"] = platform.python_version()
    described["CPU"] = _cpu()
    described["threads"] = _threads()
    described["parallel kernels"] = _parallel_kernels()
    described["BLAS"] = _blas()
    described["kernel cache"] = _described(user_place(), "kept here")
    described["package kernels"] = _described(package_place(), "kept here by `warmup --into-package`")
    described["GPU"] = _gpu()
    return described


def warmup() -> float:
    """Compile what the estimators and the optimizers with their usual settings need, for float32 and float64.

    It is left in the disk cache, where later processes find it. `python -m fastadam warmup --into-package` leaves it in
    the installed package, where every user finds it.

    Returns
    -------
    float
        Seconds that it took; a second call, also in another process, finds everything compiled.

    Examples
    --------
    >>> from fastadam import warmup
    >>> seconds = warmup()  # doctest: +SKIP
    """
    start = time.perf_counter()
    for dtype in (np.float32, np.float64):
        _train_a_little(dtype)
        _step_a_little(dtype)
    return time.perf_counter() - start


def _train_a_little(dtype: type[np.floating]) -> None:
    X = np.linspace(-1, 1, 400, dtype=dtype).reshape(100, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 1, "random_state": 0}
        models = [MLPRegressor(**settings).fit(X, X[:, 0])]
        models += [MLPClassifier(**settings).fit(X, np.arange(100) // size) for size in (50, 25)]
    for model in models:
        model.predict(X)
        model.predict(X[:1])


def _step_a_little(dtype: type[np.floating]) -> None:
    for optimizer in _OPTIMIZERS:
        for size in (1, PARALLEL_BYTES // np.dtype(dtype).itemsize):
            p = np.ones(size, dtype)
            optimizer(p).step(np.ones_like(p))
    for k in (1, PARALLEL_BYTES // np.dtype(dtype).itemsize):
        RowAdam(np.ones((1, 1), dtype)).step(np.zeros(k, int), np.ones((k, 1), dtype))
    p = np.ones(1, dtype)
    kernels.adam_step(p, p.copy(), p.copy(), p.copy(), 1, 1e-3, 0.9, 0.999, 1e-8)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _threads() -> str:
    """How many, every limit that is set, and the first of those that bind."""
    limits = process_limits() | thread_limits()
    binding = min(limits, key=lambda name: limits[name])
    shown = {"CPU quota": "none"} | {name: str(limit) for name, limit in limits.items()}
    return f"{limits[binding]}: {', '.join(map(' '.join, shown.items()))}; bound by {binding}"


def _cpu() -> str:
    fused = "with fused multiply-add" if TARGET.fused else "without fused multiply-add (slower, and other rounding)"
    vectors = f"vectors of {TARGET.vector_bytes} bytes, tiles of {TILE_ROWS} rows"
    return f"{llvm.get_host_cpu_name()}; code for {TARGET.name}, {fused}, {vectors}"


def _described(place: Place, kept: str) -> str:
    """A place of compiled kernels: what is in it, and whether more can be kept there, or why not."""
    if place.folder is None:
        return f"none: {place.obstacle()}"
    if refusal := place.refusal():
        return refusal
    try:
        found = f"{len(os.listdir(place.folder))} kernels"
    except (FileNotFoundError, NotADirectoryError):
        found = "no kernels"
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    obstacle = place.obstacle()
    return f"{place.folder}: {found}; " + (f"none can be added, since {obstacle}" if obstacle else f"more are {kept}")


def _parallel_kernels() -> str:
    threads = parallel_threads()
    return "serial only" if threads == 1 else f"Numba's {numba.threading_layer()} layer, {threads} threads"


def _gpu() -> str:
    if not is_available():
        return "none that can be used: it needs a driver and the extra `cuda`"
    from numba import cuda

    return ", ".join(str(device.name) for device in cuda.gpus)


def _blas() -> str:
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    names = [
        f"{library['internal_api']} {library['version']} ({library['num_threads']} threads)" for library in libraries
    ]
    return ", ".join(names) + " - not used in training" if names else "none loaded"
