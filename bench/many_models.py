"""Eight models over the same data, in a loop and at once: how many times sooner the ways that exist are done.

Run it by `python -m bench.many_models [case ...]`. Prints a table in Markdown; the ways take turns, and the median
of the turns counts.
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
EPOCHS = {"mid": 2}  # as many as CASES has, but for these
SLOW = "wide"  # left out unless asked for


def train(seed, X, y, case, epochs, n_threads=None):
    """One model, by a seed of its own."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # here, as processes start with filters of their own
    model = fastadam.MLPRegressor(hidden_layer_sizes=case.hidden, batch_size=case.batch, max_iter=epochs)
    return model.set_params(tol=0, n_iter_no_change=epochs, random_state=seed, n_threads=n_threads).fit(X, y)


def in_a_loop(fit):
    return [fit(seed) for seed in range(MODELS)]


def at_once(backend, jobs, fit):
    return joblib.Parallel(jobs, backend=backend)(joblib.delayed(fit)(seed) for seed in range(MODELS))


def ways(fit):
    """What the columns of the table are; the first is what the others are compared with."""
    cores = joblib.cpu_count()
    return {
        "loop": partial(in_a_loop, fit),
        "loop, one thread a fit": partial(in_a_loop, partial(fit, n_threads=1)),
        "threads": partial(at_once, "threading", cores, fit),
        "threads, one a fit": partial(at_once, "threading", cores, partial(fit, n_threads=1)),
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
    _, *counted = rounds  # in the first, kernels are compiled or loaded, and processes start
    loop, *others = map(median, zip(*counted, strict=True))
    layers = "-".join(map(str, (case.features, *case.hidden, 1)))
    cells = [f"{layers}, {case.batch}", f"{1000 * loop / MODELS:.0f}", *(f"{loop / other:.2f}" for other in others)]
    return f"| {' | '.join(cells)} |"


def main(names):
    _, *others = ways(train)
    print("|", " | ".join(["layers, batch", "ms a model, loop", *others]), "|")
    print("| --- " * (2 + len(others)) + "|")
    for name in names or [name for name in CASES if name != SLOW]:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
