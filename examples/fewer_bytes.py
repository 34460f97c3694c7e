"""Adam with its state in float32, bfloat16 and uint8: the same loss curves with less memory.

There are three problems: a network with layers 10-64-64-1 on 1,600 samples of a regression and a network with layers
64-32-10 on 1,437 images of digits, both trained in batches, and Rosenbrock's function of 100 variables. All formats use
the same initial values, batches and number of steps.

Run `python examples/fewer_bytes.py`, which requires matplotlib. It takes some seconds, and writes
`docs/images/fewer_bytes.png`.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import rosen, rosen_der
from scipy.special import log_softmax
from sklearn.datasets import load_digits, make_regression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from fastadam.buffers import FlatBuffer
from fastadam.optimizers.adam import Adam

Array = NDArray[Any]
Loss = Callable[[Array, Array], tuple[float, Array]]
"""Function of outputs and targets that returns the mean loss and its gradient with respect to the outputs."""

FORMATS = {"float32": None, "bfloat16": "bfloat16", "uint8": "uint8"}
STYLES = {"float32": ("#000000", 4.5, 0.25), "bfloat16": ("#0072b2", 1.8, 1.0), "uint8": ("#d55e00", 0.9, 1.0)}
"""Colour, width and opacity, so that all three curves are visible where they coincide."""


def squared_error(outputs: Array, y: Array) -> tuple[float, Array]:
    """Return half the mean squared error, and its gradient."""
    error = outputs - y
    return float(0.5 * np.mean(error**2)), error / error.size


def log_loss(outputs: Array, y: Array) -> tuple[float, Array]:
    """Return the mean negative logarithm of the probability of the correct class, and its gradient."""
    logarithms, rows = log_softmax(outputs, axis=1), np.arange(len(y))
    delta = np.exp(logarithms)
    delta[rows, y] -= 1
    return float(-logarithms[rows, y].mean()), delta / np.float32(len(y))


def network_losses(X: Array, y: Array, sizes: list[int], loss: Loss, epochs: int, state_dtype: str | None) -> Array:
    """Train a network with ReLU in batches of 200, and return the mean loss of each epoch."""
    random = np.random.default_rng(0)
    shapes = {
        name: shape for k, (a, b) in enumerate(pairwise(sizes)) for name, shape in [(f"W{k}", (a, b)), (f"b{k}", (b,))]
    }
    params = FlatBuffer.zeros(shapes)
    for k, fan_in in enumerate(sizes[:-1]):
        params[f"W{k}"] = random.normal(0, np.sqrt(2 / fan_in), shapes[f"W{k}"])
    grads, losses = params.like(), np.zeros(epochs)
    optimizer = Adam(params, lr=1e-3, state_dtype=state_dtype)
    for epoch in range(epochs):
        batches = np.array_split(random.permutation(len(X)), -(-len(X) // 200))
        for batch in batches:
            losses[epoch] += backward(params, grads, X[batch], y[batch], loss) / len(batches)
            optimizer.step(grads)
    return losses


def backward(params: FlatBuffer, grads: FlatBuffer, X: Array, y: Array, loss: Loss) -> float:
    """Return the loss, and write its gradient into `grads`."""
    layers, outputs = len(params) // 2, [X]
    for k in range(layers):
        z = outputs[-1] @ params[f"W{k}"] + params[f"b{k}"]
        outputs.append(z if k == layers - 1 else np.maximum(z, 0))
    value, delta = loss(outputs[-1], y)
    for k in reversed(range(layers)):
        np.matmul(outputs[k].T, delta, out=grads[f"W{k}"])
        np.sum(delta, axis=0, out=grads[f"b{k}"])
        if k:
            delta = delta @ params[f"W{k}"].T * (outputs[k] > 0)
    return value


def regression_losses(state_dtype: str | None, epochs: int) -> Array:
    """Return the squared errors on a regression."""
    X, y = make_regression(n_samples=2000, n_features=10, noise=0.1, random_state=42)
    X, _, y, _ = train_test_split(X, y, test_size=0.2, random_state=42)
    X, y = scale(X).astype(np.float32), scale(y).astype(np.float32).reshape(-1, 1)
    return network_losses(X, y, [10, 64, 64, 1], squared_error, epochs, state_dtype)


def digits_losses(state_dtype: str | None, epochs: int) -> Array:
    """Return the log losses on images of digits."""
    X, _, y, _ = train_test_split(*load_digits(return_X_y=True), test_size=0.2, random_state=0)
    return network_losses((X / 16).astype(np.float32), y, [64, 32, 10], log_loss, epochs, state_dtype)


def rosenbrock_losses(state_dtype: str | None, steps: int) -> Array:
    """Minimize Rosenbrock's function of 100 variables, from -1 in each, with a rate that falls to zero."""
    x = np.full(100, -1, np.float32)
    optimizer, losses = Adam(x, state_dtype=state_dtype), np.empty(steps)
    for t in range(steps):
        losses[t] = rosen(x.astype(np.float64))
        optimizer.lr = 0.1 * 0.5 * (1 + np.cos(np.pi * t / steps))
        optimizer.step(rosen_der(x.astype(np.float64)).astype(np.float32))
    return losses


def compare(epochs: int = 150, steps: int = 10_000) -> dict[str, dict[str, Array]]:
    """Return the losses on each problem in each format."""
    with threadpool_limits(1, user_api="blas"):  # for products as small as these, several threads are slower
        return {
            "Regression, 10-64-64-1": {name: regression_losses(kind, epochs) for name, kind in FORMATS.items()},
            "Digits, 64-32-10": {name: digits_losses(kind, epochs) for name, kind in FORMATS.items()},
            "Rosenbrock in 100 variables": {name: rosenbrock_losses(kind, steps) for name, kind in FORMATS.items()},
        }


def draw(results: dict[str, dict[str, Array]]) -> Figure:
    """Draw a panel per problem."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels: Iterator[Axes] = iter(figure.subplots(1, len(results)))
    for axes, (title, curves) in zip(panels, results.items(), strict=True):
        for name, losses in curves.items():
            colour, width, opacity = STYLES[name]
            label = f"{name}: {losses[-max(len(losses) // 20, 1) :].mean():.3g} in the end"
            axes.semilogy(losses, color=colour, linewidth=width, alpha=opacity, label=label)
        axes.set(title=title, xlabel="step" if "Rosenbrock" in title else "epoch", ylabel="loss")
        axes.legend(frameon=False, title="state", loc="lower left" if "Rosenbrock" in title else "upper right")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(path: Path = Path("docs/images/fewer_bytes.png")) -> None:
    """Run the comparison and draw the figure."""
    results = compare()
    draw(results).savefig(path, dpi=110)
    for title, curves in results.items():
        ends = {name: float(losses[-max(len(losses) // 20, 1) :].mean()) for name, losses in curves.items()}
        print(title, {name: f"{end:.3g}" for name, end in ends.items()})
    print(path)


if __name__ == "__main__":
    main()
