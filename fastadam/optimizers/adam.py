"""Adam and its variants: AdamW, AMSGrad, Adamax, NAdam, RAdam."""

from typing import Unpack

from fastadam._typing import Array
from fastadam.cpu.arrays import Arrays
from fastadam.formulas import rules
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Betas, Carried, Number, Options, documented


@documented
class Adam(Optimizer):
    """Adam, AdamW and AMSGrad, each step in one pass over memory.

    Parameters
    ----------
    {params}
    lr : float, default=1e-3
        Learning rate, at least 0. Like all numbers, it can be changed between steps.
    {betas}
    eps : float, default=1e-8
        Term added to the denominator, at least 0.
    weight_decay : float, default=0.0
        Weight decay, at least 0: coupled, as in `torch.optim.Adam`, or decoupled.
    {decoupled_weight_decay}
    amsgrad : bool, default=False
        Whether to use AMSGrad: the maximum of the second moments of all steps so far, instead of the latest.
    {maximize}
    epsilon_hat : bool, default=False
        Whether to add `eps` before the bias correction of the second moment, as scikit-learn and Keras do.
    {options}

    Attributes
    ----------
    {attributes}

    Raises
    ------
    {raises}

    Notes
    -----
    Kingma & Ba, "Adam: a method for stochastic optimization" (2015); Loshchilov & Hutter, "Decoupled weight decay
    regularization" (2019); Reddi, Kale & Kumar, "On the convergence of Adam and beyond" (2018); defaults and forms as
    in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import Adam
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = Adam(p, lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.step(2 * p)
    >>> optimizer.t, bool(np.abs(p).max() < 1e-2)
    (200, True)
    """

    __module__ = "fastadam"

    lr = Number("Learning rate; a change takes effect at the next step, without compilation.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Term added to the denominator.")
    weight_decay = Number("Coupled or decoupled weight decay.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        amsgrad: bool = False,
        maximize: bool = False,
        epsilon_hat: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        flags = {
            "decoupled_weight_decay": decoupled_weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "epsilon_hat": epsilon_hat,
        }
        super().__init__(params, numbers, flags, options)

    def _choose_rule(self) -> rules.Rule:
        if self._flags["epsilon_hat"]:
            return rules.AMSGRAD_HAT if self._flags["amsgrad"] else rules.ADAM_HAT
        return rules.AMSGRAD if self._flags["amsgrad"] else rules.ADAM

    @property
    def moments(self) -> dict[str, Array]:
        """The moments "m" and "v", with AMSGrad also "v_max": not copies, each flat over all parameters in order."""
        return {name: array for name, array in self.state.items() if name in self._rule.states}


@documented
class AdamW(Adam):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    {params}
    lr : float, default=1e-3
        Learning rate, at least 0.
    {betas}
    eps : float, default=1e-8
        Term added to the denominator, at least 0.
    weight_decay : float, default=1e-2
        Decoupled weight decay, at least 0: `p` is multiplied by `1 - lr * weight_decay` before the update.
    amsgrad : bool, default=False
        Whether to use AMSGrad, as in `Adam`.
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
    Loshchilov & Hutter, "Decoupled weight decay regularization" (2019); form and defaults as in `torch.optim.AdamW`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import AdamW
    >>> p = np.array([1.0, -2.0])
    >>> AdamW(p, lr=0.1).step(np.zeros(2))
    >>> p
    array([ 0.999, -1.998])
    """

    __module__ = "fastadam"

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super(Adam, self).__init__(params, numbers, {"amsgrad": amsgrad, "maximize": maximize}, options)

    @property
    def _is_decoupled(self) -> bool:
        return True

    def _choose_rule(self) -> rules.Rule:
        return rules.AMSGRAD if self._flags["amsgrad"] else rules.ADAM


@documented
class Adamax(Optimizer):
    """Adamax: Adam with the infinity norm.

    Parameters
    ----------
    {params}
    lr : float, default=2e-3
        Learning rate, at least 0.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of the first moment and of the infinity norm, each in [0, 1).
    eps : float, default=1e-8
        Term added to the absolute value of the gradient, at least 0.
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
    Kingma & Ba, "Adam: a method for stochastic optimization" (2015), algorithm 2; form and defaults as in
    `torch.optim.Adamax`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import Adamax
    >>> p = np.array([1.0, -2.0])
    >>> Adamax(p, lr=0.5).step(2 * p)
    >>> np.round(p, 6)
    array([ 0.5, -1.5])
    """

    __module__ = "fastadam"

    lr = Number("Learning rate.")
    betas = Betas("Decay rates of the first moment and of the infinity norm.")
    eps = Number("Term added to the absolute value of the gradient.")
    weight_decay = Number("Coupled weight decay.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, numbers, {"maximize": maximize}, options)

    def _choose_rule(self) -> rules.Rule:
        return rules.ADAMAX


@documented
class NAdam(Optimizer):
    """NAdam: Adam with Nesterov momentum, which increases according to a schedule.

    Parameters
    ----------
    {params}
    lr : float, default=2e-3
        Learning rate, at least 0.
    {betas}
    eps : float, default=1e-8
        Term added to the denominator, at least 0.
    weight_decay : float, default=0.0
        Weight decay, at least 0: coupled or decoupled.
    momentum_decay : float, default=4e-3
        Rate of the schedule: the momentum of step `t` is `betas[0] * (1 - 0.5 * 0.96**(t * momentum_decay))`.
    {decoupled_weight_decay}
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
    Dozat, "Incorporating Nesterov momentum into Adam" (2016); form and defaults as in `torch.optim.NAdam`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import NAdam
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = NAdam(p, lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.step(2 * p)
    >>> bool(np.abs(p).max() < 1e-2)
    True
    """

    __module__ = "fastadam"

    lr = Number("Learning rate.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Term added to the denominator.")
    weight_decay = Number("Coupled or decoupled weight decay.")
    momentum_decay = Number("Rate at which the momentum increases.")

    _carried = Carried("mu_products", "[0, 1]")

    def __init__(
        self,
        params: Arrays,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
        }  # fmt: skip
        flags = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(params, numbers, flags, options)

    def _choose_rule(self) -> rules.Rule:
        return rules.NADAM


@documented
class RAdam(Optimizer):
    """RAdam: Adam that uses its second moment only once that is well estimated.

    Parameters
    ----------
    {params}
    lr : float, default=1e-3
        Learning rate, at least 0.
    {betas}
    eps : float, default=1e-8
        Term added to the root of the second moment, at least 0.
    weight_decay : float, default=0.0
        Weight decay, at least 0: coupled or decoupled.
    {decoupled_weight_decay}
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
    Liu et al., "On the variance of the adaptive learning rate and beyond" (2020); form and defaults as in
    `torch.optim.RAdam`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import RAdam
    >>> p = np.array([1.0, -2.0])
    >>> optimizer = RAdam(p, lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.step(2 * p)
    >>> bool(np.abs(p).max() < 1e-2)
    True
    """

    __module__ = "fastadam"

    lr = Number("Learning rate.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Term added to the root of the second moment.")
    weight_decay = Number("Coupled or decoupled weight decay.")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        flags = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(params, numbers, flags, options)

    def _choose_rule(self) -> rules.Rule:
        return rules.RADAM
