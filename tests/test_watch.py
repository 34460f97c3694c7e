"""Watches of long calls, and signals that wait; compiled code that looks at a watch is in `cpu/test_interrupts.py`."""

import signal
import threading
import time

import pytest

from fastadam._watch import BY_TIME, HALTED, HEARS_SIGNALS, NANOSECONDS, NEVER, OutOfTimeError, SignalsHeld, Watch


class Handler:
    """Counts signals, and raises `error` at the first one, if there is one."""

    def __init__(self, error=None):
        self.error, self.count = error, 0

    def __call__(self, number, frame):
        self.count += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def __enter__(self):
        self._before = signal.signal(signal.SIGTERM, self)
        return self

    def __exit__(self, *error):
        signal.signal(signal.SIGTERM, self._before)


def test_a_watch_raises_what_has_happened():
    watch = Watch()
    watch.start()
    watch.check()
    watch.words[HALTED] = BY_TIME
    assert watch.halted
    with pytest.raises(OutOfTimeError):
        watch.check()
    watch.start()
    assert not watch.halted
    watch.run_out()
    with pytest.raises(OutOfTimeError):
        watch.check()


def test_a_watch_has_the_time_that_is_left():
    watch = Watch()
    watch.start()
    assert watch.words[NANOSECONDS] == NEVER
    watch.end = time.monotonic() - 1.0
    watch.start()
    assert watch.words[NANOSECONDS] == 0


def test_only_the_main_thread_hears_signals():
    watch = Watch()
    watch.start()
    assert watch.words[HEARS_SIGNALS]
    thread = threading.Thread(target=watch.start)
    thread.start()
    thread.join()
    assert not watch.words[HEARS_SIGNALS]


def test_held_signals_wait_until_they_are_handled():
    """Between two launches on a device, for example; their handlers are in place again in the end."""
    with Handler() as handler:
        with SignalsHeld() as signals:
            signal.raise_signal(signal.SIGTERM)
            held = handler.count
            signals.handle()
            handled = handler.count
            handler.error = KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signals.handle()
        assert signal.getsignal(signal.SIGTERM) is handler
    assert (held, handled) == (0, 1)


def test_a_held_signal_that_nobody_handles_is_handled_in_the_end():
    def hold():
        with SignalsHeld():
            signal.raise_signal(signal.SIGTERM)
            ends.append("of the loop")

    ends = []
    with Handler(KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        hold()
    assert ends == ["of the loop"]
