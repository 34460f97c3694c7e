"""State of a fit as plain values and arrays, from which the fit goes on to the bit.

All other attributes of a fitted estimator follow from these. Values from a file are checked before they are used, since
kernels check neither sizes nor indices.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer

from fastadam._checks import count, flag, items, real
from fastadam._constraints import hidden_units
from fastadam._solvers import make_optimizer
from fastadam.buffers import FlatBuffer
from fastadam.losses import LOSSES
from fastadam.network import shapes_of
from fastadam.schedules import _PlateauState
from fastadam.trainer import Progress

Array = NDArray[Any]

_TARGET_TYPES = ("binary", "multiclass", "multilabel-indicator")
_LARGEST_SEED = 2**31 - 1


def state_of(estimator: Any) -> dict[str, Any]:
    """Collect the state from which further epochs go on; arrays are the fit's own, not copies."""
    optimizer, fitted = estimator._optimizer, vars(estimator)
    params: FlatBuffer = optimizer.params
    return {
        "units": [int(estimator.n_features_in_), *(params[name].size for name in params if name.startswith("b"))],
        "weights": params.flat,
        "optimizer": optimizer._counters() | optimizer._settings() | optimizer.state,
        "progress": _progress_to_dict(estimator._progress),
        "held_out": estimator._validation,
        "random_state": estimator._random_state,
        "n_iter": estimator.n_iter_,
        "feature_names": fitted.get("feature_names_in_"),
        "classes": fitted.get("classes_"),
        "labels": _labels_to_dict(fitted["_label_binarizer"]) if "_label_binarizer" in fitted else None,
    }


def restore(estimator: Any, state: Mapping[str, Any]) -> None:
    """Give a new estimator, with the parameters of the fit, the state that `state_of` has returned.

    Raises
    ------
    KeyError, TypeError, ValueError
        If an entry is missing, of another type or shape, out of its range, or does not go with the others.
    """
    estimator._validate_params()
    n_features, *hidden, n_outputs = state["units"]
    params = _params_from(state["units"], state["weights"])
    estimator._activations(params)  # checks that each hidden layer has one
    if hidden_units(estimator.hidden_layer_sizes) != hidden:
        raise ValueError(f"units must be those of {estimator.hidden_layer_sizes}, got {state['units']}")
    progress = _progress_from_dict(state["progress"], params)
    held_out = None if state["held_out"] is None else _indices("held_out", state["held_out"])
    _check_split(_indices("order", progress.order), held_out)
    if state["classes"] is not None:
        _restore_classes(estimator, state["classes"], state["labels"], n_outputs)
    if state["feature_names"] is not None:
        estimator.feature_names_in_ = _flat("feature_names", state["feature_names"], ("object",), n_features)
    optimizer = make_optimizer(params, estimator)
    optimizer.load_state_dict(state["optimizer"])
    stream = estimator.random_state
    if not isinstance(stream, np.random.RandomState):
        stream = _of_type("random_state", state["random_state"], np.random.RandomState)
    estimator.n_features_in_ = n_features
    estimator.out_activation_ = LOSSES[estimator._loss_name()].link
    estimator._optimizer, estimator._progress, estimator._validation = optimizer, progress, held_out
    estimator._random_state, estimator._seed = stream, estimator.random_state
    estimator.n_iter_ = count("n_iter", state["n_iter"], 0)
    estimator._publish(params, progress)


# --- each of the parts ------------------------------------------------------------------------------------------------


def _params_from(units: Any, weights: Any) -> FlatBuffer:
    """Make the parameters of a network; nothing is allocated before the weights are known to have that size."""
    if type(units) is not list or len(units) < 2:
        raise TypeError(f"units must be a list of the units in each layer, got {units!r}")
    shapes = shapes_of([count(f"units[{k}]", unit) for k, unit in enumerate(units)])
    _flat("weights", weights, ("float32", "float64"), sum(map(math.prod, shapes.values())))
    params = FlatBuffer.zeros(shapes, weights.dtype)
    params.flat[:] = weights
    return params


def _progress_to_dict(progress: Progress) -> dict[str, Any]:
    state, plateau = vars(progress).copy(), progress.plateau
    for name in ("scores", "losses", "validation_losses"):
        state[name] = None if state[name] is None else np.array(state[name], np.float64)
    state["plateau"] = None if plateau is None else [plateau[0], vars(plateau[1])]
    state["best"] = None if progress.best is None else progress.best.flat
    return state


def _progress_from_dict(state: Mapping[str, Any], params: FlatBuffer) -> Progress:
    if state.keys() != {*_PROGRESS, "best"}:
        raise ValueError(f"progress must have {[*_PROGRESS, 'best']}, got {list(state)}")
    progress = Progress(**{name: check(name, state[name]) for name, check in _PROGRESS.items()})
    if state["best"] is not None:
        progress.best = params.like()
        progress.best.flat[:] = _flat("best", state["best"], (params.dtype.name,), params.flat.size)
    return progress


def _floats(name: str, value: Any) -> list[float]:
    floats: list[float] = _flat(name, value, ("float64",)).tolist()
    return floats


def _indices(name: str, value: Any) -> Array:
    return _flat(name, value, ("int32", "int64")).astype(np.intp, copy=False)


def _plateau(name: str, value: Any) -> tuple[int, _PlateauState]:
    seen, state = items(name, value)
    return count(name, seen, 0), _PlateauState(**state)


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


_PROGRESS: dict[str, Callable[[str, Any], Any]] = {
    "scores": _or_none(_floats),
    "losses": _floats,
    "best_loss": real,
    "best_score": real,
    "epochs_without_improvement": lambda name, value: count(name, value, 0),
    "samples_seen": lambda name, value: count(name, value, 0),
    "order": _indices,
    "reductions": lambda name, value: count(name, value, 0),
    "plateau": _or_none(_plateau),
    "validation_losses": _floats,
    "seed": lambda name, value: count(name, value, 0, _LARGEST_SEED),
    "finished": flag,
}
"""The fields of `Progress` but for `best`, each with the function that checks and restores it."""


def _check_split(order: Array, held_out: Array | None) -> None:
    """Refuse indices other than those of all samples, each of them once: kernels read the rows that they name."""
    indices = order if held_out is None else np.concatenate([order, held_out])
    seen = np.zeros(indices.size, bool)
    if indices.size and indices.min() >= 0 and indices.max() < indices.size:
        seen[indices] = True
    if not seen.size or not seen.all():
        raise ValueError("order and held_out must have the index of each sample once")


def _labels_to_dict(binarizer: LabelBinarizer) -> dict[str, Any]:
    return {
        "classes": binarizer.classes_, "target_type": binarizer.y_type_, "sparse": bool(binarizer.sparse_input_),
    }  # fmt: skip


def _restore_classes(estimator: Any, classes: Any, labels: Any, n_outputs: int) -> None:
    """Set the classes of a classifier, of which there must be as many as the network has outputs for."""
    kind = labels["target_type"]
    if kind not in _TARGET_TYPES:
        raise ValueError(f"target_type must be one of {_TARGET_TYPES}, got {kind!r}")
    binarizer = LabelBinarizer()
    binarizer.classes_ = _flat("labels['classes']", labels["classes"])
    binarizer.y_type_, binarizer.sparse_input_ = kind, flag("sparse", labels["sparse"])
    if n_outputs != (1 if kind == "binary" else binarizer.classes_.size):
        raise ValueError(f"labels must be of {n_outputs} outputs, got {labels!r}")
    estimator._label_binarizer, estimator.classes_ = binarizer, _flat("classes", classes)


def _of_type(name: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{name} must be {kind.__name__}, got {value!r}")
    return value


def _flat(name: str, value: Any, dtypes: tuple[str, ...] = (), size: int | None = None) -> Array:
    """Check an array of one dimension, by the names of the types that it may have and by its size."""
    array: Array = _of_type(name, value, np.ndarray)
    if dtypes and array.dtype.name not in dtypes:
        raise TypeError(f"{name} must be of {' or '.join(dtypes)}, got {array.dtype}")
    if array.ndim != 1 or size not in (None, array.size):
        raise ValueError(f"{name} must have the shape ({'n' if size is None else size},), got {array.shape}")
    return array


__all__ = ["restore", "state_of"]
