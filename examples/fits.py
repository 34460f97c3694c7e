"""Timing of fits in the examples that compare with scikit-learn, so that the libraries do not disturb each other."""

import time
import warnings
from typing import Any

from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

Array = NDArray[Any]

PAUSE_SECONDS = 0.2
"""Pause before each fit: the threads of OpenBLAS continue to spin for about half of it after the preceding fit."""


def fit(estimator: Any, *data: Array, **validation: Array) -> Any:
    """Fit and return the estimator, without a warning if it does not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*data, **validation)


def seconds_to_fit(estimator: Any, X: Array, y: Array, blas_threads: int | None = None) -> float:
    """Time only the fit, with the given number of threads of NumPy's BLAS; None means all."""
    with threadpool_limits(blas_threads, user_api="blas"):
        time.sleep(PAUSE_SECONDS)
        start = time.perf_counter()
        fit(estimator, X, y)
        return time.perf_counter() - start


def faster_blas_threads(estimator: Any, X: Array, y: Array) -> int | None:
    """Return 1 or None (all), whichever is faster: several BLAS threads often slow down small networks."""
    return min((1, None), key=lambda blas_threads: seconds_to_fit(estimator, X, y, blas_threads))
