"""scikit-learn's callbacks around a fit: its own two, and some that ask for trouble."""

import copy
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.callback import FitCallback, ProgressBar, ScoringMonitor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastadam import MLPRegressor
from tests.helpers import naive_mlp
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
n = 60
X = rng.standard_normal((n, 4))
Y = np.column_stack([X[:, 0] ** 2, X[:, 1]])
y = Y[:, 0]
weights = rng.uniform(0.1, 2, n)


def make(*callbacks, **parameters):
    defaults = {"hidden_layer_sizes": (5, 4), "batch_size": 16, "max_iter": 6, "random_state": 1}
    return MLPRegressor(**(defaults | parameters)).set_callbacks(*callbacks)


def with_names(X):
    return pd.DataFrame(X, columns=list("abcd"))


def arrays(model):
    return [*model.coefs_, *model.intercepts_]


def assert_same_weights(a, b):
    for p, q in zip(arrays(a), arrays(b), strict=True):
        assert_same_bits(p, q)


class Recorder:
    """Notes each call, and does in the epochs what it is given to do."""

    def __init__(self, **in_epoch):
        self.calls, self.in_epoch, self.epochs = [], in_epoch, 0

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.calls.append(f"begin {context.task_name}")
        self.given = X, y, metadata

    def on_fit_task_end(self, estimator, context):
        self.calls.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.epochs += 1
            return self.in_epoch.get(f"epoch_{self.epochs}", lambda _: None)(estimator)
        return None


class Keeper(Recorder):
    """Keeps the fitted estimator of each epoch, and what it and the estimator itself were then."""

    def __init__(self):
        super().__init__()
        self.fitted, self.copies, self.at_the_end = [], [], None

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            self.fitted.append(fitted_estimator)
            self.copies.append((copy.deepcopy(arrays(estimator)), estimator.loss_curve_[:], estimator.t_))
        else:
            self.at_the_end = fitted_estimator


def test_hooks_are_called_around_the_fit_and_each_epoch():
    recorder = Recorder()
    make(recorder, max_iter=3).fit(X, y)
    epoch = ["begin epoch", "end epoch"]
    assert recorder.calls == ["setup", "begin fit", *epoch * 3, "end fit", "teardown"]


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_callbacks_do_not_change_what_is_trained(method, early_stopping):
    if method == "partial_fit" and early_stopping:
        pytest.skip("partial_fit has no early stopping")
    watched = make(Recorder(), Keeper(), ScoringMonitor(scoring="r2"), early_stopping=early_stopping)
    alone = make(early_stopping=early_stopping)
    for model in (watched, alone):
        getattr(model, method)(X, y)
    assert_same_weights(watched, alone)
    assert watched.loss_curve_ == alone.loss_curve_
    attributes = vars(watched).keys()
    assert attributes - {"_skl_callbacks"} == vars(alone).keys()


def test_partial_fit_is_a_task_of_one_epoch():
    recorder = Recorder()
    make(recorder).partial_fit(X, y)
    assert recorder.calls == ["setup", "begin fit", "begin epoch", "end epoch", "end fit", "teardown"]


@pytest.mark.parametrize("sample_weight", [None, weights, 2.0], ids=["none", "array", "scalar"])
def test_hooks_are_given_the_data_as_it_was_passed(sample_weight):
    recorder = Recorder()
    frame, targets = with_names(X), y.tolist()
    make(recorder).fit(frame, targets, sample_weight)
    assert recorder.given[0] is frame
    assert recorder.given[1] is targets
    if sample_weight is None:
        assert recorder.given[2] is None
    else:
        np.testing.assert_array_equal(recorder.given[2]["sample_weight"], np.broadcast_to(sample_weight, n))


# --- stopping, errors, interrupts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_callback_that_returns_true_stops_training(early_stopping):
    recorder = Recorder(epoch_3=lambda _: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # it was stopped: no reason to complain
        model = make(recorder, max_iter=50, early_stopping=early_stopping).fit(X, y)
    assert (model.n_iter_, len(model.loss_curve_)) == (3, 3)
    assert recorder.calls[-3:] == ["end epoch", "end fit", "teardown"]
    assert_same_weights(model, make(max_iter=3, early_stopping=early_stopping).fit(X, y))


def test_a_fit_that_was_stopped_can_be_gone_on_with():
    model = make(Recorder(epoch_2=lambda _: True), warm_start=True, max_iter=6, n_iter_no_change=np.inf).fit(X, y)
    model.set_params(max_iter=4).fit(X, y)
    assert_same_weights(model, make(max_iter=6, n_iter_no_change=np.inf).fit(X, y))


def test_one_of_several_callbacks_is_enough_to_stop():
    model = make(Recorder(), Recorder(epoch_2=lambda _: True), Recorder()).fit(X, y)
    assert model.n_iter_ == 2


def fail(_):
    raise LookupError("enough")


def interrupt(_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_error_in_a_callback_leaves_the_model_as_it_was(warm, early_stopping):
    recorder, other = Recorder(epoch_3=fail), Recorder()
    model = make(warm_start=warm, early_stopping=early_stopping).fit(X, y)
    before, pickled = dict(vars(model)), pickle.dumps(model)
    with pytest.raises(LookupError, match="enough"):
        model.set_callbacks(recorder, other).fit(X, y)
    assert recorder.calls[-1] == other.calls[-1] == "teardown"
    model.set_callbacks()
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    assert pickle.dumps(model) == pickled


@pytest.mark.parametrize("hook", ["setup", "on_fit_task_begin", "on_fit_task_end"])
def test_an_error_in_any_hook_of_a_first_fit_leaves_the_model_unfitted_and_tears_down(hook):
    recorder, other = Recorder(), Recorder()
    setattr(recorder, hook, lambda estimator, context: fail(None))
    model = make(other, recorder)
    before = dict(vars(model))
    with pytest.raises(LookupError, match="enough"):
        model.fit(X, y)
    assert vars(model) == before
    assert other.calls[-1] == recorder.calls[-1] == "teardown"
    setattr(recorder, hook, lambda estimator, context: None)
    assert_same_weights(model.fit(X, y), make().fit(X, y))


def test_an_error_in_teardown_is_raised():
    recorder = Recorder()
    recorder.teardown = lambda estimator, context: fail(None)
    with pytest.raises(LookupError, match="enough"):
        make(recorder).fit(X, y)


def test_callbacks_are_torn_down_when_training_fails():
    recorder = Recorder()
    with pytest.raises(ValueError, match="non-finite"):
        make(recorder).fit(np.abs(X) * 1e307, y)
    assert recorder.calls[-1] == "teardown"
    assert recorder.calls.count("end epoch") == 6


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_keeps_the_model_and_warns(method, early_stopping):
    if method == "partial_fit" and early_stopping:
        pytest.skip("partial_fit has no early stopping")
    epoch = 1 if method == "partial_fit" else 3
    recorder = Recorder(**{f"epoch_{epoch}": interrupt})
    model = make(recorder, early_stopping=early_stopping)
    with pytest.warns(UserWarning, match="^Training interrupted by user.$") as caught:
        getattr(model, method)(X, y)
    assert len(caught) == 1
    assert (model.n_iter_, len(model.loss_curve_)) == (epoch, epoch)
    assert recorder.calls[-2:] == ["end fit", "teardown"]
    assert_same_weights(model, make(max_iter=epoch, early_stopping=early_stopping).fit(X, y))


def test_ctrl_c_before_the_first_epoch():
    recorder = Recorder()
    recorder.on_fit_task_begin = lambda estimator, context: interrupt(None) if context.task_name == "epoch" else None
    with pytest.warns(UserWarning, match="interrupted"):
        model = make(recorder).fit(X, y)
    assert (model.n_iter_, model.loss_curve_, model.t_) == (0, [], 0)
    weights, biases = naive_mlp.glorot([4, 5, 4, 1], "relu", np.random.RandomState(1))
    np.testing.assert_array_equal(model.coefs_[1], weights[1])
    np.testing.assert_array_equal(model.intercepts_[1], biases[1])


# --- the fitted estimator that callbacks are given --------------------------------------------------------------------


def test_fitted_estimators_are_not_changed_by_later_epochs():
    keeper = Keeper()
    model = make(keeper).fit(X, y)
    for epoch, (fitted, (weights, losses, seen)) in enumerate(zip(keeper.fitted, keeper.copies, strict=True), start=1):
        for p, q in zip(arrays(fitted), weights, strict=True):
            assert_same_bits(p, q)
        assert fitted.loss_curve_ == losses == model.loss_curve_[:epoch]
        assert (fitted.n_iter_, fitted.t_, fitted.loss_) == (epoch, seen, losses[-1])
        np.testing.assert_array_equal(fitted.predict(X), make(max_iter=epoch).fit(X, y).predict(X))
    assert_same_weights(keeper.at_the_end, model)
    keeper.at_the_end.coefs_[0][:] = 0
    keeper.fitted[-1].coefs_[0][:] = 0
    assert model.coefs_[0].any()


def test_the_last_fitted_estimator_of_early_stopping_has_the_best_weights():
    keeper = Keeper()
    model = make(keeper, early_stopping=True, max_iter=40, learning_rate_init=0.1).fit(X, y)
    assert_same_weights(keeper.at_the_end, model)
    scores = [fitted.validation_scores_ for fitted in keeper.fitted]
    assert scores == [model.validation_scores_[: k + 1] for k in range(model.n_iter_)]


@pytest.mark.parametrize("seed", [1, np.random.RandomState(1)], ids=["int", "RandomState"])
@pytest.mark.parametrize("through_pickle", [False, True])
def test_training_goes_on_from_a_fitted_estimator(seed, through_pickle):
    """Kept by a callback, it is a checkpoint: from there on, training gives the bits of the fit that went on."""
    keeper = Keeper()
    parameters = {"warm_start": True, "n_iter_no_change": np.inf}
    model = make(keeper, random_state=copy.deepcopy(seed), **parameters).fit(X, y)
    checkpoint = keeper.fitted[1].set_callbacks()
    if through_pickle:
        checkpoint = pickle.loads(pickle.dumps(checkpoint))
    checkpoint.set_params(max_iter=4).fit(X, y)
    assert_same_weights(checkpoint, model)
    assert checkpoint.loss_curve_ == model.loss_curve_
    expected = make(random_state=copy.deepcopy(seed), **parameters).fit(X, y)
    assert_same_weights(model.set_callbacks().partial_fit(X, y), expected.partial_fit(X, y))


def test_training_a_fitted_estimator_does_not_disturb_the_fit():
    class Trainer(Keeper):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            fitted_estimator.set_callbacks().partial_fit(X, y)

    assert_same_weights(make(Trainer()).fit(X, y), make().fit(X, y))


def test_the_estimator_itself_can_be_used_in_the_middle_of_a_fit():
    scores = []

    class User(Recorder):
        def on_fit_task_end(self, estimator, context):
            scores.append(estimator.score(X, y))
            assert estimator.loss_ == estimator.loss_curve_[-1]
            clone(estimator)

    model = make(User()).fit(X, y)
    assert len(scores) == 7
    assert scores[-1] == model.score(X, y)


# --- scikit-learn's own callbacks -------------------------------------------------------------------------------------


def epoch_rows(monitor):
    return [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]


@pytest.mark.parametrize("form", [np.asarray, np.float32, sparse.csr_array, with_names])
@pytest.mark.parametrize("sample_weight", [None, weights], ids=["", "weighted"])
def test_a_scoring_monitor_has_the_score_of_each_epoch(form, sample_weight):
    monitor = ScoringMonitor(scoring="r2")
    data = form(X)
    make(monitor).fit(data, y, sample_weight)
    rows = epoch_rows(monitor)
    assert [row["task_id"] for row in rows] == list(range(6))
    for epochs, row in enumerate(rows, start=1):
        expected = make(max_iter=epochs).fit(data, y, sample_weight).predict(data)
        assert row["r2"] == pytest.approx(r2_score(y, expected, sample_weight=sample_weight), rel=1e-6)


def test_a_scoring_monitor_of_several_outputs_and_scores():
    monitor = ScoringMonitor(scoring=["r2", "neg_mean_squared_error"])
    model = make(monitor).fit(X, Y)
    rows = epoch_rows(monitor)
    assert len(rows) == 6
    assert rows[-1]["r2"] == model.score(X, Y)
    assert rows[-1]["neg_mean_squared_error"] == pytest.approx(-np.mean((model.predict(X) - Y) ** 2))
    assert len(monitor.get_logs().data_as_pandas) == 7  # and one for the fit


def test_a_scoring_monitor_logs_the_epochs_that_there_were():
    monitor = ScoringMonitor(scoring="r2")
    model = make(monitor, max_iter=300, tol=10, n_iter_no_change=3).fit(X, y)
    assert len(epoch_rows(monitor)) == model.n_iter_ == 5


def test_a_progress_bar_counts_the_epochs(capsys):
    make(ProgressBar(), max_iter=4).fit(X, y)
    printed = capsys.readouterr().out
    assert "MLPRegressor - fit" in printed
    assert "100%" in printed


def test_a_progress_bar_of_a_fit_that_fails(capsys):
    with pytest.raises(ValueError, match="non-finite"):
        make(ProgressBar()).fit(np.abs(X) * 1e307, y)
    assert "MLPRegressor - fit" in capsys.readouterr().out
    make(ProgressBar()).fit(X, y)


class Propagated(Recorder):
    """Handed down by a meta-estimator to the estimators in it."""

    max_propagation_depth = None

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.estimator_name} {context.task_name}")

    def on_fit_task_end(self, estimator, context):
        self.calls.append(f"end {context.estimator_name} {context.task_name}")


@pytest.mark.parametrize("depth", [0, 1, None])
def test_a_progress_bar_on_a_grid_search(depth, capsys):
    search = GridSearchCV(make(), {"alpha": [0.1, 1.0]}, cv=2)
    if not hasattr(search, "set_callbacks"):
        pytest.skip("this scikit-learn's grid search has no callbacks")
    search.set_callbacks(ProgressBar(max_propagation_depth=depth)).fit(X, y)
    printed = capsys.readouterr().out
    assert "GridSearchCV" in printed
    assert ("MLPRegressor - fit" in printed) == (depth != 0)


def test_callbacks_reach_the_regressor_in_a_meta_estimator():
    searches = {
        "pipeline": make_pipeline(StandardScaler(), make(max_iter=3)),
        "grid search": GridSearchCV(make(max_iter=3), {"alpha": [0.1, 1.0]}, cv=2),
    }
    fits = {"pipeline": 1, "grid search": 5}
    for name, search in searches.items():
        if not hasattr(search, "set_callbacks"):
            continue
        callback = Propagated()
        search.set_callbacks(callback).fit(X, y)
        assert callback.calls.count("end MLPRegressor epoch") == 3 * fits[name]
        assert callback.calls[0] == "setup"
        assert callback.calls[-1] == "teardown"
        assert callback.calls.count("teardown") == 1


def test_callbacks_of_the_regressor_itself_in_a_pipeline_with_names():
    monitor = ScoringMonitor(scoring="r2")
    frame = with_names(X)
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), make(monitor))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(frame, y)
    assert [row["r2"] for row in epoch_rows(monitor)][-1] == pipeline.score(frame, y)


def test_callbacks_survive_cloning_and_grid_searching_in_processes():
    monitor = ScoringMonitor(scoring="r2")
    GridSearchCV(make(monitor), {"alpha": [0.1, 1.0]}, cv=2, n_jobs=2).fit(X, y)
    rows = [row for log in monitor.get_logs(select="all") for row in log.data if row["task_name"] == "epoch"]
    assert len(rows) == 6 * 5


def test_only_instances_with_the_hooks_are_callbacks():
    assert isinstance(Recorder(), FitCallback)
    with pytest.raises(TypeError, match=re.escape("callbacks must be instances following the FitCallback protocol")):
        make(Recorder)
    with pytest.raises(TypeError, match="callbacks must be"):
        make(print)
