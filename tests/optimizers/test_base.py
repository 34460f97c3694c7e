import copy
import math
import pickle
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadam._memory import aligned_zeros
from fastadam.buffers import FlatBuffer
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.step import step_kernel
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.formulas import rules
from fastadam.formulas.step import StepSpec
from fastadam.optimizers.adam import Adam
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.naive import assert_same_bits

FLOATS = [np.float32, np.float64]
FLAGS = ["decoupled_weight_decay", "amsgrad", "maximize", "epsilon_hat"]
EVERYTHING = {"weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True, "maximize": True}
SIZES = [0, 1, 7, 16, 4099] + [1_000_003] * (not JIT_DISABLED)


# Ways to hold the same values in memory: each copies flat `values` into its structure.


def one_array(values):
    array = aligned_zeros(values.size, values.dtype)
    array[:] = values
    return array


def split_into_37(values):
    return [part.copy() for part in np.array_split(values, 37)]


def an_element_off(values):
    array = aligned_zeros(values.size + 1, values.dtype)[1:]
    array[:] = values
    return array


def a_byte_off(values):
    array = np.frombuffer(bytearray(values.nbytes + 1), values.dtype, values.size, offset=1)
    array[:] = values
    assert not array.flags.aligned or not array.size
    return array


def dict_of_shapes(values):
    half = values.size // 2
    return {"W": values[: half // 4 * 4].reshape(-1, 4).copy(), "b": values[half // 4 * 4 :].copy()}


def flat_buffer(values):
    return FlatBuffer.from_arrays(dict_of_shapes(values))


HOLDERS = [one_array, split_into_37, an_element_off, a_byte_off, dict_of_shapes, flat_buffer]
each_holder = pytest.mark.parametrize("hold", HOLDERS, ids=lambda hold: hold.__name__)


def arrays_of(structure):
    if isinstance(structure, np.ndarray):
        return [structure]
    return list(structure.values() if hasattr(structure, "values") else structure)


def flattened(structure):
    """The values in memory order."""
    return np.concatenate([array.ravel("K") for array in arrays_of(structure)])


def snapshot(optimizer):
    """What a failed call must leave as it was, as bytes."""
    return flattened(optimizer.params).tobytes(), pickle.dumps(optimizer.state_dict())


def error_of(call):
    """The TypeError or ValueError that `call` raises, if any."""
    try:
        call()
    except (TypeError, ValueError) as error:
        return error
    return None


def assert_equals_reference(optimizer, reference):
    state = optimizer.state_dict()
    assert state["t"] == optimizer.t == reference.t
    assert_same_bits(flattened(optimizer.params), reference.p)
    assert_same_bits(state["m"], reference.m)
    assert_same_bits(state["v"], reference.v)
    if "v_max" in state:
        assert_same_bits(state["v_max"], reference.v_max)


def train(optimizer, cycle, steps):
    """Take steps through a cycle of gradients, from where the optimizer stands."""
    for _ in range(steps):
        optimizer.step(cycle[optimizer.t % len(cycle)])


# The same bits as the naive reference


@each_holder
@pytest.mark.parametrize("n", SIZES)
def test_fifty_steps_in_float32_give_the_bits_of_the_reference(n, hold, threads):
    optimizer = Adam(hold(naive.start(n, np.float32)))
    train(optimizer, [hold(g) for g in naive.gradients(n, np.float32)], 50)
    assert_equals_reference(optimizer, naive.trained(n, np.float32))


@pytest.mark.parametrize("hold", [one_array, split_into_37, a_byte_off], ids=lambda hold: hold.__name__)
@pytest.mark.parametrize("n", [7] + [PARALLEL_BYTES // 8 + 1] * (not JIT_DISABLED))
def test_fifty_steps_in_float64_give_the_bits_of_the_reference(n, hold, threads):
    optimizer = Adam(hold(naive.start(n, np.float64)))
    train(optimizer, [hold(g) for g in naive.gradients(n, np.float64)], 50)
    assert_equals_reference(optimizer, naive.trained(n, np.float64))


@pytest.mark.parametrize("shape", [(12, 5), (3, 4, 5), (1000, 333)])
@pytest.mark.parametrize("orders", ["FC", "FF", "CF", "F-strided"])
def test_memory_orders_of_parameters_and_gradients_may_differ(shape, orders):
    start = naive.start(math.prod(shape), np.float32).reshape(shape)
    p = np.array(start, order=orders[0])
    g = naive.gradients(start.size, np.float32)[0].reshape(shape)
    given = np.repeat(g, 2, axis=-1)[..., ::-2][..., ::-1] if orders == "F-strided" else np.array(g, order=orders[1])
    reference, optimizer = naive.Adam(start), Adam(p)
    for _ in range(3):
        optimizer.step(given)
        reference.step(g)
    assert_same_bits(p, reference.p)


@pytest.mark.parametrize(
    "spread",
    [
        lambda g: np.repeat(g, 3)[::3],
        lambda g: g[::-1].copy()[::-1],
        lambda g: np.stack([g, g], 1)[:, 0],
        lambda g: np.broadcast_to(g[:1], g.shape),
    ],
    ids=["every third", "reversed", "column", "broadcast"],
)
def test_gradients_that_are_not_contiguous_are_read_rightly(spread):
    g = spread(naive.gradients(50, np.float32)[0])
    assert not g.flags.c_contiguous
    reference, optimizer = naive.Adam(naive.start(50, np.float32)), Adam(one_array(naive.start(50, np.float32)))
    optimizer.step(g)
    reference.step(g)
    assert_equals_reference(optimizer, reference)


@pytest.mark.parametrize(
    "flags", list(product([False, True], repeat=4)), ids=lambda flags: "".join("01"[f] for f in flags)
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_every_setting_gives_the_bits_of_the_reference(flags, weight_decay):
    hyper = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": weight_decay}
    hyper |= dict(zip(FLAGS, flags, strict=True))
    optimizer = Adam(one_array(naive.start(33, np.float64)), **hyper)
    train(optimizer, naive.gradients(33, np.float64), 10)
    assert_equals_reference(optimizer, naive.trained(33, np.float64, 10, **hyper))


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    orders=st.tuples(*[st.lists(st.sampled_from("CF"), min_size=6, max_size=6)] * 2),
    dtype=st.sampled_from(FLOATS),
    options=st.sampled_from([{}, EVERYTHING]),
    seed=st.integers(0, 99),
)
def test_any_shapes_orders_and_special_values_give_the_bits_of_the_reference(shapes, orders, dtype, options, seed):
    rng = np.random.default_rng(seed)

    def arrays(orders):
        special = rng.choice([0.0, -0.0, 1e-20, 1e18, np.inf, -np.inf])
        values = [np.where(rng.random(shape) < 0.1, special, rng.standard_normal(shape)) for shape in shapes]
        return [np.array(value, dtype, order=order) for value, order in zip(values, orders, strict=False)]

    def in_order_of_params(arrays):
        return np.concatenate([array.ravel(order) for array, order in zip(arrays, orders[0], strict=False)])

    params = arrays(orders[0])
    reference = naive.Adam(in_order_of_params(params), 0.1, **options)
    optimizer = Adam(params, lr=0.1, **options)
    for _ in range(4):
        grads = arrays(orders[1])
        with np.errstate(all="ignore"):  # a step warns only where Numba is switched off
            optimizer.step(grads)
        reference.step(in_order_of_params(grads))
    assert_equals_reference(optimizer, reference)


def test_a_nan_gradient_spoils_its_own_element_alone():
    p = np.ones(40, np.float32)
    g = np.ones_like(p)
    g[17] = np.nan
    Adam(p).step(g)
    assert np.flatnonzero(np.isnan(p)).tolist() == [17]


@pytest.mark.parametrize("sizes", [(1, 15, 16), (4096, 4097, 3), (PARALLEL_BYTES // 4, 5, 70_000)])
@pytest.mark.parametrize("gap", [1, 3, 16])
def test_a_step_writes_nothing_outside_its_arrays(sizes, gap):
    whole = np.full(sum(sizes) + gap * (len(sizes) + 1), 123.5, np.float32)
    inside, stop, params = np.zeros(whole.size, bool), 0, []
    for size in sizes:
        start, stop = stop + gap, stop + gap + size
        params.append(whole[start:stop])
        inside[start:stop] = True
    grads = whole.copy()
    optimizer = Adam(params, **EVERYTHING)
    for _ in range(2):
        optimizer.step([grads[p.ctypes.data // 4 - whole.ctypes.data // 4 :][: p.size] for p in params])
    assert (whole[inside] != 123.5).all()
    assert (whole[~inside] == 123.5).all()
    assert (grads == 123.5).all()


def test_gradients_are_read_only_to_a_step():
    g = naive.gradients(100, np.float32)[0]
    assert not g.flags.writeable
    before = g.copy()
    Adam(np.ones(100, np.float32)).step(g)
    assert_same_bits(g, before)


# The same numbers as PyTorch and scikit-learn


@pytest.mark.peers
@pytest.mark.parametrize("decoupled", [False, True], ids=["Adam", "AdamW"])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_hundred_steps_equal_pytorch(decoupled, amsgrad, maximize):
    torch = pytest.importorskip("torch")
    peer = torch.optim.AdamW if decoupled else torch.optim.Adam
    rng = np.random.default_rng(0)
    cycle = rng.standard_normal((7, 20))
    for lr, betas, eps, weight_decay in product([1e-3, 0.1], [(0.9, 0.999), (0.5, 0.6)], [1e-8, 1e-2], [0.0, 0.1]):
        hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        start = rng.uniform(50, 100, 20)
        theirs = torch.tensor(start, requires_grad=True)
        optimizer = peer([theirs], **hyper, amsgrad=amsgrad, maximize=maximize)
        p = start.copy()
        ours = Adam(p, **hyper, amsgrad=amsgrad, maximize=maximize, decoupled_weight_decay=decoupled)
        for t in range(100):
            theirs.grad = torch.tensor(cycle[t % 7])
            optimizer.step()
            ours.step(cycle[t % 7])
        np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=1e-12)
        state, moments = optimizer.state[theirs], ours.state_dict()
        np.testing.assert_allclose(moments["m"], state["exp_avg"].numpy(), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(moments["v"], state["exp_avg_sq"].numpy(), rtol=1e-12)
        if amsgrad:
            np.testing.assert_allclose(moments["v_max"], state["max_exp_avg_sq"].numpy(), rtol=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_hundred_steps_equal_optax(weight_decay):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, cycle = naive.start(50, np.float64), naive.gradients(50, np.float64)
    with jax.enable_x64(True):
        peer = optax.adamw(0.01, b1=0.8, b2=0.99, eps=1e-6, weight_decay=weight_decay)
        theirs = jax.numpy.asarray(start)
        state = peer.init(theirs)
        p = start.copy()
        ours = Adam(p, 0.01, (0.8, 0.99), 1e-6, weight_decay, decoupled_weight_decay=True)
        for t in range(100):
            change, state = peer.update(jax.numpy.asarray(cycle[t % 5]), state, theirs)
            theirs = optax.apply_updates(theirs, change)
            ours.step(cycle[t % 5])
        np.testing.assert_allclose(p, np.asarray(theirs), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5)])
def test_epsilon_hat_equals_scikit_learn(betas, eps):
    peers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    start, cycle = naive.start(50, np.float64), naive.gradients(50, np.float64)
    theirs, p = start.copy(), start.copy()
    peer = peers.AdamOptimizer([theirs], 0.01, *betas, eps)
    optimizer = Adam(p, 0.01, betas, eps, epsilon_hat=True)
    for t in range(100):
        peer.update_params([theirs], [cycle[t % 5]])
        optimizer.step(cycle[t % 5])
    np.testing.assert_allclose(p, theirs, rtol=1e-14, atol=0)
    assert peer.t == optimizer.t


# State


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@each_holder
def test_a_state_dict_goes_on_bit_for_bit(hold):
    cycle = [hold(g) for g in naive.gradients(50, np.float32)]
    first = Adam(hold(naive.start(50, np.float32)), lr=0.01, **EVERYTHING)
    train(first, cycle, 7)
    second = Adam(copy.deepcopy(first.params), **(EVERYTHING | {"weight_decay": 0.0}))
    second.load_state_dict(first.state_dict())
    train(second, cycle, 8)
    assert second.t == 15
    assert_equals_reference(second, naive.trained(50, np.float32, 15, lr=0.01, **EVERYTHING))
    assert first.t == 7


def test_a_state_dict_is_a_copy_of_plain_numbers_and_arrays():
    optimizer = Adam(np.ones(3), lr=0.1)
    state = optimizer.state_dict()
    assert {type(value) for value in state.values()} == {int, float, tuple, bool, np.ndarray}
    state["m"][:] = 5
    assert not optimizer.state_dict()["m"].any()
    optimizer.load_state_dict(state)
    state["m"][:] = 6
    assert (optimizer.state_dict()["m"] == 5).all()


def test_loading_replaces_the_hyper_parameters():
    state = Adam(np.ones(3), lr=0.5, betas=(0.1, 0.2), eps=0.25, weight_decay=0.125).state_dict()
    optimizer = Adam(np.ones(3))
    optimizer.load_state_dict(state)
    assert (optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (0.5, (0.1, 0.2), 0.25, 0.125)


BAD_STATES = {
    "t negative": ({"t": -1}, ValueError, "'t'"),
    "t too large": ({"t": 2**63 - 1}, ValueError, "'t'"),
    "t a float": ({"t": 1.0}, TypeError, "'t'"),
    "t a bool": ({"t": True}, TypeError, "'t'"),
    "lr": ({"lr": -1.0}, ValueError, "lr"),
    "betas": ({"lr": 0.5, "betas": (0.9, 1.0)}, ValueError, "betas"),
    "eps": ({"lr": 0.5, "eps": math.nan}, ValueError, "eps"),
    "weight_decay": ({"lr": 0.5, "eps": 0.5, "weight_decay": "0"}, TypeError, "weight_decay"),
    "another flag": ({"amsgrad": True}, ValueError, "amsgrad"),
    "a flag as text": ({"maximize": ""}, TypeError, "maximize"),
    "m a list": ({"m": [0.0] * 5}, TypeError, "'m'"),
    "m of another size": ({"m": np.zeros(4)}, ValueError, "'m'"),
    "m of another dtype": ({"m": np.zeros(5, np.float32)}, ValueError, "'m'"),
    "m of another byte order": ({"m": np.zeros(5, np.dtype(float).newbyteorder())}, ValueError, "'m'"),
    "v of another shape": ({"v": np.zeros((5, 1))}, ValueError, "'v'"),
    "an unknown entry": ({"momentum": 0.9}, ValueError, "momentum"),
    "v_max without amsgrad": ({"v_max": np.zeros(5)}, ValueError, "v_max"),
}


@pytest.mark.parametrize(("change", "error", "match"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_is_refused_by_name_and_changes_nothing(change, error, match):
    optimizer = Adam(naive.start(5, np.float64), lr=0.1, weight_decay=0.1)
    train(optimizer, naive.gradients(5, np.float64), 2)
    state, before = optimizer.state_dict(), snapshot(optimizer)
    train(optimizer, naive.gradients(5, np.float64), 1)
    after = snapshot(optimizer)
    with pytest.raises(error, match=match):
        optimizer.load_state_dict({**state, **change})
    assert snapshot(optimizer) == after != before
    train(optimizer, naive.gradients(5, np.float64), 1)
    assert_equals_reference(optimizer, naive.trained(5, np.float64, 4, lr=0.1, weight_decay=0.1))


@pytest.mark.parametrize("missing", ["t", "lr", "betas", "maximize", "v"])
def test_a_state_with_a_missing_entry_is_a_value_error(missing):
    optimizer = Adam(np.ones(5))
    state = optimizer.state_dict()
    del state[missing]
    with pytest.raises(ValueError, match=missing):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("state", [None, [], "t", 1])
def test_a_state_that_is_not_a_mapping_is_a_type_error(state):
    with pytest.raises(TypeError, match="state must be a mapping"):
        Adam(np.ones(5)).load_state_dict(state)


@each_holder
@pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy], ids=lambda duplicate: duplicate.__name__)
def test_a_duplicate_keeps_the_parameters_that_it_shares_and_goes_on_bit_for_bit(hold, duplicate):
    cycle = [hold(g) for g in naive.gradients(50, np.float32)]
    original = Adam(hold(naive.start(50, np.float32)), epsilon_hat=True, **EVERYTHING)
    train(original, cycle, 3)
    params, optimizer = duplicate((original.params, original))
    assert optimizer.params is params
    train(optimizer, cycle, 4)
    assert_equals_reference(optimizer, naive.trained(50, np.float32, 7, epsilon_hat=True, **EVERYTHING))
    assert_same_bits(flattened(params), flattened(optimizer.params))
    assert_equals_reference(original, naive.trained(50, np.float32, 3, epsilon_hat=True, **EVERYTHING))


@pytest.mark.parametrize("array", [np.ones((3, 4), order="F"), np.array(1.0), np.ones((0, 2))], ids=repr)
def test_pickling_keeps_shape_and_memory_order(array):
    optimizer = pickled(Adam({"W": array}))
    assert optimizer.params["W"].shape == array.shape
    assert optimizer.params["W"].flags.f_contiguous == array.flags.f_contiguous
    optimizer.step({"W": np.ones_like(array)})
    assert optimizer.t == 1


def test_the_moments_are_the_state_itself():
    optimizer = Adam(np.ones(5), amsgrad=True)
    moments = optimizer.moments
    assert list(moments) == ["m", "v", "v_max"]
    assert list(Adam(np.ones(5)).moments) == ["m", "v"]
    optimizer.step(np.ones(5))
    for name, moment in optimizer.moments.items():
        assert moment is moments[name]
        assert moment.all()


def test_repr_tells_what_it_optimizes_and_how():
    optimizer = Adam([np.zeros((2, 3), np.float32), np.zeros(3, np.float32)], lr=0.5, amsgrad=True)
    assert repr(optimizer) == (
        "Adam(9 float32 parameters, lr=0.5, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=True, t=0)"
    )


# Hyper-parameters


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_a_new_lr_takes_effect_at_once_and_compiles_nothing():
    optimizer, reference = Adam(np.ones(5)), naive.Adam(np.ones(5))
    optimizer.step(g := np.arange(5.0))
    reference.step(g)
    compiled = len(step_kernel(StepSpec(rules.ADAM), "float64", False).signatures)
    for lr in (0.5, 0, 1, np.float32(0.25), Fraction(1, 3), np.int64(2)):
        optimizer.lr = reference.lr = float(lr)
        optimizer.lr = lr
        assert type(optimizer.lr) is float
        optimizer.step(g)
        reference.step(g)
    assert_equals_reference(optimizer, reference)
    assert len(step_kernel(StepSpec(rules.ADAM), "float64", False).signatures) == compiled


def test_weight_decay_may_be_switched_on_and_off():
    optimizer, reference = Adam(np.ones(5)), naive.Adam(np.ones(5))
    for weight_decay in (0.0, 0.5, 0.0, 0.25):
        optimizer.weight_decay = reference.weight_decay = weight_decay
        optimizer.step(g := np.arange(5.0))
        reference.step(g)
    assert_equals_reference(optimizer, reference)


NOT_NUMBERS = [True, np.True_, "0.1", b"0.1", None, 0.1j, [0.1], np.array(0.1), np.array([0.1]), object()]
OUT_OF_RANGE = [
    -1e-9,
    -1,
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
    np.float64("inf"),
    10**400,
    Fraction(-1, 3),
]


def assert_refused(name, value, error):
    """By the constructor, and by the setter of an optimizer that then stays as it was."""
    with pytest.raises(error, match=name):
        Adam(np.ones(3), **{name: value})
    optimizer = Adam(np.ones(3))
    before = snapshot(optimizer)
    with pytest.raises(error, match=name):
        setattr(optimizer, name, value)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay"])
def test_a_hyper_parameter_that_is_no_finite_number_from_zero_is_refused_by_name(name):
    for value in NOT_NUMBERS:
        assert_refused(name, value, TypeError)
    for value in OUT_OF_RANGE:
        assert_refused(name, value, ValueError)


@pytest.mark.parametrize("position", [0, 1])
def test_betas_that_are_no_two_numbers_from_zero_to_below_one_are_refused_by_name(position):
    def betas(value):
        return (value, 0.9) if position == 0 else (0.9, value)

    for value in NOT_NUMBERS:
        assert_refused("betas", betas(value), TypeError)
    for value in [*OUT_OF_RANGE, 1.0, 1, 1.5, Fraction(10**30 - 1, 10**30)]:
        assert_refused("betas", betas(value), ValueError)
    for value in [0.9, None, "ab", b"ab", {0.9, 0.99}, {0.9: 1, 0.99: 2}, np.array(0.9), np.ones((2, 2)), iter("ab")]:
        assert_refused("betas", value, TypeError)
    for value in [(), (0.9,), (0.9, 0.99, 0.999), np.array([0.9])]:
        assert_refused("betas", value, ValueError)


@given(
    name=st.sampled_from(["lr", "eps", "weight_decay"]),
    value=st.one_of(st.floats(), st.integers(), st.fractions(), st.booleans(), st.none(), st.text(max_size=3)),
)
def test_a_number_is_taken_as_it_is_or_refused_by_name(name, value):
    optimizer = Adam(np.ones(3))
    error = error_of(lambda: setattr(optimizer, name, value))
    if isinstance(value, bool | str | None):
        assert isinstance(error, TypeError)
    elif 0 <= value < 2**1023:
        assert error is None
    if error is None:
        assert 0 <= getattr(optimizer, name) == float(value) < math.inf
    else:
        assert name in str(error)


@pytest.mark.parametrize("betas", [[0.5, 0.25], (np.float32(0.5), Fraction(1, 4)), np.array([0.5, 0.25], np.float32)])
def test_betas_may_be_any_sequence_of_two_numbers(betas):
    optimizer = Adam(np.ones(3), betas=betas)
    assert optimizer.betas == (0.5, 0.25)
    assert {type(beta) for beta in optimizer.betas} == {float}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", [1, 0, None, "True", np.array(True)])
def test_a_flag_is_true_or_false(flag, value):
    with pytest.raises(TypeError, match=flag):
        Adam(np.ones(3), **{flag: value})


# Parameters and gradients that are refused


def read_only(array):
    array.flags.writeable = False
    return array


X, MEMORY = np.zeros(20), bytearray(24)
BAD_PARAMS = {
    "integers": (np.zeros(3, int), TypeError),
    "bools": (np.zeros(3, bool), TypeError),
    "complex": (np.zeros(3, complex), TypeError),
    "objects": (np.zeros(3, object), TypeError),
    "longdouble": (np.zeros(3, np.longdouble), TypeError),
    "records": (np.zeros(3, "f8,f8"), TypeError),
    "byte order": (np.zeros(3, np.dtype(float).newbyteorder()), TypeError),
    "two dtypes": ([np.zeros(3), np.zeros(3, np.float32)], TypeError),
    "None": (None, TypeError),
    "a number": (1.0, TypeError),
    "a list of numbers": ([1.0, 2.0], TypeError),
    "text": ("params", TypeError),
    "a list of text": (["a"], TypeError),
    "a nested list": ([[np.zeros(3)]], TypeError),
    "a generator": ((x for x in [np.zeros(3)]), TypeError),
    "values of a dict": ({"a": np.zeros(3)}.values(), TypeError),
    "a set": ({1.0}, TypeError),
    "read-only": (read_only(np.zeros(3)), ValueError),
    "read-only among others": ([np.zeros(3), read_only(np.zeros(3))], ValueError),
    "broadcast": (np.broadcast_to(np.zeros(1), 3), ValueError),
    "every other": (X[::2], ValueError),
    "reversed": (X[::-1], ValueError),
    "a column": (np.zeros((4, 4))[:, 1], ValueError),
    "part of the columns": (np.zeros((4, 4))[:, :2], ValueError),
    "permuted axes": (np.zeros((2, 3, 4)).transpose(1, 0, 2), ValueError),
    "one array twice": ([X, X], ValueError),
    "an array and its view": ({"a": X, "b": X.reshape(4, 5)}, ValueError),
    "overlapping slices": ([X[:11], np.zeros(2), X[10:]], ValueError),
    "a slice within another": ([X[5:8], X], ValueError),
    "overlapping bytes": ([np.frombuffer(MEMORY), np.frombuffer(MEMORY, offset=4, count=2)], ValueError),
}


@pytest.mark.parametrize(("params", "error"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_bad_parameters_are_refused_by_name(params, error):
    with pytest.raises(error, match="params"):
        Adam(params)


UNUSUAL_PARAMS = {
    "an empty array": np.ones(0),
    "0-d": np.array(1.0),
    "3-D": np.ones((3, 1, 2)),
    "a row transposed": np.ones((1, 5)).T,
    "no list": [],
    "no tuple": (),
    "no dict": {},
    "halves, swapped": (lambda x: [x[10:], x[:0], x[:10]])(np.ones(20)),
    "the same empty array twice": [np.ones(0)] * 2,
    "keys that are numbers": {1: np.ones(2), (2, 3): np.ones(1)},
}


@pytest.mark.parametrize("params", UNUSUAL_PARAMS.values(), ids=UNUSUAL_PARAMS)
def test_unusual_parameters_are_taken(params):
    optimizer = Adam(params)
    optimizer.step(copy.deepcopy(params))
    assert optimizer.t == 1
    for array in arrays_of(params):
        np.testing.assert_allclose(array, 0.999)


def a_dict(dtype=np.float64):
    return {"W": np.ones((2, 3), dtype), "b": np.ones(3, dtype)}


BAD_GRADS = {
    "None": (a_dict, None, TypeError),
    "a number": (a_dict, 1.0, TypeError),
    "one array for a dict": (a_dict, np.ones(9), TypeError),
    "a list for a dict": (a_dict, [np.ones((2, 3)), np.ones(3)], TypeError),
    "a FlatBuffer for a dict": (a_dict, FlatBuffer({"W": (2, 3), "b": 3}, float), TypeError),
    "a missing key": (a_dict, {"W": np.ones((2, 3))}, ValueError),
    "one more key": (a_dict, a_dict() | {"c": np.ones(1)}, ValueError),
    "another key": (a_dict, {"W": np.ones((2, 3)), "c": np.ones(3)}, ValueError),
    "another dtype": (a_dict, a_dict(np.float32), TypeError),
    "integers": (a_dict, a_dict(int), TypeError),
    "another byte order": (a_dict, a_dict(np.dtype(float).newbyteorder()), TypeError),
    "lists within": (a_dict, {"W": np.ones((2, 3)), "b": [1.0, 1.0, 1.0]}, TypeError),
    "another shape": (a_dict, {"W": np.ones((3, 2)), "b": np.ones(3)}, ValueError),
    "another dimension": (a_dict, {"W": np.ones((2, 3)), "b": np.ones((3, 1))}, ValueError),
    "a broadcast shape": (a_dict, {"W": np.ones(3), "b": np.ones(3)}, ValueError),
    "a shorter list": (lambda: [np.ones(2), np.ones(3)], [np.ones(2)], ValueError),
    "an empty list": (lambda: [np.ones(2), np.ones(3)], [], ValueError),
    "one array for a list": (lambda: [np.ones(2)], np.ones(2), TypeError),
    "a list for one array": (lambda: np.ones(2), [np.ones(2)], TypeError),
    "a longer array": (lambda: np.ones(2), np.ones(3), ValueError),
    "a 0-d array": (lambda: np.ones(1), np.array(1.0), ValueError),
    "float16": (lambda: np.ones(2), np.ones(2, np.float16), TypeError),
    "objects": (lambda: np.ones(2), np.ones(2, object), TypeError),
    "another layout": (lambda: FlatBuffer({"W": 2, "b": 3}), FlatBuffer({"W": 3, "b": 2}), ValueError),
    "other names": (lambda: FlatBuffer({"W": 2, "b": 3}), FlatBuffer({"V": 2, "b": 3}), ValueError),
    "a FlatBuffer of float64": (lambda: FlatBuffer({"W": 2}), FlatBuffer({"W": 2}, float), TypeError),
    "a dict for a FlatBuffer": (lambda: FlatBuffer({"W": 2}), {"W": np.ones(2, np.float32)}, TypeError),
}


@pytest.mark.parametrize(("params", "grads", "error"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_bad_gradients_are_refused_by_name_and_change_nothing(params, grads, error):
    optimizer = Adam(params())
    before = snapshot(optimizer)
    with pytest.raises(error, match="grads"):
        optimizer.step(grads)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("params", "grads"),
    [
        (slice(0, 5), slice(0, 5)),
        (slice(0, 5), slice(4, 9)),
        (slice(5, 10), slice(1, 6)),
        ([slice(0, 5), slice(10, 15)], [slice(5, 10), slice(14, 19)]),
        ([slice(0, 5), slice(10, 15)], [slice(10, 15), slice(0, 5)]),
    ],
)
def test_gradients_in_the_memory_of_the_parameters_are_refused(params, grads):
    whole = np.ones(20)
    params, grads = ([whole[s] for s in part] if isinstance(part, list) else whole[part] for part in (params, grads))
    optimizer = Adam(params)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"grads.* share memory"):
        optimizer.step(grads)
    assert snapshot(optimizer) == before
    assert (whole == 1).all()


def test_gradients_between_the_parameters_of_one_array_are_taken():
    whole = np.ones(20)
    Adam([whole[0:5], whole[10:15]]).step([whole[5:10], whole[15:20]])
    np.testing.assert_allclose(whole, [*[0.999] * 5, *[1] * 5] * 2)


def test_parameters_that_became_read_only_are_refused_and_unchanged():
    p = np.ones(3)
    optimizer = Adam({"W": p})
    p.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['W'\] must be writeable"):
        optimizer.step({"W": np.ones(3)})
    assert optimizer.t == 0
    assert (p == 1).all()


def test_a_flat_array_of_gradients_serves_a_flat_buffer():
    buffer = flat_buffer(naive.start(50, np.float32))
    optimizer = Adam(buffer)
    train(optimizer, naive.gradients(50, np.float32), 3)
    assert_equals_reference(optimizer, naive.trained(50, np.float32, 3))


def test_the_parameters_stay_the_objects_that_were_given():
    params = a_dict()
    views = dict(params)
    optimizer = Adam(params)
    optimizer.step(a_dict())
    assert optimizer.params is params
    assert all(params[name] is views[name] for name in views)


@given(
    params=st.sampled_from(["array", "list", "dict", "buffer"]),
    grads=st.sampled_from(["array", "list", "dict", "buffer"]),
    dtypes=st.tuples(*[st.sampled_from(["f4", "f8", ">f4", "i4", "f2"])] * 2),
    shapes=st.tuples(*[st.sampled_from([(2,), (3,), (3, 1), (1, 3), ()])] * 2),
)
@settings(max_examples=150)
def test_a_step_is_taken_or_refused_as_a_whole(params, grads, dtypes, shapes):
    def build(kind, dtype, shape):
        array = np.ones(shape, dtype)
        if kind == "buffer":
            return FlatBuffer.from_arrays({"a": array}, "f8" if dtype == "f8" else "f4")
        return {"array": array, "list": [array], "dict": {"a": array}}[kind]

    p, g = build(params, dtypes[0], shapes[0]), build(grads, dtypes[1], shapes[1])
    if error := error_of(lambda: Adam(p)):
        assert "params" in str(error)
        return
    optimizer = Adam(p)
    before = snapshot(optimizer)
    if error := error_of(lambda: optimizer.step(g)):
        assert "grads" in str(error)
        assert snapshot(optimizer) == before
    else:
        assert (params, dtypes[0], shapes[0]) == (grads, dtypes[1], shapes[1]) or "buffer" in (params, grads)
        assert optimizer.t == 1
        np.testing.assert_allclose(flattened(p), 0.999, rtol=1e-3 if dtypes[0] == "f2" else 1e-6)


def test_the_address_of_a_gradient_is_that_of_the_array_given():
    """Of one array it is remembered between steps, which must not outlive the array or its memory."""
    optimizer = SGD(p := np.zeros(3), 1.0)
    g = np.ones(3)
    optimizer.step(g)
    with pytest.raises(ValueError, match="resize"):
        g.resize(1000)
    g[:] = 2.0
    optimizer.step(g)
    for k in range(50):
        del g
        g = np.full(3, float(k))
        optimizer.step(g)
    optimizer.step(np.full(3, 4.0))
    assert (p == -(1 + 2 + sum(range(50)) + 4)).all()
    g.shape = (1, 3)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(g)


def test_a_stream_is_refused_for_parameters_on_the_host():
    optimizer = Adam(np.ones(3))
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match="stream must be None where params lie on the host, got 0"):
        optimizer.step(np.ones(3), stream=0)
    assert snapshot(optimizer) == before
