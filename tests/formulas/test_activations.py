"""The activations: their values and derivatives against formulas of their own, and what the network makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.formulas.activations import ACTIVATIONS
from tests.helpers.activations import REFERENCE, derivative, forward

DTYPES = [np.float32, np.float64]


def test_every_activation_has_a_reference():
    assert REFERENCE.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives(name, dtype):
    z = np.concatenate([np.linspace(-9, 9, 901), [-80, -30, 30, 80, 1e-3, -1e-3]]).astype(dtype)
    eps, exact = np.finfo(dtype).eps, z.astype(float)
    value, slope = (f(exact) for f in REFERENCE[name])
    got, _ = forward(name, z)
    np.testing.assert_allclose(got, value, rtol=100 * eps if "gelu" in name else 8 * eps, atol=2 * eps)
    np.testing.assert_allclose(derivative(name, z), slope, rtol=8 * eps, atol=16 * eps)


@pytest.mark.thin(10)
@pytest.mark.parametrize("name", ACTIVATIONS)
@given(z=st.floats(-1e300, 1e300))
@np.errstate(over="ignore")  # which NumPy reports of interpreted code
def test_no_number_gives_nan(name, z):
    value, _ = forward(name, np.array([z]))
    assert np.isfinite(value).all()
    assert np.isfinite(derivative(name, np.array([z]))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_nan(name, dtype):
    assert np.isnan(forward(name, np.array([np.nan], dtype))[0]).all()


@pytest.mark.peers
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    functions = {"identity": lambda z: z, "logistic": torch.sigmoid, "tanh": torch.tanh}
    function = functions.get(name) or getattr(torch.nn.functional, name)
    z = np.linspace(-8, 8, 641).astype(np.float32)
    given = torch.tensor(z, requires_grad=True)
    value = function(given)
    value.sum().backward()
    np.testing.assert_allclose(forward(name, z)[0], value.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(derivative(name, z), given.grad.numpy(), rtol=1e-5, atol=1e-6)
