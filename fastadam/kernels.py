"""The kernels for your own `@njit` code.

Each is a compiled function that can be called from Python and from inside another compiled function, allocates nothing,
and updates its arrays in place. The parallel form gives the same bits as the serial one, on any number of threads.

Examples
--------
A compiled training loop around the kernel:

>>> import numba
>>> import numpy as np
>>> from fastadam.kernels import adam_step
>>> @numba.njit
... def minimise(p, steps):
...     g, m, v = np.empty_like(p), np.zeros_like(p), np.zeros_like(p)
...     for t in range(1, steps + 1):
...         g[:] = 2 * (p - 3)
...         adam_step(p, g, m, v, t, 0.1, 0.9, 0.999, 1e-8)
>>> p = np.zeros(4)
>>> minimise(p, 500)
>>> np.round(p, 3)
array([3., 3., 3., 3.])
"""

from typing import Any

import numpy as np
from numba import prange, types
from numba.extending import overload

from fastadam.cpu import BLOCK, PARALLEL_BYTES, AdamVariant, adam_loop, adam_scalars
from fastadam.jit import device, kernel

__all__ = ["adam_step", "adam_step_parallel", "adam_step_serial"]

_loop = adam_loop(AdamVariant())


@device
def _serial(p, g, m, v, scalars):
    _loop(p, g, m, v, v, 0, p.size, 0, p.dtype.type(0), scalars)


@kernel(parallel=True)
def _parallel(p, g, m, v, scalars):
    zero = p.dtype.type(0)
    for block in prange((p.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, p.size)
        _loop(p, g, m, v, v, start, stop, 0, zero, scalars)


def _check_types(p, g, m, v):
    """Raise TypeError unless the four are flat arrays of one type; compiled code raises the same."""
    problem = _type_problem([np.ndarray] * 4, (p, g, m, v))
    if problem:
        raise TypeError(problem)


def _type_problem(array_types: list[Any], arguments: tuple[Any, ...]) -> str:
    allowed = ("float32", "float64")
    for name, kind, argument in zip("pgmv", array_types, arguments, strict=True):
        if not isinstance(argument, kind) or argument.ndim != 1 or str(argument.dtype) not in allowed:
            return f"{name} must be a flat float32 or float64 array"
        if argument.dtype != arguments[0].dtype:
            return f"{name} must have the dtype of p, {arguments[0].dtype}, got {argument.dtype}"
    return ""


@overload(_check_types)
def _check_types_compiled(p, g, m, v):
    problem = _type_problem([types.Array] * 4, (p, g, m, v))

    def passes(p, g, m, v):
        pass

    def fails(p, g, m, v):
        raise TypeError(problem)

    return fails if problem else passes


@device
def _check(p, g, m, v, t):
    _check_types(p, g, m, v)
    if g.size != p.size or m.size != p.size or v.size != p.size:
        raise ValueError("p, g, m and v must have the same size")
    if t < 1:
        raise ValueError("t must be at least 1: it counts the steps, this one included")


@kernel
def adam_step_serial(p, g, m, v, t, lr, beta1, beta2, eps):
    """`adam_step` on the calling thread alone: for use inside a `prange` of your own, or in a forked process."""
    _check(p, g, m, v, t)
    _serial(p, g, m, v, adam_scalars(p, t, lr, beta1, beta2, eps, False))


@kernel
def adam_step_parallel(p, g, m, v, t, lr, beta1, beta2, eps):
    """`adam_step` on Numba's threads, whatever the size."""
    _check(p, g, m, v, t)
    _parallel(p, g, m, v, adam_scalars(p, t, lr, beta1, beta2, eps, False))


@kernel
def adam_step(p, g, m, v, t, lr, beta1, beta2, eps):
    """One Adam step over flat arrays, in place: `p`, `m` and `v` are updated, `g` is read.

    Serial below 256 KiB of parameters, on Numba's threads from there; the bits are the same.

    Parameters
    ----------
    p, g, m, v : ndarray of shape (n,), float32 or float64, all of one dtype
        Parameters, gradient, first and second moment. Before the first step `m` and `v` are zeros.
    t : int
        The number of this step, counted from 1.
    lr, beta1, beta2, eps : float
        As in `fastadam.Adam`, which has 1e-3, 0.9, 0.999 and 1e-8 by default.

    Raises
    ------
    ValueError
        If the sizes differ or `t` is less than 1.
    TypeError
        If an array is not flat or not float32 or float64, or the dtypes differ (in compiled code: a TypingError).

    Notes
    -----
    Kingma & Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastadam.kernels import adam_step
    >>> p, g = np.array([1.0, 2.0]), np.array([0.5, -0.5])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> adam_step(p, g, m, v, 1, 0.1, 0.9, 0.999, 1e-8)
    >>> np.round(p, 6)
    array([0.9, 2.1])
    """
    _check(p, g, m, v, t)
    scalars = adam_scalars(p, t, lr, beta1, beta2, eps, False)
    if p.size * p.itemsize < PARALLEL_BYTES:
        _serial(p, g, m, v, scalars)
    else:
        _parallel(p, g, m, v, scalars)
