"""LossCurveDisplay: loss curves drawn with matplotlib, in the manner of scikit-learn's displays."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


class LossCurveDisplay:
    """Loss curve visualization: training loss and, if available, validation loss of each epoch.

    It is recommended to create a display with `from_estimator`; `plot` draws it again, for example in other axes.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Training loss of each epoch.
    validation_loss_curve : array-like of shape (n_epochs,), optional
        Validation loss of each epoch.
    estimator_name : str, optional
        Name of the estimator in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure that contains them.
    line_, validation_line_ : matplotlib Line2D
        Curves; the second is None without validation data.

    See Also
    --------
    sklearn.metrics.PredictionErrorDisplay : Predicted against actual values.

    Examples
    --------
    >>> from fastadam import LossCurveDisplay, MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=200, n_features=5, random_state=0)
    >>> regressor = MLPRegressor(tol=100.0, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(regressor)
    >>> display.ax_.get_xlabel()
    'Epoch'
    """

    __module__ = "fastadam"

    ax_: "Axes"
    figure_: "Figure"
    line_: "Line2D"
    validation_line_: "Line2D | None"

    def __init__(
        self,
        loss_curve: ArrayLike,
        *,
        validation_loss_curve: ArrayLike | None = None,
        estimator_name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_loss_curve = validation_loss_curve
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        name: str | None = None,
        ax: "Axes | None" = None,
        curve_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the loss curve of a fitted estimator; to compare several, pass the `ax_` of the first as `ax`.

        Parameters
        ----------
        estimator : MLPRegressor or MLPClassifier
            Estimator fitted by a stochastic solver; scikit-learn's estimators are supported as well.
        name : str, optional
            Name in the legend; that of the class by default.
        ax : matplotlib Axes, optional
            Axes to plot on; new axes by default.
        curve_kwargs : dict, optional
            Keyword arguments of `Axes.plot` for both curves, such as `{"color": "tab:red"}`.

        Returns
        -------
        LossCurveDisplay
            The display.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator has no loss curve, as after a fit with solver="lbfgs".
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if not hasattr(estimator, "loss_curve_"):
            raise TypeError(
                f"estimator must have a loss_curve_, as after a fit by a stochastic solver, got {estimator}"
            )
        display = cls(
            estimator.loss_curve_,
            validation_loss_curve=getattr(estimator, "validation_loss_curve_", None),
            estimator_name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(ax=ax, curve_kwargs=curve_kwargs)

    def plot(self, ax: "Axes | None" = None, *, curve_kwargs: Mapping[str, Any] | None = None) -> Self:
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; new axes by default.
        curve_kwargs : dict, optional
            Keyword arguments of `Axes.plot` for both curves.

        Returns
        -------
        LossCurveDisplay
            This display.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        self.ax_ = plt.subplots()[1] if ax is None else ax
        self.figure_ = self.ax_.figure  # type: ignore[assignment]
        style = dict(curve_kwargs or {})
        self.line_ = self._draw(self.loss_curve, "training", style)
        self.validation_line_ = None
        if self.validation_loss_curve is not None:
            same_colour = {"color": self.line_.get_color(), "linestyle": "--"}
            self.validation_line_ = self._draw(self.validation_loss_curve, "validation", same_colour | style)
        self.ax_.set(xlabel="Epoch", ylabel="Loss")
        if _all_positive(line.get_ydata() for line in self.ax_.get_lines()):
            self.ax_.set_yscale("log")
        self.ax_.legend()
        return self

    def _draw(self, curve: ArrayLike, what: str, style: Mapping[str, Any]) -> "Line2D":
        label = what if self.estimator_name is None else f"{self.estimator_name}, {what}"
        values: NDArray[np.float64] = np.asarray(curve, float)
        (line,) = self.ax_.plot(np.arange(1, len(values) + 1), values, **{"label": label, **style})
        return line


def _all_positive(curves: Any) -> bool:
    """Whether all values can be shown on a logarithmic axis."""
    arrays: Sequence[NDArray[np.float64]] = [np.asarray(curve, float) for curve in curves]
    return all(bool((array > 0).all()) for array in arrays)
