"""Options of the estimators beyond scikit-learn's: solvers, losses, activations, schedules, validation data."""

import pickle

import numpy as np
import pytest
from sklearn import metrics
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from fastadam.formulas.activations import ACTIVATIONS
from tests.helpers import naive_mlp
from tests.helpers.fits import X, assert_same_model, classifier, n, regressor, three, y
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# --- solvers ----------------------------------------------------------------------------------------------------------


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "parameters", "metric"),
    [
        ("absolute_error", {}, metrics.mean_absolute_error),
        ("huber", {"huber_delta": 1e9}, lambda y, p: metrics.mean_squared_error(y, p) / 2),
        ("quantile", {"quantile": 0.3}, lambda y, p: metrics.mean_pinball_loss(y, p, alpha=0.3)),
        ("squared_error", {}, lambda y, p: metrics.mean_squared_error(y, p) / 2),
        ("poisson", {}, lambda y, p: metrics.mean_poisson_deviance(y + 1e-300, p) / 2),
    ],
)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_the_loss_that_is_reported_is_the_metric(loss, parameters, metric, solver):
    target = y**2
    start = regressor(loss=loss, solver="adam", max_iter=1, learning_rate_init=1e-300, alpha=0, **parameters)
    start.set_params(batch_size=n).fit(X, target)
    assert start.loss_ == pytest.approx(metric(target, start.predict(X)))
    model = regressor(loss=loss, solver=solver, alpha=0, max_iter=60, learning_rate_init=0.01, **parameters)
    assert model.fit(X, target).loss_ < 0.8 * start.loss_


# --- classes ----------------------------------------------------------------------------------------------------------


# --- activations, dropout ---------------------------------------------------------------------------------------------


@pytest.mark.thin(8)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_train_and_predict(activation, solver):
    model = regressor(activation=activation, solver=solver, max_iter=300, learning_rate_init=0.01, alpha=0)
    score = model.fit(X, y).score(X, y)
    assert score > (0.7 if activation != "identity" else -1)
    assert_same_bits(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


@pytest.mark.parametrize("names", [("relu", "relu"), ["relu", "relu"]])
def test_an_activation_for_each_layer(names):
    assert_same_model(regressor(activation=names).fit(X, y), regressor().fit(X, y))
    different = regressor(activation=("tanh", "gelu")).fit(X, y)
    assert different.loss_ != regressor(activation=("gelu", "tanh")).fit(X, y).loss_
    clone(different).fit(X, y)


def test_dropout_is_for_training_alone_and_depends_on_the_seed_alone():
    parameters = {"dropout": 0.4, "max_iter": 30, "learning_rate_init": 0.01}
    model = regressor(**parameters).fit(X, y)
    assert_same_bits(model.predict(X), model.predict(X))
    expected = naive_mlp.predict(model.coefs_, model.intercepts_, "relu", X)[:, 0]
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-10)
    for n_threads in (1, 2):
        assert_same_model(model, regressor(n_threads=n_threads, **parameters).fit(X, y))
    assert model.loss_ != regressor(**parameters | {"random_state": 4}).fit(X, y).loss_
    assert model.loss_ > regressor(**parameters | {"dropout": 0.0}).fit(X, y).loss_


def test_dropout_goes_on_where_it_stopped():
    for activation in ("tanh", "silu"):
        once = regressor(dropout=0.3, activation=activation, max_iter=8).fit(X, y)
        twice = regressor(dropout=0.3, activation=activation, max_iter=4, warm_start=True).fit(X, y).fit(X, y)
        assert_same_model(once, twice)


# --- learning rates ---------------------------------------------------------------------------------------------------


# --- validation data, scoring, time -----------------------------------------------------------------------------------


# --- what makes no sense ----------------------------------------------------------------------------------------------


def test_options_inside_of_cross_validation():
    model = classifier(dropout=0.1, learning_rate="one_cycle", class_weight="balanced", solver="adamw", max_iter=20)
    assert np.isfinite(cross_val_score(model, X, three, cv=3)).all()
