"""The optimizers: one class an algorithm, with PyTorch's names, defaults and semantics.

Each names its hyper-parameters and chooses a rule of `rules.py`; what they share is in `_optimizer.py`. All of them
take the same options, which are done in the same pass over memory:

max_norm : float, optional
    Clip the gradients by their global norm, as `torch.nn.utils.clip_grad_norm_` does: multiply them by
    `max_norm / (norm + 1e-6)`, if that is below 1. The norm takes one more pass over the gradients alone.
clip_value : float, optional
    Bound each element of the gradient by this value, after the norm.
ema_decay : float, optional
    Keep an exponential moving average of the parameters, `state["ema"]`, in which the old average has this weight.
zero_grad : bool, default=False
    Leave zeros in the gradients, which must be writeable then.
state_dtype : {"bfloat16", "uint8"}, optional
    Store the state of float32 parameters in two bytes a number, or in one and a scale for each block of 512, rounded up
    and down so that means over steps are exact: large models are bound by memory, and this is less of it.
    `fastadam.formats` has the details. With "uint8", blocks begin anew with each array: the split into arrays counts.
copy_dtype : {"float16", "bfloat16"}, optional
    Write the new parameters once more, in two bytes a number, to `copies`.
on_nonfinite : {"ignore", "skip", "raise"}, default="ignore"
    What to do with a step whose gradient holds infinity or NaN: make it; change nothing, the step count included, and
    count it in `skipped_steps`; or raise FloatingPointError, with nothing changed. It takes a pass over the gradients.
groups : mapping of str to mapping, optional
    Named groups of parameters with settings of their own, among them `frozen`: `{"biases": {"params": ["b0", "b1"],
    "weight_decay": 0.0}}`. "params" has keys or indices of `params`. `set_group` changes settings between steps.

Parameters may be one array, a list or dict of arrays, or a FlatBuffer: writeable float32 or float64 arrays of one
dtype, of any shapes, each contiguous in C or Fortran order, none overlapping another. They are updated in place. All
arithmetic is in their dtype. Parameters of float16, or of the bfloat16 that ml_dtypes defines, are the rounded copies
of float32 masters, which the optimizer keeps; gradients are then of that type too. A step gives the same bits on any
number of threads and for any split of the same values into arrays, and a `step` that raises leaves parameters and state
as they were.

Arrays on a CUDA device, of PyTorch, CuPy or Numba, are updated there; that needs the extra `cuda`: see `fastadam.cuda`.
"""

from collections.abc import Mapping
from typing import Any, Unpack

from fastadam import rules
from fastadam._arrays import Array, Arrays
from fastadam._checks import items, number
from fastadam._optimizer import Betas, Number, Optimizer, Options
from fastadam.cpu import EXTRA, HYPER


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

    def _row(self, k: int, values: Mapping[str, Any]) -> list[float]:
        # Only momentum is dampened: without it, as one group among others may be, the buffer is the gradient.
        return super()._row(k, values if values["momentum"] > 0 else {**values, "dampening": 0.0})


class RMSprop(Optimizer):
    """RMSprop, plain or centered, with or without momentum.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=1e-2
        Step size, at least 0.
    alpha : float, default=0.99
        Decay rate of the average of squares, at least 0.
    eps : float, default=1e-8
        Added to the root, at least 0.
    weight_decay : float, default=0.0
        `weight_decay * p` is added to the gradient, at least 0.
    momentum : float, default=0.0
        Weight of the buffer of earlier steps, at least 0. A group may have its own, also where others have none.
    centered : bool, default=False
        Divide by the standard deviation of the gradient instead.
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

    lr = Number("Step size.")
    alpha = Number("Decay rate of the average of squares.")
    eps = Number("Added to the root.")
    weight_decay = Number("Coupled weight decay.")
    momentum = Number("Weight of the buffer; whether there is one is fixed when the optimizer is made.")

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
                "two rounded averages may be negative"
            )
        moves = any(row["momentum"] > 0 for row in self._rows)
        if self._flags["centered"]:
            return rules.RMSPROP_CENTERED_MOMENTUM if moves else rules.RMSPROP_CENTERED
        return rules.RMSPROP_MOMENTUM if moves else rules.RMSPROP

    def _check_change(self, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
        _keep_momentum(self._rule, {**self._numbers, **numbers}, groups)


class Adagrad(Optimizer):
    """Adagrad: each element's rate falls with the squares of all its gradients.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=1e-2
        Step size, at least 0.
    lr_decay : float, default=0.0
        Step `t` has the rate `lr / (1 + (t - 1) * lr_decay)`.
    weight_decay : float, default=0.0
        `weight_decay * p` is added to the gradient, at least 0.
    initial_accumulator_value : float, default=0.0
        What the sum of squares begins with, at least 0.
    eps : float, default=1e-10
        Added to the root, at least 0.
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

    lr = Number("Step size.")
    lr_decay = Number("How the rate falls with the steps.")
    weight_decay = Number("Coupled weight decay.")
    initial_accumulator_value = Number("What the sum of squares began with.")
    eps = Number("Added to the root.")

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


class Adadelta(Optimizer):
    """Adadelta: steps in the units of the parameters, by the ratio of two averages.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=1.0
        Step size, at least 0.
    rho : float, default=0.9
        Decay rate of both averages, in [0, 1].
    eps : float, default=1e-6
        Added under both roots, at least 0.
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

    lr = Number("Step size.")
    rho = Number("Decay rate of both averages.", "[0, 1]")
    eps = Number("Added under both roots.")
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

    lr = Number("Step size.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Added to the denominator.")
    weight_decay = Number("Coupled or decoupled weight decay.")
    momentum_decay = Number("How the momentum grows.")

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
        self._mu_products = [1.0]
        flags = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(params, numbers, flags, options)

    def _choose_rule(self) -> rules.Rule:
        return rules.NADAM

    def _hyper(self, row: int) -> dict[str, float]:
        while len(self._mu_products) <= row:
            self._mu_products.append(1.0)
        return {"mu_product": self._mu_products[row]}

    def _advance(self) -> None:
        """The products of the momenta, each row of the table with its own."""
        column = self._table[EXTRA + 1 :, HYPER + rules.NADAM.hyper.index("mu_product")]
        for row, values in enumerate([self._numbers, *(self._numbers | group for group in self._groups.values())]):
            self._mu_products[row] *= rules.nadam_momentum(self.t, values["betas"][0], values["momentum_decay"])
            column[row] = self._mu_products[row]

    def _advance_to(self, t: int) -> None:
        super()._advance_to(t)
        self._mu_products = self._table[EXTRA + 1 :, HYPER + rules.NADAM.hyper.index("mu_product")].tolist()

    def _counters(self) -> dict[str, Any]:
        return super()._counters() | {"mu_products": list(self._mu_products)}

    def _checked_counters(self, state: Mapping[str, Any]) -> dict[str, Any]:
        name, products = "state['mu_products']", items("state['mu_products']", state["mu_products"])
        if len(products) != len(self._mu_products):
            raise ValueError(f"{name} must have {len(self._mu_products)} numbers, got {products!r}")
        checked = [number(f"{name}[{k}]", product, "[0, 1]") for k, product in enumerate(products)]
        return super()._checked_counters(state) | {"mu_products": checked}

    def _load_counters(self, counters: Mapping[str, Any]) -> None:
        super()._load_counters(counters)
        self._mu_products = counters["mu_products"]


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


class Lion(Optimizer):
    """Lion: steps of one size, along the sign of an interpolated momentum.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place; see `fastadam.optimizers`.
    lr : float, default=1e-4
        Step size, at least 0.
    betas : tuple of two floats, default=(0.9, 0.99)
        Weights of the momentum in the step and in its own average, each in [0, 1).
    weight_decay : float, default=0.0
        Decoupled weight decay, at least 0.
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

    lr = Number("Step size.")
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


def _given(name: str, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A number wherever it is given, by what errors call it."""
    given = {name: numbers[name]} if name in numbers else {}
    return given | {f"groups[{group!r}][{name!r}]": own[name] for group, own in groups.items() if name in own}


def _keep_momentum(rule: rules.Rule, numbers: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to switch momentum on or off: the state has the buffer, or has none."""
    given = _given("momentum", numbers, groups)
    if "momentum_buffer" in rule.states and not any(given.values()):
        raise ValueError(f"momentum cannot become {numbers['momentum']}: this optimizer was made with momentum")
    for name, value in given.items():
        if "momentum_buffer" not in rule.states and value > 0:
            raise ValueError(f"{name} cannot become {value}: this optimizer was made with no momentum")
