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
"""Words of a watch, and their number; the last three have the class of the exception that a handler raised, the
exception and its traceback."""

BY_HANDLER, BY_TIME = 1, 2
"""Values of the word `HALTED`, beside 0."""

LOOK_EVERY = 100_000_000
"""Nanoseconds from one look to the next; a call that ends before the first one is not interrupted."""

NEVER = 2**62
"""A time in nanoseconds that does not come."""


class OutOfTimeError(Exception):
    """The time given to a compiled call was up before its end."""


class Watch:
    """Words that a compiled call looks at to learn whether to give up.

    Begin with `start`, make the call with `words`, and end with `check`.
    """

    def __init__(self) -> None:
        self.words: NDArray[np.int64] = np.zeros(N_WORDS, np.int64)
        self.end = math.inf
        """Time to give up at, by `time.monotonic`."""

    def start(self) -> None:
        """Start again; signals are for the main thread, as everywhere in Python."""
        left = self.end - time.monotonic()
        self.words[HEARS_SIGNALS] = threading.get_ident() == threading.main_thread().ident
        self.words[NANOSECONDS] = NEVER if left > 1e9 else max(0, int(left * 1e9))
        self.words[LOOK_AT] = self.words[HALTED] = self.words[LOOKS] = 0

    def run_out(self) -> None:
        """Give up as the time is up."""
        self.words[HALTED] = BY_TIME

    @property
    def halted(self) -> bool:
        """Whether the call gave up."""
        return bool(self.words[HALTED])

    def check(self) -> None:
        """Raise what a handler raised, or OutOfTimeError, if the call gave up."""
        if self.words[HALTED] == BY_TIME:
            raise OutOfTimeError
        if self.words[HALTED] == BY_HANDLER:
            raised = [ctypes.c_void_p(int(word) or None) for word in self.words[RAISED:]]
            self.words[RAISED:] = 0
            ctypes.pythonapi.PyErr_Restore(*raised)  # it raises here, as ctypes looks for an error after the call


class SignalsHeld(AbstractContextManager["SignalsHeld"]):
    """Context in which signals that arrive in the main thread wait for `handle`."""

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
            except BaseException:  # by the handler of a signal that arrived before it was replaced
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
            if signal.getsignal(number) == self._note:  # and not another one, set by a handler
                signal.signal(number, handler)
