"""The network of one fit as the trainer sees it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastadam._optimizer import Optimizer
from fastadam._solvers import group_of
from fastadam.buffers import FlatBuffer
from fastadam.engine import Engine
from fastadam.losses import LOSSES, loss_kernel, predictions
from fastadam.network import Layout, Samples, predict

if TYPE_CHECKING:
    from fastadam.cuda.network import DeviceEngine

Array = NDArray[Any]


class Validation(NamedTuple):
    """Samples that are not trained on, or not all of them."""

    samples: Samples
    rows: Array
    """Which of the samples."""
    X: Any
    """Those rows as they were validated: for scorers."""
    y: Array
    """Their targets as the network has them."""
    weight: Array | None

    def predictions(self, layout: Layout, params: FlatBuffer, loss: str) -> Array:
        """What the network predicts for them."""
        return predictions(LOSSES[loss].link, predict(layout, params.flat, self.samples, self.rows))

    def loss(self, layout: Layout, params: FlatBuffer, loss: str, setting: float) -> float:
        """The mean loss of the network on them, without any penalty; their targets must be among the samples."""
        samples, outputs = self.samples, predict(layout, params.flat, self.samples, self.rows)
        total = len(self.rows) if self.weight is None else float(self.weight.sum(dtype=np.float64))
        summed = loss_kernel(loss)(outputs, samples.y, samples.weight, self.rows, float(total), setting)
        return float(summed / total)


class TrainedNetwork:
    """The network of one fit as the trainer sees it: it trains, scores, and remembers its best parameters.

    Parameters
    ----------
    params : FlatBuffer
        The parameters, which the optimizer updates.
    optimizer : Optimizer
        Its state is trained by the engine.
    engine : Engine
        Has the data.
    """

    def __init__(self, params: FlatBuffer, optimizer: Optimizer, engine: "Engine | DeviceEngine") -> None:
        self.params = params
        """The parameters after the last epoch."""
        self.best: FlatBuffer | None = None
        """Those of the best epoch so far, where scores are watched."""
        self.score: Callable[[], float] | None = None
        """Scores the parameters as they are now."""
        self.loss: Callable[[], float] | None = None
        """The loss of the parameters as they are now on validation data, if there are any."""
        self._optimizer = optimizer
        self._engine = engine

    def run_epoch(self, order: Array) -> float:
        """Train on the samples in this order; return the mean loss."""
        optimizer = self._optimizer
        loss, t = self._engine.epoch(order, optimizer.t, group_of(optimizer))
        optimizer._advance_to(t)
        return loss

    def validation_loss(self) -> float | None:
        """The loss on validation data, if there are any."""
        return None if self.loss is None else self.loss()

    def validation_score(self) -> float:
        """Score the validation samples."""
        assert self.score is not None
        return self.score()

    def keep_as_best(self) -> None:
        """Copy the parameters as they are now."""
        self.best = self.params.copy()
