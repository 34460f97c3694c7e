"""Training on a CUDA device, under Numba's simulator and with NumPy in CuPy's place, beside the engine on the host."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

pytest.importorskip("numba_cuda")
if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip("needs NUMBA_ENABLE_CUDASIM=1", allow_module_level=True)

from fastadam import MLPClassifier, MLPRegressor
from fastadam._solvers import SOLVERS, group_of, make_optimizer, update_of
from fastadam.activations import ACTIVATIONS
from fastadam.buffers import FlatBuffer
from fastadam.cuda import network as device_network
from fastadam.cuda.network import DeviceEngine, numpy_runtime
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
    update, losses = update_of(optimizer, solver), []
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


# The estimators


@pytest.fixture
def numpy_for_cupy(monkeypatch):
    monkeypatch.setattr(device_network, "cupy_runtime", numpy_runtime)


SMALL = {"hidden_layer_sizes": (4,), "batch_size": 4, "max_iter": 3, "random_state": 0, "early_stopping": False}


@pytest.mark.usefixtures("numpy_for_cupy")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("options", [{}, {"early_stopping": True, "validation_fraction": 0.4}, {"solver": "nadam"}])
def test_the_regressor(options):
    samples = data(outputs=1)
    X, y = samples.X, samples.y.ravel()
    fitted = [MLPRegressor(**SMALL | options, device=device, warm_start=True).fit(X, y) for device in ("cpu", "cuda")]
    for _ in range(2):  # then once more, from where it stopped
        for a, b in zip(*(model.coefs_ + model.intercepts_ for model in fitted), strict=True):
            assert isinstance(b, np.ndarray)
            np.testing.assert_allclose(b, a, rtol=1e-9)
        np.testing.assert_allclose(fitted[1].loss_curve_, fitted[0].loss_curve_, rtol=1e-9)
        np.testing.assert_allclose(fitted[1].predict(X), fitted[0].predict(X), rtol=1e-9)
        assert fitted[0].t_ == fitted[1].t_
        fitted = [model.fit(X, y) for model in fitted]


@pytest.mark.usefixtures("numpy_for_cupy")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_the_classifier_of_two_classes():
    samples = data(outputs=1, loss="log_loss")
    fitted = [MLPClassifier(**SMALL, device=device).fit(samples.X, samples.y.ravel()) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(fitted[1].predict_proba(samples.X), fitted[0].predict_proba(samples.X), rtol=1e-9)


@pytest.mark.usefixtures("numpy_for_cupy")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"dropout": 0.5}, "dropout"),
        ({"sparse": True}, "sparse X: give it dense"),
        ({"classes": 3}, "the loss 'multinomial', of more than two classes"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_what_the_device_does_not_have(options, message):
    options = dict(options)
    classes, X = options.pop("classes", 0), data().X
    X = sparse.csr_matrix(X) if options.pop("sparse", False) else X
    y = np.arange(N) % (classes or N)
    estimator = (MLPClassifier if classes else MLPRegressor)(**SMALL | options)
    with pytest.raises(NotImplementedError, match=f"device='cuda' does not have {message}; or use device='cpu'"):
        estimator.set_params(device="cuda").fit(X, y)
    assert not hasattr(estimator, "coefs_")
    assert estimator.set_params(device="auto").fit(X, y).n_iter_ == 3


def test_lbfgs_is_of_the_host():
    with pytest.raises(ValueError, match="device is of the stochastic solvers alone, got solver='lbfgs'"):
        MLPRegressor(solver="lbfgs", device="cuda").fit(data().X, np.arange(N))


def test_data_that_does_not_fit():
    def full(*arguments, **options):
        raise MemoryError("Out of memory allocating 4,096 bytes")

    runtime = numpy_runtime()
    runtime = runtime._replace(xp=SimpleNamespace(asarray=full))
    params = FlatBuffer(shapes_of([5, 2]), np.float64)
    optimizer = make_optimizer(params, SimpleNamespace(solver="adam", **SETTINGS))
    with pytest.raises(MemoryError, match="the network and its 13 samples do not fit the CUDA device"):
        DeviceEngine(params, (), data(), "squared_error", update_of(optimizer, "adam"), N, 4, runtime=runtime)
