"""The step of the optimizers for PyTorch: how parameters, gradients and states that are tensors reach the kernels.

Reads from the inside out: a `Block` is the parameters that one kernel updates, with their state; a `_Plan` is all
blocks of an optimizer, kept while parameters and state are the same objects at the same addresses; `Compiled` is what
the optimizers of `fastadam.interop.torch` inherit. The checks of what can be updated stand at the end.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch

from fastadam import rules
from fastadam._arrays import G_AT, GROUP, OFFSET, P_AT, SIZE, Array
from fastadam._threads import on_threads, parallel_threads
from fastadam.buffers import aligned_zeros
from fastadam.cpu import CLIP, EMA, EXTRA, HYPER, PARALLEL_BYTES, SCALE, Variant, step_kernel

_DTYPES: dict[Any, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_TORCH_NAMES = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}
"""What PyTorch calls a state, where our rules call it otherwise."""
_FIRST = EXTRA + 1
"""The row of the first group in the table of settings."""
_ALL = slice(None)

# By `map` these cost half of what a loop in Python does: with many small tensors, looking at them is most of a step.
_address, _size = torch.Tensor.data_ptr, torch.Tensor.numel
_dtype, _gradient = operator.attrgetter("dtype"), operator.attrgetter("grad")


class _Kind(NamedTuple):
    """What parameters must have in common, beside their dtype, to be updated by one kernel."""

    rule: rules.Rule
    decay: str
    maximize: bool

    @property
    def states(self) -> list[str]:
        """PyTorch's names of the rule's states."""
        return [_TORCH_NAMES.get(name, name) for name in self.rule.states]


class _Settings(NamedTuple):
    """The settings of a group, and what they mean for the kernel."""

    values: tuple[Any, ...]
    are_fixed: bool
    """Whether other settings must be other objects: a tensor's value may change in place."""
    kind: _Kind
    decays: bool
    row: list[float]
    """Of the table of groups."""


class _Member(NamedTuple):
    """A parameter that takes part in steps, since it has a gradient or a state."""

    param: Any
    group: int
    label: str


class Block:
    """The parameters that one kernel updates, and their state: a flat array for each state of the rule.

    The tensors in `optimizer.state` are views of these, and the step counts views of one more array.
    """

    def __init__(self, optimizer: "Compiled", kind: _Kind, members: Sequence[_Member]) -> None:
        self._kind, self._name, self._advice = kind, type(optimizer).__name__, optimizer._sparse_advice
        self._members = members
        self._params = [member.param for member in members]
        self._row_of = _FIRST + np.array([member.group for member in members])
        self._idle_row = _FIRST + len(optimizer.param_groups)
        self._table = np.zeros((self._idle_row + 1, HYPER + len(kind.rule.hyper)))
        self._table[EXTRA, [SCALE, CLIP, EMA]] = 1.0, np.inf, 0.0
        self._decays = [False] * len(optimizer.param_groups)
        self._variant = Variant(kind.rule, maximize=kind.maximize)
        self._kernels: dict[bool, Callable[..., None]] = {}
        self._lay_out()

    def _lay_out(self) -> None:
        """Give each parameter its segment of the state. One with gaps is updated in a copy, its stand-in."""
        params, dtype = self._params, _DTYPES[self._params[0].dtype]
        self._targets = [p if _is_dense(p) else torch.empty(p.shape, dtype=p.dtype) for p in params]
        self._stand_ins = [k for k, p in enumerate(params) if p is not self._targets[k]]
        self._segments = np.zeros((G_AT + 1, len(params) + 1), np.int64)
        self._segments[P_AT, :-1] = [*map(_address, self._targets)]
        self._segments[SIZE, :-1] = [*map(_size, params)]
        self._segments[GROUP, :-1] = self._row_of
        np.cumsum(self._segments[SIZE, :-1], out=self._segments[OFFSET, 1:])
        size = int(self._segments[OFFSET, -1])
        self._dtype, self._nbytes = dtype.name, size * dtype.itemsize
        self._state = [aligned_zeros(size, dtype) for _ in self._kind.states]
        self._rows_at = np.array([row.ctypes.data for row in self._state], np.int64)
        self._grad_addresses = [0] * len(params)
        self._addresses, self._sizes = [*map(_address, params)], [*map(_size, params)]
        # Of contiguous tensors, that they are tells the order of their elements, and sooner than strides do.
        are_contiguous = all(p.is_contiguous() for p in params)
        self._order: Callable[[Any], Any] = torch.Tensor.is_contiguous if are_contiguous else torch.Tensor.stride
        self._orders, self._target_orders = [*map(self._order, params)], [*map(self._order, self._targets)]
        self._grad_dtypes = {params[0].dtype}

    def take_over(self, optimizer: "Compiled") -> None:
        """Move the state that the parameters have into the arrays, and put views of these in its place."""
        entries = [optimizer.state[p] for p in self._params] if self._kind.states else []
        self._counters = [self._counter(entries, name) for name in optimizer._counters]
        begun = [float(_has(entry, self._kind.states)) for entry in entries] or [0.0] * len(self._params)
        self._progress = self._counters or [np.array(begun)]
        rows, counts = [*map(torch.from_numpy, self._state)], [*map(torch.from_numpy, self._counters)]
        self._pieces = [*rows, *counts]  # others can move them: `share_memory_` moves all views of a piece
        self._piece_addresses = [*map(_address, self._pieces)]
        for k, (entry, target) in enumerate(zip(entries, self._targets, strict=False)):
            places = {name: count[k] for name, count in zip(optimizer._counters, counts, strict=True)}
            for name, row in zip(self._kind.states, rows, strict=True):
                places[name] = row.as_strided(target.shape, target.stride(), int(self._segments[OFFSET, k]))
            for name, place in places.items():
                _fill(place, entry.get(name), optimizer._initial(name))
            entry.update(places)

    def _counter(self, entries: list[dict[str, Any]], name: str) -> Array:
        """Zeros, of the type that PyTorch gives to such a number, or that it has already."""
        types = {torch.get_default_dtype(), *(getattr(entry.get(name), "dtype", None) for entry in entries)}
        return np.zeros(len(entries), np.float64 if torch.float64 in types else np.float32)

    def holds(self) -> bool:
        """Whether parameters and state are where they were."""
        return (
            [*map(_address, self._params)] == self._addresses
            and [*map(_size, self._params)] == self._sizes
            and [*map(self._order, self._params)] == self._orders
            and [*map(_address, self._pieces)] == self._piece_addresses
        )

    def set_group(self, group: int, settings: _Settings) -> None:
        """Take the settings of a group, if it is of this block's kind."""
        if settings.kind != self._kind:
            return
        self._table[_FIRST + group] = settings.row
        self._decays[group] = settings.decays
        decay = self._kind.decay if any(self._decays) else "none"
        if decay != self._variant.decay:
            self._variant, self._kernels = self._variant._replace(decay=decay), {}

    def locate(self) -> None:
        """Note where the gradients lie, and which are None; raises if one cannot be used."""
        grads = [*map(_gradient, self._params)]
        self._active = None
        try:
            addresses = [*map(_address, grads)]
            are_in_order = [*map(self._order, grads)] == self._target_orders and {
                *map(_dtype, grads)
            } == self._grad_dtypes
        except (TypeError, RuntimeError):  # None has no address, nor has a sparse gradient
            are_in_order = False
        if not are_in_order:
            self._active = np.array([grad is not None for grad in grads])
            grads = [None if grad is None else self._usable(k, grad) for k, grad in enumerate(grads)]
            addresses = [0 if grad is None else _address(grad) for grad in grads]
        if addresses != self._grad_addresses:
            self._segments[G_AT, :-1] = self._grad_addresses = addresses
        self._grads = grads  # until the step is done: some are copies, which nobody else holds

    def _usable(self, k: int, grad: Any) -> Any:
        """A gradient in the memory order of its parameter: a copy, if its own is another."""
        target, label = self._targets[k], self._members[k].label
        if grad.is_sparse:
            raise RuntimeError(f"{self._name} does not support sparse gradients{self._advice}")
        if grad.layout is not torch.strided or grad.dtype != target.dtype or grad.device != target.device:
            raise RuntimeError(
                f"the gradient of {label} must be a dense {_name(target.dtype)} tensor on the CPU, got {grad.layout}, "
                f"{_name(grad.dtype)} on {str(grad.device)!r}"
            )
        if grad.shape != target.shape:
            raise RuntimeError(f"the gradient of {label} must have its shape {[*target.shape]}, got {[*grad.shape]}")
        return grad if grad.stride() == target.stride() else torch.empty_like(target).copy_(grad.detach())

    def step(self) -> None:
        """Update all that have a gradient: by one launch, if they have come through the same number of steps."""
        changed = self._params if self._active is None else [*_chosen(self._params, self._active)]
        torch.autograd.graph.increment_version(changed)  # a backward pass that needs the old values shall raise
        if self._stand_ins:
            self._copy_stand_ins(into_params=False)
        for chosen in self._sets_abreast():
            t = int(self._progress[0][chosen][0]) + 1
            self._count(chosen, t)
            self._kernel(self._segments_of(chosen), self._rows_at, self._table, t)
        if self._stand_ins:
            self._copy_stand_ins(into_params=True)
        self._grads = []

    def _sets_abreast(self) -> list[Any]:
        """The indices of the active parameters, in sets whose counters are equal."""
        if self._active is None:
            if all((counter == counter[0]).all() for counter in self._progress):
                return [_ALL]
            active = np.arange(len(self._params))
        else:
            active = np.flatnonzero(self._active)
        _, which = np.unique(np.array(self._progress)[:, active], axis=1, return_inverse=True)
        return [active[which.ravel() == k] for k in range(which.max(initial=-1) + 1)]

    def _count(self, chosen: Any, t: int) -> None:
        """Advance the counters to step `t`. Where PyTorch counts nothing, only the first step is unlike the others."""
        self._progress[0][chosen] = t if self._counters else 1

    def _segments_of(self, chosen: Any) -> Array:
        """The table of segments, in which those that are not chosen have settings that train nothing."""
        if chosen is _ALL:
            return self._segments
        segments = self._segments.copy()
        segments[GROUP, :-1] = self._idle_row
        segments[GROUP, chosen] = self._row_of[chosen]
        return segments

    @property
    def _kernel(self) -> Callable[..., None]:
        threads = 1 if self._nbytes < PARALLEL_BYTES else min(torch.get_num_threads(), parallel_threads())
        parallel = threads > 1
        if parallel not in self._kernels:
            self._kernels[parallel] = step_kernel(self._variant, self._dtype, parallel)
        return on_threads(threads, self._kernels[parallel])

    def _copy_stand_ins(self, into_params: bool) -> None:
        for k in self._stand_ins:
            if self._active is None or self._active[k]:
                param, stand_in = self._params[k].detach(), self._targets[k]
                _ = param.copy_(stand_in) if into_params else stand_in.copy_(param)


class NAdamBlock(Block):
    """NAdam counts, beside the steps, the product of the momenta, in its tensor's type."""

    def _count(self, chosen: Any, t: int) -> None:
        super()._count(chosen, t)
        beta1, decay, mu_product = (
            HYPER + rules.NADAM.hyper.index(name) for name in ("beta1", "momentum_decay", "mu_product")
        )
        table, products = self._table[_FIRST : self._idle_row], self._counters[1]
        momenta = np.array([rules.nadam_momentum(t, row[beta1], row[decay]) for row in table.tolist()])
        before = products[chosen][0]
        after = before * momenta.astype(products.dtype)
        products[chosen] = after[self._row_of[chosen] - _FIRST]
        # The rule multiplies in float64; it is to arrive at the product as the tensor has it, rounded.
        table[:, mu_product] = np.divide(after, momenta, out=np.full(momenta.shape, float(before)), where=momenta != 0)


class _Plan:
    """All that a step needs to know of an optimizer: good until parameters, groups or state are other objects."""

    def __init__(self, optimizer: "Compiled") -> None:
        groups = optimizer.param_groups
        self._settings = [optimizer._settings_of(group) for group in groups]
        self._values_of = operator.itemgetter(*optimizer.defaults)
        self._params = [[*group["params"]] for group in groups]
        self._idle, members = [], []
        for g, group in enumerate(groups):
            for k, param in enumerate(group["params"]):
                if param.grad is None and not optimizer.state.get(param):
                    self._idle.append(param)
                else:
                    members.append(_Member(param, g, _label(groups, g, k)))
        self._check(optimizer, members)
        sets: dict[Any, list[_Member]] = {}
        for member in members:
            sets.setdefault((self._settings[member.group].kind, member.param.dtype), []).append(member)
        self.blocks = [optimizer._block(optimizer, kind, parts) for (kind, _), parts in sets.items()]
        for g, settings in enumerate(self._settings):
            self._set_group(g, settings)

    def _check(self, optimizer: "Compiled", members: list[_Member]) -> None:
        for param, group, label in members:
            _check_parameter(param, label)
            _check_memory(param, label)
            states = self._settings[group].kind.states
            _check_state(optimizer.state.get(param) or {}, [*optimizer._counters, *states], states, param, label)
        _check_disjoint(members)

    def _set_group(self, group: int, settings: _Settings) -> None:
        for block in self.blocks:
            block.set_group(group, settings)

    def take_over(self, optimizer: "Compiled") -> None:
        """Move the state into the blocks."""
        for block in self.blocks:
            block.take_over(optimizer)
        self._entries = [*optimizer.state.values()]
        self._dicts = [entry for entry in self._entries if isinstance(entry, dict)]
        self._values = [*self._state_values()]

    def _state_values(self) -> Iterable[Any]:
        return chain.from_iterable(map(dict.values, self._dicts))

    def holds(self, optimizer: "Compiled") -> bool:
        """Whether nothing but numbers of the groups has changed, which are taken into account here."""
        groups = optimizer.param_groups
        return (
            len(groups) == len(self._params)
            and all(_are_same(group["params"], known) for group, known in zip(groups, self._params, strict=True))
            and _are_same([*optimizer.state.values()], self._entries)
            and _are_same([*self._state_values()], self._values)
            and all(param.grad is None for param in self._idle)
            and all(block.holds() for block in self.blocks)
            and all(self._reads(optimizer, g, group) for g, group in enumerate(groups))
        )

    def _reads(self, optimizer: "Compiled", g: int, group: dict[str, Any]) -> bool:
        """Read the settings of a group again, if they have changed; False if they ask for another kernel."""
        known = self._settings[g]
        if known.are_fixed and self._values_of(group) == known.values:
            return True
        settings = optimizer._settings_of(group)
        if settings.kind == known.kind:
            self._settings[g] = settings
            self._set_group(g, settings)
        return settings.kind == known.kind


class Compiled(torch.optim.Optimizer):
    """What is ours in an optimizer for PyTorch: to be inherited from before a class of `torch.optim`."""

    _block = Block
    _counters: tuple[str, ...] = ("step",)
    """What PyTorch counts for each parameter."""
    _decay = "coupled"
    _sparse_advice = ""
    _plan: _Plan | None = None

    def _rule(self, group: dict[str, Any]) -> rules.Rule:
        """The rule that the flags and numbers of a group ask for."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        closure : callable, optional
            Computes the gradients anew, and returns the loss; called first.

        Returns
        -------
        Any
            What `closure` returned, or None.

        Raises
        ------
        RuntimeError
            If a gradient is sparse, or lies elsewhere than on the CPU; the same of a parameter.
        TypeError
            If a parameter is neither float32 nor float64.
        ValueError
            If two parameters share memory, or a state has another shape than its parameter.
        KeyError
            If a parameter has a state without one of the tensors that its group's flags ask for.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            _untraced_update(self)
        else:
            self._update()
        return loss

    def _update(self) -> None:
        plan = self._plan
        is_known = plan is not None and plan.holds(self)
        if plan is None or not is_known:
            plan = _Plan(self)
        for block in plan.blocks:
            block.locate()
        if not is_known:  # not before nothing can be refused any more
            plan.take_over(self)
            self._plan = plan
        for block in plan.blocks:
            block.step()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in `torch.optim.Optimizer`; nothing is added if one is refused."""
        super().add_param_group(param_group)
        try:
            self._settings_of(param_group)
            for k, param in enumerate(param_group["params"]):
                _check_parameter(param, _label(self.param_groups, len(self.param_groups) - 1, k))
        except Exception:
            self.param_groups.pop()
            raise

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """False also with `fused=True`: so `GradScaler` unscales the gradients in the pass in which it checks them.

        Otherwise it would make that pass all the same, and leave the unscaling to `step`.
        """
        return False

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        """Ignore what PyTorch's constructor sets."""

    def _initial(self, name: str) -> float:
        """What a state or a counter begins with."""
        return {"mu_product": 1.0, "sum": self.defaults.get("initial_accumulator_value")}.get(name) or 0.0

    def _settings_of(self, group: dict[str, Any]) -> _Settings:
        for name in ("capturable", "differentiable"):
            if group.get(name):
                raise RuntimeError(f"{name}=True is not supported by {type(self).__name__}: its step is compiled code")
        values = tuple(group[name] for name in self.defaults)
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        is_decoupled = group.get("decoupled_weight_decay", self._decay == "decoupled")
        kind = _Kind(self._rule(group), "decoupled" if is_decoupled else "coupled", bool(group["maximize"]))
        numbers = {"mu_product": 1.0, **dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False)), **group}
        hyper = [float(numbers[name]) for name in kind.rule.hyper]
        row = [1.0 - lr * weight_decay if is_decoupled else weight_decay, 1.0, *hyper]
        return _Settings(values, _is_fixed(values), kind, weight_decay != 0, row)


_untraced_update = torch._disable_dynamo(Compiled._update)
"""For `torch.compile`, which can look into no other compiler's code. PyTorch marks methods of its optimizers so, too;
the public `torch.compiler.disable` would load the compiler along with this module."""


def _is_fixed(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return value is None or isinstance(value, bool | int | float)


def _are_same(objects: Sequence[Any], known: Sequence[Any]) -> bool:
    return len(objects) == len(known) and all(map(operator.is_, objects, known))


def _chosen(items: Iterable[Any], mask: Array) -> Iterable[Any]:
    return (item for item, is_chosen in zip(items, mask, strict=True) if is_chosen)


def _has(entry: dict[str, Any], names: Iterable[str]) -> bool:
    """Whether a state has begun."""
    return any(entry.get(name) is not None for name in names)


def _fill(place: Any, known: Any, initial: float) -> None:
    """Write a state into its place, which holds zeros."""
    if known is not None:
        place.copy_(torch.as_tensor(known).detach())
    elif initial:
        place.fill_(initial)


# --- what can be updated ----------------------------------------------------------------------------------------------


def _label(groups: Sequence[dict[str, Any]], group: int, k: int) -> str:
    names = groups[group].get("param_names")
    return f"parameter {k} of group {group}" + ("" if names is None else f" ({names[k]!r})")


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _is_dense(tensor: Any) -> bool:
    """Whether the elements lie in memory without gaps, in whatever order of the dimensions."""
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True


def _check_parameter(param: Any, label: str) -> None:
    """Refuse a parameter that no kernel can update."""
    if param.device.type != "cpu":
        raise RuntimeError(f"{label} must be on the CPU, got one on {str(param.device)!r}: use torch.optim there")
    if param.layout is not torch.strided:
        raise ValueError(f"{label} must be dense, got the layout {param.layout}")
    if param.dtype not in _DTYPES:
        raise TypeError(f"{label} must be float32 or float64, got {_name(param.dtype)}")


def _check_memory(param: Any, label: str) -> None:
    """Refuse a parameter whose elements have no places of their own."""
    if any(step == 0 and size > 1 for step, size in zip(param.stride(), param.shape, strict=True)):
        raise RuntimeError(  # in PyTorch's words
            f"unsupported operation: more than one element of {label} refers to a single memory location. "
            "Please clone() the tensor before performing the operation."
        )
    if param.numel() and not param.data_ptr():
        raise RuntimeError(f"{label} must have memory of its own, got a {type(param).__name__} without")


def _check_disjoint(members: Sequence[_Member]) -> None:
    """Refuse parameters that share memory: which update comes first would decide the result."""
    nearby: list[tuple[int, Array, str]] = []
    for param, _, label in sorted(members, key=lambda member: int(member.param.data_ptr())):
        array = param.detach().numpy()
        start, stop = np.lib.array_utils.byte_bounds(array)
        nearby = [other for other in nearby if other[0] > start]
        for _, other, name in nearby:
            if np.shares_memory(array, other):
                raise ValueError(f"{label} must not share memory with {name}")
        nearby.append((stop, array, label))


def _check_state(entry: dict[str, Any], names: list[str], states: list[str], param: Any, label: str) -> None:
    """Refuse a state that has begun and is not whole."""
    for name in names if _has(entry, names) else ():
        if entry.get(name) is None:
            raise KeyError(f"the state of {label} has no {name!r}, which its group asks for")
        if name in states and entry[name].shape != param.shape:
            shapes = f"{[*param.shape]}, got {[*entry[name].shape]}"
            raise ValueError(f"{name!r} in the state of {label} must have its shape {shapes}")
