"""How long Ctrl-C waits: seconds from SIGINT to the return, for whatever runs compiled for long.

Run it by `python -m bench.interrupt`; prints a table in Markdown. Each call is interrupted a few times, at moments
spread over its first two seconds.
"""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastadam import MLPRegressor

ROUNDS = 5
HIDDEN = (512, 512)
Array = NDArray[np.float32]


def data(rows: int) -> tuple[Array, Array]:
    """Noise, of 100 features."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 100), np.float32), rng.standard_normal(rows, np.float32)


def regressor(**parameters: object) -> MLPRegressor:
    """A network of which an epoch takes seconds."""
    model = MLPRegressor(hidden_layer_sizes=HIDDEN, random_state=0, tol=0.0, n_iter_no_change=np.inf)
    return model.set_params(**parameters)


def seconds_to_return(call: Callable[[], object], delay: float) -> float:
    """Seconds from SIGINT, sent `delay` seconds after the call began, to its end; NaN if it ended before."""
    sent = []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay, send)
    timer.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except KeyboardInterrupt:
        pass
    returned = time.perf_counter()
    timer.cancel()
    return returned - sent[0] if sent else np.nan


def calls() -> dict[str, Callable[[], object]]:
    """What is interrupted."""
    X, y = data(60_000)
    many, targets = data(600_000)
    fitted = regressor(max_iter=1).fit(X[:200], y[:200])
    of_validation = {"X_val": many, "y_val": targets}
    return {
        "training, 60,000 rows": lambda: regressor(max_iter=1000).fit(X, y),
        "predict, 600,000 rows": lambda: fitted.predict(many),
        "score, 600,000 rows": lambda: fitted.score(many, targets),
        "fit with X_val of 600,000 rows": lambda: regressor(max_iter=1000).fit(X[:200], y[:200], **of_validation),
        "lbfgs, 60,000 rows": lambda: regressor(solver="lbfgs", max_iter=1000).fit(X, y),
    }


def main() -> None:
    """Print the table."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    X, y = data(1_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for solver in ("adam", "lbfgs"):  # which compiles
            regressor(solver=solver, max_iter=1).fit(X, y, **({} if solver == "lbfgs" else {"X_val": X, "y_val": y}))
    print("| call | seconds from SIGINT to the return, median | longest |\n| --- | ---: | ---: |")
    for name, call in calls().items():
        waits = [seconds_to_return(call, delay) for delay in np.linspace(0.4, 2.0, ROUNDS)]
        print(f"| {name} | {np.nanmedian(waits):.2f} | {np.nanmax(waits):.2f} |", flush=True)


if __name__ == "__main__":
    main()
