"""The network of one fit as the trainer sees it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam._optimizer import Optimizer
from fastadam._solvers import group_of
from fastadam.buffers import FlatBuffer
from fastadam.engine import Engine
from fastadam.losses import predictions
from fastadam.network import Layout, Samples, predict

Array = NDArray[Any]


class TrainedNetwork:
    """The network of one fit as the trainer sees it: it trains, scores, and remembers its best parameters."""

    def __init__(self, params: FlatBuffer, samples: Samples, optimizer: Optimizer, engine: Engine) -> None:
        self.params = params
        """The parameters after the last epoch."""
        self.best: FlatBuffer | None = None
        self._samples = samples
        self._optimizer = optimizer
        self._engine = engine
        self._score: Callable[[], float] | None = None

    def hold_out(
        self, layout: Layout, link: str, validation: Array, score: Callable[[Array], float], best: FlatBuffer
    ) -> None:
        """Keep the samples `validation` for `score`, which is given the predictions for them."""

        def scored() -> float:
            return score(predictions(link, predict(layout, self.params.flat, self._samples, validation)))

        self._score, self.best = scored, best

    def run_epoch(self, order: Array) -> float:
        """Train on the samples in this order; return the mean loss."""
        optimizer = self._optimizer
        loss, t = self._engine.epoch(order, optimizer.t, group_of(optimizer))
        optimizer._advance_to(t)
        return loss

    def validation_score(self) -> float:
        """Score the held-out samples."""
        assert self._score is not None
        return self._score()

    def keep_as_best(self) -> None:
        """Copy the parameters as they are now."""
        self.best = self.params.copy()
