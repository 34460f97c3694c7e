"""Training by L-BFGS."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPRegressor
from tests.helpers.fits import X, classifier, regressor, y
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("early_stopping", [False, True])
def test_no_hidden_layer_is_a_linear_model(early_stopping):
    parameters = {"hidden_layer_sizes": (), "early_stopping": early_stopping, "max_iter": 400}
    linear = X @ np.arange(1.0, 6.0)
    assert regressor(learning_rate_init=0.05, alpha=0, **parameters).fit(X, linear).score(X, linear) > 0.999
    assert classifier(learning_rate_init=0.05, **parameters).fit(X, linear > 0).score(X, linear > 0) > 0.95


def test_ctrl_c_keeps_the_model_of_the_last_iteration_of_lbfgs():
    class Impatient:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context, **data): ...

        def on_fit_task_end(self, estimator, context):
            if context.task_name == "epoch" and estimator.n_iter_ == 3:
                raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="^Training interrupted by user.$"):
        model = regressor(solver="lbfgs").set_callbacks(Impatient()).fit(X, y)
    expected = regressor(solver="lbfgs", max_iter=3).fit(X, y)
    assert model.n_iter_ == 3
    assert_same_bits(model.predict(X), expected.predict(X))


def test_a_callback_stops_lbfgs():
    class Stop:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context, **data): ...

        def on_fit_task_end(self, estimator, context, fitted_estimator=None):
            return context.task_name == "epoch" and estimator.n_iter_ == 2

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = regressor(solver="lbfgs").set_callbacks(Stop()).fit(X, y)
    assert model.n_iter_ == 2
    assert_same_bits(model.predict(X), regressor(solver="lbfgs", max_iter=2).fit(X, y).predict(X))


def test_lbfgs_has_no_partial_fit():
    assert not hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")
    assert hasattr(MLPRegressor(solver="sgd"), "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        MLPRegressor(solver="lbfgs").partial_fit(X, y)
