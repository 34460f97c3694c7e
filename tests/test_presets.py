"""The preset for tables: its pieces, by hand, and what it is for."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.neural_network import MLPRegressor as PeersMLP
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastadam import MLPRegressor
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.presets import TABULAR_REGRESSION, smooth_clip, tabular_regressor
from tests.helpers.naive import assert_same_bits

pytestmark = [
    pytest.mark.skipif(JIT_DISABLED, reason="it trains a network that is large for interpreted code"),
]

X, y = make_friedman1(300, noise=1.0, random_state=0)
y = 100 * y - 700


def short(**parameters):
    return tabular_regressor(max_iter=3, random_state=0, **parameters)


def test_clipping_is_the_formula_in_float32_and_nothing_overflows():
    x = np.array([[-1e300, -30.0, -1.0, 0.0], [1e-30, 0.5, 3.0, 1e308]])
    clipped = smooth_clip(x)
    assert clipped.dtype == np.float32
    usual = np.abs(x) < 100
    np.testing.assert_allclose(clipped[usual], x[usual] / np.sqrt(1 + (x[usual] / 3) ** 2), rtol=1e-6)
    np.testing.assert_array_equal(clipped[~usual], np.array([-3, 3], np.float32))


def test_it_is_its_pieces_put_together():
    model = short().fit(X, y)
    mean, scale = y.mean(), y.std()
    standardized = (X - X.mean(axis=0)) / X.std(axis=0)
    network = MLPRegressor(**TABULAR_REGRESSION | {"max_iter": 3, "random_state": 0})
    network.fit(smooth_clip(standardized), (y - mean) / scale)
    assert network.coefs_[0].dtype == np.float32
    np.testing.assert_allclose(model.predict(X), network.predict(smooth_clip(standardized)) * scale + mean, rtol=1e-3)


def test_parameters_are_the_networks_and_go_before_those_of_the_preset():
    network = tabular_regressor(dropout=0.5, clip_norm=1.0).regressor[-1]
    assert (network.dropout, network.clip_norm, network.solver) == (0.5, 1.0, "adamw")
    assert TABULAR_REGRESSION["dropout"] != 0.5
    assert MLPRegressor().solver == "adam"
    with pytest.raises(TypeError, match="depth"):
        tabular_regressor(depth=3)


def test_it_is_cloned_set_and_pickled_as_any_estimator():
    model = clone(short()).set_params(regressor__mlpregressor__hidden_layer_sizes=(20,)).fit(X, y)
    assert [coef.shape for coef in model.regressor_[-1].coefs_] == [(10, 20), (20, 1)]
    assert_same_bits(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_several_outputs_of_different_scales():
    targets = np.column_stack([y, 1e-3 * y])
    predicted = tabular_regressor(max_iter=30, random_state=0).fit(X, targets).predict(X)
    assert predicted.shape == targets.shape
    assert (np.abs(predicted - targets).mean(axis=0) < 0.5 * targets.std(axis=0)).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # scikit-learn's
def test_unseen_rows_are_predicted_better_than_by_scikit_learns_defaults():
    X_test, y_test = make_friedman1(500, noise=0.0, random_state=1)
    y_test = 100 * y_test - 700
    preset = tabular_regressor(random_state=0).fit(X, y)
    default = make_pipeline(StandardScaler(), PeersMLP(random_state=0)).fit(X, y)
    assert preset.score(X_test, y_test) > max(0.8, default.score(X_test, y_test))
