"""Training: epochs, shuffling, early stopping and when to end. Knows no kernel and no scikit-learn class.

A `Model` can train for an epoch and be scored; `Progress` is all that training remembers from one epoch to the next,
so that a later call can go on where this one stopped.
"""

import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastadam.interrupts import OutOfTimeError

Indices = NDArray[np.intp]


class Model(Protocol):
    """What is trained. After a whole step it may raise KeyboardInterrupt, or OutOfTimeError as `end_at` says."""

    def prepare(self) -> None:
        """Compile, or load, all that an epoch and its validation need."""

    def end_at(self, end: float) -> None:
        """Give up whatever takes longer, by `time.monotonic`."""

    def run_epoch(self, order: Indices) -> float:
        """Train on the samples in this order; return the mean loss."""

    def validation_loss(self) -> float | None:
        """The loss of the model as it is now on validation data, if there are any."""

    def validation_score(self) -> float:
        """Score the model as it is now on held-out samples; higher is better."""

    def snapshot(self) -> Any:
        """Copy the parameters as they are now."""


class Outcome(enum.Enum):
    """Why training ended."""

    CONVERGED = "the loss or the validation score stopped improving"
    MAX_ITER = "the last epoch was reached"
    STOPPED = "a callback asked for it"
    MAX_TIME = "the time was up"
    INTERRUPTED = "the user pressed Ctrl-C"


@dataclass
class Progress:
    """What training remembers between epochs, and between calls.

    `losses` and `scores` are cumulative; `scores` is None without early stopping, and then the loss is watched.
    """

    scores: list[float] | None = None
    losses: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_score: float = -math.inf
    epochs_without_improvement: int = 0
    samples_seen: int = 0
    order: Indices | None = None
    """The training samples in the order of the last epoch: each epoch shuffles it further."""
    reductions: int = 0
    """How often the learning rate was lowered because training had stalled."""
    plateau: Any = None
    """The number of losses, or scores, that a rate lowered on plateaus has seen, and what it remembers of them."""
    validation_losses: list[float] = field(default_factory=list)
    """Losses on validation data, if there are any."""
    seed: int = 0
    """Of dropout."""
    best: Any = None
    """The parameters of the best score, as `Model.snapshot` gave them."""
    finished: bool = False
    """Whether training ended by itself, before the last epoch."""

    def copy(self) -> "Progress":
        """Copy all that training changes in place."""
        scores = None if self.scores is None else list(self.scores)
        losses = {"losses": list(self.losses), "validation_losses": list(self.validation_losses)}
        return Progress(**{**self.__dict__, "scores": scores, **losses})


@dataclass(frozen=True)
class Plan:
    """How long and in which order to train."""

    max_iter: int
    shuffle: bool
    tol: float
    n_iter_no_change: float
    max_time: float = math.inf
    """Seconds after which training ends, in the middle of an epoch if that takes longer than a moment."""


def train(
    model: Model,
    progress: Progress,
    plan: Plan,
    random_state: np.random.RandomState,
    begin_epoch: Callable[[], None],
    report: Callable[[], None],
    stalled: Callable[[], bool],
    end_epoch: Callable[[], bool],
) -> Outcome:
    """Train until the plan, a callback or the user ends it; `progress` is updated epoch by epoch.

    An epoch that was given up, by the user or as the time was up, is none of `progress`.

    Parameters
    ----------
    model : Model
        What is trained.
    progress : Progress
        Where training stands, with the `order` of the training samples.
    plan : Plan
        When to stop and whether to shuffle.
    random_state : RandomState
        Draws one permutation an epoch.
    begin_epoch : callable
        Called before each epoch.
    report : callable
        Called after it.
    stalled : callable
        Called next where nothing has improved for too long; returns False to go on nonetheless, and count anew.
    end_epoch : callable
        Called last, when `progress` has all that a later call goes on from; returns True to stop.

    Returns
    -------
    Outcome
        Why training ended.
    """
    progress.finished = False
    try:
        if plan.max_time < math.inf:  # what compiles takes no time of the plan's
            model.prepare()
        end = time.monotonic() + plan.max_time
        model.end_at(end)
        for epoch in range(plan.max_iter):
            begin_epoch()
            _run_epoch(model, progress, plan, random_state)
            report()
            if progress.epochs_without_improvement > plan.n_iter_no_change:
                progress.finished = stalled()
                if not progress.finished:
                    progress.epochs_without_improvement = 0
            stop = end_epoch()
            if progress.finished:
                return Outcome.CONVERGED
            if stop:
                progress.finished = True
                return Outcome.STOPPED
            if time.monotonic() >= end and epoch < plan.max_iter - 1:
                return Outcome.MAX_TIME
    except KeyboardInterrupt:
        return Outcome.INTERRUPTED
    except OutOfTimeError:
        return Outcome.MAX_TIME
    return Outcome.MAX_ITER


def _run_epoch(model: Model, progress: Progress, plan: Plan, random_state: np.random.RandomState) -> None:
    assert progress.order is not None
    if plan.shuffle:
        progress.order = progress.order[random_state.permutation(progress.order.size)]
    loss, validation_loss = model.run_epoch(progress.order), model.validation_loss()
    score = math.nan if progress.scores is None else model.validation_score()
    # Only now is the epoch whole: whatever ends training before is as if it had not begun.
    progress.losses.append(loss)
    progress.samples_seen += progress.order.size
    if validation_loss is not None:
        progress.validation_losses.append(validation_loss)
    if progress.scores is None:
        _watch_loss(progress, plan.tol)
    else:
        progress.scores.append(score)
        _watch_score(model, progress, plan.tol)


def _watch_loss(progress: Progress, tol: float) -> None:
    loss = progress.losses[-1]
    improved = not loss > progress.best_loss - tol
    progress.epochs_without_improvement = 0 if improved else progress.epochs_without_improvement + 1
    progress.best_loss = min(progress.best_loss, loss)


def _watch_score(model: Model, progress: Progress, tol: float) -> None:
    assert progress.scores is not None
    score = progress.scores[-1]
    improved = not score < progress.best_score + tol
    progress.epochs_without_improvement = 0 if improved else progress.epochs_without_improvement + 1
    if score > progress.best_score:
        progress.best_score = score
        progress.best = model.snapshot()
