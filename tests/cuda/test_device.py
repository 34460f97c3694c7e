"""Everything on a real GPU, which CI does not have: `make gpu`. Without one the tests are collected, and skipped."""

from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("cupy")

import cupy
from numba import cuda
from numba.cuda.cudadrv.devicearray import DeviceNDArray
from scipy import sparse
from sklearn.datasets import make_classification, make_regression

from fastadam import MLPClassifier, MLPRegressor
from fastadam.cpu.dropout import drop
from fastadam.cuda import is_available
from fastadam.optimizers.adam import Adam, NAdam
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers.family import EVERYTHING

pytestmark = pytest.mark.skipif(not is_available(), reason="needs a GPU, its driver and CuPy")

FLOATS = [np.float32, np.float64]
N = 100_003


def problem(dtype, n=N):
    rng = np.random.default_rng(0)
    return rng.uniform(1, 2, n).astype(dtype), [rng.standard_normal(n).astype(dtype) for _ in range(4)]


@pytest.mark.parametrize(("of", "options"), [(Adam, {"amsgrad": True}), *EVERYTHING.items()])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shift", [0, 1])
def test_a_step_agrees_with_the_hosts_to_two_ulp(of, options, dtype, shift):
    start, gradients = problem(dtype)
    p, there_p = start.copy(), cupy.asarray(np.concatenate([start[:shift], start]))[shift:]
    here, there = of(p, **options), of(there_p, **options)
    for g in gradients:
        there.load_state_dict(here.state_dict())
        there_p[:] = cupy.asarray(p)
        here.step(g)
        there.step(cupy.asarray(g))
        np.testing.assert_array_max_ulp(there_p.get(), p, maxulp=2, dtype=dtype)
        saved, expected = there.state_dict(), here.state_dict()
        for name in here.state:
            np.testing.assert_allclose(saved[name], expected[name], rtol=1e3 * np.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"max_norm": 1.0}, {"on_nonfinite": "skip"}, {"ema_decay": 0.9, "zero_grad": True}]
)
def test_options_agree_with_the_hosts(options):
    p, gradients = problem(np.float32)
    there_p = cupy.asarray(p)
    here, there = Adam(p, **options), Adam(there_p, **options)
    gradients[1][5] = np.nan if "on_nonfinite" in options else 1.0
    for g in gradients:
        given = cupy.asarray(g)
        here.step(g)
        there.step(given)
        assert not options.get("zero_grad") or not given.any()
    assert (here.t, here.skipped_steps) == (there.t, there.skipped_steps)
    np.testing.assert_allclose(there_p.get(), p, rtol=1e-5)


def test_a_captured_step_is_replayed_with_another_rate():
    start, (g, *_) = problem(np.float32)
    p, there_p, there_g = start.copy(), cupy.asarray(start), cupy.asarray(g)
    here, stream = NAdam(p), cupy.cuda.Stream(non_blocking=True)
    stream.synchronize()
    with stream:
        there = NAdam(there_p)
        there.step(there_g)
        stream.begin_capture()
        there.step(there_g)
        graph = stream.end_capture()
        for lr in (2e-3, 1e-1, 1e-4):
            there.lr = lr
            graph.launch(stream=stream)
        stream.synchronize()
    for lr in (2e-3, 2e-3, 1e-1, 1e-4):
        here.lr = lr
        here.step(g)
    assert there.t == 4
    np.testing.assert_allclose(there_p.get(), p, rtol=1e-5)


# Numbers in fewer bytes


@pytest.mark.parametrize("form", ["bfloat16", "uint8"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("of", [Adam, NAdam, Lion])
def test_states_in_fewer_bytes_agree_with_the_hosts(form, shift, of):
    start, gradients = problem(np.float32)
    p, there_p = start.copy(), cupy.asarray(np.concatenate([start[:shift], start]))[shift:]
    here, there = (of(params, state_dtype=form) for params in (p, there_p))
    for g in gradients:
        there.load_state_dict(here.state_dict())
        there_p[:] = cupy.asarray(p)
        here.step(g)
        there.step(cupy.asarray(g))
        np.testing.assert_array_max_ulp(there_p.get(), p, maxulp=2, dtype=np.float32)
        saved, expected = there.state_dict(), here.state_dict()
        for name in here.state:  # a last bit more or less is dithered to a neighbour, seldom
            if name.endswith("_scale"):
                np.testing.assert_allclose(saved[name], expected[name], rtol=1e-5)
            else:
                apart = np.abs(saved[name].astype(np.int64) - expected[name])
                assert apart.max() <= 1
                assert (apart > 0).mean() < 1e-2


@pytest.mark.parametrize("options", [{}, {"state_dtype": "bfloat16"}, {"max_norm": 1.0, "on_nonfinite": "skip"}])
def test_parameters_of_float16_agree_with_the_hosts(options):
    start, gradients = problem(np.float32)
    p = start.astype(np.float16)
    there_p = cupy.asarray(p)
    here, there = Adam(p, **options), Adam(there_p, **options)
    for g in gradients:
        here.step(g.astype(np.float16))
        there.step(cupy.asarray(g.astype(np.float16)))
    np.testing.assert_allclose(there.state_dict()["master"], here.state["master"], rtol=1e-4)
    np.testing.assert_array_max_ulp(there_p.get(), p, maxulp=1)


def test_parameters_of_pytorchs_bfloat16():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    start, gradients = problem(np.float32, 3000)
    tensor = torch.nn.Parameter(torch.tensor(start, device="cuda").bfloat16())
    masters = tensor.detach().float().cpu().numpy()
    there, here = Adam(tensor, state_dtype="bfloat16"), Adam(masters, state_dtype="bfloat16")
    for g in gradients:
        rounded = torch.tensor(g, device="cuda").bfloat16()
        there.step(rounded)
        here.step(rounded.float().cpu().numpy())
    np.testing.assert_allclose(there.state_dict()["master"], masters, rtol=1e-4)
    rounded = torch.tensor(there.state_dict()["master"]).bfloat16()
    assert torch.equal(rounded, tensor.detach().cpu())


# Streams, graphs and large arrays


def slow(array):
    """Work on the current stream that takes long beside a launch; what it computes is the array itself."""
    matrix = cupy.ones((4096, 4096), np.float32)
    for _ in range(20):
        matrix = matrix @ matrix * 0
    return array + matrix[0, 0]


@pytest.mark.parametrize("first", [0, 1])
def test_a_step_waits_for_gradients_of_two_streams(first):
    start, (a, b, *_) = problem(np.float32)
    p, there_p, streams = start.copy(), cupy.asarray(start), [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    there = SGD(there_p, lr=0.5)
    sources = cupy.asarray(a), cupy.asarray(b)
    cupy.cuda.Device().synchronize()
    given = []
    for stream, source in zip(streams, sources, strict=True):
        with stream:
            given.append(slow(source))

    class On:  # CuPy offers its current stream at the time of asking
        def __init__(self, array, stream):
            self.array, self.stream = array, stream

        @property
        def __cuda_array_interface__(self):
            return {**self.array.__cuda_array_interface__, "stream": self.stream.ptr}

    grads = [On(array, stream) for array, stream in zip(given, streams, strict=True)]
    there.step(*(grads if first == 0 else grads[::-1]))
    cupy.cuda.Device().synchronize()
    SGD(p, lr=0.5).step(*((a, b) if first == 0 else (b, a)))
    np.testing.assert_allclose(there_p.get(), p, rtol=1e-6)


def test_a_graph_keeps_its_gradients_and_is_replayed_on_another_stream():
    start, (a, b, *_) = problem(np.float32)
    p, there_p, there_a, there_b = start.copy(), cupy.asarray(start), cupy.asarray(a), cupy.asarray(b)
    here, there, stream = Adam(p), Adam(there_p), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        there.step(there_a)
        stream.begin_capture()
        there.step(there_a)
        graph = stream.end_capture()
    stream.synchronize()
    there.step(there_b)
    graph.launch(stream=cupy.cuda.Stream.null)
    there.lr = 0.5
    graph.launch(stream=cupy.cuda.Stream.null)
    for g, lr in ((a, 1e-3), (b, 1e-3), (a, 1e-3), (a, 0.5)):
        here.lr = lr
        here.step(g)
    assert there.t == 4
    np.testing.assert_allclose(there_p.get(), p, rtol=1e-4)


def test_a_capture_without_a_step_before_is_refused():
    p, g, stream = cupy.ones(1000), cupy.ones(1000), cupy.cuda.Stream(non_blocking=True)
    made = Adam(p)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="take one step with the same arrays"):
                made.step(g)
        finally:
            stream.end_capture()
    made.step(g)
    assert made.t == 1


def test_an_array_that_offers_dlpack_alone():
    class Lent:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    p = cupy.ones(1000)
    made = SGD(p, lr=0.25)
    for _ in range(4):
        made.step(Lent(cupy.ones(1000)))
    assert not p.get().any()


def test_more_elements_than_32_bits_count():
    n = 2**31 + 12_345
    free, _ = cuda.current_context().get_memory_info()
    if free < 13 * n:
        pytest.skip("needs 28 GB on the device")
    p, g = cupy.zeros(n, np.float32), cupy.full(n, 0.5, np.float32)
    SGD(p, lr=1.0, max_norm=1e9).step(g)
    assert float(p.max()) == float(p.min()) == -0.5
    del p, g
    cupy.get_default_memory_pool().free_all_blocks()


def test_tensors_of_pytorch_on_its_own_stream():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    start, gradients = problem(np.float32, 3000)
    p = start.reshape(30, 100)
    tensor = torch.nn.Parameter(torch.tensor(p, device="cuda"))
    here, there, stream = Adam({"W": p}), Adam({"W": tensor}), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for g in gradients:
            there.step({"W": torch.tensor(g.reshape(30, 100), device="cuda")})
            here.step({"W": g.reshape(30, 100)})
        stream.synchronize()
    np.testing.assert_allclose(tensor.detach().cpu().numpy(), p, rtol=1e-5)


def test_more_than_fits_is_an_error_that_leaves_the_device_usable():
    free, _ = cuda.current_context().get_memory_info()
    p = cupy.empty(int(0.45 * free) // 4, np.float32)
    with pytest.raises(MemoryError, match="the optimizer's states need"):
        Adam(p)
    del p
    cupy.get_default_memory_pool().free_all_blocks()
    Adam(cupy.ones(3)).step(cupy.ones(3))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_fit_agrees_with_the_hosts(activation, dtype):
    X, y = make_regression(n_samples=1050, n_features=20, random_state=0)
    X, y = X.astype(dtype), (y / y.std()).astype(dtype)
    settings = {"hidden_layer_sizes": (64, 32), "activation": activation, "max_iter": 20, "random_state": 0}
    here, there = (MLPRegressor(**settings, device=device).fit(X, y) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=1e-3 if dtype is np.float32 else 1e-9)
    assert abs(there.loss_ - here.loss_) <= 1e-5 * max(1.0, here.loss_)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_classifier_agrees_with_the_hosts():
    X, y = make_classification(n_samples=1000, random_state=0)
    settings = {"max_iter": 20, "random_state": 0, "early_stopping": True}
    here, there = (MLPClassifier(**settings, device=device).fit(X, y) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), rtol=1e-6)


SMALL = {"hidden_layer_sizes": (64, 32), "max_iter": 10, "random_state": 0}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3},
        {"clip_norm": 0.05, "alpha": 1.0},
        {"dropout": 0.5, "clip_norm": 0.5, "label_smoothing": 0.1, "class_weight": "balanced", "activation": "gelu"},
        {"sparse": True},
    ],
)
@pytest.mark.parametrize("classes", [3, 300])
def test_several_classes_agree_with_the_host(options, dtype, classes):
    """With 300, a row has more of them than a block has threads. The tenth epoch's steps are replayed ones."""
    rng, options = np.random.default_rng(0), SMALL | options
    X, y = rng.standard_normal((1050, 20)).astype(dtype), rng.integers(classes, size=1050)
    X[X < 0] = 0
    given = sparse.csr_matrix(X) if options.pop("sparse", False) else X
    here, there = (MLPClassifier(**options, device=device).fit(given, y) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=1e-3 if dtype is np.float32 else 1e-9)
    assert abs(there.loss_ - here.loss_) <= 1e-5 * max(1.0, here.loss_)


def test_the_mask_of_dropout_is_that_of_the_host():
    """With the identity and inputs of one, what is left of the activations is the mask itself."""
    from fastadam.cuda.dropout import mask_table
    from fastadam.cuda.layers import activate_kernel

    rows, units, order = 300, 70, np.random.default_rng(0).permutation(1000)
    for dtype in FLOATS:
        expected, Z = np.ones((rows, units), dtype), cupy.zeros((rows, units), dtype)
        drop(expected, order[100 : 100 + rows], units, 2, 2**31 - 2, 8, 0.3)
        bias, kept, position = cupy.ones(units, dtype), cupy.zeros_like(Z), cupy.array([100.0])
        samples, steps = cupy.asarray(order.astype(np.int64)), cupy.array([7], np.int64)
        where = (array.data.ptr for array in (samples, position, steps))
        table = cupy.asarray(mask_table(2**31 - 2, 0.3, np.dtype(dtype), *where))
        cuda.synchronize()
        compiled = activate_kernel("identity", np.dtype(dtype).name, True)
        compiled[7, 256](Z.data.ptr, bias.data.ptr, rows, units, kept.data.ptr, table.data.ptr, 2)
        cuda.synchronize()
        np.testing.assert_array_equal(Z.get(), expected)
        assert (kept == 1).all()


def libraries():
    """List what moves an array to the device, and what it becomes there."""
    found = [
        pytest.param(lambda array: cupy.asarray(array), cupy.ndarray, id="cupy"),
        pytest.param(lambda array: cuda.to_device(array), DeviceNDArray, id="numba"),
    ]
    if find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            found.append(pytest.param(lambda array: torch.tensor(array, device="cuda"), torch.Tensor, id="torch"))
    return found


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(("moved", "kind"), libraries())
@pytest.mark.parametrize("dtype", FLOATS)
def test_arrays_on_the_device_are_trained_on_there_and_predictions_are_of_their_library(moved, kind, dtype):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1050, 20)).astype(dtype), rng.standard_normal((1050, 2)).astype(dtype)
    here, there = MLPRegressor(**SMALL).fit(X, y), MLPRegressor(**SMALL, device="cuda").fit(moved(X), moved(y))
    rtol = 1e-3 if dtype is np.float32 else 1e-9
    np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=rtol)
    predicted = there.predict(moved(X))
    assert isinstance(predicted, kind)
    np.testing.assert_allclose(cupy.asarray(predicted).get(), there.predict(X), rtol=rtol, atol=10 * rtol)
    assert there.score(moved(X), moved(y)) == pytest.approx(there.score(X, y), abs=rtol)

    labels = (y[:, 0] > 0).astype(np.int64) + 3
    classifier = MLPClassifier(**SMALL, device="auto", early_stopping=True).fit(moved(X), moved(labels))
    for method in (classifier.predict, classifier.predict_proba, classifier.predict_log_proba):
        assert isinstance(method(moved(X)), kind)
        np.testing.assert_allclose(cupy.asarray(method(moved(X))).get(), method(X), rtol=rtol, atol=10 * rtol)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_fit_copies_no_data_that_lie_on_the_device():
    X, pool = cupy.ones((2**18, 64), np.float32), cupy.get_default_memory_pool()  # 64 MiB
    X[:, 0] = cupy.arange(len(X)) % 7
    unchanged = X.copy()
    pool.free_all_blocks()
    held = pool.total_bytes()
    MLPRegressor(hidden_layer_sizes=(8,), batch_size=1024, max_iter=1, device="cuda").fit(X, np.arange(len(X)) % 7)
    assert pool.total_bytes() - held < X.nbytes
    assert bool((X == unchanged).all())  # noqa: SIM300 - no condition of Yoda's


def test_data_that_are_still_being_computed_are_waited_for():
    n = 4000
    with cupy.cuda.Stream(non_blocking=True):
        X = cupy.full((n, n), 1 / n, np.float32)
        for _ in range(20):  # which takes a while, and nobody waits for it
            X = X @ X
        X = X * 0 + 1
    settings, y = {"hidden_layer_sizes": (4,), "random_state": 0}, np.ones(n)
    there = MLPRegressor(**settings, device="cuda").partial_fit(X, y)
    here = MLPRegressor(**settings).partial_fit(np.ones((n, n), np.float32), y)
    np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=1e-3)


def test_nan_and_another_dtype_on_the_device():
    X = cupy.ones((20, 3))
    X[3, 1] = cupy.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        MLPRegressor(device="cuda").fit(X, np.ones(20))
    whole = cupy.arange(60).reshape(20, 3)
    assert MLPRegressor(device="cuda").partial_fit(whole, np.ones(20)).coefs_[0].dtype == np.float64
