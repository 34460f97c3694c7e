"""SGD: gradient descent with momentum."""

from collections.abc import Mapping
from typing import Any, Unpack

from fastadam.cpu.arrays import Arrays
from fastadam.formulas import rules
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Number, Options, _given, _keep_momentum, documented


@documented
class SGD(Optimizer):
    """Gradient descent, optionally with momentum or Nesterov momentum.

    Parameters
    ----------
    {params}
    lr : float, default=1e-3
        Learning rate, at least 0. Like all numbers, it can be changed between steps.
    momentum : float, default=0.0
        Weight of the momentum buffer, at least 0. Groups can have their own, also if it is 0 for other groups.
    dampening : float, default=0.0
        Each gradient but the first is multiplied by `1 - dampening` before it is added to the buffer.
    {weight_decay}
    nesterov : bool, default=False
        Whether to use Nesterov momentum, which requires momentum and no dampening.
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
    Polyak, "Some methods of speeding up the convergence of iteration methods" (1964); Sutskever et al., "On the
    importance of initialization and momentum in deep learning" (2013); form and defaults as in `torch.optim.SGD`.

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

    lr = Number("Learning rate.")
    momentum = Number("Weight of the momentum buffer; whether there is a buffer cannot be changed.")
    dampening = Number("Fraction of each gradient that is not added to the buffer.", "(-inf, inf)")
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
        # Dampening needs momentum: in a group without momentum, the buffer is the gradient itself.
        return super()._row(values if values["momentum"] > 0 else {**values, "dampening": 0.0})
