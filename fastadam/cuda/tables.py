"""Layouts of the small tables on a device that a step reads and writes."""

GRAD_SCALE, CLIP_VALUE, EMA_WEIGHT, MAX_NORM, SKIPS, IDLE = range(6)
"""First row of the settings, in float64: what belongs to no group. The rows of the groups follow, with the columns
of `formulas.step`."""

SETTINGS = 6
"""Length of the first row."""

T, SKIPPED, NONFINITE = range(3)
"""Counters, in int64: steps, skipped steps, and whether the last gradient was not finite."""

COUNTERS = 3
"""Number of counters."""

EXTRA_AT, SCALARS = 2, 5
"""Numbers that a step takes of each group, in the type of the parameters: `formulas.step.DECAY` and `ACTIVE`; from
`EXTRA_AT` on the factor of the gradient, the bound of its elements and the weight of the average; and from `SCALARS` on
the scalars of the rule."""
