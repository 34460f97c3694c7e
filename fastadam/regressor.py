"""MLPRegressor, with scikit-learn's signature: its parameters, targets, losses and score.

What it shares with the classifier, and how both are fitted, is in `_estimator.py`.
"""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if

from fastadam._arrays import is_device_array
from fastadam._device import like_given, on_host
from fastadam._estimator import BaseMLP

Array = NDArray[Any]


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
    """Multi-layer perceptron regressor: scikit-learn's, trained by fused Adam kernels.

    A drop-in replacement for `sklearn.neural_network.MLPRegressor`: the same parameters, attributes, messages and
    errors, and with the same `random_state` the same model, several times sooner.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "absolute_error", "huber", "quantile"}, default="squared_error"
        "squared_error" is half the squared error; "poisson" half the Poisson deviance of exp of the output, summed over
        the outputs, for targets of at least 0. The last three are not scikit-learn's: "huber" is half the squared error
        up to `huber_delta` and linear beyond, "quantile" the pinball loss of `quantile`. All but "poisson" are averaged
        over the outputs.
    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer.
    activation : str or list of str, default="relu"
        Activation function of the hidden layers, or that of each: scikit-learn's "identity", "logistic", "tanh" and
        "relu", or "leaky_relu" (of slope 0.01), "elu", "softplus", "silu", "gelu" (exact) or "mish".
    solver : str, default="adam"
        scikit-learn's own are "adam"; "sgd", with its momentum; and "lbfgs", which is SciPy's L-BFGS-B over all samples
        at once, computed in float64. The others are in PyTorch's form: "adamw", "nadam", "radam", "adamax", "amsgrad",
        "lion", "rmsprop", "adagrad" and "adadelta".
    alpha : float, default=1e-4
        Strength of the L2 penalty, 0.5 * alpha * sum(W**2) divided by the samples of a batch. Biases are not penalised.
        With solver="adamw", weights are multiplied by 1 - learning rate * alpha in each step instead, and the loss has
        no penalty.
    batch_size : int or "auto", default="auto"
        Samples in a batch; "auto" is min(200, n_samples). The short last batch of an epoch is trained on too.
    learning_rate : str or callable, default="constant"
        How the step size changes from epoch to epoch. "invscaling" and "adaptive" are of solver="sgd" alone, and
        disregarded with others, as in scikit-learn. Of all stochastic solvers: "cosine" and "linear" fall from
        `learning_rate_init` towards 0 in `max_iter` epochs, counted over all calls; "one_cycle" rises to it and falls;
        "plateau" divides it by 10 where nothing has improved by `tol` for half of `n_iter_no_change` epochs. A function
        gives the rate for the number of the epoch, from 0 on, as those of `fastadam.schedules` do.
    learning_rate_init : float, default=1e-3
        Step size, or the one to begin with.
    power_t : float, default=0.5
        Of solver="sgd" alone.
    max_iter : int, default=200
        Most epochs.
    shuffle : bool, default=True
        Whether to shuffle the samples in each epoch.
    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the validation split and the order of the samples, in scikit-learn's own sequence.
    tol : float, default=1e-4
        An epoch counts as an improvement if the loss falls (or the validation score rises) by at least this much.
    verbose : bool, default=False
        Whether to print the loss of each epoch.
    warm_start : bool, default=False
        Whether `fit` goes on from the model of the last `fit`: with its weights, moments, random stream and counters,
        so that two fits of n epochs give the bits of one of 2 n.
    momentum : float, default=0.9
        Of solver="sgd" alone.
    nesterovs_momentum : bool, default=True
        Of solver="sgd" alone.
    early_stopping : bool, default=False
        Whether to hold samples out (or take X_val), stop when the R2 score on them stops improving, and keep
        the best weights.
    validation_fraction : float, default=0.1
        Fraction of the samples to hold out.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of the two moments of Adam and its kin; "rmsprop" and "adadelta" have `beta_2` alone.
    epsilon : float, default=1e-8
        Added to the denominator; to the uncorrected root of the second moment with solver="adam".
    n_iter_no_change : int or np.inf, default=10
        Training stops after more than this many epochs in a row without an improvement.
    max_fun : int, default=15000
        Of solver="lbfgs" alone.
    huber_delta : float, default=1.0
        Where loss="huber" becomes linear.
    quantile : float or None, default=None
        Of loss="quantile", in (0, 1).
    warmup_epochs : int, default=0
        Epochs in which the learning rate rises to where it begins, in even steps.
    clip_norm : float or None, default=None
        Bound on the Euclidean norm of the gradient, that of the penalty included; a longer one is scaled down to it.
    dropout : float, default=0.0
        Part of the hidden units, in [0, 1), that is off in each step of the training, for each sample another; the
        others are scaled up. Which, is drawn from `random_state`. Predictions use all units.
    scoring : str, callable or None, default=None
        What early stopping looks at: None for R2, "loss" for the negative loss without penalty, else as
        everywhere in scikit-learn.
    max_time : float or None, default=None
        Seconds of training, compiling not included, after which it ends; a ConvergenceWarning says so. An epoch that
        takes more than a moment (0.1 s) is given up after a whole step: `coefs_` are of that step, `n_iter_`, `t_` and
        `loss_curve_` of whole epochs only, and `loss_` is of the last of these. If there is none, `n_iter_` is 0 and
        `loss_` the mean of the steps that were made, NaN if that is none either.
    n_threads : int or None, default=None
        Threads to train on; scikit-learn has no such parameter. None takes as many as the work in a step is worth, of
        those that the cores of the process, its CPU quota and limits as `OMP_NUM_THREADS` allow (docs/deploy.md lists
        them); fits at once share them. The model is the same, to the bit, on any number.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to train: "cuda" is a GPU of NVIDIA's, which needs the extra `cuda`; "auto" takes it where there is one.
        With these two, `fit` also takes arrays that lie on the device, as CuPy's and PyTorch's, and trains on a float
        X in place. The fitted attributes are arrays on the host. Predictions are made where X lies, and are of its
        library.

    Attributes
    ----------
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weight matrix of each layer, in the dtype of the training data. All are views of one buffer.
    intercepts_ : list of ndarray of shape (fan_out,)
        Bias of each layer.
    n_iter_ : int
        Epochs of the last fit.
    t_ : int
        Samples seen in training, over all calls.
    loss_ : float
        Loss of the last epoch: the mean over its batches, each taken before its update, weighted by its samples.
    loss_curve_ : list of float
        Loss of every epoch, over all calls.
    best_loss_ : float or None
        Lowest loss of an epoch; None with early stopping.
    validation_loss_curve_ : list of float
        Loss on X_val after each epoch, without penalty, over all calls; only where `fit` was given X_val.
    validation_scores_ : list of float or None
        R2 score on the held-out samples after each epoch; None without early stopping.
    best_validation_score_ : float or None
        Highest of them; None without early stopping.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has names that are all strings.
    n_layers_ : int
        Number of layers, input and output included.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        "identity", or "exp" with loss="poisson".

    Notes
    -----
    With several outputs, the gradient that is followed is scikit-learn's: `n_outputs_` times that of the reported loss.

    Adam is in the form of the end of section 2 of Kingma & Ba (2015), as in scikit-learn. Initial weights are those of
    Glorot & Bengio (2010). Callbacks of `sklearn.callback` are supported: see `set_callbacks`.

    Where scikit-learn's own estimator is at fault, this one is not: a warm start keeps the moments and refuses changed
    layers, repeated calls of `partial_fit` with an integer seed shuffle differently, batches of zero weight are passed
    over, float32 data is trained in float32 throughout, targets that are no numbers, or negative with loss="poisson",
    are refused.

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
        """The coefficient of determination, R2, of the predictions for X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The true ones.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.

        Returns
        -------
        score : float
            As of scikit-learn's own; each of the arrays may also lie on a CUDA device.
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

        Each call goes on with the optimizer's state and with the random stream where the call before left them, so
        that no two calls shuffle alike.

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
            The trained model. When an error is raised, the estimator is as it was before.
        """
        with self._unchanged_on_error():
            return self._fit(X, y, sample_weight, incremental=True)

    def _loss_name(self) -> str:
        return self.loss

    def _loss_setting(self, dtype: Any) -> float:
        if self.loss == "quantile":
            return float(self.quantile)  # type: ignore[arg-type]
        return float(self.huber_delta) if self.loss == "huber" else 0.0

    def _check_combinations(self, n_hidden: int, validation: tuple[Any, Any, Any]) -> None:
        super()._check_combinations(n_hidden, validation)
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
        from sklearn.metrics import r2_score  # a tenth of a second to import, for early stopping alone

        def score(predicted: Array) -> float:
            """NaN where a prediction is not finite, as scikit-learn has it."""
            return (
                float(r2_score(y, predicted, sample_weight=sample_weight)) if np.isfinite(predicted).all() else np.nan
            )

        return score

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags
