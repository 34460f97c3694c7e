"""The description of a network that every backend shares: its data, its shapes, its update."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from fastadam._typing import Array
from fastadam.formulas.step import StepSpec


class Update(NamedTuple):
    """An update as the engine makes it: what is compiled, where its state lies, and its hyper-parameters."""

    spec: StepSpec
    """With `decay="coupled"`, `alpha` is the strength of an L2 penalty on the weights, which is part of the loss."""
    state_addresses: Array
    """The address of each state of the rule, flat arrays that must outlive the engine."""
    group: Array
    """A group's row of the optimizer's table, see `cpu.HYPER`; a later one is given with each epoch."""


class Samples(NamedTuple):
    """The data as the kernels read it: dense rows or, where `X` has no rows, those of a CSR matrix."""

    X: Array
    data: Array
    indices: Array
    indptr: Array
    y: Array
    weight: Array
    """One weight a sample, or empty."""


# --- the Python side ------------------------------------------------------------------------------------------------


def shapes_of(units: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a network with these units a layer: W0, b0, W1, b1, ..."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (fan_in, fan_out) in enumerate(pairwise(units)):
        shapes |= {f"W{k}": (fan_in, fan_out), f"b{k}": (fan_out,)}
    return shapes
