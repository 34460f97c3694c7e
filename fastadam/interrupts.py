"""How compiled code hears of signals and of the time: it looks now and then whether it is to go on.

Python handles signals between its own instructions, of which there are none in a compiled call. So the thread that made
the call lets Python run the handlers of what has arrived, ten times a second, and gives up where one of them raises, as
that of Ctrl-C does. Handlers that return change nothing. By the same look it sees whether the time given is up.

What is given up is left as it was before: the caller reads from the words whether the call went on to its end.
"""

import ctypes
import math
import signal
import threading
import time
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastadam.atomics import clock, load, store
from fastadam.jit import JIT_DISABLED, device

# Words of a watch. In the last three lie the exception that a handler raised, its class and its traceback.
_HEARS_SIGNALS, _NANOSECONDS, _LOOK_AT, _END_AT, _HALTED, LOOKS, _RAISED, N_WORDS = 0, 1, 2, 3, 4, 5, 6, 9
_BY_HANDLER, _BY_TIME = 1, 2

LOOK_EVERY = 100_000_000
"""Nanoseconds from one look to the next; whatever ends before the first one is not interrupted."""

_NEVER = 2**62


class OutOfTimeError(Exception):
    """The time given to a compiled call was up before its end."""


class Watch:
    """What a compiled call looks at: `words`, which it is given.

    Begin with `start`, make the call, and end with `check`.
    """

    def __init__(self) -> None:
        self.words: NDArray[np.int64] = np.zeros(N_WORDS, np.int64)
        self.end = math.inf
        """When to give up, by `time.monotonic`."""

    def start(self) -> None:
        """Begin anew; signals are for the main thread, as everywhere in Python."""
        left = self.end - time.monotonic()
        self.words[_HEARS_SIGNALS] = threading.get_ident() == threading.main_thread().ident
        self.words[_NANOSECONDS] = _NEVER if left > 1e9 else max(0, int(left * 1e9))
        self.words[_LOOK_AT] = self.words[_HALTED] = self.words[LOOKS] = 0

    def run_out(self) -> None:
        """Give up as the time is up."""
        self.words[_HALTED] = _BY_TIME

    @property
    def halted(self) -> bool:
        """Whether the call gave up."""
        return bool(self.words[_HALTED])

    def check(self) -> None:
        """Raise what a handler raised, or OutOfTimeError, if the call gave up."""
        if self.words[_HALTED] == _BY_TIME:
            raise OutOfTimeError
        if self.words[_HALTED] == _BY_HANDLER:
            raised = [ctypes.c_void_p(int(word) or None) for word in self.words[_RAISED:]]
            self.words[_RAISED:] = 0
            ctypes.pythonapi.PyErr_Restore(*raised)  # it raises here, as ctypes looks for an error after the call


class SignalsHeld(AbstractContextManager["SignalsHeld"]):
    """In this context, what arrives in the main thread waits for `handle`: for loops of calls that belong together."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._arrived: list[tuple[int, FrameType | None]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            try:
                for number in signal.valid_signals():
                    handler = signal.getsignal(number)
                    if callable(handler):
                        self._handlers[number] = handler
                        signal.signal(number, self._note)
            except BaseException:  # of a signal that arrived before its handler was replaced
                self._put_back()
                raise
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append((number, frame))

    def handle(self) -> None:
        """Run the handlers of what has arrived; one of them may raise."""
        while self._arrived:
            number, frame = self._arrived.pop(0)
            self._handlers[number](number, frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._put_back()
        self.handle()

    def _put_back(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:  # and not another, which a handler has set
                signal.signal(number, handler)


UNWATCHED: NDArray[np.int64] = np.zeros(N_WORDS, np.int64)
"""The words of a call that ends in a moment, and does not look."""
UNWATCHED[_LOOK_AT] = _NEVER


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
            places = [builder.gep(data, [ir.Constant(ir.IntType(64), _RAISED + k)]) for k in range(3)]
            python.err_fetch(*(builder.bitcast(place, python.pyobj.as_pointer()) for place in places))
        python.gil_release(gil)
        return raises

    return types.boolean(words), codegen


@device
def begin(words):
    """Called first in a compiled call: when it is to look, and when to end."""
    if words[_LOOK_AT] == 0:
        now = clock()
        words[_LOOK_AT] = now + LOOK_EVERY
        words[_END_AT] = now + words[_NANOSECONDS]


@device
def is_halted(words):
    """Whether to give up."""
    return load(words, _HALTED) != 0


@device
def _look(words, now):
    words[_LOOK_AT] = now + LOOK_EVERY
    words[LOOKS] += 1
    if words[_HEARS_SIGNALS] != 0 and _handler_raises(words):
        store(words, _HALTED, _BY_HANDLER)
    elif now >= words[_END_AT]:
        store(words, _HALTED, _BY_TIME)


@device
def look(words, now):
    """Called by the thread that made the call, with the time: look if it is time to; returns whether to give up."""
    if now >= words[_LOOK_AT] and not is_halted(words):
        _look(words, now)
    return is_halted(words)


@device
def gives_up(words, thread):
    """Called by any thread in the middle of its work: thread 0 made the call, and looks."""
    if thread == 0:
        return look(words, clock())
    return is_halted(words)


if JIT_DISABLED:  # Python itself runs the handlers

    def _handler_raises(words):
        """No handler waits."""
        return False
