import warnings

import pytest
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor as TheirRegressor

from fastadam import LossCurveDisplay, MLPRegressor

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    X, y = make_regression(n_samples=100, n_features=3, random_state=0)
    return MLPRegressor(hidden_layer_sizes=(5,), max_iter=12, tol=10, n_iter_no_change=20, random_state=0), X, y / 100


def fit(fitted, estimator=None):
    template, X, y = fitted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (clone(template) if estimator is None else estimator).fit(X, y)


def test_the_curve_is_the_loss_of_each_epoch(fitted):
    estimator = fit(fitted)
    display = LossCurveDisplay.from_estimator(estimator)
    assert display.line_.get_ydata().tolist() == estimator.loss_curve_
    assert display.line_.get_xdata().tolist() == list(range(1, len(estimator.loss_curve_) + 1))
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel(), display.ax_.get_yscale()) == ("Epoch", "Loss", "log")
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["MLPRegressor, training"]
    assert display.figure_ is display.ax_.figure
    assert display.validation_line_ is None


def test_validation_has_the_same_colour_and_another_stroke():
    display = LossCurveDisplay([3, 2, 1], validation_loss_curve=[3, 2.5, 2.5], estimator_name="net").plot()
    assert display.validation_line_.get_ydata().tolist() == [3, 2.5, 2.5]
    assert display.validation_line_.get_color() == display.line_.get_color()
    assert display.validation_line_.get_linestyle() != display.line_.get_linestyle()
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["net, training", "net, validation"]


def test_several_estimators_share_axes(fitted):
    first = LossCurveDisplay.from_estimator(fit(fitted), name="a")
    theirs = fit(
        fitted, TheirRegressor(hidden_layer_sizes=(5,), max_iter=12, tol=10, n_iter_no_change=20, random_state=0)
    )
    second = LossCurveDisplay.from_estimator(theirs, name="b", ax=first.ax_, curve_kwargs={"color": "red"})
    assert second.ax_ is first.ax_
    assert len(first.ax_.get_lines()) == 2
    assert second.line_.get_color() == "red"
    assert [text.get_text() for text in first.ax_.get_legend().get_texts()] == ["a, training", "b, training"]


def test_a_loss_that_is_not_positive_has_a_linear_axis():
    assert LossCurveDisplay([1.0, 0.0, -1.0]).plot().ax_.get_yscale() == "linear"


def test_what_cannot_be_drawn_is_refused(fitted):
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(MLPRegressor())
    with pytest.raises(TypeError, match="estimator must have a loss_curve_"):
        LossCurveDisplay.from_estimator(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]))
    with pytest.raises(TypeError, match="loss_curve_"):
        LossCurveDisplay.from_estimator(
            fit(fitted, TheirRegressor(hidden_layer_sizes=(2,), solver="lbfgs", max_iter=50))
        )
