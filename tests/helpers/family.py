"""The optimizers other than Adam, the grid of their options, and each one beside its reference."""

import inspect
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import strategies as st

from fastadam.optimizers.adam import Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.arrays import (
    flattened,
    one_array,
)
from tests.helpers.naive import assert_same_bits

STEPS = 30


def combinations(**choices):
    """Every choice of one value for each name."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def is_allowed(options):
    """Nesterov's momentum needs a momentum, and no dampening."""
    return not options.get("nesterov") or (options["momentum"] > 0 and not options["dampening"])


# For each optimizer the values that select its branches; weight decay where it has more than one kind.
CHOICES = {
    SGD: {"momentum": [0, 0.9], "dampening": [0.25, 0], "nesterov": [False, True]},
    RMSprop: {"momentum": [0, 0.9], "centered": [False, True]},
    Adagrad: {"lr_decay": [0, 0.1], "initial_accumulator_value": [0, 0.5]},
    Adadelta: {},
    AdamW: {"amsgrad": [False, True]},
    Adamax: {},
    NAdam: {"weight_decay": [0, 0.1], "decoupled_weight_decay": [False, True]},
    RAdam: {"weight_decay": [0, 0.1], "decoupled_weight_decay": [False, True]},
    Lion: {},
}
GRID = [
    (rule, options) for rule, choices in CHOICES.items() for options in combinations(**choices) if is_allowed(options)
]


# The last options of each are the most that it can do at once. All that is compiled apart from a branch is only here.
EVERYTHING = {rule: options | {"weight_decay": 0.1, "maximize": True} for rule, options in GRID}
GRID += EVERYTHING.items()


EXTREMES = [(rule, options) for rule in CHOICES for options in ({}, EVERYTHING[rule])]


# What an argument may be: all that PyTorch takes, if it is finite.
ANY, FROM_ZERO, TO_ONE, BELOW_ONE = (-math.inf, math.inf), (0, math.inf), (0, 1), (0, math.nextafter(1, 0))
DOMAINS = {
    "lr": FROM_ZERO, "momentum": FROM_ZERO, "dampening": ANY, "weight_decay": FROM_ZERO, "alpha": FROM_ZERO,
    "eps": FROM_ZERO, "lr_decay": FROM_ZERO, "initial_accumulator_value": FROM_ZERO, "rho": TO_ONE,
    "betas": BELOW_ONE, "momentum_decay": FROM_ZERO,
}  # fmt: skip


def text_of(value):
    if not isinstance(value, dict):
        return getattr(value, "__name__", value)
    return ",".join(f"{name}={choice}" for name, choice in value.items() if choice) or "plain"


each_rule = pytest.mark.parametrize("rule", CHOICES, ids=text_of)
each_of_grid = pytest.mark.parametrize(("rule", "options"), GRID, ids=text_of)
each_extreme = pytest.mark.parametrize(("rule", "options"), EXTREMES, ids=text_of)


def naive_of(rule):
    return getattr(naive, rule.__name__)


def parameters_of(rule):
    """The arguments after `params`; not what all optimizers take as options."""
    parameters = list(inspect.signature(rule).parameters.values())[1:]
    return [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]


def arguments_of(rule):
    """The arguments after `params`, with their defaults."""
    return {parameter.name: parameter.default for parameter in parameters_of(rule)}


NUMBERS = [(rule, name) for rule in CHOICES for name, value in arguments_of(rule).items() if type(value) is not bool]
each_number = pytest.mark.parametrize(("rule", "name"), NUMBERS, ids=text_of)


def assert_equals(optimizer, reference):
    assert optimizer.t == reference.t
    assert list(optimizer.state) == list(reference.state)
    assert_same_bits(flattened(optimizer.params), reference.p)
    for name, array in optimizer.state.items():
        assert_same_bits(array, reference.state[name])


def trained(rule, n, dtype, steps=STEPS, **options):
    return naive.trained(n, dtype, steps, naive_of(rule), **options)


def start_of(rule, n=50, dtype=np.float64, hold=one_array, **options):
    """An optimizer that is about to take its first step."""
    return rule(hold(naive.start(n, dtype)), **options)


def numbers_for(name):
    """Any value of an argument: the usual ones, and those at the borders of its range."""
    low, high = DOMAINS[name]
    ordinary = st.floats(0, 1, exclude_max=high < 1)
    number = st.one_of(ordinary, st.floats(max(low, -10), min(high, 10)), st.sampled_from([0.0, 1e-30, min(high, 1e6)]))
    return st.tuples(number, number) if name == "betas" else number


def broken(name, value):
    """Values that a state must not have in place of `value`, with the error for each."""
    if isinstance(value, np.ndarray):
        return [
            (value.tolist(), TypeError),
            (np.append(value, value.dtype.type(0)), ValueError),
            (value[:, None], ValueError),
            (value.astype(np.float32 if value.dtype == np.float64 else np.float64), ValueError),
            (value.astype(value.dtype.newbyteorder()), ValueError),
        ]
    if isinstance(value, bool):
        return [(not value, ValueError), ("", TypeError), (int(value), TypeError)]
    if name == "t":
        return [(-1, ValueError), (2**63 - 1, ValueError), (1.0, TypeError), (True, TypeError)]
    if isinstance(value, list):
        return [
            ([], ValueError),
            ([*value, 0.5], ValueError),
            ([math.nan], ValueError),
            (["a"], TypeError),
            (1.0, TypeError),
        ]
    if isinstance(value, tuple):
        return [((0.9, 1.0), ValueError), ((0.9,), ValueError), ("ab", TypeError), (0.9, TypeError)]
    return [(math.nan, ValueError), (math.inf, ValueError), ("0", TypeError), (None, TypeError)]


def assert_close(ours, theirs):
    """Equal to 1e-12, of the largest where sums of both signs may come close to zero."""
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * largest)
