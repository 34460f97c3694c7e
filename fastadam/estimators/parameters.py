"""Parameters of the estimators: allowed values, separately and in combination, and the descriptions in docstrings."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints

from fastadam._checks import real
from fastadam.estimators.learning_rates import OF_ALL_SOLVERS, OF_SGD
from fastadam.estimators.settings import FitSettings
from fastadam.estimators.solvers import SOLVERS
from fastadam.formulas.activations import ACTIVATIONS

Estimator = TypeVar("Estimator")

PARAMETER_CONSTRAINTS: dict[str, Any] = {
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
"""Constraints on the parameters that regressor and classifier share."""


def check_parameters(parameters: Mapping[str, Any], rules: Mapping[str, Any], caller_name: str) -> None:
    """Validate as scikit-learn does, but each number as the float that is computed with, which is inf for 10**400."""
    values = {name: _as_computed(parameters[name], rules[name]) for name in rules}
    validate_parameter_constraints(rules, values, caller_name=caller_name)


def _as_computed(value: Any, rules: list[Any]) -> Any:
    """Convert a parameter to a float if that has another value or is not of a common type."""
    types = {rule.type for rule in rules if isinstance(rule, Interval)}
    if types and isinstance(value, np.timedelta64):  # registered as an integer, but not comparable with one
        return repr(value)
    if Real not in types or not isinstance(value, Real) or isinstance(value, bool):
        return value
    computed = real("", value)  # type: ignore[arg-type]
    return value if computed == value and isinstance(value, int | float | np.generic) else computed


def check_validation_data(X_val: Any, y_val: Any, sample_weight_val: Any) -> None:
    """Refuse validation data of which a part is missing."""
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val must be given together, or neither of them")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val needs X_val and y_val")


def check_lbfgs(settings: FitSettings, X_val: Any) -> None:
    """Refuse parameters and validation data that solver="lbfgs" does not support."""
    refused = {
        "dropout": settings.dropout > 0, "clip_norm": settings.clip_norm is not None, "X_val": X_val is not None,
        "max_time": settings.max_time is not None, "warmup_epochs": settings.warmup_epochs > 0,
        "learning_rate": settings.learning_rate not in OF_SGD, "device": settings.device == "cuda",
    }  # fmt: skip
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(f"{name} is only supported by the stochastic solvers, got solver='lbfgs'")


def check_same_layers(coefs: Sequence[Any], units: list[int]) -> None:
    """Refuse to continue training with other layers than those of the fitted network."""
    fitted = [np.shape(coefs[0])[0], *(np.shape(coef)[1] for coef in coefs)]
    if units != fitted:
        raise ValueError(
            f"The model was fitted with {fitted[1:-1]} hidden units and {fitted[-1]} outputs; continuing with "
            f"{units[1:-1]} hidden units and {units[-1]} outputs needs a new fit with warm_start=False."
        )


def batch_rows(batch_size: int | str, n_samples: int) -> int:
    """Return the number of samples in a batch."""
    if isinstance(batch_size, str):  # "auto"
        return min(200, n_samples)
    if batch_size > n_samples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(batch_size), n_samples)


# --- docstrings -------------------------------------------------------------------------------------------------------

_SCIKIT_LEARNS_PARAMETERS = """\
hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
    Number of units in each hidden layer.
activation : str or list of str, default="relu"
    Activation function of all hidden layers, or a list with one for each layer. "identity", "logistic", "tanh" and
    "relu" are scikit-learn's; the others are "leaky_relu" (slope 0.01), "elu", "softplus", "silu", "gelu" (exact) and
    "mish".
solver : str, default="adam"
    Solver that optimizes the weights. scikit-learn's are "adam"; "sgd", with its form of momentum; and "lbfgs", which
    is SciPy's L-BFGS-B over all samples at once, computed in float64. The others have PyTorch's form: "adamw", "nadam",
    "radam", "adamax", "amsgrad", "lion", "rmsprop", "adagrad" and "adadelta".
alpha : float, default=1e-4
    Strength of the L2 penalty, which is 0.5 * alpha * sum(W**2) divided by the number of samples in a batch. Biases are
    not penalized. With solver="adamw", each step multiplies the weights by 1 - learning rate * alpha instead, and the
    loss has no penalty.
batch_size : int or "auto", default="auto"
    Number of samples in a batch; "auto" is min(200, n_samples). The last batch of an epoch may be smaller.
learning_rate : str or callable, default="constant"
    Schedule of the step size over the epochs. "invscaling" and "adaptive" are only used with solver="sgd" and ignored
    otherwise, as in scikit-learn. All stochastic solvers support "cosine" and "linear", which decrease from
    `learning_rate_init` towards 0 over `max_iter` epochs, counted over all calls; "one_cycle", which increases to it
    first; and "plateau", which divides the rate by 10 if nothing has improved by `tol` for half of `n_iter_no_change`
    epochs. A callable returns the rate of an epoch given its index, which starts at 0; those of `fastadam.schedules`
    are examples.
learning_rate_init : float, default=1e-3
    Step size; with a schedule, its initial value, or its maximum for "one_cycle". Not used if `learning_rate` is a
    callable.
power_t : float, default=0.5
    Exponent of learning_rate="invscaling". Only used with solver="sgd".
max_iter : int, default=200
    Maximum number of epochs, or of iterations with solver="lbfgs".
shuffle : bool, default=True
    Whether to shuffle the samples in each epoch.
random_state : int, RandomState instance or None, default=None
    Determines the initial weights, the validation split and the order of the samples, which are drawn in the same
    sequence as by scikit-learn.
tol : float, default=1e-4
    Smallest decrease of the loss, or increase of the validation score, that counts as an improvement. With
    solver="lbfgs", tolerance of the gradient.
verbose : bool, default=False
    Whether to print the loss of each epoch.
warm_start : bool, default=False
    Whether `fit` continues from the previous call of `fit`, with its weights, moments, random stream and counters. Two
    fits of n epochs give the same bits as one of 2 n epochs.
momentum : float, default=0.9
    Momentum of the updates. Only used with solver="sgd".
nesterovs_momentum : bool, default=True
    Whether to use Nesterov's momentum. Only used with solver="sgd".
early_stopping : bool, default=False
    Whether to stop when the {score} on validation data stops improving, and keep the best weights. The data are
    samples held out from X, or X_val if `fit` is given them.
validation_fraction : float, default=0.1
    Fraction of the samples to hold out. Only used with `early_stopping`.
beta_1 : float, default=0.9
    Decay rate of the first moment in Adam and its variants.
beta_2 : float, default=0.999
    Decay rate of the second moment in Adam and its variants, and in "rmsprop" and "adadelta".
epsilon : float, default=1e-8
    Term added to the denominator for numerical stability; with solver="adam", to the square root of the second moment
    before bias correction.
n_iter_no_change : int or np.inf, default=10
    Training stops after more than this number of consecutive epochs without improvement.
max_fun : int, default=15000
    Maximum number of evaluations of the loss. Only used with solver="lbfgs"."""

_FURTHER_PARAMETERS = """\
warmup_epochs : int, default=0
    Number of epochs over which the learning rate increases to its initial value in even steps.
clip_norm : float or None, default=None
    Maximum Euclidean norm of the gradient, including that of the penalty; a larger gradient is scaled down to it.
dropout : float, default=0.0
    Fraction of hidden units, in [0, 1), dropped at each step, independently per sample; the remaining units are scaled
    up. The units are drawn from `random_state`. Predictions use all units.
scoring : str, callable or None, default=None
    Score that early stopping monitors: None for the {score}, "loss" for the negative loss without penalty, or any
    scorer of scikit-learn.
max_time : float or None, default=None
    Maximum time of training in seconds, not counting compilation; a ConvergenceWarning tells that it was reached. An
    epoch that takes longer than a moment (0.1 s) is then abandoned after a completed step: `coefs_` belong to that
    step, whereas `n_iter_`, `t_` and `loss_curve_` count completed epochs only, and `loss_` is that of the last one.
    Without a completed epoch, `n_iter_` is 0 and `loss_` the mean over the completed steps, or NaN without any.
n_threads : int or None, default=None
    Number of threads to train on, which scikit-learn does not have. None uses as many as the work of a step is worth,
    within the cores of the process, its CPU quota and limits such as `OMP_NUM_THREADS` (docs/deploy.md lists them);
    concurrent fits share them. The model is the same, to the bit, for any number of threads.
device : {{"cpu", "cuda", "auto"}}, default="cpu"
    Device to train on. "cuda" is an NVIDIA GPU, which needs the extra `cuda`; "auto" uses one if available. With both,
    `fit` also accepts arrays on the device, such as those of CuPy and PyTorch, and trains on a floating-point X in
    place. The fitted attributes are arrays on the host. Predictions are computed where X lies and returned as arrays of
    its library."""

_ATTRIBUTES = """\
coefs_ : list of ndarray of shape (fan_in, fan_out)
    Weight matrices of the layers, in the dtype of the training data. All are views of one buffer.
intercepts_ : list of ndarray of shape (fan_out,)
    Bias vectors of the layers.
n_iter_ : int
    Number of epochs in the last fit.
t_ : int
    Number of samples seen in training, over all calls.
loss_ : float
    Loss of the last epoch: the mean over its batches, weighted by their samples, each computed before its update.
loss_curve_ : list of float
    Loss of each epoch, over all calls.
best_loss_ : float or None
    Minimum loss over the epochs; None with early stopping.
validation_loss_curve_ : list of float
    Loss on X_val after each epoch, without penalty, over all calls. Only available if `fit` was given X_val.
validation_scores_ : list of float or None
    Score on the validation data after each epoch, the {score} by default; None without early stopping.
best_validation_score_ : float or None
    Maximum validation score; None without early stopping.
n_features_in_ : int
    Number of features seen in `fit`.
feature_names_in_ : ndarray of shape (n_features_in_,)
    Names of the features seen in `fit`. Only available if X has feature names that are all strings.
n_layers_ : int
    Number of layers, including input and output.
n_outputs_ : int
    Number of outputs."""


def documented(score: str) -> Callable[[type[Estimator]], type[Estimator]]:
    """Decorate an estimator: fill the shared descriptions into its docstring.

    The docstring has a line `{scikit_learns_parameters}`, `{further_parameters}` or `{attributes}` for each.

    Parameters
    ----------
    score : str
        Name of the estimator's default score.
    """

    def fill(cls: type[Estimator]) -> type[Estimator]:
        if cls.__doc__ is not None:  # python -OO has none
            shared = {
                "scikit_learns_parameters": _SCIKIT_LEARNS_PARAMETERS,
                "further_parameters": _FURTHER_PARAMETERS,
                "attributes": _ATTRIBUTES,
            }
            doc = inspect.cleandoc(cls.__doc__)
            for name, text in shared.items():
                doc = doc.replace(f"{{{name}}}", text.format(score=score))
            cls.__doc__ = doc
        return cls

    return fill
