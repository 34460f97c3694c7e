"""Memory by address, inside kernels: loads, stores and vectors of elements, and casts.

Under Numba's simulator each of these functions has a stand-in.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastadam._memory import array_in_memory
from fastadam.cuda.jit import SIMULATED

ACCESS_BYTES = 16
"""Most bytes that one instruction loads or stores."""

WORD = 8
"""Bytes of an address, or of a count."""


class Memory(NamedTuple):
    """Access to global memory by address, for one type of element."""

    itemsize: int
    lanes: int
    """Elements of a vector."""
    load: Callable[[int], Any]
    store: Callable[[int, Any], None]
    load_vector: Callable[[int], tuple[Any, ...]]
    """Load a vector as a tuple; its address must be a multiple of its size."""
    store_vector: Callable[[int, tuple[Any, ...]], None]
    store_all: Callable[[int, tuple[Any, ...]], None]
    """Store values one after the other, each rounded to the type of element."""


def _lanes_of(itemsize: int) -> int:
    """Elements of a vector: four, also of types of which more would fit, or as many as one access moves."""
    return min(4, ACCESS_BYTES // itemsize)


if SIMULATED:

    @functools.cache
    def memory(dtype: str) -> Memory:
        """Access to memory, in the simulator."""
        kind = np.dtype(dtype)
        lanes = _lanes_of(kind.itemsize)

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
        """Make the function that loads `count` values, one after the other, as a tuple."""
        return lambda address: tuple(array_in_memory(int(address), count, np.dtype(dtype)))

    def cast_like(like, values):
        """Cast a tuple of numbers to the type of the elements of `like`."""
        return tuple(like.dtype.type(value) for value in values)

else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    _GLOBAL = 1  # the address space: an access through it is an LDG or STG, and one through a generic pointer is not

    def _pointer(builder: Any, address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, ir.PointerType(kind, _GLOBAL))

    def _as_tuple(context: Any, builder: Any, kind: Any, values: list[Any]) -> Any:
        return context.make_tuple(builder, kind, values)

    def _elements(context: Any, builder: Any, given: Any, values: Any, kind: Any) -> list[Any]:
        """Values of a tuple, each cast to `kind`."""
        parts = [builder.extract_value(values, k) for k in range(len(given))]
        return [context.cast(builder, part, old, kind) for part, old in zip(parts, given, strict=True)]

    @functools.cache
    def loader(dtype: str, count: int) -> Callable[[int], tuple[Any, ...]]:
        """Make the function that loads `count` values, one after the other, as a tuple."""
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
        kind, itemsize = getattr(types, dtype), np.dtype(dtype).itemsize
        lanes = _lanes_of(itemsize)
        load_vector, store_vector = _vectors(kind, lanes, lanes * itemsize)
        return Memory(itemsize, lanes, _load(kind), _store(kind), load_vector, store_vector, _store_all(kind))

    def _load(kind: Any) -> Any:
        @intrinsic
        def load(typingctx, address):
            def codegen(context, builder, signature, arguments):
                return builder.load(_pointer(builder, arguments[0], context.get_value_type(kind)))

            return kind(types.int64), codegen

        return load

    def _store(kind: Any) -> Any:
        @intrinsic
        def store(typingctx, address, value):
            def codegen(context, builder, signature, arguments):
                cast = context.cast(builder, arguments[1], signature.args[1], kind)
                builder.store(cast, _pointer(builder, arguments[0], context.get_value_type(kind)))
                return context.get_dummy_value()

            return types.void(types.int64, value), codegen

        return store

    def _store_all(kind: Any) -> Any:
        @intrinsic
        def store_all(typingctx, address, values):
            def codegen(context, builder, signature, arguments):
                first = _pointer(builder, arguments[0], context.get_value_type(kind))
                for k, part in enumerate(_elements(context, builder, signature.args[1], arguments[1], kind)):
                    builder.store(part, builder.gep(first, [context.get_constant(types.int64, k)]))
                return context.get_dummy_value()

            return types.void(types.int64, values), codegen

        return store_all

    def _vectors(kind: Any, lanes: int, alignment: int) -> tuple[Any, Any]:
        """Make the functions that load and store a vector: an access of 128 bits has to be asked for."""

        @intrinsic
        def load_vector(typingctx, address):
            def codegen(context, builder, signature, arguments):
                vector = ir.VectorType(context.get_value_type(kind), lanes)
                whole = builder.load(_pointer(builder, arguments[0], vector), align=alignment)
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
                builder.store(whole, _pointer(builder, arguments[0], vector), align=alignment)
                return context.get_dummy_value()

            return types.void(types.int64, values), codegen

        return load_vector, store_vector

    @intrinsic
    def cast_like(typingctx, like, values):
        """Cast a tuple of numbers to the type of the elements of `like`."""

        def codegen(context, builder, signature, arguments):
            parts = _elements(context, builder, signature.args[1], arguments[1], like.dtype)
            return _as_tuple(context, builder, signature.return_type, parts)

        return types.UniTuple(like.dtype, len(values))(like, values), codegen
