"""Parameters of the estimators: the values that are allowed, separately and in combination."""

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints

from fastadam._checks import real
from fastadam.estimators.learning_rates import OF_ALL_SOLVERS, OF_SGD
from fastadam.estimators.settings import FitSettings
from fastadam.estimators.solvers import SOLVERS
from fastadam.formulas.activations import ACTIVATIONS

PARAMETER_CONSTRAINTS: dict[str, Any] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS)), list, tuple],
    "solver": [StrOptions({"lbfgs", *SOLVERS})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({*OF_SGD, *OF_ALL_SOLVERS}), callable],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "scoring": [str, callable, None],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "device": [StrOptions({"cpu", "cuda", "auto"})],
}
"""Constraints on the parameters that regressor and classifier share."""


def check_parameters(parameters: Mapping[str, Any], rules: Mapping[str, Any], caller_name: str) -> None:
    """Validate as scikit-learn does, but each number as the float that is computed with, which is inf for 10**400."""
    values = {name: _as_computed(parameters[name], rules[name]) for name in rules}
    validate_parameter_constraints(rules, values, caller_name=caller_name)


def _as_computed(value: Any, rules: list[Any]) -> Any:
    """Convert a parameter to a float if that has another value or is not of a common type."""
    types = {rule.type for rule in rules if isinstance(rule, Interval)}
    if types and isinstance(value, np.timedelta64):  # registered as an integer, but not comparable with one
        return repr(value)
    if Real not in types or not isinstance(value, Real) or isinstance(value, bool):
        return value
    computed = real("", value)  # type: ignore[arg-type]
    return value if computed == value and isinstance(value, int | float | np.generic) else computed


def check_validation_data(X_val: Any, y_val: Any, sample_weight_val: Any) -> None:
    """Refuse validation data of which a part is missing."""
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val must be given together, or neither of them")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val needs X_val and y_val")


def check_lbfgs(settings: FitSettings, X_val: Any) -> None:
    """Refuse parameters and validation data that solver="lbfgs" does not support."""
    refused = {
        "dropout": settings.dropout > 0, "clip_norm": settings.clip_norm is not None, "X_val": X_val is not None,
        "max_time": settings.max_time is not None, "warmup_epochs": settings.warmup_epochs > 0,
        "learning_rate": settings.learning_rate not in OF_SGD, "device": settings.device == "cuda",
    }  # fmt: skip
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(f"{name} is only supported by the stochastic solvers, got solver='lbfgs'")


def check_same_layers(coefs: Sequence[Any], units: list[int]) -> None:
    """Refuse to continue training with other layers than those of the fitted network."""
    fitted = [np.shape(coefs[0])[0], *(np.shape(coef)[1] for coef in coefs)]
    if units != fitted:
        raise ValueError(
            f"The model was fitted with {fitted[1:-1]} hidden units and {fitted[-1]} outputs; continuing with "
            f"{units[1:-1]} hidden units and {units[-1]} outputs needs a new fit with warm_start=False."
        )


def batch_rows(batch_size: int | str, n_samples: int) -> int:
    """Number of samples in a batch."""
    if isinstance(batch_size, str):  # "auto"
        return min(200, n_samples)
    if batch_size > n_samples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(batch_size), n_samples)
