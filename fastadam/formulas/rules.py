"""The update rules: one plain scalar function per algorithm.

Every backend compiles *these* function objects: there is no second copy of a formula anywhere. A rule takes one
parameter, its gradient and its state, and returns them updated; all its scalars have the type of the parameter, so a
float32 rule never computes in float64. What depends only on the step (bias correction) is computed by the `*_scalars`
function next to the rule, once per step and in float64, from the step number `t`, counted from 1, and the
hyper-parameters. Both, with their names, make a :class:`Rule`.

Forms and defaults are PyTorch's, unless a rule says otherwise.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """An algorithm: its update of one element, the scalars of a step, and the names of its state."""

    name: str
    update: Callable[..., Any]
    """`update(p, g, *state, *scalars)` returns p, or a tuple of p and the state."""
    scalars: Callable[..., tuple[float, ...]]
    """`scalars(t, *hyper)` returns the arguments of `update` after the state."""
    states: tuple[str, ...]
    """State of each element; zeros before the first step."""
    hyper: tuple[str, ...]
    """The hyper-parameters, in the order in which `scalars` takes them."""
    positive: tuple[str, ...] = ()
    """States that are never negative, such as sums of squares."""
    carry: Callable[..., float] | None = None
    """`carry(t, *hyper)` returns the last hyper-parameter after step `t`, if a step changes it; it begins at 1."""
    cached: bool = True
    """False for the rule of a user, which is not cached on disk since the cache does not know its source."""


# --- gradient descent -------------------------------------------------------------------------------------------------


def sgd(p, g, lr):
    """Gradient descent."""
    return p - lr * g


def sgd_scalars(t, lr):
    """Scalars of `sgd`."""
    return (lr,)


def momentum(p, g, buffer, lr, mass, weight):
    """Gradient descent with momentum, in PyTorch's form: the learning rate is not part of the buffer."""
    buffer = mass * buffer + weight * g
    return p - lr * buffer, buffer


def nesterov(p, g, buffer, lr, mass, weight):
    """Nesterov's momentum (Sutskever et al. 2013), in PyTorch's form."""
    buffer = mass * buffer + weight * g
    return p - lr * (g + mass * buffer), buffer


def velocity(p, g, v, lr, mass):
    """Gradient descent with momentum, in scikit-learn's form: the learning rate is part of the velocity."""
    v = mass * v - lr * g
    return p + v, v


def velocity_nesterov(p, g, v, lr, mass):
    """Nesterov's momentum, in scikit-learn's form."""
    v = mass * v - lr * g
    return p + (mass * v - lr * g), v


def velocity_scalars(t, lr, mass):
    """Scalars of `velocity`: independent of the step."""
    return lr, mass


def momentum_scalars(t, lr, mass, dampening):
    """Scalars of `momentum`: the first gradient enters the buffer undampened."""
    return lr, mass, 1.0 - dampening if t > 1 else 1.0


def keep(p, g, gradient):
    """Keep the gradient and leave the parameter, for a method that takes its own steps."""
    return p, g


def keep_scalars(t):
    """Scalars of `keep`: none."""
    return ()


# --- adaptive learning rates ------------------------------------------------------------------------------------------


def rmsprop(p, g, square_avg, lr, alpha, one_minus_alpha, eps):
    """RMSprop (Hinton 2012); `eps` is added to the root."""
    square_avg = alpha * square_avg + one_minus_alpha * (g * g)
    return p - lr * g / (math.sqrt(square_avg) + eps), square_avg


def rmsprop_momentum(p, g, square_avg, buffer, lr, alpha, one_minus_alpha, eps, mass):
    """RMSprop whose scaled gradients go through a momentum buffer."""
    square_avg = alpha * square_avg + one_minus_alpha * (g * g)
    buffer = mass * buffer + g / (math.sqrt(square_avg) + eps)
    return p - lr * buffer, square_avg, buffer


def rmsprop_centered(p, g, square_avg, grad_avg, lr, alpha, one_minus_alpha, eps):
    """RMSprop normalised by the variance of the gradient instead of its mean square (Graves 2013)."""
    square_avg = alpha * square_avg + one_minus_alpha * (g * g)
    grad_avg = grad_avg + one_minus_alpha * (g - grad_avg)
    return p - lr * g / (math.sqrt(square_avg - grad_avg * grad_avg) + eps), square_avg, grad_avg


def rmsprop_centered_momentum(p, g, square_avg, grad_avg, buffer, lr, alpha, one_minus_alpha, eps, mass):
    """Centered RMSprop with a momentum buffer."""
    square_avg = alpha * square_avg + one_minus_alpha * (g * g)
    grad_avg = grad_avg + one_minus_alpha * (g - grad_avg)
    buffer = mass * buffer + g / (math.sqrt(square_avg - grad_avg * grad_avg) + eps)
    return p - lr * buffer, square_avg, grad_avg, buffer


def rmsprop_scalars(t, lr, alpha, eps):
    """Scalars of `rmsprop`: independent of the step."""
    return lr, alpha, 1.0 - alpha, eps


def rmsprop_momentum_scalars(t, lr, alpha, eps, mass):
    """Scalars of `rmsprop_momentum`: independent of the step."""
    return lr, alpha, 1.0 - alpha, eps, mass


def adagrad(p, g, total, lr, eps):
    """Adagrad (Duchi, Hazan & Singer 2011): divide by the root of the sum of all squared gradients."""
    total = total + g * g
    return p - lr * g / (math.sqrt(total) + eps), total


def adagrad_scalars(t, lr, lr_decay, eps):
    """Scalars of `adagrad`: the learning rate decreases with the number of earlier steps."""
    return lr / (1.0 + (t - 1) * lr_decay), eps


def adadelta(p, g, square_avg, acc_delta, lr, rho, one_minus_rho, eps):
    """Adadelta (Zeiler 2012): steps in the units of the parameters."""
    square_avg = rho * square_avg + one_minus_rho * (g * g)
    delta = math.sqrt(acc_delta + eps) / math.sqrt(square_avg + eps) * g
    acc_delta = rho * acc_delta + one_minus_rho * (delta * delta)
    return p - lr * delta, square_avg, acc_delta


def adadelta_scalars(t, lr, rho, eps):
    """Scalars of `adadelta`: independent of the step."""
    return lr, rho, 1.0 - rho, eps


# --- Adam and its variants --------------------------------------------------------------------------------------------


def adam(p, g, m, v, step_size, inv_sqrt_c2, beta1, one_minus_beta1, beta2, one_minus_beta2, eps):
    """Adam (Kingma & Ba 2015, algorithm 1). The scalars choose the form: `adam_scalars` or `adam_hat_scalars`."""
    m = beta1 * m + one_minus_beta1 * g
    v = beta2 * v + one_minus_beta2 * (g * g)
    p = p - step_size * m / (math.sqrt(v) * inv_sqrt_c2 + eps)
    return p, m, v


def amsgrad(p, g, m, v, v_max, step_size, inv_sqrt_c2, beta1, one_minus_beta1, beta2, one_minus_beta2, eps):
    """AMSGrad (Reddi et al. 2018) in PyTorch's form: `v_max` is the maximum of the raw, uncorrected `v`."""
    m = beta1 * m + one_minus_beta1 * g
    v = beta2 * v + one_minus_beta2 * (g * g)
    v_max = max(v, v_max)  # NaN is kept in this order: v becomes NaN first, and `max` then keeps its first argument
    p = p - step_size * m / (math.sqrt(v_max) * inv_sqrt_c2 + eps)
    return p, m, v, v_max


def adam_scalars(t, lr, beta1, beta2, eps):
    """Scalars of `adam` in the form of the paper and of PyTorch."""
    c1 = 1.0 - math.pow(beta1, float(t))
    c2 = 1.0 - math.pow(beta2, float(t))
    return lr / c1, 1.0 / math.sqrt(c2), beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps


def adam_hat_scalars(t, lr, beta1, beta2, eps):
    """Scalars of `adam` in the "epsilon hat" form (paper, section 2): eps is added to the uncorrected root.

    scikit-learn, Keras and PyTorch's SparseAdam use it.
    """
    c1 = 1.0 - math.pow(beta1, float(t))
    c2 = 1.0 - math.pow(beta2, float(t))
    return lr * math.sqrt(c2) / c1, 1.0, beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps


def adamax(p, g, exp_avg, exp_inf, step_size, beta1, one_minus_beta1, beta2, eps):
    """Adamax (Kingma & Ba 2015, algorithm 2): the infinity norm instead of the second moment."""
    exp_avg = beta1 * exp_avg + one_minus_beta1 * g
    decayed, size = beta2 * exp_inf, abs(g) + eps
    exp_inf = size if size > decayed or size != size else decayed  # keeps a NaN from either side, unlike `max`
    return p - step_size * exp_avg / exp_inf, exp_avg, exp_inf


def adamax_scalars(t, lr, beta1, beta2, eps):
    """Scalars of `adamax`: only the first moment is bias-corrected."""
    return lr / (1.0 - math.pow(beta1, float(t))), beta1, 1.0 - beta1, beta2, eps


def nadam(
    p, g, exp_avg, exp_avg_sq, by_g, by_m, inv_sqrt_c2, beta1, one_minus_beta1, beta2, one_minus_beta2, eps
):  # fmt: skip
    """NAdam (Dozat 2016): Adam with Nesterov's momentum."""
    exp_avg = beta1 * exp_avg + one_minus_beta1 * g
    exp_avg_sq = beta2 * exp_avg_sq + one_minus_beta2 * (g * g)
    denominator = math.sqrt(exp_avg_sq) * inv_sqrt_c2 + eps
    return p - by_g * g / denominator - by_m * exp_avg / denominator, exp_avg, exp_avg_sq


def nadam_momentum(t: float, beta1: float, momentum_decay: float) -> float:
    """Momentum of step `t` in NAdam's schedule."""
    return beta1 * (1.0 - 0.5 * math.pow(0.96, t * momentum_decay))


def nadam_scalars(t, lr, beta1, beta2, eps, momentum_decay, mu_product):
    """Scalars of `nadam`; `mu_product` is the product of the momenta of all earlier steps."""
    mu, mu_next = nadam_momentum(t, beta1, momentum_decay), nadam_momentum(t + 1, beta1, momentum_decay)
    product = mu_product * mu
    by_g, by_m = lr * (1.0 - mu) / (1.0 - product), lr * mu_next / (1.0 - product * mu_next)
    inv_sqrt_c2 = 1.0 / math.sqrt(1.0 - math.pow(beta2, float(t)))
    return by_g, by_m, inv_sqrt_c2, beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps


def nadam_carry(t, lr, beta1, beta2, eps, momentum_decay, mu_product):
    """Product of the momenta up to and including step `t`."""
    return mu_product * nadam_momentum(t, beta1, momentum_decay)


def radam(p, g, exp_avg, exp_avg_sq, step_size, rectified, beta1, one_minus_beta1, beta2, one_minus_beta2, eps):
    """RAdam (Liu et al. 2020): the second moment is only used once enough steps have estimated it."""
    exp_avg = beta1 * exp_avg + one_minus_beta1 * g
    exp_avg_sq = beta2 * exp_avg_sq + one_minus_beta2 * (g * g)
    scaled = step_size * exp_avg
    by_root = scaled / (math.sqrt(exp_avg_sq) + eps)
    return p - (by_root if rectified > 0 else scaled), exp_avg, exp_avg_sq


def radam_scalars(t, lr, beta1, beta2, eps):
    """Scalars of `radam`, which switches when the length of the moving average, rho, exceeds 5."""
    c1, power = 1.0 - math.pow(beta1, float(t)), math.pow(beta2, float(t))
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * t * power / (1.0 - power)
    step_size, rectified = lr / c1, 0.0
    if rho > 5.0:
        variance = (rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)
        step_size, rectified = step_size * math.sqrt(variance) * math.sqrt(1.0 - power), 1.0
    return step_size, rectified, beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps


def lion(p, g, exp_avg, lr, beta1, one_minus_beta1, beta2, one_minus_beta2):
    """Lion (Chen et al. 2023, algorithm 2): step along the sign of an interpolated momentum. NaN stays NaN."""
    direction = beta1 * exp_avg + one_minus_beta1 * g
    step = lr if direction > 0 else -lr if direction < 0 else direction
    return p - step, beta2 * exp_avg + one_minus_beta2 * g


def lion_scalars(t, lr, beta1, beta2):
    """Scalars of `lion`: independent of the step."""
    return lr, beta1, 1.0 - beta1, beta2, 1.0 - beta2


# --- weight decay -----------------------------------------------------------------------------------------------------


def coupled_decay(p, g, weight_decay):
    """L2 regularisation: the gradient of the penalty is added to the gradient, and so enters the moments."""
    return g + weight_decay * p


def decoupled_decay(p, keep):
    """Decoupled weight decay (Loshchilov & Hutter 2019): `keep` = 1 - lr*weight_decay shrinks p before the update."""
    return p * keep


# --- clipping ---------------------------------------------------------------------------------------------------------


def clip_factor(norm: float, max_norm: float) -> float:
    """Factor that bounds the norm of a gradient, as `torch.nn.utils.clip_grad_norm_` has it; NaN stays NaN."""
    factor = max_norm / (norm + 1e-6)
    return 1.0 if factor > 1.0 else factor


# --- averages ---------------------------------------------------------------------------------------------------------


def ema(average, new, weight):
    """Exponential moving average; `weight` is the weight of the new value."""
    return average + weight * (new - average)


# --- the family -------------------------------------------------------------------------------------------------------

_BETAS = ("lr", "beta1", "beta2", "eps")

_RMSPROP = ("lr", "alpha", "eps")

SGD = Rule("sgd", sgd, sgd_scalars, (), ("lr",))

MOMENTUM = Rule("momentum", momentum, momentum_scalars, ("momentum_buffer",), ("lr", "momentum", "dampening"))

NESTEROV = MOMENTUM._replace(name="nesterov", update=nesterov)

VELOCITY = Rule("velocity", velocity, velocity_scalars, ("velocity",), ("lr", "momentum"))

VELOCITY_NESTEROV = VELOCITY._replace(name="velocity_nesterov", update=velocity_nesterov)

KEEP = Rule("keep", keep, keep_scalars, ("gradient",), ())

RMSPROP = Rule("rmsprop", rmsprop, rmsprop_scalars, ("square_avg",), _RMSPROP, positive=("square_avg",))

RMSPROP_CENTERED = Rule(
    "rmsprop_centered", rmsprop_centered, rmsprop_scalars, ("square_avg", "grad_avg"), _RMSPROP,
    positive=("square_avg",),
)  # fmt: skip

RMSPROP_MOMENTUM = Rule(
    "rmsprop_momentum", rmsprop_momentum, rmsprop_momentum_scalars,
    ("square_avg", "momentum_buffer"), (*_RMSPROP, "momentum"), positive=("square_avg",),
)  # fmt: skip

RMSPROP_CENTERED_MOMENTUM = Rule(
    "rmsprop_centered_momentum", rmsprop_centered_momentum, rmsprop_momentum_scalars,
    ("square_avg", "grad_avg", "momentum_buffer"), (*_RMSPROP, "momentum"), positive=("square_avg",),
)  # fmt: skip

ADAGRAD = Rule("adagrad", adagrad, adagrad_scalars, ("sum",), ("lr", "lr_decay", "eps"), positive=("sum",))

ADADELTA = Rule(
    "adadelta", adadelta, adadelta_scalars, ("square_avg", "acc_delta"), ("lr", "rho", "eps"),
    positive=("square_avg", "acc_delta"),
)  # fmt: skip

ADAM = Rule("adam", adam, adam_scalars, ("m", "v"), _BETAS, positive=("v",))

AMSGRAD = Rule("amsgrad", amsgrad, adam_scalars, ("m", "v", "v_max"), _BETAS, positive=("v", "v_max"))

ADAM_HAT = ADAM._replace(name="adam_hat", scalars=adam_hat_scalars)

AMSGRAD_HAT = AMSGRAD._replace(name="amsgrad_hat", scalars=adam_hat_scalars)

ADAMAX = Rule("adamax", adamax, adamax_scalars, ("exp_avg", "exp_inf"), _BETAS, positive=("exp_inf",))

NADAM = Rule(
    "nadam", nadam, nadam_scalars, ("exp_avg", "exp_avg_sq"), (*_BETAS, "momentum_decay", "mu_product"),
    positive=("exp_avg_sq",), carry=nadam_carry,
)  # fmt: skip

RADAM = Rule("radam", radam, radam_scalars, ("exp_avg", "exp_avg_sq"), _BETAS, positive=("exp_avg_sq",))

LION = Rule("lion", lion, lion_scalars, ("exp_avg",), ("lr", "beta1", "beta2"))
