"""Signals and time limits in compiled code, which checks regularly whether to give up.

Python handles signals between its own instructions, of which there are none in a compiled call. Therefore the thread
that made the call lets Python run the handlers of pending signals ten times per second, and gives up if one of them
raises, as that of Ctrl-C does. Handlers that return change nothing. The same check compares the time with its limit.

The words of a `Watch` tell the caller whether the call was completed or given up.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastadam._watch import (
    BY_HANDLER,
    BY_TIME,
    END_AT,
    HALTED,
    HEARS_SIGNALS,
    LOOK_AT,
    LOOK_EVERY,
    LOOKS,
    N_WORDS,
    NANOSECONDS,
    NEVER,
    RAISED,
)
from fastadam.cpu.atomics import clock, load, store
from fastadam.cpu.jit import JIT_DISABLED, inner

UNWATCHED: NDArray[np.int64] = np.zeros(N_WORDS, np.int64)
"""The words of a call that is too short to be interrupted, and never looks."""

UNWATCHED[LOOK_AT] = NEVER


@intrinsic
def _handler_raises(typingctx, words):
    """Let Python run the handlers of pending signals; return whether one has raised, and keep its exception."""

    def codegen(context, builder, signature, arguments):
        python = context.get_python_api(builder)
        gil = python.gil_ensure()
        check = ir.FunctionType(ir.IntType(32), [])
        status = builder.call(cgutils.get_or_insert_function(builder.module, check, "PyErr_CheckSignals"), [])
        raises = builder.icmp_signed("!=", status, ir.Constant(ir.IntType(32), 0))
        with cgutils.if_unlikely(builder, raises):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            places = [builder.gep(data, [ir.Constant(ir.IntType(64), RAISED + k)]) for k in range(3)]
            python.err_fetch(*(builder.bitcast(place, python.pyobj.as_pointer()) for place in places))
        python.gil_release(gil)
        return raises

    return types.boolean(words), codegen


@inner
def begin(words):
    """Set the times of the first look and of the end; to be called first in a compiled call."""
    if words[LOOK_AT] == 0:
        now = clock()
        words[LOOK_AT] = now + LOOK_EVERY
        words[END_AT] = now + words[NANOSECONDS]


@inner
def is_halted(words):
    """Check whether the call is to be given up."""
    return load(words, HALTED) != 0


@inner
def _look(words, now):
    words[LOOK_AT] = now + LOOK_EVERY
    words[LOOKS] += 1
    if words[HEARS_SIGNALS] != 0 and _handler_raises(words):
        store(words, HALTED, BY_HANDLER)
    elif now >= words[END_AT]:
        store(words, HALTED, BY_TIME)


@inner
def look(words, now):
    """Look for signals if it is time to; return whether to give up. Called by the thread that made the call."""
    if now >= words[LOOK_AT] and not is_halted(words):
        _look(words, now)
    return is_halted(words)


@inner
def gives_up(words, thread):
    """Check whether to give up, in the middle of the work of any thread; thread 0, which made the call, also looks."""
    if thread == 0:
        return look(words, clock())
    return is_halted(words)


if JIT_DISABLED:  # Python itself runs the handlers

    def _handler_raises(words):
        """No handler waits without compilation."""
        return False
