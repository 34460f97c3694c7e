"""Optimizers: they own their state and step count, validate what they are given, and pick the kernel.

The formulas are in `rules.py`, the loops in `cpu.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastadam._threads import may_launch_parallel
from fastadam.buffers import FLOAT_DTYPES, FlatBuffer, aligned_zeros
from fastadam.cpu import PARALLEL_BYTES, AdamVariant, adam_step_kernel

Array = NDArray[Any]
Arrays = Array | Sequence[Array] | Mapping[str, Array] | FlatBuffer

_MAX_STEPS = 2**63 - 1  # the kernels count in 64 bits


class Adam:
    """Adam, AdamW and AMSGrad: a whole step in one pass over memory.

    Parameters
    ----------
    params : ndarray, sequence of ndarray, mapping of str to ndarray, or FlatBuffer
        What to optimize, updated in place: writeable float32 or float64 arrays of one dtype, of any shapes, each
        contiguous in C or Fortran order, none overlapping another.
    lr : float, default=1e-3
        Step size, at least 0. It may be set between steps.
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
    in PyTorch. All arithmetic is in the dtype of the parameters. A step gives the same bits on any number of threads
    and for any split of the same values into arrays. A `step` that raises leaves parameters and state as they were.

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
    ) -> None:
        self._flags = {
            "decoupled_weight_decay": _flag("decoupled_weight_decay", decoupled_weight_decay),
            "amsgrad": _flag("amsgrad", amsgrad),
            "maximize": _flag("maximize", maximize),
            "epsilon_hat": _flag("epsilon_hat", epsilon_hat),
        }
        self._epsilon_hat = self._flags["epsilon_hat"]
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self._bind(params)
        size = int(self._offsets[-1])
        self.t = 0
        self._m = aligned_zeros(size, self._dtype)
        self._v = aligned_zeros(size, self._dtype)
        self._v_max = aligned_zeros(size if amsgrad else 0, self._dtype)

    @property
    def lr(self) -> float:
        """Step size; setting it takes effect at the next step and compiles nothing."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _number("lr", value, math.inf)

    @property
    def betas(self) -> tuple[float, float]:
        """Decay rates of the two moments."""
        return self._betas

    @betas.setter
    def betas(self, value: tuple[float, float]) -> None:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise TypeError(f"betas must be two numbers, got {value!r}")
        if len(value) != 2:
            raise ValueError(f"betas must be two numbers, got {value!r}")
        self._betas = (_number("betas[0]", value[0], 1.0), _number("betas[1]", value[1], 1.0))

    @property
    def eps(self) -> float:
        """Added to the denominator."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        self._eps = _number("eps", value, math.inf)

    @property
    def weight_decay(self) -> float:
        """Coupled or decoupled weight decay."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = _number("weight_decay", value, math.inf)
        kind = "decoupled" if self._flags["decoupled_weight_decay"] else "coupled"
        self._variant = AdamVariant(
            kind if self._weight_decay > 0 else "none", self._flags["amsgrad"], self._flags["maximize"]
        )
        self._serial_kernel = adam_step_kernel(self._variant, False)

    @property
    def moments(self) -> dict[str, Array]:
        """The state itself, not a copy: "m", "v" (with AMSGrad also "v_max"), flat over all parameters in order."""
        moments = {"m": self._m, "v": self._v}
        return moments | {"v_max": self._v_max} if self._flags["amsgrad"] else moments

    def step(self, grads: Arrays) -> None:
        """Update every parameter, in place, in one compiled call.

        Parameters
        ----------
        grads : ndarray, sequence, mapping or FlatBuffer
            Gradients in the structure of `params`, with its shapes and dtype. They are read, never written. For a
            FlatBuffer, another of the same layout (`params.like()`), or its `flat` array.

        Raises
        ------
        TypeError
            If the structure or a dtype is another than that of `params`.
        ValueError
            If a shape or a name is another than that of `params`, or a gradient shares memory with the parameters.
        """
        arrays = [grads] if self._is_the_usual(grads) else self._matching_arrays(grads)
        self._check_writeable()
        for k, array in enumerate(arrays):
            self._g_at[k] = start = array.__array_interface__["data"][0]
            if start < self._span[1] and start + array.nbytes > self._span[0]:
                self._check_no_overlap(k, array)
        self._kernel(
            self._p_at, self._g_at, self._offsets, self._m, self._v, self._v_max,
            self.t + 1, self._lr, *self._betas, self._eps, self._decay_scalar(), self._epsilon_hat,
        )  # fmt: skip
        self.t += 1

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that `load_state_dict` needs to go on from here: plain numbers and arrays.

        Returns
        -------
        dict
            "t", the hyper-parameters by their names, and the moments "m", "v" (with AMSGrad also "v_max"), each one
            flat array over all parameters in their order.
        """
        state: dict[str, Any] = {"t": self.t, "lr": self.lr, "betas": self.betas, "eps": self.eps}
        state |= {"weight_decay": self.weight_decay, **self._flags}
        return state | {name: array.copy() for name, array in self.moments.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`: moments, step count and hyper-parameters are replaced by its own.

        Raises
        ------
        TypeError
            If `state` is not a mapping, or an entry has another type.
        ValueError
            If an entry is missing, unknown, out of range, or was made for parameters of another size or dtype; or if
            it was made with other flags. Nothing is changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping as state_dict returns it, got {type(state).__name__}")
        moments = self.moments
        expected = {"t", "lr", "betas", "eps", "weight_decay", *self._flags, *moments}
        if set(state) != expected:
            raise ValueError(f"state must have the keys {sorted(expected)}, got {sorted(map(str, state))}")
        for name, value in self._flags.items():
            if _flag(f"state[{name!r}]", state[name]) != value:
                raise ValueError(f"state[{name!r}] must be {value}, as this optimizer was made, got {state[name]}")
        for name, moment in moments.items():
            _check_moment(name, state[name], moment)
        t = _step_count(state["t"])
        before = (self._lr, self._betas, self._eps, self._weight_decay)
        try:
            self.lr, self.betas, self.eps = state["lr"], state["betas"], state["eps"]
            self.weight_decay = state["weight_decay"]
        except (TypeError, ValueError):
            self.lr, self.betas, self.eps, self.weight_decay = before
            raise
        self.t = t
        for name, moment in moments.items():
            moment[:] = state[name]

    def __repr__(self) -> str:
        hyper = f"lr={self.lr}, betas={self.betas}, eps={self.eps}, weight_decay={self.weight_decay}"
        flags = "".join(f", {name}=True" for name, value in self._flags.items() if value)
        return f"Adam({int(self._offsets[-1])} {self._dtype} parameters, {hyper}{flags}, t={self.t})"

    def __getstate__(self) -> dict[str, Any]:
        return {"params": self.params, "state": self.state_dict()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        state = saved["state"]
        hyper = {key: value for key, value in state.items() if key not in ("t", "m", "v", "v_max")}
        Adam.__init__(self, saved["params"], **hyper)
        self.load_state_dict(state)

    def _bind(self, params: Arrays) -> None:
        """Take hold of the parameters: check them, and note where each one lies in memory."""
        self.params = params
        self._names, arrays = _structure(params, "params")
        for name, array in zip(self._names, arrays, strict=True):
            _check_parameter(_label("params", name), array, arrays[0].dtype)
        self._shapes = [array.shape for array in arrays]
        self._orders: list[Literal["C", "F"]] = ["C" if array.flags.c_contiguous else "F" for array in arrays]
        self._arrays = arrays
        self._dtype = arrays[0].dtype if arrays else np.dtype(np.float64)
        self._offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([array.size for array in arrays], out=self._offsets[1:])
        self._p_at = np.array([array.__array_interface__["data"][0] for array in arrays], np.int64)
        self._g_at = np.zeros_like(self._p_at)
        _check_disjoint(self._names, arrays)
        spans = [(start, start + array.nbytes) for start, array in zip(self._p_at.tolist(), arrays, strict=True)]
        self._p_bytes = int(self._offsets[-1]) * self._dtype.itemsize
        self._span = (min(start for start, _ in spans), max(stop for _, stop in spans)) if spans else (0, 0)

    def _is_the_usual(self, grads: Arrays) -> TypeGuard[Array]:
        """Whether this is one array, as `params` is, that needs nothing done: checked first, and quickly."""
        return (
            type(grads) is np.ndarray
            and self._names == (None,)
            and grads.dtype == self._dtype
            and grads.shape == self._shapes[0]
            and grads.flags.c_contiguous
            and self._orders[0] == "C"
        )

    def _matching_arrays(self, grads: Arrays) -> list[Array]:
        """The gradients as arrays in the memory order of the parameters; copied only where their order differs."""
        if not isinstance(grads, np.ndarray):
            self._check_layout(grads)
        names, arrays = _structure(grads, "grads")
        if names != self._names and set(names) == set(self._names):  # a dict in another order
            names, arrays = self._names, [arrays[names.index(name)] for name in self._names]
        if names != self._names:
            raise _structure_error(self._names, names)
        matching = []
        for name, array, shape, order in zip(names, arrays, self._shapes, self._orders, strict=True):
            if array.dtype != self._dtype:
                raise TypeError(
                    f"{_label('grads', name)} must have the dtype of params, {self._dtype}, got {array.dtype}"
                )
            if array.shape != shape:
                raise ValueError(f"{_label('grads', name)} must have the shape {shape} of params, got {array.shape}")
            in_order = array.flags.c_contiguous if order == "C" else array.flags.f_contiguous
            matching.append(array if in_order else array.copy(order))
        return matching

    def _check_layout(self, grads: Arrays) -> None:
        params = self.params
        if not (isinstance(grads, FlatBuffer) and isinstance(params, FlatBuffer)) or grads.has_layout_of(params):
            return
        error = ValueError if grads.dtype == params.dtype else TypeError
        raise error(f"grads must have the layout of params, {params!r}, got {grads!r}")

    def _check_writeable(self) -> None:
        for k, array in enumerate(self._arrays):
            if not array.flags.writeable:
                raise ValueError(f"{_label('params', self._names[k])} must be writeable, got a read-only array")

    def _check_no_overlap(self, k: int, grad: Array) -> None:
        if any(np.may_share_memory(grad, param) for param in self._arrays):
            raise ValueError(f"{_label('grads', self._names[k])} must not share memory with params")

    @property
    def _kernel(self) -> Callable[..., None]:
        parallel = self._p_bytes >= PARALLEL_BYTES and may_launch_parallel()
        return adam_step_kernel(self._variant, True) if parallel else self._serial_kernel

    def _decay_scalar(self) -> float:
        if self._flags["decoupled_weight_decay"]:
            return 1.0 - self._lr * self._weight_decay
        return self._weight_decay


def _number(name: str, value: float, below: float) -> float:
    """`value` as a float, if it is a number in [0, `below`)."""
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)  # before the comparison: 1 - 10**-30 is below 1, and its float is not
    except OverflowError:
        number = math.inf
    if not 0 <= number < below:
        raise ValueError(f"{name} must be in [0, {below:g}), got {value!r}")
    return number


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _step_count(t: Any) -> int:
    if not isinstance(t, Integral) or isinstance(t, bool):
        raise TypeError(f"state['t'] must be an integer, got {t!r}")
    if not 0 <= int(t) < _MAX_STEPS:
        raise ValueError(f"state['t'] must be in [0, 2**63 - 1), got {t}")
    return int(t)


def _structure(arrays: Arrays, what: str) -> tuple[tuple[Any, ...], list[Array]]:
    """The names of the arrays (keys, indices, or one None for a single array) and the arrays themselves."""
    if isinstance(arrays, FlatBuffer):
        arrays = arrays.flat
    names: tuple[Any, ...] = (None,)
    values: list[Any] = [arrays]
    if isinstance(arrays, np.ndarray):  # the common case first: the checks below cost more than a small step
        return names, values
    if isinstance(arrays, Mapping):
        names, values = tuple(arrays), list(arrays.values())
    elif isinstance(arrays, Sequence) and not isinstance(arrays, str | bytes):
        names, values = tuple(range(len(arrays))), list(arrays)
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"{_label(what, name)} must be a NumPy array (or {what} a list or dict of arrays, or a FlatBuffer), "
                f"got {type(value).__name__}"
            )
    return names, values


def _structure_error(expected: tuple[Any, ...], got: tuple[Any, ...]) -> ValueError | TypeError:
    def describe(names: tuple[Any, ...]) -> str:
        if names == (None,):
            return "one array"
        return f"a dict with the keys {list(names)}" if isinstance(names[0], str) else f"a list of {len(names)} arrays"

    kinds = [type(names[0]) if names else None for names in (expected, got)]
    error = ValueError if kinds[0] is kinds[1] or not (expected and got) else TypeError
    expected_text, got_text = (describe(names) if names else "an empty list or dict" for names in (expected, got))
    return error(f"grads must have the structure of params, {expected_text}, got {got_text}")


def _label(what: str, name: Any) -> str:
    return what if name is None else f"{what}[{name!r}]"


def _check_parameter(label: str, array: Array, dtype: np.dtype[Any]) -> None:
    if array.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{label} must be float32 or float64, got {array.dtype}")
    if array.dtype != dtype:
        raise TypeError(f"{label} must have the dtype of the other params, {dtype}, got {array.dtype}")
    if not array.flags.writeable:
        raise ValueError(f"{label} must be writeable, got a read-only array")
    if not array.flags.forc:
        raise ValueError(f"{label} must be contiguous, got strides {array.strides} for shape {array.shape}")


def _check_disjoint(names: tuple[Any, ...], arrays: list[Array]) -> None:
    spans = sorted((a.__array_interface__["data"][0], a.nbytes, k) for k, a in enumerate(arrays) if a.size)
    for (start, size, k), (next_start, _, j) in pairwise(spans):
        if next_start < start + size:
            raise ValueError(f"{_label('params', names[j])} must not overlap {_label('params', names[k])} in memory")


def _check_moment(name: str, given: Any, own: Array) -> None:
    if not isinstance(given, np.ndarray):
        raise TypeError(f"state[{name!r}] must be an array, got {type(given).__name__}")
    if given.shape != own.shape or given.dtype != own.dtype:
        raise ValueError(
            f"state[{name!r}] must have shape {own.shape} and dtype {own.dtype}, got {given.shape} and {given.dtype}"
        )
