"""What an estimator's parameters may be, each by itself and together."""

import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints

from fastadam._checks import real
from fastadam.estimators.learning_rates import OF_ALL_SOLVERS, OF_SGD
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
"""Those that regressor and classifier share."""


def check_parameters(estimator: Any) -> None:
    """scikit-learn's validation, of numbers as the floats that are computed with: of 10**400 that is inf."""
    rules = estimator._parameter_constraints
    values = {name: _as_computed(getattr(estimator, name), rules[name]) for name in rules}
    validate_parameter_constraints(rules, values, caller_name=type(estimator).__name__)


def _as_computed(value: Any, rules: list[Any]) -> Any:
    """A parameter as scikit-learn should look at it: as a float, where that is another number or type."""
    types = {rule.type for rule in rules if isinstance(rule, Interval)}
    if types and isinstance(value, np.timedelta64):  # it says that it is an integer, and cannot be compared with one
        return repr(value)
    if Real not in types or not isinstance(value, Real) or isinstance(value, bool):
        return value
    computed = real("", value)  # type: ignore[arg-type]
    return value if computed == value and isinstance(value, int | float | np.generic) else computed


def hidden_units(hidden_layer_sizes: Any) -> list[int]:
    """Units of each hidden layer."""
    several = hasattr(hidden_layer_sizes, "__iter__") and getattr(hidden_layer_sizes, "ndim", None) != 0
    sizes = list(hidden_layer_sizes) if several else [hidden_layer_sizes]
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def activation_names(activation: str | Sequence[str], n_hidden: int) -> tuple[str, ...]:
    """The activation of each of so many hidden layers."""
    names: tuple[Any, ...] = tuple(activation) if isinstance(activation, list | tuple) else (activation,) * n_hidden
    unknown = [name for name in names if not isinstance(name, str) or name not in ACTIVATIONS]
    if unknown:
        raise ValueError(f"activation must have names among {sorted(ACTIVATIONS)}, got {unknown[0]!r}")
    if len(names) != n_hidden:
        raise ValueError(f"activation must have a name for each of the {n_hidden} hidden layers, got {names}")
    return names


def check_combinations(estimator: Any, n_hidden: int, validation: tuple[Any, Any, Any]) -> None:
    """Refuse what makes no sense together."""
    X_val, y_val, sample_weight_val = validation
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val must be given together, or neither of them")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val needs X_val and y_val")
    activation_names(estimator.activation, n_hidden)
    if estimator.solver == "lbfgs":
        _check_lbfgs(estimator, X_val)


def _check_lbfgs(estimator: Any, X_val: Any) -> None:
    refused = {
        "dropout": estimator.dropout > 0, "clip_norm": estimator.clip_norm is not None, "X_val": X_val is not None,
        "max_time": estimator.max_time is not None, "warmup_epochs": estimator.warmup_epochs > 0,
        "learning_rate": estimator.learning_rate not in OF_SGD, "device": estimator.device == "cuda",
    }  # fmt: skip
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(f"{name} is of the stochastic solvers alone, got solver='lbfgs'")


def check_same_layers(coefs: Sequence[Any], units: list[int]) -> None:
    """Refuse to go on with a network of other layers."""
    fitted = [np.shape(coefs[0])[0], *(np.shape(coef)[1] for coef in coefs)]
    if units != fitted:
        raise ValueError(
            f"The model was fitted with {fitted[1:-1]} hidden units and {fitted[-1]} outputs; going on with "
            f"{units[1:-1]} hidden units and {units[-1]} outputs needs a new fit with warm_start=False."
        )


def batch_rows(batch_size: int | str, n_samples: int) -> int:
    """How many samples a batch has."""
    if isinstance(batch_size, str):  # "auto"
        return min(200, n_samples)
    if batch_size > n_samples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(batch_size), n_samples)
