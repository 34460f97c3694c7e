"""A quick run takes fewer cases, and the same ones each time, with every value of every parameter among them."""

from itertools import product

import pytest
from hypothesis import settings

from tests.helpers.effort import FULL_VARIABLE, examples, spread


def cases_of(*sizes):
    return [dict(enumerate(values)) for values in product(*map(range, sizes))]


@pytest.mark.parametrize("sizes", [(7,), (3, 2), (9, 2, 2), (4, 4, 4)])
def test_as_many_cases_as_the_longest_parameter_has_values_have_every_value(sizes):
    cases = cases_of(*sizes)
    chosen = spread(cases, max(sizes))
    assert len(chosen) == len(set(chosen)) == max(sizes)
    for name, size in enumerate(sizes):
        assert {cases[k][name] for k in chosen} == set(range(size))
    assert chosen == spread(cases, max(sizes))


def test_no_more_cases_are_chosen_than_there_are():
    assert spread(cases_of(2, 2), 9) == [0, 1, 2, 3]


def test_examples_are_fewer_in_a_quick_run(monkeypatch):
    monkeypatch.delenv(FULL_VARIABLE, raising=False)
    assert examples(100).max_examples == 20
    assert examples(3).max_examples == 5
    monkeypatch.setenv(FULL_VARIABLE, "1")
    assert examples(100, deadline=None).max_examples == 100
    assert isinstance(examples(5), settings)
