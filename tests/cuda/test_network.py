"""Predictions for data on a device, under Numba's simulator and with NumPy in CuPy's place."""

import numpy as np
import pytest

from fastadam import MLPClassifier, MLPRegressor
from fastadam.formulas.activations import ACTIVATIONS
from tests.helpers.cuda_arrays import FakeDeviceArray

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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_predicts_there_as_on_the_host(activation):
    """In blocks of rows, too; and an estimator that was trained on the host predicts where X lies."""
    X, y = problem(outputs=2)
    model = MLPRegressor(hidden_layer_sizes=(3, 2), activation=activation, random_state=0, max_iter=1).fit(X, y)
    np.testing.assert_allclose(model.predict(FakeDeviceArray(X)), model.predict(X), rtol=1e-9)


@pytest.mark.parametrize("options", [{"loss": "poisson"}, {"hidden_layer_sizes": ()}])
def test_other_outputs(options, monkeypatch):
    monkeypatch.setattr("fastadam.cuda.network.MOST_ELEMENTS", 4 * 4)  # four rows at a time
    X, y = problem()
    here, there = pair(MLPRegressor, X, y**2, **options)
    np.testing.assert_allclose(there.predict(FakeDeviceArray(X)), here.predict(X), rtol=1e-9)
    assert there.score(FakeDeviceArray(X), FakeDeviceArray(y)) == pytest.approx(here.score(X, y), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_far_from_a_half(dtype):
    """They neither overflow nor vanish before the host's do."""
    X, y = problem(dtype)[0], np.arange(N) % 2
    model = MLPClassifier(hidden_layer_sizes=(), max_iter=1, random_state=0).fit(X, y)
    model.coefs_[0][:] = np.array([[80.0], [0], [0], [0]])
    X[:, 0] = np.linspace(-1, 1, N)
    np.testing.assert_allclose(
        model.predict_proba(FakeDeviceArray(X)), model.predict_proba(X), rtol=2e-6, atol=np.finfo(dtype).eps / 2
    )
    assert model.predict_proba(FakeDeviceArray(X))[0, 1] > 0
