"""Description of the environment and ahead-of-time compilation: `python -m fastadam info` and `... warmup`."""

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
from fastadam.cpu.cache import Place, package_place, user_place
from fastadam.cpu.cores import process_limits, thread_limits
from fastadam.cpu.matmul import TILE_ROWS
from fastadam.cpu.target import TARGET
from fastadam.cpu.threads import PARALLEL_BYTES, parallel_threads
from fastadam.cuda import is_available
from fastadam.estimators.classifier import MLPClassifier
from fastadam.estimators.regressor import MLPRegressor
from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.row_adam import RowAdam
from fastadam.optimizers.sgd import SGD

_OPTIMIZERS = (SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam, Lion)

_PACKAGES = ("fastadam", "numpy", "scipy", "numba", "llvmlite", "scikit-learn", "threadpoolctl")


def info() -> dict[str, str]:
    """Describe the versions, threads, BLAS, CPU, caches and GPU that fastadam finds.

    Returns
    -------
    dict of str to str
        A line of text for each item; `python -m fastadam info` prints them.

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
    described["kernel cache"] = _described(user_place(), "stored here")
    described["package kernels"] = _described(package_place(), "stored here by `warmup --into-package`")
    described["GPU"] = _gpu()
    return described


def warmup() -> float:
    """Compile the kernels of the estimators and of the optimizers with default settings, for float32 and float64.

    The kernels are stored in the disk cache, where later processes find them. `python -m fastadam warmup
    --into-package` stores them in the installed package, where all its users find them.

    Returns
    -------
    float
        The time taken, in seconds; a second call, also in another process, finds all kernels compiled.

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
    """Describe the number of threads, every limit that is set, and the first limit that binds."""
    limits = process_limits() | thread_limits()
    binding = min(limits, key=lambda name: limits[name])
    shown = {"CPU quota": "none"} | {name: str(limit) for name, limit in limits.items()}
    return f"{limits[binding]}: {', '.join(map(' '.join, shown.items()))}; bound by {binding}"


def _cpu() -> str:
    slow = "without fused multiply-add (slower, and rounded differently)"
    fused = "with fused multiply-add" if TARGET.fused else slow
    vectors = f"vectors of {TARGET.vector_bytes} bytes, tiles of {TILE_ROWS} rows"
    return f"{llvm.get_host_cpu_name()}; code for {TARGET.name}, {fused}, {vectors}"


def _described(place: Place, kept: str) -> str:
    """Describe a place of compiled kernels: its content, and whether more can be stored there, or why not."""
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
