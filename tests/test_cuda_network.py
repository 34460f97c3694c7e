"""Training on a CUDA device, under Numba's simulator and with NumPy in CuPy's place, beside the engine on the host."""

import os
import signal
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
from fastadam.cuda import runtime as runtimes
from fastadam.cuda.network import DeviceEngine
from fastadam.cuda.runtime import numpy_runtime
from fastadam.engine import Engine
from fastadam.interrupts import OutOfTimeError
from fastadam.losses import LOSSES
from fastadam.network import as_samples, layout_of, shapes_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does

N = 13
SETTINGS = {
    "learning_rate_init": 0.01, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8, "momentum": 0.9,
    "nesterovs_momentum": True, "alpha": 0.3,
}  # fmt: skip


def data(dtype=np.float64, outputs=2, loss="squared_error", weighted=False, smoothing=0.0):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((N, 5)), rng.uniform(0, 1, (N, outputs))
    if loss == "log_loss":
        Y = (Y > 0.5).astype(dtype)
    if loss == "multinomial":
        Y = np.eye(outputs)[rng.integers(outputs, size=N)] * (1 - smoothing) + smoothing / outputs
    weight = rng.integers(0, 3, N).astype(dtype) if weighted else None
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
        made = DeviceEngine(params, activations, samples, loss, update, N, 4, runtime=numpy_runtime(), **options)
    else:
        layout = layout_of(params, activations, training=True, dropout=options.get("dropout", 0) > 0)
        made = Engine(params, layout, samples, loss, update, N, 4, 1, **options)
    t, rng = 0, np.random.default_rng(2)
    with made as engine:
        for _ in range(epochs):
            value, t = engine.epoch(rng.permutation(N), t, group_of(optimizer))
            losses.append(value)
    return params.flat, optimizer.state, losses, t, group_of(optimizer)


@pytest.mark.parametrize("by", ["signal", "time"])
def test_an_epoch_that_is_given_up_ends_after_a_whole_step(monkeypatch, by):
    """The signal arrives in the middle of the second of four steps."""
    samples = data()

    def engine_of(n_rows):
        params = FlatBuffer(shapes_of([5, 4, 2]), np.float64)
        params.flat[:] = np.random.default_rng(1).uniform(-0.7, 0.7, params.flat.size)
        optimizer = make_optimizer(params, SimpleNamespace(solver="nadam", **SETTINGS))
        update = update_of(optimizer, "nadam")
        runtime = numpy_runtime()
        return (
            params,
            optimizer,
            DeviceEngine(params, ("relu",), samples, "squared_error", update, n_rows, 4, runtime=runtime),
        )

    class Stop(BaseException):
        pass

    def stop(number, frame):
        raise Stop

    def interrupt():
        if by == "signal":
            signal.raise_signal(signal.SIGTERM)
        else:
            monkeypatch.setattr("fastadam.cuda.network.LOOK_SECONDS", 0.0)
            engine.watch.end = 0.0

    def begin(rows):
        calls.append(rows)
        if len(calls) == 2:
            interrupt()
        DeviceEngine._begin(engine, rows)

    def epoch():
        engine.epoch(order, 0, group_of(optimizer))
        engine.watch.check()

    calls, order = [], np.random.default_rng(2).permutation(N)
    params, optimizer, engine = engine_of(N)
    engine.prepare()  # which changes nothing that is trained
    monkeypatch.setattr(engine, "_begin", begin)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stop if by == "signal" else OutOfTimeError):
            epoch()
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    expected, their_optimizer, other = engine_of(8)
    other.epoch(order[:8], 0, group_of(their_optimizer))
    assert (engine.t, engine.loss) == (other.t, other.loss) == (2, engine.loss)
    np.testing.assert_array_equal(params.flat, expected.flat)
    np.testing.assert_array_equal(group_of(optimizer), group_of(their_optimizer))
    for name, state in optimizer.state.items():
        np.testing.assert_array_equal(state, their_optimizer.state[name])


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


@pytest.mark.parametrize("loss", LOSSES)
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
    monkeypatch.setattr(runtimes, "numpy_runtime", lambda: runtime)
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


@pytest.mark.parametrize(("classes", "smoothing"), [(1, 0.0), (3, 0.1), (4, 0.0), (11, 0.1)])
def test_any_number_of_classes(classes, smoothing):
    """More of them than a block has threads, four under the simulator, and fewer."""
    samples = data(outputs=classes, loss="multinomial", smoothing=smoothing, weighted=True)
    assert_same_training(samples, loss="multinomial")


@pytest.mark.parametrize(
    ("activation", "rate"), [("logistic", 0.3), ("gelu", 0.8)]
)  # derivatives by what came out, went in
def test_dropout_has_the_mask_of_the_host(activation, rate):
    """Over two epochs, for the mask is of the step; with batches of zero weight, which are no steps."""
    options = {"dropout": rate, "seed": 2**31 - 2, "epochs": 2}
    assert_same_training(data(weighted=True), activations=(activation, "tanh"), **options)


def test_dropout_in_float32():
    assert_same_training(data(np.float32), rtol=2e-5, dropout=0.5, seed=3)


def test_nothing_is_dropped_without_hidden_layers():
    assert_same_training(data(), activations=(), dropout=0.5, seed=3)


@pytest.mark.parametrize(("solver", "clip_norm"), [("sgd", 0.3), ("sgd", 1e9), ("adamw", 1e-3), ("nadam", 1e-3)])
def test_clipping(solver, clip_norm):
    """The penalty's part is in the gradient that is clipped; the decay of AdamW is none."""
    alpha = 0.0 if solver == "adamw" else 2.0
    assert_same_training(data(weighted=True), solver=solver, clip_norm=clip_norm, alpha=alpha)


def test_clipping_without_penalty_in_float32():
    assert_same_training(data(np.float32), rtol=2e-5, solver="sgd", clip_norm=0.1, alpha=0.0)


def sparse_samples(X, dtype=np.float64, index=np.int32):
    samples = as_samples(X, dtype, *data(dtype, weighted=True)[-2:])
    return samples._replace(indices=samples.indices.astype(index), indptr=samples.indptr.astype(index))


@pytest.mark.parametrize(("dtype", "index"), [(np.float64, np.int32), (np.float64, np.int64), (np.float32, np.int32)])
def test_sparse_rows(dtype, index):
    X = data().X
    X[np.abs(X) < 0.8] = 0
    X[[2, 5]] = 0
    samples, rtol = sparse_samples(sparse.csr_matrix(X), dtype, index), 1e-9 if dtype is np.float64 else 2e-5
    assert_same_training(samples, rtol=rtol)


@pytest.mark.parametrize("X", [sparse.csr_matrix((N, 5)), sparse.csr_matrix(data().X)[:, ::-1]])
def test_sparse_rows_without_entries_and_without_order(X):
    assert_same_training(sparse_samples(X))


def test_entries_of_one_place_are_added_up():
    X = sparse.csr_matrix(([1.0, 2.0, 3.0], [3, 3, 0], [0, 3, *[3] * (N - 1)]), (N, 5))
    samples = sparse_samples(X)
    assert samples.data.size == 3
    assert_same_training(samples)
    np.testing.assert_array_equal(samples.data, [1, 2, 3])  # those of the user are as they were


# The estimators


@pytest.fixture
def numpy_for_cupy(monkeypatch):
    monkeypatch.setattr(runtimes, "cupy_runtime", numpy_runtime)


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
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.2, "class_weight": "balanced", "dropout": 0.4, "clip_norm": 0.2, "alpha": 0.5},
        {"sparse": True, "early_stopping": True, "validation_fraction": 0.4},
    ],
)
def test_the_classifier_of_several_classes(options):
    options = SMALL | options
    X = sparse.csr_matrix(data().X) if options.pop("sparse", False) else data().X
    y, weight = np.array(["one", "two", "three"])[np.arange(N) % 3], np.arange(N) / 4
    fitted = [MLPClassifier(**options, device=device).fit(X, y, weight) for device in ("cpu", "auto")]
    np.testing.assert_allclose(fitted[1].loss_curve_, fitted[0].loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(fitted[1].predict_proba(X), fitted[0].predict_proba(X), rtol=1e-9)


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
