"""The training of `bench_mlp.py` in PyTorch and JAX, each written for speed in the usual style of the library.

Each function returns a fit, which starts from new parameters and returns the mean loss of the last epoch. Both also
decay the biases, since excluding them would take additional time.
"""

from functools import partial
from itertools import pairwise

import numpy as np

LEARNING_RATE, L2 = 1e-3, 1e-4  # the defaults of scikit-learn and fastadam


def torch_fit(X, y, hidden, batch, epochs):
    """Return a fit with an eager loop over the batches and the fused step."""
    import torch
    from torch import nn

    inputs, targets = torch.from_numpy(X), torch.from_numpy(y)[:, None]

    def new_network():
        torch.manual_seed(0)
        layers = [(nn.Linear(fan_in, fan_out), nn.ReLU()) for fan_in, fan_out in pairwise((X.shape[1], *hidden))]
        return nn.Sequential(*(part for layer in layers for part in layer), nn.Linear(hidden[-1], 1))

    def train_on(rows, network, optimizer):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(inputs[rows]), targets[rows])
        loss.backward()
        optimizer.step()
        return loss.detach() * len(rows)

    def fit():
        network = new_network()
        # PyTorch's loss is twice scikit-learn's, so the penalty is doubled too. Adam is invariant to this factor.
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, weight_decay=2 * L2 / batch, fused=True)
        for _ in range(epochs):
            total = sum(train_on(rows, network, optimizer) for rows in torch.randperm(len(X)).split(batch))
        return float(total) / len(X) / 2

    return fit


def jax_fit(X, y, hidden, batch, epochs):
    """Return a fit with each epoch in one jitted call: a scan over the full batches, then the last batch."""
    import jax
    import jax.numpy as jnp
    import optax

    inputs, targets = jnp.asarray(X), jnp.asarray(y)
    optimizer = optax.chain(optax.add_decayed_weights(L2 / batch), optax.adam(LEARNING_RATE))
    new_moments = jax.jit(optimizer.init)

    def new_network():
        rng = np.random.default_rng(0)
        return [
            (jnp.asarray(glorot(rng, fan_in, fan_out)), jnp.zeros(fan_out, jnp.float32))
            for fan_in, fan_out in pairwise((X.shape[1], *hidden, 1))
        ]

    def half_squared_error(network, inputs, targets):
        *layers, (last_weights, last_bias) = network
        for weights, bias in layers:
            inputs = jax.nn.relu(inputs @ weights + bias)
        predicted = inputs @ last_weights + last_bias
        return 0.5 * jnp.mean((predicted[:, 0] - targets) ** 2)

    def train_on(inputs, targets, state, rows):
        network, moments = state
        loss, gradient = jax.value_and_grad(half_squared_error)(network, inputs[rows], targets[rows])
        updates, moments = optimizer.update(gradient, moments, network)
        return (optax.apply_updates(network, updates), moments), loss * rows.size

    @partial(jax.jit, donate_argnums=0)
    def run_epoch(state, key, inputs, targets):  # data in a closure would be compiled in
        train = partial(train_on, inputs, targets)
        key, shuffle = jax.random.split(key)
        order = jax.random.permutation(shuffle, len(X))
        in_full_batches = len(X) // batch * batch
        state, losses = jax.lax.scan(train, state, order[:in_full_batches].reshape(-1, batch))
        total = losses.sum()
        if in_full_batches < len(X):
            state, loss = train(state, order[in_full_batches:])
            total += loss
        return state, key, total / len(X)

    def fit():
        network = new_network()
        state, key = (network, new_moments(network)), jax.random.key(0)
        for _ in range(epochs):
            state, key, loss = run_epoch(state, key, inputs, targets)
        return float(loss)

    return fit


def glorot(rng, fan_in, fan_out):
    bound = np.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32)
