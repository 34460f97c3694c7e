"""How compiled code hears of signals and of the time: it looks now and then whether it is to go on.

Python handles signals between its own instructions, of which there are none in a compiled call. So the thread that made
the call lets Python run the handlers of what has arrived, ten times a second, and gives up where one of them raises, as
that of Ctrl-C does. Handlers that return change nothing. By the same look it sees whether the time given is up.

What is given up is left as it was before: the caller reads from the words whether the call went on to its end.
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
"""The words of a call that ends in a moment, and does not look."""

UNWATCHED[LOOK_AT] = NEVER


@intrinsic
def _handler_raises(typingctx, words):
    """Let Python run the handlers of the signals that have arrived; True if one raises, what it raised being kept."""

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
    """Called first in a compiled call: when it is to look, and when to end."""
    if words[LOOK_AT] == 0:
        now = clock()
        words[LOOK_AT] = now + LOOK_EVERY
        words[END_AT] = now + words[NANOSECONDS]


@inner
def is_halted(words):
    """Whether to give up."""
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
    """Called by the thread that made the call, with the time: look if it is time to; returns whether to give up."""
    if now >= words[LOOK_AT] and not is_halted(words):
        _look(words, now)
    return is_halted(words)


@inner
def gives_up(words, thread):
    """Called by any thread in the middle of its work: thread 0 made the call, and looks."""
    if thread == 0:
        return look(words, clock())
    return is_halted(words)


if JIT_DISABLED:  # Python itself runs the handlers

    def _handler_raises(words):
        """No handler waits."""
        return False
