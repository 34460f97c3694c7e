"""Compilation of formulas for a backend, the same way for all of them.

A formula is a plain function of scalars that calls `math`, `max` and `min`, and other formulas. A `Backend` compiles it
together with all that it calls, and replaces these primitives by its own. Functions that are written out for a number
of states come from `from_text`.
"""

import builtins
import dis
import math
from collections.abc import Callable, Mapping
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

NUMPY_MATH = SimpleNamespace(**vars(math) | {"sqrt": np.sqrt, "exp": np.exp, "log": np.log})
"""`math` for formulas that run uncompiled: roots have the type of their argument, and are NaN below zero."""


class Backend:
    """Compiles formulas for one backend.

    Parameters
    ----------
    decorator : callable
        Compiles a function that compiled code calls.
    primitives : mapping
        Replacements for objects that a formula names: the module `math`, a builtin, a function of `formulas.storage`.
    """

    def __init__(self, decorator: Callable[..., Any], primitives: Mapping[Any, Any]) -> None:
        self._decorator = decorator
        self._primitives = dict(primitives)
        self._compiled: dict[Any, Any] = dict(primitives)

    def __call__(self, formula: Callable[..., Any]) -> Any:
        """Compile a formula, with the formulas that it calls; each is compiled once."""
        if formula not in self._compiled:
            self._compiled[formula] = self._decorator(self._bound(formula))
        return self._compiled[formula]

    def _bound(self, formula: Callable[..., Any]) -> Any:
        """Copy a formula so that its names refer to the objects of this backend."""
        assert isinstance(formula, FunctionType)
        own = dict(formula.__globals__)
        for name in _globals_read_by(formula):
            meant: Any = own.get(name, getattr(builtins, name, None))
            if _is_hashable(meant) and (meant in self._primitives or _is_formula(meant)):
                own[name] = self(meant)
        return FunctionType(formula.__code__, own, formula.__name__, formula.__defaults__, formula.__closure__)


def _globals_read_by(function: FunctionType) -> set[str]:
    """Names that a function looks up in its module, without attributes such as the `sqrt` of `math.sqrt`."""
    return {found.argval for found in dis.get_instructions(function) if found.opname == "LOAD_GLOBAL"}


def _is_formula(value: Any) -> bool:
    return isinstance(value, FunctionType) and value.__module__.startswith(__package__ + ".")


def _is_hashable(value: Any) -> bool:
    return type(value).__hash__ is not None


def from_text(head: str, *lines: str, **names: Any) -> Any:
    """Make a function from its text, for code that is repeated for each of several values.

    Parameters
    ----------
    head : str
        Name and arguments: "load(state, i)".
    *lines : str
        The body.
    **names
        Objects that the body may use besides the arguments.

    Returns
    -------
    function
        The function, not compiled.

    Examples
    --------
    >>> from fastadam.formulas.backend import from_text, repeated
    >>> pair = from_text("pair(x)", f"return ({repeated('x + {k}, ', 2)})")
    >>> pair(3)
    (3, 4)
    """
    namespace: dict[str, Any] = {"__name__": __name__, **names}
    exec("\n    ".join([f"def {head}:", *lines]) + "\n", namespace)
    return namespace[head.partition("(")[0]]


def repeated(part: str, count: int) -> str:
    """Repeat a part of a text for k = 0, 1, ..."""
    return "".join(part.format(k=k) for k in range(count))
