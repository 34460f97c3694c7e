"""Numbers at the ends of a type's range: arguments that it cannot hold, and fits that have left it.

Everything here runs once per fit.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _check_sample_weight

from fastadam._model import Data
from fastadam._optimizer import Optimizer
from fastadam.network import as_samples, layout_of, predict
from fastadam.trainer import Progress

Array = NDArray[Any]

_USUAL_EXPONENT = 60
"""Weights whose largest is within two to the power of this, or of minus this, stay as they are."""
_LARGE = 100.0
"""Size from which an argument is named as a possible cause of an overflow."""
_LARGE_PARAMETER = 1e6
"""Size of a parameter from which predictions are looked at: those of training samples, as many as `_ROWS`."""
_ROWS = 100
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
    """A fit that has left the range of its type; `naming_what_is_large` adds the argument to the message."""


# --- before a fit -----------------------------------------------------------------------------------------------------


def checked_weights(name: str, weight: Any, X: Any) -> tuple[Array, float]:
    """Validate weights as scikit-learn does and bring them into the range of X's type, which may be float32.

    Returns
    -------
    weight : ndarray
        The weights in the type of X, times `scale`.
    scale : float
        A power of two; 1 unless the weights are extreme.
    """
    weight, scale = scaled(name, _check_sample_weight(weight, X, dtype=np.float64))
    return weight.astype(X.dtype, copy=False), scale


def scaled(name: str, weight: Array) -> tuple[Array, float]:
    """Multiply extreme weights by the power of two that brings the largest near 1; return them and that power.

    Only ratios of the weights matter, so the model stays the same if the penalty is multiplied as well.
    """
    with np.errstate(over="ignore"):
        total, largest = float(np.abs(weight).sum()), float(np.abs(weight).max())
    if not math.isfinite(total):
        raise ValueError(f"{name} must have a finite sum, got weights of up to {largest:g}")
    exponent = math.frexp(largest)[1]
    if abs(exponent) <= _USUAL_EXPONENT:
        return weight, 1.0
    exponent = max(exponent, -1000)  # of more, the power itself is infinite
    return np.ldexp(weight, -exponent), math.ldexp(1.0, -exponent)


def check_fits(name: str, data: Any, dtype: DTypeLike) -> None:
    """Refuse finite values that overflow to infinity in a smaller type."""
    values, limit = _values(data), float(np.finfo(dtype).max)
    if values.dtype.kind == "f" and values.dtype.itemsize > np.dtype(dtype).itemsize and values.size:
        largest = np.abs(values).max()
        if largest > limit:
            raise ValueError(f"{name} must be at most {limit:g} in {np.dtype(dtype)}, got values of up to {largest:g}")


def _values(data: Any) -> Array:
    """The stored values of dense or sparse data; none of data on a device."""
    if sparse.issparse(data):
        return data.data  # type: ignore[no-any-return]
    return data if isinstance(data, np.ndarray) else np.empty(0)


def check_numbers(estimator: Any, dtype: DTypeLike) -> None:
    """Refuse parameters that the type of the model rounds to 0 or to infinity: with them, no step changes anything."""
    used = {"learning_rate_init": not callable(estimator.learning_rate)}
    used["epsilon"] = estimator.solver not in _WITHOUT_EPSILON
    used["huber_delta"] = getattr(estimator, "loss", None) == "huber"
    limits = np.finfo(dtype)
    least, most = float(limits.smallest_subnormal), float(limits.max)
    for name in (name for name, is_used in used.items() if is_used):
        value = float(getattr(estimator, name))
        if value < least or (value > most and name != "huber_delta"):
            raise ValueError(
                f"{name} must be in [{least:.1e}, {most:.1e}], the range of {np.dtype(dtype)}, got "
                f"{getattr(estimator, name)!r}"
            )


# --- after a fit ------------------------------------------------------------------------------------------------------


def is_finite(array: Array) -> bool:
    """Whether all elements are finite; their sum, which is faster, tells unless it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(array.sum()) or bool(np.isfinite(array).all())


def check_loss(loss: float, dtype: DTypeLike) -> None:
    """Refuse a loss that has overflowed."""
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"The loss is {loss} in {np.dtype(dtype)}. X or y may contain large values and need to be preprocessed."
        )


def check_training(estimator: Any, optimizer: Optimizer, progress: Progress) -> None:
    """Refuse a fit whose loss or moments have overflowed; only warn where early stopping has kept an earlier model.

    A moment that is infinite stays so, and its parameter does not change any more.
    """
    epochs, dtype = slice(-estimator.n_iter_, None) if estimator.n_iter_ else slice(0), estimator._params.dtype
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


def check_predictions(estimator: Any, X: Any) -> None:
    """Refuse a model that has grown so large in its last step that it cannot predict what it was trained on."""
    params = estimator._params
    rows = np.arange(min(_ROWS, X.shape[0]))
    if not np.abs(params.flat).max() > _LARGE_PARAMETER or not _values(X).size:
        return
    layout = layout_of(params, estimator._activations(params))
    if not is_finite(predict(layout, params.flat, as_samples(X[: rows.size], params.dtype), rows)):
        raise NonFiniteError(NON_FINITE_PREDICTIONS)


def warn_if_untrained(estimator: Any, before: list[Array]) -> None:
    """Warn if all intercepts are as they were before the first step: no penalty changes them, only the loss does."""
    if all(map(np.array_equal, before, estimator.intercepts_)):
        warnings.warn(
            "Training has not changed any of intercepts_: the gradient of the loss was zero, or the steps were too "
            f"small for {before[0].dtype}. Check learning_rate_init={estimator.learning_rate_init!r}, clip_norm, "
            "sample_weight and the scales of X and y.",
            ConvergenceWarning,
            stacklevel=2,
        )


@contextmanager
def naming_what_is_large(estimator: Any, data: Data) -> Iterator[None]:
    """Add the largest argument to the message of a NonFiniteError."""
    try:
        yield
    except NonFiniteError as error:
        sizes = _sizes(estimator, data)
        name = max(sizes, key=sizes.__getitem__)
        cause = f" The cause may be {name}, with values of up to {sizes[name]:.1e}." if sizes[name] > _LARGE else ""
        if str(error) != NON_FINITE_PARAMETERS:
            raise ValueError(f"{error}{cause}") from None
        refusal = ValueError(str(error))  # scikit-learn's message stays as it is, and the cause is a note below it
        refusal.add_note(cause.strip())
        raise refusal from None


def _sizes(estimator: Any, data: Data) -> Mapping[str, float]:
    """The largest values of what enters the gradient."""
    arrays = {"X": _values(data.X), "y": data.loss_targets}
    sizes = {name: float(np.abs(array).max(initial=0)) for name, array in arrays.items()}
    sizes["learning_rate_init"] = float(estimator.learning_rate_init)
    weight = 1.0 if data.loss_weight is None else float(np.abs(data.loss_weight).mean())
    name = "alpha" if data.loss_weight is None else "alpha / sample_weight"
    sizes[name] = data.alpha / weight if weight else math.inf
    return sizes
