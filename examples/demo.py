"""Train fastadam's MLPRegressor on two problems, compare it with scikit-learn's, and draw two figures.

Run `make demo`, or `python examples/demo.py`, which requires the extra `demo`. It works offline, takes a minute or two
on two cores, and writes the figures to the folder `figures`.

Each problem has its own module, which can be run separately:

- `diamonds.py`: the price of 53,940 diamonds, compared with scikit-learn, with the same parameters and seed;
- `synthetic.py`: a complete regression, with the training and test losses after every epoch.
"""

from pathlib import Path
from time import perf_counter

import diamonds
import numpy as np
import synthetic
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from plots import save
from rich.console import Console

from fastadam import MLPRegressor

FIGURES = Path("figures")


def main() -> None:
    """Compile, train on both problems, and draw the figures."""
    console = Console()

    console.rule("Kernels")
    console.print("Compiling the kernels takes up to a minute; later runs load them from a disk cache ...")
    console.print(f"Ready after {seconds_to_compile():.1f} s.")

    console.rule("The price of diamonds, compared with scikit-learn")
    comparison = diamonds.run(console)

    console.rule("A complete regression")
    case = synthetic.run(console)

    console.rule("Figures")
    save(synthetic.draw_losses(case), FIGURES / "loss_curves.png")
    save(predicted_against_actual(case, comparison), FIGURES / "predicted_against_actual.png")


def seconds_to_compile() -> float:
    """Time short fits in both types, so that the measurements below do not include compilation.

    The network is large enough to be trained on several threads, which use separate kernels.
    """
    start = perf_counter()
    for dtype in (np.float64, np.float32):
        X = np.zeros((400, 64), dtype)
        MLPRegressor(hidden_layer_sizes=(64, 64), tol=1.0, n_iter_no_change=1).fit(X, X[:, 0]).predict(X)
    return perf_counter() - start


def predicted_against_actual(case: synthetic.Case, comparison: diamonds.Comparison) -> Figure:
    """Plot predicted against actual values for the test samples of both problems."""
    figure = Figure(figsize=(10, 5), layout=ConstrainedLayoutEngine(w_pad=0.1))
    left, right = figure.subplots(1, 2)
    synthetic.draw_predictions(left, case)
    diamonds.draw_predictions(right, comparison)
    return figure


if __name__ == "__main__":
    main()
