"""Lazy Adam over a table: a step names rows, updates those alone, and costs as much as they do.

Reads from the inside out: `_chained` finds the rows that are named more than once, `_summed` adds their gradients,
`rows_kernel` runs the rule over each row and is what Python launches. The optimizer comes last.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import ArrayLike, NDArray

from fastadam import rules
from fastadam._arrays import Array
from fastadam._optimizer import Betas, Number, Optimizer
from fastadam._threads import on_threads, parallel_threads
from fastadam.buffers import ALIGNMENT, FLOAT_DTYPES
from fastadam.cpu import EXTRA, HYPER, PARALLEL_BYTES, Variant, element_loop, step_scalars
from fastadam.jit import array_at, device, kernel, prefetch, rounded

AHEAD = 4
"""How many rows ahead of the one at work the memory is asked for: rows lie anywhere, so no processor foresees them.

It makes steps 1.5 to 1.8 times as fast where the table lies in memory and not in cache; 2 and 8 are no better.
"""

# --- the kernel -------------------------------------------------------------------------------------------------------


@device
def _chained(rows, places):
    """Chain the occurrences of each row, in the order given.

    Returns how many rows there are, each counted once, and three arrays: row number s is `distinct[s]`, which occurs at
    `first[s]` in `rows`, then at `following[first[s]]`, and so on until that is negative. If an element of `rows` is no
    row of the table, its position is returned in place of the count, as `-1 - position`.

    `places[row]` is the number of a row, or anything if it has none yet, and it has one just where `distinct` agrees
    (Briggs & Torczon, "An efficient representation for sparse sets", 1993): one pass, in the order given, for which
    nothing is sorted or cleared, at eight bytes a row of the table. Sorting took four times as long.
    """
    distinct, first, last, following = (
        np.empty_like(rows), np.empty_like(rows), np.empty_like(rows), np.empty_like(rows),
    )  # fmt: skip
    count = 0
    for i in range(rows.size):
        row = rows[i]
        if row < 0 or row >= places.size:
            return -1 - i, distinct, first, following
        place = places[row]
        if place < count and distinct[place] == row:
            following[last[place]] = i
        else:
            place = count
            places[row], distinct[place], first[place] = place, row, i
            count += 1
        last[place], following[i] = i, -1
    return count, distinct, first, following


@device
def _summed(grads, dim, i, following, total):
    """The sum of a row's gradients in the order given, from the one at i on: left in `total` if there are several."""
    g = grads[i * dim : (i + 1) * dim]
    i = following[i]
    if i < 0:
        return g
    total[:] = g
    while i >= 0:
        for j in range(dim):
            total[j] += grads[i * dim + j]
        i = following[i]
    return total


@device
def _prefetch(array, start, stop):
    """Begin to load the elements `start:stop`, which may begin and end within a cache line."""
    for i in range(start, stop, ALIGNMENT // array.itemsize):
        prefetch(array, i)
    prefetch(array, stop - 1)


@device
def _after_rest(scalars, missed, group):
    """The scalars of a step in which the old moments decay for `missed` more steps, as without a gradient."""
    step_size, root_factor, _, one_minus_beta1, _, one_minus_beta2, eps = scalars
    beta1, beta2 = math.pow(group[HYPER + 1], missed + 1.0), math.pow(group[HYPER + 2], missed + 1.0)
    return step_size, root_factor, beta1, one_minus_beta1, beta2, one_minus_beta2, eps


@functools.cache
def rows_update(variant: Variant) -> Callable[..., None]:
    """The update of every `parts`-th row, from the one numbered `part` on, each row by one thread alone.

    Rows that occur often tend to come first, so that a thread that took the first half would have more to add up.
    """
    loop, scalars_of = element_loop(variant), step_scalars(variant.rule)

    @device
    def update(p, m, v, grads, chains, dim, last_step, group, t, part, parts):
        count, distinct, first, following = chains
        total, scalars, no_decay = np.empty(dim, m.dtype), scalars_of(m, t, group), m.dtype.type(0)
        for k in range(part, count, parts):
            if k + AHEAD * parts < count:
                row = distinct[k + AHEAD * parts]
                for array in (p, m, v):
                    _prefetch(array, row * dim, (row + 1) * dim)
                if last_step.size > 0:
                    prefetch(last_step, row)
            row = distinct[k]
            g = _summed(grads, dim, first[k], following, total)
            own = scalars
            if last_step.size > 0:
                missed, last_step[row] = t - 1 - last_step[row], t
                if missed > 0:
                    own = rounded(m, _after_rest(scalars, missed, group))
            start, stop = row * dim, (row + 1) * dim
            loop(p[start:stop], g, (m[start:stop], v[start:stop]), 0, dim, 0, no_decay, own, ())

    return update


@functools.cache
def rows_kernel(variant: Variant, parallel: bool) -> Callable[..., int]:
    """One step over some rows, in any order, of the table at `p_at`, with their gradients at `g_at`.

    Serial or parallel, with the same bits. Returns the number of different rows; or, if there is one that the table
    does not have, `-1 - its position`, and has changed nothing then.
    """
    update = rows_update(variant)

    if parallel:

        @kernel(parallel=True, variant=str(variant))
        def parallel_rows(p_at, m, v, rows, g_at, dim, places, last_step, group, t):
            chains = _chained(rows, places)
            p, grads = array_at(p_at, m.size, m), array_at(g_at, rows.size * dim, m)
            parts = get_num_threads()
            for part in prange(parts):
                update(p, m, v, grads, chains, dim, last_step, group, t, part, parts)
            return chains[0]

        return parallel_rows

    @kernel(variant=str(variant))
    def serial_rows(p_at, m, v, rows, g_at, dim, places, last_step, group, t):
        chains = _chained(rows, places)
        p, grads = array_at(p_at, m.size, m), array_at(g_at, rows.size * dim, m)
        update(p, m, v, grads, chains, dim, last_step, group, t, 0, 1)
        return chains[0]

    return serial_rows


# --- the optimizer ----------------------------------------------------------------------------------------------------


class RowAdam(Optimizer):
    """Lazy Adam over the rows of a table, for gradients that are zero but for a few rows, as those of an embedding.

    A step updates the rows that it is given, parameters and moments, and no other. Its cost grows with these rows and
    not with the table.

    Parameters
    ----------
    params : ndarray of shape (n_rows, dim)
        The table, updated in place: writeable, float32 or float64, in C order.
    lr : float, default=1e-3
        Step size, at least 0. It may be set between steps, as all numbers may.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of the two moments, each in [0, 1).
    eps : float, default=1e-8
        Added to the uncorrected root of the second moment, at least 0.
    maximize : bool, default=False
        Ascend the gradient instead of descending it.
    catch_up : bool, default=False
        When a row is named again, first let its moments decay for the steps that did not name it. See Notes.

    Attributes
    ----------
    t : int
        The number of steps taken. All rows share it, also in the bias correction.
    params : ndarray of shape (n_rows, dim)
        The table.
    state : dict of str to ndarray
        The moments "m" and "v" themselves, not copies, of the table's shape and dtype; with `catch_up` also
        "last_step", an int64 array of shape (n_rows,): the step that each row's moments are of.

    Raises
    ------
    TypeError
        If `params` is no array or has another dtype, or a number is not one.
    ValueError
        If a number is out of its range; if `params` has another shape than (n_rows, dim), or is read-only or not
        contiguous in C order.

    Notes
    -----
    The rule and the defaults are those of `torch.optim.SparseAdam`: Adam in the form of the end of section 2 of Kingma
    & Ba, "Adam: a method for stochastic optimization" (2015), "epsilon hat". `lr` and `eps` may be 0 here.

    A row that is not named keeps its moments as they are: named again after a long time, it still moves along its old
    gradients. With `catch_up`, the moments of a row that n steps did not name are first multiplied by `beta**n`. They
    are then those of dense Adam, which is given zeros for all rows that a step does not name, up to a relative error
    of n + 3 roundings in float64, and of 2n + 3 in float32, to which dense Adam rounds its betas. The parameters of a
    row still move only in steps that name it, where dense Adam moves every row in every step. After a change of the
    betas, the new ones hold for all steps since a row was named last, unless `flush` was called before the change.

    Beside the table and its moments there are eight bytes a row, and as many again with `catch_up`. Steps with 256 KiB
    of gradients or more run on Numba's threads, and give the same bits on any number of them.

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

    lr = Number("Step size; setting it takes effect at the next step and compiles nothing.")
    betas = Betas("Decay rates of the two moments.")
    eps = Number("Added to the root of the second moment.")

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
        self._p, self._p_at = params, _address(params)
        self._places = np.zeros(len(params), np.int64)
        self._m, self._v = (self._state[name].ravel() for name in self._rule.states)
        self._last_step = self._state.get("last_step", np.empty(0, np.int64))
        self._serial_rows, self._parallel_rows = (rows_kernel(self._variant, parallel) for parallel in (False, True))

    def _choose_rule(self) -> rules.Rule:
        return rules.ADAM_HAT

    def _initial_state(self) -> dict[str, Array]:
        shape = self._arrays.arrays[0].shape
        state: dict[str, Array] = {name: flat.reshape(shape) for name, flat in super()._initial_state().items()}
        return state | ({"last_step": np.zeros(shape[0], np.int64)} if self._flags["catch_up"] else {})

    def step(self, rows: ArrayLike, grads: Array) -> None:  # type: ignore[override]
        """Update the rows that are named, in place, in one compiled call.

        Parameters
        ----------
        rows : array_like of int, of shape (k,)
            Indices from 0 to n_rows - 1, in any order. The gradients of one that occurs more than once are summed in
            the order given. A step without rows counts, and changes nothing else.
        grads : ndarray of shape (k, dim)
            The gradient of each, of the dtype of the table. It is read, never written.

        Raises
        ------
        IndexError
            If the table does not have one of the rows; a negative index does not count from its end.
        TypeError
            If `rows` are no integers, or `grads` is no array of the dtype of the table.
        ValueError
            If a shape is another one, or `grads` shares memory with the table.
        """
        p, indices = self._p, _row_indices(rows)
        if not p.flags.writeable:
            raise ValueError("params must be writeable, got a read-only array")
        g = _row_gradients(grads, indices.size, p)
        threads = parallel_threads() if g.nbytes >= PARALLEL_BYTES else 1
        step = on_threads(threads, self._parallel_rows if threads > 1 else self._serial_rows)
        found = step(
            self._p_at, self._m, self._v, indices, _address(g), p.shape[1], self._places, self._last_step,
            self._table[EXTRA + 1], self.t + 1,
        )  # fmt: skip
        if found < 0:
            position = -1 - found
            raise IndexError(f"rows[{position}] must be in [0, {len(p)}), got {np.asarray(rows)[position]}")
        self.t += 1

    def flush(self) -> None:
        """Let the moments of every row decay up to the latest step. It needs `catch_up`, and a pass over the table.

        Raises
        ------
        ValueError
            If the optimizer was made without `catch_up`: its moments do not decay.
        """
        if not self._flags["catch_up"]:
            raise ValueError("flush needs an optimizer that was made with catch_up=True")
        missed = self.t - self._last_step
        for name, beta in zip(self._rule.states, self.betas, strict=True):
            with np.errstate(under="ignore"):
                self._state[name] *= (beta**missed).astype(self._p.dtype)[:, np.newaxis]
        self._last_step[:] = self.t

    def _checked_counters(self, state: Mapping[str, Any]) -> dict[str, Any]:
        counters, last_step = super()._checked_counters(state), state.get("last_step", self._last_step)
        if last_step.size and not 0 <= last_step.min() <= last_step.max() <= counters["t"]:
            raise ValueError(f"state['last_step'] must be in [0, t], got {last_step} with t={counters['t']}")
        return counters


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]


def _check_table(params: Array) -> None:
    """Refuse what is no table; what is left to check, `ParameterArrays` checks."""
    if not isinstance(params, np.ndarray):
        raise TypeError(f"params must be a NumPy array of shape (n_rows, dim), got {type(params).__name__}")
    if params.dtype not in FLOAT_DTYPES:
        raise TypeError(f"params must be float32 or float64, got {params.dtype}")
    if params.ndim != 2:
        raise ValueError(f"params must have the shape (n_rows, dim), got {params.shape}")
    if not params.flags.c_contiguous:
        raise ValueError(f"params must be contiguous in C order, got strides {params.strides} for {params.shape}")


def _row_indices(rows: ArrayLike) -> NDArray[np.int64]:
    """The indices, copied as 64-bit integers; one too large for them becomes negative, and so is refused with these.

    A copy is always writeable and aligned: Numba compiles a function anew for arrays that are not.
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
    """The gradients, copied only if they are not contiguous."""
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
