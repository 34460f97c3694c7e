"""Solver "lbfgs": SciPy's L-BFGS-B, with the engine's loss and gradient over all samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from sklearn.utils.fixes import _get_additional_lbfgs_options_dict
from sklearn.utils.optimize import _check_optimize_result

from fastadam._memory import aligned_zeros
from fastadam._typing import Array
from fastadam.buffers import FlatBuffer
from fastadam.cpu.engine import Engine
from fastadam.cpu.network import as_samples, layout_of
from fastadam.estimators.data import Data
from fastadam.estimators.settings import FitSettings
from fastadam.formulas import rules
from fastadam.formulas.network import Update
from fastadam.formulas.step import HYPER, StepSpec

_STOPPED = 99
"""SciPy's status if the callback has stopped it."""


def minimize(
    params: FlatBuffer, settings: FitSettings, data: Data, callback: Callable[[float], bool]
) -> tuple[float, int]:
    """Minimize the loss over all samples, with scikit-learn's options and warnings; `params` are updated in place.

    The computation is in float64 whatever the type of the parameters, since a line search compares values of the loss.
    If the handler of a signal raises, `params` are those of the last iteration.

    Parameters
    ----------
    params : FlatBuffer
        Initial parameters.
    settings : FitSettings
        Settings of the fit.
    data : Data
        Samples to fit.
    callback : callable
        Called with the loss after each iteration, when `params` are up to date; returns True to stop.

    Returns
    -------
    loss : float
        Loss at the minimum.
    n_iter : int
        Number of iterations.
    """
    X, y = data.X, data.loss_targets
    work = FlatBuffer(params.shapes, np.float64)
    x0, n = params.flat.astype(np.float64), len(y)
    samples = as_samples(X, np.float64, y, data.loss_weight)
    layout = layout_of(work, settings.activations, training=True)
    gradient, group, order = aligned_zeros(work.flat.size, np.float64), np.zeros(HYPER), np.arange(n)
    update = Update(StepSpec(rules.KEEP, "coupled"), np.array([gradient.ctypes.data], np.int64), group)
    engine = Engine(
        work, layout, samples, data.loss.name, update, n, n, settings.n_threads,
        alpha=data.alpha, loss_setting=data.loss.parameter(np.float64),
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
                "maxfun": settings.max_fun,
                "maxiter": settings.max_iter,
                "gtol": settings.tol,
                **_get_additional_lbfgs_options_dict("iprint", 1 if settings.verbose >= 1 else -1),
            },
        )
    params.flat[:] = result.x
    n_iter = result.nit if result.status == _STOPPED else _check_optimize_result("lbfgs", result, settings.max_iter)
    return float(result.fun), int(n_iter)
