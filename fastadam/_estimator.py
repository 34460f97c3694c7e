"""What the estimators share: fitting under scikit-learn's contract.

Validation, fitted attributes, messages and warnings are scikit-learn's; the epochs are run by `trainer.py`, the network
by `network.py`.
"""

import copy
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, zip_longest
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fastadam import _constraints as constraints
from fastadam._arrays import is_device_array
from fastadam._callbacks import EpochCallbacks
from fastadam._device import checked, is_resident, on_host, samples_of
from fastadam._device import predict as predict_on_device
from fastadam._lbfgs import minimize
from fastadam._messages import compiling_is_printed, print_epoch, print_stalled, warn_of
from fastadam._model import Data, TrainedNetwork, engine_of, held_out_of, validation_of, watch
from fastadam._optimizer import Optimizer
from fastadam._ranges import (
    NON_FINITE_PARAMETERS,
    NonFiniteError,
    check_fits,
    check_loss,
    check_numbers,
    check_predictions,
    check_training,
    checked_weights,
    is_finite,
    naming_what_is_large,
    scaled,
    warn_if_untrained,
)
from fastadam._rates import rate_of
from fastadam._solvers import SOLVERS, go_on, make_optimizer
from fastadam.buffers import FlatBuffer
from fastadam.losses import LOSSES, predictions
from fastadam.network import as_samples, functions_of, layout_of, predict, samples_of_dense, shapes_of
from fastadam.trainer import Outcome, Plan, Progress, train

Array = NDArray[Any]


class BaseMLP(CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What the regressor and the classifier share: everything but targets, loss and score."""

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
            The input data. float32 data is trained in float32, everything else in float64.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights.
        X_val, y_val : array-like, default=None
            Validation data, as X and y: `validation_loss_curve_` is the loss on them, and with `early_stopping` they
            are scored, in place of a part of X that is held out.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Weights of the validation samples, in that loss and in the score.

        Returns
        -------
        self : object
            The fitted model. When an error is raised, the estimator is as it was before.
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
        """Put the attributes back if fitting fails; in place, it changes only a random stream of the user's own."""
        before = self.__dict__.copy()
        stream = self.random_state if isinstance(self.random_state, np.random.RandomState) else None
        drawn = None if stream is None else stream.get_state()
        try:
            yield
        except BaseException:
            callbacks = {name: value for name, value in self.__dict__.items() if "_callback" in name}
            self.__dict__.clear()
            self.__dict__.update(before | callbacks)  # scikit-learn has yet to tear the callbacks down
            if stream is not None and drawn is not None:
                stream.set_state(drawn)
            raise

    # --- fitting ------------------------------------------------------------------------------------------------

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, Any, Any] = (None,) * 3, *, incremental: bool
    ) -> Self:
        if incremental:
            self._validate_changed_params()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        hidden = constraints.hidden_units(self.hidden_layer_sizes)
        self._check_combinations(len(hidden), validation)
        if incremental and self._is_resuming():  # one more epoch, and not the rest of the fit
            self.__dict__.update(self._kept_after_fit())
            del self._resumes
        continuing = hasattr(self, "coefs_") and (self.warm_start or incremental or self._is_resuming())
        given = X, y
        X, y, sample_weight = checked(self, X, y, sample_weight, incremental=incremental, reset=not continuing)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        given_val = self._validated(validation, y.shape[1])
        data = self._data(X, y, sample_weight, incremental)
        random_state = self._random_stream(continuing)
        units = [X.shape[1], *hidden, y.shape[1]]
        params = self._continued(units, X.dtype) if continuing else self._started(units, X.dtype, random_state)
        self._check_ranges(data, given_val, params.dtype)
        self.out_activation_ = LOSSES[self._loss_name()].link
        initial = [] if continuing else [params[name].copy() for name in params if name.startswith("b")]
        with naming_what_is_large(self, data), compiling_is_printed(self):
            if self.solver == "lbfgs":
                self._random_state, self._seed = random_state, self.random_state
                callbacks = EpochCallbacks(self, given, data.sample_weight, self.max_iter, self._copy_of_fit)
                self._fit_lbfgs(params, data, callbacks)
            else:
                optimizer, progress = self._start(params, continuing, random_state)
                self._fit_epochs(optimizer, progress, random_state, data, given, given_val, incremental)
                if initial and self.n_iter_:
                    warn_if_untrained(self, initial)
            check_predictions(self, X)
        self.__dict__.pop("_resumes", None)
        return self

    def _data(self, X: Any, y: Array, sample_weight: Any, incremental: bool) -> Data:
        """Validated X and y with their weights; extreme weights are scaled, and the penalty with them."""
        alpha = float(self.alpha)
        if sample_weight is not None:
            sample_weight, scale = checked_weights("sample_weight", sample_weight, X)
            alpha *= scale
        weight = self._loss_weight(y, sample_weight, incremental)
        if weight is not None and weight is not sample_weight:
            if not (incremental or weight.any()):
                raise ValueError(f"class_weight={self.class_weight!r} and sample_weight leave no weight but zero")
            weight, scale = scaled("the product of class_weight and sample_weight", weight)
            alpha *= scale
        return Data(X, y, sample_weight, self._loss_targets(y), weight, alpha)

    def _check_ranges(self, data: Data, given_val: tuple[Any, Array, Array | None] | None, dtype: Any) -> None:
        """Refuse what the type that is computed with cannot hold."""
        dtype = np.float64 if self.solver == "lbfgs" else dtype
        check_numbers(self, dtype)
        X_val, y_val, _ = given_val or (None,) * 3
        for name, values in {"X": data.X, "y": data.loss_targets, "X_val": X_val, "y_val": y_val}.items():
            check_fits(name, values, dtype)

    def _fit_epochs(
        self,
        optimizer: Optimizer,
        progress: Progress,
        random_state: np.random.RandomState,
        data: Data,
        given: tuple[Any, Any],
        given_val: tuple[Any, Array, Array | None] | None,
        incremental: bool,
    ) -> None:
        """Train epoch by epoch; at each end of one, the attributes are all that a later fit goes on from."""
        progress.order, held_out = self._split(progress, data.y, random_state, given_val is None)
        self._optimizer, self._progress, self._validation = optimizer, progress, held_out
        self._random_state, self._seed = random_state, self.random_state
        self.n_iter_: int = self.n_iter_ if self._is_resuming() else 0
        epochs = 1 if incremental else max(0, self.max_iter - self.n_iter_)
        callbacks = EpochCallbacks(self, given, data.sample_weight, epochs, self._copy_of_fit)
        params: FlatBuffer = optimizer.params  # type: ignore[assignment]
        samples = samples_of(data.X, params.dtype, data.loss_targets, data.loss_weight)
        with engine_of(self, optimizer, samples, progress, data.alpha) as engine:
            model = TrainedNetwork(params, optimizer, engine)
            if given_val is not None:
                watch(self, model, validation_of(*given_val, params.dtype), progress, was_given=True)
            elif held_out is not None:
                alone = self.scoring is not None or is_resident(data.X)
                rows = held_out_of(data, samples, held_out, alone=alone)
                watch(self, model, rows, progress, was_given=False)
            outcome = self._train(model, optimizer, progress, random_state, callbacks, epochs)
        self.__dict__.update(self._kept_after_fit())
        self._parameters_before = self._parameters()
        if not incremental or outcome in (Outcome.INTERRUPTED, Outcome.MAX_TIME):
            warn_of(outcome, self)

    def _validated(self, given: tuple[Any, Any, Any], n_outputs: int) -> tuple[Any, Array, Array | None] | None:
        """The user's own validation data, checked."""
        if given[0] is None:
            return None
        try:
            X, y, weight = map(on_host, ("X_val", "y_val", "sample_weight_val"), given)
            X, y = self._validate_validation(X, y)
            y = y.reshape(-1, 1) if y.ndim == 1 else y
            if y.shape[1] != n_outputs:
                raise ValueError(f"y has {y.shape[1]} outputs, but {n_outputs} are trained")
            if weight is not None:
                weight, _ = checked_weights("sample_weight_val", weight, X)
                if weight.sum(dtype=np.float64) == 0:
                    raise ValueError("sample_weight_val must not sum to zero")
        except ValueError as error:
            raise ValueError(f"X_val, y_val or sample_weight_val: {error}") from error
        return X, y, weight

    def _train(
        self,
        model: TrainedNetwork,
        optimizer: Any,
        progress: Progress,
        random_state: np.random.RandomState,
        callbacks: EpochCallbacks,
        epochs: int,
    ) -> Outcome:
        """Run the epochs, with the fitted attributes up to date after each; then show the best."""
        rate = rate_of(self)

        def set_rate() -> None:
            lr = rate.at(progress)
            if lr != optimizer.lr:  # to set it takes longer than a small epoch
                optimizer.lr = lr

        def report() -> None:
            self.n_iter_ += 1
            self._publish(model.params, progress)
            print_epoch(self, progress)
            set_rate()

        def stalled() -> bool:
            lowered = rate.lower(progress)
            set_rate()
            print_stalled(self, rate, lowered, optimizer.lr)
            return not lowered

        set_rate()
        self._publish(model.params, progress)
        max_time = math.inf if self.max_time is None else float(self.max_time)
        plan = Plan(epochs, self.shuffle, self.tol, self.n_iter_no_change, max_time)
        outcome = Outcome.CONVERGED
        if not progress.finished:
            outcome = train(
                model, progress, plan, random_state, callbacks.begin_epoch, report, stalled, callbacks.end_epoch
            )  # fmt: skip
        if not progress.losses:  # not even one epoch was made to its end
            self.loss_ = model.loss_so_far
        if progress.best is not None:
            self._publish(progress.best, progress)
        self._check_finite()
        callbacks.end_fit()
        return outcome

    def _fit_lbfgs(self, params: FlatBuffer, data: Data, callbacks: EpochCallbacks) -> None:
        """Let SciPy's L-BFGS-B minimise the loss over all samples."""
        for name in (*_OF_EPOCHS, "_optimizer", "_progress", "_validation"):
            self.__dict__.pop(name, None)
        self.t_, self.n_iter_ = 0, 0

        def end_iteration(loss: float) -> bool:
            callbacks.begin_epoch()
            self.n_iter_, self.loss_ = self.n_iter_ + 1, loss
            return callbacks.end_epoch()

        self.__dict__.setdefault("loss_", math.nan)  # of one that is interrupted before the first iteration
        self._use_params(params)
        activations, setting = self._activations(params), self._loss_setting(np.float64)
        try:
            self.loss_, self.n_iter_ = minimize(
                params, activations, (data.X, data.loss_targets, data.loss_weight), self._loss_name(), setting,
                alpha=data.alpha, max_iter=self.max_iter, max_fun=self.max_fun, tol=self.tol, verbose=self.verbose,
                n_threads=self.n_threads, callback=end_iteration,
            )  # fmt: skip
        except KeyboardInterrupt:
            warn_of(Outcome.INTERRUPTED, self)
        self._check_finite()
        callbacks.end_fit()

    def _publish(self, params: FlatBuffer, progress: Progress) -> None:
        """Set the fitted attributes; the arrays of `coefs_` and `intercepts_` are views of `params`."""
        if self.__dict__.get("_params") is not params:
            self._use_params(params)
        self.loss_curve_ = progress.losses
        self.t_ = progress.samples_seen
        self._no_improvement_count = progress.epochs_without_improvement  # scikit-learn's name, which is private there
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
        self.__dict__.update(_views_of(params))
        self.n_layers_ = len(self.coefs_) + 1
        self.n_outputs_ = self.intercepts_[-1].size

    def _copy_of_fit(self) -> dict[str, Any]:
        """Copies of all that further epochs change in place: with them, a copy of the estimator is independent."""
        names = ["_params", "_optimizer", "_random_state", "random_state"]
        names += ["loss_curve_", "validation_loss_curve_", "validation_scores_"]
        live = {name: vars(self)[name] for name in names if name in vars(self)}
        copies: dict[str, Any] = copy.deepcopy(live | self._kept_after_fit())
        return copies | _views_of(copies["_params"])

    def _kept_after_fit(self) -> dict[str, Any]:
        """What a warm start or the next `partial_fit` goes on from, but for the optimizer and the random stream.

        Only a warm start goes on with the order and the split of the samples, which are as long as the data.
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
        """Let the next `fit` finish the one that this estimator is a copy of; until then, show the best parameters."""
        self._resumes = True
        if self._progress.best is not None:
            self._publish(self._progress.best, self._progress)

    # --- what fitting starts from ---------------------------------------------------------------------------------

    def _start(
        self, params: FlatBuffer, continuing: bool, random_state: np.random.RandomState
    ) -> tuple[Optimizer, Progress]:
        """The optimizer of these parameters and the progress: new ones, or copies of those of the fit before.

        They are copies, so that a failure leaves those of the fit before untouched.
        """
        if not (continuing and hasattr(self, "_progress")):
            progress = Progress(scores=[] if self.early_stopping else None)
            if self.dropout > 0:  # without, nothing may be drawn that scikit-learn does not draw
                progress.seed = int(random_state.randint(2**31))
            return make_optimizer(params, self), progress
        progress = self._progress.copy()
        progress.finished = progress.finished and self._is_resuming()
        if (progress.scores is None) == self.early_stopping:  # early stopping was switched on or off since
            progress.scores = [] if self.early_stopping else None
            progress.best_score, progress.best = -np.inf, None
            progress.epochs_without_improvement = 0
        return go_on(params, self, self._optimizer), progress

    def _started(self, units: list[int], dtype: Any, random_state: np.random.RandomState) -> FlatBuffer:
        """Glorot's initial weights, drawn in float64 as scikit-learn draws them: weight, bias, layer by layer."""
        try:
            params = FlatBuffer.zeros(shapes_of(units), dtype)
        except (OverflowError, ValueError) as error:  # more than memory has addresses
            raise ValueError(f"hidden_layer_sizes is too large, got {units[1:-1]}: {error}") from error
        activations = self._activations(params)
        for k, (fan_in, fan_out) in enumerate(pairwise(units)):
            of_layer = activations[min(k, len(activations) - 1)] if activations else self.activation
            bound = np.sqrt((2.0 if of_layer == "logistic" else 6.0) / (fan_in + fan_out))
            params[f"W{k}"] = random_state.uniform(-bound, bound, (fan_in, fan_out))
            params[f"b{k}"] = random_state.uniform(-bound, bound, fan_out)
        return params

    def _continued(self, units: list[int], dtype: Any) -> FlatBuffer:
        """A copy of the parameters of the last epoch, or of those that the user has set since."""
        constraints.check_same_layers(self.coefs_, units)
        current = self._current_params(dtype)
        if current is self.__dict__.get("_params") and hasattr(self, "_optimizer"):
            return self._optimizer.params.copy()  # type: ignore
        return current.copy()

    def _current_params(self, dtype: Any = None) -> FlatBuffer:
        """The parameters that `coefs_` and `intercepts_` show, also where the user replaced an array of them.

        `dtype` is for weights that the user has set on an estimator that was never fitted.
        """
        params: FlatBuffer | None = self.__dict__.get("_params")
        shown = (*self.coefs_, *self.intercepts_)
        if params is not None:
            dtype = params.dtype
            if len(shown) == len(self._views) and all(a is b for a, b in zip(shown, self._views, strict=True)):
                return params
        shapes = shapes_of([self.n_features_in_, *map(np.size, self.intercepts_)])
        arrays = [array for layer in zip_longest(self.coefs_, self.intercepts_) for array in layer]
        given = [np.shape(array) for array in arrays]
        if given != list(shapes.values()):  # the kernels would read and write beyond them
            raise ValueError(
                f"coefs_ and intercepts_ must have, layer by layer, the shapes {list(shapes.values())} of a network "
                f"with {self.n_features_in_} features, got {given}"
            )
        return FlatBuffer.from_arrays(dict(zip(shapes, arrays, strict=True)), dtype)

    def _random_stream(self, continuing: bool) -> np.random.RandomState:
        """Continue the stream of an integer seed where the last call left it; else scikit-learn's own rule."""
        stream: np.random.RandomState = check_random_state(self.random_state)
        known = continuing and hasattr(self, "_seed")
        if known and isinstance(self.random_state, Integral) and self._seed == self.random_state:
            stream.set_state(self._random_state.get_state())
        elif self._is_resuming() and self.random_state is None:
            stream = copy.deepcopy(self._random_state)
        return stream

    def _split(
        self, progress: Progress, y: Array, random_state: np.random.RandomState, may_hold_out: bool
    ) -> tuple[Array, Array | None]:
        """Indices of the training samples, and of the validation samples if early stopping wants some of them.

        A warm start on as many samples goes on with the order and the split of the fit before.
        """
        n_samples = len(y)
        validation: Any = getattr(self, "_validation", None)
        held_out = 0 if validation is None else validation.size
        holds_out = self.early_stopping and may_hold_out
        same_split = (validation is not None) == holds_out
        if progress.order is not None and same_split and progress.order.size + held_out == n_samples:
            return progress.order, validation
        if self._is_resuming() and progress.order is not None:
            fitted = progress.order.size + held_out
            raise ValueError(
                f"The checkpoint is of a fit on {fitted} samples, and goes on with no other, got {n_samples}"
            )
        everything = np.arange(n_samples)
        if not holds_out:
            return everything, None
        from sklearn.model_selection import train_test_split  # a tenth of a second to import

        training, validation = train_test_split(
            everything,
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=self._strata(y),
        )
        if validation.size < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return training, validation

    @abstractmethod
    def _validate_input(self, X: Any, y: Any, *, incremental: bool, reset: bool) -> tuple[Any, Array]:
        """Return X and numeric targets, checked."""

    @abstractmethod
    def _loss_name(self) -> str:
        """The loss, by its name among `losses.LOSSES`."""

    @abstractmethod
    def _loss_setting(self, dtype: Any) -> float:
        """The loss's own number, if it has one."""

    @abstractmethod
    def _validate_validation(self, X: Any, y: Any) -> tuple[Any, Array]:
        """The same for validation data."""

    @abstractmethod
    def _given_targets(self, y: Array) -> Array:
        """The targets that a scorer wants, from those that the network has."""

    def _loss_targets(self, y: Array) -> Array:
        """The targets that the loss is to be taken of."""
        return y

    def _loss_weight(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        """The weights of the samples in the loss."""
        return sample_weight

    def _strata(self, y: Array) -> Array | None:
        """What the samples held out should be as frequent in as all are, if anything."""
        return None

    @abstractmethod
    def _validation_scorer(self, y: Array, sample_weight: Array | None) -> Callable[[Array], float]:
        """Return what scores the network's outputs for the held-out targets `y`."""

    def _validate_params(self) -> None:
        constraints.check_parameters(self)

    def _parameters(self) -> tuple[Any, ...]:
        """The values of the constructor's parameters, as they are now."""
        return tuple(getattr(self, name) for name in self._parameter_constraints)

    def _validate_changed_params(self) -> None:
        """Validate those that a later `partial_fit` has, which scikit-learn leaves out for the time it takes."""
        before, now = self.__dict__.get("_parameters_before", ()), self._parameters()
        if len(before) != len(now) or not all(map(operator.is_, before, now)):
            self._validate_params()

    def _validate_samples(self, X: Any, *y: Any, **rules: Any) -> Any:
        """scikit-learn's validation; and no index of sparse data may lie outside, which no kernel looks at."""
        validated = validate_data(self, X, *y, accept_sparse=["csr", "csc"], **rules)
        X = validated[0] if y else validated
        if sparse.issparse(X):
            try:
                copy.copy(X).check_format()  # of a copy, in which it may change the arrays for others
            except ValueError as error:
                raise ValueError(f"X must be a sound sparse matrix: {error}") from None
        return validated

    def _check_combinations(self, n_hidden: int, validation: tuple[Any, Any, Any]) -> None:
        """Refuse what makes no sense together."""
        constraints.check_combinations(self, n_hidden, validation)

    def _activations(self, params: FlatBuffer) -> tuple[str, ...]:
        """The activation of each hidden layer of a network with these parameters."""
        return constraints.activation_names(self.activation, len(params) // 2 - 1)

    def _check_finite(self) -> None:
        if not is_finite(self._params.flat):
            raise NonFiniteError(NON_FINITE_PARAMETERS)
        if self.solver != "lbfgs":
            check_training(self, self._optimizer, self._progress)
        else:
            check_loss(self.loss_, np.float64)

    # --- predicting, pickling -------------------------------------------------------------------------------------

    def _forward(self, X: Any) -> Array:
        """Outputs of the network, shape (n_samples, n_outputs), in the type of the parameters; they are where X is."""
        as_given = self._needs_no_conversion(X)
        if not as_given:
            check_is_fitted(self)
            if is_device_array(X):
                params = self._current_params()
                return predict_on_device(self, X, params, self._activations(params))
            X = self._validate_samples(X, reset=False)
        params = self._current_params()
        layout = self._layout if params is self.__dict__.get("_params") else layout_of(params)
        activations = self._activations(params)  # they may have been set after the fit
        layout = layout._replace(functions=functions_of(activations, params.dtype, False))
        samples = samples_of_dense(X) if as_given else as_samples(X, params.dtype)
        return predictions(self.out_activation_, predict(layout, params.flat, samples, np.arange(X.shape[0])))

    def _needs_no_conversion(self, X: Any) -> bool:
        """Whether X would pass scikit-learn's validation unchanged, which for one row takes longer than predicting."""
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
            and _all_finite(X)
        )

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        derived = ["_parameters_before"]
        if "_params" in state and self._current_params() is self._params:
            derived += ["coefs_", "intercepts_", "_views", "_layout"]
        return {key: value for key, value in state.items() if key not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_params" in state and "coefs_" not in state:
            self.__dict__.update(_views_of(self._params))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


_OF_EPOCHS = (
    "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_", "validation_loss_curve_",
    "_no_improvement_count",
)  # fmt: skip
"""Attributes of a fit by epochs."""


def _all_finite(X: Array) -> bool:
    """Whether the sum of X is finite; if it is not, X may still be, and takes the longer way."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(X.sum())


def _views_of(params: FlatBuffer) -> dict[str, Any]:
    """The attributes that show the parameters: `coefs_` and `intercepts_` are views of the one buffer."""
    coefs = [params[name] for name in params if name.startswith("W")]
    intercepts = [params[name] for name in params if name.startswith("b")]
    views, layout = (*coefs, *intercepts), layout_of(params)
    return {"_params": params, "coefs_": coefs, "intercepts_": intercepts, "_views": views, "_layout": layout}
