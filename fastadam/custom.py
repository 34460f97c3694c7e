"""An optimizer from a rule of your own: write what happens to one element, get the compiled step around it."""

import inspect
import linecache
import re
from collections.abc import Callable, Sequence
from typing import Any

from numba.core import types
from numba.core.errors import NumbaError

from fastadam import rules
from fastadam._arrays import Arrays
from fastadam._checks import number
from fastadam._optimizer import Number, Optimizer
from fastadam.cpu import MAX_STATES
from fastadam.jit import JIT_DISABLED, device


def optimizer(
    rule: Callable[..., Any],
    *,
    state: Sequence[str] = (),
    scalars: Callable[..., tuple[float, ...]] | None = None,
    **defaults: float,
) -> type[Optimizer]:
    """Make an optimizer class from a scalar rule.

    Parameters
    ----------
    rule : callable
        `rule(p, g, *state, *hyper)` returns the new parameter, or, with a state, a tuple of the parameter and the
        state. It is called for each element, with numbers of the type of the parameters; Numba compiles it.
    state : sequence of str, default=()
        Names of what each element has beside its parameter, at most four; all are zeros before the first step.
    scalars : callable, optional
        `scalars(t, *hyper)` is called once a step, with the step's number counted from 1, and returns a tuple of what
        `rule` takes behind the state; without it, that is the hyper-parameters themselves. It computes in float64.
    **defaults : float
        Defaults of hyper-parameters, whose names are those of the arguments of `rule` behind the state (of `scalars`
        behind `t`). One without a default must be given when an optimizer is made.

    Returns
    -------
    type
        A class with the methods of `fastadam.Adam`. It takes the parameters, then by keyword the hyper-parameters,
        `weight_decay` (coupled), `maximize` and the options of `fastadam.optimizers`.

    Raises
    ------
    TypeError
        If the rule or `scalars` is no plain function or cannot be compiled (the message shows its line and Numba's
        reason); if it takes too few arguments or returns another number of values; if a default is for no argument.
    ValueError
        If there are more than four states, or a name is used twice.

    Notes
    -----
    What the class makes cannot be kept on disk, since no cache could see an edit of your rule: each process compiles it
    at the first step, in about a second. For the same reason optimizers of such a class are pickled only where the class
    can be imported by its name, as is true of every class.

    Examples
    --------
    Momentum whose step never exceeds a bound:

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
    states = _checked_states(state)
    names = _argument_names("rule", rule, 2 + len(states), f"p, g{''.join(f', {name}' for name in states)}")
    hyper = names if scalars is None else _argument_names("scalars", scalars, 1, "t")
    unknown = defaults.keys() - set(hyper)
    if unknown:
        raise TypeError(f"{min(unknown)!r} is no hyper-parameter of {rule.__name__}, which has {list(hyper)}")
    made = rules.Rule(_plain_name(rule), rule, scalars or _themselves, states, hyper, cached=False)
    _check_compiles(made, len(names), scalars is not None)
    return _class_of(made, {name: number(name, value, "(-inf, inf)") for name, value in defaults.items()})


def _themselves(t, *hyper):  # type: ignore[no-untyped-def]
    """Scalars that are the hyper-parameters."""
    return hyper


def _checked_states(state: Sequence[str]) -> tuple[str, ...]:
    if isinstance(state, str) or not all(isinstance(name, str) for name in state):
        raise TypeError(f"state must be a sequence of names, got {state!r}")
    if len(state) > MAX_STATES or len(set(state)) < len(state) or "ema" in state:
        raise ValueError(f"state must have at most {MAX_STATES} names, each once and none 'ema', got {list(state)}")
    return tuple(state)


def _argument_names(what: str, function: Callable[..., Any], skipped: int, first: str) -> tuple[str, ...]:
    """The names of the arguments behind those that come first."""
    if not inspect.isfunction(function):
        raise TypeError(f"{what} must be a plain function, got {function!r}")
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        raise TypeError(f"{what} must have plain arguments only, no * and no **, got {inspect.signature(function)}")
    names = [parameter.name for parameter in parameters]
    if len(names) < skipped:
        raise TypeError(f"{what} must take {first} first, got the arguments {names}")
    return tuple(names[skipped:])


def _plain_name(rule: Callable[..., Any]) -> str:
    """The rule's name, also of a lambda."""
    return rule.__name__ if rule.__name__.isidentifier() else "custom"


def _check_compiles(rule: rules.Rule, taken: int, has_scalars: bool) -> None:
    """Compile the rule for float64, so that what is wrong with it shows now and not in the first step."""
    if JIT_DISABLED:
        return
    if has_scalars:
        returned = _returned_by("scalars", rule.scalars, (types.int64, *(types.float64,) * len(rule.hyper)))
        if not isinstance(returned, types.BaseTuple) or len(returned) != taken:
            raise TypeError(f"scalars must return a tuple of the {taken} values that rule takes, returns {returned}")
    returned = _returned_by("rule", rule.update, (types.float64,) * (2 + len(rule.states) + taken))
    count = len(returned) if isinstance(returned, types.BaseTuple) else 1
    if count != 1 + len(rule.states) or isinstance(returned, types.BaseTuple) != bool(rule.states):
        expected = f"a tuple of the parameter and {list(rule.states)}" if rule.states else "the parameter alone"
        raise TypeError(f"rule must return {expected}, returns {returned}")


def _returned_by(what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The type that a function returns, once it is compiled."""
    compiled = device(function)
    try:
        compiled.compile(arguments)
    except NumbaError as error:
        raise TypeError(f"{what} cannot be compiled{_line_of(function, error)}:\n{error}") from error
    return compiled.overloads[compiled.signatures[0]].signature.return_type


def _line_of(function: Callable[..., Any], error: NumbaError) -> str:
    """The user's own line that Numba's message points at, or nothing where it points at none."""
    path = function.__code__.co_filename
    numbers = [int(line) for line in re.findall(r'File "[^"]*?", line (\d+)', str(error))]
    first = function.__code__.co_firstlineno
    last = max((line for *_, line in function.__code__.co_lines() if line is not None), default=first)
    inside = [line for line in numbers if first <= line <= last]
    if not inside:
        return f" ({path}, line {first})"
    return f' at "{linecache.getline(path, inside[0]).strip()}" ({path}, line {inside[0]})'


def _class_of(rule: rules.Rule, defaults: dict[str, float]) -> type[Optimizer]:
    name = "".join(part.capitalize() for part in rule.name.split("_"))

    def __init__(
        self: Any, params: Arrays, *, weight_decay: float = 0.0, maximize: bool = False, **settings: Any
    ) -> None:
        numbers = defaults | {key: settings.pop(key) for key in rule.hyper if key in settings}
        missing = [key for key in rule.hyper if key not in numbers]
        if missing:
            raise TypeError(f"{name} needs the hyper-parameter {missing[0]!r}, which has no default")
        numbers = {key: numbers[key] for key in rule.hyper} | {"weight_decay": weight_decay}
        Optimizer.__init__(self, params, numbers, {"maximize": maximize}, settings)

    namespace: dict[str, Any] = {key: Number("A hyper-parameter of the rule.", "(-inf, inf)") for key in rule.hyper}
    namespace |= {"weight_decay": Number("Coupled weight decay."), "__init__": __init__, "__doc__": rule.update.__doc__}
    namespace |= {"_choose_rule": lambda self: rule, "__module__": rule.update.__module__}
    return type(name, (Optimizer,), namespace)
