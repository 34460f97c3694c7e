"""Training a regressor beside scikit-learn's own, with the same data, parameters and random state."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bench.common import ratio


class Case(NamedTuple):
    n: int
    features: int
    hidden: tuple[int, ...]
    batch: int
    epochs: int


CASES = {
    "full-batch": Case(1600, 10, (64, 64), 1600, 60),
    "batch-200": Case(1600, 10, (64, 64), 200, 60),
    "default": Case(2000, 20, (100,), 200, 60),
    "batch-32": Case(5000, 20, (64, 64), 32, 5),
    "wide-256": Case(20000, 50, (256, 256), 256, 1),
}
N_TEST = 1000


def make_data(case):
    """The sine of a projection, with noise; the last `N_TEST` samples are for testing."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((case.n + N_TEST, case.features)).astype(np.float32)
    weights = rng.standard_normal(case.features).astype(np.float32)
    y = np.sin(X @ weights / np.sqrt(case.features)) + 0.1 * rng.standard_normal(len(X))
    return X, y.astype(np.float32)


class Regressor:
    params = tuple(CASES)
    param_names = ("case",)
    timeout = 300

    def setup(self, name):
        try:
            from fastadam import MLPRegressor
        except ImportError:  # a commit from before it was written
            raise NotImplementedError("fastadam has no MLPRegressor") from None
        self.ours = MLPRegressor
        self.case = CASES[name]
        X, y = make_data(self.case)
        self.X, self.X_test = np.split(X, [self.case.n])
        self.y, self.y_test = np.split(y, [self.case.n])
        self.fit(self.ours, max_iter=1)  # compiles

    def fit(self, estimator, max_iter):
        """Train for exactly `max_iter` epochs: nothing stops sooner."""
        case = self.case
        model = estimator(
            hidden_layer_sizes=case.hidden,
            batch_size=case.batch,
            max_iter=max_iter,
            tol=0,
            n_iter_no_change=np.inf,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(self.X, self.y)

    def track_time_over_sklearn(self, name):
        from sklearn.neural_network import MLPRegressor

        epochs = self.case.epochs
        return ratio(lambda: self.fit(self.ours, epochs), lambda: self.fit(MLPRegressor, epochs), rounds=7)

    track_time_over_sklearn.unit = "x"

    def track_unexplained_variance(self, name):
        """1 - R2 on the test samples: a regressor that became faster by learning less shows here."""
        return 1 - self.fit(self.ours, self.case.epochs).score(self.X_test, self.y_test)

    track_unexplained_variance.unit = "1 - R2"
