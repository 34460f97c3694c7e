"""Start-up: the import, and the first call with and without compiled kernels."""

import tempfile
from statistics import median

from bench.common import ratio, run_python

FIRST_CALLS = {
    "Adam": """
        from fastadam import Adam
        optimizer, g = Adam(np.ones(1000, np.float32)), np.ones(1000, np.float32)
        begin()
        optimizer.step(g)
    """,
    "MLPRegressor": """
        from fastadam import MLPRegressor
        X = np.ones((200, 4), np.float32)
        regressor = MLPRegressor(max_iter=1)
        begin()
        warnings.simplefilter("ignore")
        regressor.fit(X, X[:, 0])
    """,
}
TIMED = """
import time, warnings
import numpy as np
def begin():
    global start
    start = time.perf_counter()
{call}
print(time.perf_counter() - start)
"""


class Import:
    """Import of the package, without modules that are imported by the first use of an estimator."""

    timeout = 300

    def track_time_over_sklearn(self):
        return ratio(lambda: run_python("import fastadam"), lambda: run_python("import sklearn.neural_network"), 7)

    track_time_over_sklearn.unit = "x"


class FirstCall:
    """First call in a new process: cold, with every kernel compiled, and warm, with all kernels loaded from disk."""

    params = (tuple(FIRST_CALLS), ("cold", "warm"))
    param_names = ("call", "cache")
    timeout = 300

    def setup(self, call, cache):
        import fastadam

        if not hasattr(fastadam, call):
            raise NotImplementedError(f"fastadam has no {call}")

    def track_time(self, call, cache):
        code = TIMED.format(call="\n".join(line.strip() for line in FIRST_CALLS[call].splitlines()))
        times = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                for _ in range(1 if cache == "cold" else 2):
                    latest = float(run_python(code, NUMBA_CACHE_DIR=folder))
            times.append(latest)
        return median(times)

    track_time.unit = "seconds"
