"""A regression from beginning to end: data, scaling, training, the losses after every epoch, and two figures.

The data are scikit-learn's `make_regression`, a fifth of them held out; the network has layers 10-64-64-1 with ReLU and
is trained by Adam for 200 epochs, each a single step on all training samples.

Run it by `python examples/synthetic.py`, where rich and matplotlib are installed; it takes a few seconds, and writes
`docs/images/synthetic_losses.png` and `docs/images/synthetic_predictions.png`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fits import fit
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, StrMethodFormatter
from numpy.typing import NDArray
from plots import BLUE, GREY, IDENTITY, IMAGES, ORANGE, remove_frame, save
from rich.console import Console
from rich.table import Table
from sklearn.datasets import make_regression
from sklearn.metrics import PredictionErrorDisplay, mean_squared_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from fastadam import LossCurveDisplay, MLPRegressor

Array = NDArray[Any]

EPOCHS = 200


@dataclass(frozen=True)
class Case:
    """Mean squared errors after each epoch, where the variance of the targets is 1, and the final test predictions."""

    train_losses: Array
    test_losses: Array
    actual: Array = field(repr=False)
    predicted: Array = field(repr=False)


def run(console: Console, epochs: int = EPOCHS) -> Case:
    """Make the data, train, report."""
    case = train(*standardised_data(), epochs)
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


def train(X_train: Array, X_test: Array, y_train: Array, y_test: Array, epochs: int) -> Case:
    """Train without a penalty, to the last epoch.

    The fitted losses are half the mean squared errors. That of the test samples is taken after each epoch; that of the
    training samples before each step, and so after the epoch before. The last one is still to be had.
    """
    regressor = MLPRegressor(
        loss="squared_error",
        hidden_layer_sizes=(64, 64),
        activation="relu",
        solver="adam",
        learning_rate_init=1e-3,
        alpha=0,
        batch_size=len(X_train),
        max_iter=epochs,
        n_iter_no_change=np.inf,
        random_state=42,
    )
    fit(regressor, X_train, y_train, X_val=X_test, y_val=y_test)
    last = mean_squared_error(y_train, regressor.predict(X_train))
    return Case(
        np.append(2 * np.array(regressor.loss_curve_[1:]), last),
        2 * np.array(regressor.validation_loss_curve_),
        y_test,
        regressor.predict(X_test),
    )


def report(case: Case, console: Console) -> None:
    """Print the losses on the way, and the final quality."""
    console.print(f"2,000 samples of make_regression, {len(case.actual)} of them to test on; layers 10-64-64-1.\n")
    table = Table(title="Loss after the epoch")
    for heading in ("epoch", "training MSE", "test MSE"):
        table.add_column(heading, justify="right")
    epochs = len(case.train_losses)
    for epoch in sorted({1, *range(50, epochs, 50), epochs}):
        table.add_row(f"{epoch}", f"{case.train_losses[epoch - 1]:.6f}", f"{case.test_losses[epoch - 1]:.6f}")
    console.print(table)
    console.print("MSE: mean squared error of the standardised targets, so that 1 is as good as predicting their mean.")
    console.print(f"R² on the {len(case.actual)} test samples: {r2_score(case.actual, case.predicted):.4f}")


def draw_losses(case: Case) -> Figure:
    """Training and test loss after each epoch."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    LossCurveDisplay(case.train_losses, validation_loss_curve=case.test_losses).plot(ax=axes)
    training, test = axes.get_lines()
    training.set(color=BLUE, linewidth=2, label="training, 1,600 samples")
    test.set(color=ORANGE, linewidth=2, label=f"test, {len(case.actual)} samples")
    axes.set(xlabel="epoch", ylabel="mean squared error (variance of the target = 1)", xlim=(0, len(case.train_losses)))
    axes.set_title("Synthetic regression: 10-64-64-1 network, full-batch Adam", loc="left", fontsize="medium")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False)
    remove_frame(axes)
    return figure


def draw_predictions(axes: Axes, case: Case) -> None:
    """What was predicted for the test samples against what was true."""
    PredictionErrorDisplay(y_true=case.actual, y_pred=case.predicted).plot(
        ax=axes,
        kind="actual_vs_predicted",
        scatter_kwargs={"s": 16, "alpha": 0.6, "color": BLUE, "linewidths": 0},
        line_kwargs={"color": GREY, "linewidth": 1, "alpha": 1, "label": IDENTITY},
    )
    r2 = r2_score(case.actual, case.predicted)
    axes.set_title(f"Synthetic regression: {len(case.actual)} test samples\n$R^2$ = {r2:.4f}", loc="left")
    axes.set(xlabel="actual target (standard deviations)", ylabel="predicted target (standard deviations)")
    axes.legend(frameon=False, loc="upper left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(1))
        axis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    remove_frame(axes)


def main(epochs: int = EPOCHS, folder: Path = IMAGES) -> None:
    """Train, print the losses, draw."""
    case = run(Console(), epochs)
    save(draw_losses(case), folder / "synthetic_losses.png")
    predictions = Figure(figsize=(5.4, 5.4), layout="constrained")
    draw_predictions(predictions.subplots(), case)
    save(predictions, folder / "synthetic_predictions.png")


if __name__ == "__main__":
    main()
