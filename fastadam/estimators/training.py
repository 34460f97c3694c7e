"""Training loop: epochs, shuffling, early stopping and stopping criteria. It uses no kernel and no scikit-learn class.

A `Model` trains for an epoch and is scored. `Progress` has all that training remembers from one epoch to the next, so
that a later call continues where this one stopped.
"""

import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastadam._watch import OutOfTimeError

Indices = NDArray[np.intp]


class Model(Protocol):
    """Model to train. After a completed step it may raise KeyboardInterrupt, or OutOfTimeError as set by `end_at`."""

    def prepare(self) -> None:
        """Compile, or load, all that an epoch and its validation need."""

    def end_at(self, end: float) -> None:
        """Stop whatever runs beyond this value of `time.monotonic`."""

    def run_epoch(self, order: Indices) -> float:
        """Train on the samples in this order; return the mean loss."""

    def validation_loss(self) -> float | None:
        """Compute the loss of the current model on validation data, or None without any."""

    def validation_score(self) -> float:
        """Score the current model on validation data; higher is better."""

    def snapshot(self) -> Any:
        """Copy the current parameters."""


class Outcome(enum.Enum):
    """Reason why training ended."""

    CONVERGED = "the loss or the validation score stopped improving"
    MAX_ITER = "the last epoch was reached"
    STOPPED = "a callback requested it"
    MAX_TIME = "the maximum time was reached"
    INTERRUPTED = "the user pressed Ctrl-C"


@dataclass
class Progress:
    """State of training between epochs, and between calls.

    `losses` and `scores` are cumulative; `scores` is None without early stopping, which then monitors the loss.
    """

    scores: list[float] | None = None
    losses: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_score: float = -math.inf
    epochs_without_improvement: int = 0
    samples_seen: int = 0
    order: Indices | None = None
    """Indices of the training samples in the order of the last epoch, which the next epoch shuffles further."""
    reductions: int = 0
    """Number of times that the learning rate was lowered because training had stalled."""
    plateau: Any = None
    """Number of losses, or scores, that a rate lowered on plateaus has processed, and its state."""
    validation_losses: list[float] = field(default_factory=list)
    """Losses on validation data, empty without any."""
    seed: int = 0
    """Seed of dropout."""
    best: Any = None
    """Parameters with the best score, as returned by `Model.snapshot`."""
    finished: bool = False
    """Whether training converged or was stopped by a callback."""

    def copy(self) -> "Progress":
        """Copy all that training changes in place."""
        scores = None if self.scores is None else list(self.scores)
        losses = {"losses": list(self.losses), "validation_losses": list(self.validation_losses)}
        return Progress(**{**self.__dict__, "scores": scores, **losses})


@dataclass(frozen=True)
class Plan:
    """Stopping criteria, and whether to shuffle."""

    max_iter: int
    shuffle: bool
    tol: float
    n_iter_no_change: float
    max_time: float = math.inf
    """Seconds after which training ends, also within an epoch that takes longer than a moment."""


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

    An epoch that was abandoned, by the user or because the time was up, does not enter `progress`.

    Parameters
    ----------
    model : Model
        Model to train.
    progress : Progress
        State of training, with the `order` of the training samples.
    plan : Plan
        Stopping criteria, and whether to shuffle.
    random_state : RandomState
        Source of one permutation per epoch.
    begin_epoch : callable
        Called before each epoch.
    report : callable
        Called after each epoch.
    stalled : callable
        Called after `report` if nothing has improved for too long; returns False to continue with a new count.
    end_epoch : callable
        Called last, when `progress` has all that a later call continues from; returns True to stop.

    Returns
    -------
    Outcome
        Reason why training ended.
    """
    progress.finished = False
    try:
        if plan.max_time < math.inf:  # compilation does not count
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
    # The epoch is complete from here on: if training ends before, the epoch has no effect on `progress`.
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
