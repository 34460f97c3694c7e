"""Calls by address."""

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from fastadam.cpu.jit import JIT_DISABLED

# --- functions by their address -----------------------------------------------------------------------------------


if JIT_DISABLED:

    def address_of(compiled: Any, *arguments: Any) -> Any:
        """What `calling` calls: here the function itself."""
        return compiled

    def call_pointer(result: Any) -> Any:
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

    def call_pointer(result: Any) -> Any:
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
