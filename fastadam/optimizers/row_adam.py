"""RowAdam: lazy Adam over the rows of a table."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastadam._typing import Array
from fastadam.buffers import FLOAT_DTYPES
from fastadam.cpu.arrays import HostArrays
from fastadam.cpu.stepper import RowStepper
from fastadam.formulas import rules
from fastadam.formulas.stepper import LocatedArrays, Stepper
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Betas, Number, documented

# --- the optimizer ----------------------------------------------------------------------------------------------------


@documented
class RowAdam(Optimizer):
    """Lazy Adam over the rows of a table, for gradients that are zero in most rows, such as those of an embedding.

    A step updates the parameters and moments of the rows that it is given, and no others. Its cost is proportional to
    the number of these rows, not to the size of the table.

    Parameters
    ----------
    params : ndarray of shape (n_rows, dim)
        The table, updated in place: writeable, float32 or float64, in C order.
    lr : float, default=1e-3
        Learning rate, at least 0. Like all numbers, it can be changed between steps.
    {betas}
    eps : float, default=1e-8
        Term added to the root of the second moment before bias correction, at least 0.
    {maximize}
    catch_up : bool, default=False
        Whether the moments of a row first decay for the steps that did not include the row. See Notes.

    Attributes
    ----------
    t : int
        The number of steps taken, which all rows share, also in the bias correction.
    params : ndarray of shape (n_rows, dim)
        The table.
    state : dict of str to ndarray
        The moments "m" and "v", not copies, of the shape and dtype of the table; with `catch_up` also "last_step", an
        int64 array of shape (n_rows,): the last step that included each row.

    Raises
    ------
    TypeError
        If `params` is not an array of float32 or float64, or an argument has the wrong type.
    ValueError
        If a number is out of range; if `params` is not two-dimensional, is read-only, or is not contiguous in C order.

    Notes
    -----
    The rule and the defaults are those of `torch.optim.SparseAdam`: Adam in the form "epsilon hat", given at the end of
    section 2 of Kingma & Ba, "Adam: a method for stochastic optimization" (2015). Here, `lr` and `eps` can be 0.

    The moments of a row do not change in steps that do not include the row, so that a row included again after a long
    time still moves along its old gradients. With `catch_up`, the moments of a row that was not included for n steps
    are first multiplied by `beta**n`. They then equal those of dense Adam, for which the gradients of all other rows
    are zero, up to a relative error of n + 3 roundings in float64 and of 2n + 3 in float32, to which dense Adam rounds
    its betas. The parameters of a row still change only in steps that include the row, whereas dense Adam moves every
    row at every step. After a change of the betas, the new values apply to all steps since a row was last included,
    unless `flush` was called before the change.

    In addition to the table and its moments, 8 bytes per row are used, and 16 with `catch_up`. Steps with 256 KiB of
    gradients or more run on Numba's threads, and give the same bits on any number of them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam import RowAdam
    >>> table = np.zeros((1000, 2))
    >>> optimizer = RowAdam(table, lr=0.1)
    >>> optimizer.step([7, 3, 7], np.array([[1.0, -1.0], [2.0, 2.0], [1.0, -1.0]]))
    >>> table[[3, 7]].round(3)
    array([[-0.1, -0.1],
           [-0.1,  0.1]])
    >>> np.flatnonzero(table.any(axis=1))
    array([3, 7])
    """

    __module__ = "fastadam"

    stepper: RowStepper

    lr = Number("Learning rate; a change takes effect at the next step, without compilation.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Term added to the root of the second moment.")

    def __init__(
        self,
        params: Array,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        maximize: bool = False,
        catch_up: bool = False,
    ) -> None:
        _check_table(params)
        numbers = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, numbers, {"maximize": maximize, "catch_up": catch_up}, {})

    def _located(self, params: Any) -> tuple[LocatedArrays, Callable[..., Stepper]]:
        return HostArrays(params), partial(RowStepper, catch_up=self._flags["catch_up"])

    def _choose_rule(self) -> rules.Rule:
        return rules.ADAM_HAT

    def step(self, rows: ArrayLike, grads: Array) -> None:  # type: ignore[override]
        """Update rows of the table, in place, in one compiled call.

        Parameters
        ----------
        rows : array_like of int, of shape (k,)
            Indices of the rows, from 0 to n_rows - 1, in any order. The gradients of a row that occurs several times
            are summed in the order given. A step without rows counts as a step and changes nothing else.
        grads : ndarray of shape (k, dim)
            Gradients of the rows, of the dtype of the table. They are never written.

        Raises
        ------
        IndexError
            If a row is not in the table; negative indices are not allowed.
        TypeError
            If `rows` are not integers, or `grads` is not an array of the dtype of the table.
        ValueError
            If a shape does not match, or `grads` shares memory with the table.
        """
        stepper, indices = self.stepper, _row_indices(rows)
        table = stepper.table
        if not table.flags.writeable:
            raise ValueError("params must be writeable, got a read-only array")
        found = stepper.step_rows(indices, _row_gradients(grads, indices.size, table))
        if found < 0:
            position = -1 - found
            raise IndexError(f"rows[{position}] must be in [0, {len(table)}), got {np.asarray(rows)[position]}")

    def flush(self) -> None:
        """Let the moments of all rows decay up to the latest step, in a pass over the table.

        Raises
        ------
        ValueError
            If the optimizer was made without `catch_up`, so that its moments do not decay.
        """
        if not self._flags["catch_up"]:
            raise ValueError("flush requires an optimizer made with catch_up=True")
        state = self.state
        missed = self.t - state["last_step"]
        for name, beta in zip(self._rule.states, self.betas, strict=True):
            with np.errstate(under="ignore"):
                state[name] *= (beta**missed).astype(state[name].dtype)[:, np.newaxis]
        state["last_step"][:] = self.t

    def _checked_counters(self, state: Mapping[str, Any]) -> dict[str, Any]:
        counters, last_step = super()._checked_counters(state), state.get("last_step")
        if last_step is not None and last_step.size and not 0 <= last_step.min() <= last_step.max() <= counters["t"]:
            raise ValueError(f"state['last_step'] must be in [0, t], got {last_step} with t={counters['t']}")
        return counters


def _check_table(params: Array) -> None:
    """Raise unless `params` is a table; `HostArrays` makes the remaining checks."""
    if not isinstance(params, np.ndarray):
        raise TypeError(f"params must be a NumPy array of shape (n_rows, dim), got {type(params).__name__}")
    if params.dtype not in FLOAT_DTYPES:
        raise TypeError(f"params must be float32 or float64, got {params.dtype}")
    if params.ndim != 2:
        raise ValueError(f"params must have the shape (n_rows, dim), got {params.shape}")
    if not params.flags.c_contiguous:
        raise ValueError(f"params must be contiguous in C order, got strides {params.strides} for {params.shape}")


def _row_indices(rows: ArrayLike) -> NDArray[np.int64]:
    """Copy the indices to 64-bit integers; an index too large for them becomes negative and so is out of range.

    The copy is writeable and aligned: for other arrays, Numba would compile the kernel again.
    """
    try:
        given = np.asarray(rows)
    except ValueError:  # lists of several lengths
        raise ValueError(f"rows must have the shape (k,), got {rows!r}") from None
    if given.dtype.kind not in "iu" and not (given.size == 0 and isinstance(rows, Sequence)):
        raise TypeError(f"rows must be integers, got an array of {given.dtype}")
    if given.ndim != 1:
        raise ValueError(f"rows must have the shape (k,), got {given.shape}")
    return np.array(given, np.int64)


def _row_gradients(grads: Array, k: int, params: Array) -> Array:
    """Check the gradients; they are copied only if they are not contiguous."""
    if not isinstance(grads, np.ndarray):
        raise TypeError(f"grads must be a NumPy array, got {type(grads).__name__}")
    if grads.dtype != params.dtype:
        raise TypeError(f"grads must have the dtype of params, {params.dtype}, got {grads.dtype}")
    shape = (k, params.shape[1])
    if grads.shape != shape:
        raise ValueError(f"grads must have the shape {shape} of rows and params, got {grads.shape}")
    if np.may_share_memory(grads, params):
        raise ValueError("grads must not share memory with params")
    return np.ascontiguousarray(grads)
