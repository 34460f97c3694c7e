"""Fits beside other parallel code: each ends, with the bits it has alone, and leaves all settings as they were."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import joblib
import numba
import numpy as np
import pytest
from naive import assert_same_bits
from sklearn.ensemble import BaggingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_info

from fastadam import MLPRegressor
from fastadam.jit import JIT_DISABLED

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="interpreted code has one thread"),
]

rng = np.random.default_rng(0)
X, y = rng.standard_normal((600, 5)), rng.standard_normal(600)


def regressor(**parameters):
    return MLPRegressor(hidden_layer_sizes=(40, 40), batch_size=250, max_iter=8, random_state=0, **parameters)


def grid_search(n_jobs):
    search = GridSearchCV(regressor(), {"alpha": [1e-4, 1.0], "n_threads": [None, 2]}, cv=2, n_jobs=n_jobs)
    return search.fit(X, y).cv_results_["mean_test_score"]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_grid_search_on_two_jobs_scores_as_on_one(backend):
    expected = grid_search(1)
    with joblib.parallel_config(backend):
        assert_same_bits(grid_search(2), expected)


def test_bagging_in_threads_trains_the_models_that_it_trains_one_by_one():
    one, two = (BaggingRegressor(regressor(), n_estimators=4, n_jobs=jobs, random_state=0) for jobs in (1, 2))
    one.fit(X, y)
    with joblib.parallel_config("threading"):
        two.fit(X, y)
    for alone, at_once in zip(one.estimators_, two.estimators_, strict=True):
        assert_same_bits(at_once._params.flat, alone._params.flat)


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
