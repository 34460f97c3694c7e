"""A step of the optimizers, in float32. Parameters of 4 kB and 400 kB fit in the cache, those of 40 MB do not.

Gradients do not decay. Otherwise the moments would become denormal numbers, with which processors are slow.
"""

import math

import numpy as np

from bench.common import ours, peer, ratio, seconds, stream, traffic

BYTES_A_PARAMETER = 28  # a step reads p, g, m and v, and writes p, m and v
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


def parameters_and_gradient(n):
    rng = np.random.default_rng(0)
    return rng.standard_normal(n).astype(np.float32), rng.standard_normal(n).astype(np.float32)


# --- Adam -------------------------------------------------------------------------------------------------------------


def our_step(n):
    p, g = parameters_and_gradient(n)
    optimizer = ours("Adam")(p)
    return lambda: optimizer.step(g)


def numpy_adam(p, g):
    """Return a step of Adam in NumPy, in place and without temporary arrays."""
    m, v, update, root = (np.zeros_like(p) for _ in range(4))
    t = 0

    def step():
        nonlocal t
        t += 1
        np.multiply(g, 1 - BETA1, out=update)
        np.multiply(m, BETA1, out=m)
        np.add(m, update, out=m)
        np.multiply(g, g, out=update)
        np.multiply(update, 1 - BETA2, out=update)
        np.multiply(v, BETA2, out=v)
        np.add(v, update, out=v)
        np.sqrt(v, out=root)
        np.multiply(root, 1 / math.sqrt(1 - BETA2**t), out=root)
        np.add(root, EPS, out=root)
        np.multiply(m, LR / (1 - BETA1**t), out=update)
        np.divide(update, root, out=update)
        np.subtract(p, update, out=p)

    return step


def numpy_step(n):
    return numpy_adam(*parameters_and_gradient(n))


def torch_step(n):
    """Return PyTorch's fastest step, the fused step of one tensor."""
    import torch

    p, g = map(torch.from_numpy, parameters_and_gradient(n))
    p.grad = g
    return torch.optim.Adam([p], fused=True).step


class Step:
    params = (1_000, 100_000, 10_000_000)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.step = our_step(n)

    def track_time(self, n):
        return seconds(self.step)

    track_time.unit = "seconds"

    def track_time_over_numpy(self, n):
        return ratio(self.step, numpy_step(n))

    track_time_over_numpy.unit = "x"


class StepOverTorch:
    params = (1_000, 100_000, 10_000_000)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.peer = peer(torch_step, n)
        self.step = our_step(n)

    def track_time_over_torch(self, n):
        return ratio(self.step, self.peer)

    track_time_over_torch.unit = "x"


class StepOverRoofline:
    """The step over a memory-bound loop, for the size that does not fit in the cache."""

    params = (10_000_000,)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.step = our_step(n)
        self.stream = stream(BYTES_A_PARAMETER * n)

    def track_time_over_roofline(self, n):
        return ratio(self.step, self.stream)

    track_time_over_roofline.unit = "x"


class StepOverKernel:
    """Overhead of Python in a small step: `Adam.step` over the compiled function that does the same."""

    params = (1_000,)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.step = our_step(n)
        kernel = ours("kernels").adam_step
        p, g = parameters_and_gradient(n)
        m, v = np.zeros_like(p), np.zeros_like(p)
        self.kernel = lambda: kernel(p, g, m, v, 1_000, LR, BETA1, BETA2, EPS)

    def track_time_over_kernel(self, n):
        return ratio(self.step, self.kernel)

    track_time_over_kernel.unit = "x"


# --- the family -------------------------------------------------------------------------------------------------------

FAMILY = {
    "SGD": ("SGD", {}),
    "SGD momentum": ("SGD", {"momentum": 0.9}),
    "SGD nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop centered momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {}),
    "Adadelta": ("Adadelta", {}),
    "Adam": ("Adam", {}),
    "Adam amsgrad": ("Adam", {"amsgrad": True}),
    "AdamW": ("AdamW", {}),
    "Adamax": ("Adamax", {}),
    "NAdam": ("NAdam", {}),
    "RAdam": ("RAdam", {}),
    "Lion": ("Lion", {}),
}


class FamilyStep:
    """Each optimizer over a loop with the same memory traffic: the cost of its arithmetic in the cache."""

    params = (tuple(FAMILY),)
    param_names = ("optimizer",)
    timeout = 300
    n = 100_000

    def setup(self, name):
        p, g = parameters_and_gradient(self.n)
        class_name, options = FAMILY[name]
        optimizer = ours(class_name)(p, **options)
        self.step = lambda: optimizer.step(g)
        self.traffic = traffic(self.n, len(optimizer.state))

    def track_time_over_traffic(self, name):
        return ratio(self.step, self.traffic)

    track_time_over_traffic.unit = "x"


# --- what is done in the same pass ------------------------------------------------------------------------------------

MAX_NORM, WEIGHT_DECAY, EMA_DECAY = 1.0, 1e-2, 0.999


def our_one_pass(n):
    """Return a step of AdamW with clipping, averaging and zeroing, preceded by writing a new gradient."""
    p, g = parameters_and_gradient(n)
    options = {"max_norm": MAX_NORM, "ema_decay": EMA_DECAY, "zero_grad": True}
    optimizer = ours("AdamW")(p, lr=LR, weight_decay=WEIGHT_DECAY, **options)

    def step():
        g.fill(1e-3)
        optimizer.step(g)

    return step


def numpy_passes(n):
    p, g = parameters_and_gradient(n)
    average, change, adam = p.copy(), np.empty_like(p), numpy_adam(p, g)

    def step():
        g.fill(1e-3)
        clip = MAX_NORM / (math.sqrt(np.dot(g, g)) + 1e-6)
        if clip < 1:
            np.multiply(g, clip, out=g)
        np.multiply(p, 1 - LR * WEIGHT_DECAY, out=p)
        adam()
        np.subtract(p, average, out=change)
        np.multiply(change, 1 - EMA_DECAY, out=change)
        np.add(average, change, out=average)
        g.fill(0)

    return step


def torch_passes(n):
    """Return PyTorch's fastest implementation: fused AdamW, and multi-tensor functions for the rest."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    p, g = map(torch.from_numpy, parameters_and_gradient(n))
    model = torch.nn.ParameterList([p])
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    model[0].grad = g

    def step():
        g.fill_(1e-3)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM, foreach=True)
        optimizer.step()
        average.update_parameters(model)
        optimizer.zero_grad(set_to_none=False)

    return step


class OnePass:
    params = (100_000, 10_000_000)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.step = our_one_pass(n)

    def track_time_over_numpy(self, n):
        return ratio(self.step, numpy_passes(n))

    track_time_over_numpy.unit = "x"


class OnePassOverTorch:
    params = (100_000, 10_000_000)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.peer = peer(torch_passes, n)
        self.step = our_one_pass(n)

    def track_time_over_torch(self, n):
        return ratio(self.step, self.peer)

    track_time_over_torch.unit = "x"


# --- many tensors -----------------------------------------------------------------------------------------------------


def tensors_and_gradients(count):
    p, g = parameters_and_gradient(1_000 * count)
    return [[part.copy() for part in np.split(array, count)] for array in (p, g)]


def torch_step_of_many(count):
    import torch

    params, grads = ([torch.from_numpy(array) for array in arrays] for arrays in tensors_and_gradients(count))
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    return torch.optim.Adam(params, fused=True).step


def our_step_of_many(count):
    params, grads = tensors_and_gradients(count)
    optimizer = ours("Adam")(params)
    return lambda: optimizer.step(grads)


def our_step_of_one(count):
    return our_step(1_000 * count)


class ManyTensors:
    """A thousand tensors of a thousand elements over a single array of the same size: the cost of separate arrays."""

    params = (1_000,)
    param_names = ("count",)
    timeout = 300

    def setup(self, count):
        self.step = our_step_of_many(count)

    def track_time_over_flat(self, count):
        return ratio(self.step, our_step_of_one(count))

    track_time_over_flat.unit = "x"

    def track_time_over_numpy(self, count):
        steps = [numpy_adam(p, g) for p, g in zip(*tensors_and_gradients(count), strict=True)]
        return ratio(self.step, lambda: [step() for step in steps])

    track_time_over_numpy.unit = "x"


class ManyTensorsOverTorch:
    params = (1_000,)
    param_names = ("count",)
    timeout = 300

    def setup(self, count):
        self.peer = peer(torch_step_of_many, count)
        self.step = our_step_of_many(count)

    def track_time_over_torch(self, count):
        return ratio(self.step, self.peer)

    track_time_over_torch.unit = "x"
