"""How much is tried: `make test` takes some cases of each kind, `make test-all` takes every one.

Under `pytest --full`, or with the variable FASTADAM_FULL_TESTS set, every test runs with every case. Otherwise

- tests marked `slow` are left out;
- of a test marked `thin(n)`, n cases run, chosen so that each value of each parameter comes up in as few cases as
  possible, the same ones each time;
- hypothesis tries a fifth of the examples, by `examples(n)` and by the profile in `conftest.py`.
"""

import os

from hypothesis import settings

FULL_VARIABLE = "FASTADAM_FULL_TESTS"


def is_full():
    """Whether every case runs."""
    return bool(os.environ.get(FULL_VARIABLE))


def examples(count, **options):
    """Settings of hypothesis for a number of examples, of which a quick run tries a fifth."""
    return settings(max_examples=count if is_full() else max(count // 5, 5), **options)


def spread(cases, count):
    """Choose `count` of the cases, each a mapping of parameters to values, with as many values among them as possible.

    Of cases that add equally many, the one that is farthest from those chosen is taken: it differs from each of them in
    the most parameters.
    """
    chosen, seen = [], set()

    def gain(k):
        distances = [sum(cases[k][name] != cases[j][name] for name in cases[k]) for j in chosen]
        return len(set(cases[k].items()) - seen), min(distances, default=0), -k

    while len(chosen) < min(count, len(cases)):
        chosen.append(max((k for k in range(len(cases)) if k not in chosen), key=gain))
        seen |= set(cases[chosen[-1]].items())
    return sorted(chosen)
