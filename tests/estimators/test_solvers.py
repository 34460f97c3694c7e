"""Solvers of the estimators: each beside its naive optimizer, and resumed."""

import copy
import math
import pickle

import numpy as np
import pytest

from fastadam import MLPRegressor
from fastadam.estimators.solvers import SOLVERS
from tests.helpers import naive, naive_mlp
from tests.helpers.fits import X, Y, arrays, assert_same_model, n, regressor, weights, y

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ADDED = sorted(SOLVERS.keys() - {"sgd", "adam"})
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


@pytest.mark.thin(9)
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


@pytest.mark.thin(11)
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
