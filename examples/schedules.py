"""Figure of all learning-rate schedules of `fastadam.schedules`.

Run `python examples/schedules.py`, which requires matplotlib and writes `docs/images/schedules.png`.
"""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from matplotlib.figure import Figure

from fastadam import schedules

STEPS = 100
BLUE, ORANGE = "#0072b2", "#d55e00"


def wave(t: int) -> float:
    """Compute a damped wave, as an example of a user-defined schedule."""
    return math.exp(-t / 40) * (1 + math.cos(t / 4)) / 2


CALLS = [
    "Constant(1)",
    "Step(1, step_size=25, gamma=0.5)",
    "MultiStep(1, milestones=[20, 40, 80],\n          gamma=0.5)",
    "Exponential(1, gamma=0.96)",
    "Linear(1, start_factor=0.1, total_iters=40)",
    "Polynomial(1, total_iters=90, power=2)",
    "Cosine(1, T_max=100)",
    "CosineWarmRestarts(1, T_0=14, T_mult=2)",
    "OneCycle(1, total_steps=100)",
    "OneCycle(1, total_steps=100, three_phase=True,\n         anneal_strategy='linear')",
    "Warmup(Cosine(1, T_max=80), steps=20)",
    "Sequential([0.3, Exponential(1, 0.95)],\n           milestones=[30])",
    "Product([Linear(1, 1, 0.2, total_iters=100),\n         lambda t: 1 - 0.5 * (t % 20) / 20])",
    "wave",
    "Plateau(1, factor=0.5, patience=8)",
]
"""Expressions that create the schedules, which are also the titles of the panels."""


def metric(t: int) -> float:
    """Compute a loss that stops decreasing at times, for `Plateau` to monitor."""
    return 0.55 + 0.4 * 0.5 ** ((t // 35) + min(t % 35, 12) / 12)


def rates(schedule: Any) -> list[float]:
    """Return the rates that a scheduler sets in an optimizer."""
    optimizer = SimpleNamespace(lr=None)
    scheduler = schedules.Scheduler(optimizer, schedule)
    found = []
    for t in range(STEPS):
        found.append(optimizer.lr)
        scheduler.step(metric(t))
    return found


def draw() -> Figure:
    """Draw a panel per schedule."""
    figure = Figure(figsize=(13, 13), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04)
    panels = figure.subplots(5, 3, sharex=True, sharey=True)
    for axes, call in zip(panels.flat, CALLS, strict=True):
        schedule = eval(call, {**vars(schedules), "wave": wave})
        axes.plot(rates(schedule), color=BLUE, linewidth=2.2, drawstyle="steps-post")
        axes.set_title(call, loc="left", fontsize=10.5, family="monospace")
        axes.set(xlim=(0, STEPS), ylim=(0, 1.06), xticks=[0, 25, 50, 75, 100], yticks=[0, 0.5, 1])
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    axes.plot([metric(t) for t in range(STEPS)], color=ORANGE, linestyle="--")
    axes.text(70, 0.72, "the monitored\nmetric", color=ORANGE, fontsize=10)
    for axes in panels[:, 0]:
        axes.set_ylabel("learning rate")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    return figure


def main(path: Path = Path("docs/images/schedules.png")) -> None:
    """Draw the figure and write it."""
    draw().savefig(path, dpi=100)
    print(path)


if __name__ == "__main__":
    main()
