"""What threads need to work together from inside compiled code: atomic words, a hint, a yield and a clock."""

import sys
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastadam.jit import JIT_DISABLED


@intrinsic
def load(typingctx, array, index):
    """Read a word, before whatever the code reads after it."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_word(context, builder, signature, arguments), "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write a word, after whatever the code wrote before it."""

    def codegen(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], _word(context, builder, signature, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def swap_if(typingctx, array, index, expected, value):
    """Put `value` into a word that still holds `expected`; returns whether it did."""

    def codegen(context, builder, signature, arguments):
        word = _word(context, builder, signature, arguments)
        return builder.extract_value(builder.cmpxchg(word, arguments[2], arguments[3], "acq_rel", "acquire"), 1)

    return types.boolean(array, types.int64, types.int64, types.int64), codegen


def _word(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def pause(typingctx):
    """Tell the core that this thread spins."""

    def codegen(context, builder, signature, arguments):
        triple = context.codegen().magic_tuple()[0]
        if triple.startswith(("x86_64", "i686")):
            name, hint = "llvm.x86.sse2.pause", []
        elif triple.startswith(("aarch64", "arm64")):
            name, hint = "llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]
        else:
            return context.get_dummy_value()
        function_type = ir.FunctionType(ir.VoidType(), [argument.type for argument in hint])
        builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), hint)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_core(typingctx):
    """Let another thread have this core."""

    def codegen(context, builder, signature, arguments):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function_type = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def clock(typingctx):
    """A clock that only runs forward, in nanoseconds."""

    def codegen(context, builder, signature, arguments):
        # In the entry block of the function: in a loop, the stack would grow each time round.
        time = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(64), 2))
        first, second = (builder.gep(time, [_i32(0), _i32(i)]) for i in range(2))
        billion = ir.Constant(ir.IntType(64), 10**9)
        if sys.platform == "win32":
            function_type = ir.FunctionType(ir.IntType(32), [first.type])
            for name, place in (("QueryPerformanceCounter", first), ("QueryPerformanceFrequency", second)):
                builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [place])
            ticks, per_second = builder.load(first), builder.load(second)
            whole = builder.mul(builder.sdiv(ticks, per_second), billion)
            return builder.add(whole, builder.sdiv(builder.mul(builder.srem(ticks, per_second), billion), per_second))
        function_type = ir.FunctionType(ir.IntType(32), [ir.IntType(32), first.type])
        function = cgutils.get_or_insert_function(builder.module, function_type, "clock_gettime")
        builder.call(function, [_i32(_CLOCK_MONOTONIC), first])
        return builder.add(builder.mul(builder.load(first), billion), builder.load(second))

    return types.int64(), codegen


def _i32(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), value)


_CLOCK_MONOTONIC = 6 if sys.platform == "darwin" else 1


if JIT_DISABLED:  # interpreted code has one thread

    def load(array, index):
        """Read a word."""
        return array[index]

    def store(array, index, value):
        """Write a word."""
        array[index] = value

    def swap_if(array, index, expected, value):
        """Put `value` into a word that still holds `expected`; returns whether it did."""
        held = array[index] == expected
        if held:
            array[index] = value
        return held

    def clock():
        """No time passes."""
        return 0
