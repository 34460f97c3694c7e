"""SGD, and the momentum of groups, which RMSprop has as well."""

import pickle

import numpy as np
import pytest

from fastadam.optimizers.adaptive import RMSprop
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.family import text_of
from tests.helpers.naive import assert_same_bits


@pytest.mark.parametrize("options", [{}, {"momentum": 0}, {"momentum": 0.9, "dampening": 0.1}, {"dampening": 0.1}])
def test_nesterov_needs_a_momentum_and_no_dampening(options):
    with pytest.raises(ValueError, match="nesterov"):
        SGD(np.ones(3), nesterov=True, **options)


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
