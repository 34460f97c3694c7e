"""Two thousand constructions and fits drawn at random, good and bad: each ends in a right model or in a clear error.

A case is drawn from its number alone. One that fails is printed; `python tests/test_mlp_fuzz.py 1234` does it again.

Then fits at the ends of the types' ranges, which must not end in a model that is silently NaN or untrained. The
variable FASTADAM_FUZZ_EXTREMES says how many; `python tests/test_mlp_fuzz.py extreme 1234` does one again.
"""

import copy
import os
import pickle
import re
import sys
import traceback
import warnings
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, UndefinedMetricWarning

import fastadam
from fastadam.schedules import Cosine, Plateau

CASES, CHUNK = 2000, 25  # pytest's limit of time is for a chunk
EXTREMES = int(os.environ.get("FASTADAM_FUZZ_EXTREMES", "300"))

# --- what is drawn ----------------------------------------------------------------------------------------------------


class Text(str):
    """Text that is of a subclass."""


class Number(float):
    """A number that is of a subclass."""


class Count(int):
    """An integer that is of a subclass."""


def rate_of_epoch(epoch):
    return 0.01 / (epoch + 1)


def rate_that_is_bad(bad, epoch):
    return bad


def score_r2(estimator, X, y, sample_weight=None):
    return estimator.score(X, y, sample_weight)


def score_that_is_bad(bad, estimator, X, y, sample_weight=None):
    return bad


HUGE = 10**400
"""An integer that no float can be."""
MANY = np.uint64(2**63)

ODD = [
    None, True, False, np.True_, 0, -1, 1, 2, 0.0, -0.0, 0.5, 1.5, -1e-9, np.nan, np.inf, -np.inf, 1e300, 1e-320,
    HUGE, -HUGE, np.float16(0.5), np.float32(0.25), np.float64(np.nan), np.int8(1), np.int8(127), np.uint8(200),
    MANY, np.longdouble(0.5), Number(0.5), Count(2), Fraction(1, 2), Fraction(HUGE, 3), Decimal("0.5"), 0.5 + 0j, "a",
    "", "1", b"adam", Text("auto"), np.str_("adam"), [], (), [1], (1, 2), ["relu"], np.array(0.5), np.array([1.0]),
    np.ones((2, 2)), {}, {"a": 1}, {1, 2}, object(), int, len, range(2), pd.NA, pd.NaT, np.datetime64("2020-01-01"),
    np.timedelta64(1, "s"), pd.Series([1, 2]), np.ma.masked, slice(2), ..., NotImplemented,
]  # fmt: skip
"""Values for any keyword at all."""

MATTERS_WITH = {
    "huber_delta": {"loss": "huber"},
    "quantile": {"loss": "quantile"},
    "scoring": {"early_stopping": True, "validation_fraction": 0.4},
    "validation_fraction": {"early_stopping": True},
    "power_t": {"solver": "sgd", "learning_rate": "invscaling"},
    "momentum": {"solver": "sgd"},
    "nesterovs_momentum": {"solver": "sgd"},
    "max_fun": {"solver": "lbfgs"},
}
"""Keywords that others must switch on."""

BOOLEANS = [True, False, np.False_]
CUDA = "cuda"
USUAL = {
    "loss": ["squared_error", "poisson", "absolute_error", "huber", "quantile", np.str_("squared_error")],
    "hidden_layer_sizes": [
        (), (3,), [4, 2], 5, np.int64(3), np.array([3, 2]), range(1, 3), pd.Series([3, 2]), (np.int8(3), np.uint16(2)),
        (0,), (3, -1), (3.0,), (2.5, 2), ("a",), "3", (True, 2), (None,), [[3, 2]], np.array([[3]]), np.array(3),
        {3: 2}, np.array([3.0]), (10**18,), (2**62, 2**62), (HUGE,), (np.nan,), (Count(3),), np.array(["a"]), (3, (2,)),
    ],
    "activation": [
        "identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "softplus", "silu", "gelu", "mish", ("tanh",),
        ["relu"], ("relu", "mish"), ("tanh", "x"), (), (None,), np.array(["relu"]), Text("tanh"), "RELU", {"relu"},
    ],
    "solver": [
        "adam", "sgd", "lbfgs", "adamw", "nadam", "radam", "adamax", "amsgrad", "lion", "rmsprop", "adagrad",
        "adadelta", Text("adam"), "newton",
    ],
    "alpha": [0, 1e-4, 1.0, 1e300, np.float32(0.1)],
    "batch_size": ["auto", 1, 7, 10**9, np.int16(4), 200],
    "learning_rate": [
        "constant", "invscaling", "adaptive", "cosine", "linear", "one_cycle", "plateau", rate_of_epoch, Cosine(0.1, 5),
        Plateau(0.1), *(partial(rate_that_is_bad, bad) for bad in (-1, np.nan, np.inf, None, "a", 1e300, [0.1])),
    ],
    "learning_rate_init": [1e-3, 0.1, 10.0, 1e300, 1e-300, Fraction(1, 100)],
    "power_t": [0.0, 0.5, 1e300],
    "max_iter": [1, 2, 3, np.int32(2)],
    "shuffle": BOOLEANS,
    "random_state": [0, 7, 2**32 - 1, 2**32, np.int64(3), np.random.RandomState(5), np.random.default_rng(5)],
    "tol": [0.0, 1e-4, 1e300],
    "verbose": [False, True, 0, 1, 10],
    "warm_start": BOOLEANS,
    "momentum": [0, 0.9, 1.0],
    "nesterovs_momentum": BOOLEANS,
    "early_stopping": BOOLEANS,
    "validation_fraction": [0.0, 0.1, 0.25, 0.99, 1e-300, 1 - 2**-53],
    "beta_1": [0.0, 0.9, 1 - 2**-53, Fraction(10**30 - 1, 10**30)],
    "beta_2": [0.0, 0.999, 1 - 2**-53, Fraction(10**30 - 1, 10**30)],
    "epsilon": [1e-8, 1e-300, 1e300],
    "n_iter_no_change": [1, 10, np.inf, float("inf")],
    "max_fun": [1, 15000, 10**9],
    "huber_delta": [1.0, 1e-300, 1e300],
    "quantile": [None, 0.5, 1e-300, 1 - 2**-53, np.float32(0.9)],
    "warmup_epochs": [0, 2, 10**9],
    "clip_norm": [None, 1.0, 1e-300, 1e300],
    "dropout": [0.0, 0.5, 1 - 2**-53, 1e-300, Fraction(10**30 - 1, 10**30)],
    "scoring": [
        None, "loss", "r2", "accuracy", "roc_auc", "neg_log_loss", "x", score_r2,
        *(partial(score_that_is_bad, bad) for bad in (np.nan, np.inf, None, "a", 1 + 1j)),
    ],
    "max_time": [None, 1e-9, 10.0, 1e300],
    "n_threads": [None, 1, 2, 3, 10**6, 2**70],
    "device": ["cpu", "auto", CUDA, "gpu"],
    "class_weight": [
        None, "balanced", {0: 1.0, 1: 2.0}, {0: -1.0}, {0: np.nan}, {0: np.inf}, {"z": 3.0}, {0: "a"}, {0: None},
        {0: 0, 1: 0}, {"a": 2.0}, {}, {0: 1e300}, {0: [1]},
    ],
    "label_smoothing": [0.0, 0.1, 1 - 2**-53, 1e-320],
}  # fmt: skip
"""Values that are meant for a keyword, most of them good."""


def with_value(value):
    def change(X):
        X = X.copy()
        X.flat[-1] = value
        return X

    return change


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def wide_indices(X):
    X = sparse.csr_array(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def beyond_its_columns(make, X):
    X = make(X)
    X.indices[-1] = 10**6
    return X


def unsorted(X):
    columns = np.tile(np.arange(X.shape[1])[::-1], len(X))
    return sparse.csr_array((X[:, ::-1].ravel(), columns, np.arange(0, X.size + 1, X.shape[1])), X.shape)


def with_duplicates(X):
    rows = np.repeat(np.arange(len(X)), 2)
    return sparse.csr_array((np.ones(len(rows)), np.zeros(len(rows), int), np.arange(0, len(rows) + 1, 2)), X.shape)


FORMS = {
    "float64": np.asarray,
    "float32": np.float32,
    "float16": np.float16,
    "longdouble": np.longdouble,
    "integers": lambda X: np.round(X * 3).astype(np.int16),
    "bool": lambda X: X > 0,
    "big-endian": lambda X: X.astype(">f8"),
    "big-endian float32": lambda X: X.astype(">f4"),
    "column-major": np.asfortranarray,
    "strided": lambda X: np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda X: X[::-1, ::-1],
    "read-only": read_only,
    "list": lambda X: X.tolist(),
    "frame": lambda X: pd.DataFrame(X, columns=[f"f{k}" for k in range(X.shape[1])]),
    "frame of mixed types": lambda X: pd.DataFrame(X).assign(z=1).assign(w=True),
    "frame of nullable numbers": lambda X: pd.DataFrame(X).astype("Float64"),
    "objects": lambda X: X.astype(object),
    "masked": np.ma.asarray,
    "csr": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_array,
    "bsr of float32": lambda X: sparse.bsr_array(np.float32(X)),
    "lil": sparse.lil_matrix,
    "dia": sparse.dia_array,
    "dok": sparse.dok_array,
    "csr with wide indices": wide_indices,
    "csr with unsorted indices": unsorted,
    "csr with duplicates": with_duplicates,
    "csr of integers": lambda X: sparse.csr_array(np.round(X).astype(int)),
    "constant": np.zeros_like,
    "large": lambda X: X * 1e30,
    "beyond float32": lambda X: X * 1e300,
    "float32 near its end": lambda X: np.float32(X) * np.float32(1e38),
    # bad ones
    "NaN": with_value(np.nan),
    "infinity": with_value(np.inf),
    "NaN in csr": lambda X: sparse.csr_array(with_value(np.nan)(X)),
    "NA in a frame": lambda X: pd.DataFrame(X).astype("Float64").where(lambda frame: frame > -1),
    "csr beyond its columns": partial(beyond_its_columns, sparse.csr_array),
    "csc beyond its rows": partial(beyond_its_columns, sparse.csc_array),
    "one dimension": lambda X: X[:, 0],
    "three dimensions": lambda X: X[:, :, None],
    "scalar": lambda X: 3.0,
    "no samples": lambda X: X[:0],
    "no features": lambda X: X[:, :0],
    "complex": lambda X: X + 1j,
    "strings": lambda X: X.astype(str),
    "words": lambda X: np.full(X.shape, "a"),
    "objects that are words": lambda X: np.full(X.shape, "a", object),
    "dates": lambda X: X.astype("M8[s]"),
    "None": lambda X: None,
    "dict": lambda X: {"a": 1},
    "ragged": lambda X: [[1.0, 2.0], [1.0]],
    "matrix": np.asmatrix,
    "structured": lambda X: np.zeros(len(X), [("a", float), ("b", float)]),
    "generator": lambda X: iter(X),
    "bytes": lambda X: b"abc",
}
"""Faults of good X."""
GOOD_FORMS = list(FORMS)[: list(FORMS).index("large")]


def one_dimension(y):
    return y if y.ndim == 1 else y[:, 0]


TARGETS = {
    "numbers": lambda X: X[:, 0] ** 2,
    "two columns": lambda X: X[:, :2] ** 2,
    "one column": lambda X: X[:, :1],
    "series": lambda X: pd.Series(X[:, 0] ** 2, index=range(5, 5 + len(X))),
    "frame": lambda X: pd.DataFrame(X[:, :2]),
    "list": lambda X: X[:, 0].tolist(),
    "float32": lambda X: np.float32(X[:, 0]),
    "float16": lambda X: np.float16(X[:, 0]),
    "big-endian": lambda X: X[:, 0].astype(">f8"),
    "read-only": lambda X: read_only(X[:, 0]),
    "strided": lambda X: X[:, 0],
    "constant": lambda X: np.ones(len(X)),
    "zeros": lambda X: np.zeros(len(X)),
    "counts": lambda X: np.floor(np.abs(X[:, 0]) * 3).astype(np.uint8),
    "two classes": lambda X: (X[:, 0] > 0).astype(int),
    "three classes": lambda X: np.digitize(X[:, 0], [-0.4, 0.4]),
    "bool": lambda X: X[:, 0] > 0,
    "words": lambda X: np.array(["b", "a"])[(X[:, 0] > 0).astype(int)],
    "objects": lambda X: np.array(["b", "a", "c"], object)[np.digitize(X[:, 0], [-0.4, 0.4])],
    "categories": lambda X: pd.Series(np.where(X[:, 0] > 0, "b", "a"), dtype="category"),
    "negative labels": lambda X: np.where(X[:, 0] > 0, -5, 7),
    "labels that are whole floats": lambda X: np.where(X[:, 0] > 0, 2.0, 5.0),
    "several labels": lambda X: (X[:, :2] > 0).astype(int),
    "several labels, one of them always": lambda X: np.column_stack([X[:, 0] > 0, X[:, 0] < np.inf]).astype(int),
    "nullable": lambda X: pd.Series((X[:, 0] > 0).astype(int), dtype="Int64"),
    "objects that are numbers": lambda X: (X[:, 0] > 0).astype(int).astype(object),
    "large": lambda X: X[:, 0] * 1e30,
    "beyond float32": lambda X: X[:, 0] * 1e300,
    # bad ones
    "one class": lambda X: np.ones(len(X), int),
    "NaN": lambda X: with_value(np.nan)(X[:, 0]),
    "infinity": lambda X: with_value(np.inf)(X[:, 0]),
    "labels with NaN": lambda X: with_value(np.nan)(np.round(X[:, 0])),
    "objects of two kinds": lambda X: np.array([1, "a"] * (len(X) // 2), object),
    "objects with None": lambda X: np.array(["a", None] * (len(X) // 2), object),
    "too few": lambda X: X[1:, 0],
    "too many": lambda X: np.append(X[:, 0], 1.0),
    "none": lambda X: X[:0, 0],
    "three dimensions": lambda X: X[:, :2, None],
    "scalar": lambda X: 3.0,
    "no columns": lambda X: X[:, :0],
    "complex": lambda X: X[:, 0] + 1j,
    "dates": lambda X: X[:, 0].astype("M8[s]"),
    "durations": lambda X: X[:, 0].astype("m8[s]"),
    "None": lambda X: None,
    "sparse": lambda X: sparse.csr_array((X[:, :2] > 0).astype(int)),
    "several of several classes": lambda X: np.round(X[:, :2]).astype(int),
    "generator": lambda X: iter(X[:, 0]),
    "text": lambda X: "abc",
    "missing": lambda X: pd.Series([None] + [1] * (len(X) - 1), dtype="Int64"),
}
"""Faults of the targets of good X."""
GOOD_TARGETS = list(TARGETS)[: list(TARGETS).index("large")]

WEIGHTS = {
    "weights": lambda n: np.linspace(0.1, 2, n),
    "float32": lambda n: np.linspace(0.1, 2, n, dtype=np.float32),
    "integers": lambda n: np.arange(1, n + 1),
    "list": lambda n: [1.0] * n,
    "series": lambda n: pd.Series(np.linspace(0.1, 2, n), index=range(7, 7 + n)),
    "number": lambda n: 2.0,
    "some of zero": lambda n: np.arange(n) % 3.0,
    "one": lambda n: np.arange(n) == n - 1,
    "strided": lambda n: np.linspace(0.1, 2, 2 * n)[::2],
    "tiny": lambda n: np.full(n, 1e-320),
    # bad ones
    "huge": lambda n: np.full(n, 1e300),
    "zeros": lambda n: np.zeros(n),
    "negative": lambda n: np.linspace(-1, 0.5, n),
    "that cancel": lambda n: np.resize([1.0, -1.0], n),
    "NaN": lambda n: np.full(n, np.nan),
    "infinity": lambda n: with_value(np.inf)(np.ones(n)),
    "too few": lambda n: np.ones(max(n - 1, 0)),
    "column": lambda n: np.ones((n, 1)),
    "words": lambda n: ["a"] * n,
    "complex": lambda n: np.ones(n) + 1j,
    "text": lambda n: "abc",
    "object": lambda n: object(),
    "dict": lambda n: {},
    "sparse": lambda n: sparse.csr_array(np.ones((1, n))),
}
"""Weights of so many samples."""
GOOD_WEIGHTS = list(WEIGHTS)[: list(WEIGHTS).index("huge")]


def classes_of(y):
    try:
        return np.unique(np.asarray(y))
    except (TypeError, ValueError):  # of things that have no order
        return np.array(["a", "b"])


CLASSES = {
    "right": classes_of,
    "more": lambda y: [*classes_of(y), 99],
    "list": lambda y: list(classes_of(y)),
    "unsorted": lambda y: classes_of(y)[::-1],
    "none": lambda y: None,
    "empty": lambda y: [],
    "one": lambda y: [1],
    "others": lambda y: [50, 51],
    "words": lambda y: ["u", "v"],
    "NaN": lambda y: [0.0, np.nan],
    "number": lambda y: 3,
    "two dimensions": lambda y: [[0, 1], [1, 0]],
    "twice": lambda y: [0, 0, 1],
}


# --- a case -----------------------------------------------------------------------------------------------------------

SMALL = {"hidden_layer_sizes": (3,), "max_iter": 2, "batch_size": 9, "random_state": 0}
METHODS = [
    ["fit"],
    ["partial_fit"],
    ["predict"],
    ["fit", "fit"],
    ["fit", "partial_fit"],
    ["fit", "predict"],
    ["partial_fit", "partial_fit"],
]
TABLES = {"X": (FORMS, GOOD_FORMS), "y": (TARGETS, GOOD_TARGETS), "sample_weight": (WEIGHTS, GOOD_WEIGHTS)}
TABLES |= {f"{name}_val": tables for name, tables in TABLES.items()} | {"classes": (CLASSES, CLASSES)}


def pick(rng, values):
    return list(values)[rng.integers(len(values))]


class Call:
    """A method and its arguments, which are names in the tables above; `spoil` makes one of them of any kind."""

    def __init__(self, rng, kind, method, shape, targets, spoil):
        self.method, self.shape, self.seed = method, shape, int(rng.integers(2**31))
        self.names = {"X": pick(rng, GOOD_FORMS)}
        if method != "predict":
            self.names["y"] = targets
        if method != "predict" and rng.random() < 0.3:
            self.names["sample_weight"] = pick(rng, GOOD_WEIGHTS)
        if method == "fit" and rng.random() < 0.2:
            self.names |= {"X_val": pick(rng, GOOD_FORMS), "y_val": targets}
            if rng.random() < 0.3:
                self.names["sample_weight_val"] = pick(rng, GOOD_WEIGHTS)
        if method == "partial_fit" and kind == "MLPClassifier":
            self.names["classes"] = "right" if rng.random() < 0.7 else pick(rng, CLASSES)
        if spoil:
            name = pick(rng, self.names)
            self.names[name] = pick(rng, TABLES[name][0])
        if spoil and rng.random() < 0.1:
            self.names.pop(pick(rng, self.names))

    def arguments(self):
        X, X_val = np.random.default_rng(self.seed).standard_normal((2, *self.shape))
        made = {}
        for name, what in self.names.items():
            of = X_val if name.endswith("_val") else X
            if name == "classes":
                of = TARGETS[self.names["y"]](X) if "y" in self.names else [0, 1]
            elif name.startswith("sample_weight"):
                of = len(of)
            made[name] = TABLES[name][0][what](of)
        return made

    def __call__(self, estimator):
        """The error that the call ends in, or None, and its warnings."""
        np.random.seed(0)  # of random_state=None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                getattr(estimator, self.method)(**self.arguments())
            except Exception as error:
                return error, caught
        return None, caught

    def __repr__(self):
        arguments = ", ".join(f"{name}=<{what}>" for name, what in self.names.items())
        return f"{self.method}({arguments}) of {self.shape}"


def with_own_streams(parameters):
    """The parameters with copies of random streams, from which another case may have drawn."""
    streams = np.random.RandomState | np.random.Generator
    return {name: copy.deepcopy(v) if isinstance(v, streams) else v for name, v in parameters.items()}


class Case:
    """An estimator and its parameters, calls of its methods, and parameters to set before the second."""

    def __init__(self, number):
        rng = np.random.default_rng(number)
        self.number, self.kind = number, pick(rng, ["MLPRegressor", "MLPClassifier"])
        methods = pick(rng, METHODS)
        shape = int(rng.choice([24, 24, 24, 24, 24, 24, 3, 2, 1])), int(rng.choice([3, 3, 3, 1]))
        shapes = [shape, (pick(rng, [24, 24, 24, 1]), shape[1] if rng.random() < 0.9 else 2)]
        numeric = GOOD_TARGETS.index("two classes")
        likely = GOOD_TARGETS[:numeric] if self.kind == "MLPRegressor" else GOOD_TARGETS[numeric:]
        targets = [pick(rng, likely if rng.random() < 0.9 else GOOD_TARGETS)] * 2
        if rng.random() < 0.2:
            targets[1] = pick(rng, likely)
        spoil = [rng.random() < 0.5 and k == len(methods) - 1 for k in range(len(methods))]
        drawn = zip(methods, shapes, targets, spoil, strict=False)
        self.calls = [Call(rng, self.kind, *of_call) for of_call in drawn]
        self.parameters = SMALL | self.draw(rng, int(rng.integers(4)))
        self.then = self.draw(rng, int(rng.integers(3))) if len(methods) > 1 else {}
        if len(methods) > 1 and rng.random() < 0.5:
            self.parameters["warm_start"] = True

    def draw(self, rng, n):
        """Parameters, n of them by chance."""
        names, drawn = list(self.estimator(fastadam, {}).get_params()), {}
        for name in map(str, rng.choice(names, n, replace=False)):
            value = pick(rng, ODD if rng.random() < 0.3 else USUAL[name])
            if name == "max_iter" and (value is HUGE or value is MANY):  # which is right, and nobody will wait for it
                value = 3
            if rng.random() < 0.8:
                drawn |= MATTERS_WITH.get(name, {})
            drawn[name] = value
        return {name: value for name, value in drawn.items() if name in names}

    def estimator(self, package, parameters):
        return getattr(package, self.kind)(**with_own_streams(parameters))

    def is_scikit_learns(self):
        """Whether scikit-learn's estimator, given the same, should train the same model."""
        given, form = self.calls[0].names, self.calls[0].names.get("X", "")
        words = {name: value for name, value in self.parameters.items() if name in THEIR_WORDS}
        return (
            self.parameters.keys() <= self.estimator(sklearn.neural_network, {}).get_params().keys()
            and all(isinstance(value, str) and value in THEIR_WORDS[name] for name, value in words.items())
            and not any(name.endswith("_val") for name in given)
            and "float32" not in form
            and "beyond" not in form  # a crash of the interpreter
            and not any(value is HUGE for value in self.parameters.values())  # which, as a power, fills the memory
        )

    def __repr__(self):
        then = f", then {self.then}" if self.then else ""
        return f"case {self.number}: {self.kind}({self.parameters}){then}: {'; '.join(map(repr, self.calls))}"


THEIR_WORDS = {
    "solver": {"adam", "sgd", "lbfgs"},
    "loss": {"squared_error", "poisson"},
    "activation": {"identity", "logistic", "tanh", "relu"},
    "learning_rate": {"constant", "invscaling", "adaptive"},
}


# --- what it must end in ----------------------------------------------------------------------------------------------

CHECKS_OF_SCIKIT_LEARN = (
    "utils/validation.py", "utils/multiclass.py", "utils/class_weight.py", "preprocessing/_label.py",
    "model_selection/_split.py",
)  # fmt: skip
OTHER_WORDS = ["warm_start", "the rate of", "non-finite parameter weights", "required positional argument"]
"""Of errors that name no argument of the call, or the function that it gives."""
EXPECTED_WARNINGS = (ConvergenceWarning, DataConversionWarning, UndefinedMetricWarning)
EXPECTED_TEXTS = (
    "Got `batch_size` less than 1",
    "feature names",
    "the matrix subclass is not",
    "invalid value encountered in cast",  # of labels with NaN, in scikit-learn's check of them
    "invalid value encountered in reduce",  # of the sum of float32, in scikit-learn's check for NaN
)


def faults_of_error(case, call, error, model):
    """An error must name an argument, or be of scikit-learn's checks of data."""
    if isinstance(error, AttributeError) and call.method == "partial_fit" and not hasattr(model, "partial_fit"):
        return
    if model.device is CUDA:  # and there may be no such device
        return
    if not isinstance(error, ValueError | TypeError):
        yield "an error of this class"
    names = [*model.get_params(), *call.names, *OTHER_WORDS]
    named = any(re.search(rf"(?<![a-z_]){name}(?![a-z_])", str(error)) for name in names)
    files = [frame.filename.replace("\\", "/") for frame in traceback.extract_tb(error.__traceback__)]
    if not named and not any(file.endswith(CHECKS_OF_SCIKIT_LEARN) for file in files):
        yield "an error that names no argument"


def outputs_of(model):
    """Numbers for five samples that are like those of the training."""
    X = np.random.default_rng(0).standard_normal((5, model.n_features_in_))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        model.predict(X)
        return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)


def faults_of_model(model):
    """A model has finite weights and predictions, in one type."""
    arrays = [*model.coefs_, *model.intercepts_, outputs_of(model)]
    if not all(np.isfinite(array).all() for array in arrays):
        yield "a model that is not finite"
    if len({array.dtype for array in arrays}) > 1:
        yield "a model of several types"
    if not len(model.coefs_) == len(model.intercepts_) == model.n_layers_ - 1:
        yield "a model of other layers"


def has_left_its_range(theirs):
    """Whether scikit-learn's loss, or a moment of its gradient, has overflowed, of which it says nothing."""
    moments = getattr(getattr(theirs, "_optimizer", None), "vs", [])
    return not all(np.isfinite(array).all() for array in (*moments, getattr(theirs, "loss_", 0.0)))


def faults_beside_scikit_learn(case, ours, error):
    """Where scikit-learn trains, the model is the same; where it refuses, so do we."""
    theirs = case.estimator(sklearn.neural_network, case.parameters)
    their_error, _ = case.calls[0](theirs)
    if their_error is not None:
        refusal = isinstance(their_error, ValueError | TypeError) and not str(their_error).startswith("ufunc")
        if refusal and error is None:
            yield f"a model, where scikit-learn says {their_error!r}"
    elif error is not None:
        if not has_left_its_range(theirs) and not any(
            text in str(error) for text in ("non-negative y", "no attribute 'partial_fit'", "classes must have")
        ):
            yield "an error, where scikit-learn trains"
    elif case.calls[0].method != "predict":
        right = outputs_of(theirs)
        if np.isfinite(right).all() and not np.allclose(outputs_of(ours), right, 1e-6, 1e-9 * np.abs(right).max()):
            yield "another model than scikit-learn's"


def state_of(model):
    return pickle.dumps(model.__getstate__())


def faults(case):
    """All that is wrong with a case, in words."""
    model = case.estimator(fastadam, case.parameters)
    for k, call in enumerate(case.calls):
        if k:
            model.set_params(**with_own_streams(case.then))
        before = state_of(model)
        error, caught = call(model)
        for warning in caught:
            if not issubclass(warning.category, EXPECTED_WARNINGS) and not any(
                text in str(warning.message) for text in EXPECTED_TEXTS
            ):
                yield f"the warning {warning.message!r}"
        if error is not None:
            yield from (f"{fault}: {error!r}" for fault in faults_of_error(case, call, error, model))
            if state_of(model) != before:
                yield f"a model that was changed by a call that ended in {error!r}"
        elif call.method != "predict":
            yield from faults_of_model(model)
        if k == 0 and case.is_scikit_learns():
            yield from faults_beside_scikit_learn(case, copy.deepcopy(model), error)


@pytest.mark.thin(4)
@pytest.mark.parametrize("first", range(0, CASES, CHUNK))
def test_whatever_is_asked_for_ends_in_a_right_model_or_a_clear_error(first, capsys):
    cases = map(Case, range(first, first + CHUNK))
    found = [f"{case}\n    {fault}" for case in cases for fault in faults(case)]
    capsys.readouterr()  # what `verbose` has printed
    assert not found, "\n".join(found)


# --- at the ends of the ranges ----------------------------------------------------------------------------------------

TYPES = [np.dtype(code) for code in "bBhHiIlLefdgO?"]
"""Integers from int8 to uint64, floats from float16 to long double, objects and booleans."""
POWERS = [0, 0, 0, 0, 2, -2, 6, -6, 15, -15, 19, -19, 25, -28, 37, -38, -45, 150, -160, 300, -300, -322]
EXTREME = {
    "alpha": [0.0, 0.0, 1e-300, 1e20, 1e38, 1e300],
    "learning_rate_init": [0.1, 1e-10, 1e-44, 1e-50, 1e-300, 1e10, 1e38, 1e300],
    "epsilon": [1e-20, 1e-45, 1e-50, 1e-300, 1e38, 1e300],
    "beta_1": [0.0, 1 - 1e-9, 1 - 2**-53],
    "beta_2": [0.0, 1 - 1e-9, 1 - 2**-53],
    "momentum": [0.0, 1 - 1e-9, 1.0],
    "clip_norm": [1.0, 1e-10, 1e-45, 1e-300, 1e300],
    "huber_delta": [1e-10, 1e-50, 1e-300, 1e50, 1e300],
    "quantile": [1e-300, 1e-10, 1 - 1e-10, 1 - 2**-53],
    "dropout": [1e-300, 0.99, 1 - 2**-53],
    "class_weight": ["balanced", {0: 1e-300, 1: 1.0}, {0: 1e300, 1: 1e300}, {0: 0.0}, {0: 1e-28, 1: 1e-28, 2: 1e-28}],
    "label_smoothing": [1e-320, 0.5, 1 - 2**-53],
    "warmup_epochs": [2, 10**9],
    "learning_rate": ["cosine", "one_cycle", "plateau", "invscaling", "adaptive"],
    "power_t": [0.0, 300.0],
    "early_stopping": [True],
    "tol": [0.0, 1e300],
    "batch_size": [1, 5, 24],
    "hidden_layer_sizes": [(), (1,), (3, 3)],
    "scoring": ["loss"],
}
SOLVERS = ["adam", "adam", "sgd", "lbfgs", "adamw", "nadam", "radam", "adamax", "amsgrad", "lion", "rmsprop"]
SOLVERS += ["adagrad", "adadelta"]


def drawn_at_scale(rng, shape, dtype):
    """Numbers of some type times some power of ten, or each times another; those beyond the type are at its end."""
    powers = rng.choice(POWERS, (shape[0],) if rng.random() < 0.1 else 1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = rng.standard_normal(shape) * (10.0 ** powers.reshape(-1, *[1] * (len(shape) - 1)))
        if dtype.kind in "iu":
            ends = np.iinfo(dtype)
            return np.clip(np.round(values * 3), float(ends.min), float(ends.max) * (1 - 2**-50)).astype(dtype)
        if dtype.kind == "f" and dtype.itemsize < 8:
            values = np.clip(values, -np.finfo(dtype).max, np.finfo(dtype).max)
        return values > 0 if dtype.kind == "b" else values.astype(dtype)


class Extreme:
    """A fit of extreme numbers, or two of them."""

    def __init__(self, number):
        rng = np.random.default_rng([11, number])
        self.number, self.kind = number, pick(rng, ["MLPRegressor", "MLPClassifier"])
        self.method, self.calls = pick(rng, ["fit", "fit", "partial_fit"]), int(rng.integers(1, 3))
        solvers = [solver for solver in SOLVERS if self.method == "fit" or solver != "lbfgs"]
        names = (
            fastadam.MLPRegressor._parameter_constraints
            if self.kind == "MLPRegressor"
            else (fastadam.MLPClassifier._parameter_constraints)
        )
        self.parameters = SMALL | {"solver": pick(rng, solvers), "warm_start": self.calls > 1}
        for name in rng.choice(sorted(EXTREME.keys() & names.keys()), int(rng.integers(4)), replace=False):
            if self.method == "fit" or name not in ("early_stopping", "scoring"):
                value = pick(rng, EXTREME[str(name)])
                self.parameters |= MATTERS_WITH.get(str(name), {}) | {str(name): value}
        if self.kind == "MLPRegressor" and "loss" not in self.parameters:
            self.parameters["loss"] = pick(
                rng, ["squared_error", "squared_error", "poisson", "absolute_error", "huber"]
            )
        n, floats = int(rng.choice([24, 24, 24, 3])), [dtype for dtype in TYPES if dtype.char in "efd"]
        self.X = drawn_at_scale(rng, (n, 3), pick(rng, floats if rng.random() < 0.8 else TYPES))
        self.weight = drawn_at_scale(rng, (n,), pick(rng, TYPES)) if rng.random() < 0.6 else None
        if self.weight is not None and self.weight.dtype.kind != "b" and rng.random() < 0.8:
            self.weight = abs(self.weight)
        self.y = self._targets(rng, n)
        self.validation, self.names = {}, ["X", "y", "sample_weight", "classes"]
        if self.method == "fit" and rng.random() < 0.2 and self.parameters["solver"] != "lbfgs":
            self.validation = {"X_val": self.X, "y_val": self.y, "sample_weight_val": self.weight}
            self.names += self.validation

    def _targets(self, rng, n):
        if self.kind == "MLPClassifier":
            return rng.permutation(np.arange(n) % int(rng.integers(2, 4))).astype(pick(rng, TYPES))
        shape = (n,) if rng.random() < 0.7 else (n, 2)
        y = drawn_at_scale(rng, shape, pick(rng, TYPES))
        return abs(y) if self.parameters["loss"] == "poisson" and y.dtype.kind != "b" else y

    def estimator(self):
        return getattr(fastadam, self.kind)(**self.parameters)

    def run(self, model, X):
        """The error that the calls end in, or None; their warnings; and the state before the last call."""
        extra = {"classes": np.unique(self.y)} if (self.kind, self.method) == ("MLPClassifier", "partial_fit") else {}
        error, caught = None, []
        for _ in range(self.calls):
            before = state_of(model)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    getattr(model, self.method)(X, self.y, self.weight, **extra, **self.validation)
                except Exception as raised:
                    error = raised
            caught += warned
            if error is not None:
                break
        return error, caught, before

    def __repr__(self):
        def said(array):
            return "None" if array is None else f"{array.dtype}{array.shape} up to {max(abs(array.ravel()))}"

        return (
            f"extreme {self.number}: {self.kind}({self.parameters}).{self.method}(X={said(self.X)}, y={said(self.y)}, "
            f"weight={said(self.weight)}{', validation' if self.validation else ''}), {self.calls} calls"
        )


def initial_parameters(model):
    """Initial weights of scikit-learn: the same numbers of the random stream."""
    stream, drawn = np.random.RandomState(model.random_state), []
    for coef in model.coefs_:
        bound = np.sqrt(6.0 / sum(coef.shape))
        drawn += [stream.uniform(-bound, bound, coef.shape), stream.uniform(-bound, bound, coef.shape[1])]
    return [array.astype(model.coefs_[0].dtype) for array in drawn]


def says_so(caught):
    """Whether a warning tells that training has failed, or what was not finite in it."""
    texts = [str(warning.message) for warning in caught]
    return any("not finite" in text or "not changed" in text or "failed to converge" in text for text in texts)


def faults_of_warnings(caught):
    for warning in caught:
        of_scikit_learn = "sklearn" in warning.filename and "encountered in" in str(warning.message)
        of_scikit_learn |= "overflow encountered in exp" in str(warning.message)  # predictions with loss="poisson"
        expected = issubclass(warning.category, EXPECTED_WARNINGS) or of_scikit_learn
        if not expected and not any(text in str(warning.message) for text in EXPECTED_TEXTS):
            yield f"the warning {warning.message!r} of {warning.filename}"


def faults_of_silence(case, model):
    """Without a warning, the numbers of a fit are finite and its parameters are other ones than before it.

    Only those of Lion, whose steps all have the same size, may come back to where they were.
    """
    curves = {name: getattr(model, name, None) for name in ("loss_curve_", "validation_loss_curve_", "loss_")}
    curves |= {name: getattr(model, name, None) for name in ("validation_scores_", "best_loss_")}
    for name, values in curves.items():
        if values is not None and not np.isfinite(values).all():
            yield f"{name} that is not finite: {values}"
    X = case.X[np.isfinite(case.X.astype(model.coefs_[0].dtype)).all(axis=1)]
    with np.errstate(all="ignore"):
        outputs = model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)
    may_overflow = getattr(model, "loss", "") == "poisson" or model.dropout > 0  # the exp, and units that were off
    if not may_overflow and not np.isfinite(outputs).all():
        yield "predictions that are not finite"
    trained = [array for layer in zip(model.coefs_, model.intercepts_, strict=True) for array in layer]
    if model.n_iter_ and model.solver != "lion" and all(map(np.array_equal, trained, initial_parameters(model))):
        yield "an untrained model"


def is_moderate(case):
    """Whether float32 should come close to float64: nothing is near the ends of its range, and no step is a jump."""
    sizes = np.abs(np.append(np.float64(case.X).ravel(), np.float64(case.y).ravel()))
    weight = np.float64(1.0 if case.weight is None else case.weight) * np.ones(len(case.X))
    held = {"beta_1", "beta_2", "epsilon", "dropout", "learning_rate", "class_weight", "early_stopping", "batch_size"}
    penalty = case.parameters.get("alpha", 1e-4) / np.abs(weight).max()
    return (
        sizes.max() < (1e3 if case.kind == "MLPRegressor" else 10)  # a certain class has a loss that is the type's own
        and penalty < 1e6
        and weight.min() > 1e-5 * weight.max()
        and case.parameters["solver"] in ("adam", "adamw", "adamax", "sgd")
        and case.parameters.get("loss") not in ("absolute_error", "huber", "quantile")
        and case.parameters.keys() <= {*SMALL, "solver", "warm_start", "loss", "alpha", "hidden_layer_sizes"} | held
        and case.parameters.get("epsilon", 1e-8) >= 1e-20
    )


def faults_beside_float64(case, model):
    """A model of float32 is close to the same one of float64."""
    other = case.estimator()
    error, caught, _ = case.run(other, case.X.astype(np.float64))
    if error is not None or says_so(caught):
        yield f"a model of float32, where float64 ends in {error!r}"
    elif not np.allclose(model.loss_, other.loss_, 0.02, 1e-6):
        yield f"the loss {model.loss_}, where float64 has {other.loss_}"


def faults_of_extreme(case):
    """All that is wrong with a case, in words."""
    model = case.estimator()
    error, caught, before = case.run(model, case.X)
    yield from faults_of_warnings(caught)
    if error is not None:
        yield from (f"{fault}: {error!r}" for fault in faults_of_error(case, case, error, model))
        if state_of(model) != before:
            yield f"a model that was changed by a call that ended in {error!r}"
        return
    if not all(np.isfinite(array).all() for array in (*model.coefs_, *model.intercepts_)):
        yield "a model that is not finite"
    if not says_so(caught):
        yield from faults_of_silence(case, model)
        if model.coefs_[0].dtype == np.float32 and is_moderate(case):
            yield from faults_beside_float64(case, model)


@pytest.mark.thin(2)
@pytest.mark.parametrize("first", range(0, EXTREMES, CHUNK))
def test_extreme_numbers_end_in_a_trained_model_a_warning_or_an_error_that_names_the_argument(first, capsys):
    cases = map(Extreme, range(first, min(first + CHUNK, EXTREMES)))
    found = [f"{case}\n    {fault}" for case in cases for fault in faults_of_extreme(case)]
    capsys.readouterr()
    assert not found, "\n".join(found)


if __name__ == "__main__":
    extreme = sys.argv[1:2] == ["extreme"]
    for number in map(int, sys.argv[1 + extreme :]):
        drawn = Extreme(number) if extreme else Case(number)
        print(drawn)
        print(*(faults_of_extreme(drawn) if extreme else faults(drawn)), sep="\n")
