"""Adam and its family again, in plain NumPy, written from the papers and PyTorch's documentation: the tests' reference.

Every array keeps the dtype of the parameters. What depends on the step alone is computed in float64, then rounded once.
"""

import functools
import math

import numpy as np


class Adam:
    """Kingma & Ba 2015, algorithm 1, with the options of `torch.optim.Adam` and `AdamW`. `p` is replaced."""

    def __init__(
        self,
        p,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        *,
        decoupled_weight_decay=False,
        amsgrad=False,
        maximize=False,
        epsilon_hat=False,
    ):
        self.p = np.array(p)
        self.m, self.v, self.v_max = np.zeros_like(self.p), np.zeros_like(self.p), np.zeros_like(self.p)
        self.t = 0
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.decoupled_weight_decay, self.amsgrad = decoupled_weight_decay, amsgrad
        self.maximize, self.epsilon_hat = maximize, epsilon_hat

    def step(self, g):
        with np.errstate(all="ignore"):
            self._step(np.asarray(g))

    def _step(self, g):
        self.t += 1
        beta1, beta2 = self.betas
        correction1, correction2 = 1.0 - beta1**self.t, 1.0 - beta2**self.t
        if self.epsilon_hat:
            alpha, root_factor = self.lr * math.sqrt(correction2) / correction1, 1.0
        else:
            alpha, root_factor = self.lr / correction1, 1.0 / math.sqrt(correction2)
        rounded = self.p.dtype.type

        if self.maximize:
            g = -g
        if self.weight_decay and self.decoupled_weight_decay:
            self.p = self.p * rounded(1.0 - self.lr * self.weight_decay)
        elif self.weight_decay:
            g = g + rounded(self.weight_decay) * self.p
        self.m = rounded(beta1) * self.m + rounded(1.0 - beta1) * g
        self.v = rounded(beta2) * self.v + rounded(1.0 - beta2) * (g * g)
        self.v_max = np.maximum(self.v_max, self.v)
        root = np.sqrt(self.v_max if self.amsgrad else self.v)
        self.p = self.p - rounded(alpha) * self.m / (root * rounded(root_factor) + rounded(self.eps))


def start(n, dtype):
    """Parameters to start from, between 1 and 2 and so far from zero."""
    return np.random.default_rng(n).uniform(1, 2, n).astype(dtype)


@functools.cache
def gradients(n, dtype, count=5):
    """A cycle of gradients of all sizes, zeros and denormal squares among them; read-only."""
    rng = np.random.default_rng(n + 1)
    cycle = (rng.standard_normal((count, n)) * 10.0 ** rng.integers(-22, 3, (count, n))).astype(dtype)
    cycle[:, ::17] = 0
    cycle.flags.writeable = False
    return cycle


@functools.cache
def trained(n, dtype, steps=50, **settings):
    """The reference after `steps` steps on that cycle, from that start."""
    reference = Adam(start(n, dtype), **settings)
    cycle = gradients(n, dtype)
    for t in range(steps):
        reference.step(cycle[t % len(cycle)])
    return reference


def assert_same_bits(actual, expected):
    """Equal bit for bit, signs of zero included; any NaN equals any NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    bits = f"u{actual.itemsize}"
    different = (actual.view(bits) != expected.view(bits)) & ~(np.isnan(actual) & np.isnan(expected))
    where = np.argwhere(different)[:3].tolist()
    assert not different.any(), f"{different.sum()} of {actual.size} elements differ, first at {where}"
