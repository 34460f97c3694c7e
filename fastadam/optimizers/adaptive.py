"""Optimizers with a learning rate for each element: RMSprop, Adagrad, Adadelta."""

from collections.abc import Mapping
from typing import Any, Unpack

from fastadam.cpu.arrays import Arrays
from fastadam.formulas import rules
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Number, Options, _keep_momentum, documented


@documented
class RMSprop(Optimizer):
    """RMSprop, optionally centered, and with momentum.

    Parameters
    ----------
    {params}
    lr : float, default=1e-2
        Learning rate, at least 0.
    alpha : float, default=0.99
        Decay rate of the average of squared gradients, at least 0.
    eps : float, default=1e-8
        Term added to the denominator, at least 0.
    {weight_decay}
    momentum : float, default=0.0
        Weight of the momentum buffer, at least 0. Groups can have their own, also if it is 0 for other groups.
    centered : bool, default=False
        Whether to divide by an estimate of the standard deviation of the gradient.
    {maximize}
    {options}

    Attributes
    ----------
    {attributes}

    Raises
    ------
    {raises}

    Notes
    -----
    Hinton, "Neural networks for machine learning", lecture 6e (2012); Graves, "Generating sequences with recurrent
    neural networks" (2013), for the centered form; form and defaults as in `torch.optim.RMSprop`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import RMSprop
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = RMSprop(p, centered=True)
    >>> for _ in range(500):
    ...     optimizer.step(2 * p)
    >>> bool(np.abs(p).max() < 0.1)
    True
    """

    __module__ = "fastadam"

    lr = Number("Learning rate.")
    alpha = Number("Decay rate of the average of squared gradients.")
    eps = Number("Term added to the denominator.")
    weight_decay = Number("Coupled weight decay.")
    momentum = Number("Weight of the momentum buffer; whether there is a buffer cannot be changed.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, numbers, {"centered": centered, "maximize": maximize}, options)

    def _choose_rule(self) -> rules.Rule:
        if self._flags["centered"] and self._options["state_dtype"] is not None:
            raise ValueError(
                f"state_dtype must be None with centered=True, got {self._options['state_dtype']!r}: the difference of "
                "two rounded averages can be negative"
            )
        moves = any(row["momentum"] > 0 for row in self._rows)
        if self._flags["centered"]:
            return rules.RMSPROP_CENTERED_MOMENTUM if moves else rules.RMSPROP_CENTERED
        return rules.RMSPROP_MOMENTUM if moves else rules.RMSPROP

    def _check_change(self, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
        _keep_momentum(self._rule, {**self._numbers, **numbers}, groups)


@documented
class Adagrad(Optimizer):
    """Adagrad: the rate of each element decreases with the sum of its squared gradients.

    Parameters
    ----------
    {params}
    lr : float, default=1e-2
        Learning rate, at least 0.
    lr_decay : float, default=0.0
        Decay of the rate, at least 0: the rate of step `t` is `lr / (1 + (t - 1) * lr_decay)`.
    {weight_decay}
    initial_accumulator_value : float, default=0.0
        Initial value of the sums of squared gradients, at least 0.
    eps : float, default=1e-10
        Term added to the denominator, at least 0.
    {maximize}
    {options}

    Attributes
    ----------
    {attributes}

    Raises
    ------
    {raises}

    Notes
    -----
    Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic optimization" (2011); form
    and defaults as in `torch.optim.Adagrad`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import Adagrad
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = Adagrad(p, lr=0.5)
    >>> for _ in range(300):
    ...     optimizer.step(2 * p)
    >>> bool(np.abs(p).max() < 1e-3)
    True
    """

    __module__ = "fastadam"

    lr = Number("Learning rate.")
    lr_decay = Number("Decay of the rate.")
    weight_decay = Number("Coupled weight decay.")
    initial_accumulator_value = Number("Initial value of the sums of squared gradients.")
    eps = Number("Term added to the denominator.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "eps": eps,
        }  # fmt: skip
        super().__init__(params, numbers, {"maximize": maximize}, options)

    def _choose_rule(self) -> rules.Rule:
        return rules.ADAGRAD

    def _initial_values(self) -> dict[str, float]:
        return {"sum": self.initial_accumulator_value}


@documented
class Adadelta(Optimizer):
    """Adadelta: steps in the units of the parameters, from the ratio of two averages.

    Parameters
    ----------
    {params}
    lr : float, default=1.0
        Learning rate, at least 0.
    rho : float, default=0.9
        Decay rate of both averages, in [0, 1].
    eps : float, default=1e-6
        Term added under both roots, at least 0.
    {weight_decay}
    {maximize}
    {options}

    Attributes
    ----------
    {attributes}

    Raises
    ------
    {raises}

    Notes
    -----
    Zeiler, "ADADELTA: an adaptive learning rate method" (2012); form and defaults as in `torch.optim.Adadelta`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import Adadelta
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = Adadelta(p)
    >>> for _ in range(2000):
    ...     optimizer.step(2 * p)
    >>> bool(np.abs(p).max() < 0.1)
    True
    """

    __module__ = "fastadam"

    lr = Number("Learning rate.")
    rho = Number("Decay rate of both averages.", "[0, 1]")
    eps = Number("Term added under both roots.")
    weight_decay = Number("Coupled weight decay.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, numbers, {"maximize": maximize}, options)

    def _choose_rule(self) -> rules.Rule:
        return rules.ADADELTA
