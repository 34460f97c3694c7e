"""Gradient descent, with momentum."""

from collections.abc import Mapping
from typing import Any, Unpack

from fastadam.cpu.arrays import Arrays
from fastadam.formulas import rules
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Number, Options, _given, _keep_momentum


class SGD(Optimizer):
    """Gradient descent, with momentum and Nesterov's momentum.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=1e-3
        Step size, at least 0. It may be set between steps, as all numbers may.
    momentum : float, default=0.0
        Weight of the buffer of earlier gradients, at least 0. A group may have its own, also where others have none.
    dampening : float, default=0.0
        The gradient enters the buffer times 1 - `dampening`, which may be any number; the first enters whole.
    weight_decay : float, default=0.0
        `weight_decay * p` is added to the gradient, at least 0.
    nesterov : bool, default=False
        Step along the gradient plus `momentum` times the buffer. Needs momentum, and no dampening.
    maximize : bool, default=False
        Ascend the gradient instead of descending it.
    **options
        `max_norm`, `clip_value`, `ema_decay`, `zero_grad`, `on_nonfinite`, `groups`; see `fastadam.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If an argument has another type, or is out of its range.

    Notes
    -----
    Polyak (1964); Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013); form
    and defaults as in `torch.optim.SGD`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import SGD
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = SGD(p, lr=0.1, momentum=0.5)
    >>> for _ in range(100):
    ...     optimizer.step(2 * p)
    >>> bool(np.abs(p).max() < 1e-6)
    True
    """

    __module__ = "fastadam"

    lr = Number("Step size.")
    momentum = Number("Weight of the buffer; whether there is one is fixed when the optimizer is made.")
    dampening = Number("What the gradient loses on its way into the buffer.", "(-inf, inf)")
    weight_decay = Number("Coupled weight decay.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, numbers, {"nesterov": nesterov, "maximize": maximize}, options)

    def _choose_rule(self) -> rules.Rule:
        if self._flags["nesterov"] and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"nesterov=True needs momentum > 0 and dampening=0, got momentum={self.momentum}, "
                f"dampening={self.dampening}"
            )
        if not any(row["momentum"] > 0 for row in self._rows):
            return rules.SGD
        return rules.NESTEROV if self._flags["nesterov"] else rules.MOMENTUM

    def _check_change(self, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
        _keep_momentum(self._rule, {**self._numbers, **numbers}, groups)
        if self._flags["nesterov"]:
            for name, value in _given("dampening", numbers, groups).items():
                if value:
                    raise ValueError(f"{name} must be 0 with nesterov=True, got {value}")

    def _row(self, values: Mapping[str, Any]) -> list[float]:
        # Only momentum is dampened: without it, as one group among others may be, the buffer is the gradient.
        return super()._row(values if values["momentum"] > 0 else {**values, "dampening": 0.0})
