"""The losses: values and derivatives against NumPy's formulas, scikit-learn's metrics and finite differences."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from fastadam._memory import aligned_zeros
from fastadam.buffers import FlatBuffer
from fastadam.cpu.engine import Engine
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.losses import loss_kernel
from fastadam.cpu.network import as_samples, layout_of
from fastadam.formulas.activations import ACTIVATIONS
from fastadam.formulas.losses import LOSSES, predictions
from fastadam.formulas.network import Update, shapes_of
from fastadam.formulas.rules import KEEP
from fastadam.formulas.step import HYPER, StepSpec

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


def test_every_loss_has_a_reference():
    assert REFERENCE.keys() == LOSSES.keys() == TARGETS.keys()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("w", [np.empty(0), weight], ids=["", "weighted"])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_deltas(name, w, dtype):
    Y = TARGETS[name]
    weights = w if w.size else np.ones(n)
    total, deltas = evaluate(name, Z.astype(dtype), Y, w, scale=weights.sum())
    tolerance = 1e-10 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(total, weights @ REFERENCE[name](Z, Y), rtol=tolerance)
    h, expected = 1e-6, np.empty_like(Z)
    for j in range(outputs):
        step = h * np.eye(outputs)[j]
        expected[:, j] = (REFERENCE[name](Z + step, Y) - REFERENCE[name](Z - step, Y)) / (2 * h)
    expected *= (outputs if LOSSES[name].averaged else 1) * weights[:, np.newaxis] / weights.sum()
    np.testing.assert_allclose(deltas, expected, rtol=1e-5 if dtype == np.float64 else 1e-4, atol=1e-8)


def test_values_are_scikit_learns_metrics():
    def mean(name, Z, Y):
        return evaluate(name, Z, Y, weight)[0] / weight.sum()

    y, z = TARGETS["poisson"][:, :1], Z[:, :1]
    deviance = metrics.mean_poisson_deviance(y[:, 0], np.exp(z[:, 0]), sample_weight=weight)
    assert mean("poisson", z, y) == pytest.approx(deviance / 2)
    y = TARGETS["multinomial"]
    expected = metrics.log_loss(y.argmax(axis=1), special.softmax(Z, axis=1), sample_weight=weight)
    assert mean("multinomial", Z, y) == pytest.approx(expected)
    y = TARGETS["log_loss"][:, :1]
    expected = metrics.log_loss(y[:, 0], special.expit(z[:, 0]), sample_weight=weight)
    assert mean("log_loss", z, y) == pytest.approx(expected)
    y = TARGETS["quantile"]
    assert mean("quantile", Z, y) == pytest.approx(metrics.mean_pinball_loss(y, Z, alpha=0.2, sample_weight=weight))


@pytest.mark.parametrize("name", ["absolute_error", "huber", "quantile", "squared_error"])
def test_the_derivative_at_no_error_is_zero(name):
    total, deltas = evaluate(name, Z, Z, np.empty(0))
    assert total == 0
    np.testing.assert_array_equal(deltas, 0)


@pytest.mark.parametrize("name", ["log_loss", "multinomial"])
def test_probabilities_of_0_and_1_have_a_finite_loss(name):
    far = np.array([[500.0, -500.0, -600.0]])
    for y in np.eye(3)[:, np.newaxis]:
        total, deltas = evaluate(name, far, y, np.empty(0))
        assert np.isfinite(total)
        np.testing.assert_allclose(deltas, predictions(LOSSES[name].link, far.copy()) - y, atol=1e-15)


def network_loss_and_gradient(p, activations, loss, X, Y, w, **settings):
    """Of the flat parameters p of a network with one hidden layer for each activation."""
    params = FlatBuffer(shapes_of([X.shape[1], *[4] * len(activations), Y.shape[1]]), np.float64)
    if p is None:
        return params.flat.size
    params.flat[:] = p
    kept = aligned_zeros(p.size, np.float64)
    group, samples = np.zeros(HYPER), as_samples(X, np.float64, Y, w)
    update = Update(StepSpec(KEEP, "coupled"), np.array([kept.ctypes.data], np.int64), group)
    layout = layout_of(params, activations, training=True, dropout="dropout" in settings)
    settings = {"loss_setting": SETTINGS.get(loss, 0.0), **settings}
    with Engine(params, layout, samples, loss, update, len(X), len(X), 1, **settings) as engine:
        return engine.epoch(np.arange(len(X)), 0, group)[0], kept.copy()


@pytest.mark.parametrize(
    ("activations", "loss", "settings"),
    [
        *((("tanh",), loss, {}) for loss in LOSSES),
        *(((activation,), "squared_error", {"alpha": 0.3}) for activation in ACTIVATIONS),
        (("gelu", "relu", "tanh"), "multinomial", {"alpha": 0.1}),
        (("relu", "mish", "logistic"), "huber", {}),
        (("tanh", "gelu"), "squared_error", {"dropout": 0.4, "seed": 3}),
        (("logistic", "leaky_relu"), "log_loss", {"dropout": 0.6, "seed": 4, "alpha": 0.2}),
    ],
)
def test_the_networks_gradient_is_that_of_its_loss(activations, loss, settings):
    if "dropout" in settings and JIT_DISABLED:
        pytest.skip("interpreted arithmetic of 64 bits warns of its overflows")
    X = np.random.default_rng(1).standard_normal((n, 5))
    data = activations, loss, X, TARGETS[loss], weight
    p = np.random.default_rng(2).standard_normal(network_loss_and_gradient(None, *data)) * 0.8
    _, gradient = network_loss_and_gradient(p, *data, **settings)
    h, numeric = 1e-6, np.empty_like(p)
    for i in range(p.size):
        step = h * (np.arange(p.size) == i)
        above, below = (network_loss_and_gradient(q, *data, **settings)[0] for q in (p + step, p - step))
        numeric[i] = (above - below) / (2 * h)
    if LOSSES[loss].averaged:  # the gradient is that of the sum over the outputs, the penalty's as it is
        without = network_loss_and_gradient(p, *data, **(settings | {"alpha": 0.0}))[1]
        numeric += (outputs - 1) / outputs * without
    np.testing.assert_allclose(gradient, numeric, rtol=2e-4, atol=2e-7)
