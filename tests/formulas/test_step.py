"""Description of a step: its name, its columns, and what precedes the rule."""

from itertools import product

from fastadam.formulas import rules
from fastadam.formulas.step import HYPER, StepSpec, carried_column

RULES = [rules.ADAM, rules.AMSGRAD, rules.ADAM_HAT, rules.AMSGRAD_HAT]
VARIANTS = [StepSpec(*flags) for flags in product(RULES, ["none", "coupled", "decoupled"], [False, True])]


def test_every_variant_has_a_name_of_its_own_in_the_cache():
    flags = [{}, *({name: True} for name in ("scale", "clip", "ema", "zero_grad"))]
    variants = [spec._replace(**flag) for spec in VARIANTS for flag in flags]
    assert len({str(spec) for spec in variants}) == len(variants)


def test_a_step_changes_the_last_hyper_parameter():
    assert rules.NADAM.hyper[carried_column(rules.NADAM) - HYPER] == "mu_product"
