"""Wrote `pickles.zip`, by the last commit before the modules moved into folders (8d3a0f2): python write_pickles.py.

Each member is a pickle of an object, of what it is to be given, and of what it returned there. The paths of its classes
are those of then, such as `fastadam.regressor.MLPRegressor`.
"""

import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np

import fastadam

X = np.linspace(-1, 1, 30).reshape(10, 3)
SMALL = {"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0}
TARGETS = {"numbers": X[:, 0] ** 2, "two": np.repeat(["a", "b"], 5), "three": np.arange(10) % 3}
FITS = {
    "regressor": (fastadam.MLPRegressor(**SMALL), "numbers"),
    "regressor-sgd": (fastadam.MLPRegressor(solver="sgd", learning_rate="plateau", **SMALL), "numbers"),
    "classifier": (fastadam.MLPClassifier(early_stopping=True, validation_fraction=0.3, **SMALL), "two"),
    "classifier-lbfgs": (fastadam.MLPClassifier(solver="lbfgs", **SMALL), "three"),
    "regressor-arrays-replaced": (fastadam.MLPRegressor(**SMALL), "numbers"),
}
OPTIMIZERS = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop"]


def pickles():
    """Name, object, argument and result."""
    for name, (model, target) in FITS.items():
        model.fit(X, TARGETS[target])
        if "replaced" in name:
            model.coefs_ = [np.array(coef) for coef in model.coefs_]
        yield name, model, X, model.predict(X)
    for name in OPTIMIZERS:
        optimizer, g = getattr(fastadam, name)(p := {"W": np.ones((2, 2)), "b": np.zeros(2)}), np.array([0.5, -2.0])
        grads = {"W": np.array([g, g]), "b": g}
        optimizer.step(grads)
        before = pickle.loads(pickle.dumps(optimizer))
        optimizer.step(grads)
        yield name, before, grads, p
    rows, g = np.array([3, 1]), np.ones((2, 2))
    table = fastadam.RowAdam(p := np.ones((4, 2)))
    table.step(rows, g)
    before = pickle.loads(pickle.dumps(table))
    table.step(rows, g)
    yield "RowAdam", before, (rows, g), p
    buffer = fastadam.FlatBuffer.from_arrays({"W": np.ones((2, 2)), "b": np.arange(2.0)})
    yield "FlatBuffer", buffer, "b", buffer["b"]
    yield "Checkpoint", fastadam.Checkpoint("a.checkpoint", every_n_epochs=2), "every_n_epochs", 2


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with zipfile.ZipFile(Path(__file__).with_name("pickles.zip"), "w", zipfile.ZIP_DEFLATED) as file:
        for name, *parts in pickles():
            file.writestr(name, pickle.dumps(parts, protocol=2))
