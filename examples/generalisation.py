"""Generalization: the effect of decoupled weight decay and early stopping on the error on unseen rows.

Two tables are each split twenty times at random into training rows, held-out rows and test rows: scikit-learn's
diabetes patients, whose target is mostly noise, and, if plotnine is installed, 1,000 of its diamonds, whose price is
almost a function of the other columns. On each split, a network with layers 64-64, which is large enough to memorize
its training rows, is trained by four methods:

- neither: AdamW without decay, to the last epoch;
- early stopping: until the held-out loss has not improved for 20 epochs, keeping the weights with the lowest;
- weight decay: to the last epoch, with the `alpha` that has the lowest final error on the held-out rows;
- both: the same with early stopping.

Nothing is chosen by the test rows. The training rows are the same for all methods, although only early stopping and the
choice of `alpha` require held-out rows.

Run `python examples/generalisation.py`, which requires rich and matplotlib. It takes up to a minute, and writes
`docs/images/generalisation.png`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fits import fit
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray
from plots import BLUE, GREY, IMAGES, ORANGE, remove_frame, save
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from fastadam import LossCurveDisplay, MLPRegressor

Array = NDArray[Any]

EPOCHS, SEEDS, PATIENCE = 200, 20, 20
ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
METHODS = ("neither", "early stopping", "weight decay", "both")


@dataclass(frozen=True)
class Split:
    """Features and targets, standardized by the training rows."""

    X_train: Array
    y_train: Array
    X_held_out: Array
    y_held_out: Array
    X_test: Array
    y_test: Array


@dataclass(frozen=True)
class Data:
    """Table, and the sizes of its parts."""

    X: Any
    y: Array
    train: int
    held_out: int
    new_encoder: Callable[[], Any]

    def split(self, seed: int) -> Split:
        """Split the table at random."""
        X_train, X, y_train, y = train_test_split(self.X, self.y, train_size=self.train, random_state=seed)
        X_held_out, X_test, y_held_out, y_test = train_test_split(X, y, train_size=self.held_out, random_state=seed)
        encoder = self.new_encoder().fit(X_train)
        X_train, X_held_out, X_test = map(encoder.transform, (X_train, X_held_out, X_test))
        mean, spread = y_train.mean(), y_train.std()
        y_train, y_held_out, y_test = ((y - mean) / spread for y in (y_train, y_held_out, y_test))
        return Split(X_train, y_train, X_held_out, y_held_out, X_test, y_test)


@dataclass(frozen=True)
class Outcome:
    """Root mean squared errors of a trained network, in standard deviations of the target."""

    alpha: float
    training: Array
    """Training error in each epoch, while the weights change."""
    held_out: Array
    """Held-out error after each epoch."""
    epochs: int
    """Number of epochs after which the weights were kept."""
    test: float

    @property
    def chosen_by(self) -> float:
        """Held-out error of the weights that were kept."""
        return float(self.held_out[self.epochs - 1])


Results = dict[str, list[Outcome]]
"""Outcomes of each method, one per seed."""


def tables() -> dict[str, Data]:
    """Return the tables that are installed."""
    X, y = load_diabetes(return_X_y=True)
    found = {"diabetes": Data(X, y, 221, 110, StandardScaler)}
    try:
        import diamonds
    except ImportError:
        return found
    return found | {"diamonds": Data(*diamonds.measurable(), 1000, 250, diamonds.new_encoder)}


def train(split: Split, seed: int, epochs: int, alpha: float, stop_early: bool) -> Outcome:
    """Train one network, with the held-out rows as validation data."""
    regressor = MLPRegressor(
        hidden_layer_sizes=(64, 64),
        solver="adamw",
        alpha=alpha,
        batch_size=32,
        max_iter=epochs,
        early_stopping=stop_early,
        scoring="loss" if stop_early else None,
        n_iter_no_change=PATIENCE if stop_early else np.inf,
        tol=0,
        random_state=seed,
    )
    fit(regressor, split.X_train, split.y_train, X_val=split.X_held_out, y_val=split.y_held_out)
    held_out = np.sqrt(2 * np.array(regressor.validation_loss_curve_))  # the loss is half the mean squared error
    return Outcome(
        alpha,
        np.sqrt(2 * np.array(regressor.loss_curve_)),
        held_out,
        int(held_out.argmin()) + 1 if stop_early else len(held_out),
        root_mean_squared_error(split.y_test, regressor.predict(split.X_test)),
    )


def by_all_methods(split: Split, seed: int, epochs: int) -> dict[str, Outcome]:
    """Train by each method, with the same initial weights."""
    train_here = partial(train, split, seed, epochs)

    def best(stop_early: bool) -> Outcome:
        return min((train_here(alpha, stop_early) for alpha in ALPHAS), key=lambda outcome: outcome.chosen_by)

    networks = (train_here(0.0, False), train_here(0.0, True), best(False), best(True))
    return dict(zip(METHODS, networks, strict=True))


def compare(data: Data, seeds: Sequence[int], epochs: int) -> Results:
    """Split and train for each seed."""
    each = [by_all_methods(data.split(seed), seed, epochs) for seed in seeds]
    return {method: [outcomes[method] for outcomes in each] for method in METHODS}


def table_of(name: str, results: Results) -> Table:
    """Return a table with one row per method."""
    seeds = len(results["neither"])
    table = Table(title=f"{name}: mean and standard deviation over {seeds} random splits")
    for heading in ("method", "alpha", "epochs", "held-out error", "test error", "change", "better in"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    before = np.array([outcome.test for outcome in results["neither"]])
    for method, outcomes in results.items():
        held_out, test = (np.array([getattr(o, what) for o in outcomes]) for what in ("chosen_by", "test"))
        table.add_row(
            method,
            f"{np.median([outcome.alpha for outcome in outcomes]):g}",
            f"{np.median([outcome.epochs for outcome in outcomes]):.0f}",
            *(f"{errors.mean():.3f} ± {errors.std(ddof=1):.3f}" for errors in (held_out, test)),
            *(("", "") if method == "neither" else (f"{mean_change(before, test):+.0%}", better_in(before, test))),
        )
    return table


def differences(results: Results) -> str:
    """Format the gain of a method over another, compared split by split."""
    lines = []
    for method, other in (("weight decay", "early stopping"), ("both", "weight decay")):
        after, before = (np.array([outcome.test for outcome in results[name]]) for name in (method, other))
        gain = f"{np.mean(after - before):+.3f}, better in {better_in(before, after)}"
        lines.append(f"{method} instead of {other}: test error {gain}")
    return "\n".join(lines)


def mean_change(before: Array, after: Array) -> float:
    """Return the relative change of the mean error."""
    return float(after.mean() / before.mean() - 1)


def better_in(before: Array, after: Array) -> str:
    """Format the number of splits on which the error is lower."""
    return f"{np.sum(after < before)} of {len(after)}"


def draw(results: dict[str, Results]) -> Figure:
    """Draw, for each table, the curves of neither and of weight decay, and the test errors of all splits."""
    figure = Figure(figsize=(13, 0.4 + 4 * len(results)), layout=ConstrainedLayoutEngine(hspace=0.08, wspace=0.04))
    for row, (name, found) in zip(figure.subplots(len(results), 3, squeeze=False), results.items(), strict=True):
        neither, stopped, decayed = (found[method][0] for method in METHODS[:3])
        draw_curves(row[0], neither, f"{name}: neither")
        mark_epoch(row[0], stopped.epochs)
        draw_curves(row[1], decayed, f"{name}: weight decay, alpha={decayed.alpha:g}")
        row[1].sharey(row[0])
        row[1].legend(frameon=False, loc="lower right")
        draw_tests(row[2], found, f"{name}: {len(found['neither'])} splits, and the mean")
    return figure


def draw_curves(axes: Axes, outcome: Outcome, title: str) -> None:
    """Draw the training and held-out errors of each epoch."""
    LossCurveDisplay(outcome.training, validation_loss_curve=outcome.held_out).plot(ax=axes)
    training, held_out = axes.get_lines()
    training.set(color=BLUE, linewidth=1.5, label="training rows")
    held_out.set(color=ORANGE, linewidth=1.5, linestyle="-", label="held-out rows")
    axes.set(xlabel="epoch", ylabel="error (root mean square, in standard\ndeviations of the target)")
    axes.set(xlim=(0, len(outcome.training)))
    axes.set_title(title, loc="left")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e4e4e4")
    axes.legend().remove()  # one serves both panels
    remove_frame(axes)


def mark_epoch(axes: Axes, epoch: int) -> None:
    """Mark the epoch that early stopping keeps."""
    axes.set_ylim(bottom=0.7 * axes.get_ylim()[0])
    axes.axvline(epoch, color=GREY, linewidth=1)
    axes.annotate(f" early stopping keeps epoch {epoch}", (epoch, 0.02), xycoords=("data", "axes fraction"))


def draw_tests(axes: Axes, results: Results, title: str) -> None:
    """Draw the test errors of each method, with a line per split, and their means."""
    errors = np.array([[outcome.test for outcome in outcomes] for outcomes in results.values()])
    places = np.arange(len(errors))
    axes.plot(places, errors, color="#bcbcbc", linewidth=0.8, marker="o", markersize=3)
    for place, mean in zip(places, errors.mean(axis=1), strict=True):
        axes.plot(place, mean, "_", color="black", markersize=24, markeredgewidth=2.5, zorder=3)
        label = axes.annotate(f"{mean:.3f}", (place, mean), (14, 0), textcoords="offset points", va="center", zorder=4)
        label.set(weight="bold", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    axes.set_xticks(places, [method.replace(" ", "\n") for method in results])
    axes.set(ylabel="error on the test rows", xlim=(-0.4, len(errors) - 0.4))
    axes.set_title(title, loc="left")
    axes.grid(axis="y", color="#e4e4e4")
    remove_frame(axes)


def main(seeds: int = SEEDS, epochs: int = EPOCHS, path: Path = IMAGES / "generalisation.png") -> None:
    """Run the comparison, print a table per data set and draw the figure."""
    console, results = Console(width=100), {}
    for name, data in tables().items():
        results[name] = compare(data, range(seeds), epochs)
        console.print(table_of(name, results[name]), differences(results[name]))
    save(draw(results), path)


if __name__ == "__main__":
    main()
