"""The state of a step on a device: its rows, and the memory they lie in."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam._typing import Array
from fastadam.cuda.allocation import allocated, device_address, fill
from fastadam.cuda.devices import synchronize
from fastadam.cuda.views import WORD
from fastadam.formulas.step import StepSpec
from fastadam.formulas.storage import CODE_BLOCK


class StateRow(NamedTuple):
    """A row of the state: its name and type, and where it begins."""

    name: str
    dtype: str
    share: int
    """Elements of the parameters that share one element of the row."""
    wide: int
    """Bytes before the row for each element of the parameters, ..."""
    narrow: int
    """... and for each `CODE_BLOCK` of them."""

    @property
    def kind(self) -> np.dtype[Any]:
        """Type of the elements for NumPy, which has no bfloat16."""
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)

    def nbytes(self, width: int) -> int:
        """Size of the row for `width` elements of the parameters."""
        return width // self.share * self.kind.itemsize

    def start(self, width: int) -> int:
        """First byte of the row in the memory of the state."""
        return self.wide * width + self.narrow * (width // CODE_BLOCK)


@functools.cache
def state_rows(spec: StepSpec, dtype: str) -> tuple[StateRow, ...]:
    """List the rows of the state of a step: those of the rule, the average, and the scales of a state of one byte."""
    kinds = [(name, spec.state or dtype, 1) for name in spec.rule.states]
    if spec.ema:
        kinds += [("ema", dtype, 1)]
    if spec.state == "uint8":
        kinds += [(f"{name}_scale", dtype, CODE_BLOCK) for name in spec.rule.states]
    rows: list[StateRow] = []
    wide = narrow = 0
    for name, kind, share in kinds:
        rows.append(StateRow(name, kind, share, wide, narrow))
        itemsize = rows[-1].kind.itemsize
        wide, narrow = wide + itemsize * (share == 1), narrow + itemsize * (share != 1)
    return tuple(rows)


class DeviceState:
    """Memory of the rows of a state, zeros at first.

    Parameters
    ----------
    spec : StepSpec
        Step that has the state.
    dtype : dtype
        Type it is computed in: float32 or float64.
    width : int
        Elements of the parameters, with what lies between the arrays.
    """

    def __init__(self, spec: StepSpec, dtype: np.dtype[Any], width: int) -> None:
        self.width, self._dtype, self._rows = width, dtype, state_rows(spec, dtype.name)
        nbytes = max((row.start(width) + row.nbytes(width) for row in self._rows), default=0)
        self._memory = allocated(max(WORD, -(-nbytes // WORD) * WORD), np.uint8, "the optimizer's states")
        self.start = device_address(self._memory)
        fill(self.start, self._memory.size // WORD, "int64", 0)

    @property
    def rows(self) -> dict[str, Any]:
        """Rows of the state on the device, by name: flat Numba arrays, bfloat16 as uint16."""
        return {
            row.name: self._memory[row.start(self.width) : row.start(self.width) + row.nbytes(self.width)].view(
                row.kind
            )
            for row in self._rows
        }

    def address(self, name: str) -> int:
        """Address of a row."""
        return self.start + next(row.start(self.width) for row in self._rows if row.name == name)

    def fill(self, name: str, value: float) -> None:
        """Write a value, or its bits, to all elements of a row."""
        row = self.rows[name]
        fill(self.address(name), row.size, row.dtype.name, value)

    def read(self) -> Array:
        """Copy the rows of a state that is of the type of the parameters to the host; waits for the device."""
        synchronize()
        rows: Array = self._memory.copy_to_host()[: len(self._rows) * self.width * self._dtype.itemsize]
        return rows.view(self._dtype).reshape(-1, self.width)

    def write(self, rows: Sequence[Array]) -> None:
        """Copy rows from the host, which have no more elements than those of the device."""
        synchronize()  # a step may still read them
        for row, values in zip(self.rows.values(), rows, strict=False):
            if values.size:
                row[: values.size].copy_to_device(np.ascontiguousarray(values))
        synchronize()  # other streams do not wait for the default one
