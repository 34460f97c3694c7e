"""Docstrings with shared texts: a text is written once, and each docstring that contains it names it in braces."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_Documented = TypeVar("_Documented", bound=Callable[..., Any])


def fill(docstring: str, **texts: str) -> str:
    """Replace each `{name}` in a docstring by the text of that name; other braces are left as they are.

    Examples
    --------
    >>> from fastadam._docs import fill
    >>> fill("Add {what}: {'a': 1}.", what="an entry")
    "Add an entry: {'a': 1}."
    """
    filled = inspect.cleandoc(docstring)
    for name, text in texts.items():
        filled = filled.replace("{" + name + "}", text.strip())
    return filled


def fill_docstring(**texts: str) -> Callable[[_Documented], _Documented]:
    """Make a decorator that fills the docstring of a class or function with texts, as `fill` does.

    Examples
    --------
    >>> from fastadam._docs import fill_docstring
    >>> @fill_docstring(where="in place")
    ... def sort(values):
    ...     '''Sort the values, {where}.'''
    >>> sort.__doc__
    'Sort the values, in place.'
    """

    def decorate(documented: _Documented) -> _Documented:
        if documented.__doc__ is not None:  # `python -OO` drops docstrings
            documented.__doc__ = fill(documented.__doc__, **texts)
        return documented

    return decorate
