"""Parameters of the estimators: their combinations, and the docstrings that describe them."""

import copy
import inspect
import math
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.externals._numpydoc.docscrape import NumpyDocString

from fastadam import MLPClassifier, MLPRegressor
from fastadam.estimators.parameters import (
    PARAMETER_CONSTRAINTS,
    batch_rows,
    check_lbfgs,
    check_parameters,
    check_same_layers,
    check_validation_data,
    documented,
)
from fastadam.estimators.settings import settings_of
from fastadam.estimators.solvers import SOLVERS
from tests.helpers.effort import examples
from tests.helpers.fits import SMALL, X, X_val, Y, arrays, regressor, two, weights_val, y, y_val
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])


@ESTIMATORS
def test_the_docstring_describes_each_parameter_in_the_order_of_the_constructor(kind):
    described = [entry.name for entry in NumpyDocString(kind.__doc__)["Parameters"]]
    assert described == list(inspect.signature(kind).parameters)


@ESTIMATORS
def test_the_docstring_has_the_defaults_of_the_constructor(kind):
    for entry in NumpyDocString(kind.__doc__)["Parameters"]:
        default = inspect.signature(kind).parameters[entry.name].default
        assert eval(entry.type.rpartition("default=")[2]) == default, entry.name


@ESTIMATORS
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_docstring_describes_each_attribute_of_a_fit(kind):
    X = np.eye(4)
    model = kind(max_iter=1).fit(X, [0, 1, 0, 1], X_val=X, y_val=[0, 1, 0, 1])
    described = [entry.name for entry in NumpyDocString(kind.__doc__)["Attributes"]]
    assert {name for name in vars(model) if name.endswith("_")} | {"feature_names_in_"} == set(described)
    assert len(described) == len(set(described))


@ESTIMATORS
def test_the_docstring_is_filled_in(kind):
    score, other = ("R2 score", "accuracy") if kind is MLPRegressor else ("accuracy", "R2 score")
    assert f"stop when the {score}" in kind.__doc__
    assert other not in kind.__doc__
    assert "{score}" not in kind.__doc__
    assert "{attributes}" not in kind.__doc__
    assert 'device : {"cpu", "cuda", "auto"}' in kind.__doc__
    assert max(map(len, kind.__doc__.splitlines())) <= 120
    assert all(not line or line[0] != " " or line.startswith("    ") for line in kind.__doc__.splitlines())


def test_a_class_without_a_docstring_stays_so():
    @documented("score")
    class Bare:
        pass

    assert Bare.__doc__ is None


def test_the_estimators_can_be_imported_without_docstrings():
    code = "import fastadam; print(fastadam.MLPRegressor.__doc__, fastadam.MLPClassifier(max_iter=3).max_iter)"
    result = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, timeout=200, check=False
    )  # fmt: skip
    assert (result.stdout, result.returncode) == ("None 3\n", 0), result.stderr


@pytest.mark.parametrize(
    ("value", "error"), [(10**400, "in the range"), (-1, "in the range"), ("a", "must be a float")]
)
def test_numbers_are_validated_as_the_floats_that_are_computed_with(value, error):
    parameters = MLPRegressor(alpha=value).get_params()
    with pytest.raises(ValueError, match=f"The 'alpha' parameter of Name must be.*{error}|{error}"):
        check_parameters(parameters, PARAMETER_CONSTRAINTS, "Name")
    check_parameters(parameters | {"alpha": 1}, PARAMETER_CONSTRAINTS, "Name")


def test_validation_data_are_given_together():
    check_validation_data(None, None, None)
    check_validation_data([1], [1], None)
    for data, error in {
        (1, None, None): "X_val and y_val must be given together",
        (None, 1, None): "X_val and y_val must be given together",
        (None, None, 1): "sample_weight_val needs X_val and y_val",
    }.items():
        with pytest.raises(ValueError, match=error):
            check_validation_data(*data)


def test_lbfgs_refuses_what_it_does_not_support():
    def settings(**parameters):
        return settings_of(MLPRegressor(solver="lbfgs", **parameters).get_params(), (100,))

    check_lbfgs(settings(learning_rate="adaptive", device="auto"), None)
    for name, value in {"dropout": 0.5, "clip_norm": 1, "max_time": 1, "device": "cuda", "warmup_epochs": 1}.items():
        with pytest.raises(ValueError, match=f"{name} is only supported by the stochastic solvers, got solver='lbfgs'"):
            check_lbfgs(settings(**{name: value}), None)
    with pytest.raises(ValueError, match="X_val is only supported"):
        check_lbfgs(settings(), [[1.0]])


def test_layers_cannot_change_in_a_warm_start():
    coefs = [np.zeros((4, 3)), np.zeros((3, 1))]
    check_same_layers(coefs, [4, 3, 1])
    with pytest.raises(ValueError, match=r"fitted with \[3\] hidden units and 1 outputs; continuing with \[5\] hidden"):
        check_same_layers(coefs, [4, 5, 1])


def test_rows_of_a_batch():
    assert [batch_rows("auto", n) for n in (7, 200, 201)] == [7, 200, 200]
    assert batch_rows(5, 7) == 5
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size"):
        assert batch_rows(8, 7) == 7


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
        f"lbfgs and {name}": ({"solver": "lbfgs", name: value}, {}, f"{name} is only supported by the stochastic")
        for name, value in {
            "dropout": 0.5, "clip_norm": 1.0, "max_time": 3.0, "warmup_epochs": 2, "learning_rate": "cosine",
        }.items()
    },
    "lbfgs and X_val": ({"solver": "lbfgs"}, {"X_val": X_val, "y_val": y_val}, "X_val is only supported"),
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
