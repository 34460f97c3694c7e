"""PyTorch's optimizers, with a step that updates all parameters in one compiled pass.

Each class is the one of that name in `torch.optim` with another `step`. Arguments, parameter groups, hooks, schedulers
of the rate, `state_dict` and error messages are PyTorch's own code, so a program changes one import. `Lion`, which
PyTorch lacks, is made in the same way. What differs from PyTorch:

- Parameters are float32 or float64 tensors on the CPU. Others are refused by name, when they are added: another dtype
  by TypeError, another device by RuntimeError.
- `foreach` and `fused` are accepted, and choose nothing. `capturable=True` and `differentiable=True` raise
  RuntimeError: a compiled step can be recorded by no graph.
- Sparse gradients raise PyTorch's RuntimeError also in `SGD` and `Adagrad`, and parameters that share memory with one
  another raise ValueError.
- A parameter with gaps, as `base[:, ::2]` is, is updated in a copy and written back. A gradient whose memory order is
  not its parameter's is copied first; autograd makes none.
- The tensors in `state` are views of one piece of memory. They are replaced by others when a parameter gets its first
  gradient and after a state is loaded: take them from `state` each time. They may be replaced, or written to, but not
  by assigning to their `data`. Processes cannot share them.

A step that raises leaves parameters, state and step counts as they were. All arithmetic is in the parameters' dtype. A
step runs in parallel, on at most `torch.get_num_threads()` of Numba's threads, if there is enough to do.

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

from typing import Any

import torch

from fastadam import rules
from fastadam.interop._torch import Compiled, NAdamBlock

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop"]


class SGD(Compiled, torch.optim.SGD):
    """`torch.optim.SGD`, with a compiled step: gradient descent, with momentum and Nesterov's momentum.

    Its parameters, their defaults and its errors are those of `torch.optim.SGD`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.SGD`.

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


class RMSprop(Compiled, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, with a compiled step: plain or centered, with or without momentum.

    Its parameters, their defaults and its errors are those of `torch.optim.RMSprop`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.RMSprop`.

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


class Adagrad(Compiled, torch.optim.Adagrad):
    """`torch.optim.Adagrad`, with a compiled step: each element's rate falls with the squares of all its gradients.

    Its parameters, their defaults and its errors are those of `torch.optim.Adagrad`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.Adagrad`.

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
        """Raise NotImplementedError: processes that share a state would not see one another's steps."""
        raise NotImplementedError("the state cannot be shared between processes: use torch.optim.Adagrad for that")


class Adadelta(Compiled, torch.optim.Adadelta):
    """`torch.optim.Adadelta`, with a compiled step: steps in the units of the parameters.

    Its parameters, their defaults and its errors are those of `torch.optim.Adadelta`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.Adadelta`.

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


class Adam(Compiled, torch.optim.Adam):
    """`torch.optim.Adam`, with a compiled step: Adam and AMSGrad.

    Its parameters, their defaults and its errors are those of `torch.optim.Adam`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.Adam`.

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


class AdamW(Compiled, torch.optim.AdamW):
    """`torch.optim.AdamW`, with a compiled step: Adam with decoupled weight decay.

    Its parameters, their defaults and its errors are those of `torch.optim.AdamW`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.AdamW`.

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


class Adamax(Compiled, torch.optim.Adamax):
    """`torch.optim.Adamax`, with a compiled step: Adam by the infinity norm.

    Its parameters, their defaults and its errors are those of `torch.optim.Adamax`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.Adamax`.

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


class NAdam(Compiled, torch.optim.NAdam):
    """`torch.optim.NAdam`, with a compiled step: Adam with Nesterov's momentum, which grows by a schedule.

    Its parameters, their defaults and its errors are those of `torch.optim.NAdam`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.NAdam`.

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


class RAdam(Compiled, torch.optim.RAdam):
    """`torch.optim.RAdam`, with a compiled step: Adam that waits until its second moment is well estimated.

    Its parameters, their defaults and its errors are those of `torch.optim.RAdam`. What differs is said in
    `fastadam.interop.torch`; the sources of the formula, in `fastadam.RAdam`.

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
    """Lion, which PyTorch lacks: steps of one size, along the sign of an interpolated momentum.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor) or of dict
        What to optimize, or groups of parameters, as for PyTorch's own optimizers.
    lr : float or Tensor, default=1e-4
        Step size, at least 0.
    betas : tuple of two floats, default=(0.9, 0.99)
        Weights of the momentum in the step and in its own average, each in [0, 1).
    weight_decay : float, default=0
        Decoupled weight decay, at least 0.
    maximize : bool, default=False
        Ascend the gradient instead of descending it.

    Raises
    ------
    ValueError
        If a number is out of its range.

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
