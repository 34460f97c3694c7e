"""Kernels of the losses: values and deltas of a block of rows, and the gradient of a network trained by them."""

import numpy as np
import pytest

from fastadam._memory import aligned_zeros
from fastadam.buffers import FlatBuffer
from fastadam.cpu.engine import Engine
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.network import as_samples, layout_of
from fastadam.formulas.activations import ACTIVATIONS
from fastadam.formulas.losses import LOSSES
from fastadam.formulas.network import Update, shapes_of
from fastadam.formulas.rules import KEEP
from fastadam.formulas.step import HYPER, StepSpec
from tests.helpers.losses import REFERENCE, SETTINGS, TARGETS, Z, evaluate, n, outputs, weight


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
