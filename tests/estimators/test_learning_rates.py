"""Learning rates of a fit, epoch by epoch."""

import copy
import math

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam.schedules import Exponential, Plateau
from tests.helpers.fits import X, arrays, regressor, y
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rates(model):
    """The rate of each epoch of a fit: it goes on epoch by epoch."""
    seen = []
    length = model.max_iter
    for _ in range(length):
        model.partial_fit(X, y)
        seen.append(model._optimizer.lr)  # that of the epoch to come
    return [model.learning_rate_init if model.warmup_epochs == 0 else None, *seen[:-1]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("schedule", ["cosine", "linear", "one_cycle"])
def test_a_schedule_that_has_run_its_course_is_no_failure_to_converge(schedule):
    assert regressor(learning_rate=schedule, max_iter=3).fit(X, y).n_iter_ == 3
    for other in ("constant", "plateau"):
        with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
            regressor(learning_rate=other, max_iter=3).fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lion"])
def test_schedules(solver):
    lr = 0.01
    parameters = {"solver": solver, "learning_rate_init": lr, "max_iter": 10}
    cosine = [lr * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    np.testing.assert_allclose(rates(regressor(learning_rate="cosine", **parameters)), cosine)
    linear = [lr * (1 - t / 10) for t in range(10)]
    np.testing.assert_allclose(rates(regressor(learning_rate="linear", **parameters)), linear)
    cycle = rates(regressor(learning_rate="one_cycle", **parameters))[1:]
    assert max(cycle) == pytest.approx(lr)
    assert cycle[-1] == pytest.approx(lr / 25e4)
    for function in (lambda t: lr / (1 + t), Exponential(lr, 0.5)):
        own = [lr if t == 0 else function(t) for t in range(10)]
        np.testing.assert_allclose(rates(regressor(learning_rate=function, **parameters)), own)


def test_a_schedule_stays_at_its_end():
    model = regressor(learning_rate="linear", max_iter=4, warm_start=True).fit(X, y)
    last = model._optimizer.lr
    assert model.fit(X, y)._optimizer.lr == last > 0


def test_warm_up_rises_in_even_steps():
    model = regressor(learning_rate_init=0.05, warmup_epochs=4, max_iter=8)
    np.testing.assert_allclose(rates(model)[1:], [0.02, 0.03, 0.04, 0.05, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("early_stopping", [False, True])
def test_plateaus_lower_the_rate(early_stopping):
    parameters = {"tol": 1e9, "n_iter_no_change": 6, "max_iter": 100, "early_stopping": early_stopping}
    model = regressor(learning_rate="plateau", learning_rate_init=0.01, **parameters).fit(X, y)
    assert model.n_iter_ == 8
    assert model._optimizer.lr == pytest.approx(0.001)


@pytest.mark.parametrize("rate", [lambda t: -1.0, lambda t: np.nan, lambda t: "x", Plateau(0.1)])
def test_functions_that_give_no_rate_are_refused(rate):
    model = regressor().fit(X, y)
    before = copy.deepcopy(arrays(model))
    with pytest.raises((TypeError, ValueError)):
        model.set_params(learning_rate=rate).fit(X, y)
    for p, q in zip(arrays(model), before, strict=True):
        assert_same_bits(p, q)
