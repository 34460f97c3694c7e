"""Training under Numba's simulator, with NumPy in CuPy's place, beside the engine on the host."""

from types import SimpleNamespace

import numpy as np

from fastadam.buffers import FlatBuffer
from fastadam.cpu.engine import Engine
from fastadam.cpu.network import as_samples, layout_of
from fastadam.cuda.engine import DeviceEngine
from fastadam.cuda.runtime import numpy_runtime
from fastadam.estimators.solvers import group_of, make_optimizer, update_of
from fastadam.formulas.network import shapes_of

SAMPLES = 13


SETTINGS = {
    "learning_rate_init": 0.01, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8, "momentum": 0.9,
    "nesterovs_momentum": True, "alpha": 0.3,
}  # fmt: skip


def data(dtype=np.float64, outputs=2, loss="squared_error", weighted=False, smoothing=0.0):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((SAMPLES, 5)), rng.uniform(0, 1, (SAMPLES, outputs))
    if loss == "log_loss":
        Y = (Y > 0.5).astype(dtype)
    if loss == "multinomial":
        Y = np.eye(outputs)[rng.integers(outputs, size=SAMPLES)] * (1 - smoothing) + smoothing / outputs
    weight = rng.integers(0, 3, SAMPLES).astype(dtype) if weighted else None
    if weighted:
        weight[4:8] = 0  # a whole batch of those below
    return as_samples(X.astype(dtype), dtype, Y.astype(dtype), weight)


def trained(
    on_device, samples, *, activations=("relu",), loss="squared_error", solver="adam", epochs=1, alpha=0.3, **more
):
    """Parameters, state, losses and steps after some epochs in batches of four, the last of one."""
    dtype = samples.y.dtype
    params = FlatBuffer(shapes_of([5, *[4, 3][: len(activations)], samples.y.shape[1]]), dtype)
    params.flat[:] = np.random.default_rng(1).uniform(-0.7, 0.7, params.flat.size)
    optimizer = make_optimizer(params, SimpleNamespace(solver=solver, **SETTINGS))
    setting = float(np.finfo(dtype).eps) if loss in ("log_loss", "multinomial") else 0.5
    options = {"alpha": alpha, "loss_setting": setting, **more}
    update, losses = update_of(optimizer, solver), []
    if on_device:
        made = DeviceEngine(params, activations, samples, loss, update, SAMPLES, 4, runtime=numpy_runtime(), **options)
    else:
        layout = layout_of(params, activations, training=True, dropout=options.get("dropout", 0) > 0)
        made = Engine(params, layout, samples, loss, update, SAMPLES, 4, 1, **options)
    t, rng = 0, np.random.default_rng(2)
    with made as engine:
        for _ in range(epochs):
            value, t = engine.epoch(rng.permutation(SAMPLES), t, group_of(optimizer))
            losses.append(value)
    return params.flat, optimizer.state, losses, t, group_of(optimizer)


def assert_same_training(samples, rtol=1e-9, **options):
    p, state, losses, t, group = trained(True, samples, **options)
    host_p, host_state, host_losses, host_t, host_group = trained(False, samples, **options)
    assert t == host_t
    np.testing.assert_allclose(losses, host_losses, rtol=rtol)
    np.testing.assert_allclose(p, host_p, rtol=rtol, atol=rtol)
    for name in host_state:
        np.testing.assert_allclose(state[name], host_state[name], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(group, host_group, rtol=1e-12)
