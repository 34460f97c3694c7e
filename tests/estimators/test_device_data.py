"""Arrays on a CUDA device as the estimators meet them, where no device is needed to say what is wrong."""

import numpy as np
import pytest

from fastadam import MLPClassifier, MLPRegressor
from fastadam.estimators.device_data import is_resident, like_given, on_host
from tests.helpers.cuda_arrays import FakeDeviceArray

X = np.random.default_rng(0).standard_normal((20, 3))


@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
@pytest.mark.parametrize("parameters", [{}, {"device": "auto", "solver": "lbfgs"}], ids=str)
def test_an_x_on_a_device_is_refused_where_it_cannot_be_trained_on(kind, parameters):
    with pytest.raises(TypeError, match="X lies on a CUDA device, which needs device='cuda' or 'auto'"):
        kind(**parameters).fit(FakeDeviceArray(X), np.arange(20) % 2)


@pytest.mark.parametrize("array", [X, None, [1.0, 2.0]])
def test_what_lies_on_the_host_stays_as_it_is(array):
    assert on_host("y", array) is array


def test_data_that_stay_on_a_device_are_told_from_those_of_the_host():
    from scipy import sparse

    assert not is_resident(X)
    assert not is_resident(sparse.csr_array(X))
    assert is_resident(FakeDeviceArray(X))


def test_predictions_of_data_on_the_host_are_numpys():
    values = np.arange(3.0)
    assert like_given(X, values) is values
