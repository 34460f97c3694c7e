"""Parts of a step that the backends share: columns of its tables, its description, the preparation before the rule."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastadam.formulas import rules
from fastadam.formulas.backend import Backend

P_AT, OFFSET, SIZE, GROUP, COPY_AT, G_AT = range(6)
"""Entries of the table of segments, which has a segment for each array of parameters and one for the end: address of
the parameters, first element in the virtual concatenation, size, row of the group in the settings, address of the copy,
and address of the gradient; addresses of more gradients follow if several are summed."""

DECAY, ACTIVE, HYPER = 0, 1, 2
"""Columns of the settings, which have a row for each group: scalar of the weight decay, whether the group is trained,
and from `HYPER` on the hyper-parameters of the rule."""

EXTRA = 0
"""First row of the settings, which belongs to no group."""

SCALE, CLIP, EMA, SEED = range(4)
"""Its columns: factor of the gradient, bound of its elements, weight of the new parameter in the average. The loops
also get the seeds of the dither there, one for each state."""


class StepSpec(NamedTuple):
    """Description of a step, compiled into its kernel: a rule, and all that is done in the same pass."""

    rule: rules.Rule
    decay: str = "none"
    """ "none", "coupled" or "decoupled". """
    maximize: bool = False
    scale: bool = False
    """Multiply the gradient by a factor, which may clip it by norm."""
    clip: bool = False
    """Bound each element of the gradient."""
    ema: bool = False
    """Keep an exponential moving average of the parameters, after the states of the rule."""
    zero_grad: bool = False
    """Leave zeros where the gradient was."""
    sums: bool = False
    """Sum several rows of gradients."""
    state: str = ""
    """Form of the state: "bfloat16", "uint8", or "" for the type of the parameters."""
    grad: str = ""
    """Form of the gradient: "float16", "bfloat16", or "" for the type of the parameters."""
    copy: str = ""
    """Form of a copy of the new parameters: "float16", "bfloat16", or "" for no copy."""

    def __str__(self) -> str:
        flags = [name for name, value in self._asdict().items() if value is True]
        stored = [f"{name}_{getattr(self, name)}" for name in ("state", "grad", "copy") if getattr(self, name)]
        return "_".join([self.rule.name, self.decay, *flags, *stored])


MAX_STATES = 4
"""Maximum number of states of a rule."""


def carried_column(rule: rules.Rule) -> int:
    """Column of the settings that a step changes, for a rule with `carry`: that of its last hyper-parameter."""
    return HYPER + len(rule.hyper) - 1


def preparation(spec: StepSpec, backend: Backend) -> Callable[..., Any]:
    """Compile the preparation before the rule: scale, bound and sign of the gradient, and weight decay.

    The order is PyTorch's.
    """
    coupled_decay, decoupled_decay = backend(rules.coupled_decay), backend(rules.decoupled_decay)
    scale, clip, maximize = spec.scale, spec.clip, spec.maximize
    coupled, decoupled = spec.decay == "coupled", spec.decay == "decoupled"

    @backend
    def prepare(pi, gi, decay, extra):
        if scale:
            gi = gi * extra[SCALE]
        if clip:  # written so that NaN stays NaN
            gi = -extra[CLIP] if gi < -extra[CLIP] else extra[CLIP] if gi > extra[CLIP] else gi
        if maximize:
            gi = -gi
        if coupled:
            gi = coupled_decay(pi, gi, decay)
        if decoupled:
            pi = decoupled_decay(pi, decay)
        return pi, gi

    return prepare


def clipping(spec: StepSpec) -> StepSpec:
    """Describe the update of a gradient that includes the penalty already, and is scaled to a bound first."""
    return spec._replace(decay="none" if spec.decay == "coupled" else spec.decay, scale=True)
