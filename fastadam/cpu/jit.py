"""The decorators of the package, which hold the flags that every compiled function gets.

Strict IEEE arithmetic (no fastmath), NumPy's error model (without it each division is a branch and no loop vectorises),
the GIL released, and a disk cache that is never stale.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import config, types
from numba.extending import overload

from fastadam.cpu import bits
from fastadam.cpu.cache import KernelCache
from fastadam.cpu.target import TARGET
from fastadam.formulas import storage
from fastadam.formulas.backend import NUMPY_MATH, Backend

JIT_DISABLED = bool(config.DISABLE_JIT)

_FLAGS: dict[str, Any] = {"error_model": "numpy", "nogil": True}


def kernel(
    function: Callable[..., Any] | None = None, *, parallel: bool = False, variant: str = "", cached: bool = True
) -> Any:
    """Compile a function that Python calls, and cache it on disk.

    `variant` must tell apart the functions that one factory makes with different constants.
    """
    if function is None:
        return lambda f: kernel(f, parallel=parallel, variant=variant, cached=cached)
    dispatcher = numba.njit(parallel=parallel, **_FLAGS)(function)
    if cached and not JIT_DISABLED:
        name = "-".join(filter(None, (function.__module__.rpartition(".")[2], function.__name__, variant)))
        dispatcher._cache = KernelCache(function, name)
    return dispatcher


def inner(function: Callable[..., Any], *, forceinline: bool = False) -> Any:
    """Compile a function that only kernels call, and that becomes part of each of them.

    Python cannot call it, which saves a sixth of the time to compile. `forceinline` is for functions in a loop that is
    to be vectorised, which a call prevents, if LLVM might find them too large to be inlined.
    """
    flags = _FLAGS | {"forceinline": forceinline}
    dispatcher = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **flags)(function)
    if not JIT_DISABLED:
        dispatcher.get_call_template = functools.partial(_call_template, dispatcher.get_call_template)
    return dispatcher


def _call_template(template_of: Callable[..., Any], args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
    """Type a call as if its constant arguments were variables: Numba would compile it anew for each constant."""
    plain = types.unliteral  # type: ignore[attr-defined]
    return template_of(tuple(map(plain, args)), {name: plain(kws[name]) for name in kws})


def inlined(function: Callable[..., Any]) -> Any:
    """Inline a function into its callers before they are compiled.

    Numba compiles and optimises everything that a function calls again with each enclosing function. In a deep stack of
    functions it is therefore better to inline the outer ones.
    """
    return numba.njit(inline="always", **_FLAGS)(function)


def of_either_type(single: Callable[..., Any], double: Callable[..., Any]) -> Any:
    """Make a function that calls `single` for float32 and `double` for float64; compiled code inlines it."""

    def function(x):
        with np.errstate(all="ignore"):
            return (single if isinstance(x, np.float32) else double)(x)

    chosen = overload(function, jit_options=_FLAGS | {"forceinline": True})
    chosen(lambda x: {types.float32: single, types.float64: double}.get(x))
    return function


if JIT_DISABLED:
    formula = Backend(np.errstate(over="ignore", invalid="ignore", divide="ignore"), {math: NUMPY_MATH})
else:
    _PRIMITIVES: dict[Any, Any] = {storage.bits_of: bits.bits_of, storage.float_of: bits.float_of}
    if TARGET.halves:
        _PRIMITIVES |= {storage.from_float16: bits.from_float16, storage.to_float16: bits.to_float16}
    else:  # LLVM would call a library function that is not there, which ends the process
        _by_integers = Backend(inner, _PRIMITIVES)
        _PRIMITIVES |= {
            storage.from_float16: _by_integers(storage.half_value),
            storage.to_float16: _by_integers(storage.half_bits),
        }
    formula = Backend(inner, _PRIMITIVES)
"""Compiles a formula for functions that kernels call; without compilation, it warns as little as compiled code does."""
