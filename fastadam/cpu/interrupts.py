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

<<<<<<< HEAD
=======
_HEARS_SIGNALS, _NANOSECONDS, _LOOK_AT, _END_AT, _HALTED, LOOKS, _RAISED, N_WORDS = 0, 1, 2, 3, 4, 5, 6, 9
"""Words of a watch: whether to run the handlers of signals, the time limit, the times of the next look and of the end,
why the call was given up, the number of looks, and three words for the class, value and traceback of an exception."""

_BY_HANDLER, _BY_TIME = 1, 2
"""Reasons to give up, see `_HALTED`; 0 is none."""

LOOK_EVERY = 100_000_000
"""Nanoseconds from one look to the next; a call that ends before the first look is not interrupted."""

_NEVER = 2**62
"""A time that is never reached, in nanoseconds; the current time can still be added to it."""


class OutOfTimeError(Exception):
    """The time limit of a compiled call was reached before its end."""


class Watch:
    """Time limit and signals of a compiled call, which takes `words` as an argument.

    Call `start` before the compiled call, and `check` after it.
    """

    def __init__(self) -> None:
        self.words: NDArray[np.int64] = np.zeros(N_WORDS, np.int64)
        self.end = math.inf
        """Time at which to give up, by `time.monotonic`."""

    def start(self) -> None:
        """Start anew; only the main thread handles signals, as always in Python."""
        left = self.end - time.monotonic()
        self.words[_HEARS_SIGNALS] = threading.get_ident() == threading.main_thread().ident
        self.words[_NANOSECONDS] = _NEVER if left > 1e9 else max(0, int(left * 1e9))
        self.words[_LOOK_AT] = self.words[_HALTED] = self.words[LOOKS] = 0

    def run_out(self) -> None:
        """Mark the call as given up at its time limit."""
        self.words[_HALTED] = _BY_TIME

    @property
    def halted(self) -> bool:
        """True if the call was given up."""
        return bool(self.words[_HALTED])

    def check(self) -> None:
        """Raise the exception of a handler, or OutOfTimeError, if the call was given up."""
        if self.words[_HALTED] == _BY_TIME:
            raise OutOfTimeError
        if self.words[_HALTED] == _BY_HANDLER:
            raised = [ctypes.c_void_p(int(word) or None) for word in self.words[_RAISED:]]
            self.words[_RAISED:] = 0
            ctypes.pythonapi.PyErr_Restore(*raised)  # raises here: ctypes checks for an error after the call


class SignalsHeld(AbstractContextManager["SignalsHeld"]):
    """Context in which signals of the main thread wait for `handle`: for loops of calls that belong together."""

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
            except BaseException:  # raised for a signal that arrived before its handler was replaced
                self._put_back()
                raise
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append((number, frame))

    def handle(self) -> None:
        """Run the handlers of the signals that have arrived; one of them may raise."""
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
            if signal.getsignal(number) == self._note:  # otherwise a handler has set another one
                signal.signal(number, handler)


>>>>>>> cpuroom
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
