"""A team: threads that share the tasks of a fit, from inside compiled code.

The leader, which is the thread that called `fit`, opens one phase of tasks after the other. Every thread claims tasks
of the open phase, its own first; the leader opens the next phase when all tasks are done. So the leader never waits for
a thread that is asleep, only for one that has begun a task. If the system takes the core away from that thread, the
leader need not wait long either: a task that can be done twice it does itself, and after it had to wait for one that
cannot, it shares no such tasks for a while. A leader without other threads does all tasks.

Numba's parallel loops would cost a fork and a join each; they abort when two threads launch them at once (workqueue),
or end a forked child (GNU OpenMP). The threads of a team live as long as the fit, so that a fork has nothing to break,
and no setting of Numba or of a BLAS is touched. Between phases that follow each other they spin, and leave the core to
other threads that want it; after the last phase they spin only for a moment, then they go to sleep.

Several fits at a time, each in a thread of the user, share the cores: when a fit begins, and a while after one has
ended, every team is told how many of its threads take part from now on. Since any thread may do any task, this changes
no bit.
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

from fastadam._memory import ALIGNMENT
from fastadam.cpu.atomics import clock, load, pause, store, swap_if, yield_core
from fastadam.cpu.cores import allowed_cores, available_threads
from fastadam.cpu.jit import inner

_LINE = ALIGNMENT // 8
"""Words of 64 bits on a cache line. Threads that write to different lines do not slow each other down."""

_PHASE, _FIRST, _LAST, _TAKE_PART, _FAILED, _ALONE_UNTIL, _CLAIM = (line * _LINE for line in range(7))
"""Shared words of a team, each on its own cache line. From `_CLAIM` on, each task has a line: first the last phase in
which it was claimed; then, for each kind of phase, the last one in which it was finished, and by which thread."""

_QUICKEST = _ALONE_UNTIL + 1
"""The least time that the leader took for a task; on the line of `_ALONE_UNTIL`, which only the leader uses, too."""

_FIELD = 8
"""Bits of the kind and of the number of tasks in the word of a phase, and of the thread in the word of a result."""

_FIELD_MASK = (1 << _FIELD) - 1

_NUMBER = 2 * _FIELD
"""Bits of a phase below its number."""

_STEP_OF_NUMBER = 2
"""Difference of the numbers of two phases: the odd number between them says that the leader changes the rows."""

MAX_TASKS = 64
"""Maximum number of tasks in a phase, which must fit into its field."""

REST = 0
"""Kind of a phase after which none follows for a while; other kinds are small positive numbers."""

FOREVER = 2**62
"""Patience without end, in nanoseconds: 146 years, and far enough from the largest word to be added to a time."""

_HICCUP = 100_000
"""Nanoseconds by which a thread may be late without its core having been taken away."""

_TIMES_OWN = 4
"""Normal waiting time of the leader for tasks of others, in multiples of the time of its own task."""

_TIMES_ALONE = 10
"""Time during which the leader shares no task that cannot be done twice, in multiples of the wait that it had."""

_SPINS_BEFORE_YIELD = 2_000
"""Spins of a waiting thread before it offers its core to others: some tens of microseconds."""

_SPINS_BEFORE_SLEEP = 3_000
"""Spins of a thread after the last phase before it goes to sleep, so that it is awake if an epoch follows at once."""

_NAP_SECONDS = 0.02
"""Maximum sleep of a thread that takes part; after it, the thread looks for a phase even if its bell has not rung."""

_LULL_SECONDS = 0.01
"""Time for which cores stay unassigned after a fit: a user who fits many models begins the next one at once."""


@inner
def _spin(spins):
    """Wait a moment; after many spins, leave the core to another thread that wants it."""
    if spins < _SPINS_BEFORE_YIELD:
        pause()
    else:
        yield_core()


@inner
def open_phase(control, kind, tasks, first, last):
    """Offer the tasks of the next phase, on rows `first:last`, to all threads; return the phase. Called by the leader.

    A phase is one word: its number, the kind of its tasks and their number. If these were read separately, they could
    belong to two phases, and a late thread could claim a task that its phase never had. While the rows change, the word
    is that of a phase without tasks.
    """
    number = (load(control, _PHASE) >> _NUMBER) + _STEP_OF_NUMBER
    store(control, _PHASE, (number - 1) << _NUMBER | kind << _FIELD)
    store(control, _FIRST, first)
    store(control, _LAST, last)
    phase = number << _NUMBER | kind << _FIELD | tasks
    store(control, _PHASE, phase)
    return phase


@inner
def rest(control):
    """Announce that no phase follows for a while. Called by the leader."""
    open_phase(control, REST, 0, 0, 0)


@inner
def kind_of(phase):
    """Kind of the tasks of a phase."""
    return phase >> _FIELD & _FIELD_MASK


@inner
def tasks_of(phase):
    """Return the number of tasks of a phase."""
    return phase & _FIELD_MASK


@inner
def rows_of(control, phase):
    """Return the first row of a phase and the first one after it; no rows if the phase is over."""
    first, last = load(control, _FIRST), load(control, _LAST)
    if load(control, _PHASE) != phase:
        return 0, 0
    return first, last


@inner
def claim(control, task, phase):
    """Try to claim a task of a phase for this thread; return whether no other thread has claimed it.

    This fails for a phase that is over, too, whose tasks have all been claimed: phases only grow.
    """
    last = load(control, _CLAIM + task * _LINE)
    return last < phase and swap_if(control, _CLAIM + task * _LINE, last, phase)


@inner
def _result(task, kind):
    """Index of the word that says who finished a task of this kind."""
    return _CLAIM + task * _LINE + kind


@inner
def finish(control, task, phase, thread):
    """Report a task as done, with its result in the memory of this thread; the first report counts."""
    word, result = _result(task, kind_of(phase)), phase >> _NUMBER << _FIELD | thread
    last = load(control, word)
    if last >> _FIELD < result >> _FIELD:
        swap_if(control, word, last, result)


@inner
def finisher(control, task, kind):
    """Return the number of the thread that has the result of a task in the last phase of this kind."""
    return load(control, _result(task, kind)) & _FIELD_MASK


@inner
def _is_done(control, task, phase):
    return load(control, _result(task, kind_of(phase))) >> _FIELD >= phase >> _NUMBER


@inner
def done_in_time(control, task, phase, patience):
    """Wait for a task that a thread has claimed, for `patience` nanoseconds at most; return whether it is done.

    Called by the leader.
    """
    if _is_done(control, task, phase):
        return True
    spins, began = 0, clock()
    while not _is_done(control, task, phase):
        if clock() - began > patience:
            return False
        if load(control, _FAILED) != 0:
            raise RuntimeError("a thread of the team failed in the middle of a task")
        _spin(spins)
        spins += 1
    return True


@inner
def was_kept_waiting(control, waited, own, now):
    """Note how long the leader waited for tasks of others, if its own took `own` nanoseconds. Called by the leader.

    If the wait was much longer, the system has taken the core away from the other thread, and may do so again. For ten
    times as long, the leader then shares no task that cannot be done twice, so that it spends only a small part of its
    time waiting. Since the leader may have lost its own core during its task, its fastest task is the measure.
    """
    quickest = load(control, _QUICKEST)
    if quickest == 0 or own < quickest:
        quickest = own
        store(control, _QUICKEST, own)
    if waited > _TIMES_OWN * quickest + _HICCUP:
        store(control, _ALONE_UNTIL, now + _TIMES_ALONE * waited)


@inner
def is_alone(control, now):
    """Check whether the leader shares no task that cannot be done twice. Called by the leader.

    See `was_kept_waiting`.
    """
    return now < load(control, _ALONE_UNTIL)


@inner
def takes_part(control, thread):
    """Check whether this thread is to do tasks now: the team may have had to leave cores to another one."""
    return thread < load(control, _TAKE_PART)


@inner
def await_phase(control, thread, seen):
    """Spin until a phase after `seen` is open or, if the leader rests, for a while; return the phase.

    Called by the other threads.
    """
    spins, resting = 0, kind_of(seen) == REST
    while load(control, _PHASE) == seen and takes_part(control, thread):
        if resting and spins >= _SPINS_BEFORE_SLEEP:
            break
        _spin(spins)
        spins += 1
    return load(control, _PHASE)


class _Cores:
    """The cores of this process, divided among its teams, so that two fits at a time do not compete for them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew, as in a forked child, which has none of the teams of its parent."""
        self._lock = threading.Lock()
        self._teams: list[Team] = []
        self._left_at = math.inf

    def enter(self, team: "Team") -> None:
        with self._lock:
            self._teams.append(team)
            self._share_out()

    def leave(self, team: "Team") -> None:
        with self._lock:
            if team in self._teams:  # which a child forked in the middle of a fit does not have
                self._teams.remove(team)
                self._left_at = time.monotonic()

    def look_again(self) -> None:
        """Share out the cores of a team that has left, unless it has left only just now."""
        if time.monotonic() - self._left_at > _LULL_SECONDS:
            with self._lock:
                self._share_out()

    def _share_out(self) -> None:
        """Give exact teams what they ask for, then the others equal shares: first those that want less than a share."""
        self._left_at = math.inf
        left = available_threads()
        in_turn = sorted(self._teams, key=lambda team: (not team.exact, team.threads))
        for before, team in enumerate(in_turn):
            share = max(1, left // (len(in_turn) - before))
            threads = team.threads if team.exact else min(team.threads, share)
            team.let_take_part(threads)
            left -= threads


_cores = _Cores()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cores.reset)


class Team:
    """Threads of one fit, the first of which is the calling thread; use it as a context manager.

    Parameters
    ----------
    threads : int
        Number of threads, including the calling one.
    follow : callable
        `follow(thread, control, seen)` is called in each other thread. It does tasks of the phases after `seen`, and
        returns the last phase when none has been opened for a while, or when the thread no longer takes part.
    exact : bool
        Whether all threads take part in any case; otherwise `threads` is a maximum, and other teams get their share.
    """

    def __init__(self, threads: int, follow: Callable[[int, NDArray[np.int64], int], int], exact: bool) -> None:
        self.control = np.zeros(_CLAIM + MAX_TASKS * _LINE, np.int64)
        self.control[_TAKE_PART] = 1  # only the leader, until cores are shared out; 0 is the end
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
        """Start threads that take part for the first time, and wake those that sleep, since phases follow."""
        _cores.look_again()
        for thread in range(len(self._others) + 1, self.control[_TAKE_PART]):
            other = threading.Thread(target=self._serve, args=(thread,), name="fastadam", daemon=True)
            other.start()
            self._others.append(other)
            self._leaders_core = -1  # the new thread is to be kept off that core, too
        if self._others:
            self._make_room()
        self._ring()

    def let_take_part(self, threads: int) -> None:
        """Set how many threads take part from now on, including the leader."""
        self.control[_TAKE_PART] = threads
        self._ring()

    def _ring(self) -> None:
        for bell in self._bells[: self.control[_TAKE_PART] - 1]:
            bell.set()

    def _make_room(self) -> None:
        """Keep the other threads off the core that the leader runs on, if there is another core.

        Otherwise, while a thread of another library spins on the other core, the system lets the leader and its
        follower take turns on one core, and does not move them apart.
        """
        core = _current_core()
        if core != self._leaders_core:
            self._leaders_core = core
            cores = allowed_cores() - {core}
            with contextlib.suppress(OSError):  # not permitted, or the thread has just ended
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
                bell.clear()  # before the words are read: a ring between the two must not be lost
                if self.control[_TAKE_PART] == 0:
                    return
                seen = self._follow(thread, self.control, seen)
                taking_part = self.control[_TAKE_PART]
                if taking_part > 0:
                    bell.wait(_NAP_SECONDS if thread < taking_part else None)
        except BaseException:  # the leader may be waiting for the task of this thread
            self.control[_FAILED] = 1
            raise


@functools.cache
def _core_getter() -> Callable[[], int]:
    """Return the function that tells the core of the calling thread.

    It returns -1 if the system cannot tell the core, or cannot pin threads.
    """
    known = hasattr(os, "sched_setaffinity") and getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return known or (lambda: -1)


def _current_core() -> int:
    return _core_getter()()
