"""Parameters of the estimators that are refused, each by itself and together."""

import copy
import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam import MLPRegressor
from fastadam.estimators.solvers import SOLVERS
from tests.helpers.effort import examples
from tests.helpers.fits import SMALL, X, X_val, Y, arrays, regressor, two, weights_val, y, y_val
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (("relu",), "activation must have a name for each of the 2 hidden layers, got"),
        (("relu",) * 3, "activation must have a name for each of the 2 hidden layers, got"),
        (("relu", "swish"), "activation must have names among ['elu', 'gelu', 'identity'"),
        (("relu", 3), "activation must have names among ['elu', 'gelu', 'identity'"),
    ],
)
def test_activations_that_fit_nothing_are_refused(activation, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        regressor(activation=activation).fit(X, y)
    with pytest.raises(ValueError, match=re.escape(message)):
        regressor().fit(X, y).set_params(activation=activation).predict(X)


BAD = {
    "X_val alone": ({}, {"X_val": X_val}, "X_val and y_val must be given together"),
    "y_val alone": ({}, {"y_val": y_val}, "X_val and y_val must be given together"),
    "weights alone": ({}, {"sample_weight_val": weights_val}, "sample_weight_val needs X_val and y_val"),
    "X_val of another width": ({}, {"X_val": X_val[:, :3], "y_val": y_val}, "or sample_weight_val: X has 3"),
    "y_val of another length": ({}, {"X_val": X_val, "y_val": y_val[:9]}, "X_val, y_val or sample_weight_val: Found"),
    "y_val of another width": ({}, {"X_val": X_val, "y_val": Y[:50]}, "y has 2 outputs, but 1 are trained"),
    "NaN in X_val": ({}, {"X_val": X_val * np.nan, "y_val": y_val}, "X_val, y_val or sample_weight_val: Input X"),
    "weights of another length": (
        {},
        {"X_val": X_val, "y_val": y_val, "sample_weight_val": weights_val[1:]},
        "X_val, y_val or sample_weight_val: sample_weight.shape",
    ),
    "negative y_val of poisson": (
        {"loss": "poisson"}, {"X_val": X_val, "y_val": -1 - y_val}, "requires non-negative y"
    ),
    "no quantile": ({"loss": "quantile"}, {}, "loss='quantile' needs quantile, a number in"),
    "quantile=1": ({"loss": "quantile", "quantile": 1.0}, {}, "The 'quantile' parameter of MLPRegressor must be"),
    "quantile=0": ({"quantile": 0.0}, {}, "The 'quantile' parameter of MLPRegressor must be"),
    "huber_delta=0": ({"huber_delta": 0}, {}, "The 'huber_delta' parameter of MLPRegressor must be"),
    "dropout=1": ({"dropout": 1}, {}, "The 'dropout' parameter of MLPRegressor must be"),
    "dropout<0": ({"dropout": -0.1}, {}, "The 'dropout' parameter of MLPRegressor must be"),
    "clip_norm=0": ({"clip_norm": 0}, {}, "The 'clip_norm' parameter of MLPRegressor must be"),
    "max_time=0": ({"max_time": 0}, {}, "The 'max_time' parameter of MLPRegressor must be"),
    "warmup_epochs<0": ({"warmup_epochs": -1}, {}, "The 'warmup_epochs' parameter of MLPRegressor must be"),
    "warmup_epochs=1.5": ({"warmup_epochs": 1.5}, {}, "The 'warmup_epochs' parameter of MLPRegressor must be"),
    "scoring=3": ({"scoring": 3}, {}, "The 'scoring' parameter of MLPRegressor must be"),
    "unknown scoring": ({"scoring": "x", "early_stopping": True}, {}, "'x' is not a valid scoring value"),
    **{
        f"lbfgs and {name}": ({"solver": "lbfgs", name: value}, {}, f"{name} is of the stochastic solvers alone")
        for name, value in {
            "dropout": 0.5, "clip_norm": 1.0, "max_time": 3.0, "warmup_epochs": 2, "learning_rate": "cosine",
        }.items()
    },
    "lbfgs and X_val": ({"solver": "lbfgs"}, {"X_val": X_val, "y_val": y_val}, "X_val is of the stochastic solvers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_refused_by_name_and_changes_nothing(case):
    parameters, validation, message = BAD[case]
    model = regressor().fit(X, np.abs(y))
    model.set_params(**parameters)
    before = vars(model).copy()
    values = copy.deepcopy(arrays(model))
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(X, np.abs(y), **validation)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    for p, q in zip(arrays(model), values, strict=True):
        assert_same_bits(p, q)


@examples(60)
@given(
    parameters=st.fixed_dictionaries(
        {},
        optional={
            "loss": st.sampled_from(["huber", "quantile", "absolute_error", "poisson", "hinge"]),
            "quantile": st.sampled_from([None, 0.5, 0, 2, "a"]),
            "huber_delta": st.sampled_from([1.0, 0, -1, np.nan]),
            "solver": st.sampled_from([*SOLVERS, "lbfgs", "newton"]),
            "activation": st.sampled_from(["gelu", "mish", ("tanh", "elu"), ("tanh",), ("a", "b"), 3]),
            "dropout": st.sampled_from([0.0, 0.5, 1.0, "a"]),
            "clip_norm": st.sampled_from([None, 1.0, 1e-300, 0, np.inf]),
            "learning_rate": st.sampled_from(["cosine", "plateau", "one_cycle", "adaptive", "x", abs, math.log]),
            "warmup_epochs": st.sampled_from([0, 2, 100, -1]),
            "scoring": st.sampled_from([None, "r2", "loss", "x", len]),
            "early_stopping": st.booleans(),
            "max_time": st.sampled_from([None, 1e-9, 10.0, -1]),
            "learning_rate_init": st.sampled_from([1e-3, 1e300, 0]),
            "alpha": st.sampled_from([0, 1e300, -1]),
        },
    ),
    target=st.sampled_from([y, Y, np.abs(y), two]),
)
def test_whatever_is_asked_for_ends_in_a_right_model_or_a_clear_error(parameters, target):
    model = MLPRegressor(**(SMALL | {"max_iter": 2} | parameters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.fit(X, target)
        except (ValueError, TypeError) as error:
            assert str(error)  # noqa: PT017 it may or may not be raised
            assert not hasattr(model, "coefs_")
        else:
            assert all(np.isfinite(array).all() for array in arrays(model))
            assert model.predict(X).shape == target.shape
