"""A fit that was killed is finished from its last checkpoint, in the bits of one that was not."""

import copy
import dataclasses
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from naive import assert_same_bits
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor as TheirRegressor

from fastadam import Checkpoint, MLPClassifier, MLPRegressor, load_checkpoint, schedules
from fastadam._fit_state import _PROGRESS
from fastadam._solvers import SOLVERS
from fastadam.jit import JIT_DISABLED
from fastadam.trainer import Progress

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="the estimators are trained"),
]

rng = np.random.default_rng(0)
X = rng.standard_normal((90, 4))
y = X[:, 0] * X[:, 1] + X[:, 2]
X_val = rng.standard_normal((30, 4))
KINDS = {
    MLPRegressor: lambda X: X[:, 0] * X[:, 1] + X[:, 2],
    MLPClassifier: lambda X: np.digitize(X[:, 0], [-0.5, 0.5]),
}
EPOCHS = 9


class Crash(Exception):  # noqa: N818
    pass


class CrashAfter:
    """A callback that ends the process, as far as the fit can see."""

    def __init__(self, epoch, error=Crash):
        self.epoch, self.error = epoch, error

    def setup(self, estimator, context):
        self.epochs = 0

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.epochs += context.task_name == "epoch"
        if self.epochs == self.epoch:
            raise self.error


def make(kind, **parameters):
    defaults = {"hidden_layer_sizes": (6, 3), "batch_size": 16, "max_iter": EPOCHS, "random_state": 3}
    return kind(**(defaults | parameters))


def crash(estimator, path, epoch, *data, error=Crash, every=1, **validation):
    """Fit, with a checkpoint every so many epochs, until the process dies after one of them."""
    estimator.set_callbacks(Checkpoint(path, every_n_epochs=every), CrashAfter(epoch, error))
    with pytest.raises(error):
        estimator.fit(*data, **validation)


def assert_same_fit(a, b):
    for expected, actual in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_], strict=True):
        assert_same_bits(actual, expected)
    for name in ("loss_", "t_", "n_iter_", "loss_curve_", "validation_scores_", "validation_loss_curve_",
                 "best_loss_", "best_validation_score_"):  # fmt: skip
        assert getattr(a, name, None) == getattr(b, name, None), name


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"


CONFIGURATIONS = {
    **{solver: {"solver": solver} for solver in SOLVERS},
    "early stopping": {"early_stopping": True, "n_iter_no_change": np.inf},
    "early stopping that stops": {"early_stopping": True, "n_iter_no_change": 1, "tol": 1.0},
    "convergence": {"n_iter_no_change": 2, "tol": 10.0},
    "a score of one's own": {"early_stopping": True, "scoring": "loss"},
    "dropout": {"dropout": 0.3},
    "a schedule": {"learning_rate": "cosine", "warmup_epochs": 2},
    "plateaus": {"learning_rate": "plateau", "n_iter_no_change": 2, "tol": 0.1},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 1.0},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "no shuffle": {"shuffle": False},
    "a warm start": {"warm_start": True},
}


@pytest.mark.parametrize("epoch", [4, EPOCHS])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_fit_is_finished_in_the_same_bits(kind, configuration, epoch, path):
    target = KINDS[kind](X)
    whole = make(kind, **CONFIGURATIONS[configuration]).fit(X, target)
    epoch = min(epoch, whole.n_iter_)
    crash(make(kind, **CONFIGURATIONS[configuration]), path, epoch, X, target)
    assert load_checkpoint(path).n_iter_ == epoch
    assert_same_fit(whole, load_checkpoint(path).fit(X, target))


@pytest.mark.parametrize("data", ["float32", "sparse", "validation data", "weights"])
def test_with_any_data(kind, data, path):
    features = {"float32": X.astype(np.float32), "sparse": sparse.csr_array(X)}.get(data, X)
    validation = {"X_val": X_val, "y_val": KINDS[kind](X_val)} if data == "validation data" else {}
    weights = [rng.uniform(0.5, 1.5, len(X))] if data == "weights" else []
    given = features, KINDS[kind](X), *weights
    whole = make(kind, early_stopping=bool(validation)).fit(*given, **validation)
    crash(make(kind, early_stopping=bool(validation)), path, 4, *given, **validation)
    assert_same_fit(whole, load_checkpoint(path).fit(*given, **validation))


def test_with_a_random_stream_of_the_users_own(kind, path):
    whole = make(kind, random_state=np.random.RandomState(5)).fit(X, KINDS[kind](X))
    crash(make(kind, random_state=np.random.RandomState(5)), path, 4, X, KINDS[kind](X))
    assert_same_fit(whole, load_checkpoint(path).fit(X, KINDS[kind](X)))


def test_with_numpys_own_random_stream(kind, path):
    before = np.random.get_state()
    try:
        np.random.seed(5)
        whole = make(kind, random_state=None).fit(X, KINDS[kind](X))
        np.random.seed(5)
        crash(make(kind, random_state=None), path, 4, X, KINDS[kind](X))
        np.random.seed(6)
        assert_same_fit(whole, load_checkpoint(path).fit(X, KINDS[kind](X)))
    finally:
        np.random.set_state(before)


def test_from_one_crash_to_the_next(kind, path):
    target = KINDS[kind](X)
    crash(make(kind), path, 2, X, target)
    crash(load_checkpoint(path), path, 3, X, target)
    assert load_checkpoint(path).n_iter_ == 5
    resumed = load_checkpoint(path).set_callbacks(Checkpoint(path)).fit(X, target)
    assert_same_fit(make(kind).fit(X, target), resumed)
    assert_same_fit(resumed, load_checkpoint(path))


SCRIPT = """
    import os, pickle, signal, sys, warnings
    import numpy as np
    from fastadam import Checkpoint, MLPRegressor, load_checkpoint

    path, kills = sys.argv[1], int(sys.argv[2])
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 4)), rng.standard_normal(200)
    calls = 0

    def fsync(file, real=os.fsync):
        global calls
        calls += 1
        if calls == kills:  # the new file is there, and not yet under its name
            os.kill(os.getpid(), signal.SIGKILL)
        real(file)

    os.fsync = fsync
    new = {"hidden_layer_sizes": (8,), "max_iter": 12, "random_state": 0, "dropout": 0.2, "early_stopping": True}
    model = load_checkpoint(path) if os.path.exists(path) else MLPRegressor(**new)
    model.set_callbacks(Checkpoint(path)).fit(X, y)
    with open(path + ".result", "wb") as file:
        pickle.dump((model.coefs_, model.loss_curve_, model.validation_scores_, model.n_iter_), file)
"""


@pytest.mark.slow
def test_processes_that_are_killed_while_they_write(tmp_path):
    def run(name, kills):
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / name), str(kills)]
        return subprocess.run(command, timeout=120).returncode

    assert run("whole", 0) == 0
    assert run("killed", 1) == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    assert run("killed", 5) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "killed").n_iter_ == 4
    assert run("killed", 4) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "killed").n_iter_ == 7
    assert run("killed", 0) == 0
    whole, killed = (pickle.loads((tmp_path / f"{name}.result").read_bytes()) for name in ("whole", "killed"))
    for expected, actual in zip(whole[0], killed[0], strict=True):
        assert_same_bits(actual, expected)
    assert whole[1:] == killed[1:]


class InterruptBefore(CrashAfter):
    """Has Ctrl-C pressed in an epoch."""

    def on_fit_task_begin(self, estimator, context):
        if context.task_name == "epoch" and self.epochs == self.epoch - 1:
            raise KeyboardInterrupt

    def on_fit_task_end(self, estimator, context):
        self.epochs += context.task_name == "epoch"


def test_ctrl_c_in_an_epoch_leaves_the_last_whole_checkpoint(kind, path):
    model = make(kind).set_callbacks(Checkpoint(path, every_n_epochs=3), InterruptBefore(6))
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(X, KINDS[kind](X))
    assert model.n_iter_ == 5
    assert load_checkpoint(path).n_iter_ == 3
    assert_same_fit(make(kind).fit(X, KINDS[kind](X)), load_checkpoint(path).fit(X, KINDS[kind](X)))


def test_a_finished_fit_is_returned_as_it_is(kind, path, recwarn):
    model = make(kind, max_iter=200, tol=0.1).set_callbacks(Checkpoint(path)).fit(X, KINDS[kind](X))
    assert model.n_iter_ < 200
    assert_same_fit(model, load_checkpoint(path).fit(X, KINDS[kind](X)))
    assert not recwarn


def test_a_finished_fit_goes_on_where_max_iter_is_raised(kind, path):
    whole = make(kind, max_iter=14).fit(X, KINDS[kind](X))
    make(kind).set_callbacks(Checkpoint(path)).fit(X, KINDS[kind](X))
    assert_same_fit(whole, load_checkpoint(path).set_params(max_iter=14).fit(X, KINDS[kind](X)))


def test_time_that_was_up_begins_anew(path):
    make(MLPRegressor, max_time=1e-9).set_callbacks(Checkpoint(path)).fit(X, y)
    assert load_checkpoint(path).n_iter_ == 1
    assert_same_fit(make(MLPRegressor).fit(X, y), load_checkpoint(path).set_params(max_time=None).fit(X, y))


def test_only_the_next_fit_resumes(path):
    crash(make(MLPRegressor), path, 4, X, y)
    model = load_checkpoint(path)
    new = clone(model)
    with pytest.raises(NotFittedError):
        new.predict(X)
    assert_same_fit(make(MLPRegressor).fit(X, y), new.fit(X, y))
    assert_same_fit(model.fit(X, y), model.fit(X, y))
    assert model.n_iter_ == EPOCHS


def test_a_loaded_checkpoint_predicts(kind, path):
    expected = make(kind, max_iter=4).fit(X, KINDS[kind](X))
    crash(make(kind), path, 4, X, KINDS[kind](X))
    np.testing.assert_array_equal(load_checkpoint(path).predict(X), expected.predict(X))


def test_with_early_stopping_it_predicts_by_the_best_weights(path):
    parameters = {"early_stopping": True, "learning_rate_init": 0.3, "n_iter_no_change": np.inf}
    expected = make(MLPRegressor, max_iter=8, **parameters).fit(X, y)
    assert expected.validation_scores_[-1] < expected.best_validation_score_
    crash(make(MLPRegressor, **parameters), path, 8, X, y)
    assert_same_bits(load_checkpoint(path).predict(X), expected.predict(X))


def test_partial_fit_goes_on_from_a_checkpoint(path):
    whole, saved = make(MLPRegressor), make(MLPRegressor).set_callbacks(Checkpoint(path))
    for _ in range(3):
        whole.partial_fit(X, y)
        saved.partial_fit(X, y)
    assert_same_fit(whole.partial_fit(X, y), load_checkpoint(path).partial_fit(X, y))


def epochs_saved(monkeypatch, checkpoint):
    saved = []
    monkeypatch.setattr("fastadam.checkpoint._write", lambda file, estimator: saved.append(estimator.n_iter_))
    make(MLPRegressor).set_callbacks(checkpoint).fit(X, y)
    return saved


def test_how_often(monkeypatch, path):
    assert epochs_saved(monkeypatch, Checkpoint(path)) == [*range(1, EPOCHS + 1), EPOCHS]
    assert epochs_saved(monkeypatch, Checkpoint(path, every_n_epochs=4)) == [4, 8, EPOCHS]
    assert epochs_saved(monkeypatch, Checkpoint(path, every_seconds=3600)) == [EPOCHS]
    assert epochs_saved(monkeypatch, Checkpoint(path, every_seconds=1e-9)) == [*range(1, EPOCHS + 1), EPOCHS]
    assert epochs_saved(monkeypatch, Checkpoint(path, every_n_epochs=4, every_seconds=3600)) == [4, 8, EPOCHS]


def test_no_other_file_is_left(path):
    make(MLPRegressor).set_callbacks(Checkpoint(path)).fit(X, y)
    assert os.listdir(path.parent) == [path.name]


def test_a_checkpoint_changes_nothing(path):
    with_it = make(MLPRegressor, early_stopping=True).set_callbacks(Checkpoint(path)).fit(X, y)
    assert_same_fit(make(MLPRegressor, early_stopping=True).fit(X, y), with_it)


def test_a_disk_that_is_full_is_warned_of_and_costs_no_model(monkeypatch, path):
    def full(file):
        raise OSError(28, "No space left on device")

    make(MLPRegressor, max_iter=2).set_callbacks(Checkpoint(path)).fit(X, y)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(RuntimeWarning, match=rf"of epoch {EPOCHS} could not be written: .*No space left"):
        model = make(MLPRegressor).set_callbacks(Checkpoint(path, every_n_epochs=EPOCHS)).fit(X, y)
    assert_same_fit(make(MLPRegressor).fit(X, y), model)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("rows", [X[:-1], X[:, :-1]], ids=["samples", "features"])
def test_other_data_are_refused_and_change_nothing(rows, path):
    crash(make(MLPRegressor, early_stopping=True), path, 4, X, y)
    model = load_checkpoint(path)
    with pytest.raises(ValueError, match=r"got 89|3 features"):
        model.fit(rows, y[: len(rows)])
    assert_same_fit(make(MLPRegressor, early_stopping=True).fit(X, y), model.fit(X, y))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs must be > 0, got 0"),
        ({"every_n_epochs": 1.5}, TypeError, "every_n_epochs must be a positive number or None, got 1.5"),
        ({"every_n_epochs": True}, TypeError, "every_n_epochs"),
        ({"every_seconds": -1.0}, ValueError, "every_seconds must be > 0, got -1.0"),
        ({"every_seconds": np.nan}, ValueError, "every_seconds"),
        ({"every_seconds": "often"}, TypeError, "every_seconds"),
    ],
)
def test_bad_numbers(options, error, message, path):
    with pytest.raises(error, match=message):
        Checkpoint(path, **options)


def test_a_path_that_is_none():
    with pytest.raises(TypeError):
        Checkpoint(None)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"solver": "lbfgs"}, "got solver='lbfgs'"),
        (
            {"random_state": np.random.RandomState(np.random.PCG64(0))},
            "cannot save random_state: .*MT19937.*got one of PCG64",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:get_state and legacy can only be used with the MT19937")
def test_fits_that_cannot_be_saved(parameters, message, path):
    with pytest.raises(ValueError, match=message):
        make(MLPRegressor, **parameters).set_callbacks(Checkpoint(path)).fit(X, y)
    assert not path.exists()


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"directory that exists, got .*nowhere"):
        make(MLPRegressor).set_callbacks(Checkpoint(tmp_path / "nowhere" / "model")).fit(X, y)


def test_an_estimator_of_another_library(path):
    with pytest.raises(TypeError, match="got MLPRegressor"):
        Checkpoint(path).setup(TheirRegressor(), None)


def test_files_that_are_no_checkpoints(path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path)
    arrays = io.BytesIO()
    np.savez(arrays, weights=np.zeros(3))
    for data in (b"", b"no checkpoint", b"PK\x03\x04", arrays.getvalue()):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"path must be a checkpoint, got .*model\.ckpt"):
            load_checkpoint(path)


# --- what is in the file ----------------------------------------------------------------------------------------------


def read_entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_all_attributes_are_there_again(kind, path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    target = np.array(["low", "middle", "high"])[KINDS[kind](X)] if kind is MLPClassifier else KINDS[kind](X)
    model = make(kind, early_stopping=True, warm_start=True).set_callbacks(Checkpoint(path)).fit(frame, target)
    loaded = load_checkpoint(path)
    expected = {name for name in vars(model) if "_callback" not in name} - {"_parameters_before"}
    assert set(vars(loaded)) == expected | {"_resumes"}
    for name in expected:
        value, again = getattr(model, name), getattr(loaded, name)
        assert type(again) is type(value), name
        if name not in ("_label_binarizer", "_optimizer", "_layout", "_random_state", "_views"):
            assert pickle.dumps(again) == pickle.dumps(value), name
    assert {field.name for field in dataclasses.fields(Progress)} == {*_PROGRESS, "best"}


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden_layer_sizes": [6, 3], "activation": ["tanh", "relu"]},
        {"hidden_layer_sizes": np.array([6, 3]), "alpha": np.float32(0.1), "batch_size": np.int16(16)},
        {"max_iter": 10**30, "max_time": 10**300, "n_iter_no_change": np.inf, "tol": np.float64(1e9)},
        {"learning_rate": schedules.Sequential([schedules.Warmup(0.1, 2), schedules.Step(0.1, 2)], [3])},
        {"random_state": np.random.RandomState(3), "shuffle": np.True_, "solver": "sgd", "momentum": 0},
        {"learning_rate": "plateau", "n_iter_no_change": 2, "tol": 0.1, "clip_norm": 0.5},
    ],
    ids=["lists", "arrays", "large numbers", "schedules", "streams", "plateaus"],
)  # fmt: skip
def test_parameters_keep_their_values_and_types(kind, parameters, path):
    model = make(kind, **parameters)
    crash(model, path, 3, X, KINDS[kind](X))
    loaded = load_checkpoint(path)
    for name, value in model.get_params().items():
        again = getattr(loaded, name)
        assert type(again) is type(value), name
        if name != "random_state":  # a stream that was put back, as the fit has failed
            assert pickle.dumps(again) == pickle.dumps(value), name


@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        (np.array(["a", "b", "c"]), {"a": 1.0, "b": 2.0, "c": 0.5}),
        (np.array(["a", "b", "c"], object), "balanced"),
        (np.array([7, 8, 9], np.int8), {7: 1.0, np.int8(8): 2, 9: 0.5}),
        (np.array([0.0, 1.0, 1.0]), None),
        (np.array(["2020", "2021", "2022"], "datetime64[D]"), None),
        (np.array([True, False, False]), {True: 2.0, False: 1.0}),
    ],
    ids=["strings", "objects", "int8", "two classes", "dates", "bool"],
)
def test_classes_and_their_weights(labels, weights, path):
    target = labels[KINDS[MLPClassifier](X)]
    whole = make(MLPClassifier, class_weight=weights).fit(X, target)
    crash(make(MLPClassifier, class_weight=weights), path, 4, X, target)
    loaded = load_checkpoint(path)
    assert loaded.classes_.dtype == whole.classes_.dtype
    assert loaded.class_weight == weights
    assert_same_fit(whole, loaded.fit(X, target))
    np.testing.assert_array_equal(loaded.predict(X), whole.predict(X))


def test_several_labels(path):
    target = (X[:, :3] > 0).astype(int)
    whole = make(MLPClassifier).fit(X, target)
    crash(make(MLPClassifier), path, 4, X, target)
    assert_same_fit(whole, load_checkpoint(path).fit(X, target))


def test_a_checkpoint_is_read_by_numpy_too(path):
    make(MLPRegressor).set_callbacks(Checkpoint(path)).fit(X, y)
    with np.load(path, allow_pickle=False) as file:
        assert_same_bits(file["fit.weights"], load_checkpoint(path)._params.flat)
        assert json.loads(file["content.json"])["version"] == 1


def rate(epoch):
    return 0.1 / (1 + epoch)


def score(estimator, X, y):
    return -float(np.abs(estimator.predict(X) - y).max())


@pytest.mark.parametrize(
    "code",
    [
        {"learning_rate": lambda epoch: 0.1 / (1 + epoch)},
        {"learning_rate": rate},
        {"learning_rate": schedules.Warmup(rate, 2)},
        {"scoring": score, "early_stopping": True},
    ],
    ids=["a lambda", "a function", "in a schedule", "a scorer"],
)
def test_functions_are_given_again(code, path):
    whole = make(MLPRegressor, **code).fit(X, y)
    crash(make(MLPRegressor, **code), path, 4, X, y)
    name = next(iter(code))
    with pytest.raises(
        ValueError, match=rf"params must contain {name} \(it was .*\), which a checkpoint does not hold, got \[\]"
    ):
        load_checkpoint(path)
    assert_same_fit(whole, load_checkpoint(path, params={name: code[name]}).fit(X, y))


def test_parameters_that_are_given_replace_those_of_the_file(path):
    crash(make(MLPRegressor), path, 4, X, y)
    model = load_checkpoint(path, params={"max_iter": 14, "verbose": False})
    assert_same_fit(make(MLPRegressor, max_iter=14).fit(X, y), model.fit(X, y))
    with pytest.raises(ValueError, match="Invalid parameter 'depth'"):
        load_checkpoint(path, params={"depth": 3})


class Doubled(MLPRegressor):
    """A subclass with a parameter of its own."""

    def __init__(self, factor=2, hidden_layer_sizes=(6, 3), max_iter=EPOCHS, random_state=3):
        super().__init__(hidden_layer_sizes=hidden_layer_sizes, max_iter=max_iter, random_state=random_state)
        self.factor = factor

    def predict(self, X):
        return self.factor * super().predict(X)


def test_a_subclass_is_given_again(path):
    whole = Doubled(3).fit(X, y)
    crash(Doubled(3), path, 4, X, y)
    with pytest.raises(ValueError, match="cls must be the class Doubled"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="cls must be a subclass of MLPRegressor"):
        load_checkpoint(path, cls=MLPClassifier)
    with pytest.raises(TypeError, match="cls must be a subclass of MLPRegressor or MLPClassifier, got 3"):
        load_checkpoint(path, cls=3)
    loaded = load_checkpoint(path, cls=Doubled)
    assert (type(loaded), loaded.factor) == (Doubled, 3)
    assert_same_fit(whole, loaded.fit(X, y))


# --- files that mean harm, and damaged ones ---------------------------------------------------------------------------


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_not_run(protocol, path):
    marker = path.with_name("marker")
    path.write_bytes(pickle.dumps(Touch(marker), protocol))
    with pytest.raises(ValueError, match="path must be a checkpoint"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_pickle_in_an_array_is_not_run(path):
    crash(make(MLPRegressor), path, 4, X, y)
    entries, marker = read_entries(path), path.with_name("marker")
    array = io.BytesIO()
    np.save(array, np.array([Touch(marker)] * 3, object), allow_pickle=True)
    for name in set(entries) - {"content.json"}:
        write_entries(path, entries | {name: array.getvalue()})
        with pytest.raises(ValueError, match="path must be a checkpoint"):
            load_checkpoint(path, allow_pickle=True)
    assert not marker.exists()


class PickledCheckpoint(CrashAfter):
    """Writes a checkpoint as they were before 0.1.0, and ends the process."""

    def __init__(self, path, epoch):
        super().__init__(epoch)
        self.path = path

    def on_fit_task_end(self, estimator, context):
        saved = copy.copy(estimator)
        for name in [name for name in vars(saved) if "_callback" in name]:
            delattr(saved, name)
        self.path.write_bytes(pickle.dumps(saved, protocol=5))
        super().on_fit_task_end(estimator, context)


def test_checkpoints_that_are_pickles_are_read_where_that_is_allowed(kind, path):
    target = KINDS[kind](X)
    whole = make(kind, early_stopping=True).fit(X, target)
    with pytest.raises(Crash):
        make(kind, early_stopping=True).set_callbacks(PickledCheckpoint(path, 4)).fit(X, target)
    with pytest.raises(ValueError, match=r"got .*model\.ckpt.*, which is a pickle.*allow_pickle=True"):
        load_checkpoint(path)
    with pytest.warns(UserWarning, match="is a pickle.*can run any code"):
        loaded = load_checkpoint(path, allow_pickle=True)
    crash(loaded, path, 2, X, target)
    assert_same_fit(whole, load_checkpoint(path).fit(X, target))  # it is none now


@pytest.mark.parametrize("value", [3, LinearRegression(), MLPRegressor()], ids=lambda value: type(value).__name__)
def test_pickles_of_something_else(value, path):
    path.write_bytes(pickle.dumps(value))
    with pytest.warns(UserWarning, match="is a pickle"), pytest.raises(ValueError, match="path must be a checkpoint"):
        load_checkpoint(path, allow_pickle=True)


def test_another_version_of_the_format_is_named(path):
    crash(make(MLPRegressor), path, 4, X, y)
    entries = read_entries(path)
    content = json.loads(entries["content.json"]) | {"version": 2}
    write_entries(path, entries | {"content.json": json.dumps(content)})
    with pytest.raises(ValueError, match="has version 2 of the format, and this version of fastadam reads 1"):
        load_checkpoint(path)


def test_compressed_files_are_refused(path):
    crash(make(MLPRegressor), path, 4, X, y)
    write_entries(path, read_entries(path), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed"):
        load_checkpoint(path)


def test_bytes_that_have_flipped_change_nothing(path):
    crash(make(MLPClassifier, hidden_layer_sizes=(), early_stopping=True), path, 4, X, KINDS[MLPClassifier](X))
    data, expected = path.read_bytes(), pickle.dumps(load_checkpoint(path))
    random, refused = np.random.default_rng(1), 0
    for _ in range(400):
        flipped = bytearray(data)
        flipped[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            assert pickle.dumps(load_checkpoint(path)) == expected
        except ValueError as error:
            assert str(error).startswith("path must be a checkpoint")  # noqa: PT017
            refused += 1
    assert refused > 100


def test_files_that_are_cut_off(path):
    crash(make(MLPRegressor), path, 4, X, y)
    data = path.read_bytes()
    for size in np.linspace(0, len(data) - 1, 40).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="path must be a checkpoint"):
            load_checkpoint(path)


def leaves(value, at=()):
    """Where in nested lists and dicts there is a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield at
    for key, child in children:
        yield from leaves(child, (*at, key))


def replaced(content, at, value):
    content = parent = json.loads(content)
    for key in at[:-1]:
        parent = parent[key]
    parent[at[-1]] = value
    return json.dumps(content)


def is_read_without_harm(path, kind):
    """The file is refused, or so is the next fit, or that fit works; nothing else may happen."""
    try:
        model = load_checkpoint(path)
    except ValueError as error:
        assert "must " in str(error)  # noqa: PT017
        return False
    model.set_params(max_iter=min(model.max_iter, 8))
    try:
        model.predict(X)
        model.fit(X, KINDS[kind](X))
    except (ValueError, TypeError):
        return False
    return True


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_entries_of_another_type_or_size_are_refused(kind, path):
    crash(make(kind, hidden_layer_sizes=(2,), early_stopping=True, learning_rate="plateau"), path, 4, X, KINDS[kind](X))
    entries, refused = read_entries(path), 0
    places = [at for at in leaves(json.loads(entries["content.json"])) if at]
    for at in places:
        for value in (None, -1, 2**70, "text", {}, {"$array": "fit.progress.order"}):
            write_entries(path, entries | {"content.json": replaced(entries["content.json"], at, value)})
            refused += not is_read_without_harm(path, kind)
    assert refused > 4 * len(places)


def test_arrays_of_another_type_or_size_are_refused(kind, path):
    crash(make(kind, hidden_layer_sizes=(2,), early_stopping=True), path, 4, X, KINDS[kind](X))
    entries = read_entries(path)
    for name in set(entries) - {"content.json"}:
        array = np.load(io.BytesIO(entries[name]))
        of_any_size = any(part in name for part in ("losses", "scores", "fit.classes"))
        of_any_type = "classes" in name
        for other in (np.append(array, array[-1:]), array[:0], array[:, None], array.astype(np.uint8)):
            file = io.BytesIO()
            np.save(file, other)
            write_entries(path, entries | {name: file.getvalue()})
            may_be = other.ndim == 1 and (of_any_type if other.size == array.size else of_any_size)
            assert not is_read_without_harm(path, kind) or may_be or not array.size, name


@pytest.mark.parametrize("change", [lambda order: order + 1, lambda order: order * 0, lambda order: -order - 1])
def test_an_order_of_samples_that_are_not_there_is_refused(change, path):
    crash(make(MLPRegressor), path, 4, X, y)
    entries, file = read_entries(path), io.BytesIO()
    np.save(file, change(np.load(io.BytesIO(entries["fit.progress.order.npy"]))))
    write_entries(path, entries | {"fit.progress.order.npy": file.getvalue()})
    with pytest.raises(ValueError, match="the index of each sample once"):
        load_checkpoint(path)


@pytest.mark.parametrize(("name", "value"), [("pos", 625), ("pos", -1), ("pos", 2**31), ("pos", 1.5)])
def test_a_position_beyond_the_random_stream_is_refused(name, value, path):
    crash(make(MLPRegressor), path, 4, X, y)
    entries = read_entries(path)
    at = ("content", "fit", "random_state", "$random_state", name)
    write_entries(path, entries | {"content.json": replaced(entries["content.json"], at, value)})
    with pytest.raises(ValueError, match="the position of a RandomState"):
        load_checkpoint(path)
