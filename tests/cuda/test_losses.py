"""Losses on a device, under Numba's simulator, beside the host."""

import pytest

from fastadam.cuda import losses
from fastadam.cuda.jit import THREADS
from fastadam.formulas.losses import LOSSES
from tests.helpers.cuda_training import assert_same_training, data

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_loss_with_and_without_weights(loss, weighted):
    assert_same_training(data(loss=loss, weighted=weighted), loss=loss)


@pytest.mark.parametrize(("classes", "smoothing"), [(1, 0.0), (3, 0.1), (4, 0.0), (11, 0.1)])
def test_any_number_of_classes(classes, smoothing):
    """More of them than a block has threads, four under the simulator, and fewer."""
    samples = data(outputs=classes, loss="multinomial", smoothing=smoothing, weighted=True)
    assert_same_training(samples, loss="multinomial")


@pytest.mark.parametrize(("columns", "threads"), [(1, 1), (2, 2), (3, 4), (4, 4), (100, THREADS)])
def test_threads_that_share_a_row(columns, threads):
    assert losses.threads_per_row(columns) == threads


def test_blocks_of_a_loss():
    assert losses.loss_tasks("squared_error", 5, 3) == -(-15 // THREADS)
    assert losses.loss_tasks("multinomial", 5, 100) == 5
