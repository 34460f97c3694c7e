"""Estimators given arrays on a device, under Numba's simulator and with NumPy in CuPy's place."""

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from fastadam import MLPClassifier, MLPRegressor
from fastadam.cuda import data as device_data
from fastadam.cuda.data import DeviceMatrix
from fastadam.estimators.device_data import samples_of
from tests.helpers.cuda_arrays import FakeDeviceArray, RequiresGrad

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the simulator's threads compute as NumPy does
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
    pytest.mark.usefixtures("numpy_for_cupy"),
]


N = 6


SMALL = {"hidden_layer_sizes": (3,), "batch_size": 4, "max_iter": 1, "random_state": 0}


def problem(dtype=np.float64, outputs=1):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N, 4)).astype(dtype), rng.standard_normal((N, outputs)).astype(dtype)
    return X, y.ravel() if outputs == 1 else y


def pair(kind, X, y, *arguments, device="cuda", **options):
    """Estimators fitted on the host, and on a device to the same arrays, which lie there."""
    here = kind(**SMALL | options).fit(X, y, *arguments)
    given = [FakeDeviceArray(array) if array is not None else None for array in (X, y, *arguments)]
    return here, kind(**SMALL | options, device=device).fit(*given)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.float16])
def test_a_fit_to_arrays_on_a_device_is_that_of_the_host(dtype):
    X, y = problem()
    X, weight = (10 * X).astype(dtype), np.arange(N) / 4
    here, there = pair(MLPRegressor, X, y, weight)
    rtol = 1e-9 if dtype != np.float32 else 1e-4
    np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=rtol)
    assert there.coefs_[0].dtype == here.coefs_[0].dtype
    assert (there.n_features_in_, there.t_) == (here.n_features_in_, here.t_)
    np.testing.assert_allclose(there.predict(FakeDeviceArray(X)), here.predict(X), rtol=rtol)


def test_a_float_matrix_is_used_in_place():
    for dtype in (np.float32, np.float64):
        X = FakeDeviceArray(problem(dtype)[0])
        samples = samples_of(DeviceMatrix(X), dtype, np.zeros((N, 1)), None)
        assert np.shares_memory(samples.X, X.host)
        assert not np.shares_memory(samples_of(DeviceMatrix(X), np.longdouble, np.zeros((N, 1)), None).X, X.host)


@pytest.mark.parametrize("order", ["F", "strided"])
def test_other_orders_of_memory_are_made_contiguous_on_the_device(order):
    X, y = problem()
    given = FakeDeviceArray(X, order="F") if order == "F" else FakeDeviceArray(np.repeat(X, 2, axis=0)).strided()
    there = MLPRegressor(**SMALL, device="cuda").fit(given, y)
    np.testing.assert_allclose(there.coefs_[0], MLPRegressor(**SMALL).fit(X, y).coefs_[0], rtol=1e-9)
    np.testing.assert_array_equal(there.predict(given), there.predict(FakeDeviceArray(X)))


def test_an_outline_takes_no_memory():
    X = DeviceMatrix(FakeDeviceArray(np.zeros((1000, 1000))))
    tracemalloc.start()
    assert X.outline.shape == X.shape
    MLPRegressor(device="cuda")._validate_input(X.outline, np.zeros(1000), incremental=False, reset=True)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_the_host_and_the_device_may_be_mixed():
    X, y = problem()
    expected = MLPRegressor(**SMALL).fit(X, y).coefs_[0]
    for given in ((FakeDeviceArray(X), y), (X, FakeDeviceArray(y)), (RequiresGrad(FakeDeviceArray(X)), y.tolist())):
        there = MLPRegressor(**SMALL, device="auto").fit(*given)
        np.testing.assert_allclose(there.coefs_[0], expected, rtol=1e-9)
        assert isinstance(there.predict(X), np.ndarray)


@pytest.mark.parametrize("scoring", [None, "r2"])
def test_early_stopping_brings_what_is_held_out_to_the_host(scoring):
    here, there = pair(
        MLPRegressor,
        *problem(),
        early_stopping=True,
        validation_fraction=0.5,
        max_iter=2,
        batch_size=2,
        scoring=scoring,
    )
    np.testing.assert_allclose(there.validation_scores_, here.validation_scores_, rtol=1e-9)


def test_validation_data_may_lie_there_too():
    X, y = problem()
    here = MLPRegressor(**SMALL).fit(X, y, X_val=X[:5], y_val=y[:5], sample_weight_val=y[:5] ** 2)
    given = [FakeDeviceArray(array) for array in (X, y, X[:5], y[:5], y[:5] ** 2)]
    there = MLPRegressor(**SMALL, device="cuda").fit(
        *given[:2], **dict(zip(("X_val", "y_val", "sample_weight_val"), given[2:], strict=True))
    )
    np.testing.assert_allclose(there.validation_loss_curve_, here.validation_loss_curve_, rtol=1e-9)


def test_a_warm_start_goes_on_in_the_type_of_the_model():
    X, y = problem(np.float32)
    models = [MLPRegressor(**SMALL, device=device, warm_start=True).fit(X, y) for device in ("cpu", "cuda")]
    models[0].fit(X.astype(np.float64), y)
    models[1].fit(FakeDeviceArray(X.astype(np.float64)), y)
    assert models[1].coefs_[0].dtype == np.float32
    np.testing.assert_allclose(models[1].coefs_[0], models[0].coefs_[0], rtol=1e-4)


def test_partial_fit():
    X, y = problem()
    labels = (y > 0).astype(int)
    for kind, targets, more in ((MLPRegressor, y, {}), (MLPClassifier, labels, {"classes": [0, 1]})):
        here, there = kind(**SMALL), kind(**SMALL, device="cuda")
        for _ in range(2):
            here.partial_fit(X, targets, **more)
            there.partial_fit(FakeDeviceArray(X), FakeDeviceArray(targets), **more)
        np.testing.assert_allclose(there.coefs_[0], here.coefs_[0], rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_what_a_classifier_predicts_of_an_array_on_a_device(classes):
    X, y = problem()[0], np.arange(N) % classes + 5
    here, there = pair(MLPClassifier, X, y)
    given = FakeDeviceArray(X)
    np.testing.assert_allclose(there.predict_proba(given), here.predict_proba(X), rtol=1e-9)
    np.testing.assert_allclose(there.predict_log_proba(given), here.predict_log_proba(X), rtol=1e-9)
    np.testing.assert_array_equal(there.predict(given), here.predict(X))
    assert there.score(given, FakeDeviceArray(y)) == here.score(X, y)
    weight = np.arange(N) + 1.0
    assert there.score(given, y, FakeDeviceArray(weight)) == here.score(X, y, weight)


def test_labels_that_no_device_holds_stay_on_the_host():
    X, y = problem()[0], np.array(["yes", "no"])[np.arange(N) % 2]
    there = MLPClassifier(**SMALL, device="cuda").fit(FakeDeviceArray(X), y)
    np.testing.assert_array_equal(there.predict(FakeDeviceArray(X)), there.predict(X))
    assert there.predict(FakeDeviceArray(X)).dtype.kind == "U"


class OfALibrary(FakeDeviceArray):
    """An array of a library that follows the array standard."""

    def __array_namespace__(self):
        return self

    def from_dlpack(self, values):
        return "of the library", values


@pytest.mark.parametrize(
    ("given", "result"), [(OfALibrary([1.0]), "of the library"), (FakeDeviceArray([1.0]), np.float64(1))]
)
def test_predictions_are_of_the_library_of_the_data(given, result, monkeypatch):
    monkeypatch.setattr(device_data, "SIMULATED", False)
    assert device_data.in_kind_of(given, np.ones(1))[0] == result


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.full((N, 4), np.nan), ValueError, "Input X contains NaN"),
        (np.full((N, 4), np.inf, np.float32), ValueError, "Input X contains infinity"),
        (np.zeros(4), ValueError, "Expected 2D array, got 1D array"),
        (np.zeros((0, 4)), ValueError, "Found array with 0 sample"),
        (np.zeros((N, 4), complex), ValueError, "Complex data not supported"),
        (np.zeros((N, 4), "S3"), TypeError, "X must have numbers, got an array of "),
    ],
)
def test_data_that_scikit_learn_refuses(X, error, message):
    model, (given, y) = MLPRegressor(**SMALL, device="cuda"), problem()
    with pytest.raises(error, match=message):
        model.fit(FakeDeviceArray(X), y[: len(X)])
    assert not hasattr(model, "coefs_")
    model.fit(FakeDeviceArray(given), y)
    with pytest.raises(error, match=message):
        model.predict(FakeDeviceArray(X))


def test_large_numbers_whose_sum_overflows_are_accepted():
    X = DeviceMatrix(FakeDeviceArray(np.full((4, 4), 3e38, np.float32)))
    assert X.is_finite


def test_features_samples_and_targets_are_checked():
    X, y = problem()
    model = MLPRegressor(**SMALL, device="cuda").fit(FakeDeviceArray(X), y)
    with pytest.raises(ValueError, match="X has 3 features, but MLPRegressor is expecting 4 features"):
        model.predict(FakeDeviceArray(X[:, :3]))
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[6, 5\]"):
        model.fit(FakeDeviceArray(X), FakeDeviceArray(y[:-1]))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        model.fit(FakeDeviceArray(X), FakeDeviceArray(y * np.nan))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(5,\), expected \(6,\)"):
        model.fit(FakeDeviceArray(X), y, FakeDeviceArray(y[:-1]))


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"device": "auto", "solver": "lbfgs"}])
def test_what_cannot_be_trained_there(options):
    X, y = problem()
    with pytest.raises(TypeError, match="X lies on a CUDA device, which needs device='cuda' or 'auto' and a stochast"):
        MLPRegressor(**options).fit(FakeDeviceArray(X), y)


def test_another_device_than_the_current_one():
    X, y = problem()
    model = MLPRegressor(**SMALL, device="cuda")
    with pytest.raises(ValueError, match="X must lie on the current CUDA device, 0, got one on device 1: make that"):
        model.fit(FakeDeviceArray(X, device=1), y)
    with pytest.raises(ValueError, match="y must lie on the current CUDA device"):
        model.fit(FakeDeviceArray(X), FakeDeviceArray(y, device=1))


def test_sparse_data_on_the_host_and_targets_on_the_device():
    X, y = problem()
    here, there = MLPRegressor(**SMALL).fit(X, y), MLPRegressor(**SMALL, device="cuda")
    there.fit(sparse.csr_matrix(X), FakeDeviceArray(y))
    np.testing.assert_allclose(there.coefs_[0], here.coefs_[0], rtol=1e-9)
