"""One step of Adam over a flat float32 array: 4 kB and 400 kB lie in cache, 40 MB in memory."""

import numpy as np

import fastadam
from bench.common import ratio, seconds, stream

BYTES_A_PARAMETER = 28  # a step reads p, g, m and v, and writes p, m and v


def parameters_and_gradient(n):
    # The gradient stays, so that the moments stand at its size and never fade into denormal numbers.
    rng = np.random.default_rng(0)
    return rng.standard_normal(n).astype(np.float32), rng.standard_normal(n).astype(np.float32)


def our_step(n):
    p, g = parameters_and_gradient(n)
    optimizer = fastadam.Adam(p)
    return lambda: optimizer.step(g)


def numpy_step(n):
    """The same update in NumPy, in place and with no temporary array."""
    p, g = parameters_and_gradient(n)
    m, v, update, root = (np.zeros_like(p) for _ in range(4))
    lr, beta1, beta2, eps = 1e-3, 0.9, 0.999, 1e-8
    t = 0

    def step():
        nonlocal t
        t += 1
        np.multiply(g, 1 - beta1, out=update)
        np.multiply(m, beta1, out=m)
        np.add(m, update, out=m)
        np.multiply(g, g, out=update)
        np.multiply(update, 1 - beta2, out=update)
        np.multiply(v, beta2, out=v)
        np.add(v, update, out=v)
        np.sqrt(v, out=root)
        np.multiply(root, 1 / np.sqrt(1 - beta2**t), out=root, casting="same_kind")
        np.add(root, eps, out=root)
        np.multiply(m, lr / (1 - beta1**t), out=update)
        np.divide(update, root, out=update)
        np.subtract(p, update, out=p)

    return step


def torch_step(n):
    """PyTorch's fastest: the fused step of one tensor."""
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
        try:
            self.peer = torch_step(n)
        except ImportError:
            raise NotImplementedError("PyTorch is not installed") from None
        self.step = our_step(n)

    def track_time_over_torch(self, n):
        return ratio(self.step, self.peer)

    track_time_over_torch.unit = "x"


class StepOverRoofline:
    """Of the size that lies in memory alone: in cache, bandwidth is not the limit."""

    params = (10_000_000,)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.step = our_step(n)
        self.stream = stream(BYTES_A_PARAMETER * n)

    def track_time_over_roofline(self, n):
        return ratio(self.step, self.stream)

    track_time_over_roofline.unit = "x"
