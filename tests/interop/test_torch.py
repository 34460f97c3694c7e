"""Our optimizers for PyTorch against PyTorch's own of the same name, and Lion against its naive reference."""

import copy
import doctest
import gc
import io
import math
import pickle
import weakref

import numpy as np
import pytest

import fastadam
from fastadam.cpu.threads import PARALLEL_BYTES
from tests.helpers import naive

torch = pytest.importorskip("torch")
ours = pytest.importorskip("fastadam.interop.torch")

pytestmark = pytest.mark.peers

PEERS = ["SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"]
# For each optimizer options that give its parameters all the state it can have.
FULL = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    "RMSprop": {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5},
    "Adadelta": {"weight_decay": 0.1},
    "Adam": {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"lr": 0.01, "amsgrad": True},
    "Adamax": {"weight_decay": 0.1},
    "NAdam": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam": {"weight_decay": 0.1},
}
each_peer = pytest.mark.parametrize("name", PEERS)


def ours_of(name):
    return getattr(ours, name)


def theirs_of(name):
    return getattr(torch.optim, name)


def parameters(seed=0, dtype=torch.float64, shapes=((7, 5), (5,), (), (2, 3, 1, 4), (0, 3))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def twins(**options):
    """Equal parameters, for our optimizer and for theirs."""
    return parameters(**options), parameters(**options)


def tensor(number):
    """A number that is a tensor; PyTorch would compute in float32 with one of that type."""
    return torch.tensor(number, dtype=torch.float64)


def set_grads(pair, seed, without=()):
    """Give parameters and their twins the same new gradients, except those at the indices `without`."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for k, (mine, other) in enumerate(zip(*pair, strict=True)):
        grad = torch.randn(mine.shape, generator=generator, dtype=mine.dtype)
        mine.grad, other.grad = (None, None) if k in without else (grad, grad.clone())


def advance(optimizers, pair, steps, start=0, without=lambda step: ()):
    """Steps of both optimizers with the same gradients."""
    for step in range(start, start + steps):
        set_grads(pair, step, without(step))
        for optimizer in optimizers:
            optimizer.step()


def assert_close(actual, expected, rtol=1e-12):
    for mine, other in zip(actual, expected, strict=True):
        scale = float(other.detach().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(mine.detach(), other.detach(), rtol=rtol, atol=rtol * scale, check_stride=True)


def assert_same_state(mine, other, rtol=1e-12):
    """Both optimizers have the same state for the same parameters, by names, types and values."""
    left, right = mine.state_dict(), other.state_dict()
    assert left["state"].keys() == right["state"].keys()
    for k, entry in right["state"].items():
        assert left["state"][k].keys() == entry.keys()
        for name, value in entry.items():
            assert left["state"][k][name].dtype == value.dtype, name
            assert_close([left["state"][k][name]], [value], rtol)


def tensors_of(entry):
    return [value for value in entry.values() if isinstance(value, torch.Tensor)]


def sparse(tensor):
    with torch.sparse.check_sparse_tensor_invariants():
        return tensor.to_sparse()


def saved(value):
    """Object loaded from a file that anybody may read."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def snapshot(optimizer, params):
    return copy.deepcopy([[p.detach() for p in params], optimizer.state_dict()])


def assert_unchanged(optimizer, params, before):
    torch.testing.assert_close(snapshot(optimizer, params), before, rtol=0, atol=0, equal_nan=True)


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def infos():
    """PyTorch's own inputs for the tests of its optimizers, by the optimizers' names."""
    database = pytest.importorskip("torch.testing._internal.common_optimizers", exc_type=ImportError)
    return {info.name: info for info in database.optim_db}, database


@each_peer
def test_pytorchs_own_option_matrix(name, infos):
    """All inputs for the CPU, where none is `capturable`: plain and with `fused`, but not with `differentiable`."""
    info, database = infos[0][name], infos[1]
    inputs = database._get_optim_inputs_including_global_cliquey_kwargs("cpu", None, info, skip=("differentiable",))
    assert len(inputs) >= 5
    for given in inputs:
        assert not given.kwargs.get("capturable")
        for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 3e-5)):
            pair = twins(dtype=dtype)
            optimizers = [
                cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.005}], **copy.deepcopy(given.kwargs))
                for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)
            ]
            advance(optimizers, pair, 20)
            assert_close(*pair, rtol)
            assert_same_state(*optimizers, rtol)


@each_peer
def test_a_hundred_steps_with_every_option(name):
    pair = twins()
    optimizers = [cls(params, **FULL[name]) for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)]
    advance(optimizers, pair, 100)
    assert_close(*pair)
    assert_same_state(*optimizers)


@pytest.mark.parametrize("name", [*PEERS, "Lion"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_are_those_of_our_optimizer_for_arrays(name, dtype):
    params = parameters(dtype=dtype)
    arrays = [p.detach().clone().numpy() for p in params]
    options = FULL.get(name, {})
    optimizer, reference = ours_of(name)(params, **options), getattr(fastadam, name)(arrays, **options)
    for step in range(10):
        set_grads([params, params], step)
        optimizer.step()
        reference.step([p.grad.numpy() for p in params])
    for p, array in zip(params, arrays, strict=True):
        if name == "NAdam":  # whose product of momenta PyTorch keeps in float32
            np.testing.assert_allclose(p.detach().numpy(), array, rtol=1e-5)
        else:
            naive.assert_same_bits(p.detach().numpy(), array)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}])
def test_lion_has_the_bits_of_its_naive_reference(options):
    (p,) = parameters(shapes=((33,),))
    optimizer, reference = (
        ours.Lion([p], lr=0.01, **options),
        naive.Lion(p.detach().clone().numpy(), lr=0.01, **options),
    )
    for step in range(20):
        set_grads([[p], [p]], step)
        optimizer.step()
        reference.step(p.grad.numpy())
    naive.assert_same_bits(p.detach().numpy(), reference.p)
    naive.assert_same_bits(optimizer.state[p]["exp_avg"].numpy(), reference.state["exp_avg"])


@each_peer
def test_maximize(name):
    pair = twins()
    optimizers = [ours_of(name)(pair[0], maximize=True), theirs_of(name)(pair[1], maximize=True)]
    advance(optimizers, pair, 5)
    assert_close(*pair)


def test_large_parameters_in_parallel_and_in_series():
    size = 3 * PARALLEL_BYTES // 4 + 5
    pair = twins(dtype=torch.float32, shapes=((size,), (3,)))
    optimizers = [ours.Adam(pair[0]), ours.Adam(pair[1])]
    threads = torch.get_num_threads()
    for step in range(3):
        set_grads(pair, step)
        optimizers[0].step()
        torch.set_num_threads(1)
        try:
            optimizers[1].step()
        finally:
            torch.set_num_threads(threads)
    for mine, other in zip(*pair, strict=True):
        naive.assert_same_bits(mine.detach().numpy(), other.detach().numpy())


# --- groups -----------------------------------------------------------------------------------------------------------

GROUPS = {  # settings that ask for other kernels
    "SGD": [{"momentum": 0.9, "nesterov": True}, {"maximize": True}, {"weight_decay": 0.1}],
    "RMSprop": [{"centered": True}, {"momentum": 0.5}, {"alpha": 0.9}],
    "Adagrad": [{"lr_decay": 0.5}, {"maximize": True}, {"weight_decay": 0.1}],
    "Adadelta": [{"rho": 0.5}, {"maximize": True}, {"weight_decay": 0.1}],
    "Adam": [{"amsgrad": True}, {"betas": (0.5, 0.9)}, {"weight_decay": 0.1}],
    "AdamW": [{"amsgrad": True}, {"weight_decay": 0.0}, {"maximize": True}],
    "Adamax": [{"betas": (0.5, 0.9)}, {"maximize": True}, {"weight_decay": 0.1}],
    "NAdam": [{"momentum_decay": 0.1, "betas": (0.0, 0.9)}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9)}],
    "RAdam": [{"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}, {"betas": (0.5, 0.9)}],
}


@each_peer
def test_groups_with_options_of_their_own_and_both_types(name):
    pair = twins()
    for params in pair:
        params += [p.detach().float().requires_grad_() for p in params]
    optimizers = []
    for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True):
        groups = [{"params": params[k::4], **options} for k, options in enumerate([{}, *GROUPS[name]])]
        optimizers.append(cls(groups, lr=0.01))
    advance(optimizers, pair, 10)
    assert_close([p for p in pair[0] if p.dtype == torch.float64], [p for p in pair[1] if p.dtype == torch.float64])
    assert_close(*pair, rtol=1e-5)


def test_a_group_added_between_steps():
    pair = twins()
    optimizers = [ours.Adam(pair[0][:2]), torch.optim.Adam(pair[1][:2])]
    advance(optimizers, pair, 3)
    for optimizer, params in zip(optimizers, pair, strict=True):
        optimizer.add_param_group({"params": params[2:], "lr": 0.1, "amsgrad": True})
    advance(optimizers, pair, 3, start=3)
    assert_close(*pair)
    assert_same_state(*optimizers)


def test_named_parameters():
    model = torch.nn.Linear(3, 2)
    optimizer = ours.Adam(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


@each_peer
def test_settings_changed_between_steps(name):
    pair = twins()
    optimizers = [cls(params, **FULL[name]) for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)]
    changes = [{"lr": 0.2}, {"weight_decay": 0.0}, {"weight_decay": 0.3}, {"maximize": True}, {"lr": tensor(0.1)}]
    for step, change in enumerate(changes):
        for optimizer in optimizers:
            optimizer.param_groups[0].update(copy.deepcopy(change))
        advance(optimizers, pair, 2, start=2 * step)
        assert_close(*pair)


@each_peer
def test_a_rate_that_is_a_tensor_changes_in_place(name):
    pair = twins()
    optimizers = [
        cls(params, lr=tensor(0.1)) for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)
    ]
    for step in range(5):
        advance(optimizers, pair, 1, start=step)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"].mul_(0.5)
    assert_close(*pair)


def test_betas_in_a_tensor_or_a_list_that_change_in_place():
    pair = twins()
    optimizers = [
        cls(params, betas=[0.5, 0.9]) for cls, params in zip((ours.Adamax, torch.optim.Adamax), pair, strict=True)
    ]
    for step in range(3):
        advance(optimizers, pair, 1, start=step)
        for optimizer in optimizers:
            optimizer.param_groups[0]["betas"][0] /= 2
    assert_close(*pair)
    pair = twins()
    betas = (tensor(0.5), tensor(0.9))
    optimizers = [cls(params, betas=betas) for cls, params in zip((ours.Adam, torch.optim.Adam), pair, strict=True)]
    for step in range(3):
        advance(optimizers, pair, 1, start=step)
        betas[0].mul_(0.5)
    assert_close(*pair)


# --- gradients --------------------------------------------------------------------------------------------------------


@each_peer
def test_parameters_without_a_gradient_are_skipped_and_fall_behind(name):
    pair = twins()
    optimizers = [cls(params, **FULL[name]) for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)]
    absent = [(0, 1, 2, 3, 4), (0, 3), (1, 3), (0, 1), (), (2,), (3,), ()]
    advance(optimizers, pair, len(absent), without=lambda step: absent[step])
    assert_close(*pair)
    assert_same_state(*optimizers)


@each_peer
def test_no_state_before_the_first_gradient(name):
    pair = twins()
    optimizers = [cls(params, **FULL[name]) for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)]
    advance(optimizers, pair, 1, without=lambda step: (1, 3))
    assert_same_state(*optimizers)
    assert ours_of(name)(parameters()).step() is None


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    (p,) = parameters(shapes=((4,),))
    optimizer = ours.Adam([p])
    p.sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    assert (p.grad is None) if set_to_none else (p.grad.tolist() == [0, 0, 0, 0])
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before) == set_to_none


def test_gradients_are_not_kept_alive():
    (p,) = parameters(shapes=((4,),))
    optimizer = ours.Adam([p])
    for _ in range(2):
        p.sum().backward()
        optimizer.step()
        grad = weakref.ref(p.grad)
        optimizer.zero_grad()
        gc.collect()
        assert grad() is None


def test_gradients_in_another_memory_order():
    pair = twins(shapes=((6, 4), (6, 4), (3,)))
    optimizers = [ours.Adam(pair[0]), torch.optim.Adam(pair[1])]
    for step in range(4):
        set_grads(pair, step)
        for params in pair:
            params[0].grad = params[0].grad.t().contiguous().t()
            params[2].grad = torch.tensor(2.0, dtype=torch.float64).expand(3)
            if step == 2:
                params[1].grad.set_(params[1].grad.t().contiguous().t())  # the same object, with other strides
        for optimizer in optimizers:
            optimizer.step()
    assert_close(*pair)


def test_a_graph_of_gradients():
    """With `create_graph`, gradients require gradients themselves."""
    pair = twins(shapes=((3, 3),))
    optimizers = [ours.Adam(pair[0]), torch.optim.Adam(pair[1])]
    for params, optimizer in zip(pair, optimizers, strict=True):
        (params[0].grad,) = torch.autograd.grad(params[0].pow(3).sum(), params, create_graph=True)
        params[0].grad = params[0].grad.t()
        optimizer.step()
        assert not optimizer.state[params[0]]["exp_avg"].requires_grad
    assert_close(*pair)


# --- parameters in memory ---------------------------------------------------------------------------------------------


def test_parameters_are_updated_where_they_are():
    array = np.ones(5)
    p = torch.from_numpy(array).requires_grad_()
    p.grad = torch.ones_like(p)
    address = p.data_ptr()
    ours.SGD([p], lr=0.5).step()
    assert p.data_ptr() == address
    assert array.tolist() == [0.5] * 5


def as_parameter(view):
    return view.detach().requires_grad_()


VIEWS = {
    "slice": lambda base: base[2:5],
    "transposed": lambda base: base.t(),
    "columns": lambda base: base[:, 1:3],
    "every other": lambda base: base[::2, ::2],
    "channels last": lambda base: base.reshape(2, 3, 2, 3).contiguous(memory_format=torch.channels_last),
    "permuted": lambda base: base.reshape(2, 3, 6).permute(1, 2, 0),
    "one column": lambda base: base[:, :1],
    "windows": lambda base: base.reshape(-1).as_strided((2, 3), (3, 2)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_in_any_order_and_with_gaps(view):
    bases = [torch.arange(36, dtype=torch.float64).reshape(6, 6) + 1 for _ in range(2)]
    pair = [[as_parameter(view(base)), *parameters(shapes=((3,),))] for base in bases]
    optimizers = [cls(params, lr=0.1) for cls, params in zip((ours.Adam, torch.optim.Adam), pair, strict=True)]
    for _ in range(5):
        for params, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            sum(p.pow(3).sum() for p in params).backward()
            optimizer.step()
    assert_close(*pair)
    assert_close(*[[base] for base in bases])
    assert_same_state(*optimizers)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_parameters_without_elements(name):
    pair = twins(shapes=((0, 3), (0,)))
    optimizers = [ours_of(name)(pair[0]), theirs_of(name)(pair[1])]
    advance(optimizers, pair, 2)
    assert_same_state(*optimizers)


def test_interleaved_views_do_not_share_memory():
    bases = [torch.ones(12, dtype=torch.float64) for _ in range(2)]
    pair = [[as_parameter(base[::2]), as_parameter(base[1::2])] for base in bases]
    advance([ours.Adam(pair[0]), torch.optim.Adam(pair[1])], pair, 3)
    assert_close(*[[base] for base in bases])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.clone(),
        lambda data: data.t(),
        lambda data: data[:3],
        lambda data: data[:, ::2],
        torch.Tensor.float,
    ],
    ids=["moved", "transposed", "cut", "thinned", "cast"],
)
def test_other_data_in_a_parameter(change):
    """Where the shape or the type changes, so must the state, as with PyTorch."""
    pair = twins(shapes=((4, 4), (3,)))
    optimizers = [ours.Adam(pair[0]), torch.optim.Adam(pair[1])]
    advance(optimizers, pair, 2)
    for params, optimizer in zip(pair, optimizers, strict=True):
        params[0].grad = None
        params[0].data = change(params[0].data)
        for name in ("exp_avg", "exp_avg_sq"):
            optimizer.state[params[0]][name] = change(optimizer.state[params[0]][name])
    advance(optimizers, pair, 3, start=2)
    assert_close(*pair, rtol=1e-6 if pair[0][0].dtype == torch.float32 else 1e-12)


def test_a_cut_parameter_with_the_state_of_before_is_refused():
    (p,) = parameters(shapes=((4, 4),))
    optimizer = ours.Adam([p])
    p.sum().backward()
    optimizer.step()
    p.grad = None
    p.data = p.data[:2]
    p.sum().backward()
    before = p.detach().clone()
    with pytest.raises(ValueError, match=r"'exp_avg' in the state of parameter 0 .* \[2, 4\], got \[4, 4\]"):
        optimizer.step()
    assert torch.equal(p, before)


def test_a_parameter_replaced_in_its_group_with_its_state():
    """As point clouds that grow do it."""
    pair = twins(shapes=((4, 2), (3,)))
    optimizers = [ours.Adam(pair[0]), torch.optim.Adam(pair[1])]
    advance(optimizers, pair, 2)
    for params, optimizer in zip(pair, optimizers, strict=True):
        old = params[0]
        params[0] = torch.cat([old.detach(), torch.ones(2, 2, dtype=torch.float64)]).requires_grad_()
        state = optimizer.state.pop(old)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.cat([state[name], torch.zeros(2, 2, dtype=torch.float64)])
        optimizer.state[params[0]] = state
        optimizer.param_groups[0]["params"][0] = params[0]
    advance(optimizers, pair, 3, start=2)
    assert_close(*pair)


def test_autograd_sees_that_parameters_change():
    (p,) = parameters(shapes=((4,),))
    optimizer = ours.SGD([p])
    loss = p.pow(2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- state ------------------------------------------------------------------------------------------------------------


@each_peer
@pytest.mark.parametrize("steps", [0, 4])
def test_the_state_dict_goes_both_ways(name, steps):
    pair = twins()
    optimizers = [cls(params, **FULL[name]) for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)]
    advance(optimizers, pair, steps, without=lambda step: (3,) if step < 3 else ())
    crossed = [ours_of(name)(pair[0], lr=9.0), theirs_of(name)(pair[1], lr=9.0)]
    for optimizer, source in zip(crossed, reversed(optimizers), strict=True):
        optimizer.load_state_dict(saved(source.state_dict()))
    assert_same_state(*crossed)
    if name == "NAdam":  # the state of its own kind, since loading makes the product of momenta float64
        theirs_of(name).load_state_dict(optimizers[1], saved(optimizers[1].state_dict()))
        optimizers[0].load_state_dict(saved(optimizers[0].state_dict()))
    reference = parameters()
    with torch.no_grad():
        for mine, other in zip(reference, pair[1], strict=True):
            mine.copy_(other)
    last = theirs_of(name)(reference, lr=9.0)
    last.load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    advance(crossed, pair, 10, start=steps)
    advance([last], [reference, reference], 10, start=steps)
    assert_close(pair[0], reference)
    assert_close(pair[1], reference)
    assert_same_state(crossed[0], last)
    assert_same_state(crossed[1], last)


def test_loading_leaves_the_source_alone():
    pair = twins()
    optimizers = [ours.Adam(pair[0]), torch.optim.Adam(pair[1])]
    advance(optimizers, pair, 2)
    source = optimizers[1].state_dict()
    before = copy.deepcopy(source)
    optimizers[0].load_state_dict(source)
    advance(optimizers[:1], pair, 2)
    torch.testing.assert_close(source, before, rtol=0, atol=0)


def test_loading_what_does_not_fit_changes_nothing():
    params = parameters()
    optimizer = ours.Adam(params)
    advance([optimizer], [params, params], 2)
    before = snapshot(optimizer, params)
    with pytest.raises(ValueError, match="loaded state dict"):
        optimizer.load_state_dict(torch.optim.Adam(params[:2]).state_dict())
    assert_unchanged(optimizer, params, before)


@each_peer
def test_copies_and_pickles_go_on(name):
    pair = twins()
    optimizers = [cls(params, **FULL[name]) for cls, params in zip((ours_of(name), theirs_of(name)), pair, strict=True)]
    advance(optimizers, pair, 3, without=lambda step: (0,) if step < 2 else ())
    for clone in (copy.deepcopy(optimizers[0]), pickle.loads(pickle.dumps(optimizers[0]))):
        assert type(clone) is ours_of(name)
        params = clone.param_groups[0]["params"]
        assert not {p.data_ptr() for p in params if p.numel()} & {p.data_ptr() for p in pair[0]}
        reference = copy.deepcopy(optimizers[1])
        expected = reference.param_groups[0]["params"]
        advance([clone, reference], [params, expected], 3, start=3)
        assert_close(params, expected)
        assert_same_state(clone, reference)


CHANGES = {
    "reset of all": lambda optimizer, p: optimizer.state.clear(),
    "another mapping": lambda optimizer, p: setattr(optimizer, "state", type(optimizer.state)(dict)),
    "reset of one": lambda optimizer, p: optimizer.state.pop(p),
    "empty entry": lambda optimizer, p: optimizer.state.__setitem__(p, {}),
    "another tensor": lambda optimizer, p: optimizer.state[p].update(exp_avg=torch.ones_like(p.detach())),
    "in place": lambda optimizer, p: optimizer.state[p]["exp_avg"].fill_(3.0),
    "step in place": lambda optimizer, p: optimizer.state[p]["step"].fill_(7.0),
    "another step": lambda optimizer, p: optimizer.state[p].update(step=torch.tensor(7.0)),
    "shared memory": lambda optimizer, p: optimizer.state[p]["exp_avg"].share_memory_().fill_(3.0),
    "something else": lambda optimizer, p: optimizer.state[p].update(mine="mine"),
    "no parameter": lambda optimizer, p: optimizer.state.__setitem__("mine", 1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_others_do_to_the_state(change):
    pair = twins(shapes=((4, 2), (3,)))
    optimizers = [ours.Adam(pair[0]), torch.optim.Adam(pair[1])]
    advance(optimizers, pair, 2)
    for params, optimizer in zip(pair, optimizers, strict=True):
        change(optimizer, params[0])
    advance(optimizers, pair, 3, start=2)
    assert_close(*pair)
    for mine, other in zip(*pair, strict=True):
        assert_close(tensors_of(optimizers[0].state[mine]), tensors_of(optimizers[1].state[other]))


def test_a_state_of_all_parameters_is_one_piece_of_memory():
    params = parameters()
    optimizer = ours.Adam(params)
    advance([optimizer], [params, params], 1)
    for name in ("step", "exp_avg", "exp_avg_sq"):
        assert len({optimizer.state[p][name].untyped_storage().data_ptr() for p in params}) == 1


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_type_of_the_counts_is_that_of_pytorch(default):
    pair = twins()
    optimizers = [ours.NAdam(pair[0]), torch.optim.NAdam(pair[1])]
    torch.set_default_dtype(default)
    try:
        advance(optimizers, pair, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_state(*optimizers)


# --- what else works with an optimizer --------------------------------------------------------------------------------


def test_a_closure():
    pair = twins()
    optimizers = [ours.Adam(pair[0]), torch.optim.Adam(pair[1])]
    losses = []
    for params, optimizer in zip(pair, optimizers, strict=True):

        def closure(params=params, optimizer=optimizer):
            optimizer.zero_grad()
            loss = sum(p.square().sum() for p in params)
            loss.backward()
            return loss

        with torch.no_grad():
            losses.append([optimizer.step(closure).item() for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] < losses[0][0]


def test_a_closure_that_fails_changes_nothing():
    params = parameters()
    optimizer = ours.Adam(params)
    advance([optimizer], [params, params], 1)
    before = snapshot(optimizer, params)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert_unchanged(optimizer, params, before)


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=["plain", "fused"])
def test_grad_scaler(options):
    pair = twins(dtype=torch.float32, shapes=((5, 3), (3,)))
    optimizers = [ours.Adam(pair[0], **options), torch.optim.Adam(pair[1], **options)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3) for _ in pair]
    for step in range(8):
        for params, optimizer, scaler in zip(pair, optimizers, scalers, strict=True):
            optimizer.zero_grad()
            loss = sum(p.square().sum() for p in params) * (math.inf if step == 4 else 1.0)
            scaler.scale(loss).backward()
            before = snapshot(optimizer, params)
            if step % 2:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(optimizer)
            scaler.update()
            if step == 4:
                assert_unchanged(optimizer, params, before)
        if step != 4:
            for mine, other in zip(*pair, strict=True):
                assert_close([mine.grad], [other.grad], rtol=1e-5)  # unscaled
        assert_close(*pair, rtol=1e-5)
    assert scalers[0].get_scale() == scalers[1].get_scale()
    assert optimizers[0].state[pair[0][0]]["step"] == 7


SCHEDULES = {
    "step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12),
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch)),
    "warm up": lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_learning_rate_schedulers(name, schedule):
    options = {"momentum": 0.9} if name == "SGD" else {}
    pair = twins()
    optimizers = [ours_of(name)(pair[0], lr=0.05, **options), theirs_of(name)(pair[1], lr=0.05, **options)]
    schedulers = [schedule(optimizer) for optimizer in optimizers]
    for step in range(10):
        advance(optimizers, pair, 1, start=step)
        for scheduler in schedulers:
            scheduler.step()
        assert_close(*pair)


def test_plateau():
    (p,) = parameters(shapes=((3,),))
    optimizer = ours.SGD([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(2):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        scheduler.step(1.0)
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), before - 0.1)


def test_hooks():
    (p,) = parameters(shapes=((3,),))
    p.grad = torch.ones_like(p)
    optimizer = ours.Adam([p])
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.step()
    assert calls == ["before", "after"]


def test_an_average_of_the_model():
    model = torch.nn.Linear(3, 2)
    optimizer = ours.SGD(model.parameters(), lr=0.5)
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        average.update_parameters(model)
    expected = model.bias.detach() + 0.5  # of the last three values, each less by 0.5 than the one before
    torch.testing.assert_close(average.module.bias.detach(), expected)


@each_peer
def test_they_are_pytorchs_classes_with_its_arguments(name):
    optimizer = ours_of(name)(parameters())
    assert isinstance(optimizer, theirs_of(name))
    assert optimizer.defaults == theirs_of(name)(parameters()).defaults
    assert repr(optimizer) == repr(theirs_of(name)(parameters()))


def network(seed):
    torch.manual_seed(seed)
    layers = []
    for channels in ((1, 8), (8, 8), (8, 16), (16, 16)):
        layers += [torch.nn.Conv2d(*channels, 3, stride=1 + (channels[0] == 8), padding=1), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.LazyLinear(4)).double()


@pytest.fixture
def one_thread():
    """Which small networks need no more than, and other processes cannot keep waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_network_of_four_convolutions_trains(memory_format, one_thread):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 12, 12, generator=generator, dtype=torch.float64)
    labels = (images.mean((1, 2, 3)) > 0).long() + 2 * (images.std((1, 2, 3)) > 1).long()
    losses = []
    for cls in (ours.AdamW, torch.optim.AdamW):
        model = network(0)
        model(images[:1])  # gives the last layer its size
        model.to(memory_format=memory_format)
        optimizer = cls(model.parameters(), lr=3e-3)
        losses.append([])
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)  # differences grow with the steps
    assert losses[0][-1] < 0.5 * losses[0][0]


# --- bad input --------------------------------------------------------------------------------------------------------


@each_peer
def test_pytorchs_own_errors(name, infos):
    info, database = infos[0][name], infos[1]
    for error in info.optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        params = parameters(dtype=torch.float32) if given.params is None else given.params
        assert error.error_on == database.OptimizerErrorEnum.CONSTRUCTION_ERROR
        expects = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
        with expects(error.error_type, match=error.error_regex):
            ours_of(name)(params, **given.kwargs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1}, "Invalid learning rate: -1"),
        ({"lr": math.nan}, "Invalid learning rate: nan"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ({"weight_decay": -1}, "Invalid weight_decay value: -1"),
    ],
)
def test_lions_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ours.Lion(parameters(), **arguments)


DTYPES = [torch.float16, torch.bfloat16, torch.complex64, torch.int64]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        *[(torch.zeros(3, dtype=d), TypeError, f"must be float32 or float64, got {str(d)[6:]}") for d in DTYPES],
        (torch.zeros(3, device="meta"), RuntimeError, "must be on the CPU, got one on 'meta'"),
        (sparse(torch.zeros(3)), ValueError, "must be dense, got the layout torch.sparse_coo"),
    ],
    ids=str,
)
def test_parameters_that_are_refused_by_name(bad, error, message):
    good = parameters(shapes=((2,),))[0]
    with pytest.raises(error, match=f"parameter 1 of group 0 {message}"):
        ours.Adam([good, bad])
    with pytest.raises(error, match=rf"parameter 1 of group 0 \('weight'\) {message}"):
        ours.Adam([("bias", good), ("weight", bad)])
    optimizer = ours.Adam([good])
    with pytest.raises(error, match=f"parameter 0 of group 1 {message}"):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1
    good.grad = torch.ones_like(good)
    optimizer.step()


@each_peer
@pytest.mark.parametrize("flag", ["capturable", "differentiable"])
def test_flags_for_graphs_are_refused(name, flag):
    if flag not in ours_of(name)(parameters()).defaults:
        with pytest.raises(TypeError, match=flag):
            ours_of(name)(parameters(), **{flag: True})
        return
    with pytest.raises(RuntimeError, match=f"{flag}=True is not supported by {name}"):
        ours_of(name)(parameters(), **{flag: True})
    with pytest.raises(RuntimeError, match=f"{flag}=True is not supported by {name}"):
        ours_of(name)([{"params": parameters(), flag: True}])


def a_sparse_gradient(params, optimizer):
    params[1].grad = sparse(params[1].detach())


def a_smaller_type(params, optimizer):
    params[1].grad = None
    params[1].data = params[1].data.bfloat16()
    params[1].grad = torch.zeros(3, dtype=torch.bfloat16)


def an_expanded_parameter(params, optimizer):
    params[1].data = torch.zeros(1, dtype=torch.float64).expand(3)


def shared_memory(params, optimizer):
    params[1].data = params[0].data[1, 1:]


def a_flag_for_graphs(params, optimizer):
    optimizer.param_groups[0]["capturable"] = True


def another_rule(params, optimizer):
    optimizer.param_groups[0]["amsgrad"] = True


def a_rate_that_is_no_number(params, optimizer):
    optimizer.param_groups[0]["lr"] = [1.0]


def a_state_of_another_shape(params, optimizer):
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(4)


def a_part_of_a_state(params, optimizer):
    del optimizer.state[params[1]]["step"]


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (a_sparse_gradient, RuntimeError, "Adam does not support sparse gradients, please consider SparseAdam instead"),
        (a_smaller_type, TypeError, "parameter 1 of group 0 must be float32 or float64, got bfloat16"),
        (
            an_expanded_parameter,
            RuntimeError,
            "more than one element of parameter 1 of group 0 refers to a single memory",
        ),
        (shared_memory, ValueError, "parameter 1 of group 0 must not share memory with parameter 0 of group 0"),
        (a_flag_for_graphs, RuntimeError, "capturable=True is not supported by Adam"),
        (another_rule, KeyError, "the state of parameter 0 of group 0 has no 'max_exp_avg_sq'"),
        (a_rate_that_is_no_number, TypeError, "float"),
        (a_state_of_another_shape, ValueError, "'exp_avg' in the state of parameter 1"),
        (a_part_of_a_state, KeyError, "the state of parameter 1 of group 0 has no 'step'"),
    ],
)
def test_a_step_that_fails_changes_nothing(damage, error, message):
    params = parameters(shapes=((4, 4), (3,), (2,)))
    optimizer = ours.Adam(params)
    advance([optimizer], [params, params], 2)
    damage(params, optimizer)
    kept = [params[0], params[2]]
    before = snapshot(optimizer, kept)
    version = params[0]._version
    with pytest.raises(error, match=message):
        optimizer.step()
    assert_unchanged(optimizer, kept, before)
    assert params[0]._version == version


def test_parameters_given_twice():
    (p,) = parameters(shapes=((3,),))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = ours.Adam([p, p])
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="parameter 1 of group 0 must not share memory with parameter 0 of group 0"):
        optimizer.step()


@pytest.mark.parametrize("name", [*PEERS, "Lion"])
def test_sparse_gradients_are_refused(name):
    (p,) = parameters(shapes=((3,),))
    p.grad = sparse(p.detach())
    optimizer = ours_of(name)([p])
    before = snapshot(optimizer, [p])
    with pytest.raises(RuntimeError, match=f"^{name} does not support sparse gradients"):
        optimizer.step()
    assert_unchanged(optimizer, [p], before)


def test_a_gradient_of_another_type():
    (p,) = parameters(shapes=((3,),))
    if not hasattr(p, "grad_dtype"):
        pytest.skip("this PyTorch gives gradients the type of their parameter")
    p.grad_dtype = None
    p.grad = torch.ones(3)
    message = r"the gradient of parameter 0 of group 0 must be a dense float64 tensor on the CPU, got .*, float32"
    with pytest.raises(RuntimeError, match=message):
        ours.Adam([p]).step()


def test_a_state_that_processes_would_share():
    with pytest.raises(NotImplementedError, match=r"use torch\.optim\.Adagrad"):
        ours.Adagrad(parameters()).share_memory()


def test_the_examples_in_the_docstrings():
    results = doctest.testmod(ours, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 60
    assert not results.failed
