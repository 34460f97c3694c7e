"""The network as the estimator shows it: initial weights, predictions, losses and gradients against plain NumPy."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPRegressor
from fastadam.cpu.jit import JIT_DISABLED
from tests.helpers import naive_mlp
from tests.helpers.effort import examples
from tests.helpers.naive import assert_same_bits
from tests.helpers.naive_mlp import ACTIVATIONS, NaiveMLP

CLOSE = {np.dtype(np.float64): {"rtol": 1e-9, "atol": 1e-12}, np.dtype(np.float32): {"rtol": 2e-4, "atol": 2e-5}}
DTYPES = [np.float32, np.float64]


def data(n, features, outputs=1, dtype=np.float64, seed=0):
    rng = np.random.default_rng([n, features, outputs, seed])
    X = rng.standard_normal((n, features)).astype(dtype)
    Y = rng.standard_normal((n, outputs)).astype(dtype)
    return X, Y[:, 0] if outputs == 1 else Y


def trained(X, Y, w=None, epochs=1, **parameters):
    """The estimator after so many epochs."""
    parameters = {"random_state": 0, "n_iter_no_change": np.inf, "max_iter": epochs} | parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPRegressor(**parameters).fit(X, Y, sample_weight=w)


def assert_like_naive(X, Y, w=None, epochs=2, form=np.asarray, **parameters):
    """Train both, the estimator on `form(X)`, and compare losses, parameters and predictions."""
    reference = NaiveMLP(**parameters).fit(X, Y, w, epochs)
    model = trained(form(X), Y, w, epochs, **parameters)
    close = CLOSE[X.dtype]
    np.testing.assert_allclose(model.loss_curve_, reference.loss_curve, **close)
    for ours, theirs in zip(model.coefs_ + model.intercepts_, reference.weights + reference.biases, strict=True):
        assert ours.dtype == theirs.dtype == X.dtype
        np.testing.assert_allclose(ours, theirs, **close)
    activation = parameters.get("activation", "relu")
    expected = naive_mlp.predict(model.coefs_, model.intercepts_, activation, X).reshape(np.shape(Y))
    predicted = model.predict(form(X))
    assert predicted.dtype == X.dtype
    eps = np.finfo(X.dtype).eps
    np.testing.assert_allclose(predicted, expected, rtol=1e3 * eps, atol=1e2 * eps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_reference_has_the_gradient_of_its_own_loss(activation):
    X, Y = data(9, 4, 3)
    w = np.random.default_rng(0).uniform(0, 2, 9)
    weights, biases = naive_mlp.glorot([4, 5, 3, 3], activation, np.random.RandomState(0))
    by_weights, by_biases = naive_mlp.gradient(weights, biases, activation, 0.0, X, Y, w)

    def difference(array, i, h=1e-6):
        losses = []
        for sign in (1, -1):
            array.flat[i] += sign * h
            losses.append(naive_mlp.loss(weights, biases, activation, 0.0, X, Y, w))
            array.flat[i] -= sign * h
        return (losses[0] - losses[1]) / (2 * h)

    for array, g in zip(weights + biases, by_weights + by_biases, strict=True):
        numeric = np.array([difference(array, i) for i in range(array.size)]).reshape(array.shape)
        np.testing.assert_allclose(g / 3, numeric, rtol=1e-6, atol=1e-9)  # of the mean over 3 outputs


@pytest.mark.thin(8)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_two_epochs_are_those_of_plain_numpy(activation, outputs, dtype):
    X, Y = data(70, 6, outputs, dtype)
    assert_like_naive(X, Y, hidden_layer_sizes=(9, 5), activation=activation, batch_size=16)


@pytest.mark.parametrize("hidden", [(), (1,), (17,), (3, 2, 4, 1, 5), (130,)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_and_size_of_layers(hidden, dtype):
    assert_like_naive(*data(40, 7, 2, dtype), hidden_layer_sizes=hidden, activation="tanh", batch_size=11)


# Batches are worked on in blocks, and shared out among threads: sizes around all borders that this may have.
SIZES = [(1, 1), (3, 2), (16, 16), (199, "auto"), (200, "auto"), (201, "auto"), (256, 256), (257, 257), (320, 100)]
SIZES += [(399, 399), (400, 400), (513, 513), (700, 300), (799, 400), (999, 500), (1023, 1023), (2600, 1300)]


@pytest.mark.thin(17)
@pytest.mark.parametrize(("n", "batch_size"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_of_any_size(n, batch_size, dtype):
    X, Y = data(n, 5, 2, dtype)
    assert_like_naive(X, Y, hidden_layer_sizes=(8, 6), batch_size=batch_size, activation="tanh")


@pytest.mark.thin(4)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_array, sparse.csr_array])
@pytest.mark.parametrize("hidden", [(), (6, 4)], ids=str)
def test_sparse_data(form, dtype, hidden):
    X, Y = data(90, 8, 2, dtype)
    X[X < 0.5] = 0
    X[3] = 0
    X[:, 2] = 0
    assert_like_naive(X, Y, form=form, hidden_layer_sizes=hidden, batch_size=25, activation="tanh")


def test_sparse_data_with_long_indices_and_with_entries_in_parts_and_out_of_order():
    X = np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    entries, columns, rows = np.array([1.0, 2.0, 2.0, 4.0]), np.array([2, 1, 2, 0]), np.array([0, 3, 3, 4])
    parts = sparse.csr_array((entries, columns.astype(np.int64), rows.astype(np.int64)), shape=(3, 3))
    assert_like_naive(X, np.arange(3.0), form=lambda _: parts, hidden_layer_sizes=(4,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_samples(dtype):
    X, Y = data(50, 4, 2, dtype)
    w = np.random.default_rng(1).uniform(0, 3, 50)
    w[::7] = 0
    assert_like_naive(X, Y, w, hidden_layer_sizes=(6,), batch_size=9)


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": 0.0},
        {"alpha": 30.0},
        {"learning_rate_init": 0.1, "beta_1": 0.5, "beta_2": 0.9},
        {"beta_1": 0.0, "beta_2": 0.0, "epsilon": 0.1},
        {"epsilon": 1e-3, "shuffle": False},
        {"random_state": 7},
    ],
    ids=str,
)
def test_hyper_parameters(parameters):
    assert_like_naive(*data(60, 5), epochs=3, hidden_layer_sizes=(7,), batch_size=8, **parameters)


@examples(60)
@given(
    n=st.integers(1, 60),
    features=st.integers(1, 20),
    outputs=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 24), max_size=3),
    batch_size=st.integers(1, 60),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    dtype=st.sampled_from(DTYPES),
    shuffle=st.booleans(),
    weighted=st.booleans(),
    form=st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_matrix, np.asfortranarray]),
    seed=st.integers(0, 2**16),
)
def test_any_network_on_any_data(
    n, features, outputs, hidden, batch_size, activation, dtype, shuffle, weighted, form, seed
):
    X, Y = data(n, features, outputs, dtype, seed)
    w = np.random.default_rng(seed).integers(0, 3, n) if weighted else None
    assume(w is None or w.any())
    assert_like_naive(
        X,
        Y,
        w,
        form=form,
        hidden_layer_sizes=hidden,
        activation=activation,
        batch_size=min(batch_size, n),
        shuffle=shuffle,
        random_state=seed,
        epsilon=1e-2,  # else a gradient that is nothing but rounding makes a step of full length
    )


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 600])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_a_prediction_does_not_depend_on_the_rows_beside_it(n, form):
    X, Y = data(600, 6, 2)
    model = trained(X, Y, hidden_layer_sizes=(20, 10))
    together = model.predict(form(X[:n]))
    one_by_one = np.concatenate([model.predict(form(X[i : i + 1])) for i in range(n)])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(JIT_DISABLED, reason="interpreted code has one thread")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no way here to take cores from a process")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_as_many_cores_as_there_are_give_the_bits_of_one(dtype, form):
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core only")
    X, Y = data(1000, 30, 2, dtype)
    parameters = {"hidden_layer_sizes": (90, 70), "batch_size": 450, "early_stopping": True}
    several = trained(form(X), Y, epochs=4, **parameters)
    try:
        os.sched_setaffinity(0, {min(cores)})
        one = trained(form(X), Y, epochs=4, **parameters)
    finally:
        os.sched_setaffinity(0, cores)
    assert several.loss_curve_ == one.loss_curve_
    assert several.validation_scores_ == one.validation_scores_
    for a, b in zip(several.coefs_ + several.intercepts_, one.coefs_ + one.intercepts_, strict=True):
        assert_same_bits(a, b)


def test_the_same_fit_twice_gives_the_same_bits():
    X, Y = data(500, 10)
    first, second = (trained(X, Y, epochs=3, hidden_layer_sizes=(50,), batch_size=450) for _ in range(2))
    assert first.loss_curve_ == second.loss_curve_
    assert_same_bits(first.predict(X), second.predict(X))


@pytest.mark.skipif(JIT_DISABLED, reason="millions of parameters")
@pytest.mark.parametrize(("dtype", "units"), [(np.float32, 1024), (np.float64, 512)])
def test_layers_whose_rows_fill_pages(dtype, units):
    """In working memory these have longer rows than units."""
    X, Y = data(60, units, 2, dtype)
    assert_like_naive(X, Y, hidden_layer_sizes=(units, 3, units), batch_size=25)
