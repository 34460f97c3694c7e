"""Promises of MLPRegressor beyond scikit-learn's; that it does the same as scikit-learn is in test_mlp_sklearn.py."""

import _thread
import copy
import multiprocessing
import pickle
import re
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastadam import MLPRegressor
from tests.helpers import naive_mlp
from tests.helpers.effort import examples
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
n = 90
X = rng.standard_normal((n, 5))
Y = np.column_stack([X[:, 0] ** 2, X[:, 1] * X[:, 2]])
y = Y[:, 0]
weights = rng.uniform(0.1, 2, n)
NO_END = {"n_iter_no_change": np.inf}


def make(**parameters):
    defaults = {"hidden_layer_sizes": (6, 4), "batch_size": 16, "max_iter": 10, "random_state": 3}
    return MLPRegressor(**(defaults | parameters))


def arrays(model):
    return [*model.coefs_, *model.intercepts_]


def assert_same_model(a, b):
    """The same training, to the last bit; `n_iter_` may differ, which counts the last fit alone."""
    for p, q in zip(arrays(a), arrays(b), strict=True):
        assert_same_bits(p, q)
    for name in ("loss_curve_", "validation_scores_", "best_loss_", "best_validation_score_", "loss_", "t_"):
        assert getattr(a, name) == getattr(b, name), name


def through_joblib(model, tmp_path):
    joblib.dump(model, tmp_path / "model")
    return joblib.load(tmp_path / "model")


def through_mapped_memory(model, tmp_path):
    joblib.dump(model, tmp_path / "model")
    return joblib.load(tmp_path / "model", mmap_mode="r")


COPIES = {
    "itself": lambda model, _: model,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "copy": lambda model, _: copy.copy(model),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "joblib": through_joblib,
    "mapped memory": through_mapped_memory,
}


@pytest.fixture(params=COPIES)
def copied(request, tmp_path):
    """A function that gives a model back, or a copy of it."""
    return lambda model: COPIES[request.param](model, tmp_path)


# --- going on: warm start and partial_fit -----------------------------------------------------------------------------


@pytest.mark.thin(18)
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("seed", [3, np.int64(3), np.random.RandomState(3)], ids=["int", "int64", "RandomState"])
@pytest.mark.parametrize("sample_weight", [None, weights], ids=["", "weighted"])
def test_ten_epochs_and_ten_more_are_twenty(early_stopping, seed, sample_weight, copied):
    parameters = NO_END | {"early_stopping": early_stopping}
    twice = copied(make(random_state=copy.deepcopy(seed), warm_start=True, **parameters).fit(X, y, sample_weight))
    twice.fit(X, y, sample_weight)
    once = make(random_state=copy.deepcopy(seed), max_iter=20, **parameters).fit(X, y, sample_weight)
    assert_same_model(once, twice)
    assert (once.n_iter_, twice.n_iter_) == (20, 10)


@pytest.mark.parametrize(
    ("X", "Y", "parameters"),
    [
        (X.astype(np.float32), y, {}),
        (sparse.csr_array(X * (X > 0)), Y, {}),
        (pd.DataFrame(X, columns=list("abcde")), pd.Series(y), {"early_stopping": True}),
        (X, Y, {"shuffle": False, "activation": "tanh"}),
        (X, Y, {"alpha": 5.0, "early_stopping": True, "validation_fraction": 0.4}),
    ],
)
def test_fits_of_any_length_add_up(X, Y, parameters):
    parts = make(warm_start=True, **NO_END, **parameters)
    for epochs in (1, 4, 2):
        parts.set_params(max_iter=epochs).fit(X, Y)
    assert_same_model(parts, make(max_iter=7, **NO_END, **parameters).fit(X, Y))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_fits_in_a_row_converge_where_one_does(early_stopping):
    parameters = {"tol": 1e-3, "learning_rate_init": 0.01, "early_stopping": early_stopping, "n_iter_no_change": 3}
    parts = make(warm_start=True, max_iter=4, **parameters)
    for _ in range(100):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts.fit(X, y)
        if not caught:
            break
    once = make(max_iter=400, **parameters).fit(X, y)
    assert len(once.loss_curve_) < 400
    assert_same_model(parts, once)


def test_early_stopping_gives_the_best_epochs_weights():
    parameters = {"learning_rate_init": 0.05, "early_stopping": True, "warm_start": True}
    model = make(max_iter=1, **parameters)
    after = [copy.deepcopy(model.fit(X, y)) for _ in range(25)]
    once = make(max_iter=25, n_iter_no_change=np.inf, **parameters).fit(X, y)
    best = int(np.argmax(once.validation_scores_))
    assert 0 < best < 24, "the test shows nothing if the last epoch is the best"
    for p, q in zip(arrays(once), arrays(after[best]), strict=True):
        assert_same_bits(p, q)
    assert once.best_validation_score_ == once.validation_scores_[best]


@pytest.mark.parametrize("early_stopping", [False, True])
def test_going_on_leaves_the_arrays_of_before_alone(early_stopping):
    model = make(warm_start=True, early_stopping=early_stopping).fit(X, y)
    before, losses = arrays(model), model.loss_curve_
    values, length = copy.deepcopy(before), len(losses)
    model.fit(X, y)
    if not early_stopping:
        model.partial_fit(X, y)
    for p, q in zip(before, values, strict=True):
        assert_same_bits(p, q)
    assert len(losses) == length


def test_a_fit_that_is_not_warm_begins_anew():
    model = make().fit(X, Y)
    model.partial_fit(X, Y)
    assert_same_model(model.fit(X[:, :3], y), make().fit(X[:, :3], y))


@pytest.mark.parametrize(
    ("change", "targets", "message"),
    [
        ({"hidden_layer_sizes": (6, 5)}, y, "[6, 4] hidden units and 1 outputs; continuing with [6, 5] hidden units"),
        ({"hidden_layer_sizes": 6}, y, "[6, 4] hidden units and 1 outputs; continuing with [6] hidden units and 1"),
        ({"hidden_layer_sizes": ()}, y, "continuing with [] hidden units"),
        ({}, Y, "continuing with [6, 4] hidden units and 2 outputs needs a new fit with warm_start=False"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_going_on_with_other_layers_is_refused(method, change, targets, message):
    model = make(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(model.set_params(**change), method)(X, targets)
    assert [c.shape for c in model.coefs_] == [(5, 6), (6, 4), (4, 1)]


@pytest.mark.parametrize("seed", [0, 3, np.int32(7)])
def test_partial_fit_with_an_integer_seed_draws_from_one_stream(seed):
    """As with a RandomState: each call shuffles in its own way, but the same way in each run."""
    with_seed, with_stream = make(random_state=seed), make(random_state=np.random.RandomState(seed))
    for _ in range(4):
        with_seed.partial_fit(X, y)
        with_stream.partial_fit(X, y)
        assert_same_model(with_seed, with_stream)


def test_partial_fit_after_loading_goes_on_as_before(copied):
    one, other = make().fit(X, y), copied(make().fit(X, y))
    for _ in range(3):
        one.partial_fit(X, y)
        other.partial_fit(X, y)
    assert_same_model(one, other)


def test_a_new_seed_starts_a_new_stream():
    model = make(shuffle=True).partial_fit(X, y)
    model.set_params(random_state=11).partial_fit(X, y)
    expected = make().partial_fit(X, y).set_params(random_state=np.random.RandomState(11)).partial_fit(X, y)
    assert_same_model(model, expected)


def test_random_state_none_draws_from_numpys_global_stream():
    state = np.random.get_state()
    try:
        np.random.seed(3)
        model = make(random_state=None).fit(X, y)
        model.partial_fit(X, y)
    finally:
        np.random.set_state(state)
    assert_same_model(model, make(random_state=np.random.RandomState(3)).fit(X, y).partial_fit(X, y))


def test_hyper_parameters_may_change_between_calls():
    model = make().fit(X, y)
    before = copy.deepcopy(arrays(model))
    model.set_params(learning_rate_init=1e-200).partial_fit(X, y)
    for p, q in zip(arrays(model), before, strict=True):
        assert_same_bits(p, q)
    model.set_params(learning_rate_init=0.1).partial_fit(X, y)
    assert not np.array_equal(model.coefs_[0], before[0])


def test_early_stopping_may_be_switched_on_and_off_between_warm_fits():
    model = make(warm_start=True, early_stopping=True).fit(X, y)
    assert len(model.validation_scores_) == 10
    model.set_params(early_stopping=False).fit(X, y)
    assert (model.validation_scores_, model.best_validation_score_) == (None, None)
    assert model.best_loss_ <= model.loss_
    before = copy.deepcopy(arrays(model))
    noise = rng.standard_normal(n)  # scores worse than before the switch: which must not count any more
    model.set_params(early_stopping=True, max_iter=3, learning_rate_init=0.01).fit(X, noise)
    assert len(model.validation_scores_) == 3
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert not np.array_equal(model.coefs_[0], before[0])
    assert len(model.loss_curve_) == 23


def test_a_warm_start_on_other_data_of_another_length():
    model = make(warm_start=True, early_stopping=True, **NO_END).fit(X, y)
    model.fit(X[:50], y[:50])
    model.set_params(early_stopping=False).fit(np.vstack([X, X]), np.append(y, y))
    assert len(model.loss_curve_) == 30


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_without_weight_is_passed_over(dtype):
    w = np.ones(n)
    w[16:32] = 0
    w[64:80] = 0
    kept = w > 0
    parameters = {"shuffle": False, "batch_size": 16}
    model = make(**parameters).fit(X.astype(dtype), y, w)
    expected = make(**parameters).fit(X[kept].astype(dtype), y[kept], w[kept])
    assert model.loss_curve_ == expected.loss_curve_
    for p, q in zip(arrays(model), arrays(expected), strict=True):
        assert_same_bits(p, q)


def test_partial_fit_on_nothing_but_weights_that_cancel_changes_nothing():
    model = make(batch_size=2, shuffle=False).fit(X, y)
    before = copy.deepcopy(arrays(model))
    model.partial_fit(X, y, np.tile([1.0, -1.0], n // 2))
    for p, q in zip(arrays(model), before, strict=True):
        assert_same_bits(p, q)


NOT_NUMBERS = {
    "strings": np.array(["a"] * n),
    "strings of digits": np.array(["1"] * n),
    "bytes": np.array([b"1"] * n),
    "list of strings": ["1"] * n,
    "objects": np.array(["a", *[1.0] * (n - 1)], object),
    "dates": np.array(["2020-01-01"] * n, "M8[D]"),
    "durations": np.ones(n, "m8[s]"),
    "Series of dates": pd.Series(pd.to_datetime(["2020-01-01"] * n)),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("targets", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_targets_that_are_no_numbers_are_refused(method, targets):
    with pytest.raises(ValueError, match=r"number|numeric|convert"):
        getattr(make(), method)(X, targets)


def test_sparse_targets_are_refused():
    with pytest.raises(TypeError, match="Sparse data was passed for y"):
        make().fit(X, sparse.csr_array(Y))


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def memory_mapped(array, path):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_layout_of_the_data_in_memory_does_not_matter(dtype, tmp_path):
    data = X.astype(dtype), Y.astype(dtype), weights.astype(dtype)
    model = make().fit(*data)
    forms = {
        "read-only": [read_only(array) for array in data],
        "memory-mapped": [memory_mapped(array, tmp_path / f"{k}.npy") for k, array in enumerate(data)],
        "Fortran": [np.asfortranarray(array) for array in data],
        "strided": [np.repeat(array, 2, axis=0)[::2] for array in data],
        "backwards": [np.ascontiguousarray(array[::-1])[::-1] for array in data],
        "lists": [data[0], Y.astype(dtype).tolist(), weights.astype(dtype).tolist()],
        "unaligned": [
            np.frombuffer(bytearray(b"x" + array.tobytes()), dtype, offset=1).reshape(array.shape) for array in data
        ],
    }
    for form in forms.values():
        assert_same_model(model, make().fit(*form))
        assert_same_bits(model.predict(form[0]), model.predict(data[0]))


def test_sparse_data_that_is_read_only(tmp_path):
    dense = X * (X > 0)
    joblib.dump(sparse.csr_array(dense), tmp_path / "sparse")
    mapped = joblib.load(tmp_path / "sparse", mmap_mode="r")
    model = make().fit(mapped, y)
    assert_same_model(model, make().fit(sparse.csr_array(dense), y))
    assert_same_bits(model.predict(mapped), model.predict(sparse.csc_array(dense)))


def test_fit_does_not_write_to_what_it_is_given():
    given = [X.copy(), Y.copy(), weights.copy()]
    hidden = [6, 4]
    make(hidden_layer_sizes=hidden, early_stopping=True).fit(*given)
    for array, original in zip(given, (X, Y, weights), strict=True):
        assert_same_bits(array, original)
    assert hidden == [6, 4]


def test_float32_is_trained_and_predicted_in_float32():
    model = make().fit(X.astype(np.float32), y, weights)
    assert {array.dtype for array in arrays(model)} == {np.dtype(np.float32)}
    assert all(moment.dtype == np.float32 for moment in model._optimizer.moments.values())
    assert model.predict(X.astype(np.float32)).dtype == np.float32
    assert model.predict(X).dtype == np.float32
    model.partial_fit(X, y)  # float64, which a float32 model takes as its own
    assert model.coefs_[0].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, bool, object])
def test_everything_but_float32_is_trained_in_float64(dtype):
    model = make().fit((X > 0).astype(dtype), y)
    assert {array.dtype for array in arrays(model)} == {np.dtype(np.float64)}
    assert model.predict((X > 0).astype(dtype)).dtype == np.float64
    assert_same_model(model, make().fit((X > 0).astype(float), y))


def test_the_dtype_of_targets_and_weights_does_not_matter():
    data = X.astype(np.float32)
    model = make().fit(data, y.astype(np.float32), weights.astype(np.float32))
    assert_same_model(model, make().fit(data, y.astype(np.float32).astype(float), weights))


def test_predicting_one_row():
    model = make().fit(X, Y)
    np.testing.assert_allclose(model.predict(X[:1]), model.predict(X)[:1], rtol=1e-13)
    assert make().fit(X, y).predict(X[:1]).shape == (1,)


def test_predictions_do_not_depend_on_how_the_data_came_by_its_form():
    """Data that needs no conversion takes a shorter way."""
    for dtype in (np.float32, np.float64):
        data = X.astype(dtype)
        model = make().fit(data, Y)
        expected = model.predict(data)
        for form in (data.tolist(), read_only(data), np.asfortranarray(data), data.astype(object), pd.DataFrame(data)):
            assert_same_bits(model.predict(form), expected)
        assert_same_bits(model.predict(data[::2]), expected[::2])


def test_finite_values_whose_sum_is_not_are_no_error():
    model = make(activation="tanh").fit(X, y)
    huge = np.full((4, 5), 1e308)
    assert_same_bits(model.predict(huge), model.predict(read_only(huge)))
    assert np.isfinite(model.predict(huge)).all()


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh"])
def test_an_activation_that_was_set_after_the_fit_is_used(activation):
    model = make().fit(X, y).set_params(activation=activation)
    expected = naive_mlp.predict(model.coefs_, model.intercepts_, activation, X)[:, 0]
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-10)


def test_names_of_features_are_kept():
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = make(early_stopping=True).fit(frame, y)
    assert model.feature_names_in_.tolist() == list("abcde")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.predict(frame)
        model.score(frame, y)
        pickle.loads(pickle.dumps(model)).predict(frame)
    assert not hasattr(make().fit(X, y), "feature_names_in_")


# --- a fit that fails -------------------------------------------------------------------------------------------------


def with_nan(array):
    array = array.copy()
    array[3] = np.nan
    return array


BAD_DATA = {
    "NaN in X": (with_nan(X), y),
    "NaN in y": (X, with_nan(y)),
    "strings in y": (X, ["a"] * n),
    "too few y": (X, y[1:]),
    "other features": (X[:, :3], y),
    "other outputs": (X, Y),
    "weights of the wrong length": (X, y, weights[1:]),
    "values too large to train on": (np.abs(X) * 1e307, y),
    "values too large to train on, with names": (pd.DataFrame(np.abs(X) * 1e307, columns=list("abcde")), y),
    "NaN in X of other features, with names": (pd.DataFrame(with_nan(X)[:, :2], columns=["a", "b"]), y),
}


def snapshot(model):
    return dict(vars(model)), pickle.dumps(model)


def assert_unchanged(model, before):
    attributes, pickled = before
    assert vars(model).keys() == attributes.keys()
    assert all(vars(model)[name] is value for name, value in attributes.items())
    assert pickle.dumps(model) == pickled


OF_ANOTHER_SHAPE = {"other features", "other outputs"}  # no trouble for a fit that begins anew


def fails(method, *data):
    """Call the method, which must raise; what it says is compared with scikit-learn elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of features with names
        with pytest.raises(ValueError):  # noqa: PT011
            method(*data)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("case", BAD_DATA)
def test_a_fit_that_fails_leaves_a_fitted_model_as_it_was(method, case):
    model = make(warm_start=True).fit(X, y)
    before = snapshot(model)
    fails(getattr(model, method), *BAD_DATA[case])
    assert_unchanged(model, before)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("case", sorted(BAD_DATA.keys() - OF_ANOTHER_SHAPE))
def test_a_new_fit_that_fails_leaves_the_model_as_it_was(early_stopping, case):
    if early_stopping and "too large" in case:
        pytest.skip("no failure: the weights before training are the best")
    model = make(early_stopping=early_stopping).fit(X, y)
    before = snapshot(model)
    fails(model.fit, *BAD_DATA[case])
    assert_unchanged(model, before)


@pytest.mark.parametrize("case", sorted(BAD_DATA.keys() - OF_ANOTHER_SHAPE))
def test_a_first_fit_that_fails_leaves_the_model_unfitted(case):
    model = make()
    before = snapshot(model)
    fails(model.fit, *BAD_DATA[case])
    assert_unchanged(model, before)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_after_a_fit_that_failed_training_goes_on_as_if_it_had_not_been():
    disturbed, undisturbed = make(warm_start=True).fit(X, y), make(warm_start=True).fit(X, y)
    for data in BAD_DATA.values():
        fails(disturbed.fit, *data)
        fails(disturbed.partial_fit, *data)
    assert_same_model(disturbed.fit(X, y), undisturbed.fit(X, y))


def test_a_warning_that_is_made_an_error_is_a_fit_that_failed():
    model = make(warm_start=True).fit(X, y)
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning):
            model.fit(X, y)
    assert_unchanged(model, before)


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C raise KeyboardInterrupt, also in a process that was started to ignore it, as background jobs are."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield _thread.interrupt_main
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_in_the_middle_of_training_keeps_the_model(early_stopping, ctrl_c):
    model = make(max_iter=10**6, tol=0.0, early_stopping=early_stopping, **NO_END)
    timer = threading.Timer(0.3, ctrl_c)
    make(early_stopping=early_stopping, max_iter=1).fit(X, y)  # compiles
    timer.start()
    with pytest.warns(UserWarning, match="^Training interrupted by user.$"):
        model.fit(X, y)
    assert 0 < model.n_iter_ < 10**6
    assert abs(len(model.loss_curve_) - model.n_iter_) <= 1
    assert np.isfinite(model.predict(X)).all()
    model.set_params(warm_start=True, max_iter=2).fit(X, y)
    pickle.loads(pickle.dumps(model)).predict(X)


def test_no_thread_outlives_a_fit():
    before = set(threading.enumerate())
    big = np.tile(X, (20, 20))
    make(batch_size=900, max_iter=2, hidden_layer_sizes=(100,)).fit(big, np.tile(y, 20))
    with pytest.raises(ValueError, match="non-finite"):
        make(batch_size=900, max_iter=2, hidden_layer_sizes=(100,)).fit(np.abs(big) * 1e307, np.tile(y, 20))
    assert set(threading.enumerate()) == before


# --- weights as views of one buffer -----------------------------------------------------------------------------------


def assert_in_one_buffer(model):
    """All parameters lie side by side: each weight matrix, then its bias."""
    in_order = [array for layer in zip(model.coefs_, model.intercepts_, strict=True) for array in layer]
    addresses = np.array([array.ctypes.data for array in in_order])
    np.testing.assert_array_equal(np.diff(addresses), [array.nbytes for array in in_order[:-1]])
    assert all(array.flags.writeable and array.flags.c_contiguous for array in in_order)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights_are_views_of_one_buffer_that_predict_and_fit_use(early_stopping, copied):
    model = make(early_stopping=early_stopping).fit(X, Y)
    original, model = model, copied(model)
    assert_in_one_buffer(model)
    assert_same_bits(model.predict(X), original.predict(X))
    model.coefs_[-1][:] = 0
    model.intercepts_[-1][:] = [5, 6]
    assert_same_bits(model.predict(X), np.tile([5.0, 6.0], (n, 1)))
    if not early_stopping:
        model.partial_fit(X, Y)
        np.testing.assert_allclose(model.intercepts_[-1], [5, 6], atol=0.1)
        assert_in_one_buffer(model)


def test_a_copy_is_independent_of_its_original(copied, request):
    if request.node.callspec.params["copied"] in ("itself", "copy"):
        pytest.skip("the same weights")
    model = make().fit(X, y)
    before = model.predict(X)
    other = copied(model)
    other.coefs_[0][:] = 0
    other.partial_fit(X, y)
    assert_same_bits(model.predict(X), before)
    assert len(model.loss_curve_) == 10


def test_training_a_shallow_copy_leaves_the_original_alone():
    model = make().fit(X, y)
    before = snapshot(model)
    copy.copy(model).partial_fit(X, y)
    assert_unchanged(model, before)


def test_a_pickle_holds_parameters_and_moments_once_each():
    model = make(hidden_layer_sizes=(100, 200)).fit(X, y)
    parameters = sum(array.nbytes for array in arrays(model))
    assert len(pickle.dumps(model)) < 3.2 * parameters


def replace_one(model, values):
    model.coefs_[0] = values[0]


def replace_list(model, values):
    model.coefs_ = list(values)


def replace_with_lists(model, values):
    model.coefs_ = [value.tolist() for value in values]


def replace_with_tuple(model, values):
    model.coefs_ = tuple(values)


def replace_in_place(model, values):
    for array, value in zip(model.coefs_, values, strict=True):
        array[:] = value


@pytest.mark.parametrize("replace", [replace_one, replace_list, replace_with_lists, replace_with_tuple])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights_that_were_replaced_are_used(replace, early_stopping, copied):
    model = make(early_stopping=early_stopping).fit(X, y)
    values = [np.asarray(c) + 0.25 for c in model.coefs_]
    replace(model, values)
    if replace is replace_one:
        values[1:] = model.coefs_[1:]
    model = copied(model)
    expected = naive_mlp.predict(values, model.intercepts_, "relu", X)[:, 0]
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-12)
    model.set_params(early_stopping=False, learning_rate_init=1e-9)
    model.partial_fit(X, y)
    np.testing.assert_allclose(model.coefs_[0], values[0], atol=1e-6)
    assert_in_one_buffer(model)


def test_replaced_weights_are_trained_as_those_changed_in_place():
    replaced, changed = make().fit(X, y), make().fit(X, y)
    values = [c * 0.5 for c in replaced.coefs_]
    replace_list(replaced, values)
    replace_in_place(changed, values)
    assert_same_model(replaced.partial_fit(X, y), changed.partial_fit(X, y))
    before = [value.copy() for value in values]
    replaced.partial_fit(X, y)
    for value, original in zip(values, before, strict=True):  # the user's own arrays are not trained
        assert_same_bits(value, original)


def test_a_network_of_another_shape_may_replace_the_fitted_one():
    model = make().fit(X, y)
    weights, biases = naive_mlp.glorot([5, 9, 3, 2], "relu", np.random.RandomState(0))
    model.coefs_, model.intercepts_ = weights, biases
    np.testing.assert_allclose(model.predict(X), naive_mlp.predict(weights, biases, "relu", X), rtol=1e-10)


@pytest.mark.parametrize(
    "replacement",
    [
        {0: np.ones((5, 7))},
        {0: np.ones((4, 6))},
        {0: np.ones((9, 6))},
        {1: np.ones((6, 3))},
        {2: np.ones((4, 2))},
        {0: np.ones(30)},
        {0: 1.0},
        {0: np.ones((5, 6, 1))},
    ],
    ids=str,
)
@pytest.mark.parametrize("data", [X, sparse.csr_array(X)], ids=["dense", "sparse"])
def test_replaced_weights_that_fit_nothing_are_refused(replacement, data):
    model = make().fit(X, y)
    for k, array in replacement.items():
        model.coefs_[k] = array
    with pytest.raises(ValueError, match="coefs_ and intercepts_ must have, layer by layer, the shapes"):
        model.predict(data)
    with pytest.raises((ValueError, IndexError)):
        model.partial_fit(data, y)


def test_layers_that_were_taken_away_are_noticed():
    for name in ("coefs_", "intercepts_"):
        model = make().fit(X, y)
        setattr(model, name, getattr(model, name)[:2])
        with pytest.raises(ValueError, match="coefs_ and intercepts_ must have"):
            model.predict(X)


# --- scikit-learn around it -------------------------------------------------------------------------------------------


def test_clone_gives_an_unfitted_estimator_that_fits_the_same():
    model = make(warm_start=True).fit(X, y)
    cloned = clone(model)
    assert vars(cloned).keys() == cloned.get_params().keys()
    assert_same_model(cloned.fit(X, y), model.set_params(warm_start=False).fit(X, y))


def test_in_a_pipeline_and_with_transformed_targets():
    model = make(max_iter=300, learning_rate_init=0.01)
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    assert_same_bits(pipeline.predict(X), clone(model).fit(scaled, y).predict(scaled))
    transformed = TransformedTargetRegressor(pipeline, transformer=StandardScaler()).fit(X, 1000 * y)
    assert transformed.score(X, 1000 * y) > 0.8
    assert MultiOutputRegressor(make()).fit(X, Y).predict(X).shape == (n, 2)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_grid_search_in_parallel_finds_what_one_in_a_row_does(backend):
    grid = {"mlpregressor__alpha": [1e-4, 1.0], "mlpregressor__batch_size": [16, 40]}

    def search(n_jobs):
        return GridSearchCV(make_pipeline(StandardScaler(), make()), grid, cv=2, n_jobs=n_jobs).fit(X, y)

    with joblib.parallel_backend(backend):
        parallel = search(2)
    in_a_row = search(1)
    np.testing.assert_array_equal(parallel.cv_results_["mean_test_score"], in_a_row.cv_results_["mean_test_score"])
    assert_same_model(parallel.best_estimator_[-1], in_a_row.best_estimator_[-1])


def test_cross_validation():
    scores = cross_val_score(make(early_stopping=True), X, y, cv=3, params={"sample_weight": weights})
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    assert cross_val_predict(make(), X, Y, cv=3).shape == Y.shape


def test_two_threads_predict_with_one_estimator():
    model = make(hidden_layer_sizes=(50, 50)).fit(X, y)
    data = [np.tile(X, (20, 1)) * scale for scale in (1.0, 2.0)]
    expected = [model.predict(array) for array in data]
    with ThreadPoolExecutor(2) as pool:
        for predicted, right in zip(pool.map(model.predict, data * 20), expected * 20, strict=True):
            assert_same_bits(predicted, right)


def test_fits_in_two_threads_are_those_one_after_the_other():
    data = np.tile(X, (10, 10)), np.tile(y, 10)
    seeds = range(6)

    def fit(seed):
        return make(random_state=seed, batch_size=450, hidden_layer_sizes=(60,), max_iter=5).fit(*data)

    in_a_row = [fit(seed) for seed in seeds]
    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for model, expected in zip(pool.map(fit, seeds), in_a_row, strict=True):
            assert_same_model(model, expected)


def fit_for_a_fork(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make(random_state=seed, batch_size=450, hidden_layer_sizes=(60,), max_iter=5, n_threads=2)
        return model.fit(np.tile(X, (10, 10)), np.tile(y, 10))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_fits_in_forked_processes_are_those_of_the_parent():
    expected = [fit_for_a_fork(seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads in this process
        models = pool.map_async(fit_for_a_fork, range(4)).get(timeout=100)
    for model, right in zip(models, expected, strict=True):
        assert_same_model(model, right)


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "all"])
def test_numbers_of_threads_that_make_no_sense_are_refused(n_threads):
    with pytest.raises(ValueError, match="The 'n_threads' parameter of MLPRegressor must be an int"):
        make(n_threads=n_threads).fit(X, y)


# --- lbfgs, Poisson ---------------------------------------------------------------------------------------------------


# --- anything in any order --------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Calls in any order: the counters add up, and predictions are those of the weights that are shown."""

    @initialize(early_stopping=st.booleans(), dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, 9))
    def first_fit(self, early_stopping, dtype, seed):
        self.X = X.astype(dtype)
        self.model = make(max_iter=2, early_stopping=early_stopping, random_state=seed, n_iter_no_change=2)
        self.losses, self.seen = [], 0
        self.model.fit(self.X, y)
        self.expect(begun=True, rows=n)

    def expect(self, begun, rows):
        self.losses = self.model.loss_curve_[:] if begun else self.losses + self.model.loss_curve_[len(self.losses) :]
        trained = rows - (int(np.ceil(0.1 * rows)) if self.model.early_stopping else 0)
        self.seen = (0 if begun else self.seen) + trained * self.model.n_iter_

    @rule(rows=st.sampled_from([40, 75, n]), epochs=st.integers(1, 3))
    def fit(self, rows, epochs):
        self.model.set_params(max_iter=epochs).fit(self.X[:rows], y[:rows])
        self.expect(begun=not self.model.warm_start, rows=rows)
        assert 1 <= self.model.n_iter_ <= epochs

    @precondition(lambda self: not self.model.early_stopping)
    @rule(rows=st.sampled_from([1, 17, n]))
    def partial_fit(self, rows):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a batch of 16 of one row is clipped
            self.model.partial_fit(self.X[:rows], y[:rows])
        self.expect(begun=False, rows=rows)

    @rule(case=st.sampled_from(["NaN in X", "strings in y", "weights of the wrong length"]))
    def fail(self, case):
        before = snapshot(self.model)
        fails(self.model.fit, *BAD_DATA[case])
        assert_unchanged(self.model, before)

    @rule()
    def pickle(self):
        self.model = pickle.loads(pickle.dumps(self.model))

    @rule(name=st.sampled_from(["warm_start", "early_stopping", "shuffle"]))
    def switch(self, name):
        self.model.set_params(**{name: not getattr(self.model, name)})

    @rule(k=st.integers(0, 2), in_place=st.booleans())
    def change_weights(self, k, in_place):
        if in_place:
            self.model.coefs_[k][:] *= 0.5
        else:
            self.model.coefs_[k] = self.model.coefs_[k] * 0.5

    @invariant()
    def adds_up(self):
        if not hasattr(self, "model"):
            return
        assert self.model.loss_curve_ == self.losses
        assert self.model.t_ == self.seen
        expected = naive_mlp.predict(self.model.coefs_, self.model.intercepts_, "relu", self.X)[:, 0]
        np.testing.assert_allclose(self.model.predict(self.X), expected, rtol=1e-3, atol=1e-5)


TestAnyOrder = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")(AnyOrder.TestCase)
TestAnyOrder.settings = examples(25, stateful_step_count=12, deadline=None)
