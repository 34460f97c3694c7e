"""MLPClassifier, with scikit-learn's signature: its parameters, classes, probabilities and score.

`base.py` fits it, as it does the regressor.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from fastadam._checks import number
from fastadam._typing import Array
from fastadam.cuda.detection import is_device_array
from fastadam.estimators.base import BaseMLP
from fastadam.estimators.device_data import like_given, on_host
from fastadam.estimators.parameters import documented
from fastadam.estimators.settings import LossSettings


@documented(score="accuracy")
class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]
    """Multi-layer perceptron classifier, trained by fused Adam kernels.

    A drop-in replacement for `sklearn.neural_network.MLPClassifier`: it has the same parameters, attributes, messages
    and errors, and gives the same model for the same `random_state`, several times faster. It minimizes the log-loss
    for two classes, for several classes, or for several labels per sample.

    Parameters
    ----------
    {scikit_learns_parameters}
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, by their labels; "balanced" gives each class the same total weight.
    label_smoothing : float, default=0.0
        Fraction of each target, in [0, 1), that is spread evenly over all classes.
    {further_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes.
    {attributes}
    out_activation_ : str
        Activation of the output: "logistic" for two classes or for several labels per sample, "softmax" for more
        classes.

    Notes
    -----
    In the reported loss, probabilities are clipped to a distance from 0 and 1 of the machine epsilon of the type; the
    gradient is exact.

    See `MLPRegressor` for the differences from scikit-learn's estimators.

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

    __module__ = "fastadam"

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

        Each call continues with the state of the optimizer and the random stream as the previous call left them, so
        that each call shuffles differently.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Classes of the samples, or a matrix of 0 and 1 that indicates the labels of each sample.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.
        classes : array-like of shape (n_classes,), default=None
            All classes that can occur in y. Required in the first call, optional in later calls.

        Returns
        -------
        self : object
            The trained model. If an error is raised, the estimator is unchanged.
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
            The most probable class of each sample, or an indicator of its probable labels.
        """
        return like_given(X, self._labels_of(on_host("the outputs", self._forward(X))))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy of the predictions for X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True classes, or labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.

        Returns
        -------
        score : float
            Accuracy, as computed by scikit-learn. Each of the arrays may also lie on a CUDA device.
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
            The probability of each class, or of each label if a sample may have several, in the order of `classes_`
            and in the dtype of the model.
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

    def _loss(self) -> LossSettings:
        name = "multinomial" if self._label_binarizer.y_type_ == "multiclass" else "log_loss"
        return LossSettings(name, lambda dtype: float(np.finfo(dtype).eps))

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
        """Spread a fraction of each target evenly over all classes, for label smoothing (Szegedy et al. 2016)."""
        smoothing = self.label_smoothing
        classes = y.shape[1] if self._loss().name == "multinomial" else 2
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
        """Weight of each of `classes_`, including those without a sample in the data."""
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
        return y if y.shape[1] == 1 else None  # two classes only, as in scikit-learn

    def _validation_scorer(self, y: Array, sample_weight: Array | None) -> Callable[[Array], float]:
        from sklearn.metrics import accuracy_score  # takes a tenth of a second to import

        labels = self._label_binarizer.inverse_transform(y)
        return lambda outputs: float(accuracy_score(labels, self._labels_of(outputs), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
