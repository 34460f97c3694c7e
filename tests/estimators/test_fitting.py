"""A fit with validation data, scores, and a limit of time."""

import time
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import metrics
from sklearn.exceptions import ConvergenceWarning

from tests.helpers.fits import (
    X,
    X_val,
    assert_same_model,
    classifier,
    n,
    regressor,
    three,
    three_val,
    weights_val,
    y,
    y_val,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_the_loss_on_validation_data_is_that_of_the_metric():
    model = regressor(alpha=1.0).fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weights_val)
    expected = metrics.mean_squared_error(y_val, model.predict(X_val), sample_weight=weights_val) / 2
    assert len(model.validation_loss_curve_) == 6
    assert model.validation_loss_curve_[-1] == pytest.approx(expected)
    assert_same_model(model, regressor(alpha=1.0).fit(X, y))  # it changes nothing
    assert model.validation_scores_ is None
    model = classifier(label_smoothing=0.2, class_weight="balanced").fit(X, three, X_val=X_val, y_val=three_val)
    expected = metrics.log_loss(three_val, model.predict_proba(X_val))
    assert model.validation_loss_curve_[-1] == pytest.approx(expected)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, lambda X: X.astype(np.float32)])
def test_early_stopping_scores_the_validation_data_and_keeps_the_best(form):
    parameters = {"early_stopping": True, "max_iter": 40, "learning_rate_init": 0.05}
    model = regressor(**parameters).fit(X, y, X_val=form(X_val), y_val=y_val, sample_weight_val=weights_val)
    assert model.t_ == 40 * n  # nothing is held out of X
    best = model.score(form(X_val), y_val, weights_val)
    assert model.best_validation_score_ == max(model.validation_scores_) == pytest.approx(best)
    model = classifier(**parameters).fit(X, three, X_val=form(X_val), y_val=three_val)
    assert model.best_validation_score_ == pytest.approx(model.score(form(X_val), three_val))


def test_validation_data_of_another_type_than_the_model():
    model = regressor(early_stopping=True).fit(X.astype(np.float32), y, X_val=X_val, y_val=y_val)
    assert model.coefs_[0].dtype == np.float32
    frame, names = pd.DataFrame(X, columns=list("abcde")), list("abcde")
    regressor(early_stopping=True, scoring="r2").fit(frame, y, X_val=pd.DataFrame(X_val, columns=names), y_val=y_val)


@pytest.mark.parametrize("given", [True, False])
def test_scoring_by_name_by_function_and_by_loss(given):
    validation = {"X_val": X_val, "y_val": y_val} if given else {}

    def worst(estimator, X, y):
        return -float(np.abs(estimator.predict(X) - y).max())

    def fitted(scoring):
        return regressor(early_stopping=True, scoring=scoring, learning_rate_init=0.02).fit(X, y, **validation)

    usual, r2, loss, mse = (fitted(scoring) for scoring in (None, "r2", "loss", "neg_mean_squared_error"))
    np.testing.assert_allclose(r2.validation_scores_, usual.validation_scores_, rtol=1e-12)
    np.testing.assert_allclose(2 * np.array(loss.validation_scores_), mse.validation_scores_, rtol=1e-12)
    model = fitted(worst)
    if given:
        assert model.best_validation_score_ == pytest.approx(worst(model, X_val, y_val))


def test_validation_losses_go_on_in_a_warm_start():
    once = regressor().fit(X, y, X_val=X_val, y_val=y_val)
    twice = regressor(max_iter=3, warm_start=True)
    for _ in range(2):
        twice.fit(X, y, X_val=X_val, y_val=y_val)
    assert twice.validation_loss_curve_ == once.validation_loss_curve_
    once.fit(X, y)
    assert not hasattr(once, "validation_loss_curve_")


def test_no_epoch_begins_after_max_time():
    start = time.perf_counter()
    with pytest.warns(ConvergenceWarning, match=r"Maximum time \(0.2 s\) reached"):
        model = regressor(max_time=0.2, max_iter=10**6).fit(X, y)
    assert time.perf_counter() - start < 20
    assert 0 < model.n_iter_ < 10**6
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        regressor(max_time=1e6, tol=1e9, n_iter_no_change=2, max_iter=50).fit(X, y)
