"""The compiler for CUDA, and access to a device's memory by address. What is particular to numba-cuda is here.

Kernels take addresses, as integers, and no arrays: to launch one with arrays takes Python several times as long, and an
access of 128 bits has to be asked for in any case. Under Numba's simulator each of these functions has a stand-in.
"""

import functools
import importlib.util
import math
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastadam.buffers import array_in_memory
from fastadam.jit import with_names

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

VECTOR_BYTES = 16
"""What one instruction moves at most."""


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


def written(source: str, **names: Any) -> Any:
    """The compiled function of a source text: for what is done to each of several values, one by one."""
    namespace = {"__name__": __name__, **names}
    exec(source, namespace)
    return device(namespace["function"])


def scalar_rule(function: Any) -> Any:
    """A rule, compiled, with what it calls as compiled on the CPU.

    CUDA's own maximum drops NaN, where Python's keeps its first argument; and under the simulator the root of a float32
    would be a float64, and that of a negative number an error.
    """
    replaced = {"math": _MATH_OF_NUMPY} if SIMULATED and "math" in function.__globals__ else {"max": _maximum}
    return device(with_names(function, **replaced))


_MATH_OF_NUMPY = SimpleNamespace(**vars(math) | {"sqrt": np.sqrt, "exp": np.exp, "log": np.log})


@device
def _maximum(a, b):
    return b if b > a else a


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
        lanes = min(4, VECTOR_BYTES // kind.itemsize)

        def load(address):
            return array_in_memory(int(address), 1, kind)[0]

        def store(address, value):
            with np.errstate(over="ignore"):
                array_in_memory(int(address), 1, kind)[0] = value

        def load_vector(address):
            assert address % VECTOR_BYTES == 0
            return tuple(array_in_memory(int(address), lanes, kind))

        def store_vector(address, values):
            assert address % VECTOR_BYTES == 0 or kind.itemsize < 4
            store_all(address, values)

        def store_all(address, values):
            for k, value in enumerate(values):
                store(address + k * kind.itemsize, value)

        return Memory(kind.itemsize, lanes, load, store, load_vector, store_vector, store_all)

    @functools.cache
    def loader(dtype: str, count: int) -> Callable[[int], tuple[Any, ...]]:
        """What loads so many values, one behind the other, as a tuple."""
        return lambda address: tuple(array_in_memory(int(address), count, np.dtype(dtype)))

    def rounded(like, values):
        """The values, a tuple of numbers, in the type of the elements of `like`."""
        return tuple(like.dtype.type(value) for value in values)

    def to_float16(x):
        """The bits of the nearest float16."""
        with np.errstate(over="ignore"):
            return np.float16(x).view(np.uint16)

    def bits_of(x):
        """The bits of a float32."""
        return int(np.float32(x).view(np.uint32))

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
        lanes = min(4, VECTOR_BYTES // itemsize)  # a copy in two bytes has four lanes too, of 64 bits

        @intrinsic
        def load(typingctx, address):
            def codegen(context, builder, signature, arguments):
                return builder.load(_pointer(builder, arguments[0], context.get_value_type(kind)))

            return kind(types.int64), codegen

        @intrinsic
        def store(typingctx, address, value):
            def codegen(context, builder, signature, arguments):
                rounded = context.cast(builder, arguments[1], signature.args[1], kind)
                builder.store(rounded, _pointer(builder, arguments[0], context.get_value_type(kind)))
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
    def rounded(typingctx, like, values):
        """The values, a tuple of numbers, in the type of the elements of `like`."""

        def codegen(context, builder, signature, arguments):
            parts = _elements(context, builder, signature.args[1], arguments[1], like.dtype)
            return _as_tuple(context, builder, signature.return_type, parts)

        return types.UniTuple(like.dtype, len(values))(like, values), codegen

    @intrinsic
    def to_float16(typingctx, x):
        """The bits of the nearest float16."""

        def codegen(context, builder, signature, arguments):
            return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

        return types.uint16(types.float32), codegen

    @intrinsic
    def bits_of(typingctx, x):
        """The bits of a float32."""

        def codegen(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], ir.IntType(32))

        return types.uint32(types.float32), codegen


_bits_of = bits_of


@device
def to_bfloat16(x):
    """The bits of the nearest bfloat16, the even one of two; NaN stays NaN."""
    bits = np.int64(_bits_of(x) if x == x else 0x7FC00000)
    return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
