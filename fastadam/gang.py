"""A gang: threads that share the tasks of a fit, from inside compiled code.

The leader, the thread that called `fit`, opens one phase of tasks after the other. Every thread claims tasks of the
phase that is open, its own first; the leader opens the next phase when all are done. So the leader never waits for a
thread that is asleep, only for one that has begun a task; and if the system takes the core away from that thread, the
leader need not wait long either: where tasks can be done twice, it does this one itself; where they cannot, it shares
none for a while after such a wait. Alone, it does everything.

Numba's parallel loops instead cost a fork and a join each, abort when two threads launch them at once (workqueue), or
end a forked child (GNU OpenMP). Here the threads live as long as the fit, so nothing is left for a fork to break, and
no setting of Numba or of a BLAS is touched. While phases follow each other they spin, leaving the core to whoever else
wants it; after the last one only for a moment, then they go to sleep.

Fits at once, each in a thread of the user's, share the cores: when a fit begins, and a while after one has ended, every
gang is told how many of its threads are to take part from now on. As any thread may do any task, that changes no bit.
"""

import contextlib
import ctypes
import functools
import math
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fastadam._cores import allowed_cores, available_threads
from fastadam.atomics import clock, load, pause, store, swap_if, yield_core
from fastadam.jit import device

# The gang's shared words, each on a cache line of its own. From _CLAIM on, each task has a line: the last phase in
# which it was claimed; and behind that, for each kind of phase, the last one in which it was finished, and by whom.
_LINE = 8
_PHASE, _FIRST, _LAST, _TAKE_PART, _FAILED, _ALONE_UNTIL, _CLAIM = (line * _LINE for line in range(7))
_QUICKEST = _ALONE_UNTIL + 1
"""The word beside it is the leader's own, too: the least time that such a task has taken it."""

MAX_TASKS = 64
"""Tasks that a phase may have."""

REST = 0
"""The kind of a phase after which none follows for a while; other kinds are small positive numbers."""

FOREVER = 2**62
"""Patience without end."""

_HICCUP = 100_000
"""Nanoseconds for which a thread may be late without the system having taken its core away."""
_TIMES_OWN = 4
"""How many times as long as its own task the leader waits for others' as a matter of course."""
_TIMES_ALONE = 10
"""How many times as long as it was kept waiting the leader does alone what it cannot do twice."""

_SPINS_BEFORE_YIELD = 2_000
_SPINS_BEFORE_SLEEP = 3_000
_NAP_SECONDS = 0.02
_LULL_SECONDS = 0.01
"""How long cores stay free when a fit ends: whoever fits many models begins the next."""


@device
def _spin(spins):
    """Wait a moment: politely at first, then leaving the core to whoever else wants it."""
    if spins < _SPINS_BEFORE_YIELD:
        pause()
    else:
        yield_core()


@device
def open_phase(control, kind, tasks, first, last):
    """Called by the leader: let all threads have the tasks of the next phase, on rows `first:last`; returns the phase.

    A phase is one word: its number, the kind of its tasks and how many they are. Read apart, they could be of two
    phases, and a late thread could claim a task that its phase never had. The rows change between two phases.
    """
    number = (load(control, _PHASE) >> 16) + 2
    store(control, _PHASE, (number - 1) << 16 | kind << 8)
    store(control, _FIRST, first)
    store(control, _LAST, last)
    phase = number << 16 | kind << 8 | tasks
    store(control, _PHASE, phase)
    return phase


@device
def rest(control):
    """Called by the leader: say that no phase follows for a while."""
    open_phase(control, REST, 0, 0, 0)


@device
def kind_of(phase):
    """What kind of tasks a phase has."""
    return phase >> 8 & 0xFF


@device
def tasks_of(phase):
    """How many tasks a phase has."""
    return phase & 0xFF


@device
def rows_of(control, phase):
    """The rows that a phase is about, or none if it is over."""
    first, last = load(control, _FIRST), load(control, _LAST)
    if load(control, _PHASE) != phase:
        return 0, 0
    return first, last


@device
def claim(control, task, phase):
    """Whether this thread is to do the task in this phase, and no other claims it.

    It fails for a phase that is over, too: then all its tasks were claimed. Phases only grow.
    """
    last = load(control, _CLAIM + task * _LINE)
    return last < phase and swap_if(control, _CLAIM + task * _LINE, last, phase)


@device
def _result(task, kind):
    return _CLAIM + task * _LINE + kind


@device
def finish(control, task, phase, thread):
    """Report a task as done, with its result where this thread keeps its own; the first to report it counts."""
    word, result = _result(task, kind_of(phase)), phase >> 16 << 8 | thread
    last = load(control, word)
    if last >> 8 < result >> 8:
        swap_if(control, word, last, result)


@device
def finisher(control, task, kind):
    """Which thread has the result of the task in the last phase of this kind."""
    return load(control, _result(task, kind)) & 0xFF


@device
def _is_done(control, task, phase):
    return load(control, _result(task, kind_of(phase))) >> 8 >= phase >> 16


@device
def done_in_time(control, task, phase, patience):
    """Called by the leader: wait for a task that somebody has claimed, as long as patience lasts."""
    if _is_done(control, task, phase):
        return True
    spins, began = 0, clock()
    while not _is_done(control, task, phase):
        if clock() - began > patience:
            return False
        if load(control, _FAILED) != 0:
            raise RuntimeError("a thread of the gang failed in the middle of a task")
        _spin(spins)
        spins += 1
    return True


@device
def was_kept_waiting(control, waited, own, now):
    """Called by the leader after a wait for tasks of others, such as took itself `own` nanoseconds.

    If the wait was much longer, the system has taken the core away from that thread, as it may again. So for ten times
    as long the leader shares no task that cannot be done twice: all its waiting is then a small part of all its time.
    It may have lost its own core in the middle of its tasks, so what counts is the least that one has taken.
    """
    quickest = load(control, _QUICKEST)
    if quickest == 0 or own < quickest:
        quickest = own
        store(control, _QUICKEST, own)
    if waited > _TIMES_OWN * quickest + _HICCUP:
        store(control, _ALONE_UNTIL, now + _TIMES_ALONE * waited)


@device
def is_alone(control, now):
    """Called by the leader: whether it is to share no task that cannot be done twice, see `was_kept_waiting`."""
    return now < load(control, _ALONE_UNTIL)


@device
def takes_part(control, thread):
    """Whether this thread is to do tasks, as things are now: the gang may have had to leave cores to another."""
    return thread < load(control, _TAKE_PART)


@device
def await_phase(control, thread, seen):
    """Called by the others: spin until a phase after `seen` is open, or, if the leader rests, for a while.

    Returns the phase.
    """
    spins, resting = 0, kind_of(seen) == REST
    while load(control, _PHASE) == seen and takes_part(control, thread):
        if resting and spins >= _SPINS_BEFORE_SLEEP:
            break
        _spin(spins)
        spins += 1
    return load(control, _PHASE)


class _Cores:
    """The cores of this process, shared among its gangs so that two fits at once do not take each other's."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew: in a forked child, which has none of its parent's gangs."""
        self._lock = threading.Lock()
        self._gangs: list[Gang] = []
        self._left_at = math.inf

    def enter(self, gang: "Gang") -> None:
        with self._lock:
            self._gangs.append(gang)
            self._share_out()

    def leave(self, gang: "Gang") -> None:
        with self._lock:
            if gang in self._gangs:  # not in a child that was forked in the middle of a fit
                self._gangs.remove(gang)
                self._left_at = time.monotonic()

    def look_again(self) -> None:
        """Share out what a gang has left, unless that was only just now."""
        if time.monotonic() - self._left_at > _LULL_SECONDS:
            with self._lock:
                self._share_out()

    def _share_out(self) -> None:
        """Give exact gangs what they ask for, then the others equal shares, of which some want less: those first."""
        self._left_at = math.inf
        left = available_threads()
        in_turn = sorted(self._gangs, key=lambda gang: (not gang.exact, gang.threads))
        for before, gang in enumerate(in_turn):
            share = max(1, left // (len(in_turn) - before))
            threads = gang.threads if gang.exact else min(gang.threads, share)
            gang.let_take_part(threads)
            left -= threads


_cores = _Cores()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cores.reset)


class Gang:
    """Threads for one fit, the calling thread being the first; use it as a context manager.

    Parameters
    ----------
    threads : int
        Number of threads, the caller included.
    follow : callable
        `follow(thread, control, seen)` is called in each other thread. It does tasks of the phases after number `seen`,
        and returns the number of the last one when none was opened for a while, or it is to take part no longer.
    exact : bool
        Whether all of them take part whatever happens; otherwise `threads` is a wish, and other gangs get their share.
    """

    def __init__(self, threads: int, follow: Callable[[int, NDArray[np.int64], int], int], exact: bool) -> None:
        self.control = np.zeros(_CLAIM + MAX_TASKS * _LINE, np.int64)
        self.control[_TAKE_PART] = 1  # the leader alone, until cores are shared out; 0 is the end
        self.threads = threads
        self.exact = exact
        self._follow = follow
        self._bells = [threading.Event() for _ in range(1, self.threads)]
        self._others: list[threading.Thread] = []
        self._leaders_core = -1

    def __enter__(self) -> Self:
        _cores.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._dismiss()

    def wake(self) -> None:
        """Start the threads that take part for the first time, and wake those that went to sleep: phases follow."""
        _cores.look_again()
        for thread in range(len(self._others) + 1, self.control[_TAKE_PART]):
            other = threading.Thread(target=self._serve, args=(thread,), name="fastadam", daemon=True)
            other.start()
            self._others.append(other)
            self._leaders_core = -1  # which the new one is to be kept off, too
        if self._others:
            self._make_room()
        self._ring()

    def let_take_part(self, threads: int) -> None:
        """Say how many threads take part from now on, the leader being the first."""
        self.control[_TAKE_PART] = threads
        self._ring()

    def _ring(self) -> None:
        for bell in self._bells[: self.control[_TAKE_PART] - 1]:
            bell.set()

    def _make_room(self) -> None:
        """Keep the others off the core that the leader runs on, if there is another.

        Else, while a thread of another library spins on that other core, the system lets the leader and its follower
        take turns on one, and does not move them apart.
        """
        core = _current_core()
        if core != self._leaders_core:
            self._leaders_core = core
            cores = allowed_cores() - {core}
            with contextlib.suppress(OSError):  # not allowed here, or the thread has just ended
                for other in self._others:
                    os.sched_setaffinity(other.native_id or 0, cores or {core})

    def _dismiss(self) -> None:
        _cores.leave(self)
        self.control[_TAKE_PART] = 0
        for bell in self._bells:
            bell.set()
        for other in self._others:
            other.join()

    def _serve(self, thread: int) -> None:
        """Follow the leader; nap between phases that are far apart, and sleep while not taking part."""
        bell, seen = self._bells[thread - 1], 0
        try:
            while True:
                bell.clear()  # before what it rings for is read, or a ring between the two would be lost
                if self.control[_TAKE_PART] == 0:
                    return
                seen = self._follow(thread, self.control, seen)
                taking_part = self.control[_TAKE_PART]
                if taking_part > 0:
                    bell.wait(_NAP_SECONDS if thread < taking_part else None)
        except BaseException:  # the leader may be waiting for the task that this thread was at
            self.control[_FAILED] = 1
            raise


@functools.cache
def _core_getter() -> Callable[[], int]:
    """What tells on which core the calling thread runs; -1 where the system does not, or does not let it choose."""
    known = hasattr(os, "sched_setaffinity") and getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return known or (lambda: -1)


def _current_core() -> int:
    return _core_getter()()
