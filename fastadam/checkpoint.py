"""Fits that are saved as they go, and finished after their process has died.

A checkpoint is a file of arrays and JSON (`_archive.py`): loading one runs no code of the file's. It holds the state of
the fit (`_fit_state.py`), and the estimator's parameters but for those that are code, such as functions.
"""

import os
import pickle
import time
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastadam._archive import encode, load, save
from fastadam._estimator import BaseMLP
from fastadam._files import replacing
from fastadam._fit_state import restore, state_of
from fastadam._solvers import SOLVERS
from fastadam.classifier import MLPClassifier
from fastadam.regressor import MLPRegressor

_KINDS: dict[str, type[BaseMLP]] = {"MLPRegressor": MLPRegressor, "MLPClassifier": MLPClassifier}
_FORMAT = "fastadam checkpoint"
_PICKLE = b"\x80"
"""How a pickle begins, of any protocol since 2."""


class Checkpoint:
    """Callback that saves a fit every so many epochs or seconds; `load_checkpoint` finishes it, bit for bit.

    A file is written beside `path`, in full and through to the disk, and then takes its name: whenever the process is
    killed, `path` holds the last whole checkpoint. The last one is written when the fit ends, and is the fitted model;
    that of a fit interrupted by Ctrl-C stays the one before it.

    The file holds arrays and JSON, and no code: of parameters that are functions or other objects, such as a callable
    `scoring`, and of a subclass it has only the name, and `load_checkpoint` is given them again. Callbacks are not
    saved, nor is what a subclass adds to the attributes of a fit.

    Parameters
    ----------
    path : str or path-like
        The file, of one fit: in a search or an ensemble each fit needs a path of its own. Its directory must exist.
    every_n_epochs : int, optional
        Epochs from one checkpoint to the next.
    every_seconds : float, optional
        Seconds after which the next epoch's end is a checkpoint. With both, what comes first; with neither, each epoch.

    Raises
    ------
    ValueError, TypeError
        If a number is out of its range or none. As a fit begins: if its solver is "lbfgs", whose state is SciPy's; if
        it is no fit of fastadam's; if `random_state` is a stream of another generator than NumPy's usual MT19937.
    FileNotFoundError
        As a fit begins: if the directory does not exist.

    Warns
    -----
    RuntimeWarning
        If a checkpoint cannot be written. Training goes on, and the checkpoint before stays.

    See Also
    --------
    load_checkpoint : Go on from the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastadam import Checkpoint, MLPRegressor, load_checkpoint
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=100, n_features=5, random_state=0)
    >>> path = Path(tempfile.mkdtemp()) / "model.ckpt"
    >>> model = load_checkpoint(path) if path.exists() else MLPRegressor(random_state=0, tol=50.0)
    >>> _ = model.set_callbacks(Checkpoint(path, every_seconds=60)).fit(X, y)  # may be killed, and run again
    >>> load_checkpoint(path).n_iter_ == model.n_iter_
    True
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every_n_epochs: int | None = None,
        every_seconds: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.every_n_epochs = _positive("every_n_epochs", every_n_epochs, Integral)
        self.every_seconds = _positive("every_seconds", every_seconds, Real)
        if every_n_epochs is None and every_seconds is None:
            self.every_n_epochs = 1

    def setup(self, estimator: Any, context: Any) -> None:
        """Check, before the fit, that it can be saved."""
        if not isinstance(estimator, MLPRegressor | MLPClassifier):
            raise TypeError(f"Checkpoint saves fits of fastadam's estimators, got {type(estimator).__name__}")
        if estimator.solver not in SOLVERS:
            raise ValueError(f"Checkpoint saves fits of the stochastic solvers alone, got solver={estimator.solver!r}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"path must be in a directory that exists, got {str(self.path)!r}")
        if isinstance(estimator.random_state, np.random.RandomState):
            _check_stream(estimator.random_state)
        self._since, self._saved_at = 0, time.monotonic()

    def teardown(self, estimator: Any, context: Any) -> None:
        """Nothing is left to do after a fit."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Note that an epoch has begun, at whose end alone the state is whole."""
        self._in_epoch = context.task_name == "epoch"

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Save the fit, if it is time to."""
        if context.task_name == "epoch":
            self._in_epoch = False
            self._since += 1
            if self._is_due():
                self._save(estimator)
        elif not self._in_epoch:
            self._save(estimator)

    def _is_due(self) -> bool:
        by_epochs = self.every_n_epochs is not None and self._since >= self.every_n_epochs
        by_time = self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        return by_epochs or by_time

    def _save(self, estimator: BaseMLP) -> None:
        self._since, self._saved_at = 0, time.monotonic()
        try:
            with replacing(self.path, sync=True) as file:
                _write(file, estimator)
        except OSError as error:
            warnings.warn(
                f"The checkpoint {str(self.path)!r} of epoch {estimator.n_iter_} could not be written: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    params: Mapping[str, Any] | None = None,
    cls: type[BaseMLP] | None = None,
    allow_pickle: bool = False,
) -> Any:
    """Load an estimator from a checkpoint; its next `fit`, on the same data, finishes the fit that was saved.

    The model is then the same, to the bit, as if that fit had never stopped: weights, moments, random stream, order of
    the samples, learning rate, the samples held out, early stopping's counters and best weights. `max_iter` counts from
    the beginning of that fit, and a finished one is returned as it is. Until then the estimator predicts with the
    weights of the checkpoint, or, with early stopping, the best of them.

    Loading runs no code of the file's, whoever has written it, unless `allow_pickle` is set.

    Parameters
    ----------
    path : str or path-like
        The file that `Checkpoint` has written.
    params : mapping of str to object, optional
        Parameters of the estimator to set, as by `set_params`. Those that the file cannot hold must be among them:
        functions, such as a callable `scoring` or `learning_rate`, and other objects of your own.
    cls : type, optional
        The class of the estimator, if that is a subclass of `MLPRegressor` or `MLPClassifier`.
    allow_pickle : bool, default=False
        Whether to read a checkpoint that was written before 0.1.0, which is a pickle. A pickle can run any code: allow
        it only where you trust all who could have written the file.

    Returns
    -------
    estimator : MLPRegressor or MLPClassifier
        The estimator, without its callbacks: set them again.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If `cls` is not a class of such estimators.
    ValueError
        If the file is no checkpoint, is damaged, or is a pickle, and that is not allowed; if it needs `params` or `cls`
        that were not given. From the next `fit`: if its data has another number of samples or features.

    Warns
    -----
    UserWarning
        If a pickle is read.

    See Also
    --------
    Checkpoint : Write the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastadam import Checkpoint, MLPRegressor, load_checkpoint
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=100, n_features=5, random_state=0)
    >>> path = Path(tempfile.mkdtemp()) / "model.ckpt"
    >>> rate = lambda epoch: 0.01 / (1 + epoch)
    >>> model = MLPRegressor(learning_rate=rate, random_state=0, tol=50.0)
    >>> _ = model.set_callbacks(Checkpoint(path)).fit(X, y)
    >>> loaded = load_checkpoint(path, params={"learning_rate": rate})
    >>> loaded.fit(X, y).loss_ == model.loss_
    True
    """
    params = dict(params or {})
    with Path(path).open("rb") as file:
        start = file.read(len(_PICKLE))
        file.seek(0)
        if start == _PICKLE:
            estimator = _from_pickle(file, path, allow_pickle)
        else:
            estimator = _from_content(_read(file, path), path, params, _checked_class(cls))
    estimator.set_params(**params)
    estimator._resume()
    return estimator


def _write(file: IO[bytes], estimator: BaseMLP) -> None:
    """Write a checkpoint."""
    held: dict[str, Any] = {}
    not_saved: dict[str, str] = {}
    for name, value in estimator.get_params(deep=False).items():
        try:
            encode(value, name, {})
            held[name] = value
        except TypeError:
            not_saved[name] = f"{value!r:.200}"
    kind = next(name for name, kind in _KINDS.items() if isinstance(estimator, kind))
    subclass = None if type(estimator) is _KINDS[kind] else type(estimator).__name__
    content = {"format": _FORMAT, "kind": kind, "subclass": subclass, "parameters": held, "not_saved": not_saved}
    save(file, content | {"fit": state_of(estimator)})


def _read(file: IO[bytes], path: Any) -> dict[str, Any]:
    """The content of a checkpoint, whose entries are of the types that they should be, as far as the fit."""
    try:
        types: dict[str, Any] = {"subclass": str | None, "parameters": dict, "not_saved": dict, "fit": dict}
        content: dict[str, Any] = load(file)
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        if content["kind"] not in _KINDS or not all(isinstance(content[name], types[name]) for name in types):
            raise ValueError("an entry is of another type")
    except Exception as error:  # whatever the bytes are taken for
        raise _unreadable(path, error) from error
    return content


def _from_content(content: dict[str, Any], path: Any, params: Mapping[str, Any], cls: type[BaseMLP] | None) -> Any:
    """Make the estimator of a checkpoint; of `params`, only those that are not saved are set yet."""
    kind, subclass, not_saved = _KINDS[content["kind"]], content["subclass"], content["not_saved"]
    if cls is None and subclass is not None:
        raise ValueError(f"cls must be the class {subclass}, whose fit is in {str(path)!r}, got None")
    if cls is not None and not issubclass(cls, kind):
        raise ValueError(f"cls must be a subclass of {kind.__name__}, whose fit is in {str(path)!r}, got {cls}")
    needed = {name: value for name, value in not_saved.items() if name not in params}
    if needed:
        raise ValueError(
            f"params must contain {', '.join(f'{name} (it was {value})' for name, value in needed.items())}, which a "
            f"checkpoint does not hold, got {list(params)}"
        )
    try:
        estimator = (cls or kind)(**content["parameters"], **{name: params[name] for name in not_saved})
        restore(estimator, content["fit"])
    except Exception as error:  # whatever is wrong in it
        raise _unreadable(path, error) from error
    return estimator


def _from_pickle(file: IO[bytes], path: Any, allowed: bool) -> Any:
    """Load a checkpoint as they were written before there was a format for them."""
    if not allowed:
        raise ValueError(
            f"path must be a checkpoint, got {str(path)!r}, which is a pickle, as checkpoints were before 0.1.0. A "
            "pickle can run any code: if you trust all who could have written it, load it with allow_pickle=True"
        )
    warnings.warn(
        f"{str(path)!r} is a pickle, as checkpoints were before 0.1.0, and can run any code while it is loaded. "
        "The next checkpoint of this fit will hold arrays and JSON only.",
        UserWarning,
        stacklevel=3,
    )
    try:
        estimator = pickle.load(file)
    except Exception as error:  # whatever the bytes are taken for
        raise _unreadable(path, error) from error
    if not (isinstance(estimator, BaseMLP) and hasattr(estimator, "_progress")):
        raise ValueError(f"path must be a checkpoint, got {str(path)!r}, which holds {estimator!r}")
    return estimator


def _unreadable(path: Any, error: Exception) -> ValueError:
    return ValueError(f"path must be a checkpoint, got {str(path)!r}, which cannot be read: {error}")


def _checked_class(cls: Any) -> type[BaseMLP] | None:
    if cls is not None and not (isinstance(cls, type) and issubclass(cls, BaseMLP)):
        raise TypeError(f"cls must be a subclass of MLPRegressor or MLPClassifier, got {cls!r}")
    return cls


def _positive(name: str, value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be a positive number or None, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return value


def _check_stream(stream: np.random.RandomState) -> None:
    """Refuse a stream that a file cannot hold: given again, it would not be where the fit has left it."""
    try:
        encode(stream, "random_state", {})
    except TypeError as error:
        raise ValueError(f"Checkpoint cannot save random_state: {error}") from error
