"""A multi-layer perceptron in plain NumPy, written from the formulas: the reference for the compiled network.

Each parameter is an array of its own and everything keeps the dtype asked for. Adam is that of `naive.py`.
"""

from itertools import pairwise

import numpy as np

from tests.helpers import naive

ACTIVATIONS = {
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "logistic": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: z * (z > 0), lambda z: (z > 0).astype(z.dtype)),
}


def glorot(units, activation, random_state):
    """Weights and biases as scikit-learn draws them: W0, b0, W1, b1, ... in float64."""
    weights, biases = [], []
    for fan_in, fan_out in pairwise(units):
        bound = ((2 if activation == "logistic" else 6) / (fan_in + fan_out)) ** 0.5
        weights.append(random_state.uniform(-bound, bound, (fan_in, fan_out)))
        biases.append(random_state.uniform(-bound, bound, fan_out))
    return weights, biases


def predict(weights, biases, activation, X):
    """The output of the network for each row of X."""
    return _forward(weights, biases, activation, X)[0][-1]


def _forward(weights, biases, activation, X):
    """Outputs of each layer, the input first, and the inputs of each activation function."""
    outputs, inputs = [X], []
    for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
        inputs.append(outputs[-1] @ W + b)
        hidden = k < len(weights) - 1
        outputs.append(ACTIVATIONS[activation][0](inputs[-1]) if hidden else inputs[-1])
    return outputs, inputs


def loss(weights, biases, activation, alpha, X, Y, w):
    """Half the mean squared error, averaged over outputs, samples weighted by w, plus the L2 term over all weight."""
    error = predict(weights, biases, activation, X) - Y
    squares = sum((W.astype(float) ** 2).sum() for W in weights)
    return (0.5 * (w @ error**2).mean() + 0.5 * alpha * squares) / w.sum()


def gradient(weights, biases, activation, alpha, X, Y, w):
    """Gradients by weights and by biases; the error's part is, as in scikit-learn, that of a sum over the outputs."""
    outputs, inputs = _forward(weights, biases, activation, X)
    dtype, total = X.dtype.type, w.sum()
    delta = (outputs[-1] - Y) * (w / total)[:, None]
    by_weights, by_biases = [], []
    for k in reversed(range(len(weights))):
        by_weights.insert(0, outputs[k].T @ delta + dtype(alpha / total) * weights[k])
        by_biases.insert(0, delta.sum(axis=0))
        if k > 0:
            delta = (delta @ weights[k].T) * ACTIVATIONS[activation][1](inputs[k - 1])
    return by_weights, by_biases


class NaiveMLP:
    """scikit-learn's training loop for solver="adam", without stopping rules; its parameters, by its names."""

    def __init__(
        self,
        hidden_layer_sizes,
        activation="relu",
        *,
        alpha=1e-4,
        batch_size="auto",
        learning_rate_init=1e-3,
        shuffle=True,
        random_state=0,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
    ):
        self.hidden, self.activation, self.alpha = hidden_layer_sizes, activation, alpha
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, random_state
        self.adam = {"lr": learning_rate_init, "betas": (beta_1, beta_2), "eps": epsilon, "epsilon_hat": True}

    def fit(self, X, Y, w=None, epochs=1):
        """Train for so many epochs, in the dtype of X."""
        Y = Y.reshape(len(X), -1).astype(X.dtype)
        w = np.ones(len(X), X.dtype) if w is None else w.astype(X.dtype)
        random_state = np.random.RandomState(self.seed)
        weights, biases = glorot([X.shape[1], *self.hidden, Y.shape[1]], self.activation, random_state)
        self._weights = [naive.Adam(W.astype(X.dtype), **self.adam) for W in weights]
        self._biases = [naive.Adam(b.astype(X.dtype), **self.adam) for b in biases]
        self.loss_curve = []
        order = np.arange(len(X))
        for _ in range(epochs):
            if self.shuffle:
                order = order[random_state.permutation(len(order))]
            self.loss_curve.append(self._epoch(X, Y, w, order))
        return self

    def _epoch(self, X, Y, w, order):
        size = min(200, len(order)) if self.batch_size == "auto" else self.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        batches = [batch for batch in batches if w[batch].any()]  # one without weight is passed over
        losses = [self._step(X[batch], Y[batch], w[batch]) for batch in batches]
        return np.average(losses, weights=[len(batch) for batch in batches])

    def _step(self, X, Y, w):
        data = self.weights, self.biases, self.activation, self.alpha, X, Y, w
        before, (by_weights, by_biases) = loss(*data), gradient(*data)
        for adam, g in zip(self._weights + self._biases, by_weights + by_biases, strict=True):
            adam.step(g)
        return before

    @property
    def weights(self):
        return [adam.p for adam in self._weights]

    @property
    def biases(self):
        return [adam.p for adam in self._biases]
