"""The primitives of `fastadam.formulas.storage`, as single instructions of compiled code."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


def _bitwise(argument: Any, result: Any, build: Any) -> Any:
    """Make an intrinsic of one argument from the instructions that `build` emits."""

    def typed(typingctx, x):
        def codegen(context, builder, signature, arguments):
            value = context.cast(builder, arguments[0], signature.args[0], argument)
            return build(builder, value, context.get_value_type(result))

        return result(argument), codegen

    return intrinsic(typed)


bits_of = _bitwise(types.float32, types.uint32, lambda builder, x, kind: builder.bitcast(x, kind))
float_of = _bitwise(types.uint32, types.float32, lambda builder, x, kind: builder.bitcast(x, kind))
from_float16 = _bitwise(
    types.uint16, types.float32, lambda builder, x, kind: builder.fpext(builder.bitcast(x, ir.HalfType()), kind)
)
to_float16 = _bitwise(
    types.float32, types.uint16, lambda builder, x, kind: builder.bitcast(builder.fptrunc(x, ir.HalfType()), kind)
)
