"""Every optimizer but Adam, which `test_adam.py` tests: the same tests for each, over a grid of its options."""

import copy
import math
import pickle
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.optimizers.adam import Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.arrays import (
    BAD_GRADS,
    BAD_PARAMS,
    FLOATS,
    NOT_NUMBERS,
    an_element_off,
    error_of,
    one_array,
    pickled,
    snapshot,
    split_into_37,
    train,
)
from tests.helpers.effort import examples
from tests.helpers.family import (
    CHOICES,
    DOMAINS,
    EVERYTHING,
    EXTREMES,
    GRID,
    NUMBERS,
    STEPS,
    arguments_of,
    assert_close,
    assert_equals,
    broken,
    combinations,
    each_extreme,
    each_number,
    each_of_grid,
    each_rule,
    is_allowed,
    naive_of,
    numbers_for,
    parameters_of,
    start_of,
    text_of,
    trained,
)
from tests.helpers.naive import assert_same_bits

SMALL = [0, 1, 7, 16] + [4099] * (not JIT_DISABLED)


# The same bits as the naive reference


@pytest.mark.thin(20)
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


@pytest.mark.thin(12)
@each_rule
@pytest.mark.parametrize("hold", [one_array, split_into_37, an_element_off], ids=lambda hold: hold.__name__)
def test_neither_threads_nor_the_split_nor_the_alignment_change_a_bit(rule, hold, threads):
    for n in SMALL + [PARALLEL_BYTES // 4 + 5] * (not JIT_DISABLED):
        optimizer = start_of(rule, n, np.float32, hold, **EVERYTHING[rule])
        train(optimizer, [hold(g) for g in naive.gradients(n, np.float32)], STEPS)
        assert_equals(optimizer, trained(rule, n, np.float32, **EVERYTHING[rule]))


@pytest.mark.thin(9)
@each_extreme
@given(data=st.data())
@examples(20)
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


@pytest.mark.thin(12)
@each_of_grid
@given(seed=st.integers(0, 99), special=st.sampled_from([0.0, -0.0, 1e-20, 1e18, np.inf, -np.inf, np.nan]))
@examples(20)
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


@pytest.mark.thin(12)
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


@pytest.mark.thin(30)
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


@pytest.mark.thin(12)
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


@pytest.mark.thin(18)
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


@pytest.mark.thin(27)
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
