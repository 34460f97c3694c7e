"""The solver "lbfgs": SciPy's L-BFGS-B, with the engine's loss and gradient over all samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from sklearn.utils.fixes import _get_additional_lbfgs_options_dict
from sklearn.utils.optimize import _check_optimize_result

from fastadam import rules
from fastadam.buffers import FlatBuffer, aligned_zeros
from fastadam.cpu import HYPER, Variant
from fastadam.engine import Engine, Update
from fastadam.network import as_samples, layout_of

Array = NDArray[Any]

_STOPPED = 99
"""SciPy's status where the callback has ended it."""


def minimize(
    params: FlatBuffer,
    activations: tuple[str, ...],
    data: tuple[Any, Array, Array | None],
    loss: str,
    loss_setting: float,
    *,
    alpha: float,
    max_iter: int,
    max_fun: int,
    tol: float,
    verbose: float,
    n_threads: int | None,
    callback: Callable[[float], bool],
) -> tuple[float, int]:
    """Minimise the loss over all samples, with scikit-learn's options and warnings; `params` are updated in place.

    It is done in float64 whatever the type of the parameters is, since a line search compares values of the loss.
    `callback` is called with the loss after each iteration, when `params` are up to date, and returns True to stop.
    If the handler of a signal raises, `params` are those of the last iteration.

    Returns
    -------
    loss : float
        The loss at the minimum.
    n_iter : int
        How many iterations it took.
    """
    X, y, sample_weight = data
    work = FlatBuffer(params.shapes, np.float64)
    x0, n = params.flat.astype(np.float64), len(y)
    samples, layout = as_samples(X, np.float64, y, sample_weight), layout_of(work, activations, training=True)
    gradient, group, order = aligned_zeros(work.flat.size, np.float64), np.zeros(HYPER), np.arange(n)
    update = Update(Variant(rules.KEEP, "coupled"), np.array([gradient.ctypes.data], np.int64), group)
    engine = Engine(
        work, layout, samples, loss, update, n, n, n_threads, alpha=alpha, loss_setting=loss_setting
    )  # fmt: skip
    with engine:

        def loss_and_gradient(x: Array) -> tuple[float, Array]:
            work.flat[:] = x
            engine.epoch(order, 0, group)
            engine.watch.check()
            return engine.loss, gradient.copy()

        def after_iteration(intermediate_result: Any) -> None:
            params.flat[:] = intermediate_result.x
            if callback(float(intermediate_result.fun)):
                raise StopIteration

        result = scipy.optimize.minimize(
            loss_and_gradient,
            x0,
            method="L-BFGS-B",
            jac=True,
            callback=after_iteration,
            options={
                "maxfun": max_fun,
                "maxiter": max_iter,
                "gtol": tol,
                **_get_additional_lbfgs_options_dict("iprint", 1 if verbose is True or verbose >= 1 else -1),
            },
        )
    params.flat[:] = result.x
    n_iter = result.nit if result.status == _STOPPED else _check_optimize_result("lbfgs", result, max_iter)
    return float(result.fun), int(n_iter)
