"""The losses: values and derivatives against NumPy's formulas, scikit-learn's metrics and finite differences."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from fastadam.formulas.losses import LOSSES, predictions
from tests.helpers.losses import REFERENCE, TARGETS, Z, evaluate, weight


def test_every_loss_has_a_reference():
    assert REFERENCE.keys() == LOSSES.keys() == TARGETS.keys()


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
