"""The learning rates of the epochs: what `learning_rate` names.

A rate is a function of how far training has come, so that a later fit goes on with it where the one before stopped.
"""

from typing import Any

from fastadam.trainer import Progress


class Rate:
    """The same rate in every epoch."""

    last_words = "Stopping."
    """What is printed when training has stalled for good."""

    def __init__(self, lr: float) -> None:
        self.lr = float(lr)

    def at(self, progress: Progress) -> float:
        """The rate of the next epoch."""
        return self.lr

    def lower(self, progress: Progress) -> bool:
        """Lower the rate, since training has stalled; False if that is all that can be done."""
        return False


class InverseScaling(Rate):
    """The first rate divided by a power of the number of samples seen."""

    def __init__(self, lr: float, power: float) -> None:
        super().__init__(lr)
        self.power = power

    def at(self, progress: Progress) -> float:
        """The rate of the next epoch."""
        seen = progress.samples_seen
        return float(self.lr / (seen + 1) ** self.power) if seen else self.lr


class Adaptive(Rate):
    """Divided by 5 whenever training stalls, until it is 1e-6 or less."""

    last_words = "Learning rate too small. Stopping."

    def at(self, progress: Progress) -> float:
        """The rate of the next epoch."""
        rate = self.lr
        for _ in range(progress.reductions):
            rate /= 5.0
        return rate

    def lower(self, progress: Progress) -> bool:
        """Divide it once more."""
        if self.at(progress) <= 1e-6:
            return False
        progress.reductions += 1
        return True


def rate_of(estimator: Any) -> Rate:
    """The rate that an estimator asks for."""
    lr, kind = estimator.learning_rate_init, estimator.learning_rate
    if estimator.solver != "sgd" or kind == "constant":
        return Rate(lr)
    return InverseScaling(lr, estimator.power_t) if kind == "invscaling" else Adaptive(lr)
