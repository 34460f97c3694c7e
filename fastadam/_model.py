"""The network of one fit: what it is trained on, by which engine, and how the trainer sees it."""

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastadam._constraints import batch_rows
from fastadam._optimizer import Optimizer
from fastadam._solvers import decays_by_itself, group_of, update_of
from fastadam.buffers import FlatBuffer
from fastadam.engine import Engine
from fastadam.interrupts import Watch
from fastadam.losses import LOSSES, loss_kernel, predictions
from fastadam.network import Layout, Samples, as_samples, layout_of, predict
from fastadam.trainer import Progress

if TYPE_CHECKING:
    from fastadam.cuda.network import DeviceEngine

Array = NDArray[Any]


class Data(NamedTuple):
    """What is trained on, validated: targets have two dimensions."""

    X: Any
    y: Array
    sample_weight: Array | None
    loss_targets: Array
    """The targets as the loss is taken of them."""
    loss_weight: Array | None
    """The weights as the loss has them."""
    alpha: float
    """The strength of the penalty beside these weights."""


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

    def predictions(self, layout: Layout, params: FlatBuffer, loss: str, watch: Watch) -> Array:
        """What the network predicts for them."""
        return predictions(LOSSES[loss].link, predict(layout, params.flat, self.samples, self.rows, watch))

    def loss(self, layout: Layout, params: FlatBuffer, loss: str, setting: float, watch: Watch) -> float:
        """The mean loss of the network on them, without any penalty; their targets must be among the samples."""
        samples, outputs = self.samples, predict(layout, params.flat, self.samples, self.rows, watch)
        total = len(self.rows) if self.weight is None else float(self.weight.sum(dtype=np.float64))
        summed = loss_kernel(loss)(outputs, samples.y, samples.weight, self.rows, float(total), setting)
        return float(summed / total)

    def compile(self, layout: Layout, params: FlatBuffer, loss: str, setting: float, watch: Watch) -> None:
        """Compile, or load, what predictions and their loss need: by none of the samples."""
        none = self.rows[:0]
        outputs = predict(layout, params.flat, self.samples, none, watch)
        loss_kernel(loss)(outputs, self.samples.y, self.samples.weight, none, 1.0, setting)


class TrainedNetwork:
    """The network of one fit as the trainer sees it: it trains, and is scored.

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
        self.score: Callable[[], float] | None = None
        """Scores the parameters as they are now."""
        self.loss: Callable[[], float] | None = None
        """The loss of the parameters as they are now on validation data, if there are any."""
        self.compile_validation: Callable[[], None] | None = None
        """Compiles, or loads, what those two need, if there is anything."""
        self.watch = engine.watch
        """Whether the fit is to be given up; predictions of validation data look at it, too."""
        self._optimizer = optimizer
        self._engine = engine

    @property
    def loss_so_far(self) -> float:
        """The mean loss of the last epoch, or of the whole steps of one that was given up."""
        return self._engine.loss

    def prepare(self) -> None:
        """Compile, or load, what an epoch and its validation need."""
        self._engine.prepare()
        if self.compile_validation is not None:
            self.compile_validation()

    def end_at(self, end: float) -> None:
        """Give up whatever takes longer, by `time.monotonic`."""
        self.watch.end = end

    def run_epoch(self, order: Array) -> float:
        """Train on the samples in this order; return the mean loss.

        Parameters and optimizer are those of the last whole step if it raises what a handler of a signal did, or
        OutOfTimeError.
        """
        optimizer, engine = self._optimizer, self._engine
        engine.t = optimizer.t
        try:
            engine.epoch(order, optimizer.t, group_of(optimizer))
        finally:
            optimizer._advance_to(engine.t)
        self.watch.check()
        return engine.loss

    def validation_loss(self) -> float | None:
        """The loss on validation data, if there are any."""
        return None if self.loss is None else self.loss()

    def validation_score(self) -> float:
        """Score the validation samples."""
        assert self.score is not None
        return self.score()

    def snapshot(self) -> FlatBuffer:
        """Copy the parameters as they are now."""
        return self.params.copy()


def validation_of(X: Any, y: Array, weight: Array | None, dtype: Any) -> Validation:
    """The user's own validation data."""
    return Validation(as_samples(X, dtype, y, weight), np.arange(X.shape[0]), X, y, weight)


def held_out_of(data: Data, samples: Samples, rows: Array, *, alone: bool) -> Validation:
    """Rows of the training data as validation data; `alone` copies them, for those who want their features."""
    weight = None if data.sample_weight is None else data.sample_weight[rows]
    if alone:
        return validation_of(data.X[rows], data.y[rows], weight, samples.y.dtype)
    return Validation(samples, rows, None, data.y[rows], weight)


def engine_of(
    estimator: Any, optimizer: Optimizer, samples: Samples, progress: Progress, alpha: float
) -> "Engine | DeviceEngine":
    """What trains the optimizer's parameters on these samples, as the estimator wants it; `alpha` is of the penalty."""
    params: FlatBuffer = optimizer.params  # type: ignore[assignment]
    assert progress.order is not None
    n_rows, dropout = progress.order.size, float(estimator.dropout)
    update, rows = update_of(optimizer, estimator.solver), batch_rows(estimator.batch_size, n_rows)
    activations, loss = estimator._activations(params), estimator._loss_name()
    options: dict[str, Any] = {
        "alpha": 0.0 if decays_by_itself(estimator.solver) else alpha,
        "loss_setting": estimator._loss_setting(params.dtype),
        "clip_norm": estimator.clip_norm, "dropout": dropout, "seed": progress.seed,
    }  # fmt: skip
    if _trains_on_device(estimator):
        from fastadam.cuda.network import DeviceEngine

        return DeviceEngine(params, activations, samples, loss, update, n_rows, rows, **options)
    layout = layout_of(params, activations, training=True, dropout=dropout > 0)
    return Engine(params, layout, samples, loss, update, n_rows, rows, estimator.n_threads, **options)


def _trains_on_device(estimator: Any) -> bool:
    """Whether to train on a CUDA device."""
    if estimator.device != "auto":
        return bool(estimator.device == "cuda")
    from fastadam.cuda import is_available

    return is_available()


def watch(estimator: Any, model: TrainedNetwork, data: Validation, progress: Progress, *, was_given: bool) -> None:
    """Let the network be scored on validation data, and its loss on them be taken if the user gave them."""
    params, loss, setting = model.params, estimator._loss_name(), estimator._loss_setting(model.params.dtype)
    layout = layout_of(params, estimator._activations(params))
    model.compile_validation = partial(data.compile, layout, params, loss, setting, model.watch)
    if was_given or estimator.scoring == "loss":
        loss_of = partial(data.loss, layout, params, loss, setting, model.watch)
        model.loss = loss_of if was_given else None
    if not estimator.early_stopping:
        return
    if progress.best is None:
        progress.best = model.snapshot()
    if estimator.scoring is None:
        scorer = estimator._validation_scorer(data.y, data.weight)
        model.score = lambda: scorer(data.predictions(layout, params, loss, model.watch))
    elif estimator.scoring == "loss":
        model.score = lambda: -loss_of()
    else:
        model.score = _users_scorer(estimator, data)


def _users_scorer(estimator: Any, data: Validation) -> Callable[[], float]:
    """What scores the estimator as it is now by its own `scoring`."""
    from sklearn.metrics import check_scoring

    given = {} if data.weight is None else {"sample_weight": data.weight}
    scorer = check_scoring(estimator, estimator.scoring)

    def score() -> float:
        fitted = copy.copy(estimator)
        fitted.__dict__.pop("feature_names_in_", None)  # they are no longer there on what was validated
        try:
            value = scorer(fitted, data.X, estimator._given_targets(data.y), **given)
        except AttributeError as error:  # as of probabilities, which a regressor has none of
            raise ValueError(f"scoring={estimator.scoring!r} does not go with this estimator: {error}") from error
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"scoring must give a number, got {value!r}") from None

    return score
