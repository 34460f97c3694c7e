"""Messages and warnings of a fit, in scikit-learn's words."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.exceptions import ConvergenceWarning

from fastadam.cpu.cache import on_compiling
from fastadam.estimators.learning_rates import OVER_ALL_EPOCHS
from fastadam.estimators.settings import FitSettings
from fastadam.estimators.training import Outcome, Progress


def print_epoch(n_iter: int, progress: Progress) -> None:
    """Print the loss of an epoch, and the validation score after it."""
    print(f"Iteration {n_iter}, loss = {progress.losses[-1]:.8f}")
    if progress.scores is not None:
        print(f"Validation score: {progress.scores[-1]:f}")


@contextmanager
def compiling_is_printed(settings: FitSettings) -> Iterator[None]:
    """Print, once per fit and to stderr, that the fit has to wait for kernels to be compiled."""

    def tell() -> None:
        print("Compiling kernels, which the first fit of a kind waits for.", file=sys.stderr)

    if settings.verbose:
        on_compiling.append(tell)
    try:
        yield
    finally:
        if tell in on_compiling:
            on_compiling.remove(tell)


def print_stalled(settings: FitSettings, consequence: str) -> None:
    """Print that training has stopped improving, and the consequence."""
    what = "Validation score" if settings.early_stopping else "Training loss"
    print(
        f"{what} did not improve more than tol={settings.tol:f} for {settings.n_iter_no_change} consecutive epochs."
        f" {consequence}"
    )


def warn_of(outcome: Outcome, settings: FitSettings) -> None:
    """Warn if training ended before it converged, unless a schedule over all epochs came to its end."""
    if outcome is Outcome.INTERRUPTED:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    if outcome is Outcome.MAX_ITER and settings.learning_rate in OVER_ALL_EPOCHS:
        return
    reached = {
        Outcome.MAX_ITER: f"Maximum iterations ({settings.max_iter})",
        Outcome.MAX_TIME: f"Maximum time ({settings.max_time} s)",
    }
    if outcome in reached:
        warnings.warn(
            f"Stochastic Optimizer: {reached[outcome]} reached and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )
