"""Small data for every kind of estimator, and estimators that are fitted to it quickly."""

import numpy as np

from fastadam import MLPClassifier, MLPRegressor
from tests.helpers.naive import assert_same_bits

rng = np.random.default_rng(0)
n = 120
X = rng.standard_normal((n, 5))
Y = np.column_stack([X[:, 0] ** 2, X[:, 1] * X[:, 2]])
y = Y[:, 0] + 0.1 * rng.standard_normal(n)
two, three = (y > 0.7).astype(int), np.array(["a", "b", "c"])[np.digitize(y, [0.3, 1.2])]
labels = (Y > 0.3).astype(int)
weights = rng.uniform(0.1, 2, n)
X_val = rng.standard_normal((50, 5))
y_val = X_val[:, 0] ** 2
three_val = np.array(["a", "b", "c"])[np.digitize(y_val, [0.3, 1.2])]
weights_val = rng.uniform(0.1, 2, 50)
SMALL = {"hidden_layer_sizes": (6, 4), "batch_size": 16, "max_iter": 6, "random_state": 3, "n_iter_no_change": np.inf}


def regressor(**parameters):
    return MLPRegressor(**(SMALL | parameters))


def classifier(**parameters):
    return MLPClassifier(**(SMALL | parameters))


def arrays(model):
    return [*model.coefs_, *model.intercepts_]


def assert_same_model(a, b):
    for p, q in zip(arrays(a), arrays(b), strict=True):
        assert_same_bits(p, q)
    for name in ("loss_curve_", "validation_scores_", "loss_", "t_"):
        assert getattr(a, name) == getattr(b, name), name
