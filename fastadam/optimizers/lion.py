"""Lion: steps by the sign of a momentum."""

from typing import Unpack

from fastadam.cpu.arrays import Arrays
from fastadam.formulas import rules
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Betas, Number, Options, documented


@documented
class Lion(Optimizer):
    """Lion: steps of equal size, in the direction of the sign of an interpolated momentum.

    Parameters
    ----------
    {params}
    lr : float, default=1e-4
        Learning rate, at least 0.
    betas : tuple of two floats, default=(0.9, 0.99)
        Weights of the momentum in the step and in its running average, each in [0, 1).
    weight_decay : float, default=0.0
        Decoupled weight decay, at least 0: `p` is multiplied by `1 - lr * weight_decay` before the update.
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
    Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import Lion
    >>> p = np.array([1.0, -2.0])
    >>> Lion(p, lr=0.5).step(2 * p)
    >>> p
    array([ 0.5, -1.5])
    """

    __module__ = "fastadam"

    lr = Number("Learning rate.")
    betas = Betas("Weights of the momentum.")
    weight_decay = Number("Decoupled weight decay.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, numbers, {"maximize": maximize}, options)

    @property
    def _is_decoupled(self) -> bool:
        return True

    def _choose_rule(self) -> rules.Rule:
        return rules.LION
