"""Behaviour of only the regressor: its losses."""

import copy

import numpy as np
import pytest

from fastadam import MLPRegressor
from tests.helpers.fits import X, arrays, regressor, y
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_quantiles_are_quantiles():
    x, noise = np.zeros((2000, 1)), np.random.default_rng(0).exponential(size=2000)
    for quantile in (0.1, 0.5, 0.9):
        model = MLPRegressor(
            loss="quantile", quantile=quantile, hidden_layer_sizes=(), max_iter=300, learning_rate_init=0.02,
            learning_rate="linear", random_state=0,
        ).fit(x, noise)  # fmt: skip
        assert model.predict(x[:1])[0] == pytest.approx(np.quantile(noise, quantile), abs=0.03)


def test_poisson_predicts_positive_numbers_and_refuses_negative_targets():
    model = regressor(loss="poisson").fit(X, np.round(y**2))
    assert (model.predict(X) > 0).all()
    assert model.out_activation_ == "exp"
    before = copy.deepcopy(arrays(model))
    with pytest.raises(ValueError, match="loss='poisson' requires non-negative y, got -"):
        model.fit(X, y - 10)
    for p, q in zip(arrays(model), before, strict=True):
        assert_same_bits(p, q)
