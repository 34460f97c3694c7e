"""Dropout on a device, under Numba's simulator: the mask of the host."""

import numpy as np
import pytest

from tests.helpers.cuda_training import assert_same_training, data

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


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
