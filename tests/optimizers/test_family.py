"""Every optimizer but Adam, which `test_optimizers.py` tests: the same tests for each, over a grid of its options."""

import copy
import inspect
import math
import pickle
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.optimizers.adam import Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.naive import assert_same_bits
from tests.optimizers.test_base import (
    BAD_GRADS,
    BAD_PARAMS,
    FLOATS,
    NOT_NUMBERS,
    an_element_off,
    error_of,
    flattened,
    one_array,
    pickled,
    snapshot,
    split_into_37,
    train,
)

STEPS = 30
SMALL = [0, 1, 7, 16] + [4099] * (not JIT_DISABLED)


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


# The same bits as the naive reference


@pytest.mark.parametrize(
    ("rule", "options", "dtype"),
    [(*row, np.float32) for row in GRID] + [(*row, np.float64) for row in EXTREMES],
    ids=text_of,
)
def test_thirty_steps_give_the_bits_of_the_reference(rule, options, dtype):
    for n in SMALL:
        optimizer = start_of(rule, n, dtype, **options)
        train(optimizer, naive.gradients(n, dtype), STEPS)
        assert_equals(optimizer, trained(rule, n, dtype, **options))


@each_rule
@pytest.mark.parametrize("hold", [one_array, split_into_37, an_element_off], ids=lambda hold: hold.__name__)
def test_neither_threads_nor_the_split_nor_the_alignment_change_a_bit(rule, hold, threads):
    for n in SMALL + [PARALLEL_BYTES // 4 + 5] * (not JIT_DISABLED):
        optimizer = start_of(rule, n, np.float32, hold, **EVERYTHING[rule])
        train(optimizer, [hold(g) for g in naive.gradients(n, np.float32)], STEPS)
        assert_equals(optimizer, trained(rule, n, np.float32, **EVERYTHING[rule]))


def numbers_for(name):
    """Any value of an argument: the usual ones, and those at the borders of its range."""
    low, high = DOMAINS[name]
    ordinary = st.floats(0, 1, exclude_max=high < 1)
    number = st.one_of(ordinary, st.floats(max(low, -10), min(high, 10)), st.sampled_from([0.0, 1e-30, min(high, 1e6)]))
    return st.tuples(number, number) if name == "betas" else number


@each_extreme
@given(data=st.data())
@settings(max_examples=20)
def test_any_numbers_give_the_bits_of_the_reference(rule, options, data):
    names = [name for of, name in NUMBERS if of is rule]
    options = options | data.draw(st.fixed_dictionaries({name: numbers_for(name) for name in names}))
    if options.get("nesterov"):
        options["dampening"] = 0
        options["momentum"] = options["momentum"] or 0.5
    optimizer, reference = (
        start_of(rule, 33, np.float32, **options),
        naive_of(rule)(naive.start(33, np.float32), **options),
    )
    for g in naive.gradients(33, np.float32):
        with np.errstate(all="ignore"):  # a step warns only where Numba is switched off
            optimizer.step(g)
        reference.step(g)
    assert_equals(optimizer, reference)


@each_of_grid
@given(seed=st.integers(0, 99), special=st.sampled_from([0.0, -0.0, 1e-20, 1e18, np.inf, -np.inf, np.nan]))
@settings(max_examples=20)
def test_special_values_give_the_bits_of_the_reference(rule, options, seed, special):
    rng = np.random.default_rng(seed)

    def values():
        return np.where(rng.random(20) < 0.2, special, rng.standard_normal(20)).astype(np.float32)

    start = values()
    optimizer, reference = rule(one_array(start), **options), naive_of(rule)(start, **options)
    for _ in range(7):  # RAdam adapts from its sixth step on
        g = values()
        with np.errstate(all="ignore"):
            optimizer.step(g)
        reference.step(g)
    assert_equals(optimizer, reference)


@each_extreme
def test_a_nan_gradient_spoils_its_own_element_alone(rule, options):
    optimizer = start_of(rule, 40, np.float32, **options)
    g = np.ones(40, np.float32)
    g[17] = np.nan
    for gradient in (g, np.ones_like(g)):
        optimizer.step(gradient)
        for array in [optimizer.params, *optimizer.state.values()]:
            assert np.flatnonzero(np.isnan(array)).tolist() == [17]


@each_extreme
def test_gradients_are_read_and_not_kept(rule, options):
    optimizer, reference = start_of(rule, **options), trained(rule, 50, np.float64, 5, **options)
    for gradient in naive.gradients(50, np.float64):
        g = one_array(gradient)
        optimizer.step(g)
        assert_same_bits(g, gradient)
        g[:] = np.nan
    assert_equals(optimizer, reference)


def test_the_first_steps_are_those_on_paper():
    """From p = 1 with the gradients 2 and 1: what two steps subtract, worked out by hand."""
    root = math.sqrt
    rows = [
        (SGD, {"lr": 0.1}, [0.2, 0.1]),
        (SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.75}, [0.2, 0.125]),
        (SGD, {"lr": 0.1, "momentum": 0.5, "nesterov": True}, [0.3, 0.2]),
        (SGD, {"lr": 0.1, "weight_decay": 0.5}, [0.25, 0.1375]),
        (RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 0}, [0.2, 0.1]),
        (RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 0, "momentum": 0.5}, [0.2, 0.2]),
        (RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 0, "centered": True}, [0.2 / root(0.75), 0.1 / root(39 / 64)]),
        (Adagrad, {"lr": 0.1, "eps": 0}, [0.1, 0.1 / root(5)]),
        (Adagrad, {"lr": 0.1, "eps": 1, "lr_decay": 1, "initial_accumulator_value": 5}, [0.05, 0.05 / (1 + root(10))]),
        (Adadelta, {"rho": 0.5, "eps": 1}, [2 / root(3), root(1 + 2 / 3) / root(2.5)]),
        (AdamW, {"lr": 0.1, "betas": (0.0, 0.0), "eps": 0, "weight_decay": 0.5}, [0.15, 0.1 + 0.05 * 0.85]),
        (Adamax, {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0}, [0.1, 0.1 / 0.75]),
        (Adamax, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0}, [0.1, 0.1 / 0.75 / 1.5]),
        (NAdam, {"lr": 0.1, "betas": (0.5, 0.0), "eps": 0, "momentum_decay": 0}, [0.1 + 0.1 / 7.5, 0.08 + 1.6 / 63]),
        (RAdam, {"lr": 0.1, "betas": (0.5, 0.999)}, [0.2, 0.1 / 0.75]),
        (Lion, {"lr": 0.1, "weight_decay": 0.5}, [0.15, 0.1 + 0.05 * 0.85]),
    ]
    for rule, options, parts in rows:
        p = np.array(1, np.float32)
        optimizer = rule(p, **options)
        for g, part in zip((2, 1), parts, strict=True):
            before = float(p)
            optimizer.step(np.array(g, np.float32))
            assert before - p == pytest.approx(part, rel=1e-5), (rule, options)


@each_rule
def test_a_new_lr_takes_effect_at_once(rule):
    optimizer, reference = start_of(rule), naive_of(rule)(naive.start(50, np.float64))
    for lr in (0.5, 0, 1, 0.25):
        optimizer.lr = reference.lr = lr
        assert type(optimizer.lr) is float
        optimizer.step(g := naive.gradients(50, np.float64)[0])
        reference.step(g)
    assert_equals(optimizer, reference)


# The same numbers as PyTorch and Optax

VALUES = {
    SGD: {"lr": [1e-3, 0.1], "momentum": [0, 0.9, 1.05], "dampening": [0, 0.3], "weight_decay": [0, 0.01]},
    RMSprop: {"lr": [0.01, 0.1], "alpha": [0.99, 0.3], "eps": [1e-8, 1e-2], "momentum": [0, 0.9]},
    Adagrad: {"lr": [0.01, 0.5], "lr_decay": [0, 0.1], "initial_accumulator_value": [0, 0.5], "eps": [1e-10, 1e-2]},
    Adadelta: {"lr": [1, 0.1], "rho": [0.9, 0.3, 0, 1], "eps": [1e-6, 1e-2]},
    AdamW: {"lr": [1e-3, 0.1], "betas": [(0.9, 0.999), (0.5, 0.6)], "eps": [1e-8, 1e-2]},
    Adamax: {"lr": [2e-3, 0.1], "betas": [(0.9, 0.999), (0.5, 0.6), (0, 0)], "eps": [1e-8, 1e-2]},
    NAdam: {"lr": [2e-3, 0.1], "betas": [(0.9, 0.999), (0.5, 0.6), (0, 0)], "momentum_decay": [4e-3, 0, 0.5]},
    RAdam: {"lr": [1e-3, 0.1], "betas": [(0.9, 0.999), (0.5, 0.9), (0.9, 0.7), (0, 0)], "eps": [1e-8, 1e-2]},
}
LIKE_TORCH = list(VALUES)
TORCH_ONLY = {"foreach", "fused", "capturable", "differentiable"}
TORCH_NAMES = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}  # of Adam's and AdamW's moments


@pytest.fixture
def torch():
    """PyTorch with float64 as its default, in which it then also keeps the step and NAdam's product of momenta."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


def assert_close(ours, theirs):
    """Equal to 1e-12, of the largest where sums of both signs may come close to zero."""
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * largest)


@pytest.mark.peers
@pytest.mark.parametrize("rule", LIKE_TORCH, ids=text_of)
def test_a_hundred_steps_equal_pytorch(rule, torch):
    rng = np.random.default_rng(0)
    cycle = rng.standard_normal((7, 20))
    choices = {"weight_decay": [0, 0.1], "maximize": [False, True]} | CHOICES[rule] | VALUES[rule]
    for options in combinations(**choices):
        if not is_allowed(options):
            continue
        p = rng.uniform(50, 100, 20)
        theirs = torch.tensor(p, requires_grad=True)
        peer = getattr(torch.optim, rule.__name__)([theirs], foreach=False, **options)
        optimizer = rule(p, **options)
        for t in range(100):
            if t == 50:
                peer.param_groups[0]["lr"] = optimizer.lr = optimizer.lr / 2
            theirs.grad = torch.tensor(cycle[t % 7])
            peer.step()
            optimizer.step(cycle[t % 7])
        np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=1e-12, err_msg=str(options))
        for name, array in optimizer.state.items():
            assert_close(array, peer.state[theirs][TORCH_NAMES.get(name, name)].numpy())


@pytest.mark.peers
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.6)])
def test_a_hundred_steps_of_lion_equal_optax(weight_decay, betas):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    p, cycle = naive.start(50, np.float64), np.random.default_rng(0).standard_normal((7, 50))
    with jax.enable_x64(True):
        peer = optax.lion(0.01, *betas, weight_decay=weight_decay)
        theirs = jax.numpy.asarray(p)
        state = peer.init(theirs)
        optimizer = Lion(p, 0.01, betas, weight_decay)
        for t in range(100):
            change, state = peer.update(jax.numpy.asarray(cycle[t % 7]), state, theirs)
            theirs = optax.apply_updates(theirs, change)
            optimizer.step(cycle[t % 7])
        assert_close(p, np.asarray(theirs))


@pytest.mark.peers
@pytest.mark.parametrize("rule", LIKE_TORCH, ids=text_of)
def test_arguments_and_defaults_are_those_of_pytorch(rule, torch):
    theirs = arguments_of(getattr(torch.optim, rule.__name__))
    theirs = {name: value for name, value in theirs.items() if name not in TORCH_ONLY}
    assert arguments_of(rule) == theirs
    assert [name for name in arguments_of(rule) if name != "maximize"] == [
        name for name in theirs if name != "maximize"
    ]


@pytest.mark.peers
@pytest.mark.parametrize(("rule", "name"), [row for row in NUMBERS if row[0] in LIKE_TORCH], ids=text_of)
def test_numbers_are_refused_where_pytorch_refuses_them(rule, name, torch):
    peer = getattr(torch.optim, rule.__name__)
    for number in (-math.inf, -1.0, -1e-9, -0.0, 0.0, 1e-9, 0.5, 1 - 1e-9, 1.0, 1.5, 1000.0):
        for value in [(number, 0.5), (0.5, number)] if name == "betas" else [number]:
            theirs = error_of(lambda value=value: peer([torch.ones(1)], **{name: value}))
            ours = error_of(lambda value=value: rule(np.ones(1), **{name: value}))
            assert (ours is None) == (theirs is None) or not np.isfinite(number), (value, ours, theirs)


# Arguments


@each_rule
def test_arguments_and_defaults_are_those_of_the_reference(rule):
    ours, theirs = parameters_of(rule), parameters_of(naive_of(rule))
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


def assert_refused(rule, name, value, error):
    with pytest.raises(error, match=name):
        rule(np.ones(3), **{name: value})
    optimizer = start_of(rule, 3)
    if hasattr(rule, name):
        before = snapshot(optimizer)
        with pytest.raises(error, match=name):
            setattr(optimizer, name, value)
        assert snapshot(optimizer) == before


@each_number
def test_what_is_no_finite_number_in_its_range_is_refused_by_name(rule, name):
    low, high = DOMAINS[name]
    outside = [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf"), 10**400]
    outside += [math.nextafter(low, -1), -1, -1e-300] * (low == 0) + [math.nextafter(high, 2), 2] * (high <= 1)
    if name == "betas":
        for position in (0, 1):
            for values, error in [(NOT_NUMBERS, TypeError), (outside, ValueError)]:
                for value in values:
                    assert_refused(rule, name, (value, 0.5) if position == 0 else (0.5, value), error)
        for value in (0.9, None, "ab", {0.9, 0.99}):
            assert_refused(rule, name, value, TypeError)
        for value in ((), (0.9,), (0.9, 0.99, 0.999)):
            assert_refused(rule, name, value, ValueError)
    else:
        for value in NOT_NUMBERS:
            assert_refused(rule, name, value, TypeError)
        for value in outside:
            assert_refused(rule, name, value, ValueError)


def as_float(number):
    """The nearest float, also of what is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, number)


@each_number
@given(value=st.one_of(st.floats(), st.integers(), st.fractions(), st.booleans(), st.none(), st.text(max_size=3)))
def test_a_number_is_taken_as_it_is_or_refused_by_name(rule, name, value):
    given = (value, value) if name == "betas" else value
    error = error_of(lambda: rule(np.ones(3), **{name: given}))
    if isinstance(value, bool | str | None):
        assert isinstance(error, TypeError)
        assert name in str(error)
        return
    low, high = DOMAINS[name]
    if math.isfinite(value := as_float(value)) and low <= value <= high:
        assert error is None
        taken = getattr(rule(np.ones(3), **{name: given}), name)
        assert taken == ((value, value) if name == "betas" else value)
    else:
        assert isinstance(error, ValueError)
        assert name in str(error)


@each_rule
def test_a_flag_is_true_or_false(rule):
    flags = [name for name, default in arguments_of(rule).items() if type(default) is bool]
    assert "maximize" in flags
    for name, value in product(flags, [1, 0, None, "True", np.array(True)]):
        with pytest.raises(TypeError, match=name):
            rule(np.ones(3), **{name: value})


@each_rule
def test_a_flag_is_given_by_name_where_pytorch_wants_it_so(rule):
    with pytest.raises(TypeError):
        rule(np.ones(3), *arguments_of(rule).values())


@pytest.mark.parametrize("options", [{}, {"momentum": 0}, {"momentum": 0.9, "dampening": 0.1}, {"dampening": 0.1}])
def test_nesterov_needs_a_momentum_and_no_dampening(options):
    with pytest.raises(ValueError, match="nesterov"):
        SGD(np.ones(3), nesterov=True, **options)


@each_rule
@pytest.mark.parametrize(("params", "error"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_bad_parameters_are_refused_by_name(rule, params, error):
    with pytest.raises(error, match="params"):
        rule(params)


# State


@each_extreme
def test_the_state_is_there_from_the_start_and_stays_the_same_arrays(rule, options):
    optimizer = start_of(rule, **options)
    state, names = optimizer.state, list(naive_of(rule)(np.ones(1), **options).state)
    before = dict(state)
    assert list(before) == names
    for array in before.values():
        assert (array.shape, array.dtype) == ((50,), np.float64)
        assert (array == options.get("initial_accumulator_value", 0)).all()
    train(optimizer, naive.gradients(50, np.float64), 3)
    for name, array in optimizer.state.items():
        assert array is before[name]
        assert array.any()


@each_extreme
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_state_dict_goes_on_bit_for_bit(rule, options, dtype):
    cycle = naive.gradients(50, dtype)
    for steps in (0, 1, 7):
        first = start_of(rule, dtype=dtype, **options)
        train(first, cycle, steps)
        second = rule(first.params.copy(), **options)
        second.load_state_dict(first.state_dict())
        assert second.t == steps
        train(second, cycle, 8)
        assert_equals(second, trained(rule, 50, dtype, steps + 8, **options))
        assert first.t == steps


@each_extreme
def test_loading_replaces_the_numbers(rule, options):
    def halved(value):
        return tuple(map(halved, value)) if isinstance(value, tuple) else value / 2

    ours = arguments_of(rule) | options
    others = {name: halved(ours[name]) for of, name in NUMBERS if of is rule} | {"weight_decay": 0.3}
    cycle = naive.gradients(50, np.float64)
    first = start_of(rule, **options)
    train(first, cycle, 3)
    second = rule(first.params.copy(), **options | others)
    second.load_state_dict(first.state_dict())
    train(second, cycle, 3)
    assert_equals(second, trained(rule, 50, np.float64, 6, **options))


@each_extreme
def test_a_state_dict_is_a_copy_of_plain_numbers_and_arrays(rule, options):
    optimizer = start_of(rule, **options)
    train(optimizer, naive.gradients(50, np.float64), 2)
    state = optimizer.state_dict()
    assert {type(value) for value in state.values()} <= {int, float, tuple, list, bool, np.ndarray}
    assert {"t", "lr", "maximize", *optimizer.state} <= set(state)
    for array in [value for value in state.values() if isinstance(value, np.ndarray)]:
        array[:] = 5
    assert_equals(optimizer, trained(rule, 50, np.float64, 2, **options))
    optimizer.load_state_dict(state)
    for array in [value for value in state.values() if isinstance(value, np.ndarray)]:
        array[:] = 6
    assert all((array == 5).all() for array in optimizer.state.values())


def broken(name, value):
    """What a state must not have in place of `value`, with the error for it."""
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


@each_extreme
def test_a_bad_state_is_refused_by_name_and_changes_nothing(rule, options):
    cycle = naive.gradients(50, np.float64)
    other = start_of(rule, **options)
    train(other, cycle, 2)
    state = other.state_dict()
    state["lr"] /= 2
    optimizer = start_of(rule, **options)
    train(optimizer, cycle, 3)
    before = snapshot(optimizer)

    def assert_state_refused(state, error, match):
        with pytest.raises(error, match=match):
            optimizer.load_state_dict(state)
        assert snapshot(optimizer) == before

    for name, value in state.items():
        assert_state_refused({key: state[key] for key in state if key != name}, ValueError, name)
        for bad, error in broken(name, value):
            assert_state_refused(state | {name: bad}, error, name)
    assert_state_refused(state | {"unknown": 0.5}, ValueError, "unknown")
    for nothing in (None, [], "t", 1):
        assert_state_refused(nothing, TypeError, "state must be a mapping")
    train(optimizer, cycle, 2)
    assert_equals(optimizer, trained(rule, 50, np.float64, 5, **options))


@pytest.mark.parametrize(("rule", "other"), list(permutations(CHOICES, 2)), ids=text_of)
def test_the_state_of_another_optimizer_is_refused(rule, other):
    optimizer = start_of(rule)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="state"):
        optimizer.load_state_dict(start_of(other).state_dict())
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("rule", "options"), [(SGD, {"momentum": 0.9}), (RMSprop, {"momentum": 0.9}), (RMSprop, {"centered": True})]
)
def test_a_state_with_other_arrays_is_refused(rule, options):
    for one, another in permutations([{}, options]):
        optimizer = start_of(rule, **one)
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match="state"):
            optimizer.load_state_dict(start_of(rule, **another).state_dict())
        assert snapshot(optimizer) == before


@each_extreme
@pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy], ids=lambda duplicate: duplicate.__name__)
@pytest.mark.parametrize("hold", [one_array, split_into_37], ids=lambda hold: hold.__name__)
def test_a_duplicate_keeps_the_parameters_that_it_shares_and_goes_on_bit_for_bit(rule, options, duplicate, hold):
    cycle = [hold(g) for g in naive.gradients(50, np.float32)]
    original = start_of(rule, dtype=np.float32, hold=hold, **options)
    train(original, cycle, 3)
    params, optimizer = duplicate((original.params, original))
    assert type(optimizer) is rule
    assert optimizer.params is params
    assert pickle.dumps(optimizer.state_dict()) == pickle.dumps(original.state_dict())
    train(optimizer, cycle, 4)
    assert_equals(optimizer, trained(rule, 50, np.float32, 7, **options))
    assert_equals(original, trained(rule, 50, np.float32, 3, **options))


@each_rule
def test_repr_tells_what_it_optimizes_and_how(rule):
    optimizer = rule([np.zeros((2, 3), np.float32), np.zeros(3, np.float32)], lr=0.625, maximize=True)
    text = repr(optimizer)
    assert text.startswith(f"{rule.__name__}(9 float32 parameters, lr=0.625, ")
    assert "maximize=True" in text
    assert text.endswith(", t=0)")


# Failed steps


@each_rule
@pytest.mark.parametrize(("params", "grads", "error"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_bad_gradients_are_refused_by_name_and_change_nothing(rule, params, grads, error):
    optimizer = rule(params(), **EVERYTHING[rule])
    before = snapshot(optimizer)
    with pytest.raises(error, match="grads"):
        optimizer.step(grads)
    assert snapshot(optimizer) == before


def test_gradients_that_became_read_only_are_not_zeroed():
    params, grads = [np.ones(3), np.ones(2)], [np.ones(3), np.ones(2)]
    optimizer = SGD(params, zero_grad=True)
    optimizer.step(grads)
    assert not any(g.any() for g in grads)
    grads[1][:] = 1
    grads[1].flags.writeable = False
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"grads\[1\] must be writeable"):
        optimizer.step(grads)
    assert snapshot(optimizer) == before
    assert grads[1].all()


@each_extreme
def test_after_failed_steps_it_goes_on_bit_for_bit(rule, options):
    cycle = naive.gradients(50, np.float64)
    optimizer = start_of(rule, **options)
    p = optimizer.params
    for _ in range(4):
        before = snapshot(optimizer)
        for grads, error in [(None, TypeError), (cycle[0, 1:], ValueError), (p, ValueError), (p[::-1], ValueError)]:
            with pytest.raises(error, match="grads"):
                optimizer.step(grads)
        p.flags.writeable = False
        with pytest.raises(ValueError, match="params must be writeable"):
            optimizer.step(cycle[0])
        p.flags.writeable = True
        assert snapshot(optimizer) == before
        train(optimizer, cycle, 1)
    assert_equals(optimizer, trained(rule, 50, np.float64, 4, **options))


# Momentum of groups


@pytest.mark.parametrize("base", [0.0, 0.5])
@pytest.mark.parametrize("own", [0.0, 0.9])
@pytest.mark.parametrize("dampening", [0.0, 0.25])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_group_has_its_own_momentum_or_none(base, own, dampening, dtype):
    start, cycle = naive.start(50, dtype), naive.gradients(50, dtype)
    p, q = start.copy(), start.copy()
    groups = {"own": {"params": ["q"], "momentum": own}}
    optimizer = SGD({"p": p, "q": q}, lr=0.1, momentum=base, dampening=dampening, groups=groups)
    # Without momentum, nothing is dampened.
    references = [naive.SGD(start.copy(), 0.1, mass, dampening if mass else 0.0) for mass in (base, own)]
    for g in cycle[:4]:
        optimizer.step({"p": g, "q": g})
        for reference in references:
            reference.step(g)
    for actual, reference in zip((p, q), references, strict=True):
        assert_same_bits(actual, reference.p)


@pytest.mark.peers
@pytest.mark.parametrize("base", [0.0, 0.5])
@pytest.mark.parametrize("own", [0.0, 0.9])
@pytest.mark.parametrize("rule", [SGD, RMSprop], ids=text_of)
def test_a_groups_momentum_is_pytorchs(rule, base, own):
    torch = pytest.importorskip("torch")
    settings = {"lr": 0.1, "momentum": base} | ({"dampening": 0.25} if rule is SGD else {})
    params = {name: np.linspace(1.0, 2.0, 50) for name in "pq"}
    theirs = [torch.tensor(p, requires_grad=True) for p in params.values()]
    ours = rule(params, **settings, groups={"own": {"params": ["q"], "momentum": own}})
    peer = getattr(torch.optim, rule.__name__)(
        [{"params": theirs[:1]}, {"params": theirs[1:], "momentum": own}], **settings
    )
    for seed in range(5):
        g = np.random.default_rng(seed).standard_normal(50)
        ours.step(dict.fromkeys("pq", g))
        for tensor in theirs:
            tensor.grad = torch.tensor(g)
        peer.step()
    for p, tensor in zip(params.values(), theirs, strict=True):
        np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("rule", [SGD, RMSprop], ids=text_of)
def test_the_momentum_of_groups_is_neither_switched_on_nor_off(rule):
    without = rule({"p": np.ones(3), "q": np.ones(3)}, groups={"a": {"params": ["q"], "lr": 0.5}})
    with pytest.raises(ValueError, match=r"groups\['a'\]\['momentum'\] cannot become 0\.9.*made with no momentum"):
        without.set_group("a", momentum=0.9)
    assert dict(without.groups["a"]) == {"lr": 0.5}
    own = rule({"p": np.ones(3), "q": np.ones(3)}, groups={"a": {"params": ["q"], "momentum": 0.5}})
    with pytest.raises(ValueError, match=r"momentum cannot become 0\.0: this optimizer was made with momentum"):
        own.set_group("a", momentum=0.0)
    own.set_group("a", momentum=0.25)
    own.step({"p": np.ones(3), "q": np.ones(3)})
    again = pickle.loads(pickle.dumps(own))
    assert again.groups["a"]["momentum"] == 0.25
    assert_same_bits(again.state["momentum_buffer"], own.state["momentum_buffer"])


def test_a_group_with_nesterovs_momentum_is_not_dampened():
    with pytest.raises(ValueError, match=r"groups\['a'\]\['dampening'\] must be 0 with nesterov=True, got 0\.5"):
        SGD({"p": np.ones(3)}, momentum=0.9, nesterov=True, groups={"a": {"params": ["p"], "dampening": 0.5}})
    with pytest.raises(ValueError, match=r"groups\['a'\] has 'nesterov', where only"):
        SGD({"p": np.ones(3)}, momentum=0.9, groups={"a": {"params": ["p"], "nesterov": True}})
