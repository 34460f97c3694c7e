"""Numbers at the ends of a type's range: arguments that exceed it, and fits that overflow.

Everything in this module runs once per fit.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastadam._typing import Array
from fastadam.buffers import FlatBuffer
from fastadam.cpu.network import as_samples, layout_of, predict
from fastadam.estimators.data import Data
from fastadam.estimators.settings import FitSettings, LossSettings
from fastadam.estimators.training import Progress
from fastadam.optimizers.base import Optimizer

_LARGE = 100.0
"""Absolute value above which an argument is named as a possible cause of an overflow."""

_LARGE_PARAMETER = 1e6
"""Absolute value of a parameter above which predictions are checked."""

_ROWS = 100
"""Number of training samples whose predictions are checked."""

_WITHOUT_EPSILON = ("sgd", "lion", "lbfgs")

NON_FINITE_PARAMETERS = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
"""scikit-learn's message."""

NON_FINITE_PREDICTIONS = (
    "Solver produced parameter weights so large that predictions are not finite. The input data may contain large "
    "values and need to be preprocessed."
)


class NonFiniteError(ValueError):
    """Overflow in a fit; `naming_what_is_large` adds the argument that may be the cause to the message."""


# --- before a fit -----------------------------------------------------------------------------------------------------


def check_fits(name: str, data: Any, dtype: DTypeLike) -> None:
    """Refuse finite values that overflow to infinity in a smaller type."""
    values, limit = _values(data), float(np.finfo(dtype).max)
    if values.dtype.kind == "f" and values.dtype.itemsize > np.dtype(dtype).itemsize and values.size:
        largest = np.abs(values).max()
        if largest > limit:
            raise ValueError(f"{name} must be at most {limit:g} in {np.dtype(dtype)}, got values of up to {largest:g}")


def _values(data: Any) -> Array:
    """Return the stored values of dense or sparse data; empty for data on a device."""
    if sparse.issparse(data):
        return data.data  # type: ignore[no-any-return]
    return data if isinstance(data, np.ndarray) else np.empty(0)


def check_numbers(settings: FitSettings, loss: LossSettings, dtype: DTypeLike) -> None:
    """Refuse parameters that the type of the model rounds to 0 or to infinity: with them, no step has any effect."""
    used = {}
    if not callable(settings.learning_rate):
        used["learning_rate_init"] = settings.learning_rate_init
    if settings.solver not in _WITHOUT_EPSILON:
        used["epsilon"] = settings.epsilon
    if loss.name == "huber":
        used["huber_delta"] = loss.parameter(dtype)
    limits = np.finfo(dtype)
    least, most = float(limits.smallest_subnormal), float(limits.max)
    for name, value in used.items():
        if value < least or (value > most and name != "huber_delta"):
            raise ValueError(
                f"{name} must be in [{least:.1e}, {most:.1e}], the range of {np.dtype(dtype)}, got {value!r}"
            )


def check_ranges(settings: FitSettings, data: Data, dtype: DTypeLike) -> None:
    """Refuse parameters and data that the type of the computation cannot hold."""
    dtype = np.float64 if settings.solver == "lbfgs" else dtype
    check_numbers(settings, data.loss, dtype)
    X_val, y_val, _ = data.validation or (None,) * 3
    for name, values in {"X": data.X, "y": data.loss_targets, "X_val": X_val, "y_val": y_val}.items():
        check_fits(name, values, dtype)


# --- after a fit ------------------------------------------------------------------------------------------------------


def is_finite(array: Array) -> bool:
    """Whether all elements are finite; a finite sum, which is faster to compute, implies it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(array.sum()) or bool(np.isfinite(array).all())


def check_finite(params: FlatBuffer) -> None:
    """Refuse parameters that have overflowed."""
    if not is_finite(params.flat):
        raise NonFiniteError(NON_FINITE_PARAMETERS)


def check_loss(loss: float, dtype: DTypeLike) -> None:
    """Refuse a loss that has overflowed."""
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"The loss is {loss} in {np.dtype(dtype)}. X or y may contain large values and need to be preprocessed."
        )


def check_training(optimizer: Optimizer, progress: Progress, n_iter: int, dtype: DTypeLike) -> None:
    """Refuse a fit whose loss or moments have overflowed; only warn if early stopping has kept an earlier model.

    A moment that has become infinite remains so, and its parameter does not change any more.
    """
    epochs = slice(-n_iter, None) if n_iter else slice(0)
    losses, scores = progress.losses[epochs], (progress.scores or [])[epochs]
    moments = [name for name, array in optimizer.state.items() if not is_finite(array)]
    if losses and (progress.best is None or not np.isfinite(losses).any()):
        check_loss(losses[-1], dtype)
    if moments and progress.best is None:
        raise NonFiniteError(
            f"Solver produced a non-finite {moments[0]} of the gradient in {dtype}, with which weights do not change. "
            "X, y or alpha may be too large, or sample_weight too small."
        )
    curves = {"loss_curve_": losses, "validation_scores_": scores}
    curves["validation_loss_curve_"] = progress.validation_losses[epochs]
    wrong = [name for name, values in curves.items() if not np.isfinite(values).all()] + moments
    if wrong:
        warnings.warn(
            f"Training has met numbers that are not finite, in {', '.join(wrong)}.", ConvergenceWarning, stacklevel=2
        )


def check_predictions(params: FlatBuffer, activations: tuple[str, ...], X: Any) -> None:
    """Refuse a model whose weights are so large that its predictions for the training data overflow."""
    rows = np.arange(min(_ROWS, X.shape[0]))
    if not np.abs(params.flat).max() > _LARGE_PARAMETER or not _values(X).size:
        return
    layout = layout_of(params, activations)
    if not is_finite(predict(layout, params.flat, as_samples(X[: rows.size], params.dtype), rows)):
        raise NonFiniteError(NON_FINITE_PREDICTIONS)


def warn_if_untrained(learning_rate_init: float, before: list[Array], intercepts: list[Array]) -> None:
    """Warn if all intercepts have kept their initial values: the loss changes them, and a penalty does not."""
    if all(map(np.array_equal, before, intercepts)):
        warnings.warn(
            "Training has not changed any of intercepts_: the gradient of the loss was zero, or the steps were too "
            f"small for {before[0].dtype}. Check learning_rate_init={learning_rate_init!r}, clip_norm, "
            "sample_weight and the scales of X and y.",
            ConvergenceWarning,
            stacklevel=2,
        )


@contextmanager
def naming_what_is_large(settings: FitSettings, data: Data) -> Iterator[None]:
    """Raise a ValueError for a NonFiniteError, with the argument that has the largest values in its message."""
    try:
        yield
    except NonFiniteError as error:
        sizes = _sizes(settings, data)
        name = max(sizes, key=sizes.__getitem__)
        cause = f" The cause may be {name}, with values of up to {sizes[name]:.1e}." if sizes[name] > _LARGE else ""
        if str(error) != NON_FINITE_PARAMETERS:
            raise ValueError(f"{error}{cause}") from None
        refusal = ValueError(str(error))  # scikit-learn's message is kept, and the cause is a note below it
        refusal.add_note(cause.strip())
        raise refusal from None


def _sizes(settings: FitSettings, data: Data) -> Mapping[str, float]:
    """Largest absolute value of each argument that enters the gradient."""
    arrays = {"X": _values(data.X), "y": data.loss_targets}
    sizes = {name: float(np.abs(array).max(initial=0)) for name, array in arrays.items()}
    sizes["learning_rate_init"] = settings.learning_rate_init
    weight = 1.0 if data.loss_weight is None else float(np.abs(data.loss_weight).mean())
    name = "alpha" if data.loss_weight is None else "alpha / sample_weight"
    sizes[name] = data.alpha / weight if weight else math.inf
    return sizes
