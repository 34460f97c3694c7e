"""What the estimators offer beyond scikit-learn's: solvers, losses, activations, schedules, validation data."""

import copy
import math
import pickle
import re
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn import metrics
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score

from fastadam import MLPClassifier, MLPRegressor
from fastadam.estimators.solvers import SOLVERS
from fastadam.formulas.activations import ACTIVATIONS
from fastadam.schedules import Exponential, Plateau
from tests.helpers import naive, naive_mlp
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
n = 120
X = rng.standard_normal((n, 5))
Y = np.column_stack([X[:, 0] ** 2, X[:, 1] * X[:, 2]])
y = Y[:, 0] + 0.1 * rng.standard_normal(n)
two, three = (y > 0.7).astype(int), np.array(["a", "b", "c"])[np.digitize(y, [0.3, 1.2])]
labels = (Y > 0.3).astype(int)
weights = rng.uniform(0.1, 2, n)
X_val = rng.standard_normal((50, 5))
y_val = X_val[:, 0] ** 2
three_val = np.array(["a", "b", "c"])[np.digitize(y_val, [0.3, 1.2])]
weights_val = rng.uniform(0.1, 2, 50)
SMALL = {"hidden_layer_sizes": (6, 4), "batch_size": 16, "max_iter": 6, "random_state": 3, "n_iter_no_change": np.inf}
ADDED = sorted(SOLVERS.keys() - {"sgd", "adam"})


def regressor(**parameters):
    return MLPRegressor(**(SMALL | parameters))


def classifier(**parameters):
    return MLPClassifier(**(SMALL | parameters))


def arrays(model):
    return [*model.coefs_, *model.intercepts_]


def assert_same_model(a, b):
    for p, q in zip(arrays(a), arrays(b), strict=True):
        assert_same_bits(p, q)
    for name in ("loss_curve_", "validation_scores_", "loss_", "t_"):
        assert getattr(a, name) == getattr(b, name), name


# --- solvers ----------------------------------------------------------------------------------------------------------

NAIVE = {
    "adamw": lambda p: naive.AdamW(p, 0.01, (0.9, 0.99), 1e-4, weight_decay=0.3),
    "amsgrad": lambda p: naive.Adam(p, 0.01, (0.9, 0.99), 1e-4, amsgrad=True),
    "nadam": lambda p: naive.NAdam(p, 0.01, (0.9, 0.99), 1e-4),
    "radam": lambda p: naive.RAdam(p, 0.01, (0.9, 0.99), 1e-4),
    "adamax": lambda p: naive.Adamax(p, 0.01, (0.9, 0.99), 1e-4),
    "lion": lambda p: naive.Lion(p, 0.01, (0.9, 0.99), weight_decay=0.0),
    "rmsprop": lambda p: naive.RMSprop(p, 0.01, 0.99, 1e-4),
    "adagrad": lambda p: naive.Adagrad(p, 0.01, eps=1e-4),
    "adadelta": lambda p: naive.Adadelta(p, 0.01, 0.99, 1e-4),
}


def trained_naively(make, clip_norm=None, epochs=5, alpha=0.3):
    """Losses and parameters of a network of one hidden layer, trained by the naive optimizers."""
    w = np.ones(n)
    weight_matrices, biases = naive_mlp.glorot([5, 6, 2], "tanh", np.random.RandomState(3))
    optimizers = [make(p) for p in [*weight_matrices, *biases]]
    in_loss = 0.0 if make is NAIVE["adamw"] else alpha
    for optimizer in optimizers[2:]:
        optimizer.weight_decay = 0  # biases do not decay
    losses = []
    for _ in range(epochs):
        for start in range(0, n, 50):
            rows = slice(start, start + 50)
            parameters = [o.p for o in optimizers[:2]], [o.p for o in optimizers[2:]]
            data = *parameters, "tanh", in_loss, X[rows], Y[rows], w[rows]
            losses.append((naive_mlp.loss(*data), len(X[rows])))
            gradients = [g for part in naive_mlp.gradient(*data) for g in part]
            if clip_norm is not None:
                norm = math.sqrt(sum((g**2).sum() for g in gradients))
                gradients = [g * min(1.0, clip_norm / (norm + 1e-6)) for g in gradients]
            for optimizer, g in zip(optimizers, gradients, strict=True):
                optimizer.step(g)
    per_epoch = np.array(losses).reshape(epochs, -1, 2)
    return [np.average(e[:, 0], weights=e[:, 1]) for e in per_epoch], [o.p for o in optimizers]


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("solver", ADDED)
def test_solvers_are_those_of_the_naive_family(solver, clip_norm):
    losses, expected = trained_naively(NAIVE[solver], clip_norm)
    model = MLPRegressor(
        hidden_layer_sizes=6, activation="tanh", solver=solver, alpha=0.3, shuffle=False, batch_size=50, max_iter=5,
        random_state=3, learning_rate_init=0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-4, clip_norm=clip_norm,
    ).fit(X, Y)  # fmt: skip
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=1e-10)
    for p, q in zip(arrays(model), expected, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_go_on_where_they_stopped_and_are_the_same_on_any_threads(solver, dtype):
    parameters = {"solver": solver, "clip_norm": 0.3, "early_stopping": True, "warmup_epochs": 4}
    once = regressor(max_iter=8, **parameters).fit(X.astype(dtype), y, weights)
    twice = regressor(max_iter=4, warm_start=True, n_threads=2, **parameters).fit(X.astype(dtype), y, weights)
    twice = pickle.loads(pickle.dumps(twice)).fit(X.astype(dtype), y, weights)
    assert_same_model(once, twice)
    assert {array.dtype for array in arrays(once)} == {np.dtype(dtype)}


def test_another_solver_goes_on_from_the_weights_alone():
    model = regressor(warm_start=True).fit(X, y)
    before = copy.deepcopy(arrays(model))
    model.set_params(solver="lion", learning_rate_init=1e-9).fit(X, y)
    for p, q in zip(arrays(model), before, strict=True):
        np.testing.assert_allclose(p, q, atol=1e-5)
    model.set_params(solver="lbfgs").fit(X, y)
    assert not hasattr(model, "loss_curve_")
    model.set_params(solver="sgd").fit(X, y)
    assert len(model.loss_curve_) == 6


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
def test_a_gradient_is_clipped_only_where_it_is_too_long(solver):
    assert_same_model(regressor(solver=solver).fit(X, y), regressor(solver=solver, clip_norm=1e9).fit(X, y))
    clipped = regressor(solver="sgd", momentum=0, clip_norm=1e-3, learning_rate_init=1.0, max_iter=1, batch_size=n)
    start = regressor(solver="sgd", learning_rate_init=1e-300, max_iter=1).fit(X, y)
    moved = [p - q for p, q in zip(arrays(clipped.fit(X, 100 * y)), arrays(start), strict=True)]
    assert math.sqrt(sum((d**2).sum() for d in moved)) == pytest.approx(1e-3, rel=1e-5)


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


def test_quantiles_are_quantiles():
    x, noise = np.zeros((2000, 1)), np.random.default_rng(0).exponential(size=2000)
    for quantile in (0.1, 0.5, 0.9):
        model = MLPRegressor(
            loss="quantile", quantile=quantile, hidden_layer_sizes=(), max_iter=300, learning_rate_init=0.02,
            learning_rate="linear", random_state=0,
        ).fit(x, noise)  # fmt: skip
        assert model.predict(x[:1])[0] == pytest.approx(np.quantile(noise, quantile), abs=0.03)


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


def test_poisson_predicts_positive_numbers_and_refuses_negative_targets():
    model = regressor(loss="poisson").fit(X, np.round(y**2))
    assert (model.predict(X) > 0).all()
    assert model.out_activation_ == "exp"
    before = copy.deepcopy(arrays(model))
    with pytest.raises(ValueError, match="loss='poisson' requires non-negative y, got -"):
        model.fit(X, y - 10)
    for p, q in zip(arrays(model), before, strict=True):
        assert_same_bits(p, q)


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("target", [two, three])
def test_class_weights_are_sample_weights(target, solver):
    kinds = np.unique(target)
    of_class = dict(zip(kinds.tolist(), [0.5, 2.0, 3.0], strict=False))
    by_sample = np.array([of_class[label] for label in target.tolist()])
    expected = classifier(solver=solver).fit(X, target, weights * by_sample)
    model = classifier(solver=solver, class_weight=of_class).fit(X, target, weights)
    for p, q in zip(arrays(model), arrays(expected), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)
    balanced = len(target) / (len(kinds) * np.array([(target == label).sum() for label in target]))
    expected = classifier().fit(X, target, balanced)
    np.testing.assert_allclose(classifier(class_weight="balanced").fit(X, target).loss_, expected.loss_, rtol=1e-12)


def test_class_weights_in_partial_fit():
    model = classifier(class_weight={"a": 2.0, "b": 1.0, "c": 1.0}).partial_fit(X, three, classes=["a", "b", "c"])
    assert hasattr(model, "coefs_")
    with pytest.raises(ValueError, match="class_weight='balanced' is not supported for partial_fit"):
        classifier(class_weight="balanced").partial_fit(X, three, classes=["a", "b", "c"])


@pytest.mark.parametrize("target", [two, three, labels])
def test_label_smoothing_bounds_what_is_fitted(target):
    model = classifier(label_smoothing=0.3, solver="lbfgs", max_iter=3000, alpha=0, tol=1e-8, hidden_layer_sizes=40)
    p = model.fit(X[:20], target[:20]).predict_proba(X[:20])
    classes = 3 if target is three else 2
    high, low = 0.7 + 0.3 / classes, 0.3 / classes
    assert np.minimum(abs(p - high), abs(p - low)).max() < 1e-2


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_label_smoothing_of_nothing_is_nothing(solver):
    a, b = (classifier(solver=solver, **smoothing).fit(X, three) for smoothing in ({}, {"label_smoothing": 0.0}))
    for p, q in zip(arrays(a), arrays(b), strict=True):
        assert_same_bits(p, q)


# --- activations, dropout ---------------------------------------------------------------------------------------------


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


def rates(model):
    """The rate of each epoch of a fit: it goes on epoch by epoch."""
    seen = []
    length = model.max_iter
    for _ in range(length):
        model.partial_fit(X, y)
        seen.append(model._optimizer.lr)  # that of the epoch to come
    return [model.learning_rate_init if model.warmup_epochs == 0 else None, *seen[:-1]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("schedule", ["cosine", "linear", "one_cycle"])
def test_a_schedule_that_has_run_its_course_is_no_failure_to_converge(schedule):
    assert regressor(learning_rate=schedule, max_iter=3).fit(X, y).n_iter_ == 3
    for other in ("constant", "plateau"):
        with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
            regressor(learning_rate=other, max_iter=3).fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lion"])
def test_schedules(solver):
    lr = 0.01
    parameters = {"solver": solver, "learning_rate_init": lr, "max_iter": 10}
    cosine = [lr * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    np.testing.assert_allclose(rates(regressor(learning_rate="cosine", **parameters)), cosine)
    linear = [lr * (1 - t / 10) for t in range(10)]
    np.testing.assert_allclose(rates(regressor(learning_rate="linear", **parameters)), linear)
    cycle = rates(regressor(learning_rate="one_cycle", **parameters))[1:]
    assert max(cycle) == pytest.approx(lr)
    assert cycle[-1] == pytest.approx(lr / 25e4)
    for function in (lambda t: lr / (1 + t), Exponential(lr, 0.5)):
        own = [lr if t == 0 else function(t) for t in range(10)]
        np.testing.assert_allclose(rates(regressor(learning_rate=function, **parameters)), own)


def test_a_schedule_stays_at_its_end():
    model = regressor(learning_rate="linear", max_iter=4, warm_start=True).fit(X, y)
    last = model._optimizer.lr
    assert model.fit(X, y)._optimizer.lr == last > 0


def test_warm_up_rises_in_even_steps():
    model = regressor(learning_rate_init=0.05, warmup_epochs=4, max_iter=8)
    np.testing.assert_allclose(rates(model)[1:], [0.02, 0.03, 0.04, 0.05, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("early_stopping", [False, True])
def test_plateaus_lower_the_rate(early_stopping):
    parameters = {"tol": 1e9, "n_iter_no_change": 6, "max_iter": 100, "early_stopping": early_stopping}
    model = regressor(learning_rate="plateau", learning_rate_init=0.01, **parameters).fit(X, y)
    assert model.n_iter_ == 8
    assert model._optimizer.lr == pytest.approx(0.001)


@pytest.mark.parametrize("rate", [lambda t: -1.0, lambda t: np.nan, lambda t: "x", Plateau(0.1)])
def test_functions_that_give_no_rate_are_refused(rate):
    model = regressor().fit(X, y)
    before = copy.deepcopy(arrays(model))
    with pytest.raises((TypeError, ValueError)):
        model.set_params(learning_rate=rate).fit(X, y)
    for p, q in zip(arrays(model), before, strict=True):
        assert_same_bits(p, q)


# --- validation data, scoring, time -----------------------------------------------------------------------------------


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


def test_scoring_of_a_classifier_has_its_labels_and_probabilities():
    for scoring in ("roc_auc_ovr", "f1_macro", "neg_log_loss", "loss"):
        model = classifier(early_stopping=True, scoring=scoring).fit(X, three, X_val=X_val, y_val=three_val)
        score = model.validation_scores_[-1]
        assert np.isfinite(score)
    scorer = metrics.get_scorer("roc_auc_ovr")
    model = classifier(early_stopping=True, scoring="roc_auc_ovr").fit(X, three, X_val=X_val, y_val=three_val)
    assert model.best_validation_score_ == pytest.approx(scorer(model, X_val, three_val))


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


# --- what makes no sense ----------------------------------------------------------------------------------------------

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
    "lbfgs and X_val": ({"solver": "lbfgs"}, {"X_val": X_val, "y_val": y_val}, "X_val is only supported by the"),
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


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"label_smoothing": 1}, "The 'label_smoothing' parameter of MLPClassifier must be"),
        ({"class_weight": "even"}, "The 'class_weight' parameter of MLPClassifier must be"),
        ({"class_weight": [1, 2]}, "The 'class_weight' parameter of MLPClassifier must be"),
    ],
)
def test_bad_parameters_of_the_classifier(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier(**parameters).fit(X, three)


def test_classes_of_validation_data_that_are_not_trained_are_refused():
    with pytest.raises(ValueError, match="X_val, y_val or sample_weight_val: `y` has classes not in"):
        classifier().fit(X, three, X_val=X_val, y_val=np.where(three_val == "a", "z", three_val))


@settings(max_examples=60)
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


def test_options_inside_of_cross_validation():
    model = classifier(dropout=0.1, learning_rate="one_cycle", class_weight="balanced", solver="adamw", max_iter=20)
    assert np.isfinite(cross_val_score(model, X, three, cv=3)).all()
