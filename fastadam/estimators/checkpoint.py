"""Fits that are saved as they go, and finished after their process has died."""

import copy
import os
import pickle
import time
import warnings
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from fastadam.estimators.base import BaseMLP
from fastadam.estimators.solvers import SOLVERS


class Checkpoint:
    """Callback that saves a fit every so many epochs or seconds; `load_checkpoint` finishes it, bit for bit.

    A file is written beside `path`, in full and through to the disk, and then takes its name: whenever the process is
    killed, `path` holds the last whole checkpoint. The last one is written when the fit ends, and is the fitted model;
    that of a fit interrupted by Ctrl-C stays the one before it.

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
        it is no fit of fastadam's; if a parameter cannot be pickled.
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

    __module__ = "fastadam"

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
        if not isinstance(estimator, BaseMLP):
            raise TypeError(f"Checkpoint saves fits of fastadam's estimators, got {type(estimator).__name__}")
        if estimator.solver not in SOLVERS:
            raise ValueError(f"Checkpoint saves fits of the stochastic solvers alone, got solver={estimator.solver!r}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"path must be in a directory that exists, got {str(self.path)!r}")
        for name, value in estimator.get_params(deep=False).items():
            _check_picklable(name, value)
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
        saved = copy.copy(estimator)
        for name in [name for name in vars(saved) if "_callback" in name]:
            delattr(saved, name)
        try:
            _replace(self.path, pickle.dumps(saved, protocol=5))
        except OSError as error:
            warnings.warn(
                f"The checkpoint {str(self.path)!r} of epoch {estimator.n_iter_} could not be written: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


def load_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Load an estimator from a checkpoint; its next `fit`, on the same data, finishes the fit that was saved.

    The model is then the same, to the bit, as if that fit had never stopped: weights, moments, random stream, order of
    the samples, learning rate, the samples held out, early stopping's counters and best weights. `max_iter` counts from
    the beginning of that fit, and a finished one is returned as it is. Until then the estimator predicts with the
    weights of the checkpoint, or, with early stopping, the best of them.

    Parameters
    ----------
    path : str or path-like
        The file that `Checkpoint` has written. As any pickle, it can run code: load none that you do not trust.

    Returns
    -------
    estimator : MLPRegressor or MLPClassifier
        The estimator, without its callbacks: set them again.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no checkpoint. From the next `fit`: if its data has another number of samples or features.

    See Also
    --------
    Checkpoint : Write the file.
    """
    data = Path(path).read_bytes()
    try:
        estimator = pickle.loads(data)
    except Exception as error:  # whatever the bytes are taken for
        raise ValueError(f"path must be a checkpoint, got {str(path)!r}, which cannot be read: {error}") from error
    if not (isinstance(estimator, BaseMLP) and hasattr(estimator, "_progress")):
        raise ValueError(f"path must be a checkpoint, got {str(path)!r}, which holds {estimator!r}")
    estimator._resume()
    return estimator


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that under its name there is always either the one before or the new one, whole."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _positive(name: str, value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be a positive number or None, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return value


def _check_picklable(name: str, value: Any) -> None:
    try:
        pickle.dumps(value)
    except Exception as error:
        raise ValueError(f"Checkpoint needs parameters that can be pickled, got {name}={value!r}: {error}") from error
