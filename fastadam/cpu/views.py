"""Views, casts and small arrays inside compiled code."""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic
from numpy.typing import DTypeLike

from fastadam._memory import ALIGNMENT, array_in_memory
from fastadam._typing import Array
from fastadam.cpu.jit import JIT_DISABLED, inner


def empty_of(dtype: DTypeLike) -> Array:
    """Make an empty array, which tells `array_at` the type of the elements at an address."""
    return np.empty(0, dtype)


def empty_stored(dtype: DTypeLike, form: str) -> Array:
    """Make an empty array for numbers in a form of storage, whose bits are held in uint16."""
    return empty_of(np.uint16 if form else dtype)


def taker(first: int, count: int) -> Any:
    """Make the function that takes `count` elements of a flat array, from `first` on, as a tuple."""
    if JIT_DISABLED:
        return lambda array: tuple(array[first : first + count])

    @intrinsic
    def take(typingctx, array):
        def codegen(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            places = [builder.gep(data, [context.get_constant(types.intp, first + k)]) for k in range(count)]
            return context.make_tuple(builder, signature.return_type, [builder.load(place) for place in places])

        return types.UniTuple(array.dtype, count)(array), codegen  # type: ignore[attr-defined]

    return take


def stack_array(count: int) -> Any:
    """Make the function that allocates `count` elements of `like`'s type on the stack of its caller."""
    if JIT_DISABLED:
        return lambda like: np.empty(count, like.dtype)

    @intrinsic
    def allocate(typingctx, like):
        array = types.Array(like.dtype, 1, "C")

        def codegen(context, builder, signature, arguments):
            from numba.np.arrayobj import populate_array  # a module that only compiling needs, and slow to import

            element = context.get_data_type(like.dtype)
            memory = cgutils.alloca_once(builder, ir.ArrayType(element, count))
            memory.align = ALIGNMENT
            result = context.make_array(array)(context, builder)
            data, itemsize = builder.bitcast(memory, element.as_pointer()), context.get_abi_sizeof(element)
            shape, strides = ([context.get_constant(types.intp, n)] for n in (count, itemsize))
            populate_array(result, data, shape, strides, context.get_constant(types.intp, itemsize), None)
            return result._getvalue()

        return array(like), codegen

    return allocate


if JIT_DISABLED or config.BOUNDSCHECK:

    @inner
    def view(array, offset, shape):
        """View the elements of a contiguous array from `offset` on as an array of this shape."""
        size = 1
        for n in shape:
            size *= n
        return array.reshape(array.size)[offset : offset + size].reshape(shape)

else:  # neither checks strides nor counts references, which takes as long as a small loop over the elements

    @intrinsic
    def view(typingctx, array, offset, shape):
        """View the elements of a contiguous array from `offset` on as an array of this shape, not to outlive it."""
        result = types.Array(array.dtype, len(shape), "C")

        def codegen(context, builder, signature, arguments):
            from numba.np.arrayobj import populate_array

            element = context.get_data_type(array.dtype)
            start = context.make_array(array)(context, builder, arguments[0]).data
            dimensions = cgutils.unpack_tuple(builder, arguments[2])
            itemsize = context.get_constant(types.intp, context.get_abi_sizeof(element))
            strides = [itemsize]
            for n in reversed(dimensions[1:]):
                strides.insert(0, builder.mul(strides[0], n))
            made = context.make_array(result)(context, builder)
            populate_array(made, builder.gep(start, [arguments[1]]), dimensions, strides, itemsize, None)
            return made._getvalue()

        lengths = types.UniTuple(types.intp, len(shape))  # type: ignore[attr-defined]
        return result(array, types.intp, lengths), codegen


if JIT_DISABLED:

    def cast_like(like: np.ndarray, values: tuple[float, ...]) -> tuple[Any, ...]:
        """Cast the values to the type of the elements of `like`."""
        return tuple(like.dtype.type(value) for value in values)

    def array_at(address: int, size: int, like: np.ndarray) -> np.ndarray:
        """View the memory at `address` as a flat array of `size` elements of `like`'s type."""
        return array_in_memory(int(address), size, like.dtype)

    def prefetch(array: np.ndarray, i: int) -> None:
        """Do nothing."""

else:

    @intrinsic
    def cast_like(typingctx, like, values):
        """Return the values, a tuple of numbers, in the type of the elements of `like`."""
        rounded_types = types.UniTuple(like.dtype, len(values))  # type: ignore[attr-defined]

        def codegen(context, builder, signature, arguments):
            parts = cgutils.unpack_tuple(builder, arguments[1])
            casts = [
                context.cast(builder, part, given, like.dtype)
                for part, given in zip(parts, signature.args[1], strict=True)
            ]
            return context.make_tuple(builder, signature.return_type, casts)

        return rounded_types(like, values), codegen

    @intrinsic
    def _pointer_at(typingctx, address, like):
        """Convert an address to a pointer to elements of `like`'s type."""
        pointer = types.CPointer(like.dtype)  # type: ignore[attr-defined]

        def codegen(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(address, like), codegen

    @inner
    def array_at(address, size, like):
        """View the memory at `address` as a flat array of `size` elements of `like`'s type."""
        return numba.carray(_pointer_at(address, like), size)

    @intrinsic
    def prefetch(typingctx, array, i):
        """Begin to load the cache line of element i, which is written soon, without waiting for it."""

        def codegen(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            line = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
            flags = [cgutils.int32_t(flag) for flag in (1, 3, 1)]  # to write, to stay in every cache, data
            function = ir.FunctionType(ir.VoidType(), [line.type, *(flag.type for flag in flags)])
            builder.call(builder.module.declare_intrinsic("llvm.prefetch", [line.type], function), [line, *flags])
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen
