"""CUDA kernels and the optimizers on a device, under Numba's simulator, bit for bit. See `make test-cuda`."""

import copy
import math
import os
from itertools import product

import numpy as np
import pytest

from tests.helpers import naive
from tests.helpers.naive import assert_same_bits
from tests.helpers.protocols import public_names

pytest.importorskip("numba_cuda")
if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip("needs NUMBA_ENABLE_CUDASIM=1", allow_module_level=True)

from numba import cuda

from fastadam import kernels as host_kernels
from fastadam import optimizer
from fastadam.cuda import arrays
from fastadam.cuda import kernels as device_kernels
from fastadam.cuda import launch as launch_module
from fastadam.cuda import stepper as stepper_module
from fastadam.cuda.chunk import Pass
from fastadam.cuda.jit import THREADS, formula
from fastadam.cuda.stepper import DeviceStepper
from fastadam.formulas import rules, storage
from fastadam.formulas.step import StepSpec
from fastadam.formulas.stepper import LocatedArrays, Stepper
from fastadam.formulas.storage import CODE_BLOCK
from fastadam.optimizers.adam import Adam, AdamW, NAdam
from fastadam.optimizers.sgd import SGD
from tests.helpers.cuda_arrays import FakeDeviceArray, RequiresGrad
from tests.helpers.family import EVERYTHING, GRID

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does

FLOATS = [np.float32, np.float64]
N = 75  # two chunks of float32s and a part of one
STEPS = 3


def on_device(array, **options):
    return FakeDeviceArray(array, **options)


def steps(of, gradients, count=STEPS, **options):
    for t in range(count):
        of.step(on_device(gradients[t % len(gradients)]), **options)


def host_state(of):
    names = [name for name in of.state if name != "ema"]
    saved = of.state_dict()
    return [saved[name] for name in names]


def reference_state(reference):
    if isinstance(reference, naive.AdamW):
        return list(reference.state.values())
    if isinstance(reference, naive.Adam):
        return [reference.m, reference.v, reference.v_max][: 3 if reference.amsgrad else 2]
    return list(reference.state.values())


def assert_equals(of, params, reference):
    assert_same_bits(params, reference.p)
    for actual, expected in zip(host_state(of), reference_state(reference), strict=True):
        assert_same_bits(actual, expected)


ADAM = [
    (
        Adam,
        dict(
            zip(("amsgrad", "epsilon_hat", "weight_decay", "decoupled_weight_decay", "maximize"), values, strict=True)
        ),
    )
    for values in product([False, True], [False, True], [0.0, 0.1], [False, True], [False, True])
]


@pytest.mark.parametrize(("of", "options"), GRID + ADAM, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_rule_and_decay_gives_the_bits_of_the_reference(of, options, dtype):
    p, gradients = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made = of(p, **options)
    count = 7 if of.__name__ == "RAdam" else STEPS  # it adapts from its sixth step on
    steps(made, gradients, count)
    reference = naive.trained(N, dtype, count, getattr(naive, of.__name__), **options)
    assert isinstance(made.stepper, DeviceStepper)
    assert made.t == count
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 65, 200])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("gradient_shift", [0, 3])
def test_any_size_and_alignment_gives_the_same_bits(n, shift, gradient_shift):
    p, cycle = on_device(naive.start(n, np.float32), shift=shift), naive.gradients(n, np.float32)
    made = AdamW(p, weight_decay=0.1)
    for t in range(STEPS):
        made.step(on_device(cycle[t], shift=gradient_shift))
    assert_equals(made, p.host, naive.trained(n, np.float32, STEPS, naive.AdamW, weight_decay=0.1))
    assert not p.memory[:shift].any()


def test_a_chunk_is_what_the_tests_believe():
    assert Pass(StepSpec(rules.ADAM)).chunk == 8 * THREADS == 32
    assert Pass(StepSpec(rules.ADAM), "float64").chunk == 4 * THREADS
    assert Pass(StepSpec(rules.ADAM, state="uint8")).chunk == CODE_BLOCK


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [list, dict])
def test_many_arrays_are_one(dtype, kind):
    sizes = [0, 5, 64, 1, 33, 40, 0]
    parts = np.split(naive.start(sum(sizes), dtype), np.cumsum(sizes)[:-1])
    arrays = {f"part{k}": on_device(part) for k, part in enumerate(parts)}
    made = Adam(arrays if kind is dict else list(arrays.values()), amsgrad=True)
    for t in range(STEPS):
        grads = np.split(naive.gradients(sum(sizes), dtype)[t], np.cumsum(sizes)[:-1])
        given = {f"part{k}": on_device(part) for k, part in reversed(list(enumerate(grads)))}
        made.step(given if kind is dict else list(reversed(given.values())))
    params = np.concatenate([array.host for array in arrays.values()])
    assert_equals(made, params, naive.trained(sum(sizes), dtype, STEPS, naive.Adam, amsgrad=True))


@pytest.mark.parametrize("shape", [(), (3, 25), (1, 75)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_shapes_and_orders(shape, order):
    n = math.prod(shape)
    start, gradient = naive.start(n, np.float32).reshape(shape), naive.gradients(n, np.float32)[0].reshape(shape)
    p = on_device(start, order=order)
    SGD(p, lr=0.5).step(on_device(gradient, order=order))
    assert_same_bits(p.host, start - np.float32(0.5) * gradient)


def test_parameters_that_require_gradients():
    p, g = on_device(np.ones(3)), on_device(np.ones(3))
    SGD([RequiresGrad(p)], lr=1.0).step([g])
    assert not p.host.any()


# What is done in the same pass


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_are_divided_by_their_scale_and_bounded(dtype):
    p, cycle = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made, reference = Adam(p, clip_value=0.5), naive.Adam(naive.start(N, dtype))
    for t, scale in enumerate([1024.0, 8.0, 8.0, None]):
        factor = 1.0 if scale is None else scale
        made.step(on_device(cycle[t] * dtype(factor)), grad_scale=scale)
        reference.step(np.clip(cycle[t] * dtype(factor) * dtype(1.0 / factor), dtype(-0.5), dtype(0.5)))
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shift", [0, 1])
def test_clipping_by_norm(dtype, shift):
    p, rng = on_device(naive.start(1100, dtype)), np.random.default_rng(0)
    made, reference = Adam(p, max_norm=2.0), naive.Adam(naive.start(1100, dtype))
    for size in (1.0, 1e-3, 30.0):
        g = (rng.standard_normal(1100) * size).astype(dtype)
        made.step(on_device(g, shift=shift))
        clip = 2.0 / (math.sqrt(math.fsum(np.square(g, dtype=np.float64))) + 1e-6)
        reference.step(g if clip > 1.0 else dtype(clip) * g)
    np.testing.assert_allclose(p.host, reference.p, rtol=4 * np.finfo(dtype).eps)


def test_a_norm_whose_squares_overflow():
    p = on_device(np.zeros(200))
    g = np.full(200, 1e200)
    SGD(p, lr=1.0, max_norm=1.0).step(on_device(g))
    np.testing.assert_allclose(p.host, -g / np.linalg.norm(g / 1e200) / 1e200)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("where", [0, 40, 74])
def test_steps_that_are_not_finite_are_skipped(bad, dtype, where):
    p, cycle = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made, spoilt = NAdam(p, on_nonfinite="skip", zero_grad=True), np.array(cycle[0])
    spoilt[where] = bad
    for g in (cycle[0], spoilt, cycle[1], spoilt, cycle[2]):
        given = on_device(g)
        made.step(given)
        assert given.host.any() == (g is spoilt)
    assert (made.t, made.skipped_steps) == (3, 2)
    assert_equals(made, p.host, naive.trained(N, dtype, 3, naive.NAdam))


def test_a_step_that_is_not_finite_is_refused():
    p = on_device(naive.start(N, np.float32))
    made, g = Adam(p, on_nonfinite="raise"), np.ones(N, np.float32)
    made.step(on_device(g))
    before = p.host.copy(), host_state(made)
    g[70] = np.nan
    with pytest.raises(FloatingPointError, match="grads must be finite, got infinity or NaN; nothing was changed"):
        made.step(on_device(g))
    assert (made.t, made.skipped_steps) == (1, 0)
    assert_same_bits(p.host, before[0])
    for now, then in zip(host_state(made), before[1], strict=True):
        assert_same_bits(now, then)
    g[70] = 1.0
    made.step(on_device(g))
    assert made.t == 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_average_of_the_parameters(dtype):
    p, cycle = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made, reference = SGD(p, lr=0.1, momentum=0.9, ema_decay=0.75), naive.SGD(naive.start(N, dtype), 0.1, 0.9)
    average = naive.start(N, dtype)
    for t in range(STEPS):
        made.step(on_device(cycle[t]))
        reference.step(cycle[t])
        average = average + dtype(0.25) * (reference.p - average)
    assert_equals(made, p.host, reference)
    assert_same_bits(made.state_dict()["ema"], average)


@pytest.mark.parametrize("shift", [0, 2])
def test_the_gradient_is_zeroed(shift):
    p = on_device(naive.start(N, np.float32))
    made = Adam(p, zero_grad=True)
    for g in naive.gradients(N, np.float32)[:STEPS]:
        given = on_device(g, shift=shift)
        made.step(given)
        assert not given.host.any()
    assert_equals(made, p.host, naive.trained(N, np.float32, STEPS))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", [{}, {"zero_grad": True, "max_norm": 1e9}])
def test_several_gradients_are_summed(shift, dtype, options):
    p, rng = on_device(naive.start(N, dtype)), np.random.default_rng(1)
    made, reference = Adam(p, **options), naive.Adam(naive.start(N, dtype))
    for rows in (3, 1, 4, 3):
        grads = rng.standard_normal((rows, N)).astype(dtype)
        made.step(*[on_device(g, shift=shift) for g in grads])
        total = grads[0]
        for g in grads[1:]:
            total = total + g
        reference.step(total)
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
@pytest.mark.parametrize("shift", [0, 1])
def test_copies_in_two_bytes(form, shift):
    sizes = [N, 0, 9]
    parts = np.split(naive.start(sum(sizes), np.float32) * np.float32(1e3), np.cumsum(sizes)[:-1])
    params = {name: on_device(part, shift=shift) for name, part in zip("abc", parts, strict=True)}
    made = Adam(params, lr=10.0, copy_dtype=form)

    def assert_rounded():
        for name, p in params.items():
            wide = p.host.view(np.uint32).astype(np.uint64)
            bits = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
            copied = made.copies[name].copy_to_host()
            assert_same_bits(copied, p.host.astype(np.float16) if form == "float16" else bits)

    assert_rounded()
    for g in naive.gradients(sum(sizes), np.float32)[:STEPS]:
        grads = np.split(g, np.cumsum(sizes)[:-1])
        made.step({name: on_device(part) for name, part in zip("abc", grads, strict=True)})
        assert_rounded()
    assert Adam(on_device(np.ones(3))).copies is None


@pytest.mark.parametrize(
    ("value", "bits"), [(1.0, 0x3F80), (-2.0, 0xC000), (np.inf, 0x7F80), (3.4e38, 0x7F80), (0.0, 0)]
)
def test_rounding_to_bfloat16(value, bits):
    to_bfloat16 = formula(storage.to_bfloat16)
    assert to_bfloat16(np.float32(value)) == bits
    assert to_bfloat16(np.float32(np.nan)) & 0x7FFF > 0x7F80


# Settings, and what the device knows


def test_settings_change_between_steps():
    p, cycle = on_device(naive.start(N, np.float32)), naive.gradients(N, np.float32)
    made, reference = Adam(p), naive.Adam(naive.start(N, np.float32))
    for t, lr in enumerate([1e-3, 1e-1, 1e-2]):
        made.lr = reference.lr = lr
        made.weight_decay = reference.weight_decay = 0.1 * t
        made.step(on_device(cycle[t]))
        reference.step(cycle[t])
    assert_equals(made, p.host, reference)


def test_other_numbers_compile_no_other_kernels():
    made, g = Adam(on_device(np.ones(3))), on_device(np.ones(3))
    for lr in (0.5, 0.25, 0.125):
        made.lr = lr
        made.step(g)
    assert len(made.stepper._memory._compiled) == 1


class Graph:
    """A captured graph launches the same kernels with the same arguments, and nothing else of a step runs."""

    def __init__(self, made, monkeypatch):
        self._launches, self._memory, self._patch = [], made.stepper._memory, monkeypatch

    def capture(self, step):
        launch = self._memory._launch
        with self._patch.context() as patch:
            patch.setattr(launch_module, "is_capturing", lambda stream: True)
            patch.setattr(self._memory, "_launch", lambda *arguments: self._launches.append(arguments))
            step()
        self._launch = launch

    def replay(self):
        for arguments in self._launches:
            self._launch(*arguments)


def test_a_replayed_step_goes_on_with_what_the_device_knows(monkeypatch):
    p, g = on_device(naive.start(N, np.float32)), on_device(naive.gradients(N, np.float32)[0])
    made, reference = NAdam(p), naive.NAdam(naive.start(N, np.float32))
    made.step(g)
    reference.step(g.host)
    graph = Graph(made, monkeypatch)
    graph.capture(lambda: made.step(g))
    for lr in (2e-3, 1e-1, 1e-3):
        made.lr = reference.lr = lr
        graph.replay()
        reference.step(g.host)
    assert made.t == 4
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("options", [{}, {"on_nonfinite": "skip"}])
def test_a_graph_keeps_its_gradients_whatever_is_stepped_beside_it(monkeypatch, options):
    cycle = naive.gradients(N, np.float32)
    p, grads = on_device(naive.start(N, np.float32)), [on_device(g) for g in cycle]
    made, reference = Adam(p, **options), naive.Adam(naive.start(N, np.float32))
    made.step(grads[0])
    graph = Graph(made, monkeypatch)
    graph.capture(lambda: made.step(grads[0]))
    made.step(grads[1])
    graph.replay()
    made.step(grads[2])
    graph.replay()
    for k in (0, 1, 0, 2, 0):
        reference.step(cycle[k])
    assert_equals(made, p.host, reference)


def test_groups_have_their_own_settings():
    sizes, dtype = [40, 33, 5], np.float32
    parts = np.split(naive.start(sum(sizes), dtype), np.cumsum(sizes)[:-1])
    arrays = {name: on_device(part) for name, part in zip("abc", parts, strict=True)}
    groups = {"slow": {"params": ["b"], "lr": 1e-4, "betas": (0.8, 0.99)}, "still": {"params": ["c"], "frozen": True}}
    made = NAdam(arrays, groups=groups)
    references = [naive.NAdam(parts[0]), naive.NAdam(parts[1], lr=1e-4, betas=(0.8, 0.99))]
    for g in naive.gradients(sum(sizes), dtype)[:STEPS]:
        grads = np.split(g, np.cumsum(sizes)[:-1])
        made.step({name: on_device(part) for name, part in zip("abc", grads, strict=True)})
        for reference, part in zip(references, grads, strict=False):
            reference.step(part)
    for name, reference in zip("ab", references, strict=False):
        assert_same_bits(arrays[name].host, reference.p)
    assert_same_bits(arrays["c"].host, parts[2])
    made.set_group("still", frozen=False)
    made.step({name: on_device(np.ones(size, dtype)) for name, size in zip("abc", sizes, strict=True)})
    assert (arrays["c"].host != parts[2]).all()


@pytest.mark.parametrize(
    ("of", "options"), list(EVERYTHING.items()), ids=lambda value: getattr(value, "__name__", None)
)
def test_host_and_device_go_on_from_each_others_state(of, options):
    start, cycle = naive.start(N, np.float32), naive.gradients(N, np.float32)
    p = on_device(start)
    there, here_p = of(p, **options, ema_decay=0.9), start.copy()
    here = of(here_p, **options, ema_decay=0.9)
    steps(there, cycle)
    here.load_state_dict(there.state_dict())
    here_p[:] = p.host
    back_p = on_device(p.host)
    back = of(back_p, **options, ema_decay=0.9)
    back.load_state_dict(here.state_dict())
    for made, params in ((there, p), (back, back_p)):
        made.step(on_device(cycle[3]))
        made.step(on_device(cycle[4]))
        assert made.t == 5
        assert params is not None
    for g in cycle[3:5]:
        here.step(np.array(g))
    assert_same_bits(p.host, here_p)
    assert_same_bits(back_p.host, here_p)
    for name, value in here.state_dict().items():
        if isinstance(value, np.ndarray):
            assert_same_bits(there.state_dict()[name], value)
            assert_same_bits(back.state_dict()[name], value)
        else:
            assert back.state_dict()[name] == value


def test_a_state_that_does_not_fit_changes_nothing():
    made = Adam(on_device(np.ones(5)))
    made.step(on_device(np.ones(5)))
    saved = made.state_dict()
    with pytest.raises(ValueError, match=r"state\['v'\] must have shape"):
        made.load_state_dict(saved | {"v": np.ones(6), "t": 7})
    assert made.t == 1
    assert_same_bits(made.state_dict()["v"], saved["v"])


def test_a_rule_of_the_users_own():
    def bounded(p, g, buffer, lr, bound):
        buffer = 0.5 * buffer + g
        return p - min(max(lr * buffer, -bound), bound), buffer

    p = on_device(np.array([100.0, -1.0, 0.25]))
    made = optimizer(bounded, state=["buffer"], lr=0.5, bound=1.0)(p)
    made.step(on_device(np.array([10.0, -10.0, 0.5])))
    assert_same_bits(p.host, np.array([99.0, 0.0, 0.0]))


def test_an_optimizer_on_a_device_is_of_the_same_class():
    made = Adam(on_device(np.ones(3)), lr=0.5)
    assert type(made) is Adam
    assert all(hasattr(made.stepper, name) for name in public_names(Stepper))
    assert all(hasattr(made.stepper.arrays, name) for name in public_names(LocatedArrays))
    assert repr(made).startswith("Adam(3 float64 parameters, lr=0.5")
    assert set(made.state) == set(made.moments) == {"m", "v"}
    assert made.params.host.shape == (3,)
    assert type(Adam(np.ones(3))) is Adam


# Bad input


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([on_device(np.ones(3)), np.ones(3)], TypeError, r"params\[1\] must lie on a CUDA device.*got numpy.ndarray"),
        ([on_device(np.ones(3)), 4], TypeError, r"params\[1\] must lie on a CUDA device.*got int"),
        ({"a": on_device(np.ones(3)), "b": on_device(np.ones(3), device=1)}, ValueError, r"params\['b'\].*device"),
        (
            on_device(np.ones(3, np.int32)),
            TypeError,
            r"params must be float32 or float64 \(or float16 or bfloat16\), got int32",
        ),
        (
            [on_device(np.ones(3, np.float16)), on_device(np.ones(3, np.float32))],
            TypeError,
            "must have the dtype of the",
        ),
        ([on_device(np.ones(3)), on_device(np.ones(3, np.float32))], TypeError, "must have the dtype of the other"),
        (on_device(np.ones(3), read_only=True), ValueError, "params must be writeable, got a read-only array"),
        (on_device(np.ones(6)).strided(), ValueError, "params must be contiguous"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        Adam(params)


def test_parameters_off_their_own_size():
    p = on_device(np.ones(4))
    p.host = p.memory.view(np.uint8)[4:28].view(np.float64)
    with pytest.raises(ValueError, match="params must begin at a multiple of 8 bytes"):
        Adam(p)


def test_overlapping_parameters():
    p = on_device(np.ones(6))
    q = on_device(np.ones(3))
    q.host = p.host[2:5]
    with pytest.raises(ValueError, match=r"params\[1\] must not overlap params\[0\] in memory"):
        Adam([p, q])


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (np.ones(3), TypeError, "grads must lie on a CUDA device"),
        (on_device(np.ones(3, np.float32)), TypeError, "grads must have the dtype of params, float64, got float32"),
        (on_device(np.ones(4)), ValueError, r"grads must have the shape \(3,\) of params, got \(4,\)"),
        (on_device(np.ones(3), device=1), ValueError, "grads must lie on the device of params, 0, got 1"),
        (on_device(np.ones(6)).strided(), ValueError, "grads must have the memory order of params"),
        ([on_device(np.ones(3))], TypeError, "grads must have the structure of params"),
        (None, TypeError, "grads must lie on a CUDA device"),
    ],
)
def test_bad_gradients_change_nothing(grads, error, message):
    p = on_device(np.ones(3))
    made = Adam(p)
    with pytest.raises(error, match=message):
        made.step(grads)
    assert made.t == 0
    assert (p.host == 1).all()


def test_gradients_that_are_the_parameters_or_cannot_be_zeroed():
    p = on_device(np.ones(3))
    with pytest.raises(ValueError, match="grads must not share memory with params"):
        Adam(p).step(p)
    with pytest.raises(ValueError, match="grads must be writeable to be zeroed"):
        Adam(p, zero_grad=True).step(on_device(np.ones(3), read_only=True))
    with pytest.raises(TypeError, match="step needs at least one argument"):
        Adam(p).step()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scales(scale):
    with pytest.raises(ValueError, match="grad_scale must be"):
        Adam(on_device(np.ones(3))).step(on_device(np.ones(3)), grad_scale=scale)


def test_device_gradients_for_host_parameters():
    with pytest.raises(TypeError, match="grads must be a NumPy array"):
        Adam(np.ones(3)).step(on_device(np.ones(3)))


def test_it_is_neither_pickled_nor_copied():
    with pytest.raises(TypeError, match="cannot be pickled or copied: save its state_dict"):
        copy.deepcopy(Adam(on_device(np.ones(3))))


@pytest.fixture
def full_device(monkeypatch):
    from numba import cuda

    def device_array(*arguments, **options):
        raise RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(cuda, "device_array", device_array)


@pytest.mark.usefixtures("full_device")
def test_a_full_device():
    with pytest.raises(
        MemoryError, match="the optimizer's states need 256 bytes on the CUDA device, more than are free"
    ):
        Adam(on_device(np.ones(3)))


def test_no_device(monkeypatch):
    from numba import cuda

    monkeypatch.setattr(cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"no CUDA device can be used.*needs an NVIDIA GPU and its driver"):
        Adam(on_device(np.ones(3)))


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}])
def test_nothing_is_written_while_a_graph_is_captured(monkeypatch, options):
    p, g = on_device(np.ones(3)), on_device(np.ones(3))
    made, fresh = (Adam(p, **options) for _ in range(2))
    made.step(g)
    monkeypatch.setattr(launch_module, "is_capturing", lambda stream: True)
    made.step(g)
    before = "take one step with the same arrays and settings before the capture"
    with pytest.raises(RuntimeError, match=f"the gradients changed while a CUDA graph is captured.*{before}"):
        made.step(on_device(np.ones(3)))
    with pytest.raises(RuntimeError, match=before):
        made.step(g, g)
    with pytest.raises(RuntimeError, match=before):
        fresh.step(g)


def test_settings_that_change_just_before_a_capture(monkeypatch):
    made, g = Adam(on_device(np.ones(3))), on_device(np.ones(3))
    made.step(g)
    made.lr = 0.5
    monkeypatch.setattr(launch_module, "is_capturing", lambda stream: True)
    with pytest.raises(
        RuntimeError, match=r"the settings or .* changed while a CUDA graph is captured, or just before"
    ):
        made.step(g)
    monkeypatch.undo()
    made.step(g)
    assert made.t == 2


def test_a_graph_cannot_wait(monkeypatch):
    made, g = Adam(on_device(np.ones(3)), on_nonfinite="raise"), on_device(np.ones(3))
    made.step(g)
    monkeypatch.setattr(launch_module, "is_capturing", lambda stream: True)
    with pytest.raises(RuntimeError, match='on_nonfinite="raise" waits for the device'):
        made.step(g)
    assert made.t == 1


# Streams


@pytest.mark.parametrize("stream", ["main", 1.5, True, object()])
def test_what_is_no_stream(stream):
    made = Adam(on_device(np.ones(3)))
    with pytest.raises(TypeError, match="stream must be a stream of Numba, CuPy or PyTorch, or its handle, got"):
        made.step(on_device(np.ones(3)), stream=stream)
    assert made.t == 0


@pytest.mark.parametrize(
    ("launched_on", "streams", "waited_for"),
    [
        (0, [None, None], []),
        (0, [1, 1], []),
        (1, [0, 1, None], []),
        (70, [70, None, 70], []),
        (70, [1, 70, 90], [1, 90]),
        (0, [90, 1, 90], [90]),
    ],
)
def test_a_launch_waits_for_the_streams_of_all_gradients(monkeypatch, launched_on, streams, waited_for):
    """Of `__cuda_array_interface__`, version 3: None asks for nothing, 1 is the default stream."""
    monkeypatch.setattr(arrays, "SIMULATED", False)
    monkeypatch.setattr(arrays, "_external_stream", lambda handle: handle)
    described = [arrays.described("g", on_device(np.ones(3), stream=stream)) for stream in streams]
    assert arrays.other_streams(launched_on, described) == [0 if handle == 1 else handle for handle in waited_for]
    assert arrays.stream_of(None, described) in {0, *(stream or 0 for stream in streams)}


def test_a_launch_on_another_stream_waits_by_events(monkeypatch):
    waited = []

    class Event:
        def record(self, stream):
            self.recorded = stream

        def wait(self, stream):
            waited.append((self.recorded, stream))

    monkeypatch.setattr(stepper_module, "other_streams", lambda launched_on, arrays: [70, 90])
    monkeypatch.setattr(stepper_module.cuda, "event", lambda timing: Event())
    made = Adam(on_device(np.ones(3)))
    made.step(on_device(np.ones(3)))
    assert waited == [(70, 0), (90, 0)]
    monkeypatch.setattr(stepper_module, "is_capturing", lambda stream: True)  # a capture may wait for nothing outside
    made.step(on_device(np.ones(3)))
    assert len(waited) == 2


def test_what_dlpack_lends_is_kept_until_the_step_is_done_with_it(monkeypatch):
    done = []

    class Event:
        def record(self, stream):
            pass

        def query(self):
            return bool(done)

    class Lender:  # nothing but DLPack
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return 2, 0

    monkeypatch.setattr(arrays, "_from_dlpack", lambda lender: FakeDeviceArray(lender.array))
    monkeypatch.setattr(stepper_module.cuda, "event", lambda timing: Event())
    p = on_device(np.ones(3))
    made = SGD(p, lr=1.0)
    made.step(Lender(np.full(3, 0.25)))
    made.step(Lender(np.full(3, 0.25)))
    assert len(made.stepper._held) == 2
    done.append(True)
    made.step(on_device(np.full(3, 0.5)))
    assert not made.stepper._held
    assert not p.host.any()


# The functions for kernels of one's own


def published():
    """Each rule that has its functions, by name."""
    found = {rule.name: rule for rule in vars(rules).values() if isinstance(rule, rules.Rule)}
    return [rule for name, rule in found.items() if f"{name}_update" in device_kernels.__all__]


@pytest.mark.parametrize("rule", published(), ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_functions_for_kernels_do_what_the_kernels_on_the_host_do(rule, dtype):
    scalars, update = (getattr(device_kernels, f"{rule.name}_{name}") for name in ("scalars", "update"))
    hyper = {name: 0.25 + 0.125 * k for k, name in enumerate(rule.hyper)}
    rng, states = np.random.default_rng(0), len(rule.states)
    arrays = [rng.uniform(0.5, 1.0, 9).astype(dtype) for _ in range(2 + states)]
    expected = [array.copy() for array in arrays]
    host = getattr(host_kernels, f"{rule.name}_step_serial")

    @cuda.jit
    def step(p, g, state, t):
        numbers = scalars(p, t, *hyper.values())
        for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
            update(i, p, g, *state, numbers)

    there = [cuda.to_device(array) for array in arrays]
    for t in (1, 2, 3):
        step[2, 3](there[0], there[1], tuple(there[2:]), t)
        host(*expected, t, *hyper.values())
    for actual, wanted in zip(there, expected, strict=True):
        assert_same_bits(actual.copy_to_host(), wanted)


def test_every_rule_with_kernels_on_the_host_has_functions_on_the_device():
    names = {name.removesuffix("_step") for name in host_kernels.__all__ if name.endswith("_step")}
    assert {rule.name for rule in published()} == names
    assert len(device_kernels.__all__) == 2 * len(names)
