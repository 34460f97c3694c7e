"""Fused Adam kernels over flat parameter buffers, and scikit-learn-compatible MLPs trained by them."""

from fastadam import kernels
from fastadam.buffers import FlatBuffer
from fastadam.mlp import MLPRegressor
from fastadam.optimizers import Adam

__version__ = "0.1.0"

__all__ = ["Adam", "FlatBuffer", "MLPRegressor", "__version__", "kernels"]
