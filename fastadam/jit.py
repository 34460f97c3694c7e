"""The house decorators: every compiled function of the package gets the same flags, and they are written here.

Strict IEEE arithmetic (no fastmath), NumPy's error model (without it each division is a branch and no loop vectorises),
the GIL released, and a disk cache that cannot be stale.
"""

import functools
import math
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic, overload

from fastadam._cache import KernelCache
from fastadam.buffers import ALIGNMENT, array_in_memory

JIT_DISABLED = bool(config.DISABLE_JIT)
_FLAGS: dict[str, Any] = {"error_model": "numpy", "nogil": True}


def kernel(
    function: Callable[..., Any] | None = None, *, parallel: bool = False, variant: str = "", cached: bool = True
) -> Any:
    """Compile a function that Python calls; cached on disk.

    `variant` must tell apart the functions that one factory makes with different constants.
    """
    if function is None:
        return lambda f: kernel(f, parallel=parallel, variant=variant, cached=cached)
    dispatcher = numba.njit(parallel=parallel, **_FLAGS)(function)
    if cached and not JIT_DISABLED:
        name = "-".join(filter(None, (function.__module__.rpartition(".")[2], function.__name__, variant)))
        dispatcher._cache = KernelCache(function, name)
    return dispatcher


def device(function: Callable[..., Any], *, forceinline: bool = False) -> Any:
    """Compile a function that only kernels call: it becomes part of each of them and needs no cache of its own.

    Python cannot call it, which saves a sixth of the time to compile. A loop with a call in it is no vector loop:
    `forceinline` is for functions that a loop needs, and that LLVM might find too large to write into it.
    """
    flags = _FLAGS | {"forceinline": forceinline}
    dispatcher = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **flags)(function)
    if not JIT_DISABLED:
        dispatcher.get_call_template = functools.partial(_call_template, dispatcher.get_call_template)
    return dispatcher


def _call_template(template_of: Callable[..., Any], args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
    """Type a call without regard to constants among its arguments, each of which Numba would compile anew for."""
    plain = types.unliteral  # type: ignore[attr-defined]
    return template_of(tuple(map(plain, args)), {name: plain(kws[name]) for name in kws})


def inlined(function: Callable[..., Any]) -> Any:
    """Let a function be written into its callers before they are compiled.

    Numba compiles, and optimises, all that a function calls once more with each function around it. In a deep pile of
    functions the outer ones are therefore better inlined.
    """
    return numba.njit(inline="always", **_FLAGS)(function)


def of_either_type(single: Callable[..., Any], double: Callable[..., Any]) -> Any:
    """What calls one function with a float32 and another with a float64; in compiled code, a part of what calls it."""

    def function(x):
        with np.errstate(all="ignore"):
            return (single if isinstance(x, np.float32) else double)(x)

    chosen = overload(function, jit_options=_FLAGS | {"forceinline": True})
    chosen(lambda x: {types.float32: single, types.float64: double}.get(x))
    return function


def with_names(function: Callable[..., Any], **names: Any) -> Any:
    """The function, for which some names of its module mean something else."""
    own = function.__globals__ | names
    return FunctionType(function.__code__, own, function.__name__, function.__defaults__, function.__closure__)


def unrolled(head: str, frame: str, part: str, count: int, **names: Any) -> Callable[..., Any]:
    """A function of one line, `frame`, in which `part` is repeated for k = 0, 1, ...: for tuples of unlike types.

    `names` are what the line may use beside the arguments.
    """
    namespace = dict(names)
    exec(f"def {head}:\n    {frame.format(''.join(part.format(k=k) for k in range(count)))}\n", namespace)
    function: Callable[..., Any] = namespace[head.partition("(")[0]]
    return function


def taker(first: int, count: int) -> Any:
    """What takes `count` elements of a flat array, from `first` on, as a tuple; both are compiled in."""
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
    """What gives a flat array of `count` elements of `like`'s type that lasts as long as the calling function."""
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

    @device
    def shaped(array, offset, shape):
        """The elements of a contiguous array from `offset` on, as an array of this shape."""
        size = 1
        for n in shape:
            size *= n
        return array.reshape(array.size)[offset : offset + size].reshape(shape)

else:  # which does not look at strides and counts no references: that takes as long as a small loop over the elements

    @intrinsic
    def shaped(typingctx, array, offset, shape):
        """The elements of a contiguous array from `offset` on, as an array of this shape, which must not outlive it."""
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
    _MATH_OF_NUMPY = SimpleNamespace(**vars(math) | {"sqrt": np.sqrt, "exp": np.exp, "log": np.log})

    def scalar_rule(function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with roots as compiled code has them: of the argument's type, and NaN below zero."""
        replaced = {name: _MATH_OF_NUMPY for name, value in function.__globals__.items() if value is math}
        return with_names(function, **replaced)

    def rounded(like: np.ndarray, values: tuple[float, ...]) -> tuple[Any, ...]:
        """The values in the type of the elements of `like`."""
        return tuple(like.dtype.type(value) for value in values)

    def array_at(address: int, size: int, like: np.ndarray) -> np.ndarray:
        """The flat array of `size` elements of `like`'s type that starts at `address`."""
        return array_in_memory(int(address), size, like.dtype)

    def prefetch(array: np.ndarray, i: int) -> None:
        """Begin to load the cache line of element i."""

else:

    def scalar_rule(function: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself."""
        return function

    @intrinsic
    def rounded(typingctx, like, values):
        """The values, a tuple of numbers, in the type of the elements of `like`."""
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
        """`address` as a pointer to elements of `like`'s type."""
        pointer = types.CPointer(like.dtype)  # type: ignore[attr-defined]

        def codegen(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(address, like), codegen

    @device
    def array_at(address, size, like):
        """The flat array of `size` elements of `like`'s type that starts at `address`."""
        return numba.carray(_pointer_at(address, like), size)

    @intrinsic
    def prefetch(typingctx, array, i):
        """Begin to load the cache line of element i, to be written soon; the processor goes on at once."""

        def codegen(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            line = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
            flags = [cgutils.int32_t(flag) for flag in (1, 3, 1)]  # to write, to stay in every cache, data
            function = ir.FunctionType(ir.VoidType(), [line.type, *(flag.type for flag in flags)])
            builder.call(builder.module.declare_intrinsic("llvm.prefetch", [line.type], function), [line, *flags])
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen


# --- functions by their address -----------------------------------------------------------------------------------


if JIT_DISABLED:

    def address_of(compiled: Any, *arguments: Any) -> Any:
        """What `calling` calls: here the function itself."""
        return compiled

    def calling(result: Any) -> Any:
        """What calls a function that `address_of` gave, with a tuple of arguments."""
        return lambda address, arguments: address(*arguments)

else:

    def address_of(compiled: Any, *arguments: Any) -> Any:
        """Where the machine code of a kernel for arguments of these types stands: an integer that kernels can call.

        What a large kernel calls by its address is not compiled into it: so each of them is compiled once, and not
        each combination. The code lives as long as the kernel.
        """
        compiled.compile(arguments)
        overload = compiled.overloads[arguments]
        return int(overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name))

    def calling(result: Any) -> Any:
        """What calls the function at an address, with a tuple of arguments of the very types given to `address_of`."""

        @intrinsic
        def call(typingctx, address, arguments):
            def codegen(context, builder, signature, values):
                parts, kinds = cgutils.unpack_tuple(builder, values[1]), tuple(signature.args[1])
                convention = context.call_conv
                pointer = convention.get_function_type(result, kinds).as_pointer()
                function = builder.inttoptr(values[0], pointer)
                status, returned = convention.call_function(builder, function, result, kinds, parts)
                with cgutils.if_unlikely(builder, status.is_error):
                    convention.return_status_propagate(builder, status)
                return context.get_dummy_value() if result is types.none else returned

            return result(types.int64, arguments), codegen

        return call
