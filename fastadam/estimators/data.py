"""Data of a fit, validated: samples, targets, weights, and the split for validation."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from fastadam._typing import Array
from fastadam.estimators.device_data import on_host
from fastadam.estimators.settings import FitSettings, LossSettings
from fastadam.estimators.training import Progress

_USUAL_EXPONENT = 60
"""Weights are scaled if the exponent of the largest exceeds this, in either direction."""


class Data(NamedTuple):
    """Validated data of a fit; targets have two dimensions."""

    given: tuple[Any, Any]
    """X and y as given by the user, for callbacks."""
    X: Any
    y: Array
    sample_weight: Array | None
    validation: tuple[Any, Array, Array | None] | None
    """X_val, y_val and sample_weight_val, validated, or None."""
    loss: LossSettings
    loss_targets: Array
    """Targets that the loss is computed with."""
    loss_weight: Array | None
    """Weights that the loss is computed with."""
    alpha: float
    """Strength of the penalty relative to these weights."""


def checked_validation(
    given: tuple[Any, Any, Any], n_outputs: int, validate: Callable[[Any, Any], tuple[Any, Array]]
) -> tuple[Any, Array, Array | None] | None:
    """Validate X_val, y_val and sample_weight_val, if given; `validate` returns features and numeric targets."""
    if given[0] is None:
        return None
    try:
        X, y, weight = map(on_host, ("X_val", "y_val", "sample_weight_val"), given)
        X, y = validate(X, y)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        if y.shape[1] != n_outputs:
            raise ValueError(f"y has {y.shape[1]} outputs, but {n_outputs} are trained")
        if weight is not None:
            weight, _ = checked_weights("sample_weight_val", weight, X)
            if weight.sum(dtype=np.float64) == 0:
                raise ValueError("sample_weight_val must not sum to zero")
    except ValueError as error:
        raise ValueError(f"X_val, y_val or sample_weight_val: {error}") from error
    return X, y, weight


def checked_weights(name: str, weight: Any, X: Any) -> tuple[Array, float]:
    """Validate weights as scikit-learn does and scale them into the range of X's type, which may be float32.

    Returns
    -------
    weight : ndarray
        Weights times `scale`, in the type of X.
    scale : float
        Power of two; 1 unless the weights are extreme.
    """
    weight, scale = scaled(name, _check_sample_weight(weight, X, dtype=np.float64))
    return weight.astype(X.dtype, copy=False), scale


def scaled(name: str, weight: Array) -> tuple[Array, float]:
    """Multiply extreme weights by the power of two that brings the largest near 1; return both.

    Only ratios of the weights matter, so the model stays the same if the penalty is multiplied as well.
    """
    with np.errstate(over="ignore"):
        total, largest = float(np.abs(weight).sum()), float(np.abs(weight).max())
    if not math.isfinite(total):
        raise ValueError(f"{name} must have a finite sum, got weights of up to {largest:g}")
    exponent = math.frexp(largest)[1]
    if abs(exponent) <= _USUAL_EXPONENT:
        return weight, 1.0
    exponent = max(exponent, -1000)  # beyond this, the power itself would be infinite
    return np.ldexp(weight, -exponent), math.ldexp(1.0, -exponent)


def kept_split(
    progress: Progress, held_out: Array | None, n_samples: int, holds_out: bool
) -> tuple[Array, Array | None] | None:
    """Split of the fit before, for a fit on the same number of samples that holds samples out as that did, or None."""
    if progress.order is None or (held_out is not None) != holds_out:
        return None
    n_before = progress.order.size + (0 if held_out is None else held_out.size)
    return (progress.order, held_out) if n_before == n_samples else None


def random_split(
    settings: FitSettings, indices: Array, strata: Array | None, random_state: np.random.RandomState
) -> tuple[Array, Array]:
    """Split indices of samples into those to train on and those to hold out, stratified by `strata` if given."""
    from sklearn.model_selection import train_test_split  # takes a tenth of a second to import

    training, held_out = train_test_split(
        indices, random_state=random_state, test_size=settings.validation_fraction, stratify=strata
    )
    if held_out.size < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    return training, held_out
