"""States on a device, under Numba's simulator."""

import numpy as np
import pytest

from fastadam.cuda.state import DeviceState, state_rows
from fastadam.formulas import rules
from fastadam.formulas.step import StepSpec
from fastadam.formulas.storage import CODE_BLOCK
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.adaptive import Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers.cuda_arrays import FakeDeviceArray
from tests.helpers.cuda_steps import (
    assert_same,
    assert_same_states,
    on_both,
    on_device,
    step_both,
)
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def test_a_state_that_does_not_fit_changes_nothing():
    made = Adam(on_device(np.ones(5)))
    made.step(on_device(np.ones(5)))
    saved = made.state_dict()
    with pytest.raises(ValueError, match=r"state\['v'\] must have shape"):
        made.load_state_dict(saved | {"v": np.ones(6), "t": 7})
    assert made.t == 1
    assert_same_bits(made.state_dict()["v"], saved["v"])


def test_how_many_bytes_a_state_takes():
    def of_state(**options):
        return {
            name: row.dtype.name for name, row in Adam(FakeDeviceArray(np.ones(9, np.float32)), **options).state.items()
        }

    assert of_state() == {"m": "float32", "v": "float32"}
    assert of_state(state_dtype="bfloat16", ema_decay=0.5) == {"m": "uint16", "v": "uint16", "ema": "float32"}
    scales = {"m_scale": "float32", "v_scale": "float32"}
    assert of_state(state_dtype="uint8") == {"m": "uint8", "v": "uint8"} | scales


@pytest.mark.parametrize("form", ["bfloat16", "uint8"])
@pytest.mark.parametrize(
    ("of", "options"), [(Adagrad, {"initial_accumulator_value": 0.3}), (SGD, {}), (Lion, {}), (RMSprop, {})]
)
def test_states_that_do_not_begin_as_zeros_and_rules_without_any(of, options, form):
    made = on_both(of, [530, 3], **options, state_dtype=form)
    assert_same_states(*made[:2])
    step_both(*made[:2], [530, 3], 0)
    assert_same(*made)


def test_rows_follow_each_other_in_the_memory_of_a_state():
    spec, width = StepSpec(rules.AMSGRAD, ema=True, state="uint8"), 2 * CODE_BLOCK
    rows = state_rows(spec, "float32")
    assert [row.name for row in rows] == ["m", "v", "v_max", "ema", "m_scale", "v_scale", "v_max_scale"]
    ends = [row.start(width) + row.nbytes(width) for row in rows]
    assert [row.start(width) for row in rows] == [0, *ends[:-1]]
    state = DeviceState(spec, np.dtype(np.float32), width)
    assert not any(row.copy_to_host().any() for row in state.rows.values())
    state.fill("v", 255)
    assert (state.rows["v"].copy_to_host() == 255).all()
    assert not state.rows["m"].copy_to_host().any()
    assert state.address("v") - state.start == width
