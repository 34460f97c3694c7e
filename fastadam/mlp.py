"""MLPRegressor: the public estimator, with scikit-learn's signature; see `_estimator.py` for how it is fitted."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import validate_data

from fastadam._estimator import BaseMLP

Array = NDArray[Any]


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
    """Multi-layer perceptron regressor: scikit-learn's, trained by fused Adam kernels.

    A drop-in replacement for `sklearn.neural_network.MLPRegressor`: the same parameters, attributes, messages and
    errors, and with the same `random_state` the same model, several times sooner.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default="squared_error"
        Half the mean squared error, averaged over the outputs. "poisson" is not implemented yet.
    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu"}, default="relu"
        Activation function of the hidden layers.
    solver : {"lbfgs", "sgd", "adam"}, default="adam"
        "lbfgs" and "sgd" are not implemented yet and raise NotImplementedError.
    alpha : float, default=1e-4
        Strength of the L2 penalty, 0.5 * alpha * sum(W**2) divided by the samples of a batch. Biases are not penalised.
    batch_size : int or "auto", default="auto"
        Samples in a batch; "auto" is min(200, n_samples). The short last batch of an epoch is trained on too.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        Of solver="sgd" alone.
    learning_rate_init : float, default=1e-3
        Step size.
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
        Whether to hold samples out, stop when the R2 score on them stops improving, and keep the best weights.
    validation_fraction : float, default=0.1
        Fraction of the samples to hold out.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of Adam's two moments.
    epsilon : float, default=1e-8
        Added to the uncorrected root of Adam's second moment.
    n_iter_no_change : int or np.inf, default=10
        Training stops after more than this many epochs in a row without an improvement.
    max_fun : int, default=15000
        Of solver="lbfgs" alone.
    n_threads : int or None, default=None
        Threads to train on; scikit-learn has no such parameter. None takes as many as the work in a step is worth, of
        the cores that the process may use and no other fit is using. The model is the same, to the bit, on any number.

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
        "identity".

    Notes
    -----
    With several outputs, the gradient that is followed is scikit-learn's: `n_outputs_` times that of the reported loss.

    Adam is in the form of the end of section 2 of Kingma & Ba (2015), as in scikit-learn. Initial weights are those of
    Glorot & Bengio (2010). Callbacks of `sklearn.callback` are supported: see `set_callbacks`.

    Where scikit-learn's own estimator is at fault, this one is not: a warm start keeps the moments and refuses changed
    layers, repeated calls of `partial_fit` with an integer seed shuffle differently, batches of zero weight are passed
    over, float32 data is trained in float32 throughout, targets that are no numbers are refused.

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
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: ArrayLike = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
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
        n_threads: int | None = None,
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
        self.n_threads = n_threads

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
        return y.ravel() if y.shape[1] == 1 else y

    def _refuse_what_is_missing(self) -> None:
        super()._refuse_what_is_missing()
        if self.loss != "squared_error":
            raise NotImplementedError(f"loss={self.loss!r} is not implemented yet, use loss='squared_error'")

    def _validate_input(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        y = check_array(y, dtype="numeric", ensure_2d=False, input_name="y")  # refuses strings
        if y.dtype.kind in "mM":  # dates and durations pass as numeric
            raise ValueError(f"y must be numbers, got {y.dtype}")
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _validation_scorer(self, y: Array, sample_weight: Array | None) -> Callable[[Array], float]:
        from sklearn.metrics import r2_score  # a tenth of a second to import, for early stopping alone

        return lambda predicted: float(r2_score(y, predicted, sample_weight=sample_weight))
