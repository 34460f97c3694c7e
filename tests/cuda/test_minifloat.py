"""Steps of a state of one byte, under Numba's simulator, bit for bit as on the host."""

import numpy as np
import pytest

from fastadam.optimizers.adam import Adam
from tests.helpers.cuda_arrays import FakeDeviceArray
from tests.helpers.cuda_steps import (
    assert_same,
    gradients,
    on_both,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def test_nan_in_a_gradient_makes_its_block_of_codes_nan_as_on_the_host():
    made = on_both(Adam, [1030], state_dtype="uint8")
    g = gradients(1030, 0)
    g[700] = np.nan
    made[0].step([FakeDeviceArray(g)])
    made[1].step([g])
    assert_same(*made)
    assert np.isnan(made[0].state_dict()["m_scale"]).tolist() == [False, True, False]
