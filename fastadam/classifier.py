"""MLPClassifier, with scikit-learn's signature: its parameters, classes, probabilities and score.

What it shares with the regressor, and how both are fitted, is in `_estimator.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from fastadam._arrays import is_device_array
from fastadam._checks import number
from fastadam._device import like_given, on_host
from fastadam._estimator import BaseMLP

Array = NDArray[Any]


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]
    """Multi-layer perceptron classifier: scikit-learn's, trained by fused kernels.

    A drop-in replacement for `sklearn.neural_network.MLPClassifier`: the same parameters, attributes, messages and
    errors, and with the same `random_state` the same model, several times sooner. It minimises the log-loss of two
    classes, of several, or of several labels a sample.

    Parameters
    ----------
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
        Whether to hold samples out (or take X_val), stop when the accuracy on them stops improving, and keep
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
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, by their labels; "balanced" gives each the same total.
    label_smoothing : float, default=0.0
        Part of each target, in [0, 1), that is spread evenly over all classes.
    warmup_epochs : int, default=0
        Epochs in which the learning rate rises to where it begins, in even steps.
    clip_norm : float or None, default=None
        Bound on the Euclidean norm of the gradient, that of the penalty included; a longer one is scaled down to it.
    dropout : float, default=0.0
        Part of the hidden units, in [0, 1), that is off in each step of the training, for each sample another; the
        others are scaled up. Which, is drawn from `random_state`. Predictions use all units.
    scoring : str, callable or None, default=None
        What early stopping looks at: None for the accuracy, "loss" for the negative loss without penalty, else as
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
    classes_ : ndarray of shape (n_classes,)
        The labels of the classes.
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
        Accuracy on the held-out samples after each epoch; None without early stopping.
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
        "logistic" for two classes or several labels a sample, "softmax" for more classes.

    Notes
    -----
    The probabilities of the loss, as it is reported, are kept from 0 and 1 by the machine epsilon of the type; the
    gradient is exact.

    See `MLPRegressor` for how the two differ from scikit-learn's own.

    Examples
    --------
    >>> from fastadam import MLPClassifier
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.model_selection import train_test_split
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=1)
    >>> classifier = MLPClassifier(random_state=1, max_iter=300).fit(X_train, y_train)
    >>> classifier.predict_proba(X_test[:1]).round(3)
    array([[0.038, 0.962]])
    >>> classifier.predict(X_test[:5])
    array([1, 0, 1, 0, 1])
    >>> classifier.score(X_test, y_test)
    0.88
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
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
        class_weight: Mapping[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        warmup_epochs: int = 0,
        clip_norm: float | None = None,
        dropout: float = 0.0,
        scoring: str | Callable[..., float] | None = None,
        max_time: float | None = None,
        n_threads: int | None = None,
        device: str = "cpu",
    ) -> None:
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
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.warmup_epochs = warmup_epochs
        self.clip_norm = clip_norm
        self.dropout = dropout
        self.scoring = scoring
        self.max_time = max_time
        self.n_threads = n_threads
        self.device = device

    @available_if(lambda self: self._is_stochastic())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Update the model with a single epoch over the given data.

        Each call goes on with the optimizer's state and with the random stream where the call before left them, so
        that no two calls shuffle alike.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The classes of the samples, or a matrix of 0 and 1 that says which labels a sample has.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever be in y. The first call needs it, later ones may leave it out.

        Returns
        -------
        self : object
            The trained model. When an error is raised, the estimator is as it was before.
        """
        with self._unchanged_on_error():
            y = y if self.device == "cpu" else on_host("y", y)
            if _check_partial_fit_first_call(self, classes):
                multilabel = type_of_target(y).startswith("multilabel")
                shape = np.shape(classes)  # type: ignore[arg-type]  # None was refused
                if not multilabel and len(shape) != 1:
                    raise ValueError(f"classes must have one dimension, got the shape {shape}")
                self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
            return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: ArrayLike) -> Array:
        """Predict classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The most probable class of each sample, or which labels it probably has.
        """
        return like_given(X, self._labels_of(on_host("the outputs", self._forward(X))))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The accuracy of the predictions for X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
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
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(y, on_host("the predictions", self.predict(X)), sample_weight=sample_weight))

    def predict_proba(self, X: ArrayLike) -> Array:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y_prob : ndarray of shape (n_samples, n_classes)
            The probability of each class, in the order of `classes_` and in the dtype of the model; of each label, if
            a sample may have several.
        """
        return like_given(X, self._probabilities(X))

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Predict logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        log_y_prob : ndarray of shape (n_samples, n_classes)
            The logarithm of `predict_proba`.
        """
        y_prob = self._probabilities(X)
        return like_given(X, np.log(y_prob, out=y_prob))

    def _probabilities(self, X: Any) -> Array:
        y = self._forward(X)
        return np.hstack([1 - y, y]) if y.shape[1] == 1 else y

    def _labels_of(self, outputs: Array) -> Array:
        labels: Array = self._label_binarizer.inverse_transform(outputs.ravel() if outputs.shape[1] == 1 else outputs)
        return labels

    def _loss_name(self) -> str:
        return "multinomial" if self._label_binarizer.y_type_ == "multiclass" else "log_loss"

    def _loss_setting(self, dtype: Any) -> float:
        return float(np.finfo(dtype).eps)

    def _validate_input(self, X: Any, y: Any, *, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = self._validate_form(X, y, reset=reset)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_same_classes(unique_labels(y), all_of_them=self.warm_start and not incremental)
        return X, self._label_binarizer.transform(y).astype(bool)

    def _validate_validation(self, X: Any, y: Any) -> tuple[Any, Array]:
        X, y = self._validate_form(X, y, reset=False)
        self._check_same_classes(unique_labels(y), all_of_them=False)
        return X, self._label_binarizer.transform(y).astype(bool)

    def _validate_form(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Array]:
        X, y = self._validate_samples(X, y, multi_output=True, dtype=(np.float64, np.float32), reset=reset)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _given_targets(self, y: Array) -> Array:
        return self._labels_of(y)

    def _loss_targets(self, y: Array) -> Array:
        """With label smoothing, a part of each target is spread evenly over all classes (Szegedy et al. 2016)."""
        smoothing = self.label_smoothing
        classes = y.shape[1] if self._loss_name() == "multinomial" else 2
        return y * (1.0 - smoothing) + smoothing / classes if smoothing > 0 else y

    def _loss_weight(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return sample_weight
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which sees a part of the data at a time; "
                "give the weights of the classes as a dict"
            )
        if self.class_weight == "balanced":
            weight: Array = compute_sample_weight("balanced", self._labels_of(y))
        else:
            weight = self._weights_of_classes()[y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0].astype(np.intp)]
        if sample_weight is None:
            return weight
        with np.errstate(over="ignore"):  # the sum of the products is checked
            return weight * sample_weight

    def _weights_of_classes(self) -> Array:
        """The weight of each of `classes_`, also of those that these samples have none of."""
        if self._label_binarizer.y_type_.startswith("multilabel"):
            raise ValueError(
                "class_weight must be None or 'balanced' where a sample may have several labels, "
                f"got {self.class_weight}"
            )
        for label, weight in self.class_weight.items():  # type: ignore[union-attr]
            number(f"class_weight[{label!r}]", weight)
        weights: Array = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
        return weights

    def _check_same_classes(self, classes: Array, *, all_of_them: bool) -> None:
        if all_of_them:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _strata(self, y: Array) -> Array | None:
        return y if y.shape[1] == 1 else None  # as in scikit-learn, of two classes alone

    def _validation_scorer(self, y: Array, sample_weight: Array | None) -> Callable[[Array], float]:
        from sklearn.metrics import accuracy_score  # a tenth of a second to import, for early stopping alone

        labels = self._label_binarizer.inverse_transform(y)
        return lambda outputs: float(accuracy_score(labels, self._labels_of(outputs), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
