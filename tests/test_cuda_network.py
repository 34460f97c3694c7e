"""Training on a CUDA device, under Numba's simulator and with NumPy in CuPy's place, beside the engine on the host."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda")
if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip("needs NUMBA_ENABLE_CUDASIM=1", allow_module_level=True)

from fastadam._solvers import SOLVERS, group_of, make_optimizer, update_of
from fastadam.activations import ACTIVATIONS
from fastadam.buffers import FlatBuffer
from fastadam.cuda import network as device_network
from fastadam.cuda.network import DeviceEngine, check_supported, numpy_runtime
from fastadam.engine import Engine
from fastadam.losses import LOSSES
from fastadam.network import as_samples, layout_of, shapes_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does

N = 13
SETTINGS = {
    "learning_rate_init": 0.01, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8, "momentum": 0.9,
    "nesterovs_momentum": True, "alpha": 0.3,
}  # fmt: skip


def data(dtype=np.float64, outputs=2, loss="squared_error", weighted=False):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((N, 5)), rng.uniform(0, 1, (N, outputs))
    if loss == "log_loss":
        Y = (Y > 0.5).astype(dtype)
    weight = rng.integers(0, 3, N).astype(dtype) if weighted else None
    if weighted:
        weight[4:8] = 0  # a whole batch of those below
    return as_samples(X.astype(dtype), dtype, Y.astype(dtype), weight)


def trained(on_device, samples, *, activations=("relu",), loss="squared_error", solver="adam", epochs=1, alpha=0.3):
    """Parameters, state, losses and steps after some epochs in batches of four, the last of one."""
    dtype = samples.X.dtype
    params = FlatBuffer(shapes_of([5, *[4, 3][: len(activations)], samples.y.shape[1]]), dtype)
    params.flat[:] = np.random.default_rng(1).uniform(-0.7, 0.7, params.flat.size)
    optimizer = make_optimizer(params, SimpleNamespace(solver=solver, **SETTINGS))
    options = {"alpha": alpha, "loss_setting": 0.5 if loss != "log_loss" else float(np.finfo(dtype).eps)}
    update, losses = update_of(optimizer), []
    if on_device:
        made = DeviceEngine(params, activations, samples, loss, update, N, 4, runtime=numpy_runtime(), **options)
    else:
        layout = layout_of(params, activations, training=True)
        made = Engine(params, layout, samples, loss, update, N, 4, 1, **options)
    t, rng = 0, np.random.default_rng(2)
    with made as engine:
        for _ in range(epochs):
            value, t = engine.epoch(rng.permutation(N), t, group_of(optimizer))
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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    assert_same_training(data(), activations=(activation, "tanh"), alpha=0.0)


@pytest.mark.parametrize("loss", [name for name in LOSSES if LOSSES[name].term])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_loss_with_and_without_weights(loss, weighted):
    assert_same_training(data(loss=loss, weighted=weighted), loss=loss)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_solver(solver, weighted):
    alpha = 0.0 if solver == "adamw" else 0.3
    assert_same_training(data(weighted=weighted), solver=solver, alpha=alpha)


def test_float32():
    assert_same_training(data(np.float32), rtol=2e-5, activations=("relu", "silu"))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_single_layer(alpha):
    assert_same_training(data(outputs=1), activations=(), alpha=alpha, epochs=2)


def test_full_batches_are_replayed(monkeypatch):
    """What is captured, and replayed, is a step of a full batch; two come before it, and a short one is launched."""
    launched, captured = [], []

    def capture(launch):
        captured.append(launch)
        return launch

    runtime = numpy_runtime()._replace(capture=capture)
    monkeypatch.setattr(device_network, "numpy_runtime", lambda: runtime)
    monkeypatch.setitem(globals(), "numpy_runtime", lambda: runtime)
    launch_step = DeviceEngine._launch_step
    monkeypatch.setattr(
        DeviceEngine, "_launch_step", lambda self, rows: (launched.append(rows), launch_step(self, rows))[1]
    )
    p, _, losses, t, _ = trained(True, data(), epochs=3)
    assert len(captured) == 1
    assert launched == [4, 4, 4, 1] * 3
    monkeypatch.undo()
    host_p, _, host_losses, host_t, _ = trained(False, data(), epochs=3)
    np.testing.assert_allclose(p, host_p, rtol=1e-9)
    np.testing.assert_allclose(losses, host_losses, rtol=1e-9)
    assert t == host_t == 12


@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_a_step_that_cannot_be_captured_is_launched_part_by_part(monkeypatch):
    def capture(launch):
        raise RuntimeError("no graphs here")

    runtime = numpy_runtime()._replace(capture=capture)
    monkeypatch.setitem(globals(), "numpy_runtime", lambda: runtime)
    with pytest.warns(RuntimeWarning, match="could not be captured in a CUDA graph.*no graphs here"):
        p, *_ = trained(True, data())
    monkeypatch.undo()
    np.testing.assert_allclose(p, trained(False, data())[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "multinomial"}, "the loss 'multinomial', of more than two classes"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"dropout": 0.5}, "dropout"),
    ],
)
def test_what_the_device_does_not_have(options, message):
    given = {"loss": "squared_error", "clip_norm": None, "dropout": 0.0} | options
    with pytest.raises(NotImplementedError, match=f"device='cuda' does not have {message}; or use device='cpu'"):
        check_supported(data(), **given)


def test_sparse_data_is_refused():
    from scipy import sparse

    samples = as_samples(sparse.csr_matrix(np.eye(3)), np.float64, np.ones((3, 1)))
    with pytest.raises(NotImplementedError, match="does not have sparse X: give it dense"):
        check_supported(samples, "squared_error", None, 0.0)


def test_data_that_does_not_fit():
    def full(*arguments, **options):
        raise MemoryError("Out of memory allocating 4,096 bytes")

    runtime = numpy_runtime()
    runtime = runtime._replace(xp=SimpleNamespace(asarray=full))
    params = FlatBuffer(shapes_of([5, 2]), np.float64)
    optimizer = make_optimizer(params, SimpleNamespace(solver="adam", **SETTINGS))
    with pytest.raises(MemoryError, match="the network and its 13 samples do not fit the CUDA device"):
        DeviceEngine(params, (), data(), "squared_error", update_of(optimizer), N, 4, runtime=runtime)
