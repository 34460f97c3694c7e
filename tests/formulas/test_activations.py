"""The activations: their values and derivatives against formulas of their own, and what the network makes of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from fastadam.cpu.layers import backward_kernel, forward_kernel
from fastadam.formulas.activations import ACTIVATIONS

DTYPES = [np.float32, np.float64]


def normal(z):
    return special.ndtr(z)


def softplus(z):
    return np.logaddexp(0, z)


# value and derivative, in float64, by other formulas than those of the package
REFERENCE = {
    "identity": (lambda z: z, np.ones_like),
    "logistic": (special.expit, lambda z: special.expit(z) * special.expit(-z)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z: np.exp(np.minimum(z, 0))),
    "softplus": (softplus, special.expit),
    "silu": (lambda z: z * special.expit(z), lambda z: special.expit(z) * (1 + z * special.expit(-z))),
    "gelu": (lambda z: z * normal(z), lambda z: normal(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)),
    "mish": (
        lambda z: z * np.tanh(softplus(z)),
        lambda z: np.tanh(softplus(z)) + z * special.expit(z) / np.cosh(softplus(z)) ** 2,
    ),
}


def forward(name, z, keep=False):
    """What a layer puts out for the inputs z without a bias, and what it keeps."""
    Z = np.atleast_2d(z).copy()
    K = np.zeros_like(Z) if keep else np.empty((0, 1), Z.dtype)
    forward_kernel(name)(Z, np.zeros(Z.shape[1], Z.dtype), K)
    return Z[0], K[0] if keep else None


def derivative(name, z):
    """By way of what is kept, as with dropout."""
    _, kept = forward(name, z, keep=True)
    D = np.ones((1, z.size), z.dtype)
    backward_kernel(name)(D, kept[np.newaxis])
    return D[0]


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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_bias_is_added_and_the_same_comes_out_whether_something_is_kept_or_not(name):
    rng = np.random.default_rng(0)
    Z, b = rng.standard_normal((7, 5)), rng.standard_normal(5)
    plain, kept = Z.copy(), Z.copy()
    forward_kernel(name)(plain, b, np.empty((0, 5)))
    forward_kernel(name)(kept, b, np.empty((7, 5)))
    np.testing.assert_array_equal(plain, kept)
    np.testing.assert_allclose(plain, REFERENCE[name][0](Z + b), rtol=1e-12, atol=1e-14)


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
