"""The estimators inside of scikit-learn's others, and fits beside other parallel code.

What has an MLP inside gives the same with ours as with scikit-learn's. Fits beside other parallel code have the bits
that they have alone, and leave all settings as they were.
"""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import matplotlib
import numba
import numpy as np
import pandas as pd
import pytest
import sklearn
import sklearn.neural_network
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import PartialDependenceDisplay, partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from threadpoolctl import threadpool_info

import fastadam
from fastadam import MLPClassifier, MLPRegressor
from fastadam.cpu.jit import JIT_DISABLED
from tests.helpers.naive import assert_same_bits

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="interpreted code has one thread"),
]

rng = np.random.default_rng(0)
X, y = rng.standard_normal((600, 5)), rng.standard_normal(600)


# --- inside of scikit-learn's others ----------------------------------------------------------------------------------

X_few = X[:120]
signal = X_few[:, 0] ** 2 + X_few[:, 1]
Y_few = np.column_stack([signal, X_few[:, 2]])
labels = np.array(["a", "b", "c"])[np.digitize(signal, [0.2, 1.5])]
two = signal > 0.7
weights = rng.uniform(0.1, 2, 120)

SMALL = {"hidden_layer_sizes": (6,), "max_iter": 12, "batch_size": 8, "learning_rate_init": 0.02, "random_state": 0}
OURS, THEIRS = fastadam, sklearn.neural_network


def grid_of_halves(mlp, **parameters):
    grid = {"alpha": [1e-4, 0.1, 10.0], "hidden_layer_sizes": [(3,), (8,)]}
    search = HalvingGridSearchCV(mlp, grid, cv=3, random_state=0, factor=2, **parameters)
    return search.fit(X_few, signal).cv_results_["mean_test_score"]


def weighted_scores(mlp):
    """Scores of fits in which the weights count, and which are weighted themselves."""
    with sklearn.config_context(enable_metadata_routing=True):
        mlp = mlp.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        return cross_validate(mlp, X_few, signal, cv=3, params={"sample_weight": weights})["test_score"]


def weighted_search(mlp):
    """The same in a pipeline, of which the scaler gets no weights."""
    with sklearn.config_context(enable_metadata_routing=True):
        mlp = mlp.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), mlp)
        search = GridSearchCV(pipeline, {"mlpregressor__alpha": [0.1, 1.0]}, cv=2)
        return search.fit(X_few, signal, sample_weight=weights).cv_results_["mean_test_score"]


def partial_fits(mlp):
    outputs = MultiOutputRegressor(mlp)
    for _ in range(2):
        outputs.partial_fit(X_few, Y_few)
    return outputs.predict(X_few)


REGRESSORS = {
    "cross_validate": lambda mlp: cross_validate(mlp, X_few, signal, cv=3)["test_score"],
    "cross_validate with routed weights": weighted_scores,
    "GridSearchCV with routed weights": weighted_search,
    "cross_val_predict": lambda mlp: cross_val_predict(mlp, X_few, Y_few, cv=3),
    "RandomizedSearchCV": lambda mlp: RandomizedSearchCV(
        mlp, {"alpha": [1e-4, 0.1, 10.0], "activation": ["tanh", "relu"]}, n_iter=3, cv=2, random_state=0
    ).fit(X_few, signal).cv_results_["mean_test_score"],
    "HalvingGridSearchCV of samples": grid_of_halves,
    "HalvingGridSearchCV of epochs": lambda mlp: grid_of_halves(
        mlp, resource="max_iter", min_resources=3, max_resources=12
    ),
    "BaggingRegressor": lambda mlp: BaggingRegressor(mlp, 4, random_state=0).fit(X_few, signal).predict(X_few),
    "StackingRegressor": lambda mlp: StackingRegressor([("mlp", mlp), ("ridge", Ridge())], cv=3)
    .fit(X_few, signal).predict(X_few),
    "VotingRegressor": lambda mlp: VotingRegressor([("mlp", mlp), ("ridge", Ridge())])
    .fit(X_few, signal, sample_weight=weights).predict(X_few),
    "TransformedTargetRegressor": lambda mlp: TransformedTargetRegressor(
        make_pipeline(StandardScaler(), mlp), transformer=StandardScaler()
    ).fit(X_few, 1000 * Y_few).predict(X_few),
    "MultiOutputRegressor": lambda mlp: MultiOutputRegressor(mlp).fit(X_few, Y_few).predict(X_few),
    "MultiOutputRegressor.partial_fit": lambda mlp: partial_fits(mlp.set_params(shuffle=False)),
    "RegressorChain": lambda mlp: RegressorChain(mlp).fit(X_few, Y_few).predict(X_few),
    "permutation_importance": lambda mlp: permutation_importance(
        mlp.fit(X_few, signal), X_few, signal, n_repeats=3, random_state=0
    ).importances,
    "partial_dependence": lambda mlp: partial_dependence(mlp.fit(X_few, signal), X_few, [0])["average"],
    "learning_curve": lambda mlp: np.hstack(
        learning_curve(mlp, X_few, signal, train_sizes=[40, 80], cv=3, exploit_incremental_learning=False)[1:]
    ),
    "learning_curve of partial_fit": lambda mlp: learning_curve(
        mlp.set_params(shuffle=False), X_few, signal, train_sizes=[20, 50], cv=2, exploit_incremental_learning=True
    )[2],
    "validation_curve": lambda mlp: np.hstack(
        validation_curve(mlp, X_few, signal, param_name="alpha", param_range=[0.1, 10.0], cv=2)
    ),
    "SequentialFeatureSelector": lambda mlp: SequentialFeatureSelector(
        mlp, n_features_to_select=1, cv=2
    ).fit(X_few[:, :3], signal).get_support().astype(float),
    "FrozenEstimator": lambda mlp: FrozenEstimator(mlp.fit(X_few, signal)).fit(-X_few, None).predict(X_few),
    "y as a Series": lambda mlp: mlp.fit(X_few, pd.Series(signal, index=range(500, 620))).predict(X_few),
}  # fmt: skip

CLASSIFIERS = {
    "cross_val_predict": lambda mlp: cross_val_predict(mlp, X_few, labels, cv=3, method="predict_proba"),
    "BaggingClassifier": lambda mlp: BaggingClassifier(mlp, 4, random_state=0).fit(X_few, labels).predict_proba(X_few),
    "StackingClassifier": lambda mlp: StackingClassifier([("mlp", mlp), ("lr", LogisticRegression())], cv=3)
    .fit(X_few, labels).predict_proba(X_few),
    "VotingClassifier": lambda mlp: VotingClassifier([("mlp", mlp), ("lr", LogisticRegression())], voting="soft")
    .fit(X_few, labels).predict_proba(X_few),
    "CalibratedClassifierCV": lambda mlp: CalibratedClassifierCV(mlp, cv=3, method="sigmoid")
    .fit(X_few, labels).predict_proba(X_few),
    "CalibratedClassifierCV of weights": lambda mlp: CalibratedClassifierCV(mlp, cv=3)
    .fit(X_few, two, sample_weight=weights).predict_proba(X_few),
    "CalibratedClassifierCV of a frozen one": lambda mlp: CalibratedClassifierCV(
        FrozenEstimator(mlp.fit(X_few, labels))
    ).fit(X_few, labels).predict_proba(X_few),
    "OneVsRestClassifier": lambda mlp: OneVsRestClassifier(mlp).fit(X_few, labels).predict_proba(X_few),
    "OneVsOneClassifier": lambda mlp: OneVsOneClassifier(mlp).fit(X_few, labels).decision_function(X_few),
    "MultiOutputClassifier": lambda mlp: np.hstack(
        MultiOutputClassifier(mlp).fit(X_few, np.column_stack([two, labels == "a"])).predict_proba(X_few)
    ),
    "ClassifierChain": lambda mlp: ClassifierChain(mlp).fit(X_few, np.column_stack([two, labels == "a"]))
    .predict_proba(X_few),
    "SelfTrainingClassifier": lambda mlp: SelfTrainingClassifier(mlp, threshold=0.7)
    .fit(X_few, np.where(np.arange(120) % 3, two, -1)).predict_proba(X_few),
    "FixedThresholdClassifier": lambda mlp: FixedThresholdClassifier(mlp, threshold=0.3)
    .fit(X_few, two).predict(X_few).astype(float),
    "TunedThresholdClassifierCV": lambda mlp: TunedThresholdClassifierCV(mlp, cv=2).fit(X_few, two).best_score_,
    "permutation_importance": lambda mlp: permutation_importance(
        mlp.fit(X_few, labels), X_few, labels, scoring="neg_log_loss", n_repeats=3, random_state=0
    ).importances,
    "y as categories": lambda mlp: mlp.fit(X_few, pd.Series(labels, dtype="category")).predict_proba(X_few),
}  # fmt: skip


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_in_it_does_what_scikit_learns_does(name):
    ours, theirs = (REGRESSORS[name](package.MLPRegressor(**SMALL)) for package in (OURS, THEIRS))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_in_it_does_what_scikit_learns_does(name):
    ours, theirs = (CLASSIFIERS[name](package.MLPClassifier(**SMALL)) for package in (OURS, THEIRS))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_validation_data_are_routed_and_transformed():
    X_val, y_val, weights_val = X[200:260], X[200:260, 0] ** 2 + X[200:260, 1], rng.uniform(0.1, 2, 60)
    given = {"y_val": y_val, "sample_weight_val": weights_val}
    with sklearn.config_context(enable_metadata_routing=True):
        mlp = MLPRegressor(**SMALL).set_fit_request(X_val=True, y_val=True, sample_weight_val=True)
        pipeline = Pipeline([("scale", StandardScaler(with_mean=False)), ("mlp", mlp)], transform_input=["X_val"])
        pipeline.fit(X_few * 5, signal, X_val=X_val * 5, **given)
    scaler = StandardScaler(with_mean=False).fit(X_few * 5)
    alone = MLPRegressor(**SMALL).fit(scaler.transform(X_few * 5), signal, X_val=scaler.transform(X_val * 5), **given)
    assert pipeline[-1].validation_loss_curve_ == alone.validation_loss_curve_
    assert len(alone.validation_loss_curve_) == alone.n_iter_


def test_metadata_that_nobody_asked_for_are_refused():
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), MLPRegressor(**SMALL))
        with pytest.raises(ValueError, match=r"\[X_val, y_val\] are passed but are not explicitly set as requested"):
            pipeline.fit(X_few, signal, X_val=X_few, y_val=signal)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_a_frame_by_name(library):
    frames = pytest.importorskip(library)
    columns = {"x": X_few[:, 0], "kind": labels, "z": X_few[:, 1], "unused": X_few[:, 2]}
    frame = frames.DataFrame(columns)

    def predictions(package):
        by_column = ColumnTransformer([
            ("numbers", StandardScaler(), ["x", "z"]), ("words", OneHotEncoder(sparse_output=False), ["kind"]),
        ]).set_output(transform=library)  # fmt: skip
        pipeline = make_pipeline(by_column, package.MLPRegressor(**SMALL)).fit(frame, frames.Series(signal))
        names = ["numbers__x", "numbers__z", "words__kind_a", "words__kind_b", "words__kind_c"]
        assert pipeline[-1].feature_names_in_.tolist() == names
        return pipeline.predict(frame)

    np.testing.assert_allclose(predictions(OURS), predictions(THEIRS), rtol=1e-6)
    by_names = MLPRegressor(**SMALL).fit(frame[["x", "z"]], signal)
    with pytest.raises(ValueError, match="should match those that were passed during fit"):
        by_names.predict(frame[["z", "x"]])


def test_partial_dependence_is_drawn():
    with matplotlib.rc_context({"backend": "Agg"}):
        model = MLPRegressor(**SMALL).fit(X_few, signal)
        display = PartialDependenceDisplay.from_estimator(model, X_few, [0, (0, 1)], grid_resolution=5)
        assert display.axes_.size == 2
        matplotlib.pyplot.close(display.figure_)


@pytest.mark.parametrize("Estimator", [MLPRegressor, MLPClassifier])
def test_a_notebook_shows_the_estimator_and_what_was_set(Estimator):
    for model in (Estimator(alpha=0.5), Estimator(**SMALL).fit(X_few, two)):
        html = make_pipeline(StandardScaler(), model)._repr_html_()
        assert Estimator.__name__ in html
        assert "hidden_layer_sizes" in html
    assert repr(Estimator(alpha=0.5)) == f"{Estimator.__name__}(alpha=0.5)"


# --- beside other parallel code ---------------------------------------------------------------------------------------


def regressor(**parameters):
    defaults = {"hidden_layer_sizes": (40, 40), "batch_size": 250, "max_iter": 8, "random_state": 0}
    return MLPRegressor(**(defaults | parameters))


def grid_search(n_jobs):
    search = GridSearchCV(regressor(), {"alpha": [1e-4, 1.0], "n_threads": [None, 2]}, cv=2, n_jobs=n_jobs)
    return search.fit(X, y).cv_results_["mean_test_score"]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_grid_search_on_two_jobs_scores_as_on_one(backend):
    expected = grid_search(1)
    with joblib.parallel_config(backend):
        assert_same_bits(grid_search(2), expected)


IN_PARALLEL = {
    "cross_validate": lambda n_jobs: cross_validate(regressor(), X, y, cv=4, n_jobs=n_jobs)["test_score"],
    "BaggingRegressor": lambda n_jobs: np.stack([  # their mean would be summed in another order
        model.predict(X)
        for model in BaggingRegressor(regressor(n_threads=2), 4, n_jobs=n_jobs, random_state=0).fit(X, y).estimators_
    ]),
    "OneVsRestClassifier": lambda n_jobs: OneVsRestClassifier(
        MLPClassifier(**SMALL), n_jobs=n_jobs
    ).fit(X_few, labels).predict_proba(X_few),
    "learning_curve": lambda n_jobs: learning_curve(
        regressor(batch_size="auto"), X, y, cv=2, n_jobs=n_jobs
    )[2],
    "permutation_importance": lambda n_jobs: permutation_importance(
        regressor().fit(X, y), X, y, n_repeats=2, random_state=0, n_jobs=n_jobs
    ).importances,
}  # fmt: skip


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("name", IN_PARALLEL)
def test_two_jobs_give_the_bits_of_one(name, backend):
    expected = IN_PARALLEL[name](1)
    with joblib.parallel_config(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert_same_bits(IN_PARALLEL[name](2), expected)


def fit_one_of_many(k):
    """A model of its own kind for each k; every other one is worth a second thread."""
    model = MLPRegressor(hidden_layer_sizes=(130, 130) if k % 2 else (8,), batch_size=250, max_iter=30, random_state=k)
    model.set_params(alpha=10.0**-k, dropout=0.1 * (k % 3), early_stopping=k % 4 == 0, n_threads=2 if k == 5 else None)
    return model.fit(X, y)


def test_models_fitted_at_once_are_those_fitted_alone():
    alone = [fit_one_of_many(k) for k in range(8)]
    with ThreadPoolExecutor(3) as pool:
        at_once = list(pool.map(fit_one_of_many, range(8)))
    for one, other in zip(alone, at_once, strict=True):
        assert other.loss_curve_ == one.loss_curve_
        assert_same_bits(other._params.flat, one._params.flat)


BESIDE_NUMBA = """
import threading, warnings
import numba, numpy as np
from fastadam import Adam, MLPRegressor
warnings.simplefilter("ignore")

@numba.njit(parallel=True)
def work(a):
    total = 0.0
    for i in numba.prange(a.size):
        total += np.sqrt(a[i])
    return total

rng = np.random.default_rng(0)
X, y, a = rng.standard_normal((600, 5)), rng.standard_normal(600), np.arange(300_000.0)
def fit():
    parameters = {"batch_size": 400, "max_iter": 150, "random_state": 0, "n_iter_no_change": np.inf}
    model = MLPRegressor(hidden_layer_sizes=(40, 40), **parameters)
    return model.fit(X, y).predict(X).tobytes()
expected, right = fit(), work(a)
running, results = True, []
def beside():
    while running:
        results.append(work(a))
thread = threading.Thread(target=beside)
thread.start()
models = [fit() for _ in range(3)]
running = False
thread.join()
assert models == [expected] * 3
assert results
assert np.allclose(results, right)
"""


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_a_fit_beside_parallel_code_of_the_users_own(layer):
    """The layer "workqueue" ends the process when two threads launch at once: a fit must launch nothing on it."""
    environment = os.environ | {"NUMBA_THREADING_LAYER": layer, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", BESIDE_NUMBA]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def settings():
    threads = numba.get_num_threads()  # which loads Numba's pool
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    pools = sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info())
    return threads, cores, pools


@pytest.mark.parametrize("fails", [False, True])
def test_a_fit_leaves_thread_settings_as_they_were_even_when_it_fails(fails):
    before = settings()
    if fails:
        with pytest.raises(ValueError, match="non-finite"), np.errstate(all="ignore"):
            regressor(learning_rate_init=1e300).fit(X * 1e200, y * 1e200)
    else:
        regressor().fit(X, y)
    assert settings() == before
