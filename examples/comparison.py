"""Comparison of all optimizers on three problems in one figure, each with its best learning rate.

Two problems have two parameters, so that the paths can be drawn: Rosenbrock's curved valley, and an ellipse 50 times as
steep in one direction as in the other. The third is a network with layers 10-64-64-1, trained on 1,600 samples. Each
step uses all samples, except for stochastic gradient descent, which performs 16 steps per epoch on 100 samples each.

Every optimizer tries the same rates on each problem, and the best is shown: on the surfaces, the rate with which it
reaches the neighbourhood of the minimum first and stays there; for the network, the rate with the lowest mean logarithm
of the loss over the last tenth of the epochs. All other settings are defaults, with a momentum of 0.9 where there is
one.

Run `python examples/comparison.py`, which requires matplotlib. It takes up to a minute, prints a table, and writes
`docs/images/comparison.png`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from sklearn.datasets import make_regression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from fastadam.buffers import FlatBuffer
from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD

Array = NDArray[Any]

FAMILIES: dict[str, dict[str, Callable[..., Any]]] = {
    "A single rate for all parameters": {
        "gradient descent": SGD,
        "SGD": SGD,
        "momentum": partial(SGD, momentum=0.9),
        "Nesterov": partial(SGD, momentum=0.9, nesterov=True),
    },
    "A rate per parameter": {"Adagrad": Adagrad, "RMSprop": RMSprop, "Adadelta": Adadelta},
    "Adam and its closest variants": {
        "Adam": Adam,
        "AdamW": AdamW,
        "AMSGrad": partial(Adam, amsgrad=True),
        "Adamax": Adamax,
    },
    "Further variants of Adam": {"NAdam": NAdam, "RAdam": RAdam, "Lion": Lion},
}
BATCHES = {"SGD": 100}
"""Samples per step of training the network, if not all. Optimizers listed here are not run on the surfaces."""
RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#000000"]
"""Four colours of Okabe and Ito's palette, which is suitable for colour-blind readers."""
LINE_WIDTHS = [3.8, 2.6, 1.6, 0.8]
"""Decreasing, so that a line drawn over another leaves the edges of the latter visible."""
LEFT, WIDTH, GAP = 0.025, 0.217, 0.027
"""Left margin, width and gap of the columns, as fractions of the figure."""


# --- problems of two parameters ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surface:
    """Function of two parameters, with its gradient and the region to draw."""

    name: str
    value: Callable[[Array, Array], Array]
    gradient: Callable[[float, float], tuple[float, float]]
    start: tuple[float, float]
    minimum: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]
    levels: Array
    goal: float
    """Value of the function below which an optimizer has arrived."""


ROSENBROCK = Surface(
    "Rosenbrock's valley",
    lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
    lambda x, y: (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)),
    start=(-1.2, 1.0),
    minimum=(1.0, 1.0),
    x=(-1.9, 1.9),
    y=(-0.7, 2.2),
    levels=np.geomspace(0.1, 1000, 9),
    goal=0.01,
)
ELLIPSE = Surface(
    "An ellipse, 50 times as steep in y as in x",
    lambda x, y: (x**2 + 50 * y**2) / 2,
    lambda x, y: (x, 50 * y),
    start=(-3.0, 0.8),
    minimum=(0.0, 0.0),
    x=(-3.5, 1.5),
    y=(-1.1, 1.1),
    levels=np.geomspace(0.05, 50, 8),
    goal=0.001,
)


@dataclass(frozen=True)
class Walk:
    """Path of an optimizer with a rate, and the steps until it arrived and stayed, or None if it did not."""

    rate: float
    path: Array
    steps: int | None
    value: float


def walk(surface: Surface, make: Callable[..., Any], rate: float, steps: int) -> Walk:
    """Take the steps of an optimizer on a surface."""
    p, g, path = np.array(surface.start), np.empty(2), np.empty((steps + 1, 2))
    optimizer = make(p, lr=rate)
    path[0] = p
    for t in range(1, steps + 1):
        x, y = p.tolist()
        if not abs(x) + abs(y) < 1e3:  # diverging
            return Walk(rate, path[:t], None, np.inf)
        g[:] = surface.gradient(x, y)
        optimizer.step(g)
        path[t] = p
    values = surface.value(*path.T)
    arrived = steps + 1 - int(np.argmax(values[::-1] > surface.goal))
    return Walk(rate, path, arrived if arrived <= steps else None, float(values[-1]))


def best_walk(surface: Surface, make: Callable[..., Any], steps: int) -> Walk:
    """Return the walk that arrives first or, if none arrives, the one that ends lowest."""
    walks = [walk(surface, make, rate, steps) for rate in RATES]
    return min(walks, key=lambda walk: (walk.steps or steps + 1, walk.value))


# --- the network ------------------------------------------------------------------------------------------------------


class Network:
    """Layers 10-64-64-1 with ReLU, with parameters in one flat buffer and gradients in another."""

    def __init__(self, samples: int = 1600) -> None:
        X, y = make_regression(n_samples=2000, n_features=10, noise=0.1, random_state=42)
        X, _, y, _ = train_test_split(X, y.reshape(-1, 1), test_size=0.2, random_state=42)
        self.X = StandardScaler().fit_transform(X)[:samples].astype(np.float32)
        self.y = StandardScaler().fit_transform(y)[:samples].astype(np.float32)

    def initial(self) -> FlatBuffer:
        """Return random weights, the same for every optimizer."""
        random, sizes = np.random.default_rng(0), [10, 64, 64, 1]
        params: dict[str, Array] = {}
        for k, (before, after) in enumerate(pairwise(sizes)):
            params[f"W{k}"] = random.normal(0, np.sqrt(2 / before), (before, after)).astype(np.float32)
            params[f"b{k}"] = np.zeros(after, np.float32)
        return FlatBuffer.from_arrays(params)

    def loss_and_gradient(self, p: FlatBuffer, g: FlatBuffer, samples: Any = slice(None)) -> float:
        """Return the mean squared error of some or all samples, and write its gradient into `g`."""
        X, y = self.X[samples], self.y[samples]
        first = np.maximum(X @ p["W0"] + p["b0"], 0)
        second = np.maximum(first @ p["W1"] + p["b1"], 0)
        error = second @ p["W2"] + p["b2"] - y
        delta = error * np.float32(2 / len(error))
        for k, (inputs, outputs) in reversed(list(enumerate([(X, first), (first, second), (second, error)]))):
            if k < 2:
                delta = delta @ p[f"W{k + 1}"].T * (outputs > 0)
            np.matmul(inputs.T, delta, out=g[f"W{k}"])
            np.sum(delta, axis=0, out=g[f"b{k}"])
        return float(np.mean(error**2))


@dataclass(frozen=True)
class Training:
    """Loss of all samples before each epoch."""

    rate: float
    losses: Array

    @property
    def score(self) -> float:
        """Mean logarithm of the final losses, which averages out their fluctuations."""
        last = self.losses[-max(len(self.losses) // 10, 1) :]
        return float(np.log(last).mean()) if np.isfinite(self.losses).all() else np.inf


def best_training(network: Network, make: Callable[..., Any], epochs: int, batch: int | None = None) -> Training:
    """Return the training with the lowest final loss."""
    return min((train(network, make, rate, epochs, batch) for rate in RATES), key=lambda training: training.score)


def train(network: Network, make: Callable[..., Any], rate: float, epochs: int, batch: int | None = None) -> Training:
    """Train with one step per epoch on all samples, or with steps on batches; stop if the loss diverges."""
    params, random = network.initial(), np.random.default_rng(0)
    grads, losses = params.like(), np.full(epochs, np.inf)
    optimizer = make(params, lr=rate)
    for epoch in range(epochs):
        losses[epoch] = network.loss_and_gradient(params, grads)
        if not losses[epoch] < 1e3:
            break
        if batch is None:
            optimizer.step(grads)
            continue
        for samples in np.split(random.permutation(len(network.X)), range(batch, len(network.X), batch)):
            if not network.loss_and_gradient(params, grads, samples) < 1e3:
                break
            optimizer.step(grads)
    return Training(rate, losses)


# --- the figure -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """Best result of each optimizer on each problem."""

    rosenbrock: dict[str, Walk]
    ellipse: dict[str, Walk]
    network: dict[str, Training]


def compare(steps: int = 2000, epochs: int = 200, samples: int = 1600) -> Results:
    """Run all optimizers with all rates."""
    makers = {name: make for family in FAMILIES.values() for name, make in family.items()}
    on_surfaces = {name: make for name, make in makers.items() if name not in BATCHES}
    network = Network(samples)
    with threadpool_limits(1, user_api="blas"):  # for products as small as these, several threads are slower
        return Results(
            {name: best_walk(ROSENBROCK, make, steps) for name, make in on_surfaces.items()},
            {name: best_walk(ELLIPSE, make, steps) for name, make in on_surfaces.items()},
            {name: best_training(network, make, epochs, BATCHES.get(name)) for name, make in makers.items()},
        )


def draw(results: Results) -> Figure:
    """Draw a column per family and a row per problem."""
    figure = Figure(figsize=(15, 13))
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    title = f"Thirteen optimizers on three problems, each with the best of the rates {rates}"
    figure.text(LEFT, 0.975, title, fontsize=16)
    steps = "Paths from the circle to the star, and the number of steps after which the function stays below"
    errors = "Error before each epoch (SGD is gradient descent on 16 batches); the other optimizers in grey."
    for top, text in (
        (0.885, f"{ROSENBROCK.name}. {steps} {ROSENBROCK.goal:g}."),
        (0.565, f"{ELLIPSE.name}. {steps} {ELLIPSE.goal:g}."),
        (0.265, f"A network with layers 10-64-64-1. {errors}"),
    ):
        figure.text(LEFT, top + 0.01, text, fontsize=13, color="#404040")
    for column, (family, members) in enumerate(FAMILIES.items()):
        left, colours = LEFT + column * (WIDTH + GAP), dict(zip(members, COLOURS, strict=False))
        figure.text(left + WIDTH / 2, 0.935, family, fontsize=14, fontweight="bold", ha="center")
        draw_paths(figure.add_axes((left, 0.69, WIDTH, 0.195)), ROSENBROCK, results.rosenbrock, colours)
        draw_paths(figure.add_axes((left, 0.39, WIDTH, 0.175)), ELLIPSE, results.ellipse, colours)
        draw_losses(figure.add_axes((left + 0.015, 0.05, WIDTH * 0.68, 0.215)), results.network, colours)
    return figure


def draw_paths(axes: Axes, surface: Surface, walks: dict[str, Walk], colours: dict[str, str]) -> None:
    """Draw the contours of the function, and the path of each optimizer of a family until it arrived."""
    x, y = np.meshgrid(np.linspace(*surface.x, 300), np.linspace(*surface.y, 300))
    axes.contour(x, y, surface.value(x, y), levels=surface.levels, colors="#c8c8c8", linewidths=0.7)
    colours = {name: colour for name, colour in colours.items() if name in walks}
    for name, width in zip(colours, LINE_WIDTHS, strict=False):
        path = walks[name].path[: (walks[name].steps or len(walks[name].path)) + 1]
        axes.plot(*path.T, color=colours[name], linewidth=width, solid_joinstyle="round")
    axes.plot(*surface.start, "o", color="white", markeredgecolor="black", markersize=8, zorder=5)
    axes.plot(*surface.minimum, "*", color="white", markeredgecolor="black", markersize=15, zorder=5)
    axes.set(xlim=surface.x, ylim=surface.y, xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#c8c8c8")
    most = max(len(walk.path) for walk in walks.values()) - 1
    table = [("", "steps", "rate", "#606060")]
    for name, colour in colours.items():
        taken = walks[name].steps
        table.append((name, f"{taken:,}" if taken else f"over {most:,}", f"{walks[name].rate:g}", colour))
    for line, (name, steps, rate, colour) in enumerate(table):
        height = -0.03 - 0.018 / axes.get_position().height * line
        style: dict[str, Any] = {"transform": axes.transAxes, "color": colour, "fontsize": 12, "va": "top"}
        axes.text(0, height, name, fontweight="bold", **style)
        axes.text(0.8, height, steps, ha="right", **style)
        axes.text(1, height, rate, ha="right", **style)


def draw_losses(axes: Axes, trainings: dict[str, Training], colours: dict[str, str]) -> None:
    """Draw the losses of a family, each labelled at its end, in front of all others."""
    for training in trainings.values():
        axes.semilogy(training.losses, color="#d8d8d8", linewidth=0.8)
    for name, width in zip(colours, LINE_WIDTHS, strict=False):
        axes.semilogy(trainings[name].losses, color=colours[name], linewidth=width)
    epochs = max(len(training.losses) for training in trainings.values())
    for name, height in spread({name: trainings[name].score for name in colours}, gap=1.0).items():
        label = f"{name}\nrate {trainings[name].rate:g}"
        axes.text(epochs * 1.03, np.exp(height), label, color=colours[name], va="center", fontsize=11, linespacing=1.0)
    axes.set(xlim=(0, epochs), ylim=(5e-4, 2), xlabel="epoch")
    axes.set_yticks([0.001, 0.01, 0.1, 1], ["0.001", "0.01", "0.1", "1"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)


def spread(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Move labels apart as little as needed: overlapping ones are spread evenly around their mean."""
    clusters: list[list[str]] = [[name] for name in sorted(heights, key=lambda name: heights[name])]

    def centre(cluster: list[str]) -> float:
        return sum(heights[name] for name in cluster) / len(cluster)

    k = 0
    while k + 1 < len(clusters):
        lower, upper = clusters[k], clusters[k + 1]
        if centre(upper) - centre(lower) < gap * (len(lower) + len(upper)) / 2:
            clusters[k : k + 2] = [lower + upper]
            k = max(k - 1, 0)
        else:
            k += 1
    return {
        name: centre(cluster) + gap * (place - (len(cluster) - 1) / 2)
        for cluster in clusters
        for place, name in enumerate(cluster)
    }


def report(results: Results) -> str:
    """Return a line per optimizer: steps on the surfaces and final loss of the network, each with its rate."""
    headings = ("Rosenbrock: steps", "ellipse: steps", "network: loss")
    lines = [" " * 17 + "".join(f" {heading:>17} {'rate':>6}" for heading in headings)]
    for name, training in results.network.items():
        walks = [found[name] for found in (results.rosenbrock, results.ellipse) if name in found]
        cells = [(f"{walk.steps or 'never'}", f"{walk.rate:g}") for walk in walks] or [("", "")] * 2
        cells.append((f"{np.exp(training.score):.2g}", f"{training.rate:g}"))
        lines.append(f"{name:17}" + "".join(f" {value:>17} {rate:>6}" for value, rate in cells))
    return "\n".join(lines)


def main(path: Path = Path("docs/images/comparison.png")) -> None:
    """Run the comparison and draw the figure."""
    results = compare()
    print(report(results))
    draw(results).savefig(path, dpi=110)
    print(path)


if __name__ == "__main__":
    main()
