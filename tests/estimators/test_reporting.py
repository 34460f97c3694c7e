"""Messages and warnings of a fit."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPRegressor
from fastadam.cpu import cache

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 3))
y = X[:, 0] ** 2
SMALL = {"hidden_layer_sizes": 4, "random_state": 0, "max_iter": 5}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_each_epoch_is_printed_with_its_loss_and_its_score(capsys):
    model = MLPRegressor(verbose=True, early_stopping=True, **SMALL).fit(X, y)
    printed = capsys.readouterr().out.splitlines()
    lines = []
    for epoch, (loss, score) in enumerate(zip(model.loss_curve_, model.validation_scores_, strict=True), start=1):
        lines += [f"Iteration {epoch}, loss = {loss:.8f}", f"Validation score: {score:f}"]
    assert printed == lines


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_is_not_verbose_prints_nothing(capsys):
    MLPRegressor(**SMALL).fit(X, y)
    assert capsys.readouterr() == ("", "")


def test_the_end_of_improvement_is_printed_with_what_follows(capsys):
    MLPRegressor(verbose=True, tol=1e9, n_iter_no_change=2, **(SMALL | {"max_iter": 9})).fit(X, y)
    last = capsys.readouterr().out.splitlines()[-1]
    expected = "Training loss did not improve more than tol=1000000000.000000 for 2 consecutive epochs. Stopping."
    assert last == expected


@pytest.mark.parametrize(
    ("limit", "text"), [({}, r"Maximum iterations \(5\)"), ({"max_time": 1e-9, "max_iter": 10**6}, r"Maximum time")]
)
def test_a_limit_that_ended_training_is_warned_of(limit, text):
    with pytest.warns(ConvergenceWarning, match=f"{text}.*reached and the optimization hasn't converged yet"):
        MLPRegressor(**(SMALL | limit)).fit(X, y)


def test_a_schedule_over_all_epochs_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPRegressor(learning_rate="cosine", **SMALL).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("verbose", [False, True])
def test_waiting_for_kernels_is_told_on_the_other_stream_to_who_asked(verbose, capsys, monkeypatch):
    monkeypatch.setattr(cache, "on_compiling", hooks := [])
    monkeypatch.setattr("fastadam.estimators.reporting.on_compiling", hooks)
    seen = []

    class Compiling:
        """A callback that finds what is to be called when something is compiled."""

        def setup(self, estimator, context):
            seen.extend(hooks)

        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context): ...

    MLPRegressor(verbose=verbose, **SMALL).set_callbacks(Compiling()).fit(X, y)
    assert len(seen) == verbose
    assert hooks == []
    for tell in seen:
        tell()
    assert capsys.readouterr().err == "Compiling kernels, which the first fit of a kind waits for.\n" * verbose
