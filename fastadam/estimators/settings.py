"""FitSettings: the parameters of an estimator as one fit uses them, converted once and frozen.

`fit` makes the settings and passes them down; no module below `base.py` sees the estimator itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

from numpy.typing import DTypeLike

from fastadam.formulas.activations import ACTIVATIONS


class LossSettings(NamedTuple):
    """Loss of a fit, which for a classifier follows from its targets."""

    name: str
    """Name among `losses.LOSSES`."""
    parameter: Callable[[DTypeLike], float]
    """Parameter of the loss, given the type that is computed with; 0 for a loss without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """Parameters of an estimator during a fit: numbers are Python's own, and hidden layers are listed one by one.

    The fields have the names of the constructor's parameters, which describe them, except for the first two.
    """

    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    activations: tuple[str, ...]
    """Activation of each hidden layer."""
    activation: str | Sequence[str]
    solver: str
    alpha: float
    batch_size: int | str
    learning_rate: str | Callable[[int], float]
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    tol: float
    verbose: int
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: Real
    """As given by the user, for the validation and the messages of scikit-learn's split."""
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: int | float
    max_fun: int
    warmup_epochs: int
    clip_norm: float | None
    dropout: float
    scoring: str | Callable[..., float] | None
    max_time: int | float | None
    n_threads: int | None
    device: str


def _number(value: Any) -> int | float:
    """Convert to a Python number of the same kind: messages show an integer as the user gave it."""
    return int(value) if isinstance(value, Integral) else float(value)


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    bool: bool,
    int: int,
    float: float,
    int | float: _number,
    int | str: lambda value: value if isinstance(value, str) else int(value),
    int | None: lambda value: None if value is None else int(value),
    float | None: lambda value: None if value is None else float(value),
    int | float | None: lambda value: None if value is None else _number(value),
}
"""Conversions by the type of a field; values of other types are kept as given."""

_FIELDS = [
    (field.name, _CONVERSIONS.get(field.type))
    for field in fields(FitSettings)
    if field.name not in ("hidden", "activations")
]


def settings_of(parameters: Mapping[str, Any], hidden: tuple[int, ...]) -> FitSettings:
    """Convert the parameters of an estimator, each of which has been validated.

    Parameters
    ----------
    parameters : mapping of str to object
        Parameters by their names, as given by the user.
    hidden : tuple of int
        Units of each hidden layer, from `hidden_units`.

    Returns
    -------
    FitSettings
        The settings.

    Raises
    ------
    ValueError
        If the activations are not those of so many layers.
    """
    values = {name: parameters[name] if convert is None else convert(parameters[name]) for name, convert in _FIELDS}
    activations = activation_names(parameters["activation"], len(hidden))
    return FitSettings(hidden=hidden, activations=activations, **values)


def hidden_units(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Units of each hidden layer."""
    several = hasattr(hidden_layer_sizes, "__iter__") and getattr(hidden_layer_sizes, "ndim", None) != 0
    sizes = list(hidden_layer_sizes) if several else [hidden_layer_sizes]
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return tuple(int(size) for size in sizes)


def activation_names(activation: str | Sequence[str], n_hidden: int) -> tuple[str, ...]:
    """Activation of each of `n_hidden` hidden layers."""
    names: tuple[Any, ...] = tuple(activation) if isinstance(activation, list | tuple) else (activation,) * n_hidden
    unknown = [name for name in names if not isinstance(name, str) or name not in ACTIVATIONS]
    if unknown:
        raise ValueError(f"activation must have names among {sorted(ACTIVATIONS)}, got {unknown[0]!r}")
    if len(names) != n_hidden:
        raise ValueError(f"activation must have a name for each of the {n_hidden} hidden layers, got {names}")
    return names
