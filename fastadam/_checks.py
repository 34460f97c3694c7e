"""Checks of arguments: each function takes the name of an argument and its value, and returns the value to keep."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np

_INTERVALS: dict[str, Callable[[float], bool]] = {
    "[0, inf)": lambda number: 0 <= number < math.inf,
    "(0, inf)": lambda number: 0 < number < math.inf,
    "(0, inf]": lambda number: number > 0,
    "[0, inf]": lambda number: number >= 0,
    "[0, 1]": lambda number: 0 <= number <= 1,
    "[0, 1)": lambda number: 0 <= number < 1,
    "(-inf, inf)": math.isfinite,
    "[-inf, inf]": lambda number: not math.isnan(number),
}


@dataclass(frozen=True)
class Checked:
    """Base of dataclasses that check their fields: one of type `Annotated[float, check]` has the value of `check`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            for check in getattr(field.type, "__metadata__", ()):
                object.__setattr__(self, field.name, check(field.name, getattr(self, field.name)))


def real(name: str, value: float) -> float:
    """Convert any real number, NaN included, to a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:  # an integer or a fraction
        return math.inf if value > 0 else -math.inf


def number(name: str, value: float, interval: str = "[0, inf)") -> float:
    """Convert a number to a float, which must be in an interval."""
    result = real(name, value)  # before the comparison: 1 - 10**-30 is below 1, and its float is not
    if not _INTERVALS[interval](result):
        raise ValueError(f"{name} must be in {interval}, got {value!r}")
    return result


def positive(name: str, value: float) -> float:
    """Convert a finite number above 0 to a float."""
    return number(name, value, "(0, inf)")


def count(name: str, value: int, least: int = 1, most: float = math.inf) -> int:
    """Convert an integer between `least` and `most`, both included, to an int."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return int(value)


def flag(name: str, value: bool) -> bool:
    """Convert True or False, also NumPy's, to a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def items(name: str, value: Sequence[Any]) -> Sequence[Any]:
    """Return a list, a tuple, or another sequence that is not a string."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a list or tuple, got {value!r}")
    return value


def optional(check: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    """Return None, or what `check` returns for another value."""
    return None if value is None else check(name, value)


def ascending(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """Convert a sequence of integers in ascending order, each at least 0, to a tuple of ints."""
    counts = tuple(count(f"{name}[{k}]", item, 0) for k, item in enumerate(items(name, value)))
    if any(later < earlier for earlier, later in pairwise(counts)):
        raise ValueError(f"{name} must be in ascending order, got {value!r}")
    return counts


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """Return a value that must be one of `allowed`, which are all of one type."""
    if not isinstance(value, type(allowed[0])):
        raise TypeError(f"{name} must be one of {allowed}, got {value!r}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    return value


def check_entries(state: Any, expected: Iterable[str]) -> None:
    """Raise unless a state to load is a mapping that has the expected entries and no others."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping as state_dict returns it, got {type(state).__name__}")
    if set(state) != set(expected):
        raise ValueError(f"state must have the keys {sorted(expected)}, got {sorted(map(str, state))}")


def label(what: str, name: Any) -> str:
    """Name of an array in messages: that of the argument, with the key or index if it holds several arrays."""
    return what if name is None else f"{what}[{name!r}]"


def structure_error(what: str, expected: tuple[Any, ...], got: tuple[Any, ...]) -> ValueError | TypeError:
    """Error for arrays whose structure is not that of `params`; a structure is given by the names of its arrays."""

    def describe(names: tuple[Any, ...]) -> str:
        if names == (None,):
            return "one array"
        return f"a dict with the keys {list(names)}" if isinstance(names[0], str) else f"a list of {len(names)} arrays"

    kinds = [type(names[0]) if names else None for names in (expected, got)]
    error = ValueError if kinds[0] is kinds[1] or not (expected and got) else TypeError
    expected_text, got_text = (describe(names) if names else "an empty list or dict" for names in (expected, got))
    return error(f"{what} must have the structure of params, {expected_text}, got {got_text}")
