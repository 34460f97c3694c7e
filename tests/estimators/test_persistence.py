"""A fitted estimator that was saved and loaded predicts the same bits, and goes on training as if nothing had been."""

import io
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastadam import MLPClassifier, MLPRegressor
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.estimators.solvers import SOLVERS
from tests.helpers.naive import assert_same_bits

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="the estimators are trained"),
]

rng = np.random.default_rng(0)
X = rng.standard_normal((90, 4))
y = X[:, 0] * X[:, 1] + X[:, 2]
KINDS = {MLPRegressor: y, MLPClassifier: np.digitize(y, [-0.5, 0.5])}

TRUSTED = {
    "fastadam.MLPRegressor", "fastadam.MLPClassifier", "fastadam.FlatBuffer",
    "fastadam.estimators.training.Progress", "fastadam.estimators.solvers.VelocitySGD",
    "fastadam.schedules._PlateauState",
    "fastadam.cpu.network.Layout",  # where arrays of `coefs_` were set by hand
    *(f"fastadam.{name}" for name in
      ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Lion", "RMSprop", "Adagrad", "Adadelta")),
}  # fmt: skip
"""All that skops finds in an estimator and does not know."""


def by_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))


def by_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


def by_skops(estimator):
    skops_io = pytest.importorskip("skops.io")
    data = skops_io.dumps(estimator)
    unknown = skops_io.get_untrusted_types(data=data)
    assert set(unknown) <= TRUSTED
    return skops_io.loads(data, trusted=unknown)


@pytest.fixture(params=[by_pickle, by_joblib, by_skops], ids=lambda way: way.__name__)
def saved_and_loaded(request):
    return request.param


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def make(kind, **parameters):
    defaults = {"hidden_layer_sizes": (6, 3), "batch_size": 16, "max_iter": 4, "random_state": 3}
    return kind(**(defaults | parameters))


def predictions(estimator, X):
    probabilities = [estimator.predict_proba(X)] if hasattr(estimator, "predict_proba") else []
    return [estimator.predict(X), *probabilities]


def assert_same_predictions(a, b, X=X):
    for expected, actual in zip(predictions(a, X), predictions(b, X), strict=True):
        if expected.dtype.kind in "OU":
            np.testing.assert_array_equal(actual, expected)
        else:
            assert_same_bits(actual, expected)


def assert_same_training(a, b):
    for expected, actual in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_], strict=True):
        assert_same_bits(actual, expected)
    for name in ("loss_", "t_", "n_iter_", "loss_curve_", "validation_scores_", "best_loss_"):
        assert getattr(a, name, None) == getattr(b, name, None)


@pytest.mark.thin(36)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["lbfgs", *SOLVERS])
def test_predictions_and_further_epochs_are_the_same_bits(kind, solver, dtype, saved_and_loaded):
    data, target = X.astype(dtype), KINDS[kind]
    estimator = make(kind, solver=solver, warm_start=True).fit(data, target)
    loaded = saved_and_loaded(estimator)
    assert_same_predictions(estimator, loaded, data)
    assert_same_training(estimator.fit(data, target), loaded.fit(data, target))
    assert_same_predictions(estimator, loaded, data)


CONFIGURATIONS = {
    "early stopping": {"early_stopping": True, "n_iter_no_change": np.inf},
    "a score of one's own": {"early_stopping": True, "scoring": "loss"},
    "dropout": {"dropout": 0.3},
    "a schedule": {"learning_rate": "cosine", "warmup_epochs": 2},
    "plateaus": {"learning_rate": "plateau"},
    "activations": {"activation": ("tanh", "gelu")},
    "no hidden layer": {"hidden_layer_sizes": ()},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_in_every_configuration(kind, configuration, saved_and_loaded):
    estimator = make(kind, warm_start=True, **CONFIGURATIONS[configuration]).fit(X, KINDS[kind])
    loaded = saved_and_loaded(estimator)
    assert_same_predictions(estimator, loaded)
    assert_same_training(estimator.fit(X, KINDS[kind]), loaded.fit(X, KINDS[kind]))


def test_with_a_random_stream_of_the_users_own(kind, saved_and_loaded):
    stream = np.random.RandomState(7)
    estimator = make(kind, random_state=stream, warm_start=True).fit(X, KINDS[kind])
    loaded = saved_and_loaded(estimator)
    assert loaded.random_state is not stream
    assert_same_training(estimator.fit(X, KINDS[kind]), loaded.fit(X, KINDS[kind]))


def test_partial_fit_goes_on(kind, saved_and_loaded):
    first = {"classes": [0, 1, 2]} if kind is MLPClassifier else {}
    estimator = make(kind).partial_fit(X, KINDS[kind], **first)
    loaded = saved_and_loaded(estimator)
    for _ in range(3):
        estimator.partial_fit(X, KINDS[kind])
        loaded.partial_fit(X, KINDS[kind])
    assert_same_training(estimator, loaded)


def test_several_outputs_and_several_labels(kind, saved_and_loaded):
    target = np.column_stack([X[:, 0], X[:, 1] * X[:, 2]])
    estimator = make(kind).fit(X, target if kind is MLPRegressor else (target > 0).astype(int))
    assert_same_predictions(estimator, saved_and_loaded(estimator))


def test_names_of_features_and_of_classes(saved_and_loaded):
    frame = pd.DataFrame(X, columns=list("abcd"))
    colours = np.array(["blue", "green", "red"], dtype=object)[KINDS[MLPClassifier]]
    estimator = make(MLPClassifier).fit(frame, colours)
    loaded = saved_and_loaded(estimator)
    assert_same_predictions(estimator, loaded, frame)
    assert list(loaded.feature_names_in_) == list("abcd")
    assert list(loaded.classes_) == ["blue", "green", "red"]


def test_in_a_pipeline(kind, saved_and_loaded):
    pipeline = make_pipeline(StandardScaler(), make(kind)).fit(X, KINDS[kind])
    assert_same_predictions(pipeline, saved_and_loaded(pipeline))


def test_an_estimator_that_is_not_fitted(kind, saved_and_loaded):
    estimator = make(kind, activation="mish", alpha=0.25)
    loaded = saved_and_loaded(estimator)
    assert loaded.get_params() == estimator.get_params()
    assert_same_training(estimator.fit(X, KINDS[kind]), loaded.fit(X, KINDS[kind]))


def test_arrays_that_were_set_by_hand(kind, saved_and_loaded):
    estimator = make(kind).fit(X, KINDS[kind])
    before = predictions(estimator, X)[-1]
    estimator.coefs_[0] = estimator.coefs_[0] * 3
    assert not np.array_equal(predictions(estimator, X)[-1], before)
    assert_same_predictions(estimator, saved_and_loaded(estimator))


def test_a_loaded_estimator_shares_no_memory_with_the_first(kind, saved_and_loaded):
    estimator = make(kind, warm_start=True).fit(X, KINDS[kind])
    loaded = saved_and_loaded(estimator)
    before = predictions(loaded, X)
    estimator.coefs_[0][:] = 0
    estimator.fit(X, KINDS[kind])
    for expected, actual in zip(before, predictions(loaded, X), strict=True):
        assert_same_bits(actual, expected)


def test_a_file_that_is_mapped_into_memory(kind, tmp_path):
    estimator = make(kind, warm_start=True).fit(X, KINDS[kind])
    joblib.dump(estimator, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert_same_predictions(estimator, loaded)
    assert_same_training(estimator.fit(X, KINDS[kind]), loaded.fit(X, KINDS[kind]))


GO_ON = """
import sys, warnings
import joblib, numpy as np
warnings.simplefilter("ignore")
X, y = np.load("data.npz").values()
print(joblib.load("model.joblib").fit(X, y)._params.flat.tobytes().hex())
"""


def test_another_process_goes_on(kind, tmp_path):
    estimator = make(kind, warm_start=True).fit(X, KINDS[kind])
    joblib.dump(estimator, tmp_path / "model.joblib")
    np.savez(tmp_path / "data.npz", X, KINDS[kind])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", GO_ON]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=True
    )
    assert result.stdout.strip() == estimator.fit(X, KINDS[kind])._params.flat.tobytes().hex()
