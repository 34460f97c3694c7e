"""States in one byte: blocks of codes and their scales."""

import numpy as np
import pytest

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.formulas.storage import CODE_BLOCK
from fastadam.optimizers.adam import Adam

N = 300 if JIT_DISABLED else 5_000  # more than a block


def test_codes_begin_anew_with_each_array():
    optimizer = Adam([np.zeros(3, np.float32), np.zeros((2, CODE_BLOCK - 50), np.float32)], state_dtype="uint8")
    g = [np.full(3, 100, np.float32), np.full((2, CODE_BLOCK - 50), 1e-3, np.float32)]
    optimizer.step(g)
    np.testing.assert_allclose(1.875 * optimizer.state["m_scale"], [10, 1e-4, 1e-4], rtol=1e-5)
    assert optimizer.state["v"].shape == (3 * CODE_BLOCK,)
    np.testing.assert_allclose(optimizer.params[1], -1e-3, rtol=1e-3)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_not_a_number_stays_where_its_block_is(state_dtype):
    optimizer = Adam(p := np.zeros(1000, np.float32), state_dtype=state_dtype)
    g = np.ones(1000, np.float32)
    g[600] = np.nan
    optimizer.step(g)
    optimizer.step(np.ones(1000, np.float32))
    wrong = np.flatnonzero(np.isnan(p))
    assert wrong.tolist() == ([600] if state_dtype == "bfloat16" else list(range(CODE_BLOCK, 1000)))
