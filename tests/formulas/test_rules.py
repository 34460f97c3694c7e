import ast
import inspect
import math
from fractions import Fraction

import numpy as np
import pytest

from fastadam.formulas import rules
from tests.helpers import naive

P, G, M, V, V_MAX = 1.25, -0.375, 0.5, 0.03, 0.04
BETA1, BETA2 = 0.9, 0.999
RULES = [value for value in vars(rules).values() if inspect.isfunction(value) and value.__module__ == rules.__name__]


def scalars(t, lr, eps, epsilon_hat=False):
    return (rules.adam_hat_scalars if epsilon_hat else rules.adam_scalars)(t, lr, BETA1, BETA2, eps)


def reference_from(t, **settings):
    """The naive reference, about to take step `t` with the state above."""
    reference = naive.Adam(np.array(P), betas=(BETA1, BETA2), **settings)
    reference.m, reference.v, reference.v_max, reference.t = np.array(M), np.array(V), np.array(V_MAX), t - 1
    reference.step(np.array(G))
    return reference


def test_rules_import_nothing_that_computes_but_math():
    tree = ast.parse(inspect.getsource(rules))
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules == ["math", "collections.abc", "typing"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_a_plain_function_with_a_docstring(rule):
    assert type(rule) is type(lambda: None)
    assert rule.__module__ == "fastadam.formulas.rules"
    assert rule.__doc__


@pytest.mark.parametrize("epsilon_hat", [False, True])
@pytest.mark.parametrize("t", [1, 2, 1000])
def test_adam_equals_the_naive_formula(t, epsilon_hat):
    p, m, v = rules.adam(P, G, M, V, *scalars(t, 0.1, 1e-3, epsilon_hat))
    reference = reference_from(t, lr=0.1, eps=1e-3, epsilon_hat=epsilon_hat)
    assert (p, m, v) == (reference.p, reference.m, reference.v)


@pytest.mark.parametrize("v_max", [0.0, V_MAX, math.inf])
def test_amsgrad_keeps_the_maximum_of_the_raw_second_moment(v_max):
    p, m, v, new_v_max = rules.amsgrad(P, G, M, V, v_max, *scalars(3, 0.1, 1e-3))
    assert new_v_max == max(v_max, BETA2 * V + (1 - BETA2) * (G * G)) == max(v_max, v)
    if v_max == V_MAX:
        reference = reference_from(3, lr=0.1, eps=1e-3, amsgrad=True)
        assert (p, m, v, new_v_max) == (reference.p, reference.m, reference.v, reference.v_max)


def test_coupled_decay_changes_the_gradient_and_decoupled_decay_the_parameter():
    p, m, v = rules.adam(P, rules.coupled_decay(P, G, 0.2), M, V, *scalars(3, 0.1, 1e-3))
    reference = reference_from(3, lr=0.1, eps=1e-3, weight_decay=0.2)
    assert (p, m, v) == (reference.p, reference.m, reference.v)
    p, m, v = rules.adam(rules.decoupled_decay(P, 1 - 0.1 * 0.2), G, M, V, *scalars(3, 0.1, 1e-3))
    reference = reference_from(3, lr=0.1, eps=1e-3, weight_decay=0.2, decoupled_weight_decay=True)
    assert (p, m, v) == (reference.p, reference.m, reference.v)


@pytest.mark.parametrize("t", [1, 2, 10, 1000])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.99, 0.9999)])
def test_bias_correction_is_exact_in_float64(t, betas):
    c1, c2 = (float(1 - Fraction(beta) ** t) for beta in betas)
    step_size, inv_sqrt_c2, *_ = rules.adam_scalars(t, 0.1, *betas, 1e-8)
    assert step_size == pytest.approx(0.1 / c1, rel=1e-12)
    assert inv_sqrt_c2 == pytest.approx(1 / math.sqrt(c2), rel=1e-12)
    step_size, inv_sqrt_c2, *_ = rules.adam_hat_scalars(t, 0.1, *betas, 1e-8)
    assert step_size == pytest.approx(0.1 * math.sqrt(c2) / c1, rel=1e-12)
    assert inv_sqrt_c2 == 1.0


def test_without_eps_both_conventions_are_one_formula():
    p, *_ = rules.adam(P, G, M, V, *scalars(3, 0.1, 0.0, False))
    p_hat, *_ = rules.adam(P, G, M, V, *scalars(3, 0.1, 0.0, True))
    assert p == pytest.approx(p_hat, rel=1e-15)


def test_the_first_step_of_adam_is_lr_times_the_sign_of_the_gradient():
    for g in (1e-3, -7.0):
        p, *_ = rules.adam(0.0, g, 0.0, 0.0, *scalars(1, 0.1, 0.0))
        assert p == pytest.approx(-math.copysign(0.1, g), rel=1e-15)
