"""Parameters of the estimators: their combinations, and the docstrings that describe them."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
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
    for given, error in {
        (1, None, None): "X_val and y_val must be given together",
        (None, 1, None): "X_val and y_val must be given together",
        (None, None, 1): "sample_weight_val needs X_val and y_val",
    }.items():
        with pytest.raises(ValueError, match=error):
            check_validation_data(*given)


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
