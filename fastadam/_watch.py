"""Signals and time limits for long calls that Python cannot interrupt: compiled loops, and launches on a device.

A `Watch` is given to such a call, which looks at it now and then to learn whether to give up; `SignalsHeld` delays
handlers of signals until the caller asks for them.
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
from numpy.typing import NDArray

HEARS_SIGNALS, NANOSECONDS, LOOK_AT, END_AT, HALTED, LOOKS, RAISED, N_WORDS = 0, 1, 2, 3, 4, 5, 6, 9
"""Words of a watch: whether to run the handlers of signals, the time limit, the times of the next look and of the end,
why the call was given up, the number of looks, and three words for the class, value and traceback of an exception."""

BY_HANDLER, BY_TIME = 1, 2
"""Reasons to give up, see `HALTED`; 0 is none."""

LOOK_EVERY = 100_000_000
"""Nanoseconds from one look to the next; a call that ends before the first look is not interrupted."""

NEVER = 2**62
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
        self.words[HEARS_SIGNALS] = threading.get_ident() == threading.main_thread().ident
        self.words[NANOSECONDS] = NEVER if left > 1e9 else max(0, int(left * 1e9))
        self.words[LOOK_AT] = self.words[HALTED] = self.words[LOOKS] = 0

    def run_out(self) -> None:
        """Mark the call as given up at its time limit."""
        self.words[HALTED] = BY_TIME

    @property
    def halted(self) -> bool:
        """Whether the call was given up."""
        return bool(self.words[HALTED])

    def check(self) -> None:
        """Raise the exception of a handler, or OutOfTimeError, if the call was given up."""
        if self.words[HALTED] == BY_TIME:
            raise OutOfTimeError
        if self.words[HALTED] == BY_HANDLER:
            raised = [ctypes.c_void_p(int(word) or None) for word in self.words[RAISED:]]
            self.words[RAISED:] = 0
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
