"""Signals, Ctrl-C and `max_time` in the middle of what is compiled: in an epoch, a prediction, a score, L-BFGS.

Nothing is timed: handlers count, and whatever was given up is made once more up to the same step.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam import Checkpoint, MLPClassifier, MLPRegressor, load_checkpoint
from fastadam._watch import LOOKS, Watch
from fastadam.cpu.jit import JIT_DISABLED
from tests.helpers.naive import assert_same_bits

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="interpreted code answers signals by itself"),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals"),
]

rng = np.random.default_rng(0)
n = 40_000
X, y = rng.standard_normal((n, 60)), rng.standard_normal(n)
HIDDEN = (256, 256)
BATCH = 1000


class Alarm:
    """Counts signals, which come every twentieth of a second, and raises `error` at the first one that `is_due`."""

    def __init__(self, error=None, is_due=lambda: True):
        self.error, self.is_due, self.count = error, is_due, 0

    def __call__(self, number, frame):
        self.count += 1
        if self.error is not None and self.is_due():
            error, self.error = self.error, None
            raise error

    def __enter__(self):
        self._before = signal.signal(signal.SIGALRM, self)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        return self

    def __exit__(self, *error):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


def make(estimator=MLPRegressor, **parameters):
    settings = {"hidden_layer_sizes": HIDDEN, "random_state": 0, "tol": 0.0, "n_iter_no_change": np.inf}
    settings |= {"batch_size": BATCH, "max_iter": 1000} | parameters
    return estimator(**settings)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Everything, so that signals do not arrive while it is compiled."""
    small = {"max_iter": 1, "batch_size": 20, "hidden_layer_sizes": (3,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for parameters in ({}, {"early_stopping": True}, {"solver": "lbfgs"}, {"dropout": 0.5, "clip_norm": 1.0}):
            make(**(small | parameters)).fit(X[:100], y[:100]).predict(X[:100])
        make(**small).fit(X[:100], y[:100], X_val=X[:100], y_val=y[:100])
        make(solver="nadam", **small).fit(X[:100], y[:100])


def steps_of(model):
    return model._optimizer.t


def after_steps(steps, **parameters):
    """The model after so many steps from the beginning, in epochs that end there."""
    epochs = -(-steps // (n // BATCH))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastadam.cpu.engine.Engine.epoch", stopped_at(steps))
        return make(**parameters | {"max_iter": epochs}).fit(X, y)


def interrupted(model, is_due, *data, **validation):
    """Fit the model until Ctrl-C, which comes when `is_due`."""
    alarm = Alarm(KeyboardInterrupt, lambda: is_due(model, alarm))
    with alarm, pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        return model.fit(*(data or (X, y)), **validation)


def stopped_at(steps):
    """An epoch that trains on only as many samples as are left of so many steps."""
    from fastadam.cpu.engine import Engine

    original = Engine.epoch

    def epoch(self, order, t, group):
        left = (steps - t) * BATCH
        if left < order.size:
            self._job = self._job._replace(order=self._order[:left])
        return original(self, order, t, group)

    return epoch


@pytest.mark.thin(2)
@pytest.mark.thin(2)
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    "parameters", [{}, {"solver": "nadam"}, {"dropout": 0.3, "clip_norm": 0.1}], ids=["adam", "carry", "dropout"]
)
def test_ctrl_c_in_the_middle_of_an_epoch_keeps_the_model_of_the_last_whole_step(parameters, n_threads):
    model = interrupted(make(n_threads=n_threads, **parameters), lambda model, alarm: alarm.count > 10)
    steps = steps_of(model)
    assert steps > 0
    assert model.n_iter_ == len(model.loss_curve_) == model.t_ // n
    assert model.n_iter_ * n <= steps * BATCH <= (model.n_iter_ + 1) * n
    expected = after_steps(steps, n_threads=n_threads, **parameters)
    assert steps_of(expected) == steps
    assert_same_bits(model._params.flat, expected._params.flat)
    for name, state in model._optimizer.state.items():
        assert_same_bits(state, expected._optimizer.state[name])
    assert model.loss_curve_ == expected.loss_curve_[: model.n_iter_]


def test_a_warm_start_goes_on_from_the_last_whole_step():
    model = interrupted(make(warm_start=True), lambda model, alarm: alarm.count > 10)
    expected = after_steps(steps_of(model), warm_start=True)
    for one in (model, expected):
        one.set_params(max_iter=1).fit(X, y)
    assert steps_of(model) == steps_of(expected)
    assert_same_bits(model._params.flat, expected._params.flat)
    assert model.n_iter_ == 1
    assert model.loss_ == expected.loss_


def test_handlers_that_return_run_in_the_middle_of_an_epoch_and_change_no_bit(monkeypatch):
    from fastadam.cpu.engine import Engine

    large = {"hidden_layer_sizes": (500, 500), "max_iter": 1, "n_threads": 1}
    expected, counts, original = make(**large).fit(X, y), [], Engine.epoch

    def epoch(self, *arguments):
        counts.append(alarm.count)
        result = original(self, *arguments)
        counts.append(alarm.count)
        return result

    monkeypatch.setattr(Engine, "epoch", epoch)
    with Alarm() as alarm:
        model = make(**large).fit(X, y)
    before, after = counts
    assert after - before > 2
    assert_same_bits(model._params.flat, expected._params.flat)
    assert model.loss_curve_ == expected.loss_curve_


def test_what_another_handler_raises_is_an_error_of_the_fit_which_changes_nothing():
    model = make(max_iter=1).fit(X[:2000], y[:2000])
    before, weights = model.__dict__.copy(), model._params.flat.copy()
    with Alarm(TimeoutError("too long")) as alarm, pytest.raises(TimeoutError, match="too long") as caught:
        model.set_params(warm_start=True, max_iter=1000).fit(X, y)
    assert alarm.error is None
    assert caught.traceback[-1].name == "__call__"  # that of the handler
    assert model.n_iter_ == before["n_iter_"]
    assert_same_bits(model._params.flat, weights)
    assert model.loss_curve_ == before["loss_curve_"]


@pytest.mark.slow
def test_a_checkpoint_before_the_interruption_is_finished_with_the_same_bits(tmp_path):
    path = tmp_path / "fit.ckpt"
    seen = []

    def is_due(model, alarm):
        seen.append(path.exists())
        return sum(seen) > 2

    model = interrupted(make().set_callbacks(Checkpoint(path)), is_due)
    resumed = load_checkpoint(path)
    assert resumed.n_iter_ == model.n_iter_ > 0
    epochs = model.n_iter_ + 1
    expected = make(max_iter=epochs).fit(X, y)
    resumed.set_params(max_iter=epochs).fit(X, y)
    assert_same_bits(resumed._params.flat, expected._params.flat)
    assert resumed.loss_curve_ == expected.loss_curve_
    assert model.loss_curve_ == expected.loss_curve_[: model.n_iter_]


@pytest.mark.slow
def test_what_an_epoch_has_is_whole_where_its_validation_is_interrupted():
    many = np.tile(X, (2, 1))
    model = make(hidden_layer_sizes=(500, 500), batch_size=500, early_stopping=True)

    def is_due(model, alarm):
        return getattr(model, "n_iter_", 0) >= 1

    interrupted(model, is_due, X[:500], y[:500], X_val=many, y_val=np.tile(y, 2))
    assert model.n_iter_ >= 1
    epochs = {len(model.loss_curve_), len(model.validation_loss_curve_), len(model.validation_scores_), model.t_ // 500}
    assert epochs == {model.n_iter_}


# --- predictions, scores, L-BFGS --------------------------------------------------------------------------------------


@pytest.fixture
def watches(monkeypatch):
    """All watches of predictions that are made."""
    made = []

    class Noted(Watch):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr("fastadam.cpu.network.Watch", Noted)
    return made


@pytest.fixture(scope="module")
def fitted():
    labels = (y > 0).astype(int)
    small = {"hidden_layer_sizes": (800, 800), "max_iter": 1}
    return {
        "regressor": make(**small).fit(X[:BATCH], y[:BATCH]),
        "classifier": make(MLPClassifier, **small).fit(X[:BATCH], labels[:BATCH]),
    }


@pytest.mark.thin(2)
@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("kind", "name"),
    [("regressor", "predict"), ("regressor", "score"), ("classifier", "predict_proba"), ("classifier", "score")],
)
def test_a_prediction_runs_handlers_and_ends_where_one_raises(kind, name, fitted, watches):
    model, targets = fitted[kind], (y > 0).astype(int) if kind == "classifier" else y
    call = getattr(model, name)
    arguments = (X, targets) if name == "score" else (X,)
    expected = call(*arguments)
    with Alarm() as alarm:
        np.testing.assert_array_equal(call(*arguments), expected)
    assert alarm.count > 2
    assert watches[-1].words[LOOKS] > 0
    watches[:] = [Watch()]
    with Alarm(KeyboardInterrupt, lambda: watches[-1].words[LOOKS] > 0), pytest.raises(KeyboardInterrupt):
        call(*arguments)
    assert [watch.halted for watch in watches] == [False, True]


def test_a_small_prediction_is_not_watched(fitted, watches):
    fitted["regressor"].predict(X[:1])
    assert not watches


def test_ctrl_c_in_the_middle_of_an_iteration_of_lbfgs_keeps_the_last_one():
    def is_due(model, alarm):
        return model.__dict__.get("n_iter_", 0) >= 2

    model = interrupted(make(solver="lbfgs"), is_due)
    assert model.n_iter_ >= 2
    expected = make(solver="lbfgs", max_iter=model.n_iter_).fit(X, y)
    assert_same_bits(model._params.flat, expected._params.flat)
    assert model.loss_ == expected.loss_


def test_lbfgs_that_is_interrupted_before_its_first_iteration_keeps_the_initial_weights():
    model = interrupted(make(solver="lbfgs"), lambda model, alarm: "n_iter_" in model.__dict__)
    assert (model.n_iter_, np.isnan(model.loss_)) == (0, True)
    assert np.isfinite(model.predict(X[:10])).all()


# --- max_time ---------------------------------------------------------------------------------------------------------

LONG = {"hidden_layer_sizes": (800, 800), "n_threads": 1}
"""An epoch takes longer than a second, on whatever machine."""


def test_max_time_ends_training_in_the_middle_of_an_epoch():
    with pytest.warns(ConvergenceWarning, match=r"Maximum time \(0.25 s\) reached"):
        model = make(max_time=0.25, **LONG).fit(X, y)
    steps = steps_of(model)
    assert 0 < steps < n // BATCH
    assert (model.n_iter_, model.t_, model.loss_curve_) == (0, 0, [])
    expected = after_steps(steps, **LONG)
    assert model.loss_ == expected.loss_
    assert_same_bits(model._params.flat, expected._params.flat)


def test_an_epoch_that_takes_a_moment_is_whole_whatever_max_time_is():
    model = make(max_time=1e-9, hidden_layer_sizes=(3,)).fit(X[:BATCH], y[:BATCH])
    assert (model.n_iter_, model.t_, len(model.loss_curve_)) == (1, BATCH, 1)


def test_max_time_ends_the_first_part_of_a_fit_too():
    with pytest.warns(ConvergenceWarning, match="Maximum time"):
        model = make(max_time=0.25, **LONG).partial_fit(X, y)
    assert (model.n_iter_, model.t_) == (0, 0)
    assert np.isfinite(model.loss_)


# --- other threads ----------------------------------------------------------------------------------------------------


def test_signals_are_for_the_main_thread():
    """A fit in another thread goes on to its end."""
    models = []
    thread = threading.Thread(target=lambda: models.append(make(max_iter=1, **LONG).fit(X[:4000], y[:4000])))
    with Alarm() as alarm:
        thread.start()
        thread.join()
    assert alarm.count > 0
    expected = make(max_iter=1, **LONG).fit(X[:4000], y[:4000])
    assert_same_bits(models[0]._params.flat, expected._params.flat)


# --- compiling --------------------------------------------------------------------------------------------------------

COMPILES = """
    import logging, sys, time, warnings
    import numpy as np
    from fastadam import MLPRegressor
    from fastadam.estimators import training
    from fastadam.cpu.cache import KernelCache

    warnings.simplefilter("ignore")
    events = []

    class Clock:
        def monotonic():
            events.append("clock")
            return time.monotonic()

    class Note(logging.Handler):
        def emit(self, record):
            print("logged:", record.getMessage(), file=sys.stderr)

    logging.getLogger("fastadam").setLevel(logging.INFO)
    logging.getLogger("fastadam").addHandler(Note())
    training.time = Clock
    save = KernelCache.save_overload
    KernelCache.save_overload = lambda self, *given: (events.append(self._name), save(self, *given))
    X, y = np.ones((60, 3), np.float32), np.ones(60, np.float32)
    for fit in range(2):
        model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=1, max_time=1e6, early_stopping=True, verbose=True)
        model.fit(X, y, X_val=X, y_val=y)
        first = events.index("clock")
        print(len(events[:first]) > 0, [event for event in events[first:] if event != "clock"])
        events.clear()
"""


@pytest.mark.slow
def test_the_clock_of_max_time_starts_when_all_is_compiled_and_who_waits_is_told(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NUMBA_CACHE_DIR": str(tmp_path)}

    def lines():
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(COMPILES)], env=environment, capture_output=True, text=True,
            timeout=280, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        printed = result.stdout.splitlines()
        return result.stderr.splitlines(), [
            line for line in printed if not line.startswith(("Iteration", "Validation"))
        ]

    said = "Compiling kernels, which the first fit of a kind waits for."
    told, compiled = lines()
    assert sorted(told) == sorted([said, "logged: Compiling kernels."])
    assert compiled == ["True []", "False []"]
    assert lines() == ([], ["False []"] * 2)  # all was in the cache
