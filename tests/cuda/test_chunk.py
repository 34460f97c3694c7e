"""Chunks of any size, at any alignment, under Numba's simulator, bit for bit."""

import numpy as np
import pytest

from fastadam.cuda.chunk import Pass
from fastadam.cuda.jit import THREADS
from fastadam.formulas import rules
from fastadam.formulas.step import StepSpec
from fastadam.formulas.storage import CODE_BLOCK
from fastadam.optimizers.adam import AdamW
from tests.helpers import naive
from tests.helpers.cuda_steps import (
    STEPS,
    assert_equals,
    on_device,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def test_a_chunk_is_what_the_tests_believe():
    assert Pass(StepSpec(rules.ADAM)).chunk == 8 * THREADS == 32
    assert Pass(StepSpec(rules.ADAM), "float64").chunk == 4 * THREADS
    assert Pass(StepSpec(rules.ADAM, state="uint8")).chunk == CODE_BLOCK


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 65, 200])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("gradient_shift", [0, 3])
def test_any_size_and_alignment_gives_the_same_bits(n, shift, gradient_shift):
    p, cycle = on_device(naive.start(n, np.float32), shift=shift), naive.gradients(n, np.float32)
    made = AdamW(p, weight_decay=0.1)
    for t in range(STEPS):
        made.step(on_device(cycle[t], shift=gradient_shift))
    assert_equals(made, p.host, naive.trained(n, np.float32, STEPS, naive.AdamW, weight_decay=0.1))
    assert not p.memory[:shift].any()
