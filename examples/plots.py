"""The two figures of the demo."""

from pathlib import Path

import numpy as np
from diamonds import Comparison
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MultipleLocator, NullLocator, StrMethodFormatter
from rich.console import Console
from sklearn.metrics import PredictionErrorDisplay, r2_score
from synthetic import Case

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#404040"
IDENTITY = "predicted = actual"


def loss_curves(case: Case) -> Figure:
    """Training and test loss of the synthetic regression after each epoch."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, len(case.train_losses) + 1)
    axes.semilogy(epochs, case.train_losses, color=BLUE, linewidth=2, label="training, 1,600 samples")
    axes.semilogy(epochs, case.test_losses, color=ORANGE, linewidth=2, linestyle="--", label="test, 400 samples")
    axes.set(xlabel="epoch", ylabel="mean squared error (variance of the target = 1)", xlim=(0, len(epochs)))
    axes.set_title("Synthetic regression: 10-64-64-1 network, full-batch Adam", loc="left", fontsize="medium")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False)
    _remove_frame(axes)
    return figure


def predicted_against_actual(case: Case, comparison: Comparison) -> Figure:
    """Both problems' test samples: what was predicted for them against what was true."""
    figure = Figure(figsize=(10, 5), layout=ConstrainedLayoutEngine(w_pad=0.1))
    left, right = figure.subplots(1, 2)
    _draw_synthetic(left, case)
    _draw_diamonds(right, comparison)
    return figure


def save(figure: Figure, path: Path, console: Console) -> None:
    """Write the figure, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
    console.print(f"{path}")


def _draw_synthetic(axes: Axes, case: Case) -> None:
    """Draw a scatter of the few hundred samples."""
    PredictionErrorDisplay(y_true=case.actual, y_pred=case.predicted).plot(
        ax=axes,
        kind="actual_vs_predicted",
        scatter_kwargs={"s": 16, "alpha": 0.6, "color": BLUE, "linewidths": 0},
        line_kwargs={"color": GREY, "linewidth": 1, "alpha": 1, "label": IDENTITY},
    )
    r2 = r2_score(case.actual, case.predicted)
    axes.set_title(f"(a) Synthetic regression: {len(case.actual)} test samples\n$R^2$ = {r2:.4f}", loc="left")
    axes.set(xlabel="actual target (standard deviations)", ylabel="predicted target (standard deviations)")
    axes.legend(frameon=False, loc="upper left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(1))
        axis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    _remove_frame(axes)


def _draw_diamonds(axes: Axes, comparison: Comparison) -> None:
    """Draw a histogram of hexagons, since ten thousand dots would hide each other."""
    contestant = ("fastadam", "float64")
    actual, predicted = np.exp(comparison.actual), np.exp(comparison.results[contestant].predicted)
    limits = [min(actual.min(), predicted.min()) / 1.1, max(actual.max(), predicted.max()) * 1.1]
    hexagons = axes.hexbin(
        actual, predicted, xscale="log", yscale="log", gridsize=70, bins="log", mincnt=1, cmap="viridis", linewidths=0.1
    )
    axes.plot(limits, limits, "--", color=GREY, linewidth=1, label=IDENTITY)
    r2 = comparison.r2(contestant)
    axes.set_title(f"(b) Diamonds: {len(actual):,} test rows\n$R^2$ = {r2:.4f}, of log(price)", loc="left")
    axes.set(xlabel="actual price (US$)", ylabel="predicted price (US$)", xlim=limits, ylim=limits, aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([500, 1_000, 2_000, 5_000, 10_000, 20_000]))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_locator(NullLocator())
    _add_colour_scale(axes, hexagons)
    _remove_frame(axes)


def _add_colour_scale(axes: Axes, hexagons: PolyCollection) -> None:
    """Explain the colours in the empty corner of the diagram."""
    corner = axes.inset_axes((0.56, 0.14, 0.4, 0.03))
    scale = axes.figure.colorbar(hexagons, cax=corner, orientation="horizontal", format=StrMethodFormatter("{x:g}"))
    scale.set_label("diamonds in a hexagon")
    scale.outline.set_visible(False)


def _remove_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
