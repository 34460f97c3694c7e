"""The update rules: one plain scalar function per algorithm.

Every backend compiles *these* function objects: there is no second copy of a formula anywhere. A rule takes one
parameter, its gradient and its state, and returns them updated; all its scalars are of the parameter's own type, so a
float32 rule never computes in float64. What depends on the step alone (bias correction) is computed once per step by
:func:`adam_bias_correction`, in float64.

This module imports nothing but :mod:`math`.
"""

import math


def adam(p, g, m, v, step_size, inv_sqrt_c2, beta1, one_minus_beta1, beta2, one_minus_beta2, eps):
    """Adam (Kingma & Ba 2015, algorithm 1). The host scalars choose the form, see `adam_bias_correction`."""
    m = beta1 * m + one_minus_beta1 * g
    v = beta2 * v + one_minus_beta2 * (g * g)
    p = p - step_size * m / (math.sqrt(v) * inv_sqrt_c2 + eps)
    return p, m, v


def amsgrad(p, g, m, v, v_max, step_size, inv_sqrt_c2, beta1, one_minus_beta1, beta2, one_minus_beta2, eps):
    """AMSGrad (Reddi et al. 2018) in PyTorch's form: `v_max` is the maximum of the raw, uncorrected `v`."""
    m = beta1 * m + one_minus_beta1 * g
    v = beta2 * v + one_minus_beta2 * (g * g)
    v_max = max(v_max, v)
    p = p - step_size * m / (math.sqrt(v_max) * inv_sqrt_c2 + eps)
    return p, m, v, v_max


def coupled_decay(p, g, weight_decay):
    """L2 regularisation: the penalty's gradient joins the gradient, and so the moments."""
    return g + weight_decay * p


def decoupled_decay(p, keep):
    """Decoupled weight decay (Loshchilov & Hutter 2019): `keep` = 1 - lr*weight_decay shrinks p before the update."""
    return p * keep


def adam_bias_correction(t, lr, beta1, beta2, epsilon_hat):
    """`(step_size, inv_sqrt_c2)` of step `t` (counted from 1), exact in float64 from the integer step.

    With `epsilon_hat` false this is the paper's algorithm 1 and PyTorch's form, where eps is added to the corrected
    root. With `epsilon_hat` true it is the form of the end of section 2 of the paper ("epsilon hat"), which
    scikit-learn and Keras use: eps is added to the uncorrected root.
    """
    c1 = 1.0 - math.pow(beta1, float(t))
    c2 = 1.0 - math.pow(beta2, float(t))
    if epsilon_hat:
        return lr * math.sqrt(c2) / c1, 1.0
    return lr / c1, 1.0 / math.sqrt(c2)
