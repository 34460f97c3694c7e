"""Learning rates by epoch, one class for each kind of `learning_rate`.

A rate is a function of the progress of training, so that a later fit continues it where the one before stopped.
"""

import math
import sys
from typing import Literal

from fastadam.estimators.settings import FitSettings
from fastadam.estimators.training import Progress
from fastadam.schedules import Cosine, Linear, OneCycle, Plateau, Schedule, get_schedule

OF_SGD = ("constant", "invscaling", "adaptive")
"""scikit-learn's own; the last two are only used with solver="sgd"."""

OVER_ALL_EPOCHS = ("cosine", "linear", "one_cycle")
"""Schedules that end with the last epoch: reaching it is intended, and not a failure to converge."""

OF_ALL_SOLVERS = (*OVER_ALL_EPOCHS, "plateau")


class Rate:
    """Constant rate, after a warm-up in which the rate rises to it in even steps."""

    last_words = "Stopping."
    """Text that is printed when training has stalled and the rate cannot be lowered."""

    def __init__(self, lr: float, warmup_epochs: int = 0) -> None:
        self.lr = float(lr)
        self.warmup_epochs = min(warmup_epochs, sys.maxsize)  # a larger integer may not fit into a float

    def at(self, progress: Progress) -> float:
        """Rate of the next epoch."""
        epoch, rate = len(progress.losses), self._after_warmup(progress)
        return rate if epoch >= self.warmup_epochs else rate * (epoch + 1) / (self.warmup_epochs + 1)

    def _after_warmup(self, progress: Progress) -> float:
        return self.lr

    def lower(self, progress: Progress) -> bool:
        """Lower the rate, since training has stalled; return False if it cannot be lowered."""
        return False


class InverseScaling(Rate):
    """Initial rate divided by a power of the number of samples seen."""

    def __init__(self, lr: float, warmup_epochs: int, power: float) -> None:
        super().__init__(lr, warmup_epochs)
        self.power = float(power)  # integer powers of integers would grow without bound

    def _after_warmup(self, progress: Progress) -> float:
        seen = progress.samples_seen
        try:
            return float(self.lr / (seen + 1) ** self.power) if seen else self.lr
        except OverflowError:  # in the divisor
            return 0.0


class Adaptive(Rate):
    """Rate that is divided by 5 whenever training stalls, until it is 1e-6 or less."""

    last_words = "Learning rate too small. Stopping."

    def _after_warmup(self, progress: Progress) -> float:
        rate = self.lr
        for _ in range(progress.reductions):
            rate /= 5.0
        return rate

    def lower(self, progress: Progress) -> bool:
        """Divide the rate by 5 once more."""
        if self._after_warmup(progress) <= 1e-6:
            return False
        progress.reductions += 1
        return True


class Scheduled(Rate):
    """Rate of a schedule whose steps are epochs; from epoch `length` on, it is constant."""

    def __init__(self, schedule: Schedule, warmup_epochs: int, length: float = math.inf) -> None:
        super().__init__(0.0, warmup_epochs)
        self.schedule, self.length = schedule, length

    def _after_warmup(self, progress: Progress) -> float:
        return self.schedule(int(min(len(progress.losses), self.length - 1)))


class OnPlateau(Rate):
    """Rate that is lowered when the loss, or the validation score, has not improved for `patience` epochs."""

    def __init__(self, lr: float, warmup_epochs: int, patience: int, tol: float) -> None:
        super().__init__(lr, warmup_epochs)
        self.patience, self.tol = patience, tol

    def _after_warmup(self, progress: Progress) -> float:
        mode: Literal["min", "max"] = "min" if progress.scores is None else "max"
        metrics = progress.losses if progress.scores is None else progress.scores
        plateau = Plateau(
            self.lr, mode=mode, patience=self.patience, threshold=self.tol, threshold_mode="abs"
        )  # fmt: skip
        seen, state = progress.plateau or (0, plateau._start())
        for metric in metrics[seen:]:
            state = plateau._after(state, metric)
        progress.plateau = len(metrics), state
        return state.lr


def rate_of(settings: FitSettings) -> Rate:
    """Make the rate that `learning_rate` names."""
    lr, kind, warmup, length = (
        settings.learning_rate_init, settings.learning_rate, settings.warmup_epochs, settings.max_iter,
    )  # fmt: skip
    if not isinstance(kind, str):
        schedule = None if isinstance(kind, type) else get_schedule(kind)
        if schedule is None or isinstance(schedule, Plateau):
            raise TypeError(f"learning_rate must be a function of the epoch, got {kind!r}")
        return Scheduled(schedule, warmup)
    if kind == "cosine":
        return Scheduled(Cosine(lr, length), warmup, length)
    if kind == "linear":
        return Scheduled(Linear(lr, 1.0, 0.0, length), warmup, length)
    if kind == "one_cycle":
        return Scheduled(OneCycle(lr, length), warmup, length)
    if kind == "plateau":
        bound = settings.n_iter_no_change
        return OnPlateau(lr, warmup, 10 if math.isinf(bound) else max(1, int(bound) // 2), settings.tol)
    if settings.solver != "sgd" or kind == "constant":
        return Rate(lr, warmup)
    return InverseScaling(lr, warmup, settings.power_t) if kind == "invscaling" else Adaptive(lr, warmup)
