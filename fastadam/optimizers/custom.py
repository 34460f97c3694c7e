"""Optimizers from custom rules: a scalar function for one element becomes a compiled step for all parameters."""

import dis
import inspect
import linecache
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numba.core import types

from fastadam._checks import number
from fastadam.cpu.arrays import Arrays
from fastadam.cpu.jit import JIT_DISABLED, formula
from fastadam.formulas import rules
from fastadam.formulas.step import MAX_STATES
from fastadam.optimizers.base import Optimizer
from fastadam.optimizers.settings import Number, Options


def optimizer(
    rule: Callable[..., Any],
    /,
    *,
    state: Sequence[str] = (),
    positive: Sequence[str] = (),
    scalars: Callable[..., tuple[float, ...]] | None = None,
    **defaults: float,
) -> type[Optimizer]:
    """Make an optimizer class from a scalar rule.

    Parameters
    ----------
    rule : callable
        Function `rule(p, g, *state, *hyper)` that returns the new parameter or, if there is a state, a tuple of the
        parameter and the state. It is compiled by Numba and called for each element, with numbers of the type of the
        parameters. A function decorated by `numba.njit` is accepted, and is compiled again.
    state : sequence of str, default=()
        Names of the states of each element, at most four, which are zero before the first step.
    positive : sequence of str, default=()
        Names of the states that are never negative, such as sums of squares. They are used only with
        `state_dtype="uint8"`, which then stores no nonzero value as zero, so that the rule can divide by it.
    scalars : callable, optional
        Function `scalars(t, *hyper)` that is called once per step, with the number of the step, counted from 1. It
        returns a tuple of the arguments of `rule` after the state, and computes in float64. By default, these arguments
        are the hyper-parameters.
    **defaults : float
        Default values of the hyper-parameters, whose names are those of the arguments of `rule` after the state, or of
        `scalars` after `t`. Defaults can also be those of these arguments. Hyper-parameters without a default are
        required when an optimizer is made.

    Returns
    -------
    type
        A class with the methods of `fastadam.Adam`. It takes the parameters and, by keyword, the hyper-parameters,
        `weight_decay` (coupled), `maximize` and the options of `fastadam.optimizers`.

    Raises
    ------
    TypeError
        If `rule` or `scalars` is not a plain function, or cannot be compiled (the message shows the line and Numba's
        reason); if it takes too few arguments or returns a wrong number of values; if a default is not a number, or is
        not for a hyper-parameter.
    ValueError
        If there are more than four states, `positive` has a name that `state` does not have, a default is not finite,
        or a name is used twice or is reserved, such as `weight_decay`.

    Notes
    -----
    A constant in a rule, such as 0.5, is a float64, and so are the results of operations with it. If it is passed as a
    hyper-parameter instead, float32 parameters are updated entirely in float32, which is faster. Values that a rule
    reads from outside, such as a global number or another compiled function, are fixed when it is compiled.

    Kernels of the class are not cached on disk, since the cache cannot detect changes of the rule: each process
    compiles them at the first step, in about a second. Optimizers of the class can be pickled if the class can be
    imported by its name, which is that of the rule in CamelCase: `MyRule` for a rule `my_rule`.

    Examples
    --------
    Momentum with bounded steps:

    >>> import numpy as np
    >>> import fastadam
    >>> def bounded(p, g, buffer, lr, momentum, bound):
    ...     buffer = momentum * buffer + g
    ...     step = min(max(lr * buffer, -bound), bound)
    ...     return p - step, buffer
    >>> Bounded = fastadam.optimizer(bounded, state=["buffer"], lr=0.1, momentum=0.9, bound=0.5)
    >>> p = np.array([100.0, -1.0])
    >>> optimizer = Bounded(p, bound=1.0)
    >>> for _ in range(300):
    ...     optimizer.step(2 * p)
    >>> bool(np.abs(p).max() < 1e-3)
    True
    """
    rule = _plain_function("rule", rule)
    scalars = None if scalars is None else _plain_function("scalars", scalars)
    states = _checked_names("state", state)
    if not set(_checked_names("positive", positive)) <= set(states):
        raise ValueError(f"positive must have names in state, {list(states)}, got {list(positive)}")
    names = _argument_names("rule", rule, ("p", "g", *states))
    hyper = names if scalars is None else _argument_names("scalars", scalars, ("t",))
    _check_free("state", states)
    _check_free("hyper-parameters", hyper, states)
    unknown = defaults.keys() - set(hyper)
    if unknown:
        raise TypeError(f"{min(unknown)!r} is not a hyper-parameter of {_name_of(rule)}, which has {list(hyper)}")
    defaults = _defaults_of(scalars or rule, hyper) | defaults
    checked = {name: number(name, value, "(-inf, inf)") for name, value in defaults.items()}
    made = rules.Rule(_name_of(rule), rule, scalars or _themselves, states, hyper, tuple(positive), cached=False)
    _check_compiles(made, len(names), scalars is not None)
    return _class_of(made, checked)


def _themselves(t, *hyper):  # type: ignore[no-untyped-def]
    """Return the hyper-parameters as scalars."""
    return hyper


# --- checks of the arguments ------------------------------------------------------------------------------------------

_USED = {
    "params", "stepper", "t", "ema", "frozen", "maximize", "weight_decay", *Options.__annotations__, *vars(Optimizer),
}  # fmt: skip
"""Names of arguments, attributes and entries of the `state_dict` that every optimizer has."""


def _plain_function(what: str, function: Any) -> Callable[..., Any]:
    """Return the plain function, also for one that Numba has compiled."""
    plain = getattr(function, "py_func", function)
    if not inspect.isfunction(plain):
        raise TypeError(f"{what} must be a plain function, got {function!r}")
    return plain


def _checked_names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{what} must be a sequence of names, got {names!r}")
    if len(names) > MAX_STATES or len(set(names)) < len(names):
        raise ValueError(f"{what} must have at most {MAX_STATES} names, each once, got {list(names)}")
    return tuple(names)


def _argument_names(what: str, function: Callable[..., Any], first: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the arguments after those in `first`."""
    signature = inspect.signature(function)
    if any(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in signature.parameters.values()):
        raise TypeError(f"{what} must have plain arguments only, no * and no **, got {signature}")
    names = tuple(signature.parameters)
    if len(names) < len(first):
        raise TypeError(f"{what} must take {', '.join(first)} first, got {signature}")
    return names[len(first) :]


def _defaults_of(function: Callable[..., Any], names: tuple[str, ...]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    given = {name: parameters[name].default for name in names}
    return {name: default for name, default in given.items() if default is not inspect.Parameter.empty}


def _check_free(what: str, names: tuple[str, ...], others: tuple[str, ...] = ()) -> None:
    """Raise if a name is reserved or already used."""
    for name in names:
        if name in _USED or name in others or name.startswith("_"):
            why = "begins with _" if name.startswith("_") else "is a state" if name in others else "is reserved"
            raise ValueError(f"{what} must have names of their own, got {name!r}, which {why}")


def _name_of(rule: Callable[..., Any]) -> str:
    """Name of the rule; "custom" for a lambda."""
    return rule.__name__ if rule.__name__.isidentifier() else "custom"


# --- compilation ------------------------------------------------------------------------------------------------------


def _check_compiles(rule: rules.Rule, taken: int, has_scalars: bool) -> None:
    """Compile the rule for float64, so that errors in it are found now and not at the first step."""
    if JIT_DISABLED:
        return
    if has_scalars:
        returned = _returned_by("scalars", rule.scalars, (types.int64, *(types.float64,) * len(rule.hyper)))
        if not _is_tuple(returned) or len(returned) != taken or not all(map(_is_number, returned)):
            raise TypeError(f"scalars must return a tuple of the {taken} numbers that rule takes, returns {returned}")
    returned = _returned_by("rule", rule.update, (types.float64,) * (2 + len(rule.states) + taken))
    values = tuple(returned) if rule.states and _is_tuple(returned) else (returned,)
    if len(values) != 1 + len(rule.states) or not all(map(_is_number, values)):
        expected = f"a tuple of the parameter and {list(rule.states)}" if rule.states else "the parameter"
        raise TypeError(f"rule must return {expected}, as real numbers, returns {returned}")


def _is_tuple(kind: types.Type) -> bool:
    return isinstance(kind, types.BaseTuple)  # type: ignore[attr-defined]


def _is_number(kind: types.Type) -> bool:
    return isinstance(kind, types.Float | types.Integer | types.Boolean)


def _returned_by(what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Compile a function, and return the type of its result."""
    compiled = formula(function)
    try:
        compiled.compile(arguments)
    except Exception as error:  # most are NumbaErrors, but an unknown attribute is an AttributeError
        raise TypeError(f"{what} cannot be compiled, {_line_of(function, error)}:\n{error}") from error
    return compiled.overloads[compiled.signatures[0]].signature.return_type


def _line_of(function: Callable[..., Any], error: Exception) -> str:
    """Find the line of the user's code that a message points at, or names something of; else the first line."""
    code = function.__code__
    own_file, own_lines = Path(code.co_filename).name, {line for *_, line in code.co_lines()}
    pointed_at = re.findall(r'File "([^"]*)", line (\d+)', str(error))
    lines = [int(line) for path, line in pointed_at if Path(path).name == own_file and int(line) in own_lines]
    named = set(re.findall(r"'(\w+)'", str(error)))
    places = [found.positions for found in dis.get_instructions(code) if found.argval in named]
    lines += [place.lineno for place in places if place and place.lineno]
    line = lines[0] if lines else code.co_firstlineno
    text = linecache.getline(code.co_filename, line).strip()
    return f"line {line} of {code.co_filename}" + (f': "{text}"' if text else "")


# --- the class --------------------------------------------------------------------------------------------------------


def _class_of(rule: rules.Rule, defaults: dict[str, float]) -> type[Optimizer]:
    name = "".join(part[:1].upper() + part[1:] for part in rule.name.split("_"))

    def initialise(
        self: Any, params: Arrays, *, weight_decay: float = 0.0, maximize: bool = False, **settings: Any
    ) -> None:
        given = defaults | {key: settings.pop(key) for key in rule.hyper if key in settings}
        missing = [key for key in rule.hyper if key not in given]
        if missing:
            raise TypeError(f"{name} needs the hyper-parameter {missing[0]!r}, which has no default")
        numbers = {key: given[key] for key in rule.hyper} | {"weight_decay": weight_decay}
        super(made, self).__init__(params, numbers, {"maximize": maximize}, settings)

    initialise.__qualname__ = f"{name}.__init__"  # with which Python's own messages begin
    namespace: dict[str, Any] = {
        "__module__": rule.update.__module__,
        "__doc__": rule.update.__doc__,
        "__signature__": _signature(rule.hyper, defaults, initialise),
        "__init__": initialise,
        "_choose_rule": lambda self: rule,
        "weight_decay": Number("Coupled weight decay."),
    }
    made: type[Optimizer] = type(
        name,
        (Optimizer,),
        namespace | {key: Number("Hyper-parameter of the rule.", "(-inf, inf)") for key in rule.hyper},
    )
    return made


def _signature(hyper: tuple[str, ...], defaults: dict[str, float], made_by: Callable[..., None]) -> inspect.Signature:
    """Signature with the hyper-parameters by name, for `help`."""
    _, params, *shared, options = inspect.signature(made_by).parameters.values()
    named = [inspect.Parameter(key, params.KEYWORD_ONLY, default=defaults.get(key, params.empty)) for key in hyper]
    return inspect.Signature([params, *named, *shared, options.replace(name="options")])
