"""Steps of optimizers on a device, under Numba's simulator, beside those of the host and of the references."""

import numpy as np

from fastadam.cuda import allocation
from fastadam.cuda import launch as launch_module
from tests.helpers import naive
from tests.helpers.cuda_arrays import FakeDeviceArray
from tests.helpers.naive import assert_same_bits

FLOATS = [np.float32, np.float64]


N = 75  # two chunks of float32s and a part of one


STEPS = 3


def capture_everything(monkeypatch):
    """Let all streams look as if a graph was being captured on them."""
    for module in (allocation, launch_module):
        monkeypatch.setattr(module, "is_capturing", lambda stream: True)


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


SIZES = [40, 0, 5, 64, 33]  # arrays whose state on the host has no gaps, and which are chunks, parts of one, neither


BLOCKS = [1030, 0, 5, 512]  # the same of blocks of codes


def split(flat, sizes):
    return np.split(flat, np.cumsum(sizes)[:-1])


def gradients(n, t):
    """Of ordinary sizes, with zeros."""
    g = np.random.default_rng(t).standard_normal(n).astype(np.float32)
    g[::17] = 0
    return g


def on_both(of, sizes, shift=0, **options):
    """An optimizer on the device and one on the host, and the parameters of both."""
    parts = split(naive.start(sum(sizes), np.float32), sizes)
    there, here = [FakeDeviceArray(part, shift=shift) for part in parts], [part.copy() for part in parts]
    return of(there, **options), of(here, **options), there, here


def step_both(on_device, on_host, sizes, t, shift=0, rows=1, **options):
    grads = [split(gradients(sum(sizes), 10 * t + row), sizes) for row in range(rows)]
    there = [[FakeDeviceArray(part, shift=shift) for part in row] for row in grads]
    on_device.step(*there, **options)
    on_host.step(*grads, **options)
    return there


def assert_same_states(on_device, on_host):
    actual, expected = on_device.state_dict(), on_host.state_dict()
    assert set(actual) == set(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert_same_bits(actual[name], value)
        else:
            assert actual[name] == value, name


def assert_same(on_device, on_host, there, here):
    for actual, expected in zip(there, here, strict=True):
        assert_same_bits(actual.host, expected)
    assert_same_states(on_device, on_host)
