"""References for the activations by other formulas than those of the package, and a layer to compute ours."""

import math

import numpy as np
from scipy import special

from fastadam.cpu.layers import backward_kernel, forward_kernel


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
    """Outputs of a layer for the inputs z without a bias, and the values that it keeps."""
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
