"""A fit that was killed is finished from its last checkpoint, in the bits of one that was not."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from naive import assert_same_bits
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor as TheirRegressor

from fastadam import Checkpoint, MLPClassifier, MLPRegressor, load_checkpoint
from fastadam._solvers import SOLVERS
from fastadam.jit import JIT_DISABLED

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
        ({"learning_rate": lambda epoch: 0.1}, "parameters that can be pickled, got learning_rate=<function"),
    ],
)
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
    for data in (b"", b"no pickle", pickle.dumps(3), pickle.dumps(LinearRegression()), pickle.dumps(MLPRegressor())):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"path must be a checkpoint, got .*model\.ckpt"):
            load_checkpoint(path)
