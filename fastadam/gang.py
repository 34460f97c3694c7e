"""A gang: threads that share the tasks of a fit, from inside compiled code.

The leader, the thread that called `fit`, opens one phase of tasks after the other. Every thread claims tasks of the
phase that is open, its own first; the leader opens the next phase when all are done. So the leader never waits for a
thread that is asleep or held up elsewhere, only for a task that another thread has begun: alone, it does everything.

Numba's parallel loops instead cost a fork and a join each, abort when two threads launch them at once (workqueue), or
end a forked child (GNU OpenMP). Here the threads live as long as the fit, so nothing is left for a fork to break, and
no setting of Numba or of a BLAS is touched. Between two phases they spin for a moment; only then do they go to sleep.
"""

import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastadam.jit import JIT_DISABLED, device

# The gang's shared words, each on a cache line of its own; from _CLAIMS on, the last phase in which a task was claimed.
_LINE = 8
_PHASE, _DONE, _STOP, _FAILED, _CLAIMS = (line * _LINE for line in range(5))

MAX_TASKS = 64
"""Tasks that a phase may have."""

_SPINS_BEFORE_YIELD = 2_000
_SPINS_BEFORE_SLEEP = 3_000
_NAP_SECONDS = 0.02


@intrinsic
def _load(typingctx, array, index):
    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_word(context, builder, signature, arguments), "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def _store(typingctx, array, index, value):
    def codegen(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], _word(context, builder, signature, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def _add(typingctx, array, index, value):
    """Add to a word; returns what it was."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _word(context, builder, signature, arguments), arguments[2], "acq_rel")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def _swap_if(typingctx, array, index, expected, value):
    """Put `value` into a word that still holds `expected`; returns whether it did."""

    def codegen(context, builder, signature, arguments):
        word = _word(context, builder, signature, arguments)
        return builder.extract_value(builder.cmpxchg(word, arguments[2], arguments[3], "acq_rel", "acquire"), 1)

    return types.boolean(array, types.int64, types.int64, types.int64), codegen


def _word(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def _pause(typingctx):
    """Tell the core that this thread spins."""

    def codegen(context, builder, signature, arguments):
        triple = context.codegen().magic_tuple()[0]
        if triple.startswith(("x86_64", "i686")):
            name, hint = "llvm.x86.sse2.pause", []
        elif triple.startswith(("aarch64", "arm64")):
            name, hint = "llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]
        else:
            return context.get_dummy_value()
        function_type = ir.FunctionType(ir.VoidType(), [argument.type for argument in hint])
        builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), hint)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _yield(typingctx):
    """Let another thread have this core."""

    def codegen(context, builder, signature, arguments):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function_type = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@device
def _spin(spins):
    """Wait a moment: politely at first, then leaving the core to whoever else wants it."""
    if spins < _SPINS_BEFORE_YIELD:
        _pause()
    else:
        _yield()


@device
def open_phase(control, kind, tasks):
    """Called by the leader: let all threads have the tasks of the next phase; returns the phase.

    A phase is one word: its number, the kind of its tasks and how many they are. Read apart, they could be of two
    phases, and a late thread could claim a task that its phase never had.
    """
    number = (_load(control, _PHASE) >> 16) + 1
    phase = number << 16 | kind << 8 | tasks
    _store(control, _DONE, 0)
    _store(control, _PHASE, phase)
    return phase


@device
def kind_of(phase):
    """What kind of tasks a phase has."""
    return phase >> 8 & 0xFF


@device
def tasks_of(phase):
    """How many tasks a phase has."""
    return phase & 0xFF


@device
def claim(control, task, phase):
    """Whether this thread, and no other, is to do the task in this phase.

    It fails for a phase that is over, too: then all its tasks were claimed. Phases only grow.
    """
    last = _load(control, _CLAIMS + task * _LINE)
    return last < phase and _swap_if(control, _CLAIMS + task * _LINE, last, phase)


@device
def finish(control):
    """Report a claimed task as done."""
    _add(control, _DONE, 1)


@device
def close_phase(control, tasks):
    """Called by the leader: wait until all tasks of the phase are done."""
    spins = 0
    while _load(control, _DONE) < tasks:
        if _load(control, _FAILED) != 0:
            raise RuntimeError("a thread of the gang failed in the middle of a task")
        _spin(spins)
        spins += 1


@device
def await_phase(control, seen):
    """Called by the others: spin until a phase after `seen` is open, or for a while; returns the phase."""
    spins = 0
    while _load(control, _PHASE) == seen and spins < _SPINS_BEFORE_SLEEP and _load(control, _STOP) == 0:
        _spin(spins)
        spins += 1
    return _load(control, _PHASE)


@device
def dismissed(control):
    """Whether the leader has sent the others home."""
    return _load(control, _STOP) != 0


if JIT_DISABLED:  # interpreted code has one thread, which does every task in its turn

    def open_phase(control, kind, tasks):
        """Nothing to share."""
        return kind << 8 | tasks

    def claim(control, task, phase):
        """Nobody else could do it."""
        return True

    def finish(control):
        """Nobody waits."""

    def close_phase(control, tasks):
        """Nobody to wait for."""


class _Cores:
    """How many cores the gangs of this process use, so that two fits at once do not take each other's."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew: in a forked child, which has none of its parent's gangs."""
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, wanted: int) -> int:
        with self._lock:
            granted = max(1, min(wanted, available_threads() - self._taken))
            self._taken += granted
        return granted

    def give_back(self, granted: int) -> None:
        with self._lock:
            self._taken -= granted


_cores = _Cores()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cores.reset)


def available_threads() -> int:
    """Cores that this process may use: its CPU affinity, and at most `NUMBA_NUM_THREADS`."""
    if JIT_DISABLED:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(min(cores, numba.config.NUMBA_NUM_THREADS))


class Gang:
    """Threads for one fit, the calling thread being the first; use it as a context manager.

    Parameters
    ----------
    threads : int
        Number of threads, the caller included.
    follow : callable
        `follow(thread, control, seen)` is called in each other thread. It does tasks of the phases after number `seen`,
        and returns the number of the last one when none was opened for a while.
    exact : bool
        Take `threads` as given; otherwise it is a wish, and cores that other gangs use are not taken.
    """

    def __init__(self, threads: int, follow: Callable[[int, NDArray[np.int64], int], int], exact: bool) -> None:
        self.control = np.zeros(_CLAIMS + MAX_TASKS * _LINE, np.int64)
        self._granted = 0 if exact else _cores.take(threads)
        self.threads = threads if exact else self._granted
        self._follow = follow
        self._bells = [threading.Event() for _ in range(1, self.threads)]
        self._others: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            for thread, bell in enumerate(self._bells, start=1):
                other = threading.Thread(target=self._serve, args=(thread, bell), name="fastadam", daemon=True)
                other.start()
                self._others.append(other)
        except BaseException:
            self._dismiss()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._dismiss()

    def wake(self) -> None:
        """Wake the threads that went to sleep: phases follow."""
        for bell in self._bells:
            bell.set()

    def _dismiss(self) -> None:
        self.control[_STOP] = 1
        self.wake()
        for other in self._others:
            other.join()
        _cores.give_back(self._granted)

    def _serve(self, thread: int, bell: threading.Event) -> None:
        """Follow the leader; nap between phases that are far apart."""
        seen = 0
        try:
            while not self.control[_STOP]:
                bell.clear()
                seen = self._follow(thread, self.control, seen)
                bell.wait(_NAP_SECONDS)
        except BaseException:  # the leader may be waiting for the task that this thread was at
            self.control[_FAILED] = 1
            raise
