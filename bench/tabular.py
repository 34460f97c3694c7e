"""Errors and CPU seconds of `presets.tabular_regressor` on real tables, compared with scikit-learn's defaults.

Run `python -m bench.tabular UCI_DATASETS HOUSING_CSV [TABLE ...]` with a checkout of
https://github.com/treforevans/uci_datasets and the file housing/housing.csv of https://github.com/ageron/data. Two more
tables are part of scikit-learn and plotnine. The script prints a Markdown table of the root mean squared error over the
standard deviation of y, averaged over repeated cross-validation. Everything runs on one thread.
"""

import os

if __name__ == "__main__":  # but not when asv discovers benchmarks
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import RepeatedKFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from fastadam.presets import tabular_regressor

ROWS = 4000  # number of random rows of a larger table
TUNED_ON = ("airfoil", "wine", "protein")  # the preset's settings were chosen on the first 3,000 rows of these


def uci(name, folder, housing):
    table = np.loadtxt(folder / "uci_datasets" / name / "data.csv.gz", delimiter=",")
    X, y = table[:, :-1], table[:, -1]
    return (X[:, :-2] if name == "bike" else X), y  # these two columns add up to y: casual and registered users


def diabetes(folder, housing):
    return load_diabetes(return_X_y=True)


def diamonds(folder, housing):
    import pandas as pd
    from plotnine.data import diamonds as table

    X = pd.get_dummies(table.drop(columns="price"), columns=["cut", "color", "clarity"], dtype=float)
    return X.to_numpy(float), np.log(table["price"].to_numpy(float))


def california(folder, housing):
    import pandas as pd

    table = pd.read_csv(housing)
    y = table.pop("median_house_value").to_numpy(float)
    return pd.get_dummies(table.fillna(table.median(numeric_only=True)), dtype=float).to_numpy(float), y


UCI = ("airfoil", "wine", "protein", "autompg", "energy", "concrete", "skillcraft", "bike")
TABLES = {name: partial(uci, name) for name in UCI}
TABLES |= {"diabetes": diabetes, "diamonds": diamonds, "california": california}


def default(**parameters):
    return make_pipeline(StandardScaler(), MLPRegressor(random_state=0, **parameters))


MODELS = {
    "MLPRegressor()": default,
    "early_stopping=True": partial(default, early_stopping=True),
    "y standardized": lambda: TransformedTargetRegressor(default(), transformer=StandardScaler()),
    "tabular_regressor()": partial(tabular_regressor, random_state=0),
    "HistGradientBoosting": partial(HistGradientBoostingRegressor, random_state=0),
}


def cross_validated(model, X, y):
    """Return the mean error and the mean CPU seconds of a fit."""
    errors, seconds = [], []
    for train, test in RepeatedKFold(n_splits=5, n_repeats=2, random_state=0).split(X):
        start = time.process_time()
        fitted = model().fit(X[train], y[train])
        seconds.append(time.process_time() - start)
        errors.append(np.sqrt(np.mean((fitted.predict(X[test]) - y[test]) ** 2)) / y.std())
    return np.mean(errors), np.mean(seconds)


def row(name, *sources):
    X, y = TABLES[name](*sources)
    chosen = np.random.default_rng(0).permutation(len(y))[:ROWS]
    X, y = X[chosen], y[chosen]
    results = [cross_validated(model, X, y) for model in MODELS.values()]
    best = min(error for error, _ in results)
    marks = ["**" if error == best else "" for error, _ in results]
    cells = [f"{mark}{error:.3f}{mark} ({t:.1f})" for mark, (error, t) in zip(marks, results, strict=True)]
    return f"| {name}{'*' * (name in TUNED_ON)} | {len(y)} x {X.shape[1]} | {' | '.join(cells)} |"


def main(folder, housing, *names):
    warnings.simplefilter("ignore", ConvergenceWarning)
    tabular_regressor(max_iter=1).fit(np.eye(300), np.arange(300.0))  # compiles
    print(f"| table | rows used | {' | '.join(MODELS)} |")
    print("| --- " * (2 + len(MODELS)) + "|")
    with threadpool_limits(1):
        for name in names or TABLES:
            print(row(name, Path(folder), housing), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
