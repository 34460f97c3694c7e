"""Adam and its family again, in plain NumPy, written from the papers and PyTorch's documentation: the tests' reference.

Every array keeps the dtype of the parameters. What depends on the step alone is computed in float64, then rounded once.
"""

import functools
import math
from dataclasses import KW_ONLY, dataclass

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

    @property
    def state(self):
        return {"m": self.m, "v": self.v} | ({"v_max": self.v_max} if self.amsgrad else {})

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


class AdamW(Adam):
    """Loshchilov & Hutter 2019 with the defaults of `torch.optim.AdamW`."""

    def __init__(self, p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False):
        options = {"decoupled_weight_decay": True, "amsgrad": amsgrad, "maximize": maximize}
        super().__init__(p, lr, betas, eps, weight_decay, **options)


class _Rule:
    """Base of the rules below: a step prepares the gradient, and `change` gives what to subtract from `p`.

    Each is named, and names its arguments and its state, as in `torch.optim`.
    """

    names = ()
    decoupled_weight_decay = False

    def __post_init__(self):
        self.p = np.array(self.p)
        self.state = {name: np.zeros_like(self.p) for name in self.names}
        self.t = 0

    def step(self, g):
        with np.errstate(all="ignore"):
            self._step(np.asarray(g), self.p.dtype.type)

    def _step(self, g, rounded):
        self.t += 1
        if self.maximize:
            g = -g
        if self.weight_decay and self.decoupled_weight_decay:
            self.p = self.p * rounded(1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            g = g + rounded(self.weight_decay) * self.p
        for part in self.change(g, self.state, rounded):
            self.p = self.p - part

    @staticmethod
    def average(old, new, beta, rounded):
        return rounded(beta) * old + rounded(1 - beta) * new


@dataclass
class SGD(_Rule):
    """Sutskever et al. 2013, with PyTorch's momentum: the rate multiplies the buffer, the first gradient is whole."""

    p: np.ndarray
    lr: float = 1e-3
    momentum: float = 0
    dampening: float = 0
    weight_decay: float = 0
    nesterov: bool = False
    _: KW_ONLY
    maximize: bool = False

    @property
    def names(self):
        return ["momentum_buffer"] if self.momentum else []

    def change(self, g, state, rounded):
        if self.momentum:
            old, momentum = state["momentum_buffer"], rounded(self.momentum)
            new = momentum * old + rounded(1 if self.t == 1 else 1 - self.dampening) * g  # no -0 in the first, unlike g
            state["momentum_buffer"] = new
            g = g + momentum * new if self.nesterov else new
        return [rounded(self.lr) * g]


@dataclass
class RMSprop(_Rule):
    """Hinton 2012, lecture 6; centred as in Graves 2013."""

    p: np.ndarray
    lr: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0
    momentum: float = 0
    centered: bool = False
    _: KW_ONLY
    maximize: bool = False

    @property
    def names(self):
        return ["square_avg"] + ["grad_avg"] * self.centered + ["momentum_buffer"] * (self.momentum > 0)

    def change(self, g, state, rounded):
        variance = state["square_avg"] = self.average(state["square_avg"], g * g, self.alpha, rounded)
        if self.centered:
            mean = state["grad_avg"] = state["grad_avg"] + rounded(1 - self.alpha) * (g - state["grad_avg"])
            variance = variance - mean * mean
        deviation = np.sqrt(variance) + rounded(self.eps)
        if not self.momentum:
            return [rounded(self.lr) * g / deviation]
        state["momentum_buffer"] = rounded(self.momentum) * state["momentum_buffer"] + g / deviation
        return [rounded(self.lr) * state["momentum_buffer"]]


@dataclass
class Adagrad(_Rule):
    """Duchi et al. 2011, the diagonal form."""

    p: np.ndarray
    lr: float = 0.01
    lr_decay: float = 0
    weight_decay: float = 0
    initial_accumulator_value: float = 0
    eps: float = 1e-10
    _: KW_ONLY
    maximize: bool = False
    names = ("sum",)

    def __post_init__(self):
        super().__post_init__()
        self.state["sum"] += self.p.dtype.type(self.initial_accumulator_value)

    def change(self, g, state, rounded):
        lr = self.lr / (1 + (self.t - 1) * self.lr_decay)
        state["sum"] = state["sum"] + g * g
        return [rounded(lr) * g / (np.sqrt(state["sum"]) + rounded(self.eps))]


@dataclass
class Adadelta(_Rule):
    """Zeiler 2012, algorithm 1, with PyTorch's rate."""

    p: np.ndarray
    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0
    _: KW_ONLY
    maximize: bool = False
    names = ("square_avg", "acc_delta")

    def change(self, g, state, rounded):
        square = state["square_avg"] = self.average(state["square_avg"], g * g, self.rho, rounded)
        delta = np.sqrt(state["acc_delta"] + rounded(self.eps)) / np.sqrt(square + rounded(self.eps)) * g
        state["acc_delta"] = self.average(state["acc_delta"], delta * delta, self.rho, rounded)
        return [rounded(self.lr) * delta]


@dataclass
class Adamax(_Rule):
    """Kingma & Ba 2015, algorithm 2, with PyTorch's eps beside the gradient."""

    p: np.ndarray
    lr: float = 2e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    _: KW_ONLY
    maximize: bool = False
    names = ("exp_avg", "exp_inf")

    def change(self, g, state, rounded):
        beta1, beta2 = self.betas
        m = state["exp_avg"] = self.average(state["exp_avg"], g, beta1, rounded)
        u = state["exp_inf"] = np.maximum(rounded(beta2) * state["exp_inf"], np.abs(g) + rounded(self.eps))
        return [rounded(self.lr / (1 - beta1**self.t)) * m / u]


@dataclass
class NAdam(_Rule):
    """Dozat 2016, algorithm 2, with the schedule of momenta of its experiments."""

    p: np.ndarray
    lr: float = 2e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False
    _: KW_ONLY
    maximize: bool = False
    names = ("exp_avg", "exp_avg_sq")
    mu_product = 1.0

    def mu(self, t):
        return self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def change(self, g, state, rounded):
        beta1, beta2 = self.betas
        mu, mu_next = self.mu(self.t), self.mu(self.t + 1)
        self.mu_product *= mu
        m = state["exp_avg"] = self.average(state["exp_avg"], g, beta1, rounded)
        v = state["exp_avg_sq"] = self.average(state["exp_avg_sq"], g * g, beta2, rounded)
        root = np.sqrt(v) * rounded(1 / math.sqrt(1 - beta2**self.t)) + rounded(self.eps)
        for_g = self.lr * (1 - mu) / (1 - self.mu_product)
        for_m = self.lr * mu_next / (1 - self.mu_product * mu_next)
        return [rounded(for_g) * g / root, rounded(for_m) * m / root]


@dataclass
class RAdam(_Rule):
    """Liu et al. 2020, algorithm 2; it adapts from a length of 5 on, as PyTorch's does, where the paper has 4."""

    p: np.ndarray
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    decoupled_weight_decay: bool = False
    _: KW_ONLY
    maximize: bool = False
    names = ("exp_avg", "exp_avg_sq")

    def change(self, g, state, rounded):
        beta1, beta2 = self.betas
        m = state["exp_avg"] = self.average(state["exp_avg"], g, beta1, rounded)
        v = state["exp_avg_sq"] = self.average(state["exp_avg_sq"], g * g, beta2, rounded)
        lr, correction2 = self.lr / (1 - beta1**self.t), 1 - beta2**self.t
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * self.t * beta2**self.t / correction2
        if length <= 5:
            return [rounded(lr) * m]
        r = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
        return [rounded(lr * r * math.sqrt(correction2)) * m / (np.sqrt(v) + rounded(self.eps))]


@dataclass
class Lion(_Rule):
    """Chen et al. 2023, algorithm 2 (program 1), with decoupled weight decay."""

    p: np.ndarray
    lr: float = 1e-4
    betas: tuple = (0.9, 0.99)
    weight_decay: float = 0
    _: KW_ONLY
    maximize: bool = False
    names = ("exp_avg",)
    decoupled_weight_decay = True

    def change(self, g, state, rounded):
        beta1, beta2 = self.betas
        direction = np.sign(self.average(state["exp_avg"], g, beta1, rounded))
        state["exp_avg"] = self.average(state["exp_avg"], g, beta2, rounded)
        return [rounded(self.lr) * direction]


class RowAdam:
    """Lazy Adam, row by row: Kingma & Ba 2015, end of section 2, with one step count for all rows. `p` is replaced.

    With `catch_up`, the decay rates of a row are raised to the power of the steps since it was updated.
    """

    def __init__(self, p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, *, maximize=False, catch_up=False):
        self.p = np.array(p)
        self.m, self.v = np.zeros_like(self.p), np.zeros_like(self.p)
        self.last_step = np.zeros(len(self.p), np.int64)
        self.t, self.lr, self.betas, self.eps, self.maximize, self.catch_up = 0, lr, betas, eps, maximize, catch_up

    def step(self, rows, grads):
        self.t += 1
        totals = {}
        for row, g in zip(rows, grads, strict=True):
            totals[int(row)] = totals[int(row)] + g if int(row) in totals else g
        with np.errstate(all="ignore"):
            for row, g in totals.items():
                self._update(row, -g if self.maximize else g)

    def _update(self, row, g):
        rounded, (beta1, beta2) = self.p.dtype.type, self.betas
        alpha = self.lr * math.sqrt(1.0 - beta2**self.t) / (1.0 - beta1**self.t)
        steps = self.t - int(self.last_step[row]) if self.catch_up else 1
        self.m[row] = rounded(beta1**steps) * self.m[row] + rounded(1.0 - beta1) * g
        self.v[row] = rounded(beta2**steps) * self.v[row] + rounded(1.0 - beta2) * (g * g)
        self.p[row] = self.p[row] - rounded(alpha) * self.m[row] / (np.sqrt(self.v[row]) + rounded(self.eps))
        self.last_step[row] = self.t


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
def trained(n, dtype, steps=50, rule=Adam, **settings):
    """The reference after `steps` steps on that cycle, from that start."""
    reference = rule(start(n, dtype), **settings)
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
