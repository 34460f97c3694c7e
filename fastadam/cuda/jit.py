"""The compiler for CUDA, and access to a device's memory by address. What is particular to numba-cuda is here.

Kernels take addresses, as integers, and no arrays: to launch one with arrays takes Python several times as long, and an
access of 128 bits has to be asked for in any case. Under Numba's simulator each of these functions has a stand-in.
"""

import functools
import importlib.util
import math
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from fastadam._memory import array_in_memory
from fastadam.formulas import storage
from fastadam.formulas.backend import NUMPY_MATH, Backend

INSTALL = "install the extra: pip install 'fastadam[cuda]'"

if importlib.util.find_spec("numba_cuda") is None:
    raise ImportError(f"arrays on a CUDA device need numba-cuda, which is not installed; {INSTALL}")

try:
    from numba import cuda as cuda
    from numba.cuda import types
    from numba.cuda.core import config
except Exception as error:  # DynamicLibNotFoundError, a RuntimeError, where the toolkit's libraries are missing
    raise ImportError(f"numba-cuda cannot be loaded ({error}); {INSTALL}") from error

SIMULATED = bool(config.ENABLE_CUDASIM)

THREADS = 4 if SIMULATED else 256
"""Threads of a block; the simulator starts a thread of Python for each."""

WARP = 1 if SIMULATED else 32
"""Threads that exchange registers; the simulator's do not."""

ACCESS_BYTES = 16
"""What one instruction moves at most."""

WORD = 8
"""Bytes of an address, or of a count."""


class NoDeviceError(RuntimeError):
    """There is no CUDA device, or no driver for it."""


def require_device() -> None:
    """Raise what says why, where no kernel could be launched."""
    if not cuda.is_available():
        reason = " ".join(str(cuda.cuda_error() or "the driver finds none").split()).rstrip(". :")
        raise NoDeviceError(
            f"no CUDA device can be used: {reason}. It needs an NVIDIA GPU and its driver (nvidia-smi lists both)"
        )


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python launches, in blocks of `THREADS` threads.

    Two blocks must fit a multiprocessor at least. Left to itself, the compiler aims at more, and may spill for it.
    """
    return cuda.jit(function) if SIMULATED else cuda.jit(launch_bounds=(THREADS, 2))(function)


def device(function: Callable[..., Any]) -> Any:
    """Compile a function that only kernels call."""
    return function if SIMULATED else cuda.jit(device=True, forceinline=True)(function)


def in_module(function: Any, namespace: dict[str, Any]) -> Any:
    """A device function for another module's kernels: the simulator replaces `cuda` in a kernel's own module alone."""
    return FunctionType(function.__code__, namespace) if SIMULATED else function


@device
def maximum(a, b):
    """Python's `max`: the first argument, if the second is not larger, as NaN never is."""
    return b if b > a else a


@device
def minimum(a, b):
    """Python's `min`, likewise."""
    return b if b < a else a


class Memory(NamedTuple):
    """Access to global memory by address, for one type of element."""

    itemsize: int
    lanes: int
    """Elements of a vector."""
    load: Callable[[int], Any]
    store: Callable[[int, Any], None]
    load_vector: Callable[[int], tuple[Any, ...]]
    """A vector, as a tuple, from a multiple of 16 bytes."""
    store_vector: Callable[[int, tuple[Any, ...]], None]
    store_all: Callable[[int, tuple[Any, ...]], None]
    """Values one behind the other, each rounded to the type of element."""


if SIMULATED:

    @functools.cache
    def memory(dtype: str) -> Memory:
        """Access to memory, in the simulator."""
        kind = np.dtype(dtype)
        lanes = min(4, ACCESS_BYTES // kind.itemsize)

        def load(address):
            return array_in_memory(int(address), 1, kind)[0]

        def store(address, value):
            with np.errstate(over="ignore"):
                array_in_memory(int(address), 1, kind)[0] = value

        def load_vector(address):
            assert address % (lanes * kind.itemsize) == 0
            return tuple(array_in_memory(int(address), lanes, kind))

        def store_vector(address, values):
            assert address % (lanes * kind.itemsize) == 0
            store_all(address, values)

        def store_all(address, values):
            for k, value in enumerate(values):
                store(address + k * kind.itemsize, value)

        return Memory(kind.itemsize, lanes, load, store, load_vector, store_vector, store_all)

    @functools.cache
    def loader(dtype: str, count: int) -> Callable[[int], tuple[Any, ...]]:
        """What loads so many values, one behind the other, as a tuple."""
        return lambda address: tuple(array_in_memory(int(address), count, np.dtype(dtype)))

    def cast_like(like, values):
        """The values, a tuple of numbers, in the type of the elements of `like`."""
        return tuple(like.dtype.type(value) for value in values)

    bits_of, float_of = storage.bits_of, storage.float_of

    def warp_maximum(x):
        """The largest of a warp's uint32s, each less than 2**31."""
        return x

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    _GLOBAL = 1  # the address space: an access through it is an LDG or STG, and one through a generic pointer is not

    def _pointer(builder: Any, address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, ir.PointerType(kind, _GLOBAL))

    def _as_tuple(context: Any, builder: Any, kind: Any, values: list[Any]) -> Any:
        return context.make_tuple(builder, kind, values)

    def _elements(context: Any, builder: Any, given: Any, values: Any, kind: Any) -> list[Any]:
        """The values of a tuple, each cast to `kind`."""
        parts = [builder.extract_value(values, k) for k in range(len(given))]
        return [context.cast(builder, part, old, kind) for part, old in zip(parts, given, strict=True)]

    @functools.cache
    def loader(dtype: str, count: int) -> Callable[[int], tuple[Any, ...]]:
        """What loads so many values, one behind the other, as a tuple."""
        kind = getattr(types, dtype)

        @intrinsic
        def load_all(typingctx, address):
            def codegen(context, builder, signature, arguments):
                first = _pointer(builder, arguments[0], context.get_value_type(kind))
                places = [builder.gep(first, [context.get_constant(types.int64, k)]) for k in range(count)]
                return _as_tuple(context, builder, signature.return_type, [builder.load(place) for place in places])

            return types.UniTuple(kind, count)(types.int64), codegen

        return load_all

    @functools.cache
    def memory(dtype: str) -> Memory:
        """Access to memory for one type of element."""
        kind = getattr(types, dtype)
        itemsize = np.dtype(dtype).itemsize
        lanes = min(4, ACCESS_BYTES // itemsize)  # of fewer bytes four as well, the same elements

        @intrinsic
        def load(typingctx, address):
            def codegen(context, builder, signature, arguments):
                return builder.load(_pointer(builder, arguments[0], context.get_value_type(kind)))

            return kind(types.int64), codegen

        @intrinsic
        def store(typingctx, address, value):
            def codegen(context, builder, signature, arguments):
                cast = context.cast(builder, arguments[1], signature.args[1], kind)
                builder.store(cast, _pointer(builder, arguments[0], context.get_value_type(kind)))
                return context.get_dummy_value()

            return types.void(types.int64, value), codegen

        @intrinsic
        def load_vector(typingctx, address):
            def codegen(context, builder, signature, arguments):
                vector = ir.VectorType(context.get_value_type(kind), lanes)
                whole = builder.load(_pointer(builder, arguments[0], vector), align=lanes * itemsize)
                places = [ir.Constant(ir.IntType(32), k) for k in range(lanes)]
                parts = [builder.extract_element(whole, place) for place in places]
                return _as_tuple(context, builder, signature.return_type, parts)

            return types.UniTuple(kind, lanes)(types.int64), codegen

        @intrinsic
        def store_vector(typingctx, address, values):
            def codegen(context, builder, signature, arguments):
                vector = ir.VectorType(context.get_value_type(kind), lanes)
                whole = ir.Constant(vector, ir.Undefined)
                parts = _elements(context, builder, signature.args[1], arguments[1], kind)
                for k, part in enumerate(parts):
                    whole = builder.insert_element(whole, part, ir.Constant(ir.IntType(32), k))
                builder.store(whole, _pointer(builder, arguments[0], vector), align=lanes * itemsize)
                return context.get_dummy_value()

            return types.void(types.int64, values), codegen

        @intrinsic
        def store_all(typingctx, address, values):
            def codegen(context, builder, signature, arguments):
                first = _pointer(builder, arguments[0], context.get_value_type(kind))
                for k, part in enumerate(_elements(context, builder, signature.args[1], arguments[1], kind)):
                    builder.store(part, builder.gep(first, [context.get_constant(types.int64, k)]))
                return context.get_dummy_value()

            return types.void(types.int64, values), codegen

        return Memory(itemsize, lanes, load, store, load_vector, store_vector, store_all)

    @intrinsic
    def cast_like(typingctx, like, values):
        """The values, a tuple of numbers, in the type of the elements of `like`."""

        def codegen(context, builder, signature, arguments):
            parts = _elements(context, builder, signature.args[1], arguments[1], like.dtype)
            return _as_tuple(context, builder, signature.return_type, parts)

        return types.UniTuple(like.dtype, len(values))(like, values), codegen

    def _bitwise(argument: Any, result: Any, build: Any) -> Any:
        """An intrinsic of one argument that is a few instructions."""

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

    _ALL = np.uint32(0xFFFFFFFF)

    @device
    def warp_maximum(x):
        """The largest of a warp's uint32s, each less than 2**31."""
        most = np.int32(x)
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 16))
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 8))
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 4))
        most = max(most, cuda.shfl_xor_sync(_ALL, most, 2))
        return np.uint32(max(most, cuda.shfl_xor_sync(_ALL, most, 1)))


_PRIMITIVES: dict[Any, Any] = {max: maximum, min: minimum}
"""CUDA's own extrema drop NaN, where Python's keep their first argument."""
if SIMULATED:
    _PRIMITIVES[math] = NUMPY_MATH
else:
    _PRIMITIVES |= {storage.bits_of: bits_of, storage.float_of: float_of}
    _PRIMITIVES |= {storage.from_float16: _from_float16, storage.to_float16: _to_float16}


def _as_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a formula; in the simulator, let it warn of nothing, as compiled code does not."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")(function) if SIMULATED else device(function)


formula = Backend(_as_compiled, _PRIMITIVES)
"""Compiles a formula for functions that kernels call."""
