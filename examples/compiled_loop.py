"""Training loops compiled as a whole around the kernels of fastadam: a small GAN, and a policy that balances a pole.

If the parts of a step take a microsecond, calling them from Python takes longer. The functions of `fastadam.kernels`
can therefore be called from `@numba.njit` code, so that the whole loop is compiled. Both loops below, `train_gan` and
`train_policy`, are plain functions that call compiled functions. Run as they are, each call is made by Python;
compiled, they train the same model bit for bit, but faster.

Run `python examples/compiled_loop.py`. It takes ten seconds, most of them for compilation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fastadam.kernels import adam_step

Array = NDArray[np.float64]


@numba.njit
def seed(number: int) -> None:
    """Seed the random generator of compiled code, which is separate from that of NumPy."""
    np.random.seed(number)


@numba.njit
def sigmoid(x):
    """Convert a logit to a probability."""
    return 1 / (1 + math.exp(-x))


# --- a network of one input, some tanh units and one output -----------------------------------------------------------

UNITS = 16
SIZE = 3 * UNITS + 1
"""Size of the flat array of parameters: weights and biases of the units, weights and bias of the output."""


@numba.njit
def output(p, x):
    """Return the output of the network with parameters `p` for the number `x`."""
    total = p[3 * UNITS]
    for j in range(UNITS):
        total += p[2 * UNITS + j] * math.tanh(p[j] * x + p[UNITS + j])
    return total


@numba.njit
def backward(p, x, slope, g):
    """Add the gradient of `slope * output(p, x)` to `g`, and return the derivative with respect to `x`."""
    slope_x = 0.0
    g[3 * UNITS] += slope
    for j in range(UNITS):
        h = math.tanh(p[j] * x + p[UNITS + j])
        slope_h = slope * p[2 * UNITS + j] * (1 - h * h)
        g[j] += slope_h * x
        g[UNITS + j] += slope_h
        g[2 * UNITS + j] += slope * h
        slope_x += slope_h * p[j]
    return slope_x


def new_network(random: np.random.Generator) -> Array:
    """Return random parameters, with units centred at different places."""
    p = random.normal(size=SIZE)
    p[2 * UNITS :] /= math.sqrt(UNITS)
    return p


# --- a GAN: the generator learns to draw from a mixture of two normal distributions -----------------------------------

BATCH = 8


@numba.njit
def real() -> float:
    """Draw a number from the distribution to be learned."""
    return np.random.normal(2.0 if np.random.random() < 0.5 else -2.0, 0.5)


@numba.njit
def fake(generator):
    """Draw a number from the generator."""
    return output(generator, np.random.normal())


@numba.njit
def discriminator_gradient(generator, discriminator, g):
    """Compute the gradient of the cross-entropy, which is low if real numbers have larger outputs than fake ones."""
    g[:] = 0
    for _ in range(BATCH):
        x, y = real(), fake(generator)
        backward(discriminator, x, (sigmoid(output(discriminator, x)) - 1) / BATCH, g)
        backward(discriminator, y, sigmoid(output(discriminator, y)) / BATCH, g)


@numba.njit
def generator_gradient(generator, discriminator, g, unused):
    """Compute the gradient of the generator's loss, which is low if fake numbers have large outputs."""
    g[:] = 0
    for _ in range(BATCH):
        z = np.random.normal()
        y = output(generator, z)
        slope = (sigmoid(output(discriminator, y)) - 1) / BATCH
        backward(generator, z, backward(discriminator, y, slope, unused), g)


def train_gan(generator, discriminator, steps):
    """Train the two networks in turns with Adam; without rates that fall to zero, they would oscillate forever."""
    g, m, v, unused = np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE)
    m_of_generator, v_of_generator = np.zeros(SIZE), np.zeros(SIZE)
    for t in range(1, steps + 1):
        left = 1 - (t - 1) / steps
        discriminator_gradient(generator, discriminator, g)
        adam_step(discriminator, g, m, v, t, 3e-3 * left, 0.5, 0.99, 1e-8)
        generator_gradient(generator, discriminator, g, unused)
        adam_step(generator, g, m_of_generator, v_of_generator, t, 3e-3 * left, 0.5, 0.99, 1e-8)


@numba.njit
def draws(generator, count):
    """Draw equally many real and fake numbers, each sorted."""
    reals, fakes = np.empty(count), np.empty(count)
    for i in range(count):
        reals[i], fakes[i] = real(), fake(generator)
    return np.sort(reals), np.sort(fakes)


# --- a policy gradient: a cart learns to keep a pole upright ----------------------------------------------------------

LIMIT = 500
"""Steps after which an episode ends although the pole is still upright: ten seconds."""
EPISODES = 8
"""Episodes between two steps of the optimizer."""
DISCOUNT = 0.99
GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
FARTHEST, STEEPEST = 2.4, math.radians(12)


@numba.njit
def push(state, right):
    """Return the state after a push: position, velocity, angle and angular velocity (Barto, Sutton & Anderson 1983)."""
    x, v, angle, spin = state
    total, torque = CART + POLE, POLE * HALF_LENGTH
    sine, cosine = math.sin(angle), math.cos(angle)
    thrust = ((FORCE if right else -FORCE) + torque * spin * spin * sine) / total
    turn = (GRAVITY * sine - cosine * thrust) / (HALF_LENGTH * (4 / 3 - POLE * cosine * cosine / total))
    shift = thrust - torque * turn * cosine / total
    return x + SECONDS * v, v + SECONDS * shift, angle + SECONDS * spin, spin + SECONDS * turn


@numba.njit
def new_state():
    """Draw an initial state, nearly upright and nearly at rest."""
    x, v, angle, spin = np.random.uniform(-0.05, 0.05, 4)
    return x, v, angle, spin


@numba.njit
def has_fallen(state) -> bool:
    """Return True if the cart is too far from the centre or the pole is too steep."""
    return abs(state[0]) > FARTHEST or abs(state[2]) > STEEPEST


@numba.njit
def chance_of_right(policy, state):
    """Return the probability of a push to the right; the policy has one weight per number of the state."""
    return sigmoid(policy[0] * state[0] + policy[1] * state[1] + policy[2] * state[2] + policy[3] * state[3])


@numba.njit
def pushes_right(policy, state) -> bool:
    """Draw an action."""
    return np.random.random() < chance_of_right(policy, state)


def play(policy, states, actions):
    """Play an episode, record its states and actions, and return its length."""
    state = new_state()
    for t in range(LIMIT):
        states[t] = state
        actions[t] = pushes_right(policy, state)
        state = push(state, actions[t])
        if has_fallen(state):
            return t + 1
    return LIMIT


@numba.njit
def add_gradient(policy, states, actions, length, g):
    """Add the gradient of REINFORCE (Williams 1992), which favours actions after which the pole stays up for long.

    Actions followed by less than half of the initial return, such as the last pushes, become less likely.
    """
    usual = (1 - DISCOUNT**length) / (1 - DISCOUNT) / 2
    to_come = 0.0
    for t in range(length - 1, -1, -1):
        to_come = 1 + DISCOUNT * to_come
        surprise = actions[t] - chance_of_right(policy, states[t])
        for j in range(4):
            g[j] -= (to_come - usual) * surprise * states[t, j]


def train_policy(policy, lengths, play):
    """Take a step of Adam after every few episodes, and record their mean length."""
    g, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
    states, actions = np.empty((LIMIT, 4)), np.empty(LIMIT, np.bool_)
    for t in range(1, lengths.size + 1):
        g[:] = 0
        lengths[t - 1] = 0
        for _ in range(EPISODES):
            length = play(policy, states, actions)
            lengths[t - 1] += length / EPISODES
            add_gradient(policy, states, actions, length, g)
        adam_step(policy, g, m, v, t, 0.05, 0.9, 0.999, 1e-8)


@numba.njit
def mean_length(policy, play, episodes):
    """Return the mean number of steps that the pole stays up."""
    states, actions = np.empty((LIMIT, 4)), np.empty(LIMIT, np.bool_)
    total = 0
    for _ in range(episodes):
        total += play(policy, states, actions)
    return total / episodes


# --- both, with and without compilation -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """Result of a training, and its seconds when compiled and when called from Python."""

    before: Any
    after: Any
    compiled: float
    from_python: float
    same_bits: bool


def quickest(run: Callable[[], tuple[Any, float]]) -> tuple[Any, float]:
    """Return the fastest of three runs, which all give the same model, to reduce the effect of other programs."""
    return min((run() for _ in range(3)), key=lambda result: result[1])


def gan(steps: int) -> Outcome:
    """Train the GAN; the outcome contains the numbers that the generator draws, as returned by `draws`."""

    def new_networks() -> list[Array]:
        random = np.random.default_rng(0)
        return [new_network(random), new_network(random)]

    def after(train: Callable[..., None], steps: int) -> tuple[list[Array], float]:
        networks = new_networks()
        seed(0)
        start = perf_counter()
        train(*networks, steps)
        return networks, perf_counter() - start

    def drawn(generator: Array) -> tuple[Array, Array]:
        seed(1)
        return draws(generator, 20_000)

    compiled = numba.njit(train_gan)
    for train in (compiled, train_gan):
        after(train, 1)  # compiles, which is not timed
    networks, seconds = quickest(lambda: after(compiled, steps))
    again, seconds_from_python = quickest(lambda: after(train_gan, steps))
    same = all(map(np.array_equal, networks, again))
    return Outcome(drawn(new_networks()[0]), drawn(networks[0]), seconds, seconds_from_python, same)


def pole(steps: int) -> Outcome:
    """Train the policy; the outcome contains the mean length of an episode."""

    def after(train: Callable[..., None], play: Callable[..., int], steps: int) -> tuple[Array, float]:
        policy = np.zeros(4)
        seed(0)
        start = perf_counter()
        train(policy, np.empty(steps), play)
        return policy, perf_counter() - start

    compiled, compiled_play = numba.njit(train_policy), numba.njit(play)
    for ways in ((compiled, compiled_play), (train_policy, play)):
        after(*ways, 1)  # compiles, which is not timed
    policy, seconds = quickest(lambda: after(compiled, compiled_play, steps))
    again, seconds_from_python = quickest(lambda: after(train_policy, play, steps))
    seed(1)
    lengths = [mean_length(p, compiled_play, 100) for p in (np.zeros(4), policy)]
    return Outcome(*lengths, seconds, seconds_from_python, np.array_equal(policy, again))


def distance(drawn: tuple[Array, Array]) -> float:
    """Return the Wasserstein distance between real and fake numbers: the mean distance between sorted samples."""
    return float(np.abs(drawn[0] - drawn[1]).mean())


def peaks(numbers: Array) -> str:
    """Format the fraction, mean and standard deviation of the numbers on each side of zero."""
    sides = [numbers[numbers < 0], numbers[numbers >= 0]]
    return ", ".join(f"{len(side) / len(numbers):.0%} at {side.mean():.2f} ± {side.std():.2f}" for side in sides)


def report(what: str, outcome: Outcome) -> None:
    """Print the times, and check that both ways led to the same model."""
    assert outcome.same_bits
    saved = f"{outcome.from_python / outcome.compiled:.1f} times the speed"
    print(f"  {what}: {outcome.compiled:.3f} s compiled as a whole,")
    print(f"  {outcome.from_python:.3f} s with each part called from Python. That is {saved},")
    print("  with the same model to the last bit.\n")


def main(gan_steps: int = 20_000, pole_steps: int = 200) -> None:
    """Train both, and print what they learned and the time that the compiled loop saves."""
    print("A GAN learns to draw from a mixture of two normal distributions:")
    outcome = gan(gan_steps)
    (reals, _), (_, untrained), (_, fakes) = outcome.before, outcome.before, outcome.after
    print(f"  real numbers:          {peaks(reals)}")
    print(f"  generated, untrained:  mean {untrained.mean():.2f} ± {untrained.std():.2f}")
    print(f"  generated, trained:    {peaks(fakes)}")
    print(f"  Wasserstein distance:  {distance(outcome.before):.2f} before, {distance(outcome.after):.2f} after")
    report(f"{gan_steps:,} steps of both networks", outcome)

    print("A policy gradient learns to keep a pole upright:")
    outcome = pole(pole_steps)
    print(f"  mean length of an episode: {outcome.before:.0f} steps before, {outcome.after:.0f} after, of {LIMIT}")
    report(f"{pole_steps:,} steps, {EPISODES} episodes each", outcome)


if __name__ == "__main__":
    main()
