"""Description of a network that the backends share: its data, its shapes, its update."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from fastadam._typing import Array
from fastadam.formulas.step import StepSpec


class Update(NamedTuple):
    """Update of the parameters of a network: its description, its state and its hyper-parameters."""

    spec: StepSpec
    """With `decay="coupled"`, `alpha` is the strength of an L2 penalty on the weights, which is part of the loss."""
    state_addresses: Array
    """Address of each state of the rule: flat arrays that must outlive the engine."""
    group: Array
    """Row of the optimizer's settings at first; each epoch is given its own."""


class Samples(NamedTuple):
    """Data as the kernels read it: dense rows or, if `X` has no rows, the rows of a CSR matrix."""

    X: Array
    data: Array
    indices: Array
    indptr: Array
    y: Array
    weight: Array
    """Weight of each sample, or empty."""


def shapes_of(units: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a network, given the units of its layers: W0, b0, W1, b1, ..."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (fan_in, fan_out) in enumerate(pairwise(units)):
        shapes |= {f"W{k}": (fan_in, fan_out), f"b{k}": (fan_out,)}
    return shapes
