"""The network of one fit as the trainer sees it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam.buffers import FlatBuffer
from fastadam.engine import Engine
from fastadam.network import Samples, layout_of, predict
from fastadam.optimizers import Adam

Array = NDArray[Any]


class TrainedNetwork:
    """The network of one fit as the trainer sees it: it trains, scores, and remembers its best parameters."""

    def __init__(
        self, params: FlatBuffer, activation: str, samples: Samples, optimizer: Adam, engine: Engine, alpha: float
    ) -> None:
        self.params = params
        """The parameters after the last epoch."""
        self.best: FlatBuffer | None = None
        self._layout = layout_of(params, activation)
        self._samples = samples
        self._optimizer = optimizer
        self._engine = engine
        self._alpha = alpha
        self._score: Callable[[Array], float] | None = None
        self._validation = np.empty(0, np.intp)

    def hold_out(self, validation: Array, score: Callable[[Array], float], best: FlatBuffer) -> None:
        """Keep the samples `validation` for `score`, which is given the predictions for them."""
        self._validation, self._score, self.best = validation, score, best

    def run_epoch(self, order: Array) -> float:
        """Train on the samples in this order; return the mean loss."""
        optimizer = self._optimizer
        loss, optimizer.t = self._engine.epoch(
            order, optimizer.t, lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.eps, alpha=self._alpha
        )
        return loss

    def validation_score(self) -> float:
        """Score the held-out samples; NaN where a prediction is not finite, as scikit-learn has it."""
        assert self._score is not None
        predicted = predict(self._layout, self.params.flat, self._samples, self._validation)
        return self._score(predicted) if np.isfinite(predicted).all() else np.nan

    def keep_as_best(self) -> None:
        """Copy the parameters as they are now."""
        self.best = self.params.copy()
