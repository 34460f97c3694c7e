"""The kernels between matrix products, under Numba's simulator, beside the host."""

import numpy as np
import pytest

from fastadam.cuda import layers
from fastadam.cuda.jit import THREADS
from fastadam.formulas.activations import ACTIVATIONS
from tests.helpers.cuda_training import assert_same_training, data

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    assert_same_training(data(), activations=(activation, "tanh"), alpha=0.0)


def test_the_loss_of_a_batch_is_added_to_that_of_the_epoch():
    batch, sums, alpha = np.array([4.0, 2.0, 10.0, 4.0]), np.array([1.0, 3.0]), np.array([0.5])
    squares = np.array([8.0, 0.0])
    where = (sums.ctypes.data, 2, 1, squares.ctypes.data, 1, alpha.ctypes.data)
    layers.account_kernel()[1, THREADS](batch.ctypes.data, 3, *where)
    loss = (4.0 + 0.5 * 0.5 * 8.0) / 2.0
    assert batch.tolist() == [7.0, 2.0, 10.0 + 3 * loss, 7.0]
