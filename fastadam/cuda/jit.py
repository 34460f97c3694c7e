"""The compiler for CUDA: compile flags, formulas, and the primitives they call.

numba-cuda is imported here, and all other modules take it from here. Kernels take addresses, as integers, and no
arrays: a launch with arrays takes Python several times as long.
"""

import importlib.util
import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from fastadam.formulas import storage
from fastadam.formulas.backend import NUMPY_MATH, Backend

INSTALL = "install the extra: pip install 'fastadam[cuda]'"

if importlib.util.find_spec("numba_cuda") is None:
    raise ImportError(f"arrays on a CUDA device need numba-cuda, which is not installed; {INSTALL}")

try:
    from numba import cuda as cuda
    from numba.cuda import types
    from numba.cuda.core import config
except Exception as error:  # DynamicLibNotFoundError, a RuntimeError, if libraries of the toolkit are missing
    raise ImportError(f"numba-cuda cannot be loaded ({error}); {INSTALL}") from error

SIMULATED = bool(config.ENABLE_CUDASIM)

THREADS = 4 if SIMULATED else 256
"""Threads of a block; the simulator starts a Python thread for each."""

WARP = 1 if SIMULATED else 32
"""Threads that exchange registers; those of the simulator do not."""


class NoDeviceError(RuntimeError):
    """Error raised if there is no CUDA device, or no driver for it."""


def require_device() -> None:
    """Raise an error that says why no kernel can be launched, if none can.

    Raises
    ------
    NoDeviceError
        If there is no device, or no driver.
    """
    if not cuda.is_available():
        reason = " ".join(str(cuda.cuda_error() or "the driver finds none").split()).rstrip(". :")
        raise NoDeviceError(
            f"no CUDA device can be used: {reason}. It needs an NVIDIA GPU and its driver (nvidia-smi lists both)"
        )


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python launches, in blocks of `THREADS` threads.

    At least two blocks must fit a multiprocessor. Without this bound the compiler aims at more, and may spill for it.
    """
    return cuda.jit(function) if SIMULATED else cuda.jit(launch_bounds=(THREADS, 2))(function)


def device(function: Callable[..., Any]) -> Any:
    """Compile a function that only kernels call."""
    return function if SIMULATED else cuda.jit(device=True, forceinline=True)(function)


def in_module(function: Any, namespace: dict[str, Any]) -> Any:
    """Bind a device function that uses `cuda` to the module of the kernels that call it.

    The simulator replaces `cuda` only in the module of a kernel.
    """
    return FunctionType(function.__code__, namespace) if SIMULATED else function


@device
def maximum(a, b):
    """Return the larger argument as Python's `max` does: the first if the second is not larger, as NaN never is."""
    return b if b > a else a


@device
def minimum(a, b):
    """Return the smaller argument as Python's `min` does: the first if the second is not smaller, as NaN never is."""
    return b if b < a else a


_PRIMITIVES: dict[Any, Any] = {max: maximum, min: minimum}
"""CUDA's own extrema drop NaN, where Python's keep their first argument."""

if SIMULATED:
    bits_of, float_of = storage.bits_of, storage.float_of
    _PRIMITIVES[math] = NUMPY_MATH

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    def _bitwise(argument: Any, result: Any, build: Any) -> Any:
        """Make an intrinsic of one argument from the instructions that `build` emits."""

        def typed(typingctx, x):
            def codegen(context, builder, signature, arguments):
                return build(builder, arguments[0], context.get_value_type(result))

            return result(argument), codegen

        return intrinsic(typed)

    bits_of = _bitwise(types.float32, types.uint32, lambda builder, x, kind: builder.bitcast(x, kind))
    float_of = _bitwise(types.uint32, types.float32, lambda builder, x, kind: builder.bitcast(x, kind))
    _to_float16 = _bitwise(
        types.float32,
        types.uint16,
        lambda builder, x, kind: builder.bitcast(builder.fptrunc(x, ir.HalfType()), kind),
    )
    _from_float16 = _bitwise(
        types.uint16,
        types.float32,
        lambda builder, x, kind: builder.fpext(builder.bitcast(x, ir.HalfType()), kind),
    )
    _PRIMITIVES |= {storage.bits_of: bits_of, storage.float_of: float_of}
    _PRIMITIVES |= {storage.from_float16: _from_float16, storage.to_float16: _to_float16}


def _as_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a formula; in the simulator, silence its warnings, as compiled code gives none."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")(function) if SIMULATED else device(function)


formula = Backend(_as_compiled, _PRIMITIVES)
"""Compiles a formula for functions that kernels call."""
