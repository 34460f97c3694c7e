import numpy as np
import pytest

from fastadam.formulas.stepper import LocatedArrays, Stepper, settings_table
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.row_adam import RowAdam
from tests.helpers.protocols import public_names


@pytest.mark.parametrize("made", [Adam(np.zeros((2, 3))), RowAdam(np.zeros((2, 3)))])
def test_the_protocols_are_followed_on_the_host(made):
    assert public_names(Stepper) >= {"step", "state", "carried"}
    assert public_names(LocatedArrays) >= {"names", "stored"}
    assert all(hasattr(made.stepper, name) for name in public_names(Stepper))
    assert all(hasattr(made.stepper.arrays, name) for name in public_names(LocatedArrays))


def test_a_table_has_a_row_per_group_and_zeros_where_rows_are_shorter():
    table = settings_table([1.0, np.inf], [[0.0, 1.0, 0.5], [0.0, 1.0, 0.25]])
    assert table.tolist() == [[1.0, np.inf, 0.0], [0.0, 1.0, 0.5], [0.0, 1.0, 0.25]]
