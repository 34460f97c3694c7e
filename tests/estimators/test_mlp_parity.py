"""Loss curves beside scikit-learn's for configurations drawn at random, to 1e-8 relative in float64."""

import warnings

import numpy as np
import sklearn.neural_network
from hypothesis import given, note
from hypothesis import strategies as st
from scipy import sparse

import fastadam
from tests.helpers.effort import examples

KINDS = ["regression", "poisson", "two classes", "three classes", "labels"]

configurations = st.fixed_dictionaries(
    {
        "solver": st.sampled_from(["adam", "sgd", "lbfgs"]),
        "activation": st.sampled_from(["identity", "logistic", "tanh", "relu"]),
        "hidden_layer_sizes": st.lists(st.integers(1, 12), max_size=3),
        "batch_size": st.one_of(st.just("auto"), st.integers(1, 60)),
        "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive"]),
        "learning_rate_init": st.sampled_from([1e-3, 0.01, 0.05]),
        "power_t": st.sampled_from([0.1, 0.5]),
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "nesterovs_momentum": st.booleans(),
        "alpha": st.sampled_from([0.0, 1e-4, 1.0]),
        "beta_1": st.sampled_from([0.0, 0.9]),
        "beta_2": st.sampled_from([0.9, 0.999]),
        "epsilon": st.sampled_from([1e-8, 1e-2]),
        "early_stopping": st.booleans(),
        "validation_fraction": st.sampled_from([0.1, 0.3]),
        "shuffle": st.booleans(),
        "tol": st.sampled_from([1e-4, 0.01, 0.1]),
        "n_iter_no_change": st.sampled_from([1, 3, np.inf]),
        "max_iter": st.integers(1, 15),
        "random_state": st.integers(0, 2**32 - 1),
    }
)


def data(kind, rows, features, outputs, form, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, features))
    signal = X @ rng.standard_normal((features, outputs)) + 0.5 * rng.standard_normal((rows, outputs))
    y = {
        "regression": signal,
        "poisson": np.floor(np.exp(np.clip(signal, -3, 2))),
        "two classes": np.array(["no", "yes"])[(signal[:, 0] > 0).astype(int)],
        "three classes": np.digitize(signal[:, 0], [-0.7, 0.7]),
        "labels": (np.column_stack([signal, -signal]) > 0).astype(int),
    }[kind]
    if form is not np.asarray:
        X = X * (X > 0)
    return form(X), y[:, 0] if kind in ("regression", "poisson") and outputs == 1 else y, rng.uniform(0.1, 2, rows)


def outcome(package, kind, parameters, arguments):
    """The fitted model or the error, and the warnings."""
    classes = kind not in ("regression", "poisson")
    Estimator = package.MLPClassifier if classes else package.MLPRegressor
    loss = {"loss": "poisson"} if kind == "poisson" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            result = Estimator(**parameters, **loss).fit(*arguments)
        except ValueError as error:
            result = type(error), str(error)
    return result, [(w.category, str(w.message)) for w in caught]


def has_finite_curves(model):
    """Whether the loss and the scores of all epochs are finite."""
    curves = (getattr(model, "loss_curve_", None), getattr(model, "validation_scores_", None), [model.loss_])
    return all(np.isfinite(curve).all() for curve in curves if curve is not None)


@examples(200, print_blob=True)
@given(
    kind=st.sampled_from(KINDS),
    parameters=configurations,
    rows=st.integers(20, 60),
    features=st.integers(1, 6),
    outputs=st.integers(1, 3),
    form=st.sampled_from([np.asarray, sparse.csr_array, sparse.csc_matrix]),
    weighted=st.booleans(),
)
def test_loss_curves_are_scikit_learns(kind, parameters, rows, features, outputs, form, weighted):
    X, y, weights = data(kind, rows, features, outputs, form, parameters["random_state"])
    arguments = (X, y, weights) if weighted else (X, y)
    (ours, our_warnings), (theirs, their_warnings) = (
        outcome(package, kind, parameters, arguments) for package in (fastadam, sklearn.neural_network)
    )
    note(f"{ours}\n{theirs}")
    if isinstance(theirs, tuple):
        assert ours == theirs
        return
    if not has_finite_curves(theirs):  # in silence; ours refuses it, or warns, or computes it without overflow
        assert isinstance(ours, tuple) or has_finite_curves(ours) or len(our_warnings) > len(their_warnings)
        return
    assert (ours.n_iter_, ours.t_, our_warnings) == (theirs.n_iter_, theirs.t_, their_warnings)
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-8)
    if parameters["solver"] != "lbfgs":
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-8)
        if parameters["early_stopping"]:
            np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-6, atol=1e-9)
    for p, q in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)
