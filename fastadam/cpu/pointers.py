"""Calls of compiled functions by address.

A function that a large kernel calls by address is not compiled into it: it is compiled once, and not once per
combination of such functions.
"""

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from fastadam.cpu.jit import JIT_DISABLED

if JIT_DISABLED:

    def address_of(compiled: Any, *arguments: Any) -> Any:
        """Return the function itself, which `call_pointer` calls."""
        return compiled

    def call_pointer(result: Any) -> Any:
        """Make the function that calls one returned by `address_of`, with a tuple of arguments."""
        return lambda address, arguments: address(*arguments)

else:

    def address_of(compiled: Any, *arguments: Any) -> Any:
        """Compile a kernel for arguments of these types; return the address of its machine code, an integer.

        The code lives as long as the kernel.
        """
        compiled.compile(arguments)
        overload = compiled.overloads[arguments]
        return int(overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name))

    def call_pointer(result: Any) -> Any:
        """Make the function that calls the one at an address; the arguments must have exactly the types it has."""

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
