"""References for the losses, written from their definitions, and data to evaluate them on."""

import numpy as np
from scipy import special

from fastadam.cpu.losses import loss_kernel

rng = np.random.default_rng(0)
n, outputs = 40, 3
Z = 2 * rng.standard_normal((n, outputs))
weight = rng.uniform(0.1, 2, n)
TARGETS = {
    "squared_error": rng.standard_normal((n, outputs)),
    "absolute_error": rng.standard_normal((n, outputs)),
    "huber": 2 * rng.standard_normal((n, outputs)),
    "quantile": rng.standard_normal((n, outputs)),
    "poisson": rng.poisson(1.5, (n, outputs)).astype(float),
    "log_loss": rng.integers(0, 2, (n, outputs)).astype(float),
    "multinomial": np.eye(outputs)[rng.integers(0, outputs, n)],
}
SETTINGS = {"huber": 0.7, "quantile": 0.2, "log_loss": np.finfo(float).eps, "multinomial": np.finfo(float).eps}


def huber(z, y, delta):
    size = np.abs(z - y)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


# of each sample, summed or averaged over the outputs as the package does
REFERENCE = {
    "squared_error": lambda z, y: ((z - y) ** 2).mean(axis=1) / 2,
    "absolute_error": lambda z, y: np.abs(z - y).mean(axis=1),
    "huber": lambda z, y: huber(z, y, 0.7).mean(axis=1),
    "quantile": lambda z, y: np.maximum(0.2 * (y - z), 0.8 * (z - y)).mean(axis=1),
    "poisson": lambda z, y: (special.xlogy(y, y) - y * z - y + np.exp(z)).sum(axis=1),
    "log_loss": lambda z, y: (np.logaddexp(0, z) - y * z).sum(axis=1),
    "multinomial": lambda z, y: special.logsumexp(z, axis=1) - (z * y).sum(axis=1),
}


def evaluate(name, Z, Y, w, scale=1.0):
    """The summed loss and the deltas."""
    deltas = Z.copy()
    rows = np.arange(len(Z))
    total = loss_kernel(name)(deltas, Y.astype(Z.dtype), w.astype(Z.dtype), rows, scale, SETTINGS.get(name, 0.0))
    return total, deltas
