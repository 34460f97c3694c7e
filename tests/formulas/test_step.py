"""Description of a step: its name, its columns, and what precedes the rule."""

import math
from itertools import product

from fastadam.formulas import rules
from fastadam.formulas.backend import Backend
from fastadam.formulas.step import HYPER, StepSpec, carried_column, clipping, preparation

RULES = [rules.ADAM, rules.AMSGRAD, rules.ADAM_HAT, rules.AMSGRAD_HAT]
VARIANTS = [StepSpec(*flags) for flags in product(RULES, ["none", "coupled", "decoupled"], [False, True])]


def test_every_variant_has_a_name_of_its_own_in_the_cache():
    flags = [{}, *({name: True} for name in ("scale", "clip", "ema", "zero_grad"))]
    variants = [spec._replace(**flag) for spec in VARIANTS for flag in flags]
    assert len({str(spec) for spec in variants}) == len(variants)


def test_a_step_changes_the_last_hyper_parameter():
    assert rules.NADAM.hyper[carried_column(rules.NADAM) - HYPER] == "mu_product"


def prepared(spec, p, g, decay=0.5, extra=(3.0, 2.0)):
    return preparation(spec, Backend(lambda function: function, {}))(p, g, decay, extra)


def test_before_the_rule_a_gradient_is_scaled_then_bounded_then_turned_then_decayed():
    spec = StepSpec(rules.ADAM, "coupled", maximize=True, scale=True, clip=True)
    assert prepared(spec, 10.0, 1.0) == (10.0, -2.0 + 0.5 * 10.0)
    assert prepared(spec, 10.0, -1.0) == (10.0, 2.0 + 0.5 * 10.0)
    assert prepared(spec, 10.0, -0.5) == (10.0, 1.5 + 0.5 * 10.0)
    assert prepared(spec._replace(decay="decoupled"), 10.0, 1.0) == (5.0, -2.0)
    assert prepared(StepSpec(rules.ADAM), 10.0, 1.0) == (10.0, 1.0)


def test_nan_passes_the_bound():
    assert math.isnan(prepared(StepSpec(rules.ADAM, clip=True), 1.0, math.nan)[1])


def test_a_clipped_update_has_the_penalty_in_its_gradient_already():
    assert clipping(StepSpec(rules.ADAM, "coupled")) == StepSpec(rules.ADAM, "none", scale=True)
    assert clipping(StepSpec(rules.ADAM, "decoupled")) == StepSpec(rules.ADAM, "decoupled", scale=True)
