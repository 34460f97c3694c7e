"""A step of lazy Adam on a table of 100,000 rows with 64 float32 values, such as a word embedding."""

from itertools import cycle

import numpy as np

from bench.common import ours, peer, ratio, seconds

DIM = 64
FREQUENCIES = ("zipf", "uniform")


def table_and_batches(k, frequencies="zipf", n_rows=100_000, count=16):
    """Return a table, and batches of `k` rows with their gradients; row frequencies follow Zipf's law or are uniform.

    There are several batches, since rows that are updated in every step would be in the cache. Their gradients share
    one array, since the gradients of a step have just been written.
    """
    rng = np.random.default_rng(0)
    table = rng.standard_normal((n_rows, DIM), dtype=np.float32)
    words, ranks = rng.permutation(n_rows), np.arange(1, n_rows + 1)
    chances = ranks**-1.0 if frequencies == "zipf" else np.ones(n_rows)
    rows = rng.choice(words, (count, k), p=chances / chances.sum())
    grads = rng.standard_normal((k, DIM), dtype=np.float32)
    return table, [(row, grads) for row in rows]


def our_step(table, batches, **options):
    optimizer, batch = ours("RowAdam")(table.copy(), **options), cycle(batches)
    return lambda: optimizer.step(*next(batch))


def numpy_step(table, batches):
    """Return the same step in NumPy: sort, sum, gather, update, scatter."""
    p, m, v = table.copy(), np.zeros_like(table), np.zeros_like(table)
    lr, beta1, beta2, eps = 1e-3, 0.9, 0.999, 1e-8
    batch, t = cycle(batches), 0

    def step():
        nonlocal t
        t += 1
        rows, grads = next(batch)
        order = np.argsort(rows, kind="stable")
        distinct, starts = np.unique(rows[order], return_index=True)
        g = np.add.reduceat(grads[order], starts)
        new_m = m[distinct] * beta1 + g * (1 - beta1)
        new_v = v[distinct] * beta2 + g * g * (1 - beta2)
        m[distinct], v[distinct] = new_m, new_v
        step_size = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        p[distinct] -= step_size * new_m / (np.sqrt(new_v) + eps)

    return step


def torch_step(table, batches):
    """Return a step of PyTorch's SparseAdam, with uncoalesced gradients, as its embeddings produce them."""
    import torch

    weight = torch.nn.Parameter(torch.from_numpy(table.copy()))
    grads = [
        torch.sparse_coo_tensor(
            torch.from_numpy(rows[np.newaxis]), torch.from_numpy(g), table.shape, check_invariants=False
        )
        for rows, g in batches
    ]
    optimizer, grad = torch.optim.SparseAdam([weight]), cycle(grads)

    def step():
        weight.grad = next(grad)
        optimizer.step()

    return step


class RowStep:
    params = ((256, 4096), FREQUENCIES)
    param_names = ("k", "frequencies")
    timeout = 300

    def setup(self, k, frequencies):
        self.case = table_and_batches(k, frequencies)
        self.step = our_step(*self.case)

    def track_time(self, k, frequencies):
        return seconds(self.step)

    track_time.unit = "seconds"

    def track_time_over_numpy(self, k, frequencies):
        return ratio(self.step, numpy_step(*self.case))

    track_time_over_numpy.unit = "x"


class RowStepOverTorch:
    params = ((256, 4096), FREQUENCIES)
    param_names = ("k", "frequencies")
    timeout = 300

    def setup(self, k, frequencies):
        case = table_and_batches(k, frequencies)
        self.peer = peer(torch_step, *case)
        self.step = our_step(*case)

    def track_time_over_torch(self, k, frequencies):
        return ratio(self.step, self.peer)

    track_time_over_torch.unit = "x"
