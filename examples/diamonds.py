"""The price of 53,940 diamonds, learned by scikit-learn's MLPRegressor and by fastadam's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn.neural_network
from fits import faster_blas_threads, seconds_to_fit
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray
from plotnine.data import diamonds
from plots import GREY, IDENTITY, remove_frame
from rich.console import Console
from rich.table import Table
from sklearn.callback import ProgressBar
from sklearn.compose import ColumnTransformer
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fastadam

Array = NDArray[Any]

NUMBERS = ["carat", "depth", "table", "x", "y", "z"]
GRADES = ["cut", "color", "clarity"]
PARAMETERS: dict[str, Any] = {"hidden_layer_sizes": (64, 64), "max_iter": 20, "random_state": 42}
LIBRARIES = {"scikit-learn": sklearn.neural_network.MLPRegressor, "fastadam": fastadam.MLPRegressor}
PRECISIONS = ("float64", "float32")
ROUNDS = 3

Contestant = tuple[str, str]
"""Library, and precision of its data."""


@dataclass(frozen=True)
class Data:
    """Features, and the natural logarithm of the price in US dollars, for training and for testing."""

    X_train: Array
    X_test: Array
    y_train: Array
    y_test: Array

    def astype(self, precision: str) -> "Data":
        """Convert the data to another precision."""
        return Data(*(array.astype(precision) for array in vars(self).values()))


@dataclass(frozen=True)
class Result:
    """Time, loss and predictions of a fit."""

    seconds: float
    loss: float
    predicted: Array


@dataclass(frozen=True)
class Comparison:
    """Actual logarithms of the prices of the test rows, and the fastest fit of each contestant."""

    actual: Array
    results: dict[Contestant, Result]

    def times_faster(self, contestant: Contestant) -> float:
        """Return the speedup over scikit-learn on data of the same precision."""
        _, precision = contestant
        return self.results["scikit-learn", precision].seconds / self.results[contestant].seconds

    def r2(self, contestant: Contestant) -> float:
        """Return R² on the test rows."""
        return float(r2_score(self.actual, self.results[contestant].predicted))

    def largest_difference(self, precision: str) -> float:
        """Return the largest difference between the predictions of the two libraries on the test rows."""
        ours, theirs = (self.results[library, precision].predicted for library in ("fastadam", "scikit-learn"))
        return float(np.abs(ours - theirs).max())


def run(console: Console) -> Comparison:
    """Load the data, train and report."""
    data = load()
    console.print(
        f"{len(data.y_train):,} diamonds to train on and {len(data.y_test):,} to test on, with {data.X_train.shape[1]}"
        " features."
    )
    trial = sklearn.neural_network.MLPRegressor(**PARAMETERS | {"max_iter": 2})
    blas_threads = faster_blas_threads(trial, data.X_train, data.y_train)
    console.print(
        f"The best time of {ROUNDS} rounds is reported. BLAS threads for scikit-learn: {blas_threads or 'all'}, which"
        " was faster in a trial; fastadam chooses its threads itself. scikit-learn's MLPRegressor does not support"
        " callbacks, and therefore does not show a progress bar."
    )
    comparison = compare(data, blas_threads, console)
    report(comparison, console)
    return comparison


def load() -> Data:
    """Load the data, split them, and fit the encoding on the training rows only."""
    train, test = train_test_split(diamonds, test_size=0.2, random_state=42)
    encoder = new_encoder()
    X_train, X_test = encoder.fit_transform(train), encoder.transform(test)
    y_train, y_test = (np.log(rows["price"].to_numpy()) for rows in (train, test))
    return Data(X_train, X_test, y_train, y_test)


def measurable() -> tuple[Any, Array]:
    """Return the rows and the logarithms of their prices, without the 23 with an edge of 0 mm or above 15 mm."""
    edges = diamonds[["x", "y", "z"]]
    rows = diamonds[((edges > 0) & (edges < 15)).all(axis=1)]
    return rows, np.log(rows["price"].to_numpy())


def new_encoder() -> ColumnTransformer:
    """Return a transformer that standardizes the numbers and one-hot encodes the grades."""
    return ColumnTransformer(
        [("numbers", StandardScaler(), NUMBERS), ("grades", OneHotEncoder(sparse_output=False), GRADES)]
    )


def compare(data: Data, blas_threads: int | None, console: Console) -> Comparison:
    """Fit the contestants in turns, and keep the fastest fit of each."""
    results: dict[Contestant, Result] = {}
    for number in range(1, ROUNDS + 1):
        console.print(f"\nRound {number} of {ROUNDS}", style="bold")
        for precision in PRECISIONS:
            for library in LIBRARIES:
                result = train(library, data.astype(precision), blas_threads)
                console.print(f"{library}, {precision}: {result.seconds:.2f} s")
                best = results.get((library, precision), result)
                results[library, precision] = min(best, result, key=lambda fit: fit.seconds)
    return Comparison(data.y_test, results)


def train(library: str, data: Data, blas_threads: int | None) -> Result:
    """Fit the regressor of a library, with a progress bar if it supports callbacks."""
    regressor = LIBRARIES[library](**PARAMETERS)
    if hasattr(regressor, "set_callbacks"):
        regressor.set_callbacks(ProgressBar())
    seconds = seconds_to_fit(regressor, data.X_train, data.y_train, blas_threads)
    return Result(seconds, regressor.loss_, regressor.predict(data.X_test))


def report(comparison: Comparison, console: Console) -> None:
    """Print the table, and the largest differences between the predictions."""
    console.print()
    console.print(table_of(comparison))
    console.print(
        "With float64 data both train the same model: their predictions of log(price) differ by at most"
        f" {comparison.largest_difference('float64'):.1e}. With float32 data they round differently, and training"
        f" amplifies the differences to at most {comparison.largest_difference('float32'):.1e}."
    )


def table_of(comparison: Comparison) -> Table:
    """Return a table with one row per contestant."""
    table = Table(title=f"log(price) of diamonds: layers 26-64-64-1, {PARAMETERS['max_iter']} epochs")
    table.add_column("library")
    table.add_column("data")
    for heading in ("seconds", "times faster", "final loss", "R² (test)"):
        table.add_column(heading, justify="right")
    for contestant, result in comparison.results.items():
        table.add_row(
            *contestant,
            f"{result.seconds:.2f}",
            f"{comparison.times_faster(contestant):.1f}",
            f"{result.loss:.6f}",
            f"{comparison.r2(contestant):.4f}",
        )
    return table


def draw_predictions(axes: Axes, comparison: Comparison) -> None:
    """Draw a hexagonal histogram, since ten thousand points would cover each other."""
    contestant = ("fastadam", "float64")
    actual, predicted = np.exp(comparison.actual), np.exp(comparison.results[contestant].predicted)
    limits = [min(actual.min(), predicted.min()) / 1.1, max(actual.max(), predicted.max()) * 1.1]
    hexagons = axes.hexbin(
        actual, predicted, xscale="log", yscale="log", gridsize=70, bins="log", mincnt=1, cmap="viridis", linewidths=0.1
    )
    axes.plot(limits, limits, "--", color=GREY, linewidth=1, label=IDENTITY)
    r2 = comparison.r2(contestant)
    axes.set_title(f"Diamonds: {len(actual):,} test rows\n$R^2$ = {r2:.4f}, of log(price)", loc="left")
    axes.set(xlabel="actual price (US$)", ylabel="predicted price (US$)", xlim=limits, ylim=limits, aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([500, 1_000, 2_000, 5_000, 10_000, 20_000]))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_locator(NullLocator())
    add_colour_scale(axes, hexagons)
    remove_frame(axes)


def add_colour_scale(axes: Axes, hexagons: PolyCollection) -> None:
    """Draw the colour scale in the empty corner of the diagram."""
    corner = axes.inset_axes((0.56, 0.14, 0.4, 0.03))
    scale = axes.figure.colorbar(hexagons, cax=corner, orientation="horizontal", format=StrMethodFormatter("{x:g}"))
    scale.set_label("diamonds per hexagon")
    scale.outline.set_visible(False)


if __name__ == "__main__":
    run(Console())
