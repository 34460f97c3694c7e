"""A small regression from beginning to end: data, scaling, training, and the losses after every epoch."""

import warnings
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from fastadam import MLPRegressor

Array = NDArray[Any]

EPOCHS = 200


class LossMonitor:
    """A callback of scikit-learn's protocol that records the mean squared errors after each epoch.

    scikit-learn calls `setup` and `teardown` around a fit, and the other two methods around each of its tasks: the fit
    itself, and the epochs inside it. It looks at the signature and passes what is asked for: here the training data,
    and a model with the weights of that moment.
    """

    def __init__(self, X_test: Array, y_test: Array) -> None:
        self.train: list[float] = []
        self.test: list[float] = []
        self._X_test, self._y_test = X_test, y_test

    def setup(self, estimator: Any, context: Any) -> None:
        """Before a fit: forget what an earlier one left."""
        self.train, self.test = [], []

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Before an epoch: nothing to do."""

    def on_fit_task_end(self, estimator: Any, context: Any, *, X: Any, y: Any, fitted_estimator: Any) -> None:
        """After an epoch: record both losses."""
        if context.task_name == "epoch":
            self.train.append(mean_squared_error(y, fitted_estimator.predict(X)))
            self.test.append(mean_squared_error(self._y_test, fitted_estimator.predict(self._X_test)))

    def teardown(self, estimator: Any, context: Any) -> None:
        """After a fit: nothing to do."""


@dataclass(frozen=True)
class Case:
    """The losses after each epoch, in units of the variance of the targets, and the final test predictions."""

    train_losses: list[float]
    test_losses: list[float]
    actual: Array = field(repr=False)
    predicted: Array = field(repr=False)


def run(console: Console) -> Case:
    """Make the data, train, report."""
    X_train, X_test, y_train, y_test = standardised_data()
    monitor = LossMonitor(X_test, y_test)
    regressor = train(X_train, y_train, monitor)
    case = Case(monitor.train, monitor.test, y_test, regressor.predict(X_test))
    report(case, console)
    return case


def standardised_data() -> tuple[Array, Array, Array, Array]:
    """Split, then scale by the mean and the standard deviation of the training samples.

    The targets are scaled as well. As they come, their standard deviation is in the hundreds, and 200 steps of about
    0.001 in each weight would not take the network's output there.
    """
    X, y = make_regression(n_samples=2000, n_features=10, noise=0.1, random_state=42)
    X_train, X_test, y_train, y_test = train_test_split(X, y.reshape(-1, 1), test_size=0.2, random_state=42)
    of_X, of_y = StandardScaler().fit(X_train), StandardScaler().fit(y_train)
    return (
        of_X.transform(X_train),
        of_X.transform(X_test),
        of_y.transform(y_train).ravel(),
        of_y.transform(y_test).ravel(),
    )


def train(X: Array, y: Array, monitor: LossMonitor) -> MLPRegressor:
    """Train a 10-64-64-1 network for 200 epochs, each a single step of Adam on all samples, without an L2 penalty."""
    regressor = MLPRegressor(
        hidden_layer_sizes=(64, 64),
        activation="relu",
        solver="adam",
        learning_rate_init=1e-3,
        alpha=0,
        batch_size=len(X),
        max_iter=EPOCHS,
        n_iter_no_change=EPOCHS,
        random_state=42,
    )
    regressor.set_callbacks(monitor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all 200 epochs are wanted, converged or not
        regressor.fit(X, y)
    return regressor


def report(case: Case, console: Console) -> None:
    """Print the losses on the way, and the final quality."""
    console.print(f"2,000 samples of make_regression, {len(case.actual)} of them to test on; layers 10-64-64-1.\n")
    table = Table(title="Loss after the epoch")
    for heading in ("epoch", "training MSE", "test MSE"):
        table.add_column(heading, justify="right")
    for epoch in (1, 50, 100, 150, 200):
        table.add_row(f"{epoch}", f"{case.train_losses[epoch - 1]:.6f}", f"{case.test_losses[epoch - 1]:.6f}")
    console.print(table)
    console.print("MSE: mean squared error of the standardised targets, so that 1 is as good as predicting their mean.")
    console.print(f"R² on the {len(case.actual)} test samples: {r2_score(case.actual, case.predicted):.4f}")


if __name__ == "__main__":
    run(Console())
