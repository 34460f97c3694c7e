"""Stochastic solvers of the estimators: an optimizer for each name."""

from collections.abc import Callable

from fastadam._typing import Array
from fastadam.buffers import FlatBuffer
from fastadam.cpu.stepper import HostStepper
from fastadam.estimators.settings import FitSettings
from fastadam.formulas import rules
from fastadam.formulas.network import Update
from fastadam.formulas.step import StepSpec
from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.settings import Number


class VelocitySGD(Optimizer):
    """Gradient descent with momentum in scikit-learn's form: each gradient enters the velocity times the current rate.

    PyTorch's form, which is `fastadam.SGD`, multiplies the whole buffer by the current rate. Both are the same as long
    as the rate is constant.
    """

    lr = Number("Step size.")
    momentum = Number("Weight of the velocity.")

    def __init__(self, params: FlatBuffer, lr: float = 1e-3, momentum: float = 0.9, nesterov: bool = True) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum}, {"nesterov": nesterov}, {})

    def _choose_rule(self) -> rules.Rule:
        return rules.VELOCITY_NESTEROV if self._flags["nesterov"] else rules.VELOCITY

    @property
    def learning_rate(self) -> float:
        """scikit-learn's name for `lr`."""
        return float(self.lr)


def _sgd(params: FlatBuffer, e: FitSettings) -> Optimizer:
    return VelocitySGD(params, e.learning_rate_init, e.momentum, e.nesterovs_momentum)


def _adam(params: FlatBuffer, e: FitSettings) -> Optimizer:
    return Adam(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon, epsilon_hat=True)


def _adamw(params: FlatBuffer, e: FitSettings) -> Optimizer:
    return AdamW(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon, weight_decay=e.alpha)


def _amsgrad(params: FlatBuffer, e: FitSettings) -> Optimizer:
    return Adam(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon, amsgrad=True)


def _lion(params: FlatBuffer, e: FitSettings) -> Optimizer:
    return Lion(params, e.learning_rate_init, (e.beta_1, e.beta_2), weight_decay=0.0)


def _with_betas_and_eps(kind: Callable[..., Optimizer]) -> Callable[[FlatBuffer, FitSettings], Optimizer]:
    return lambda params, e: kind(params, e.learning_rate_init, (e.beta_1, e.beta_2), e.epsilon)


SOLVERS: dict[str, Callable[[FlatBuffer, FitSettings], Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "nadam": _with_betas_and_eps(NAdam),
    "radam": _with_betas_and_eps(RAdam),
    "adamax": _with_betas_and_eps(Adamax),
    "amsgrad": _amsgrad,
    "lion": _lion,
    "rmsprop": lambda params, e: RMSprop(params, e.learning_rate_init, alpha=e.beta_2, eps=e.epsilon),
    "adagrad": lambda params, e: Adagrad(params, e.learning_rate_init, eps=e.epsilon),
    "adadelta": lambda params, e: Adadelta(params, e.learning_rate_init, rho=e.beta_2, eps=e.epsilon),
}
"""Optimizers in PyTorch's form, except for "sgd" and "adam", which are in scikit-learn's.

Only "adamw" applies the weight decay itself; with the others, the penalty is part of the loss.
"""


def make_optimizer(params: FlatBuffer, settings: FitSettings) -> Optimizer:
    """Make the optimizer of the solver."""
    return SOLVERS[settings.solver](params, settings)


def resumed(params: FlatBuffer, settings: FitSettings, before: Optimizer) -> Optimizer:
    """Make the optimizer with the state of an earlier one, unless that belongs to another solver."""
    optimizer = make_optimizer(params, settings)
    if type(before) is type(optimizer) and before.state.keys() == optimizer.state.keys():
        optimizer.load_state_dict(before.state_dict() | optimizer.settings)
    return optimizer


def decays_by_itself(solver: str) -> bool:
    """Whether the solver applies `alpha` as weight decay, and the loss has no penalty."""
    return solver == "adamw"


def update_of(optimizer: Optimizer, solver: str) -> Update:
    """Describe the step of the solver's optimizer for the engine."""
    decay = "decoupled" if decays_by_itself(solver) else "coupled"
    stepper = _host_stepper(optimizer)
    return Update(StepSpec(stepper.spec.rule, decay), stepper.state_addresses, group_of(optimizer))


def group_of(optimizer: Optimizer) -> Array:
    """Hyper-parameters of the optimizer in the form that the engine reads, and updates in each step."""
    return _host_stepper(optimizer).group_settings(0)


def _host_stepper(optimizer: Optimizer) -> HostStepper:
    """Stepper with the state that the engine trains: on the host, also for a network trained on a device."""
    assert isinstance(optimizer.stepper, HostStepper)
    return optimizer.stepper
