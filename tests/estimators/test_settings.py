"""Settings of a fit: converted once, frozen, and all that the modules below `base.py` see of an estimator."""

import ast
import inspect
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import fastadam
from fastadam import MLPClassifier, MLPRegressor
from fastadam.estimators.settings import FitSettings, activation_names, hidden_units, settings_of
from tests.helpers.naive import assert_same_bits

FOLDER = Path(fastadam.__file__).parent / "estimators"

KNOW_THE_ESTIMATOR = {"__init__", "base", "regressor", "classifier", "checkpoint", "fit_state", "display"}
"""Modules at the height of `base.py`, or above."""

OF_THE_ESTIMATOR = {
    "hidden_layer_sizes": "`hidden` has the units",
    "random_state": "the stream is passed by itself",
    "loss": "part of LossSettings",
    "huber_delta": "part of LossSettings",
    "quantile": "part of LossSettings",
    "class_weight": "part of the weights of the samples",
    "label_smoothing": "part of the targets",
}

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 4))
y = X[:, 0] * X[:, 1]


def settings(**parameters):
    values = MLPRegressor(**parameters).get_params()
    return settings_of(values, hidden_units(values["hidden_layer_sizes"]))


@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
def test_each_parameter_of_the_constructor_is_a_setting_or_has_a_reason_not_to_be(kind):
    parameters = set(inspect.signature(kind).parameters)
    names = {field.name for field in fields(FitSettings)}
    assert parameters - names <= set(OF_THE_ESTIMATOR)
    assert names - parameters == {"hidden", "activations"}


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        settings().alpha = 1.0
    with pytest.raises((AttributeError, TypeError)):
        settings().another = 1.0


def test_defaults_are_those_of_the_constructor():
    made, defaults = settings(), MLPRegressor().get_params()
    for field in fields(FitSettings):
        if field.name in defaults:
            value = getattr(made, field.name)
            assert (type(value), value) == (type(defaults[field.name]), defaults[field.name]) or field.name == "verbose"
    assert (made.hidden, made.activations, made.verbose) == ((100,), ("relu",), 0)


CONVERSIONS = {
    "alpha": (Fraction(1, 4), 0.25),
    "tol": (True, 1.0),
    "learning_rate_init": (np.float32(0.5), 0.5),
    "momentum": (0, 0.0),
    "max_iter": (np.int16(7), 7),
    "warmup_epochs": (np.uint8(3), 3),
    "batch_size": (np.int64(32), 32),
    "n_iter_no_change": (np.int32(4), 4),
    "n_threads": (np.int64(2), 2),
    "clip_norm": (1, 1.0),
    "max_time": (np.float64(1.5), 1.5),
    "shuffle": (np.False_, False),
    "verbose": (True, 1),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_numbers_are_pythons_own(name):
    given, expected = CONVERSIONS[name]
    value = getattr(settings(**{name: given}), name)
    assert (type(value), value) == (type(expected), expected)


@pytest.mark.parametrize("value", [None, 3, 3.0, np.inf])
def test_what_may_be_of_several_kinds_stays_of_its_kind(value):
    for name in ("max_time", "n_iter_no_change") if value is not None else ("max_time", "clip_norm", "n_threads"):
        found = getattr(settings(**{name: value}), name)
        assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("fraction", [0, 0.1, np.float32(0.1), Fraction(1, 10)])
def test_the_validation_fraction_is_kept_as_given_for_the_split(fraction):
    assert settings(validation_fraction=fraction).validation_fraction is fraction


def test_messages_show_numbers_as_they_were_given():
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=10**9, n_iter_no_change=10**9, max_time=1)
    with pytest.warns(ConvergenceWarning, match=r"Maximum time \(1 s\)"):
        model.fit(X, y)


@pytest.mark.parametrize(
    ("sizes", "units"),
    [((), ()), (5, (5,)), (np.int64(5), (5,)), ([3, np.int8(2)], (3, 2)), (np.array([3, 2]), (3, 2))],
)
def test_hidden_units(sizes, units):
    found = hidden_units(sizes)
    assert found == units
    assert {type(unit) for unit in found} <= {int}


def test_activation_names():
    assert activation_names("tanh", 3) == ("tanh",) * 3
    assert activation_names(["tanh", "relu"], 2) == ("tanh", "relu")
    assert activation_names("logistic", 0) == ()
    assert settings(hidden_layer_sizes=(3, 2), activation=["elu", "mish"]).activations == ("elu", "mish")
    with pytest.raises(ValueError, match="each of the 1 hidden layers"):
        settings(activation=["elu", "mish"])


class Changes:
    """Callback that changes the parameters of the estimator after the first epoch."""

    def __init__(self, **parameters):
        self.parameters = parameters

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        estimator.set_params(**self.parameters)


def model(**parameters):
    return MLPRegressor(**{"hidden_layer_sizes": (4,), "max_iter": 5, "random_state": 0, "tol": 0.0} | parameters)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_keeps_the_settings_that_it_began_with(capsys):
    changed = {"verbose": True, "max_iter": 1, "activation": "tanh", "alpha": 100.0, "solver": "lbfgs"}
    expected = model().fit(X, y)
    found = model().set_callbacks(Changes(**changed)).fit(X, y)
    assert capsys.readouterr() == ("", "")
    assert_same_bits(found._params.flat, expected._params.flat)
    assert found.loss_curve_ == expected.loss_curve_
    assert found.verbose is True


def test_what_was_changed_during_a_fit_is_validated_before_the_next():
    estimator = model().set_callbacks(Changes(alpha=-1.0)).partial_fit(X, y)
    with pytest.raises(ValueError, match="The 'alpha' parameter of MLPRegressor must be"):
        estimator.partial_fit(X, y)


@pytest.mark.parametrize("name", sorted({source.stem for source in FOLDER.glob("*.py")} - KNOW_THE_ESTIMATOR))
def test_no_module_below_base_sees_the_estimator(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    private = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr.startswith("_")
        and node.value.id not in ("self", "plateau")  # Plateau, of `schedules.py`
        and not node.attr.endswith("__")
        and node.attr != "_replace"
    }
    assert ("estimator" in arguments, private) == (False, set())
