"""MLPRegressor, with scikit-learn's signature: its parameters, targets, losses and score.

`base.py` fits it, as it does the classifier.
"""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if

from fastadam._typing import Array
from fastadam.cuda.detection import is_device_array
from fastadam.estimators.base import BaseMLP
from fastadam.estimators.device_data import like_given, on_host
from fastadam.estimators.parameters import documented
from fastadam.estimators.settings import LossSettings


@documented(score="R2 score")
class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
    """Multi-layer perceptron regressor, trained by fused Adam kernels.

    A drop-in replacement for `sklearn.neural_network.MLPRegressor`: it has the same parameters, attributes, messages
    and errors, and gives the same model for the same `random_state`, several times faster.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "absolute_error", "huber", "quantile"}, default="squared_error"
        Loss to minimize. "squared_error" is half the squared error. "poisson" is half the Poisson deviance of exp of
        the output, for non-negative targets. The others are not scikit-learn's: "huber" is half the squared error up to
        `huber_delta` and linear beyond, and "quantile" is the pinball loss of `quantile`. The loss is averaged over the
        outputs; only that of "poisson" is summed.
    {scikit_learns_parameters}
    huber_delta : float, default=1.0
        Error beyond which the loss is linear. Only used with loss="huber".
    quantile : float or None, default=None
        Quantile to predict, in (0, 1). Only used with loss="quantile", which requires it.
    {further_parameters}

    Attributes
    ----------
    {attributes}
    out_activation_ : str
        Activation of the output: "exp" with loss="poisson", "identity" otherwise.

    Notes
    -----
    With several outputs, the gradient is scikit-learn's, which is `n_outputs_` times that of the reported loss.

    Adam has the form given at the end of section 2 of Kingma & Ba (2015), as in scikit-learn. Initial weights are those
    of Glorot & Bengio (2010). Callbacks of `sklearn.callback` are supported: see `set_callbacks`.

    Some faults of scikit-learn's estimator are mended: a warm start keeps the moments and refuses changed layers,
    repeated calls of `partial_fit` with an integer seed shuffle differently, batches with a total weight of zero are
    skipped, float32 data is processed in float32 throughout, and targets that are not numbers, or are negative with
    loss="poisson", are refused.

    Examples
    --------
    >>> from fastadam import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.model_selection import train_test_split
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=1)
    >>> regressor = MLPRegressor(random_state=1, max_iter=2000, tol=0.1).fit(X_train, y_train)
    >>> round(regressor.score(X_test, y_test), 2)
    0.98
    """

    __module__ = "fastadam"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "absolute_error", "huber", "quantile"})],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither"), None],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: ArrayLike = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Callable[[int], float] = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        huber_delta: float = 1.0,
        quantile: float | None = None,
        warmup_epochs: int = 0,
        clip_norm: float | None = None,
        dropout: float = 0.0,
        scoring: str | Callable[..., float] | None = None,
        max_time: float | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.huber_delta = huber_delta
        self.quantile = quantile
        self.warmup_epochs = warmup_epochs
        self.clip_norm = clip_norm
        self.dropout = dropout
        self.scoring = scoring
        self.max_time = max_time
        self.n_threads = n_threads
        self.device = device

    def predict(self, X: ArrayLike) -> Array:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predicted values, in the dtype of the model.
        """
        y = self._forward(X)
        return like_given(X, y.ravel() if y.shape[1] == 1 else y)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the coefficient of determination, R2, of the predictions for X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.

        Returns
        -------
        score : float
            R2, as computed by scikit-learn. Each of the arrays may also lie on a CUDA device.
        """
        y, sample_weight = on_host("y", y), on_host("sample_weight", sample_weight)
        if not is_device_array(X):
            return float(super().score(X, y, sample_weight))
        from sklearn.metrics import r2_score

        return float(r2_score(y, on_host("the predictions", self.predict(X)), sample_weight=sample_weight))

    @available_if(lambda self: self._is_stochastic())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Update the model with a single epoch over the given data.

        Each call continues with the state of the optimizer and the random stream as the previous call left them, so
        that each call shuffles differently.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.

        Returns
        -------
        self : object
            The trained model. If an error is raised, the estimator is unchanged.
        """
        with self._unchanged_on_error():
            return self._fit(X, y, sample_weight, incremental=True)

    def _loss(self) -> LossSettings:
        used: Any = {"huber": self.huber_delta, "quantile": self.quantile}
        parameter = float(used.get(self.loss, 0.0))
        return LossSettings(self.loss, lambda dtype: parameter)

    def _check_loss(self) -> None:
        if self.loss == "quantile" and self.quantile is None:
            raise ValueError("loss='quantile' needs quantile, a number in (0, 1), got None")

    def _validate_validation(self, X: Any, y: Any) -> tuple[Any, Array]:
        return self._validate_input(X, y, incremental=True, reset=False)

    def _given_targets(self, y: Array) -> Array:
        return y.ravel() if y.shape[1] == 1 else y

    def _validate_input(self, X: Any, y: Any, *, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = self._validate_samples(
            X, y, multi_output=True, y_numeric=True, dtype=(np.float64, np.float32), reset=reset
        )
        y = check_array(y, dtype="numeric", ensure_2d=False, input_name="y")  # refuses strings
        if y.dtype.kind in "mM":  # dates and durations pass as numeric
            raise ValueError(f"y must be numbers, got {y.dtype}")
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError(f"loss='poisson' requires non-negative y, got {y.min()}")
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _validation_scorer(self, y: Array, sample_weight: Array | None) -> Callable[[Array], float]:
        from sklearn.metrics import r2_score  # takes a tenth of a second to import

        def score(predicted: Array) -> float:
            """R2, or NaN if a prediction is not finite, as in scikit-learn."""
            return (
                float(r2_score(y, predicted, sample_weight=sample_weight)) if np.isfinite(predicted).all() else np.nan
            )

        return score

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags
