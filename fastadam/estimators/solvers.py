"""The estimators' stochastic solvers: an optimizer for each name, from the estimators' parameters."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fastadam._typing import Array
from fastadam.buffers import FlatBuffer
from fastadam.cpu.stepper import HostStepper
from fastadam.formulas import rules
from fastadam.formulas.network import Update
from fastadam.formulas.step import StepSpec
from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.settings import Number


class VelocitySGD(Optimizer):
    """Gradient descent with momentum in scikit-learn's form, whose velocity keeps the rate of the steps it was made by.

    PyTorch's, which is `fastadam.SGD`, multiplies the whole buffer by the rate of the day. They are the same as long as
    the rate is.
    """

    lr = Number("Step size.")
    momentum = Number("Weight of the velocity.")

    def __init__(self, params: FlatBuffer, lr: float = 1e-3, momentum: float = 0.9, nesterov: bool = True) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum}, {"nesterov": nesterov}, {})

    def _choose_rule(self) -> rules.Rule:
        return rules.VELOCITY_NESTEROV if self._flags["nesterov"] else rules.VELOCITY

    @property
    def learning_rate(self) -> float:
        """scikit-learn's name of `lr`."""
        return float(self.lr)


def _sgd(params: FlatBuffer, e: Any) -> Optimizer:
    return VelocitySGD(params, e.learning_rate_init, e.momentum, bool(e.nesterovs_momentum))


def _adam(params: FlatBuffer, e: Any) -> Optimizer:
    return Adam(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon, epsilon_hat=True)


def _adamw(params: FlatBuffer, e: Any) -> Optimizer:
    return AdamW(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon, weight_decay=e.alpha)


def _amsgrad(params: FlatBuffer, e: Any) -> Optimizer:
    return Adam(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon, amsgrad=True)


def _with_betas_and_eps(kind: Callable[..., Optimizer]) -> Callable[[FlatBuffer, Any], Optimizer]:
    return lambda params, e: kind(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon)


SOLVERS: dict[str, Callable[[FlatBuffer, Any], Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "nadam": _with_betas_and_eps(NAdam),
    "radam": _with_betas_and_eps(RAdam),
    "adamax": _with_betas_and_eps(Adamax),
    "amsgrad": _amsgrad,
    "lion": lambda params, e: Lion(params, e.learning_rate_init, (e.beta_1, e.beta_2), weight_decay=0.0),
    "rmsprop": lambda params, e: RMSprop(params, e.learning_rate_init, alpha=e.beta_2, eps=e.epsilon),
    "adagrad": lambda params, e: Adagrad(params, e.learning_rate_init, eps=e.epsilon),
    "adadelta": lambda params, e: Adadelta(params, e.learning_rate_init, rho=e.beta_2, eps=e.epsilon),
}
"""Forms are PyTorch's but for scikit-learn's own two. AdamW alone decays by itself: with the others, the penalty is
part of the loss."""

_NUMBERS = ("learning_rate_init", "alpha", "momentum", "nesterovs_momentum", "beta_1", "beta_2", "epsilon")
"""The estimators' parameters that these take."""


def make_optimizer(params: FlatBuffer, estimator: Any) -> Optimizer:
    """The optimizer of the estimator's solver, with the estimator's parameters."""
    numbers = {name: float(getattr(estimator, name)) for name in _NUMBERS}  # True is 1 to scikit-learn
    return SOLVERS[estimator.solver](params, SimpleNamespace(**numbers))


def resumed(params: FlatBuffer, estimator: Any, before: Optimizer) -> Optimizer:
    """The same with the state of an earlier optimizer, unless that was of another solver."""
    optimizer = make_optimizer(params, estimator)
    if type(before) is type(optimizer) and before.state.keys() == optimizer.state.keys():
        optimizer.load_state_dict(before.state_dict() | optimizer.settings)
    return optimizer


def decays_by_itself(solver: str) -> bool:
    """Whether `alpha` is the solver's own business, and no part of the loss."""
    return solver == "adamw"


def update_of(optimizer: Optimizer, solver: str) -> Update:
    """The step of the solver's optimizer as the engine makes it."""
    decay = "decoupled" if decays_by_itself(solver) else "coupled"
    stepper = _host_stepper(optimizer)
    return Update(StepSpec(stepper.spec.rule, decay), stepper.state_addresses, group_of(optimizer))


def group_of(optimizer: Optimizer) -> Array:
    """The optimizer's hyper-parameters as the engine reads them, and changes those that a step changes."""
    return _host_stepper(optimizer).group_settings(0)


def _host_stepper(optimizer: Optimizer) -> HostStepper:
    """Where the state is that the engine trains: on the host, also for a network trained on a device."""
    assert isinstance(optimizer.stepper, HostStepper)
    return optimizer.stepper
