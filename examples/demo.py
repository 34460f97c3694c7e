"""Train fastadam's MLPRegressor on two problems, compare it with scikit-learn's, and draw two figures.

Run it by `make demo`, or by `python examples/demo.py` where the extra `demo` is installed. It needs no network and
a minute or two on two cores; the figures go to the folder `figures`.

The two problems have a module each, which can be read and run on its own:

- `diamonds.py`: the price of 53,940 diamonds, beside scikit-learn, with the same parameters and the same seed;
- `synthetic.py`: a regression from beginning to end, with the training and the test loss after every epoch.
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
    """Compile, train on both problems, draw."""
    console = Console()

    console.rule("The kernels")
    console.print("They compile at their first use, up to a minute, and come from a disk cache later ...")
    console.print(f"Ready after {seconds_to_compile():.1f} s.")

    console.rule("The price of diamonds, beside scikit-learn")
    comparison = diamonds.run(console)

    console.rule("A complete regression")
    case = synthetic.run(console)

    console.rule("The figures")
    save(synthetic.draw_losses(case), FIGURES / "loss_curves.png")
    save(predicted_against_actual(case, comparison), FIGURES / "predicted_against_actual.png")


def seconds_to_compile() -> float:
    """Time short fits in both types, so that no measurement below contains the compilation.

    The network is large enough to be trained by several threads, for which there are kernels of their own.
    """
    start = perf_counter()
    for dtype in (np.float64, np.float32):
        X = np.zeros((400, 64), dtype)
        MLPRegressor(hidden_layer_sizes=(64, 64), tol=1.0, n_iter_no_change=1).fit(X, X[:, 0]).predict(X)
    return perf_counter() - start


def predicted_against_actual(case: synthetic.Case, comparison: diamonds.Comparison) -> Figure:
    """Both problems' test samples: what was predicted for them against what was true."""
    figure = Figure(figsize=(10, 5), layout=ConstrainedLayoutEngine(w_pad=0.1))
    left, right = figure.subplots(1, 2)
    synthetic.draw_predictions(left, case)
    diamonds.draw_predictions(right, comparison)
    return figure


if __name__ == "__main__":
    main()
