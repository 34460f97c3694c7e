"""The rules compiled for the CPU: the loop, its parallel form, and the one-pass step over many arrays.

Reads from the inside out: `adam_loop` is the rule in an elementwise loop over flat arrays; `adam_blocks` runs it over
the virtual concatenation of any number of arrays; `adam_step_kernel` is what Python launches. The factories take what
is fixed for the life of an optimizer as constants, so that the loops hold no branch, and are compiled on first use.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import prange

from fastadam import rules
from fastadam.jit import array_at, device, kernel

PARALLEL_BYTES = 256 * 1024
"""Size of the parameters from which two threads win. Between threads that never slept they win from half of this on;
but most programs do something else between two steps, and waking a thread costs what it then saves."""

BLOCK = 4_096
"""Elements that a thread takes at a time: the state of a block stays in its L1 cache."""

_adam = device(rules.adam)
_amsgrad = device(rules.amsgrad)
_coupled_decay = device(rules.coupled_decay)
_decoupled_decay = device(rules.decoupled_decay)
_bias_correction = device(rules.adam_bias_correction)


class AdamVariant(NamedTuple):
    """What is compiled into an Adam kernel: `decay` is "none", "coupled" or "decoupled"."""

    decay: str = "none"
    amsgrad: bool = False
    maximize: bool = False

    def __str__(self) -> str:
        flags = [self.decay, "amsgrad" * self.amsgrad, "maximize" * self.maximize]
        return "_".join(filter(None, flags))


@device
def adam_scalars(like, t, lr, beta1, beta2, eps, epsilon_hat):
    """Compute the last arguments of the rule at step `t` in float64, then round each once to the type of `like`."""
    step_size, inv_sqrt_c2 = _bias_correction(t, lr, beta1, beta2, epsilon_hat)
    return (
        like.dtype.type(step_size),
        like.dtype.type(inv_sqrt_c2),
        like.dtype.type(beta1),
        like.dtype.type(1.0 - beta1),
        like.dtype.type(beta2),
        like.dtype.type(1.0 - beta2),
        like.dtype.type(eps),
    )


@functools.cache
def adam_loop(variant: AdamVariant) -> Callable[..., None]:
    """The loop over elements `start:stop` of the state; `v_max` is read by AMSGrad alone.

    Element i of the state belongs to element `i - shift` of `p` and `g`.
    """
    coupled, decoupled = variant.decay == "coupled", variant.decay == "decoupled"
    use_amsgrad, maximize = variant.amsgrad, variant.maximize

    @device
    def loop(p, g, m, v, v_max, start, stop, shift, decay, scalars):
        for i in range(np.uint64(start), np.uint64(stop)):  # a signed index might count from the end: no vectors then
            k = i - np.uint64(shift)
            pi, gi = p[k], g[k]
            if maximize:
                gi = -gi
            if coupled:
                gi = _coupled_decay(pi, gi, decay)
            if decoupled:
                pi = _decoupled_decay(pi, decay)
            if use_amsgrad:
                p[k], m[i], v[i], v_max[i] = _amsgrad(pi, gi, m[i], v[i], v_max[i], *scalars)
            else:
                p[k], m[i], v[i] = _adam(pi, gi, m[i], v[i], *scalars)

    return loop


@functools.cache
def adam_blocks(variant: AdamVariant) -> Callable[..., None]:
    """The loop over elements `start:stop` of the virtual concatenation of separate arrays.

    Array k has its parameters at address `p_at[k]`, its gradient at `g_at[k]`, and is elements
    `offsets[k]:offsets[k + 1]` of the concatenation, which is also where its state stands in `m`, `v` and `v_max`.
    """
    loop = adam_loop(variant)

    @device
    def blocks(p_at, g_at, offsets, m, v, v_max, start, stop, decay, scalars):
        k = np.searchsorted(offsets, start, side="right") - 1
        while start < stop:
            end = min(offsets[k + 1], stop)
            if start < end:
                size = offsets[k + 1] - offsets[k]
                p, g = array_at(p_at[k], size, m), array_at(g_at[k], size, m)
                loop(p, g, m, v, v_max, start, end, offsets[k], decay, scalars)
            start = end
            k += 1

    return blocks


@functools.cache
def adam_step_kernel(variant: AdamVariant, parallel: bool) -> Callable[..., None]:
    """One Adam step over separate arrays in one call, serial or parallel; the results are the same bits."""
    blocks = adam_blocks(variant)

    if parallel:

        @kernel(parallel=True, variant=str(variant))
        def parallel_adam(p_at, g_at, offsets, m, v, v_max, t, lr, beta1, beta2, eps, decay, epsilon_hat):
            scalars = adam_scalars(m, t, lr, beta1, beta2, eps, epsilon_hat)
            decay = m.dtype.type(decay)
            for block in prange((m.size + BLOCK - 1) // BLOCK):
                stop = min((block + 1) * BLOCK, m.size)
                blocks(p_at, g_at, offsets, m, v, v_max, block * BLOCK, stop, decay, scalars)

        return parallel_adam

    @kernel(variant=str(variant))
    def serial_adam(p_at, g_at, offsets, m, v, v_max, t, lr, beta1, beta2, eps, decay, epsilon_hat):
        scalars = adam_scalars(m, t, lr, beta1, beta2, eps, epsilon_hat)
        decay = m.dtype.type(decay)
        blocks(p_at, g_at, offsets, m, v, v_max, 0, m.size, decay, scalars)

    return serial_adam
