"""BaseMLP, the base of the estimators: fitting and predicting under scikit-learn's contract.

Read it from top to bottom: `fit` validates the data, freezes the parameters as `FitSettings`, trains, publishes the
fitted attributes; `_forward` predicts. The modules below have no access to the estimator. The epochs are run by
`training.py`, the network by `fitting.py`.
"""

import copy
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fastadam._typing import Array
from fastadam.buffers import FlatBuffer
from fastadam.cpu.network import as_samples, functions_of, layout_of, predict, samples_of_dense
from fastadam.cuda.detection import is_device_array
from fastadam.estimators import fitting, lbfgs, ranges
from fastadam.estimators import parameters as constraints
from fastadam.estimators.callbacks import EpochCallbacks
from fastadam.estimators.data import Data, checked_validation, checked_weights, kept_split, random_split, scaled
from fastadam.estimators.device_data import checked, samples_of
from fastadam.estimators.device_data import predict as predict_on_device
from fastadam.estimators.learning_rates import rate_of
from fastadam.estimators.reporting import compiling_is_printed, print_epoch, print_stalled, warn_of
from fastadam.estimators.settings import FitSettings, LossSettings, activation_names, hidden_units, settings_of
from fastadam.estimators.solvers import SOLVERS, make_optimizer, resumed
from fastadam.estimators.training import Outcome, Plan, Progress, train
from fastadam.formulas.losses import LOSSES, predictions
from fastadam.optimizers.base import Optimizer


class BaseMLP(CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the regressor and the classifier, which add targets, loss and score."""

    _parameter_constraints: ClassVar[dict[str, Any]] = constraints.PARAMETER_CONSTRAINTS

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Fit the model to data matrix X and target(s) y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data. Training takes place in float32 for float32 data, and in float64 for everything else.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.
        X_val, y_val : array-like, default=None
            Validation data, in the form of X and y. `validation_loss_curve_` is the loss on them. With
            `early_stopping`, they are scored instead of samples held out from X.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Weights of the validation samples, used in their loss and score.

        Returns
        -------
        self : object
            The fitted model. If an error is raised, the estimator is unchanged.
        """
        with self._unchanged_on_error():
            return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), incremental=False)

    def _is_stochastic(self) -> bool:
        if self.solver not in SOLVERS:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        """Restore all attributes, and the state of a random stream that the user has given, if fitting fails."""
        before = self.__dict__.copy()
        stream = self.random_state if isinstance(self.random_state, np.random.RandomState) else None
        drawn = None if stream is None else stream.get_state()
        try:
            yield
        except BaseException:
            callbacks = {name: value for name, value in self.__dict__.items() if "_callback" in name}
            self.__dict__.clear()
            self.__dict__.update(before | callbacks)  # scikit-learn tears the callbacks down after this
            if stream is not None and drawn is not None:
                stream.set_state(drawn)
            raise

    # --- fitting ------------------------------------------------------------------------------------------------

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, Any, Any] = (None,) * 3, *, incremental: bool
    ) -> Self:
        parameters = self._parameters()
        settings = self._settings(parameters, validation, incremental)
        if incremental and self._is_resuming():  # train one more epoch instead of finishing the fit
            self.__dict__.update(self._kept_after_fit())
            del self._resumes
        continuing = hasattr(self, "coefs_") and (settings.warm_start or incremental or self._is_resuming())
        data = self._data((X, y, sample_weight), validation, settings, incremental, continuing)
        random_state = self._random_stream(continuing)
        units = [data.X.shape[1], *settings.hidden, data.y.shape[1]]
        if continuing:
            params = self._continued(units, data.X.dtype)
        else:
            params = fitting.initial_params(settings, units, data.X.dtype, random_state)
        ranges.check_ranges(settings, data, params.dtype)
        self.out_activation_ = LOSSES[data.loss.name].link
        with ranges.naming_what_is_large(settings, data), compiling_is_printed(settings):
            if settings.solver == "lbfgs":
                self._fit_lbfgs(settings, data, params, random_state)
            else:
                self._fit_epochs(settings, data, params, random_state, continuing, incremental)
            ranges.check_predictions(self._params, settings.activations, data.X)
        self._parameters_before = parameters
        self.__dict__.pop("_resumes", None)
        return self

    def _settings(self, parameters: dict[str, Any], validation: tuple[Any, Any, Any], incremental: bool) -> FitSettings:
        """Freeze the parameters of the estimator, and refuse combinations that are not supported."""
        if incremental:
            self._validate_changed(parameters)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        hidden = hidden_units(self.hidden_layer_sizes)
        constraints.check_validation_data(*validation)
        settings = settings_of(parameters, hidden)
        if settings.solver == "lbfgs":
            constraints.check_lbfgs(settings, validation[0])
        self._check_loss()
        return settings

    def _data(
        self,
        given: tuple[Any, Any, Any],
        validation: tuple[Any, Any, Any],
        settings: FitSettings,
        incremental: bool,
        continuing: bool,
    ) -> Data:
        """Validate X, y and their weights; extreme weights are scaled, and the penalty with them."""
        validate = partial(self._validate_input, incremental=incremental, reset=not continuing)
        X, y, sample_weight = checked(*given, settings, validate)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        users_validation = checked_validation(validation, y.shape[1], self._validate_validation)
        alpha = settings.alpha
        if sample_weight is not None:
            sample_weight, scale = checked_weights("sample_weight", sample_weight, X)
            alpha *= scale
        weight = self._loss_weight(y, sample_weight, incremental)
        if weight is not None and weight is not sample_weight:
            if not (incremental or weight.any()):
                raise ValueError(f"class_weight={self.class_weight!r} and sample_weight leave no weight but zero")
            weight, scale = scaled("the product of class_weight and sample_weight", weight)
            alpha *= scale
        return Data(
            given[:2], X, y, sample_weight, users_validation, self._loss(), self._loss_targets(y), weight, alpha
        )  # fmt: skip

    def _fit_epochs(
        self,
        settings: FitSettings,
        data: Data,
        params: FlatBuffer,
        random_state: np.random.RandomState,
        continuing: bool,
        incremental: bool,
    ) -> None:
        """Train epoch by epoch; at the end of each, the attributes have all that a later fit continues from."""
        initial = [] if continuing else [params[name].copy() for name in params if name.startswith("b")]
        optimizer, progress = self._start(settings, params, continuing, random_state)
        progress.order, held_out = self._split(settings, progress, data, random_state)
        self._optimizer, self._progress, self._validation = optimizer, progress, held_out
        self._random_state, self._seed = random_state, self.random_state
        self.n_iter_: int = self.n_iter_ if self._is_resuming() else 0
        epochs = 1 if incremental else max(0, settings.max_iter - self.n_iter_)
        callbacks = self._epoch_callbacks(data, epochs)
        samples = samples_of(data.X, params.dtype, data.loss_targets, data.loss_weight)
        with fitting.engine_of(settings, data, optimizer, samples, progress) as engine:
            model = fitting.TrainedNetwork(params, optimizer, engine)
            rows = fitting.validation_rows(settings, data, samples, held_out)
            if rows is not None:
                was_given, make_score = data.validation is not None, partial(self._make_score, settings.scoring)
                fitting.attach_validation(model, rows, settings, data.loss, progress, make_score, was_given=was_given)
            outcome = self._train(model, settings, callbacks, epochs)
        self.__dict__.update(self._kept_after_fit())
        if not incremental or outcome in (Outcome.INTERRUPTED, Outcome.MAX_TIME):
            warn_of(outcome, settings)
        if initial and self.n_iter_:
            ranges.warn_if_untrained(settings.learning_rate_init, initial, self.intercepts_)

    def _train(
        self, model: fitting.TrainedNetwork, settings: FitSettings, callbacks: EpochCallbacks, epochs: int
    ) -> Outcome:
        """Run the epochs, with the fitted attributes up to date after each; then publish the best parameters."""
        optimizer: Any = self._optimizer
        progress = self._progress
        rate = rate_of(settings)

        def set_rate() -> None:
            lr = rate.at(progress)
            if lr != optimizer.lr:  # setting it takes longer than a small epoch
                optimizer.lr = lr

        def report() -> None:
            self.n_iter_ += 1
            self._publish(model.params, progress)
            if settings.verbose:
                print_epoch(self.n_iter_, progress)
            set_rate()

        def stalled() -> bool:
            lowered = rate.lower(progress)
            set_rate()
            if settings.verbose:
                print_stalled(settings, f"Setting learning rate to {optimizer.lr:f}" if lowered else rate.last_words)
            return not lowered

        set_rate()
        self._publish(model.params, progress)
        max_time = math.inf if settings.max_time is None else settings.max_time
        plan = Plan(epochs, settings.shuffle, settings.tol, settings.n_iter_no_change, max_time)
        outcome = Outcome.CONVERGED
        if not progress.finished:
            outcome = train(
                model, progress, plan, self._random_state, callbacks.begin_epoch, report, stalled, callbacks.end_epoch
            )  # fmt: skip
        if not progress.losses:  # not a single epoch was completed
            self.loss_ = model.loss_so_far
        if progress.best is not None:
            self._publish(progress.best, progress)
        ranges.check_finite(self._params)
        ranges.check_training(optimizer, progress, self.n_iter_, self._params.dtype)
        callbacks.end_fit()
        return outcome

    def _fit_lbfgs(
        self, settings: FitSettings, data: Data, params: FlatBuffer, random_state: np.random.RandomState
    ) -> None:
        """Let SciPy's L-BFGS-B minimize the loss over all samples."""
        self._random_state, self._seed = random_state, self.random_state
        callbacks = self._epoch_callbacks(data, settings.max_iter)
        for name in (*_OF_EPOCHS, "_optimizer", "_progress", "_validation"):
            self.__dict__.pop(name, None)
        self.t_, self.n_iter_ = 0, 0

        def end_iteration(loss: float) -> bool:
            callbacks.begin_epoch()
            self.n_iter_, self.loss_ = self.n_iter_ + 1, loss
            return callbacks.end_epoch()

        self.__dict__.setdefault("loss_", math.nan)  # for a fit that is interrupted before the first iteration
        self._use_params(params)
        outcome = Outcome.CONVERGED
        try:
            self.loss_, self.n_iter_ = lbfgs.minimize(params, settings, data, end_iteration)
        except KeyboardInterrupt:
            outcome = Outcome.INTERRUPTED
            warn_of(outcome, settings)
        ranges.check_finite(self._params)
        if outcome is not Outcome.INTERRUPTED:
            ranges.check_loss(self.loss_, np.float64)
        callbacks.end_fit()

    def _epoch_callbacks(self, data: Data, epochs: int) -> EpochCallbacks:
        """Begin the task of the fit, if callbacks were set."""
        if not getattr(self, "_skl_callbacks", None):
            return EpochCallbacks(None, {}, dict)
        task: dict[str, Any] = {"estimator": self, "X": data.given[0], "y": data.given[1]}
        if data.sample_weight is not None:
            task["metadata"] = {"sample_weight": data.sample_weight}
        return EpochCallbacks(self._init_callback_context(max_subtasks=epochs), task, self._copy_of_fit)

    def _make_score(
        self, scoring: Any, rows: fitting.Validation, predict_rows: Callable[[], Array]
    ) -> Callable[[], float]:
        """Return the function that scores the current model on validation data, by the user's `scoring` if given."""
        if scoring is None:
            scorer = self._validation_scorer(rows.y, rows.weight)
            return lambda: scorer(predict_rows())
        from sklearn.metrics import check_scoring

        given = {} if rows.weight is None else {"sample_weight": rows.weight}
        users_scorer = check_scoring(self, scoring)

        def score() -> float:
            fitted = copy.copy(self)
            fitted.__dict__.pop("feature_names_in_", None)  # validated data do not have them
            try:
                value = users_scorer(fitted, rows.X, self._given_targets(rows.y), **given)
            except AttributeError as error:  # such as a score of probabilities for a regressor
                raise ValueError(f"scoring={scoring!r} does not go with this estimator: {error}") from error
            try:
                return float(value)
            except (TypeError, ValueError):
                raise TypeError(f"scoring must give a number, got {value!r}") from None

        return score

    # --- fitted attributes ----------------------------------------------------------------------------------------

    def _publish(self, params: FlatBuffer, progress: Progress) -> None:
        """Set the fitted attributes; the arrays of `coefs_` and `intercepts_` are views of `params`."""
        if self.__dict__.get("_params") is not params:
            self._use_params(params)
        self.loss_curve_ = progress.losses
        self.t_ = progress.samples_seen
        self._no_improvement_count = progress.epochs_without_improvement  # scikit-learn's private name
        if progress.losses:
            self.loss_ = progress.losses[-1]
        if progress.validation_losses:
            self.validation_loss_curve_ = progress.validation_losses
        else:
            self.__dict__.pop("validation_loss_curve_", None)
        self.validation_scores_ = progress.scores
        self.best_loss_ = progress.best_loss if progress.scores is None else None
        self.best_validation_score_ = None if progress.scores is None else progress.best_score

    def _use_params(self, params: FlatBuffer) -> None:
        self.__dict__.update(fitting.views_of(params))
        self.n_layers_ = len(self.coefs_) + 1
        self.n_outputs_ = self.intercepts_[-1].size

    def _copy_of_fit(self) -> dict[str, Any]:
        """Copy all that further epochs change in place, for an independent copy of the estimator."""
        names = ["_params", "_optimizer", "_random_state", "random_state"]
        names += ["loss_curve_", "validation_loss_curve_", "validation_scores_"]
        live = {name: vars(self)[name] for name in names if name in vars(self)}
        copies: dict[str, Any] = copy.deepcopy(live | self._kept_after_fit())
        return copies | fitting.views_of(copies["_params"])

    def _kept_after_fit(self) -> dict[str, Any]:
        """State that a warm start or the next `partial_fit` continues from, besides optimizer and random stream.

        Only a warm start keeps the order and the split of the samples, which are as long as the data.
        """
        if "_progress" not in self.__dict__:
            return {}
        progress = self._progress.copy()
        if not self.warm_start:
            progress.order = None
        return {"_progress": progress, "_validation": self._validation if self.warm_start else None}

    def _is_resuming(self) -> bool:
        return "_resumes" in self.__dict__

    def _resume(self) -> None:
        """Let the next `fit` finish the fit that was saved; until then, publish its best parameters."""
        self._resumes = True
        if self._progress.best is not None:
            self._publish(self._progress.best, self._progress)

    # --- state that a fit begins with ------------------------------------------------------------------------------

    def _start(
        self, settings: FitSettings, params: FlatBuffer, continuing: bool, random_state: np.random.RandomState
    ) -> tuple[Optimizer, Progress]:
        """Make the optimizer of these parameters and the progress, or copy those of the fit before.

        They are copies, so that a failure leaves those of the fit before unchanged.
        """
        if not (continuing and hasattr(self, "_progress")):
            progress = Progress(scores=[] if settings.early_stopping else None)
            if settings.dropout > 0:  # scikit-learn's stream has no such draw
                progress.seed = int(random_state.randint(2**31))
            return make_optimizer(params, settings), progress
        progress = self._progress.copy()
        progress.finished = progress.finished and self._is_resuming()
        if (progress.scores is None) == settings.early_stopping:  # switched on or off since the fit before
            progress.scores = [] if settings.early_stopping else None
            progress.best_score, progress.best = -np.inf, None
            progress.epochs_without_improvement = 0
        return resumed(params, settings, self._optimizer), progress

    def _continued(self, units: list[int], dtype: Any) -> FlatBuffer:
        """Copy the parameters of the last epoch, or those that the user has set since."""
        constraints.check_same_layers(self.coefs_, units)
        current = self._current_params(dtype)
        if current is self.__dict__.get("_params") and hasattr(self, "_optimizer"):
            return self._optimizer.params.copy()  # type: ignore
        return current.copy()

    def _current_params(self, dtype: Any = None) -> FlatBuffer:
        """Parameters in `coefs_` and `intercepts_`, in which the user may have replaced arrays.

        `dtype` is only used for weights that the user has set on an estimator that was never fitted.
        """
        params: FlatBuffer | None = self.__dict__.get("_params")
        shown = (*self.coefs_, *self.intercepts_)
        if params is not None:
            dtype = params.dtype
            if len(shown) == len(self._views) and all(a is b for a, b in zip(shown, self._views, strict=True)):
                return params
        return fitting.params_of(self.coefs_, self.intercepts_, self.n_features_in_, dtype)

    def _random_stream(self, continuing: bool) -> np.random.RandomState:
        """Continue the stream of an integer seed where the last call left it; otherwise follow scikit-learn's rule."""
        stream: np.random.RandomState = check_random_state(self.random_state)
        known = continuing and hasattr(self, "_seed")
        if known and isinstance(self.random_state, Integral) and self._seed == self.random_state:
            stream.set_state(self._random_state.get_state())
        elif self._is_resuming() and self.random_state is None:
            stream = copy.deepcopy(self._random_state)
        return stream

    def _split(
        self, settings: FitSettings, progress: Progress, data: Data, random_state: np.random.RandomState
    ) -> tuple[Array, Array | None]:
        """Return the indices of the training samples, and of those held out for early stopping, or None.

        A warm start on the same number of samples keeps the order and the split of the fit before.
        """
        before: Any = getattr(self, "_validation", None)
        n_samples, holds_out = len(data.y), settings.early_stopping and data.validation is None
        kept = kept_split(progress, before, n_samples, holds_out)
        if kept is not None:
            return kept
        if self._is_resuming() and progress.order is not None:
            fitted = progress.order.size + (0 if before is None else before.size)
            raise ValueError(
                f"The checkpoint is of a fit on {fitted} samples, and only continues on as many, got {n_samples}"
            )
        everything = np.arange(n_samples)
        if not holds_out:
            return everything, None
        return random_split(settings, everything, self._strata(data.y), random_state)

    # --- predicting -----------------------------------------------------------------------------------------------

    def _forward(self, X: Any) -> Array:
        """Predictions of the network, shape (n_samples, n_outputs), in the type of the parameters and where X lies."""
        as_given = self._needs_no_conversion(X)
        if not as_given:
            check_is_fitted(self)
            if is_device_array(X):
                params = self._current_params()
                activations = activation_names(self.activation, len(self.coefs_) - 1)
                validate = partial(validate_data, self, reset=False)
                return predict_on_device(X, params, activations, self.out_activation_, validate)
            X = self._validate_samples(X, reset=False)
        params = self._current_params()
        layout = self._layout if params is self.__dict__.get("_params") else layout_of(params)
        activations = activation_names(self.activation, len(self.coefs_) - 1)  # may have been set after the fit
        layout = layout._replace(functions=functions_of(activations, params.dtype, False))
        samples = samples_of_dense(X) if as_given else as_samples(X, params.dtype)
        return predictions(self.out_activation_, predict(layout, params.flat, samples, np.arange(X.shape[0])))

    def _needs_no_conversion(self, X: Any) -> bool:
        """Whether X would pass scikit-learn's validation unchanged, which takes longer than predicting one row."""
        fitted = self.__dict__
        return (
            type(X) is np.ndarray
            and "_params" in fitted
            and "feature_names_in_" not in fitted
            and X.dtype == fitted["_params"].dtype
            and X.ndim == 2
            and X.shape[1] == fitted["n_features_in_"]
            and X.shape[0] > 0
            and X.flags.c_contiguous
            and X.flags.writeable
            and ranges.is_finite(X)
        )

    # --- parameters and samples -----------------------------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        """Parameters of the constructor by their names, as given by the user."""
        return {name: getattr(self, name) for name in self._parameter_constraints}

    def _validate_params(self) -> None:
        constraints.check_parameters(self._parameters(), self._parameter_constraints, type(self).__name__)

    def _validate_changed(self, parameters: dict[str, Any]) -> None:
        """Validate the parameters of a later `partial_fit`, which scikit-learn skips for speed, if any was set."""
        before = self.__dict__.get("_parameters_before", {})
        if len(before) != len(parameters) or not all(map(operator.is_, before.values(), parameters.values())):
            self._validate_params()

    def _validate_samples(self, X: Any, *y: Any, **rules: Any) -> Any:
        """Validate as scikit-learn does, and the indices of sparse data as well, since kernels do not check them."""
        validated = validate_data(self, X, *y, accept_sparse=["csr", "csc"], **rules)
        X = validated[0] if y else validated
        if sparse.issparse(X):
            try:
                copy.copy(X).check_format()  # of a copy, since it may replace the arrays
            except ValueError as error:
                raise ValueError(f"X must be a sound sparse matrix: {error}") from None
        return validated

    # --- what a subclass defines ----------------------------------------------------------------------------------

    @abstractmethod
    def _loss(self) -> LossSettings:
        """Loss of the targets that were validated last."""

    @abstractmethod
    def _validate_input(self, X: Any, y: Any, *, incremental: bool, reset: bool) -> tuple[Any, Array]:
        """Validate X and y; return X and numeric targets."""

    @abstractmethod
    def _validate_validation(self, X: Any, y: Any) -> tuple[Any, Array]:
        """Validate X_val and y_val; return X_val and numeric targets."""

    @abstractmethod
    def _given_targets(self, y: Array) -> Array:
        """Convert numeric targets back to the form that the user gave, for scorers."""

    @abstractmethod
    def _validation_scorer(self, y: Array, sample_weight: Array | None) -> Callable[[Array], float]:
        """Return the function that scores outputs of the network for the held-out targets `y`."""

    def _check_loss(self) -> None:
        """Refuse a loss whose parameter is missing."""

    def _loss_targets(self, y: Array) -> Array:
        """Targets that the loss is computed with."""
        return y

    def _loss_weight(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        """Weights of the samples in the loss."""
        return sample_weight

    def _strata(self, y: Array) -> Array | None:
        """Labels to stratify the validation split by, or None."""
        return None

    # --- pickling, tags -------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        derived = ["_parameters_before"]
        if "_params" in state and self._current_params() is self._params:
            derived += ["coefs_", "intercepts_", "_views", "_layout"]
        return {key: value for key, value in state.items() if key not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_params" in state and "coefs_" not in state:
            self.__dict__.update(fitting.views_of(self._params))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


_OF_EPOCHS = (
    "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_", "validation_loss_curve_",
    "_no_improvement_count",
)  # fmt: skip
"""Attributes that only a fit by epochs has."""
