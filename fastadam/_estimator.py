"""What the estimators share: fitting under scikit-learn's contract.

Validation, fitted attributes, messages and warnings are scikit-learn's; the epochs are run by `trainer.py`, the network
by `network.py`.
"""

import copy
import math
import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise, zip_longest
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastadam._callbacks import EpochCallbacks
from fastadam._checks import real
from fastadam._lbfgs import minimize
from fastadam._model import TrainedNetwork, Validation
from fastadam._optimizer import Optimizer
from fastadam._rates import OF_ALL_SOLVERS, OF_SGD, Rate, rate_of
from fastadam._solvers import SOLVERS, decays_by_itself, go_on, make_optimizer, update_of
from fastadam.activations import ACTIVATIONS
from fastadam.buffers import FlatBuffer
from fastadam.engine import Engine
from fastadam.losses import LOSSES, predictions
from fastadam.network import Samples, as_samples, functions_of, layout_of, predict, samples_of_dense, shapes_of
from fastadam.trainer import Outcome, Plan, Progress, train

if TYPE_CHECKING:
    from fastadam.cuda.network import DeviceEngine

Array = NDArray[Any]


class Data(NamedTuple):
    """What is trained on, validated: targets have two dimensions."""

    X: Any
    y: Array
    sample_weight: Array | None
    loss_targets: Array
    """The targets as the loss is taken of them."""
    loss_weight: Array | None
    """The weights as the loss has them."""


class BaseMLP(CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What the regressor and the classifier share: everything but targets, loss and score."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), list, tuple],
        "solver": [StrOptions({"lbfgs", *SOLVERS})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({*OF_SGD, *OF_ALL_SOLVERS}), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "scoring": [str, callable, None],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "device": [StrOptions({"cpu", "cuda", "auto"})],
    }

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
        hidden = self._hidden_units()
        self._check_combinations(hidden, validation)
        continuing = hasattr(self, "coefs_") and (self.warm_start or incremental)
        given = X, y
        X, y = self._validate_input(X, y, incremental=incremental, reset=not continuing)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        given_val = self._validated(validation, y.shape[1])
        data = Data(X, y, sample_weight, self._loss_targets(y), self._loss_weight(y, sample_weight, incremental))
        random_state = self._random_stream(continuing)
        units = [X.shape[1], *hidden, y.shape[1]]
        params = self._continued(units, X.dtype) if continuing else self._started(units, X.dtype, random_state)
        self.out_activation_ = LOSSES[self._loss_name()].link
        if self.solver == "lbfgs":
            self._fit_lbfgs(params, data, EpochCallbacks(self, given, sample_weight, self.max_iter, self._copy_of_fit))
            self._random_state, self._seed = random_state, self.random_state
            return self
        optimizer, progress = self._start(params, continuing, random_state)
        progress.order, held_out = self._split(progress, y, random_state, given_val is None)

        def keep() -> None:
            self._keep_for_later(optimizer, progress, held_out, random_state)

        def fitted_copy() -> dict[str, Any]:
            keep()
            return self._copy_of_fit()

        epochs = 1 if incremental else self.max_iter
        callbacks = EpochCallbacks(self, given, sample_weight, epochs, fitted_copy)
        samples = as_samples(X, params.dtype, data.loss_targets, data.loss_weight)
        with self._engine(optimizer, samples, progress) as engine:
            model = TrainedNetwork(params, optimizer, engine)
            if given_val is not None:
                self._watch(model, _validation_of(*given_val, params.dtype), progress, was_given=True)
            elif held_out is not None:
                self._watch(model, self._held_out(data, samples, held_out), progress, was_given=False)
            outcome = self._train(model, optimizer, progress, random_state, callbacks, epochs)
        keep()
        self._report(outcome, incremental)
        return self

    def _held_out(self, data: Data, samples: Samples, rows: Array) -> Validation:
        """The validation data that are a part of the user's own."""
        weight = None if data.sample_weight is None else data.sample_weight[rows]
        if self.scoring is None:  # the targets alone are needed, and the rest is among the samples
            return Validation(samples, rows, None, data.y[rows], weight)
        return _validation_of(data.X[rows], data.y[rows], weight, samples.y.dtype)

    def _engine(self, optimizer: Optimizer, samples: Samples, progress: Progress) -> "Engine | DeviceEngine":
        """What trains the optimizer's parameters on these samples."""
        params: FlatBuffer = optimizer.params  # type: ignore[assignment]
        assert progress.order is not None
        n_rows, dropout = progress.order.size, float(self.dropout)
        if self._trains_on_device(samples):
            return self._device_engine(params, optimizer, samples, n_rows)
        layout = layout_of(params, self._activations(params), training=True, dropout=dropout > 0)
        return Engine(
            params, layout, samples, self._loss_name(), update_of(optimizer, self.solver), n_rows,
            self._checked_batch_size(n_rows), self.n_threads,
            alpha=0.0 if decays_by_itself(self.solver) else self.alpha,
            loss_setting=self._loss_setting(params.dtype),
            clip_norm=self.clip_norm, dropout=dropout, seed=progress.seed,
        )  # fmt: skip

    def _trains_on_device(self, samples: Samples) -> bool:
        """Whether to train on a CUDA device; raises where that is asked for and not to be had."""
        if self.device == "cpu":
            return False
        asked = samples, self._loss_name(), self.clip_norm, float(self.dropout)
        if self.device == "auto":
            from fastadam.cuda import is_available

            if not is_available():
                return False
        from fastadam.cuda.network import refusal

        reason = refusal(*asked)
        if reason and self.device == "cuda":
            raise NotImplementedError(f"device='cuda' does not have {reason}; or use device='cpu'")
        return not reason

    def _device_engine(self, params: FlatBuffer, optimizer: Optimizer, samples: Samples, n_rows: int) -> "DeviceEngine":
        from fastadam.cuda.network import DeviceEngine

        return DeviceEngine(
            params, self._activations(params), samples, self._loss_name(), update_of(optimizer, self.solver), n_rows,
            self._checked_batch_size(n_rows),
            alpha=0.0 if decays_by_itself(self.solver) else self.alpha,
            loss_setting=self._loss_setting(params.dtype),
        )  # fmt: skip

    def _watch(self, model: TrainedNetwork, data: Validation, progress: Progress, *, was_given: bool) -> None:
        """Let the network be scored on validation data, and its loss on them be taken if the user gave them."""
        params, loss, setting = model.params, self._loss_name(), self._loss_setting(model.params.dtype)
        layout = layout_of(params, self._activations(params))
        if was_given or self.scoring == "loss":
            loss_of = partial(data.loss, layout, params, loss, setting)
            model.loss = loss_of if was_given else None
        if not self.early_stopping:
            return
        model.best = (self._params if progress.scores else params).copy()
        if self.scoring is None:
            scorer = self._validation_scorer(data.y, data.weight)
            model.score = lambda: scorer(data.predictions(layout, params, loss))
        elif self.scoring == "loss":
            model.score = lambda: -loss_of()
        else:
            model.score = self._users_scorer(data)

    def _users_scorer(self, data: Validation) -> Callable[[], float]:
        """What scores the estimator as it is now by its own `scoring`."""
        from sklearn.metrics import check_scoring

        given = {} if data.weight is None else {"sample_weight": data.weight}

        def score() -> float:
            fitted = copy.copy(self)
            fitted.__dict__.pop("feature_names_in_", None)  # they are no longer there on what was validated
            try:
                value = scorer(fitted, data.X, self._given_targets(data.y), **given)
            except AttributeError as error:  # as of probabilities, which a regressor has none of
                raise ValueError(f"scoring={self.scoring!r} does not go with this estimator: {error}") from error
            try:
                return float(value)
            except (TypeError, ValueError):
                raise TypeError(f"scoring must give a number, got {value!r}") from None

        scorer = check_scoring(self, self.scoring)
        return score

    def _validated(self, given: tuple[Any, Any, Any], n_outputs: int) -> tuple[Any, Array, Array | None] | None:
        """The user's own validation data, checked."""
        X, y, weight = given
        if X is None:
            return None
        try:
            X, y = self._validate_validation(X, y)
            y = y.reshape(-1, 1) if y.ndim == 1 else y
            if y.shape[1] != n_outputs:
                raise ValueError(f"y has {y.shape[1]} outputs, but {n_outputs} are trained")
            weight = None if weight is None else _check_sample_weight(weight, X, dtype=X.dtype)
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
        """Run the epochs, with the fitted attributes up to date after each; then keep the best."""
        rate, self.n_iter_ = rate_of(self), 0

        def end_epoch() -> bool:
            self.n_iter_ += 1
            self._publish(model.params, progress)
            self._print_epoch(progress)
            optimizer.lr = rate.at(progress)
            return callbacks.end_epoch()

        def stalled() -> bool:
            lowered = rate.lower(progress)
            optimizer.lr = rate.at(progress)
            self._print_stalled(rate, lowered, optimizer.lr)
            return not lowered

        optimizer.lr = rate.at(progress)
        self._publish(model.params, progress)
        max_time = math.inf if self.max_time is None else float(self.max_time)
        plan = Plan(epochs, self.shuffle, self.tol, self.n_iter_no_change, max_time)
        outcome = train(model, progress, plan, random_state, callbacks.begin_epoch, end_epoch, stalled)
        if model.best is not None:
            self._publish(model.best, progress)
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

        self._use_params(params)
        activations, setting = self._activations(params), self._loss_setting(np.float64)
        try:
            self.loss_, self.n_iter_ = minimize(
                params, activations, (data.X, data.loss_targets, data.loss_weight), self._loss_name(), setting,
                alpha=self.alpha, max_iter=self.max_iter, max_fun=self.max_fun, tol=self.tol, verbose=self.verbose,
                n_threads=self.n_threads, callback=end_iteration,
            )  # fmt: skip
        except KeyboardInterrupt:
            self._report(Outcome.INTERRUPTED, incremental=False)
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
        names = ["_params", "_optimizer", "_progress", "_random_state", "random_state"]
        names += ["loss_curve_", "validation_loss_curve_", "validation_scores_"]
        copies: dict[str, Any] = copy.deepcopy({name: vars(self)[name] for name in names if name in vars(self)})
        return copies | _views_of(copies["_params"])

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
        if (progress.scores is None) == self.early_stopping:  # early stopping was switched on or off since
            progress.scores = [] if self.early_stopping else None
            progress.best_score = -np.inf
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
        self._check_same_layers(units)
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

    def _keep_for_later(
        self,
        optimizer: Optimizer,
        progress: Progress,
        validation: Array | None,
        random_state: np.random.RandomState,
    ) -> None:
        """Remember what a warm start or the next `partial_fit` continues from."""
        self._optimizer = optimizer
        self._progress = progress.copy()
        self._validation = validation if self.warm_start else None
        if not self.warm_start:  # only a warm start goes on with the order, which is as long as the data
            self._progress.order = None
        self._random_state, self._seed = random_state, self.random_state
        self._parameters_before = self._parameters()

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

    # --- checks and messages --------------------------------------------------------------------------------------

    def _validate_params(self) -> None:
        """scikit-learn's validation, of numbers as the floats that are computed with: of 10**400 that is inf."""
        constraints = self._parameter_constraints
        given = {
            name: _as_computed(value, constraints[name])
            for name, value in zip(constraints, self._parameters(), strict=True)
        }
        validate_parameter_constraints(constraints, given, caller_name=type(self).__name__)

    def _parameters(self) -> tuple[Any, ...]:
        """The values of the constructor's parameters, as they are now."""
        return tuple(getattr(self, name) for name in self._parameter_constraints)

    def _validate_changed_params(self) -> None:
        """Validate those that a later `partial_fit` has, which scikit-learn leaves out for the time it takes."""
        before = self.__dict__.get("_parameters_before", ())
        now = self._parameters()
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

    def _hidden_units(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") and getattr(sizes, "ndim", None) != 0 else [sizes]
        if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
            raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _check_combinations(self, hidden: list[int], validation: tuple[Any, Any, Any]) -> None:
        """Refuse what makes no sense together."""
        X_val, y_val, sample_weight_val = validation
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together, or neither of them")
        if X_val is None and sample_weight_val is not None:
            raise ValueError("sample_weight_val needs X_val and y_val")
        self._check_activations(len(hidden))
        if self.solver == "lbfgs":
            refused = {
                "dropout": self.dropout > 0, "clip_norm": self.clip_norm is not None, "X_val": X_val is not None,
                "max_time": self.max_time is not None, "warmup_epochs": self.warmup_epochs > 0,
                "learning_rate": self.learning_rate not in OF_SGD, "device": self.device == "cuda",
            }  # fmt: skip
            for name, is_set in refused.items():
                if is_set:
                    raise ValueError(f"{name} is of the stochastic solvers alone, got solver='lbfgs'")

    def _check_activations(self, hidden: int) -> tuple[str, ...]:
        """The activation of each of so many hidden layers."""
        of_each = isinstance(self.activation, list | tuple)
        names = tuple(self.activation) if of_each else (self.activation,) * hidden
        unknown = [name for name in names if not isinstance(name, str) or name not in ACTIVATIONS]
        if unknown:
            raise ValueError(f"activation must have names among {sorted(ACTIVATIONS)}, got {unknown[0]!r}")
        if len(names) != hidden:
            raise ValueError(f"activation must have a name for each of the {hidden} hidden layers, got {names}")
        return names

    def _activations(self, params: FlatBuffer) -> tuple[str, ...]:
        """The activation of each hidden layer of a network with these parameters."""
        return self._check_activations(len(params) // 2 - 1)

    def _check_same_layers(self, units: list[int]) -> None:
        fitted = [np.shape(self.coefs_[0])[0], *(np.shape(coef)[1] for coef in self.coefs_)]
        if units != fitted:
            raise ValueError(
                f"The model was fitted with {fitted[1:-1]} hidden units and {fitted[-1]} outputs; going on with "
                f"{units[1:-1]} hidden units and {units[-1]} outputs needs a new fit with warm_start=False."
            )

    def _checked_batch_size(self, n_samples: int) -> int:
        if isinstance(self.batch_size, str):  # "auto"
            return min(200, n_samples)
        if self.batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
            )
        return min(int(self.batch_size), n_samples)

    def _check_finite(self) -> None:
        if not np.isfinite(self._params.flat).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to"
                " be preprocessed."
            )

    def _print_epoch(self, progress: Progress) -> None:
        if not self.verbose:
            return
        print(f"Iteration {self.n_iter_}, loss = {progress.losses[-1]:.8f}")
        if progress.scores is not None:
            print(f"Validation score: {progress.scores[-1]:f}")

    def _print_stalled(self, rate: Rate, lowered: bool, lr: float) -> None:
        if not self.verbose:
            return
        what = "Validation score" if self.early_stopping else "Training loss"
        consequence = f"Setting learning rate to {lr:f}" if lowered else rate.last_words
        print(
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
            f" {consequence}"
        )

    def _report(self, outcome: Outcome, incremental: bool) -> None:
        if outcome is Outcome.MAX_ITER and not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't"
                " converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )
        elif outcome is Outcome.MAX_TIME and not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum time ({self.max_time} s) reached and the optimization hasn't"
                " converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )
        elif outcome is Outcome.INTERRUPTED:
            warnings.warn("Training interrupted by user.", stacklevel=2)

    # --- predicting, pickling -------------------------------------------------------------------------------------

    def _forward(self, X: Any) -> Array:
        """Outputs of the network, shape (n_samples, n_outputs), in the type of the parameters."""
        as_given = self._needs_no_conversion(X)
        if not as_given:
            check_is_fitted(self)
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


def _validation_of(X: Any, y: Array, weight: Array | None, dtype: Any) -> Validation:
    return Validation(as_samples(X, dtype, y, weight), np.arange(X.shape[0]), X, y, weight)


def _as_computed(value: Any, constraints: list[Any]) -> Any:
    """A parameter as scikit-learn should look at it: as a float, if it may be any number of an interval."""
    types = {rule.type for rule in constraints if isinstance(rule, Interval)}
    if types and isinstance(value, np.timedelta64):  # it says that it is an integer, and cannot be compared with one
        return repr(value)
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return real("", value) if is_number and Real in types else value


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
