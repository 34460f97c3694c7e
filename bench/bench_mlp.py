"""Training and prediction of a regressor, compared with other libraries; float32 unless stated otherwise."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bench import peers_mlp
from bench.common import ours, peer, product_rate, ratio, run_python, seconds


class Case(NamedTuple):
    n: int
    features: int
    hidden: tuple[int, ...]
    batch: int
    epochs: int


CASES = {
    "seed-full": Case(1600, 10, (64, 64), 1600, 200),
    "seed-b200": Case(1600, 10, (64, 64), 200, 100),
    "default": Case(2000, 20, (100,), 200, 60),
    "small-b32": Case(5000, 20, (64, 64), 32, 10),
    "mid": Case(20000, 50, (256, 256), 256, 4),
    "wide": Case(20000, 100, (1024, 1024), 512, 1),
}
N_TEST = 1000


def make_data(case):
    """Generate training and test samples: the sine of a projection, with noise."""
    rng = np.random.default_rng(0)
    X, weights = normal(rng, case.n, case.features), normal(rng, case.features)
    y = noisy_sine(rng, X, weights)
    X_test = normal(rng, N_TEST, case.features)
    return X, y, X_test, noisy_sine(rng, X_test, weights)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def noisy_sine(rng, X, weights):
    y = np.sin(X @ weights / np.sqrt(weights.size)) + 0.1 * normal(rng, len(X))
    return y.astype(np.float32)


def product_operations(case):
    """Count the floating-point operations of the matrix products of a fit."""
    layers = [2 * fan_in * fan_out for fan_in, fan_out in pairwise((case.features, *case.hidden, 1))]
    per_sample = 3 * sum(layers) - layers[0]  # forward, weights, deltas; the deltas of the input are not needed
    return case.epochs * case.n * per_sample


def sklearns_regressor():
    from sklearn.neural_network import MLPRegressor

    return MLPRegressor


class Training:
    """Base of the training benchmarks: the data of a case, and fits to them."""

    params = tuple(CASES)
    param_names = ("case",)
    timeout = 300

    def setup(self, name):
        warnings.simplefilter("ignore", ConvergenceWarning)  # once, since no thread may change the filters
        self.case = CASES[name]
        self.X, self.y, self.X_test, self.y_test = make_data(self.case)
        self.ours = ours("MLPRegressor")
        self.fit(self.ours, max_iter=1)  # compiles

    def fit(self, estimator, **parameters):
        """Train for exactly the number of epochs of the case."""
        case = self.case
        parameters = {"max_iter": case.epochs, "tol": 0, "n_iter_no_change": np.inf, "random_state": 0} | parameters
        model = estimator(hidden_layer_sizes=case.hidden, batch_size=case.batch, **parameters)
        return model.fit(self.X, self.y)

    def fit_ours(self):
        return self.fit(self.ours)


class Regressor(Training):
    """Training over scikit-learn with the same random state, and benchmarks without another library."""

    def track_time_over_sklearn(self, name):
        return ratio(self.fit_ours, lambda: self.fit(sklearns_regressor()), rounds=7)

    track_time_over_sklearn.unit = "x"

    def track_time_over_machine_rate(self, name):
        """How many times as long as its matrix products alone would take at the rate of NumPy's: 1 / MFU.

        Not in turns: the threads of NumPy's BLAS would go on spinning during our fits.
        """
        return seconds(self.fit_ours, rounds=7) / (product_operations(self.case) / product_rate(np.float32))

    track_time_over_machine_rate.unit = "x"

    def track_unexplained_variance(self, name):
        """1 - R2 on the test samples: a regressor that became faster by learning less shows here."""
        return 1 - self.fit_ours().score(self.X_test, self.y_test)

    track_unexplained_variance.unit = "1 - R2"


class RegressorOverTorch(Training):
    def setup(self, name):
        super().setup(name)
        case = self.case
        self.peer = peer(peers_mlp.torch_fit, self.X, self.y, case.hidden, case.batch, case.epochs)

    def track_time_over_torch(self, name):
        return ratio(self.fit_ours, self.peer, rounds=7)

    track_time_over_torch.unit = "x"


class RegressorOverJax(Training):
    def setup(self, name):
        super().setup(name)
        case = self.case
        self.peer = peer(peers_mlp.jax_fit, self.X, self.y, case.hidden, case.batch, case.epochs)

    def track_time_over_jax(self, name):
        return ratio(self.fit_ours, self.peer, rounds=7)

    track_time_over_jax.unit = "x"


class TwoFitsAtOnce(Training):
    """Two fits in two threads, one thread each: 1 if they do not slow each other down, 2 if they run in turns."""

    params = ("seed-b200", "mid")

    def setup(self, name):
        if numba.get_num_threads() < 2:
            raise NotImplementedError("needs two cores")
        super().setup(name)

    def fit_once(self):
        return self.fit(self.ours, n_threads=1)

    def track_time_over_one(self, name):
        with ThreadPoolExecutor(2) as pool:
            return ratio(lambda: list(pool.map(lambda _: self.fit_once(), range(2))), self.fit_once, rounds=7)

    track_time_over_one.unit = "x"


class PredictOneRow(Training):
    """Prediction of one row, whose time is dominated by the validation of the input."""

    params = ("float32", "float64")
    param_names = ("dtype",)

    def setup(self, dtype):
        super().setup("seed-b200")
        self.X, self.y = self.X.astype(dtype), self.y.astype(dtype)
        self.row = self.X[:1]

    def predict_with(self, estimator):
        model = self.fit(estimator, max_iter=1)
        return lambda: model.predict(self.row)

    def track_time_over_sklearn(self, dtype):
        return ratio(self.predict_with(self.ours), self.predict_with(sklearns_regressor()))

    track_time_over_sklearn.unit = "x"


FORGET_PEAK = Path("/proc/self/clear_refs")
MEMORY_OF_FIT = """
import warnings
from pathlib import Path
import numpy as np
from fastadam import MLPRegressor

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

warnings.simplefilter("ignore")
X = np.random.default_rng(0).standard_normal((200_000, 50), np.float32)
y = X[:, 0].copy()
regressor = MLPRegressor(max_iter=1, random_state=0).fit(X[:200], y[:200])
Path("FORGET_PEAK").write_text("5")
before = peak()
regressor.fit(X, y)
print((peak() - before) / X.nbytes)
""".replace("FORGET_PEAK", str(FORGET_PEAK))


class FitMemory:
    """Increase of the peak memory by a fit to 40 MB of data, in a separate process.

    The peak is reported by the operating system and is reset before the fit. `getrusage` is not suitable, since
    `ru_maxrss` of a child process begins with the memory of its parent.
    """

    timeout = 300

    def setup(self):
        if not FORGET_PEAK.exists():
            raise NotImplementedError("only Linux can forget a peak")
        ours("MLPRegressor")
        run_python(MEMORY_OF_FIT)  # compiles: freed memory of the compiler would hide some of the fit's

    def track_peak_over_data(self):
        return float(run_python(MEMORY_OF_FIT))

    track_peak_over_data.unit = "x of X"
