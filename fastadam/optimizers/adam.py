"""Adam and its variants."""

from typing import Unpack

from fastadam._typing import Array
from fastadam.cpu.arrays import Arrays
from fastadam.formulas import rules
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Betas, Carried, Number, Options


class Adam(Optimizer):
    """Adam, AdamW and AMSGrad: a whole step in one pass over memory.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=1e-3
        Step size, at least 0. It may be set between steps, as all numbers may.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of the two moments, each in [0, 1).
    eps : float, default=1e-8
        Added to the denominator, at least 0.
    weight_decay : float, default=0.0
        At least 0. Coupled, `weight_decay * p` is added to the gradient, as in `torch.optim.Adam`.
    decoupled_weight_decay : bool, default=False
        Multiply `p` by `1 - lr * weight_decay` before the update instead, as `torch.optim.AdamW` does.
    amsgrad : bool, default=False
        Divide by the root of the largest second moment seen so far.
    maximize : bool, default=False
        Ascend the gradient instead of descending it.
    epsilon_hat : bool, default=False
        Add eps to the uncorrected root of the second moment: scikit-learn's and Keras's form.
    **options
        `max_norm`, `clip_value`, `ema_decay`, `zero_grad`, `on_nonfinite`, `groups`; see `fastadam.optimizers`.

    Attributes
    ----------
    t : int
        The number of steps taken.
    params : ndarray, sequence, mapping or FlatBuffer
        What was given as `params`.

    Raises
    ------
    TypeError
        If `params` has another structure or dtype, or a number is not one.
    ValueError
        If a number is out of its range; if an array is read-only, not contiguous, or overlaps another.

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

    lr = Number("Step size; setting it takes effect at the next step and compiles nothing.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Added to the denominator.")
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
        """The state itself, not a copy: "m", "v" (with AMSGrad also "v_max"), flat over all parameters in order."""
        return {name: array for name, array in self.state.items() if name in self._rule.states}


class AdamW(Adam):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr, betas, eps : float, tuple of two floats, float
        As in `Adam`.
    weight_decay : float, default=1e-2
        The parameters are multiplied by `1 - lr * weight_decay` before each update; at least 0.
    amsgrad, maximize : bool, default=False
        As in `Adam`.
    **options
        See `fastadam.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If an argument has another type, or is out of its range.

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


class Adamax(Optimizer):
    """Adamax: Adam by the infinity norm.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=2e-3
        Step size, at least 0.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of the first moment and of the norm, each in [0, 1).
    eps : float, default=1e-8
        Added to the gradient's size, at least 0.
    weight_decay : float, default=0.0
        `weight_decay * p` is added to the gradient, at least 0.
    maximize : bool, default=False
        Ascend the gradient instead of descending it.
    **options
        See `fastadam.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If an argument has another type, or is out of its range.

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

    lr = Number("Step size.")
    betas = Betas("Decay rates of the first moment and of the norm.")
    eps = Number("Added to the gradient's size.")
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


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov's momentum, which grows by a schedule.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=2e-3
        Step size, at least 0.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of the two moments, each in [0, 1).
    eps : float, default=1e-8
        Added to the denominator, at least 0.
    weight_decay : float, default=0.0
        Coupled, or decoupled, weight decay, at least 0.
    momentum_decay : float, default=4e-3
        Step `t` has the momentum `betas[0] * (1 - 0.5 * 0.96**(t * momentum_decay))`.
    decoupled_weight_decay : bool, default=False
        Decay as AdamW does.
    maximize : bool, default=False
        Ascend the gradient instead of descending it.
    **options
        See `fastadam.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If an argument has another type, or is out of its range.

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

    lr = Number("Step size.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Added to the denominator.")
    weight_decay = Number("Coupled or decoupled weight decay.")
    momentum_decay = Number("How the momentum grows.")

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


class RAdam(Optimizer):
    """RAdam: Adam that waits with its second moment until that is well estimated.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=1e-3
        Step size, at least 0.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of the two moments, each in [0, 1).
    eps : float, default=1e-8
        Added to the root, at least 0.
    weight_decay : float, default=0.0
        Coupled, or decoupled, weight decay, at least 0.
    decoupled_weight_decay : bool, default=False
        Decay as AdamW does.
    maximize : bool, default=False
        Ascend the gradient instead of descending it.
    **options
        See `fastadam.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If an argument has another type, or is out of its range.

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

    lr = Number("Step size.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Added to the root.")
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
