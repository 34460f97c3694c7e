"""Network of one fit: its weights, its engine, its validation, and the model that `training.py` trains."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastadam._typing import Array
from fastadam._watch import Watch
from fastadam.buffers import FlatBuffer
from fastadam.cpu.engine import Engine
from fastadam.cpu.losses import loss_kernel
from fastadam.cpu.network import Layout, as_samples, layout_of, predict
from fastadam.estimators.data import Data
from fastadam.estimators.device_data import is_resident
from fastadam.estimators.parameters import batch_rows
from fastadam.estimators.settings import FitSettings, LossSettings
from fastadam.estimators.solvers import decays_by_itself, group_of, update_of
from fastadam.estimators.training import Progress
from fastadam.formulas.losses import LOSSES, predictions
from fastadam.formulas.network import Samples, shapes_of
from fastadam.optimizers.base import Optimizer

if TYPE_CHECKING:
    from fastadam.cuda.engine import DeviceEngine


class Validation(NamedTuple):
    """Validation samples, which may be some of the training data."""

    samples: Samples
    rows: Array
    """Indices of the validation samples among `samples`."""
    X: Any
    """Validated features of these rows, for scorers."""
    y: Array
    """Targets of these rows in the form that the network is trained on."""
    weight: Array | None

    def predictions(self, layout: Layout, params: FlatBuffer, loss: str, watch: Watch) -> Array:
        """Predictions of the network for these rows."""
        return predictions(LOSSES[loss].link, predict(layout, params.flat, self.samples, self.rows, watch))

    def loss(self, layout: Layout, params: FlatBuffer, loss: str, setting: float, watch: Watch) -> float:
        """Mean loss of the network on these rows, without penalty; `samples` must have their targets."""
        samples, outputs = self.samples, predict(layout, params.flat, self.samples, self.rows, watch)
        total = len(self.rows) if self.weight is None else float(self.weight.sum(dtype=np.float64))
        summed = loss_kernel(loss)(outputs, samples.y, samples.weight, self.rows, float(total), setting)
        return float(summed / total)

    def compile(self, layout: Layout, params: FlatBuffer, loss: str, setting: float, watch: Watch) -> None:
        """Compile, or load, the kernels of predictions and their loss, by calling them without any row."""
        none = self.rows[:0]
        outputs = predict(layout, params.flat, self.samples, none, watch)
        loss_kernel(loss)(outputs, self.samples.y, self.samples.weight, none, 1.0, setting)


class TrainedNetwork:
    """Network of one fit as a `training.Model`, which is trained and scored.

    Parameters
    ----------
    params : FlatBuffer
        Parameters, which the engine updates.
    optimizer : Optimizer
        Optimizer whose state and step count the engine updates.
    engine : Engine or DeviceEngine
        Engine with the training data.
    """

    def __init__(self, params: FlatBuffer, optimizer: Optimizer, engine: "Engine | DeviceEngine") -> None:
        self.params = params
        """Parameters after the last epoch."""
        self.score: Callable[[], float] | None = None
        """Function that scores the current parameters, or None."""
        self.loss: Callable[[], float] | None = None
        """Function that returns the loss of the current parameters on validation data, or None."""
        self.compile_validation: Callable[[], None] | None = None
        """Function that compiles, or loads, the kernels of these two, or None."""
        self.watch = engine.watch
        """Tells compiled code to stop; predictions of validation data check it as well."""
        self._optimizer = optimizer
        self._engine = engine

    @property
    def loss_so_far(self) -> float:
        """Mean loss of the last epoch, or of the completed steps of an epoch that was abandoned."""
        return self._engine.loss

    def prepare(self) -> None:
        """Compile, or load, the kernels of an epoch and its validation."""
        self._engine.prepare()
        if self.compile_validation is not None:
            self.compile_validation()

    def end_at(self, end: float) -> None:
        """Stop whatever runs beyond this value of `time.monotonic`."""
        self.watch.end = end

    def run_epoch(self, order: Array) -> float:
        """Train on the samples in this order; return the mean loss.

        If the handler of a signal raises, or the time is up (OutOfTimeError), parameters and optimizer are those of the
        last completed step.
        """
        optimizer, engine = self._optimizer, self._engine
        engine.t = optimizer.t
        try:
            engine.epoch(order, optimizer.t, group_of(optimizer))
        finally:
            optimizer.t = engine.t
        self.watch.check()
        return engine.loss

    def validation_loss(self) -> float | None:
        """Loss on validation data, or None without any."""
        return None if self.loss is None else self.loss()

    def validation_score(self) -> float:
        """Score the validation samples."""
        assert self.score is not None
        return self.score()

    def snapshot(self) -> FlatBuffer:
        """Copy the current parameters."""
        return self.params.copy()


def validation_rows(settings: FitSettings, data: Data, samples: Samples, held_out: Array | None) -> Validation | None:
    """Return the validation data of a fit: those given by the user, or the rows that were held out, or None.

    Rows that are held out are copied only if their features are needed.
    """
    dtype = samples.y.dtype
    if data.validation is not None:
        return _validation_of(*data.validation, dtype)
    if held_out is None:
        return None
    weight = None if data.sample_weight is None else data.sample_weight[held_out]
    if settings.scoring is not None or is_resident(data.X):
        return _validation_of(data.X[held_out], data.y[held_out], weight, dtype)
    return Validation(samples, held_out, None, data.y[held_out], weight)


def _validation_of(X: Any, y: Array, weight: Array | None, dtype: Any) -> Validation:
    return Validation(as_samples(X, dtype, y, weight), np.arange(X.shape[0]), X, y, weight)


def initial_params(
    settings: FitSettings, units: Sequence[int], dtype: Any, random_state: np.random.RandomState
) -> FlatBuffer:
    """Glorot's initial weights, drawn in float64 as scikit-learn draws them: weight, bias, layer by layer."""
    try:
        params = FlatBuffer.zeros(shapes_of(units), dtype)
    except (OverflowError, ValueError) as error:  # more than can be addressed
        raise ValueError(f"hidden_layer_sizes is too large, got {list(settings.hidden)}: {error}") from error
    activations = settings.activations or (settings.activation,)  # scikit-learn's rule also without hidden layers
    for k, (fan_in, fan_out) in enumerate(pairwise(units)):
        of_layer = activations[min(k, len(activations) - 1)]
        bound = np.sqrt((2.0 if of_layer == "logistic" else 6.0) / (fan_in + fan_out))
        params[f"W{k}"] = random_state.uniform(-bound, bound, (fan_in, fan_out))
        params[f"b{k}"] = random_state.uniform(-bound, bound, fan_out)
    return params


def engine_of(
    settings: FitSettings, data: Data, optimizer: Optimizer, samples: Samples, progress: Progress
) -> "Engine | DeviceEngine":
    """Make the engine that trains the parameters of the optimizer on these samples."""
    params: FlatBuffer = optimizer.params  # type: ignore[assignment]
    assert progress.order is not None
    n_rows = progress.order.size
    update, rows = update_of(optimizer, settings.solver), batch_rows(settings.batch_size, n_rows)
    options: dict[str, Any] = {
        "alpha": 0.0 if decays_by_itself(settings.solver) else data.alpha,
        "loss_setting": data.loss.parameter(params.dtype),
        "clip_norm": settings.clip_norm, "dropout": settings.dropout, "seed": progress.seed,
    }  # fmt: skip
    if _trains_on_device(settings.device):
        from fastadam.cuda.engine import DeviceEngine

        return DeviceEngine(params, settings.activations, samples, data.loss.name, update, n_rows, rows, **options)
    layout = layout_of(params, settings.activations, training=True, dropout=settings.dropout > 0)
    return Engine(params, layout, samples, data.loss.name, update, n_rows, rows, settings.n_threads, **options)


def _trains_on_device(device: str) -> bool:
    """Whether to train on a CUDA device."""
    if device != "auto":
        return device == "cuda"
    from fastadam.cuda import is_available

    return is_available()


ScoreMaker = Callable[[Validation, Callable[[], Array]], Callable[[], float]]
"""Given validation data and a function that predicts them with the current weights, returns a function that scores the
current weights."""


def attach_validation(
    model: TrainedNetwork,
    rows: Validation,
    settings: FitSettings,
    loss: LossSettings,
    progress: Progress,
    make_score: ScoreMaker,
    *,
    was_given: bool,
) -> None:
    """Let the network be scored on validation data, and its loss on them be recorded if the user gave them."""
    params, parameter = model.params, loss.parameter(model.params.dtype)
    layout = layout_of(params, settings.activations)
    model.compile_validation = partial(rows.compile, layout, params, loss.name, parameter, model.watch)
    loss_of = partial(rows.loss, layout, params, loss.name, parameter, model.watch)
    model.loss = loss_of if was_given else None
    if not settings.early_stopping:
        return
    if progress.best is None:
        progress.best = model.snapshot()
    if settings.scoring == "loss":
        model.score = lambda: -loss_of()
    else:
        model.score = make_score(rows, partial(rows.predictions, layout, params, loss.name, model.watch))


def params_of(coefs: Sequence[Any], intercepts: Sequence[Any], n_features: int, dtype: Any) -> FlatBuffer:
    """Copy weights that the user has set into one buffer; `dtype` is None for the type of the arrays."""
    shapes = shapes_of([n_features, *map(np.size, intercepts)])
    arrays = [array for layer in zip_longest(coefs, intercepts) for array in layer]
    given = [np.shape(array) for array in arrays]
    if given != list(shapes.values()):  # kernels do not check the bounds
        raise ValueError(
            f"coefs_ and intercepts_ must have, layer by layer, the shapes {list(shapes.values())} of a network "
            f"with {n_features} features, got {given}"
        )
    return FlatBuffer.from_arrays(dict(zip(shapes, arrays, strict=True)), dtype)


def views_of(params: FlatBuffer) -> dict[str, Any]:
    """Attributes with the parameters: `coefs_` and `intercepts_` are views of one buffer."""
    coefs = [params[name] for name in params if name.startswith("W")]
    intercepts = [params[name] for name in params if name.startswith("b")]
    views, layout = (*coefs, *intercepts), layout_of(params)
    return {"_params": params, "coefs_": coefs, "intercepts_": intercepts, "_views": views, "_layout": layout}
