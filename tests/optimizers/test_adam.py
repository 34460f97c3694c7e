"""Adam and AdamW: every setting beside the reference, PyTorch, Optax and scikit-learn."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.arrays import EVERYTHING, FLOATS, flattened, one_array, train
from tests.helpers.naive import assert_same_bits

FLAGS = ["decoupled_weight_decay", "amsgrad", "maximize", "epsilon_hat"]


def assert_equals_reference(optimizer, reference):
    state = optimizer.state_dict()
    assert state["t"] == optimizer.t == reference.t
    assert_same_bits(flattened(optimizer.params), reference.p)
    assert_same_bits(state["m"], reference.m)
    assert_same_bits(state["v"], reference.v)
    if "v_max" in state:
        assert_same_bits(state["v_max"], reference.v_max)


@pytest.mark.thin(8)
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


def test_weight_decay_may_be_switched_on_and_off():
    optimizer, reference = Adam(np.ones(5)), naive.Adam(np.ones(5))
    for weight_decay in (0.0, 0.5, 0.0, 0.25):
        optimizer.weight_decay = reference.weight_decay = weight_decay
        optimizer.step(g := np.arange(5.0))
        reference.step(g)
    assert_equals_reference(optimizer, reference)
