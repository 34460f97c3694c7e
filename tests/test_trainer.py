import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam import trainer
from fastadam.interrupts import OutOfTimeError
from fastadam.trainer import Outcome, Plan, Progress, train

NAN = math.nan


class FakeModel:
    """Has the given losses and scores, epoch by epoch, and notes what it is asked to do."""

    def __init__(self, losses=None, scores=None, validation_losses=()):
        self._validation_losses = iter(validation_losses)
        self._losses = iter(losses or [])
        self._scores = iter(scores or [])
        self.orders, self.epochs, self.best_epochs, self.calls = [], 0, [], []

    def prepare(self):
        self.calls.append("prepare")

    def end_at(self, end):
        self.end = end

    def run_epoch(self, order):
        self.epochs += 1
        self.calls.append("epoch")
        self.orders.append(order.copy())
        loss = next(self._losses, 1.0)
        if isinstance(loss, type):
            raise loss
        return loss

    def validation_loss(self):
        return next(self._validation_losses, None)

    def validation_score(self):
        self.calls.append("score")
        return next(self._scores)

    def snapshot(self):
        self.best_epochs.append(self.epochs)
        return self.epochs


def run(
    model, progress=None, *, n=5, seed=0, begin=lambda: None, report=lambda: None, end=lambda: False,
    stalled=lambda: True, **plan
):  # fmt: skip
    """Train the fake; returns the outcome and the progress."""
    progress = Progress() if progress is None else progress
    progress.order = np.arange(n) if progress.order is None else progress.order
    plan = Plan(**({"max_iter": 100, "shuffle": False, "tol": 0.1, "n_iter_no_change": 2} | plan))
    random_state = np.random.RandomState(seed) if isinstance(seed, int) else seed
    return train(model, progress, plan, random_state, begin, report, stalled, end), progress


def expected_epochs(values, tol, patience, higher_is_better):
    """scikit-learn's rule, written once more: the epoch after which training stops, or None."""
    best, count = -math.inf, 0
    for epoch, value in enumerate(values, start=1):
        value = value if higher_is_better else -value
        count = count + 1 if value < best + tol else 0
        best = value if value > best else best
        if count > patience:
            return epoch
    return None


def test_the_loss_must_fall_by_tol():
    model = FakeModel([1.0, 0.95, 0.85, 0.85, 0.86, 0.87, 0.5])
    outcome, progress = run(model)
    # 0.95 is no improvement on 1.0, 0.85 is one tol below 0.95 and so an improvement
    assert (outcome, model.epochs) == (Outcome.CONVERGED, 6)
    assert progress.epochs_without_improvement == 3
    assert progress.best_loss == 0.85
    assert progress.losses == [1.0, 0.95, 0.85, 0.85, 0.86, 0.87]
    assert progress.samples_seen == 30


@pytest.mark.parametrize("patience", [1, 2, 10])
def test_training_stops_when_the_count_is_greater_than_n_iter_no_change(patience):
    model = FakeModel()
    outcome, _ = run(model, n_iter_no_change=patience)
    assert (outcome, model.epochs) == (Outcome.CONVERGED, 1 + patience + 1)


def test_n_iter_no_change_inf_never_stops():
    model = FakeModel()
    outcome, progress = run(model, n_iter_no_change=math.inf, tol=1e9, max_iter=500)
    assert (outcome, model.epochs) == (Outcome.MAX_ITER, 500)
    assert progress.epochs_without_improvement == 499


def test_tol_zero_counts_an_equal_loss_as_an_improvement():
    model = FakeModel([1.0] * 50)
    assert run(model, tol=0.0, max_iter=50)[0] is Outcome.MAX_ITER


def test_the_last_epoch_may_be_the_one_that_converges():
    assert run(FakeModel(), n_iter_no_change=2, max_iter=4)[0] is Outcome.CONVERGED
    assert run(FakeModel(), n_iter_no_change=2, max_iter=3)[0] is Outcome.MAX_ITER


def test_nan_losses_never_count_as_no_improvement():
    """Nothing is greater than NaN, nor NaN than anything: so it is in scikit-learn, where only max_iter ends it."""
    outcome, progress = run(FakeModel([NAN] * 20), max_iter=20)
    assert outcome is Outcome.MAX_ITER
    assert progress.epochs_without_improvement == 0
    assert progress.best_loss == math.inf
    outcome, progress = run(FakeModel([1.0, NAN, 2.0, NAN, 3.0, 4.0, 5.0]), max_iter=20)
    assert outcome is Outcome.CONVERGED
    assert (len(progress.losses), progress.best_loss) == (7, 1.0)


def test_infinite_losses():
    outcome, progress = run(FakeModel([math.inf] * 5 + [1.0] * 20), max_iter=30)
    assert outcome is Outcome.CONVERGED
    assert progress.best_loss == 1.0


def test_scores_are_watched_where_there_are_any_and_the_best_is_kept():
    model = FakeModel([9.0] * 20, [0.1, 0.15, 0.4, 0.45, 0.3, 0.48, 0.6])
    outcome, progress = run(model, Progress(scores=[]))
    assert (outcome, model.epochs) == (Outcome.CONVERGED, 6)
    assert progress.scores == [0.1, 0.15, 0.4, 0.45, 0.3, 0.48]
    assert progress.best_score == 0.48
    assert model.best_epochs == [1, 2, 3, 4, 6]  # also where the gain is less than tol
    assert model.calls == ["epoch", "score"] * 6
    assert progress.best_loss == math.inf


def test_nan_scores_are_never_the_best():
    model = FakeModel(scores=[NAN, NAN, 0.5, NAN, 0.2] + [NAN] * 15)
    outcome, progress = run(model, Progress(scores=[]), max_iter=20)
    assert outcome is Outcome.MAX_ITER
    assert model.best_epochs == [3]
    assert progress.best_score == 0.5


def test_who_is_asked_whether_training_has_stalled_may_go_on():
    answers, asked = iter([False, False, True]), []

    def stalled():
        asked.append(model.epochs)
        return next(answers)

    model = FakeModel()
    outcome, progress = run(model, stalled=stalled, n_iter_no_change=2)
    assert (outcome, asked) == (Outcome.CONVERGED, [4, 7, 10])
    assert progress.epochs_without_improvement == 3


def test_when_the_time_is_up_no_epoch_begins():
    outcome, progress = run(FakeModel(), max_time=0.0)
    assert (outcome, len(progress.losses)) == (Outcome.MAX_TIME, 1)
    assert run(FakeModel(), max_time=0.0, max_iter=1)[0] is Outcome.MAX_ITER
    assert run(FakeModel(), max_time=1e6)[0] is Outcome.CONVERGED


def test_losses_on_validation_data_are_kept():
    progress = run(FakeModel(validation_losses=[3.0, 2.0, 2.5]), max_iter=3)[1]
    assert progress.validation_losses == [3.0, 2.0, 2.5]
    assert progress.copy().validation_losses is not progress.validation_losses
    assert run(FakeModel(), max_iter=3)[1].validation_losses == []


numbers = st.one_of(st.floats(-10, 10), st.sampled_from([NAN, math.inf, -math.inf]), st.integers(-2, 2).map(float))


@given(
    values=st.lists(numbers, min_size=1, max_size=40),
    tol=st.sampled_from([0.0, 1e-4, 0.5, 3.0]),
    patience=st.sampled_from([1, 2, 5, math.inf]),
    watch_scores=st.booleans(),
)
def test_stopping_is_scikit_learns_for_any_curve(values, tol, patience, watch_scores):
    model = FakeModel(None if watch_scores else values, values)
    progress = Progress(scores=[] if watch_scores else None)
    outcome, progress = run(model, progress, tol=tol, n_iter_no_change=patience, max_iter=len(values))
    stop = expected_epochs(values, tol, patience, watch_scores)
    assert model.epochs == (stop or len(values))
    assert outcome is (Outcome.CONVERGED if stop else Outcome.MAX_ITER)
    curve = progress.scores if watch_scores else progress.losses
    np.testing.assert_array_equal(curve, values[: model.epochs])


def test_each_epoch_shuffles_the_order_of_the_one_before():
    model = FakeModel()
    _, progress = run(model, n=50, shuffle=True, seed=3, max_iter=3)
    random_state, order = np.random.RandomState(3), np.arange(50)
    for trained_on in model.orders:
        order = order[random_state.permutation(50)]
        np.testing.assert_array_equal(trained_on, order)
    np.testing.assert_array_equal(progress.order, order)


def test_the_order_goes_on_from_call_to_call():
    once, twice = FakeModel(), FakeModel()
    run(once, n=20, shuffle=True, max_iter=4, n_iter_no_change=math.inf)
    random_state, progress = np.random.RandomState(0), Progress()
    for _ in range(2):
        run(twice, progress, n=20, shuffle=True, seed=random_state, max_iter=2, n_iter_no_change=math.inf)
    np.testing.assert_array_equal(once.orders, twice.orders)
    assert progress.losses == [1.0] * 4
    assert progress.samples_seen == 80


def test_the_count_of_epochs_without_improvement_goes_on_from_call_to_call():
    progress = Progress()
    assert run(FakeModel(), progress, max_iter=3)[0] is Outcome.MAX_ITER
    model = FakeModel()
    assert run(model, progress, max_iter=3)[0] is Outcome.CONVERGED
    assert model.epochs == 1


def test_without_shuffling_the_order_is_kept_and_nothing_is_drawn():
    model = FakeModel()
    random_state = np.random.RandomState(0)
    given_order = np.array([3, 1, 2, 0])
    run(model, Progress(order=given_order), seed=random_state, max_iter=3)
    for order in model.orders:
        np.testing.assert_array_equal(order, [3, 1, 2, 0])
    assert random_state.get_state()[2] == np.random.RandomState(0).get_state()[2]


def test_shuffling_does_not_write_to_the_order_it_was_given():
    given_order = np.arange(30)
    run(FakeModel(), Progress(order=given_order), shuffle=True)
    np.testing.assert_array_equal(given_order, np.arange(30))


def test_a_callback_stops_training_after_its_epoch():
    model = FakeModel()
    outcome, progress = run(model, end=lambda: model.epochs == 2, n_iter_no_change=math.inf)
    assert (outcome, model.epochs, len(progress.losses)) == (Outcome.STOPPED, 2, 2)


def test_an_epoch_that_converges_and_is_stopped_counts_as_converged():
    assert run(FakeModel(), n_iter_no_change=1, end=lambda: True)[0] is Outcome.STOPPED
    model = FakeModel()
    assert run(model, n_iter_no_change=1, end=lambda: model.epochs == 3)[0] is Outcome.CONVERGED


def test_callbacks_are_called_around_each_epoch():
    model = FakeModel(scores=[1.0] * 9)
    begin, end = (lambda: model.calls.append("begin")), (lambda: model.calls.append("end"))
    run(model, Progress(scores=[]), begin=begin, end=end, max_iter=2)
    assert model.calls == ["begin", "epoch", "score", "end"] * 2


@pytest.mark.parametrize("where", ["begin", "epoch", "end"])
def test_ctrl_c_ends_training_and_keeps_what_was_reached(where):
    def interrupt():
        if model.epochs == 3:
            raise KeyboardInterrupt

    model = FakeModel([5.0, 4.0, 3.0, KeyboardInterrupt] if where == "epoch" else [5.0, 4.0, 3.0, 2.0])
    outcome, progress = run(model, **({where: interrupt} if where != "epoch" else {}))
    assert outcome is Outcome.INTERRUPTED
    assert progress.losses == [5.0, 4.0, 3.0]
    assert (progress.best_loss, progress.samples_seen) == (3.0, 15)


def test_other_errors_are_passed_on():
    with pytest.raises(ZeroDivisionError):
        run(FakeModel([1.0, ZeroDivisionError]))


@pytest.mark.parametrize("scores", [None, [0.5]])
def test_a_copy_of_progress_is_independent(scores):
    progress = Progress(scores=scores, losses=[2.0], best_loss=2.0, samples_seen=4, order=np.arange(4))
    copied = progress.copy()
    assert copied == Progress(scores, [2.0], 2.0, -math.inf, 0, 4, progress.order)
    run(FakeModel(scores=[0.7] * 99), copied, shuffle=True, max_iter=3)
    assert progress.losses == [2.0]
    assert progress.scores == scores == (None if scores is None else [0.5])
    assert (progress.best_loss, progress.samples_seen) == (2.0, 4)
    np.testing.assert_array_equal(progress.order, np.arange(4))


@pytest.mark.parametrize("where", ["epoch", "validation"])
@pytest.mark.parametrize(("error", "expected"), [(KeyboardInterrupt, "INTERRUPTED"), (OutOfTimeError, "MAX_TIME")])
def test_an_epoch_that_is_given_up_is_none(where, error, expected):
    class GivenUp(FakeModel):
        def validation_loss(self):
            if where == "validation" and self.epochs == 3:
                raise error
            return super().validation_loss()

    model = GivenUp([5.0, 4.0, error if where == "epoch" else 3.0], [0.1, 0.2, 0.3], [2.0, 1.0, 0.5])
    outcome, progress = run(model, Progress(scores=[]))
    assert outcome is Outcome[expected]
    assert (progress.losses, progress.validation_losses, progress.scores) == ([5.0, 4.0], [2.0, 1.0], [0.1, 0.2])
    assert (progress.samples_seen, progress.best_loss, progress.best_score) == (10, math.inf, 0.2)


def test_the_clock_starts_when_all_is_compiled(monkeypatch):
    """In `prepare` an hour goes by, and that many seconds were given."""
    now = [0.0]

    class Compiles(FakeModel):
        def prepare(self):
            super().prepare()
            now[0] += 3600.0

    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    model = Compiles()
    assert run(model, max_time=3600.0, max_iter=5, n_iter_no_change=math.inf)[0] is Outcome.MAX_ITER
    assert model.calls[:2] == ["prepare", "epoch"]
    assert model.end == 7200.0


def test_without_max_time_nothing_is_prepared():
    """A fit that is small waits for nothing that it may not need."""
    model = FakeModel()
    run(model, max_iter=1)
    assert model.calls == ["epoch"]
    assert model.end == math.inf
