"""What a fit says, in scikit-learn's words."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from fastadam._cache import on_compiling
from fastadam._rates import OVER_ALL_EPOCHS, Rate
from fastadam.trainer import Outcome, Progress


def print_epoch(estimator: Any, progress: Progress) -> None:
    """Print the loss of an epoch, and the score after it."""
    if not estimator.verbose:
        return
    print(f"Iteration {estimator.n_iter_}, loss = {progress.losses[-1]:.8f}")
    if progress.scores is not None:
        print(f"Validation score: {progress.scores[-1]:f}")


@contextmanager
def compiling_is_printed(estimator: Any) -> Iterator[None]:
    """Print, once, that a fit has to wait for something to be compiled; apart from what scikit-learn prints."""

    def tell() -> None:
        print("Compiling kernels, which the first fit of a kind waits for.", file=sys.stderr)

    if estimator.verbose:
        on_compiling.append(tell)
    try:
        yield
    finally:
        if tell in on_compiling:
            on_compiling.remove(tell)


def print_stalled(estimator: Any, rate: Rate, lowered: bool, lr: float) -> None:
    """Print that nothing improves any longer, and what follows."""
    if not estimator.verbose:
        return
    what = "Validation score" if estimator.early_stopping else "Training loss"
    consequence = f"Setting learning rate to {lr:f}" if lowered else rate.last_words
    print(
        f"{what} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} consecutive epochs."
        f" {consequence}"
    )


def warn_of(outcome: Outcome, estimator: Any) -> None:
    """Warn where training ended before it had converged; a schedule over all epochs is meant to end there."""
    if outcome is Outcome.INTERRUPTED:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    if outcome is Outcome.MAX_ITER and estimator.learning_rate in OVER_ALL_EPOCHS:
        return
    reached = {
        Outcome.MAX_ITER: f"Maximum iterations ({estimator.max_iter})",
        Outcome.MAX_TIME: f"Maximum time ({estimator.max_time} s)",
    }
    if outcome in reached:
        warnings.warn(
            f"Stochastic Optimizer: {reached[outcome]} reached and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )
