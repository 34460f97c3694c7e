"""Fits that are killed after some epochs, and what their checkpoints hold."""

import zipfile

import numpy as np
import pytest

from fastadam import Checkpoint, MLPClassifier, MLPRegressor

rng = np.random.default_rng(0)


X = rng.standard_normal((90, 4))


y = X[:, 0] * X[:, 1] + X[:, 2]


KINDS = {
    MLPRegressor: lambda X: X[:, 0] * X[:, 1] + X[:, 2],
    MLPClassifier: lambda X: np.digitize(X[:, 0], [-0.5, 0.5]),
}


EPOCHS = 9


class Crash(Exception):  # noqa: N818
    pass


class CrashAfter:
    """A callback that ends the process, as far as the fit can see."""

    def __init__(self, epoch, error=Crash):
        self.epoch, self.error = epoch, error

    def setup(self, estimator, context):
        self.epochs = 0

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.epochs += context.task_name == "epoch"
        if self.epochs == self.epoch:
            raise self.error


def make(kind, **parameters):
    defaults = {"hidden_layer_sizes": (6, 3), "batch_size": 16, "max_iter": EPOCHS, "random_state": 3}
    return kind(**(defaults | parameters))


def crash(estimator, path, epoch, *data, error=Crash, every=1, **validation):
    """Fit, with a checkpoint every so many epochs, until the process dies after one of them."""
    estimator.set_callbacks(Checkpoint(path, every_n_epochs=every), CrashAfter(epoch, error))
    with pytest.raises(error):
        estimator.fit(*data, **validation)


def read_entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
