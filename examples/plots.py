"""What the figures of the examples have in common."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#404040"
"""Of Okabe and Ito's colours, which everyone can tell apart; and grey."""
IDENTITY = "predicted = actual"
IMAGES = Path("docs/images")
"""Where the figures of the documentation are, seen from the root of the repository."""


def remove_frame(axes: Axes) -> None:
    """Leave the two sides that have ticks."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write the figure, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(path)
