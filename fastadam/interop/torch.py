"""PyTorch's optimizers, with a step that updates all parameters in one compiled pass.

Each class inherits from the class of the same name in `torch.optim` and replaces its `step`. Arguments, parameter
groups, hooks, learning-rate schedulers, `state_dict` and error messages are PyTorch's own code, so that only an import
needs to be changed. `Lion`, which PyTorch does not have, is made in the same way. Differences from PyTorch:

- Parameters must be float32 or float64 tensors on the CPU. When others are added, an error names the parameter:
  TypeError for another dtype, RuntimeError for another device.
- `foreach` and `fused` are accepted and ignored. `capturable=True` and `differentiable=True` raise RuntimeError, since
  a compiled step cannot be recorded in a graph.
- Sparse gradients raise PyTorch's RuntimeError also in `SGD` and `Adagrad`. Parameters that share memory raise
  ValueError.
- A parameter with gaps, such as `base[:, ::2]`, is updated in a copy and written back. A gradient whose memory order
  differs from that of its parameter is copied first; autograd does not produce such gradients.
- The tensors in `state` are views of one piece of memory. They are replaced when a parameter receives its first
  gradient and when a state is loaded, so that they must be read from `state` each time. They can be replaced or written
  to, but not through their `data`. They cannot be shared between processes.

If a step raises, parameters, state and step counts are unchanged. All arithmetic is in the dtype of the parameters.
Large steps run in parallel, on at most `torch.get_num_threads()` of Numba's threads.

Examples
--------
>>> import torch
>>> from fastadam.interop.torch import Adam
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = Adam(model.parameters(), lr=0.01)
>>> model(torch.ones(2, 3)).sum().backward()
>>> optimizer.step()
>>> list(optimizer.state[model.weight])
['step', 'exp_avg', 'exp_avg_sq']
"""

from typing import Any, TypeVar

import torch

from fastadam._docs import fill_docstring
from fastadam.formulas import rules
from fastadam.interop._torch import Compiled, NAdamBlock

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop"]

_Optimizer = TypeVar("_Optimizer", bound=type[Compiled])


def _documented(optimizer: _Optimizer) -> _Optimizer:
    """Complete the docstring of a class that has the name of one of PyTorch's."""
    name = optimizer.__name__
    return fill_docstring(
        shared=f"""
Parameters, defaults and errors are those of `torch.optim.{name}`; `fastadam.interop.torch` lists the differences. The
sources of the formula are in `fastadam.{name}`."""
    )(optimizer)


@_documented
class SGD(Compiled, torch.optim.SGD):
    """`torch.optim.SGD`, with a compiled step: gradient descent, optionally with momentum or Nesterov momentum.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import SGD
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = SGD([p], lr=0.5, momentum=0.9)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.0, 0.0]
    """

    _counters = ()

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        if not group["momentum"]:
            return rules.SGD
        return rules.NESTEROV if group["nesterov"] else rules.MOMENTUM


@_documented
class RMSprop(Compiled, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, with a compiled step: optionally centered, and with momentum.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import RMSprop
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> p.square().sum().backward()
    >>> RMSprop([p], lr=0.1, alpha=0.0).step()
    >>> [round(value, 5) for value in p.tolist()]
    [0.9, -1.9]
    """

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        if group["centered"]:
            return rules.RMSPROP_CENTERED_MOMENTUM if group["momentum"] > 0 else rules.RMSPROP_CENTERED
        return rules.RMSPROP_MOMENTUM if group["momentum"] > 0 else rules.RMSPROP


@_documented
class Adagrad(Compiled, torch.optim.Adagrad):
    """`torch.optim.Adagrad`, with a compiled step: rates decrease with the sums of squared gradients.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import Adagrad
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> p.square().sum().backward()
    >>> Adagrad([p], lr=0.5).step()
    >>> p.tolist()
    [0.5, -1.5]
    """

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        return rules.ADAGRAD

    def share_memory(self) -> None:
        """Raise NotImplementedError, since processes that share a state would not see each other's steps."""
        raise NotImplementedError("the state cannot be shared between processes: use torch.optim.Adagrad for that")


@_documented
class Adadelta(Compiled, torch.optim.Adadelta):
    """`torch.optim.Adadelta`, with a compiled step: steps in the units of the parameters.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import Adadelta
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> p.square().sum().backward()
    >>> Adadelta([p], rho=0.75, eps=1.0).step()
    >>> [round(value, 4) for value in p.tolist()]
    [-0.4142, -0.2111]
    """

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        return rules.ADADELTA


@_documented
class Adam(Compiled, torch.optim.Adam):
    """`torch.optim.Adam`, with a compiled step: Adam and AMSGrad.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import Adam
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = Adam([p], lr=0.5)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.tolist(), optimizer.state[p]["step"]
    ([0.5, -1.5], tensor(1.))
    """

    _sparse_advice = ", please consider SparseAdam instead"

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        return rules.AMSGRAD if group["amsgrad"] else rules.ADAM


@_documented
class AdamW(Compiled, torch.optim.AdamW):
    """`torch.optim.AdamW`, with a compiled step: Adam with decoupled weight decay.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import AdamW
    >>> p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    >>> p.grad = torch.zeros_like(p)
    >>> AdamW([p], lr=0.1).step()
    >>> p.tolist()
    [0.999, -1.998]
    """

    _decay = "decoupled"
    _sparse_advice = Adam._sparse_advice
    _rule = Adam._rule


@_documented
class Adamax(Compiled, torch.optim.Adamax):
    """`torch.optim.Adamax`, with a compiled step: Adam with the infinity norm.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import Adamax
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> p.square().sum().backward()
    >>> Adamax([p], lr=0.5).step()
    >>> p.tolist()
    [0.5, -1.5]
    """

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        return rules.ADAMAX


@_documented
class NAdam(Compiled, torch.optim.NAdam):
    """`torch.optim.NAdam`, with a compiled step: Adam with Nesterov momentum.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import NAdam
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = NAdam([p])
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> list(optimizer.state[p])
    ['step', 'mu_product', 'exp_avg', 'exp_avg_sq']
    """

    _block = NAdamBlock
    _counters = ("step", "mu_product")

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        return rules.NADAM


@_documented
class RAdam(Compiled, torch.optim.RAdam):
    """`torch.optim.RAdam`, with a compiled step: Adam that uses its second moment once it is well estimated.

    {shared}

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import RAdam
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> p.square().sum().backward()
    >>> RAdam([p], lr=0.25).step()
    >>> p.tolist()
    [0.5, -1.0]
    """

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        return rules.RADAM


class Lion(Compiled):
    """Lion, which PyTorch does not have: steps of equal size, by the sign of an interpolated momentum.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor) or of dict
        Parameters to optimize, or groups of parameters, as for PyTorch's own optimizers.
    lr : float or Tensor, default=1e-4
        Learning rate, at least 0.
    betas : tuple of two floats, default=(0.9, 0.99)
        Weights of the momentum in the step and in its running average, each in [0, 1).
    weight_decay : float, default=0
        Decoupled weight decay, at least 0: `p` is multiplied by `1 - lr * weight_decay` before the update.
    maximize : bool, default=False
        Whether to maximize the objective, instead of minimizing it.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2. The state of a parameter is its
    "exp_avg".

    Examples
    --------
    >>> import torch
    >>> from fastadam.interop.torch import Lion
    >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> p.square().sum().backward()
    >>> Lion([p], lr=0.5).step()
    >>> p.tolist()
    [0.5, -1.5]
    """

    _counters = ()
    _decay = "decoupled"

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, torch.Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        for k, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {k}: {beta}")
        if not weight_decay >= 0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        return rules.LION
