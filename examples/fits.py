"""What the examples beside scikit-learn share: how a fit is timed, so that neither library is in the other's way."""

import time
import warnings
from typing import Any

from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

Array = NDArray[Any]

PAUSE_SECONDS = 0.2
"""Before each fit: the threads of OpenBLAS go on spinning for about half of this after the products of another."""


def fit(estimator: Any, *data: Array, **validation: Array) -> Any:
    """Fit, and be content with the epochs that were asked for; returns the estimator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*data, **validation)


def seconds_to_fit(estimator: Any, X: Array, y: Array, blas_threads: int | None = None) -> float:
    """Time the fit alone, by that many threads of NumPy's BLAS; None is all of them."""
    with threadpool_limits(blas_threads, user_api="blas"):
        time.sleep(PAUSE_SECONDS)
        start = time.perf_counter()
        fit(estimator, X, y)
        return time.perf_counter() - start


def faster_blas_threads(estimator: Any, X: Array, y: Array) -> int | None:
    """Try one BLAS thread and all of them (None): in a small network, several often slow scikit-learn down."""
    return min((1, None), key=lambda blas_threads: seconds_to_fit(estimator, X, y, blas_threads))
