"""Eight models on the same data, fitted one after another or simultaneously: speedups of the methods.

Run `python -m bench.many_models [case ...]`, which prints a Markdown table of the median over alternating turns.
"""

import sys
import time
import warnings
from functools import partial
from statistics import median

import joblib
from sklearn.exceptions import ConvergenceWarning

import fastadam
from bench.bench_mlp import CASES, make_data

MODELS = 8
ROUNDS = 7
EPOCHS = {"mid": 2}  # overrides the epochs of CASES
SLOW = "wide"  # only run on request


def train(seed, X, y, case, epochs, n_threads=None):
    """Train a model with the given seed."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # set here, since each process has its own filters
    model = fastadam.MLPRegressor(hidden_layer_sizes=case.hidden, batch_size=case.batch, max_iter=epochs)
    return model.set_params(tol=0, n_iter_no_change=epochs, random_state=seed, n_threads=n_threads).fit(X, y)


def in_a_loop(fit):
    return [fit(seed) for seed in range(MODELS)]


def at_once(backend, jobs, fit):
    return joblib.Parallel(jobs, backend=backend)(joblib.delayed(fit)(seed) for seed in range(MODELS))


def ways(fit):
    """Return the methods, one per column of the table; the others are compared with the first."""
    cores = joblib.cpu_count()
    return {
        "loop": partial(in_a_loop, fit),
        "loop, one thread per fit": partial(in_a_loop, partial(fit, n_threads=1)),
        "threads": partial(at_once, "threading", cores, fit),
        "threads, one per fit": partial(at_once, "threading", cores, partial(fit, n_threads=1)),
        "processes": partial(at_once, "loky", cores, fit),
    }


def seconds_of(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(name):
    case = CASES[name]
    X, y, *_ = make_data(case)
    epochs = EPOCHS.get(name, case.epochs)
    works = ways(partial(train, X=X, y=y, case=case, epochs=epochs)).values()
    rounds = [[seconds_of(work) for work in works] for _ in range(1 + ROUNDS)]
    _, *counted = rounds  # the first round compiles or loads kernels, and starts processes
    loop, *others = map(median, zip(*counted, strict=True))
    layers = "-".join(map(str, (case.features, *case.hidden, 1)))
    cells = [f"{layers}, {case.batch}", f"{1000 * loop / MODELS:.0f}", *(f"{loop / other:.2f}" for other in others)]
    return f"| {' | '.join(cells)} |"


def main(names):
    _, *others = ways(train)
    print("|", " | ".join(["layers, batch", "ms per model, loop", *others]), "|")
    print("| --- " * (2 + len(others)) + "|")
    for name in names or [name for name in CASES if name != SLOW]:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
