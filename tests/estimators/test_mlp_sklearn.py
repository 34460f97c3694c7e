"""Both estimators against scikit-learn's: the same call is made to both, and everything they do is compared."""

import contextlib
import copy
import inspect
import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastadam import MLPClassifier, MLPRegressor
from tests.helpers.effort import examples

SMALL = {"random_state": 3, "max_iter": 20, "hidden_layer_sizes": (12, 7)}
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
NUMBER = re.compile(r"-?\d+\.\d+|nan|inf")

rng = np.random.default_rng(0)
n = 120
X = rng.standard_normal((n, 6))
Y = np.column_stack([X[:, 0] ** 2, X[:, 1] * X[:, 2], X[:, 3] + 1])
y = Y[:, 0]
weights = rng.uniform(0, 2, n)
some_zeros = X * (X > 0.3)
names = list("abcdef")


@dataclass
class Outcome:
    """Outcome of a call: the model or the error, the warnings and what was printed."""

    model: Any
    error: tuple[type, str] | None
    warnings: list[tuple[type, str]]
    printed: str


def outcome(Estimator, parameters, calls):
    """Make the estimator and call it; each call is a method and its arguments."""
    model, error, printed = None, None, io.StringIO()
    parameters, calls = copy.deepcopy((SMALL | parameters, calls))  # a RandomState belongs to one of the two
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflows: compiled code has none
        try:
            model = Estimator(**parameters)
            for method, *arguments in calls:
                getattr(model, method)(*arguments)
        except Exception as e:
            error = type(e), str(e)
    return Outcome(model, error, [(w.category, str(w.message)) for w in caught], printed.getvalue())


def theirs_of(Estimator):
    return getattr(sklearn.neural_network, Estimator.__name__)


def both(parameters, *calls, Estimator=MLPRegressor):
    return tuple(outcome(E, parameters, calls) for E in (Estimator, theirs_of(Estimator)))


def fitted_attributes(model):
    return {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}


def assert_same(parameters, *calls, predict=None, loss=1e-8, coefs=1e-6, Estimator=MLPRegressor):
    """Everything that a user sees is the same; numbers are as close as `loss`, relative, and `coefs`, absolute."""
    ours, theirs = both({"verbose": True, **parameters}, *calls, Estimator=Estimator)
    assert ours.error == theirs.error is None
    assert ours.warnings == theirs.warnings
    assert NUMBER.sub("#", ours.printed) == NUMBER.sub("#", theirs.printed)
    numbers = ([float(number) for number in NUMBER.findall(o.printed)] for o in (ours, theirs))
    np.testing.assert_allclose(*numbers, rtol=loss, atol=2e-8 if loss < 1e-6 else loss)
    a, b = ours.model, theirs.model
    assert fitted_attributes(a) == fitted_attributes(b)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("loss_curve_", "loss_", "best_loss_", "validation_scores_", "best_validation_score_"):
        if getattr(b, name, None) is None:
            assert getattr(a, name, None) is None
        else:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=loss, err_msg=name)
    for name in ("coefs_", "intercepts_"):
        for p, q in zip(getattr(a, name), getattr(b, name), strict=True):
            assert (p.shape, p.dtype) == (q.shape, q.dtype)
            np.testing.assert_allclose(p, q, rtol=0, atol=coefs)
    predict = calls[0][1] if predict is None else predict
    assert_same_predictions(a, b, predict, 1e2 * coefs)


def assert_same_predictions(a, b, X, tolerance):
    p, q = a.predict(X), b.predict(X)
    assert (p.shape, p.dtype) == (q.shape, q.dtype)
    if isinstance(a, MLPRegressor):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)
        return
    p, q = (labels.toarray() if sparse.issparse(labels) else labels for labels in (p, q))
    np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(a.classes_, b.classes_)
    for method in ("predict_proba", "predict_log_proba"):
        with np.errstate(divide="ignore"):
            p, q = getattr(a, method)(X), getattr(b, method)(X)
        assert (p.shape, p.dtype) == (q.shape, q.dtype)
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)


# --- the table: parameters, and what fit is called with --------------------------------------------------------------

TABLE: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "defaults": ({"hidden_layer_sizes": (100,)}, (X, y)),
    **{f"{a}": ({"activation": a}, (X, y)) for a in ACTIVATIONS},
    **{f"{a}, several outputs": ({"activation": a, "batch_size": 32}, (X, Y)) for a in ACTIVATIONS},
    **{
        f"{a}, until it stops": ({"activation": a, "max_iter": 400, "tol": 1e-3, "learning_rate_init": 0.01}, (X, y))
        for a in ACTIVATIONS
    },
    **{f"{a}, sample weights": ({"activation": a, "batch_size": 50}, (X, Y, weights)) for a in ACTIVATIONS},
    **{f"batches of {size}": ({"batch_size": size, "max_iter": 5}, (X, y)) for size in (1, 7, n - 1, n, n + 1, 9999)},
    "batches larger than the training part": ({"batch_size": 115, "early_stopping": True}, (X, y)),
    "no shuffling": ({"shuffle": False, "batch_size": 16}, (X, Y)),
    "no shuffling, until it stops": ({"shuffle": False, "max_iter": 300, "tol": 0.01}, (X, y)),
    "early stopping": ({"early_stopping": True, "max_iter": 300, "learning_rate_init": 0.01}, (X, y)),
    "early stopping, all epochs": ({"early_stopping": True, "n_iter_no_change": np.inf}, (X, y)),
    "early stopping, several outputs": ({"early_stopping": True, "max_iter": 300, "validation_fraction": 0.3}, (X, Y)),
    "early stopping, sample weights": ({"early_stopping": True, "max_iter": 300, "batch_size": 20}, (X, y, weights)),
    "early stopping, sparse": ({"early_stopping": True, "batch_size": 20}, (sparse.csr_array(some_zeros), y)),
    "early stopping, no shuffling": ({"early_stopping": True, "shuffle": False}, (X, y)),
    "early stopping, constant y": ({"early_stopping": True}, (X, np.ones(n))),
    "early stopping, two samples held out": ({"early_stopping": True, "validation_fraction": 0.1}, (X[:19], y[:19])),
    "n_iter_no_change=1": ({"n_iter_no_change": 1, "tol": 0.05, "max_iter": 400}, (X, y)),
    "n_iter_no_change=inf": ({"n_iter_no_change": np.inf, "tol": 1e3, "max_iter": 40}, (X, y)),
    "large tol": ({"tol": 1e9, "n_iter_no_change": 3}, (X, y)),
    "stops in the last epoch": ({"tol": 1e9, "n_iter_no_change": 3, "max_iter": 5}, (X, y)),
    "one epoch": ({"max_iter": 1}, (X, y)),
    "RandomState": ({"random_state": np.random.RandomState(8), "batch_size": 30}, (X, y)),
    "RandomState, early stopping": ({"random_state": np.random.RandomState(8), "early_stopping": True}, (X, y)),
    "another seed": ({"random_state": np.int64(12345)}, (X, y)),
    "alpha=0": ({"alpha": 0}, (X, y)),
    "alpha=10": ({"alpha": 10, "batch_size": 32}, (X, Y)),
    "alpha with weights": ({"alpha": 10, "batch_size": 32}, (X, Y, weights)),
    "learning rate": ({"learning_rate_init": 0.1}, (X, y)),
    "betas": ({"beta_1": 0.5, "beta_2": 0.9}, (X, y)),
    "betas of zero": ({"beta_1": 0, "beta_2": 0, "epsilon": 0.1}, (X, y)),
    "epsilon": ({"epsilon": 0.5}, (X, y)),
    "parameters of other solvers": ({"momentum": 0.1, "learning_rate": "adaptive", "power_t": 2, "max_fun": 1}, (X, y)),
    "no hidden layer": ({"hidden_layer_sizes": ()}, (X, y)),
    "no hidden layer, early stopping": ({"hidden_layer_sizes": (), "early_stopping": True}, (X, y)),
    "one hidden unit": ({"hidden_layer_sizes": 1}, (X, y)),
    "list of layers": ({"hidden_layer_sizes": [5, 4]}, (X, y)),
    "array of layers": ({"hidden_layer_sizes": np.array([5, 4])}, (X, y)),
    "six hidden layers": ({"hidden_layer_sizes": (4,) * 6, "activation": "tanh"}, (X, y)),
    "wide layer": ({"hidden_layer_sizes": 300, "max_iter": 5}, (X, y)),
    "one sample": ({}, (X[:1], y[:1])),
    "one feature": ({}, (X[:, :1], y)),
    "zero features that vary": ({}, (np.ones((n, 3)), y)),
    "csr matrix": ({"batch_size": 16}, (sparse.csr_matrix(some_zeros), Y)),
    "csr array": ({"batch_size": 16, "activation": "tanh"}, (sparse.csr_array(some_zeros), y)),
    "csc matrix": ({"batch_size": 16}, (sparse.csc_matrix(some_zeros), Y)),
    "csc array, no shuffling": ({"batch_size": 16, "shuffle": False}, (sparse.csc_array(some_zeros), y)),
    "coo matrix": ({"batch_size": 16}, (sparse.coo_matrix(some_zeros), y)),
    "sparse, sample weights": ({"batch_size": 16}, (sparse.csr_array(some_zeros), y, weights)),
    "sparse integers": ({}, (sparse.csr_array((some_zeros * 9).astype(int)), y)),
    "empty sparse": ({}, (sparse.csr_array((n, 6)), y)),
    "weights of zero": ({}, (X, y, (weights > 0.5).astype(float))),
    "integer weights": ({"batch_size": 50}, (X, y, (weights * 5).astype(int))),
    "one weight for all": ({}, (X, y, 2.0)),
    "list of weights": ({}, (X, y, weights.tolist())),
    "negative weights": ({}, (X, y, weights - 0.3)),
    "column of targets": ({}, (X, y[:, None])),
    "lists": ({}, (X.tolist(), y.tolist())),
    "integer X": ({}, ((X * 3).astype(int), y)),
    "boolean X": ({}, (X > 0, y)),
    "integer y": ({}, (X, (y * 3).astype(int))),
    "boolean y": ({}, (X, y > 1)),
    "float32 y": ({}, (X, y.astype(np.float32))),
    "object y": ({}, (X, y.astype(object))),
    "object X": ({}, (X.astype(object), y)),
    "float16": ({}, (X.astype(np.float16), y)),
    "bytes in the other order": ({}, (X.astype(">f8"), y.astype(">f8"))),
    "Fortran order": ({"batch_size": 16}, (np.asfortranarray(X), np.asfortranarray(Y))),
    "strides": ({}, (np.repeat(X, 2, axis=1)[::-1, ::2], np.repeat(y, 2)[::2])),
    "DataFrame": ({}, (pd.DataFrame(X, columns=names), pd.Series(y))),
    "DataFrame, early stopping": ({"early_stopping": True}, (pd.DataFrame(X, columns=names), pd.Series(y))),
    "DataFrame of targets": ({}, (pd.DataFrame(X), pd.DataFrame(Y))),
    "nullable integers": ({}, (X, pd.Series(np.arange(n) % 5, dtype="Int64"))),
    "large targets": ({"max_iter": 60, "learning_rate_init": 0.1}, (X, y * 1e6)),
}


@pytest.mark.parametrize("case", TABLE)
def test_fit_is_the_same(case):
    parameters, arguments = TABLE[case]
    assert_same(parameters, ("fit", *arguments))


rates = ["constant", "invscaling", "adaptive"]
SGD = {"solver": "sgd", "learning_rate_init": 0.05, "max_iter": 60}
LBFGS = {"solver": "lbfgs", "max_iter": 6}
counts = np.floor(np.exp(0.5 * Y.clip(-2, 2)))
OTHERS = {
    **{f"sgd, {r}": (SGD | {"learning_rate": r, "tol": 0.02, "max_iter": 200}, (X, y)) for r in rates},
    **{f"sgd, {r}, all epochs": (SGD | {"learning_rate": r, "n_iter_no_change": np.inf}, (X, Y)) for r in rates},
    "sgd, plain momentum": (SGD | {"nesterovs_momentum": False, "momentum": 0.5}, (X, y)),
    "sgd, no momentum": (SGD | {"momentum": 0}, (X, y)),
    "sgd, no momentum at all": (SGD | {"momentum": 0, "nesterovs_momentum": False, "batch_size": 16}, (X, Y)),
    "sgd, power": (SGD | {"learning_rate": "invscaling", "power_t": 0.1, "batch_size": 16}, (X, y)),
    "sgd, adaptive, early stopping": (
        SGD | {"learning_rate": "adaptive", "early_stopping": True, "n_iter_no_change": 2, "max_iter": 300},
        (X, y),
    ),
    "sgd, adaptive until the rate is too small": (
        SGD | {"learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 1e9, "max_iter": 300},
        (X, y),
    ),
    "sgd, weights, sparse": (SGD | {"alpha": 0.1}, (sparse.csr_array(some_zeros), y, weights)),
    "poisson": ({"loss": "poisson", "batch_size": 32}, (X, counts[:, 0])),
    "poisson, several outputs, weights": ({"loss": "poisson", "alpha": 0.5}, (X, counts, weights)),
    "poisson, sgd": (SGD | {"loss": "poisson"}, (X, counts[:, 0])),
    "poisson, early stopping": ({"loss": "poisson", "early_stopping": True}, (X, counts[:, 0])),
    "poisson, lbfgs": (LBFGS | {"loss": "poisson", "alpha": 0.1}, (X, counts, weights)),
    **{f"lbfgs, {a}": (LBFGS | {"activation": a}, (X, y)) for a in ACTIVATIONS},
    "lbfgs, several outputs, weights": (LBFGS | {"alpha": 1.0}, (X, Y, weights)),
    "lbfgs, sparse": (LBFGS, (sparse.csr_array(some_zeros), y)),
    "lbfgs, max_fun": (LBFGS | {"max_fun": 3}, (X, y)),
    "lbfgs, until it converges": (LBFGS | {"tol": 0.05, "max_iter": 500, "verbose": False}, (X, y)),
    "lbfgs, no hidden layer": (LBFGS | {"hidden_layer_sizes": ()}, (X, Y)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_solvers_and_losses_are_the_same(case):
    parameters, arguments = OTHERS[case]
    assert_same(parameters, ("fit", *arguments))


two, three = (X[:, 0] > 0.3).astype(int), np.digitize(X[:, 0], [-0.5, 0.5])
labels = (Y > 0.5).astype(int)
words = np.array(["no", "perhaps", "yes"])
CLASSES = {
    "two classes": ({"batch_size": 32}, (X, two)),
    "three classes": ({"batch_size": 32}, (X, three)),
    "several labels": ({"batch_size": 32}, (X, labels)),
    "one class": ({}, (X, np.ones(n))),
    "words": ({"early_stopping": True}, (X, words[three])),
    "objects": ({}, (X, words.astype(object)[three])),
    "booleans": ({}, (X, two > 0)),
    "numbers that are no counts": ({}, (X, np.array([-1.0, 2.0])[two])),
    "a list of words": ({}, (X, words[three].tolist())),
    "a Series of words": ({}, (pd.DataFrame(X, columns=names), pd.Series(words[three]))),
    "a column": ({}, (X, two[:, None])),
    "sparse labels": ({}, (X, sparse.csr_matrix(labels))),
    "two classes, early stopping": ({"early_stopping": True, "max_iter": 100, "learning_rate_init": 0.01}, (X, two)),
    "three classes, early stopping": ({"early_stopping": True, "max_iter": 100, "tol": 1e-2}, (X, three)),
    "several labels, early stopping": ({"early_stopping": True, "validation_fraction": 0.3}, (X, labels, weights)),
    "two classes, weights": ({"batch_size": 50}, (X, two, weights)),
    "three classes, weights": ({"batch_size": 50, "alpha": 1.0}, (X, three, weights)),
    "several labels, weights": ({"batch_size": 50, "activation": "tanh"}, (X, labels, weights)),
    "sparse": ({"batch_size": 16}, (sparse.csr_array(some_zeros), three)),
    "three classes, sgd": (SGD | {"learning_rate": "adaptive", "tol": 0.05, "max_iter": 300}, (X, three)),
    "two classes, sgd": (SGD | {"learning_rate": "invscaling"}, (X, two)),
    "several labels, sgd": (SGD, (X, labels)),
    "two classes, lbfgs": (LBFGS, (X, two, weights)),
    "three classes, lbfgs": (LBFGS | {"activation": "logistic"}, (X, three)),
    "several labels, lbfgs": (LBFGS, (X, labels)),
    "outputs far from 0": ({"learning_rate_init": 5.0, "activation": "identity", "max_iter": 4}, (30 * X, three)),
    "no shuffling, until it stops": ({"shuffle": False, "max_iter": 300, "tol": 0.01}, (X, three)),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classifying_is_the_same(case):
    parameters, arguments = CLASSES[case]
    assert_same(parameters, ("fit", *arguments), Estimator=MLPClassifier)


@pytest.mark.parametrize("target", [two, three, labels], ids=["two", "three", "labels"])
@pytest.mark.parametrize("parameters", [{}, SGD, {"early_stopping": True}], ids=["adam", "sgd", "early stopping"])
def test_classifying_float32_is_the_same_but_for_rounding(target, parameters):
    tolerances = {"loss": 1e-4, "coefs": 1e-4}
    assert_same(parameters, ("fit", X.astype(np.float32), target), **tolerances, Estimator=MLPClassifier)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ({}, (X, y)),
        ({"batch_size": 16}, (X, Y)),
        ({"early_stopping": True}, (X, y)),
        ({"batch_size": 40}, (X, Y, weights)),
        ({"batch_size": 40}, (sparse.csr_array(some_zeros), y)),
    ],
    ids=["", "several outputs", "early stopping", "sample weights", "sparse"],
)
def test_fit_on_float32_is_the_same_but_for_rounding(activation, parameters, arguments):
    X, *others = arguments
    others = [np.asarray(other, np.float32) for other in others]  # else scikit-learn trains partly in float64
    assert_same({**parameters, "activation": activation}, ("fit", X.astype(np.float32), *others), loss=1e-4, coefs=1e-4)


def test_what_is_printed_is_the_same_to_the_last_digit():
    for early_stopping in (False, True):
        parameters = {"max_iter": 400, "tol": 1e-3, "learning_rate_init": 0.01, "early_stopping": early_stopping}
        ours, theirs = both({"verbose": True, **parameters}, ("fit", X, y))
        assert ours.printed == theirs.printed
        assert "Iteration 1, loss = " in ours.printed
        assert "consecutive epochs. Stopping." in ours.printed


@pytest.mark.parametrize("verbose", [False, 0, True, 10])
def test_verbose_in_all_its_forms(verbose):
    ours, theirs = both({"verbose": verbose}, ("fit", X, y))
    assert ours.printed == theirs.printed
    assert bool(ours.printed) == bool(verbose)


# An integer seed shuffles each partial_fit alike in scikit-learn, and a warm start loses the moments: no parity there.
STREAM = {"random_state": np.random.RandomState(5), "batch_size": 16}
PARTS = [(X[:70], y[:70]), (X[70:], y[70:]), (X[:33], y[:33]), (X, y)]


@pytest.mark.parametrize(
    ("parameters", "calls"),
    [
        (STREAM, [("partial_fit", *part) for part in PARTS]),
        (STREAM | {"activation": "tanh"}, [("partial_fit", X, Y, weights)] * 3),
        (STREAM, [("fit", X, y), ("partial_fit", X, y), ("partial_fit", X, y)]),
        (STREAM, [("fit", X, y), ("fit", X, y)]),
        ({}, [("fit", X, Y), ("fit", X[:, :4], y)]),
        ({}, [("partial_fit", X, y), ("fit", X, Y)]),
        ({"shuffle": False}, [("partial_fit", X, y)] * 5),
        ({"shuffle": False, "n_iter_no_change": 1, "tol": 10}, [("partial_fit", X, y)] * 5),  # prints "Stopping."
        ({"shuffle": False, "batch_size": 50}, [("partial_fit", *part) for part in PARTS]),  # warns of clipping
        (STREAM, [("partial_fit", sparse.csr_array(some_zeros), y), ("partial_fit", X, y)]),
        ({"shuffle": False}, [("partial_fit", X, y), ("set_params",), ("partial_fit", X, y)]),
    ],
)
def test_calls_in_a_row_are_the_same(parameters, calls):
    assert_same(parameters, *calls, predict=calls[-1][1])


CLASS_CALLS = [
    [("partial_fit", X[:30], two[:30], None, [0, 1]), ("partial_fit", X[30:], two[30:])],
    [("partial_fit", X[:3], three[:3], None, [0, 1, 2]), ("partial_fit", X, three, weights), ("partial_fit", X, three)],
    [("partial_fit", X, words[three], None, words), ("partial_fit", X, words[three], None, words)],
    [("partial_fit", X[:9], words[[0] * 9], None, words), ("partial_fit", X[9:], words[[1] * (n - 9)])],
    [("partial_fit", X, labels, None, [0, 1, 2]), ("partial_fit", X, labels)],
    [("fit", X, three), ("partial_fit", X, three), ("partial_fit", X[:5], three[:5])],
    [("fit", X, three), ("fit", X, words[two])],
]


@pytest.mark.parametrize("parameters", [{}, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("calls", CLASS_CALLS)
def test_calls_of_a_classifier_in_a_row_are_the_same(calls, parameters):
    assert_same(STREAM | parameters, *calls, Estimator=MLPClassifier, predict=X)


BAD_CALLS = {
    "no classes": [("partial_fit", X, two)],
    "classes that are not all": [("partial_fit", X, three, None, [0, 1])],
    "other classes later": [("partial_fit", X, two, None, [0, 1]), ("partial_fit", X, two, None, [1, 2])],
    "unseen classes later": [("partial_fit", X, two, None, [0, 1]), ("partial_fit", X, three)],
    "early stopping": [("set_params",), ("partial_fit", X, two, None, [0, 1])],
    "predict before fit": [("predict", X)],
    "predict_proba before fit": [("predict_proba", X)],
    "predict_proba for other features": [("fit", X, two), ("predict_proba", X[:, :2])],
    "continuous targets": [("fit", X, y)],
    "several columns of classes": [("fit", X, np.column_stack([three, two]))],
    "NaN": [("fit", X, np.where(two > 0, np.nan, 1.0))],
    "no y": [("fit", X, None)],
    "too few y": [("fit", X, two[:-1])],
    "a class of one sample": [("set_params",), ("fit", X, np.arange(n) == 7)],
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_the_same_complaint_about_wrong_use_of_a_classifier(case):
    early = case in ("early stopping", "a class of one sample")
    assert_same_complaint({"early_stopping": early, "max_iter": 3}, *BAD_CALLS[case], Estimator=MLPClassifier)


def test_the_same_complaint_about_other_classes_in_a_warm_start():
    for other in (two, words[three]):
        assert_same_complaint({"warm_start": True}, ("fit", X, three), ("fit", X, other), Estimator=MLPClassifier)


@examples(40)
@given(
    rows=st.integers(20, 60),
    features=st.integers(1, 8),
    outputs=st.integers(1, 3),
    weighted=st.booleans(),
    parameters=st.fixed_dictionaries(
        {
            "hidden_layer_sizes": st.lists(st.integers(1, 12), min_size=1, max_size=3),
            "activation": st.sampled_from(ACTIVATIONS),
            "batch_size": st.one_of(st.just("auto"), st.integers(1, 70)),
            "early_stopping": st.booleans(),
            "validation_fraction": st.sampled_from([0.1, 0.25, 0.5]),
            "shuffle": st.booleans(),
            "tol": st.sampled_from([1e-4, 0.01, 0.3]),
            "n_iter_no_change": st.sampled_from([1, 2, 5, np.inf]),
            "max_iter": st.integers(1, 12),
            "alpha": st.sampled_from([0.0, 1e-4, 1.0]),
            "learning_rate_init": st.sampled_from([1e-3, 0.02]),
            "random_state": st.integers(0, 2**32 - 1),
        }
    ),
)
def test_any_fit_is_the_same(rows, features, outputs, weighted, parameters):
    rng = np.random.default_rng([rows, features, outputs])
    X, Y = rng.standard_normal((rows, features)), rng.standard_normal((rows, outputs))
    w = rng.uniform(0.1, 2, rows) if weighted else None
    assert_same(parameters, ("fit", X, Y[:, 0] if outputs == 1 else Y, w))


# --- errors and warnings ----------------------------------------------------------------------------------------------


def comparable(error):
    """The error without what differs from call to call: addresses, and the order in which a set is written."""
    if error is None:
        return None
    text = re.sub(r" at 0x\w+", "", error[1])
    return error[0], re.sub(r"{[^}]*}", lambda a_set: str(sorted(a_set.group())), text)


def assert_same_complaint(parameters, *calls, Estimator=MLPRegressor, only_the_first_words=False):
    ours, theirs = both(parameters, *calls, Estimator=Estimator)
    assert theirs.error or theirs.warnings, "scikit-learn does not complain"
    if only_the_first_words:
        ours.error, theirs.error = ((kind, text.partition(" must be ")[0]) for kind, text in (ours.error, theirs.error))
    assert comparable(ours.error) == comparable(theirs.error)
    if ours.error is None:
        assert ours.warnings == theirs.warnings


BAD_PARAMETERS = {
    "loss": ["log_loss", None],
    "hidden_layer_sizes": [0, -1, 2.5, "ab", None, (3, 0), [3, -2], np.array([0]), {3}],
    "activation": ["x", None, 3],
    "solver": ["x", "ADAM", None],
    "alpha": [-1, "a", None],
    "batch_size": [0, -3, 2.5, "x", None],
    "learning_rate": ["x", None],
    "learning_rate_init": [0, -1, "a"],
    "power_t": [-1, "a"],
    "max_iter": [0, -1, 2.5, np.inf, None],
    "shuffle": [2, "a", None],
    "random_state": [-1, "a", 2.5, np.random.default_rng(0)],
    "tol": [-1, "a", None],
    "verbose": ["a", None, -1],
    "warm_start": [2, "a"],
    "momentum": [2, -1, "a"],
    "nesterovs_momentum": [2, "a"],
    "early_stopping": [2, "a"],
    "validation_fraction": [-0.1, 1, "a"],
    "beta_1": [1, -1, "a"],
    "beta_2": [1, 2, None],
    "epsilon": [0, -1, "a"],
    "n_iter_no_change": [0, -1, 2.5, -np.inf, None],
    "max_fun": [0, 1.5],
}


OF_MORE_VALUES = {"loss", "activation", "solver", "learning_rate"}
"""Parameters that may be more than scikit-learn's."""


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in BAD_PARAMETERS.items() for v in values])
def test_the_same_complaint_about_a_bad_parameter(name, value):
    assert_same_complaint({name: value}, ("fit", X, y), only_the_first_words=name in OF_MORE_VALUES)


@pytest.mark.parametrize("fraction", [0, 1e-9, 0.01, 0.99])
def test_the_same_complaint_about_a_validation_set_too_small_or_too_large(fraction):
    assert_same_complaint({"early_stopping": True, "validation_fraction": fraction}, ("fit", X[:30], y[:30]))


def with_value(array, value):
    array = array.copy()
    array[2] = value
    return array


BAD_DATA = {
    "NaN in X": (with_value(X, np.nan), y),
    "infinity in X": (with_value(X, np.inf), y),
    "NaN in y": (X, with_value(y, np.nan)),
    "infinity in Y": (X, with_value(Y, -np.inf)),
    "NaN in sparse X": (sparse.csr_array(with_value(X, np.nan)), y),
    "missing values in y": (X, pd.Series([None] + [1] * (n - 1), dtype="Int64")),
    "X of one dimension": (X[:, 0], y),
    "X of three dimensions": (X[:, :, None], y),
    "scalar X": (3.0, y),
    "no samples": (X[:0], y[:0]),
    "no features": (X[:, :0], y),
    "too few y": (X, y[:-1]),
    "Y of three dimensions": (X, Y[:, :, None]),
    "scalar y": (X, 3.0),
    "no y": (X, None),
    "complex X": (X + 1j, y),
    "complex y": (X, y + 1j),
    "strings in X": (np.full((n, 2), "a"), y),
    "objects in X": (np.full((n, 2), "a", object), y),
    "names of two types": (pd.DataFrame(X, columns=["a", 1, *"bcde"]), y),
    "NaN in weights": (X, y, with_value(weights, np.nan)),
    "infinity in weights": (X, y, with_value(weights, np.inf)),
    "too few weights": (X, y, weights[1:]),
    "matrix of weights": (X, y, Y),
    "strings for weights": (X, y, ["a"] * n),
    "nothing but zeros for weights": (X, y, np.zeros(n)),
    "values too large to train on": (X * 1e307, y),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("case", BAD_DATA)
def test_the_same_complaint_about_bad_data(method, case):
    assert_same_complaint({"max_iter": 3}, (method, *BAD_DATA[case]))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_same_for_very_little_data(early, rows):
    ours, theirs = both({"early_stopping": early}, ("fit", X[:rows], y[:rows]))
    assert (ours.error, ours.warnings) == (theirs.error, theirs.warnings)


frame = pd.DataFrame(X, columns=names)
WRONG_USE = {
    "predict before fit": [("predict", X)],
    "score before fit": [("score", X, y)],
    "predict for other features": [("fit", X, y), ("predict", X[:, :5])],
    "predict for sparse of other features": [("fit", X, y), ("predict", sparse.csr_array(X[:, :5]))],
    "predict for no samples": [("fit", X, y), ("predict", X[:0])],
    "predict for one dimension": [("fit", X, y), ("predict", X[0])],
    "predict for NaN": [("fit", X, y), ("predict", with_value(X, np.nan))],
    "predict for other names": [("fit", frame, y), ("predict", frame.rename(columns={"a": "z"}))],
    "predict for names in another order": [("fit", frame, y), ("predict", frame[names[::-1]])],
    "predict without names": [("fit", frame, y), ("predict", X)],
    "predict with names, fit without": [("fit", X, y), ("predict", frame)],
    "partial_fit for other features": [("fit", X, y), ("partial_fit", X[:, :5], y)],
    "partial_fit with early stopping": [("set_params",), ("partial_fit", X, y)],
    "partial_fit with early stopping after fit": [("fit", X, y), ("partial_fit", X, y)],
    "predict for a matrix": [("fit", X, y), ("predict", np.asmatrix(X))],
    "predict for strings": [("fit", X, y), ("predict", np.full((3, 6), "a"))],
    "predict for complex numbers": [("fit", X, y), ("predict", X + 1j)],
    "predict for infinities of both signs": [("fit", X, y), ("predict", np.array([[np.inf, -np.inf, 0, 0, 0, 0]]))],
    "unknown parameter": [("set_params", "x")],
}


@pytest.mark.parametrize("case", WRONG_USE)
def test_the_same_complaint_about_wrong_use(case):
    assert_same_complaint({"early_stopping": "early stopping" in case, "max_iter": 3}, *WRONG_USE[case])


def test_the_same_complaint_about_other_features_in_a_warm_start():
    assert_same_complaint({"warm_start": True}, ("fit", X, y), ("fit", X[:, :3], y))


# --- the class --------------------------------------------------------------------------------------------------------


OUR_OWN = {
    "clip_norm", "device", "dropout", "huber_delta", "max_time", "n_threads", "quantile", "scoring", "warmup_epochs",
    "class_weight", "label_smoothing", "X_val", "y_val", "sample_weight_val",
}  # fmt: skip


@pytest.mark.parametrize("Estimator", [MLPRegressor, MLPClassifier])
def test_signatures_are_the_same(Estimator):
    methods = ["__init__", "fit", "partial_fit", "predict", "score", "set_params", "set_fit_request"]
    for method in [*methods, *(["predict_proba", "predict_log_proba"] if Estimator is MLPClassifier else [])]:
        ours, theirs = (inspect.signature(getattr(E(), method)) for E in (Estimator, theirs_of(Estimator)))
        assert [(p.name, p.kind, p.default) for p in ours.parameters.values() if p.name not in OUR_OWN] == [
            (p.name, p.kind, p.default) for p in theirs.parameters.values()
        ]


@pytest.mark.parametrize("Estimator", [MLPRegressor, MLPClassifier])
def test_parameters_tags_and_routing_are_the_same(Estimator):
    ours, theirs = Estimator(), theirs_of(Estimator)()
    assert {name: value for name, value in ours.get_params().items() if name not in OUR_OWN} == theirs.get_params()
    assert get_tags(ours) == get_tags(theirs)
    routed = ours.get_metadata_routing()._serialize()
    routed["fit"] = {name: value for name, value in routed["fit"].items() if name not in OUR_OWN}
    assert routed == theirs.get_metadata_routing()._serialize()
    assert repr(Estimator(alpha=3)) == repr(theirs_of(Estimator)(alpha=3))
    assert ours._parameter_constraints.keys() - OUR_OWN == theirs._parameter_constraints.keys()


# --- scikit-learn's checks of any estimator ---------------------------------------------------------------------------


@pytest.mark.thin(60)
@parametrize_with_checks(
    [
        MLPRegressor(),
        MLPRegressor(activation="tanh", hidden_layer_sizes=(9, 5), learning_rate_init=0.01),
        MLPRegressor(activation="logistic", alpha=1.0, shuffle=False, learning_rate_init=0.01),
        MLPRegressor(hidden_layer_sizes=(20, 20), learning_rate_init=0.01, n_threads=2),
        MLPRegressor(solver="lbfgs", loss="poisson"),
        MLPRegressor(solver="sgd", learning_rate="adaptive", learning_rate_init=0.01),
        MLPClassifier(),
        MLPClassifier(solver="lbfgs", activation="tanh", alpha=1.0),
        MLPClassifier(solver="sgd", learning_rate_init=0.05, learning_rate="adaptive"),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learns_checks_of_an_estimator(estimator, check):
    check(estimator)
