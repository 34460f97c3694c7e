"""Colours and helpers shared by the figures of the examples."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#404040"
"""Colours of Okabe and Ito's palette, which is suitable for colour-blind readers, and grey."""
IDENTITY = "predicted = actual"
IMAGES = Path("docs/images")
"""Folder of the documentation's figures, relative to the root of the repository."""


def remove_frame(axes: Axes) -> None:
    """Remove the two sides without ticks."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write the figure, and print its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(path)
