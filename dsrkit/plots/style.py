"""One look for every figure: colours that the colour-blind tell apart, and lines that differ in grey print too."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN = 4.2  # width in inches of one panel: text of 8 to 9 points stays readable in one column of a page

# Okabe & Ito, "Color universal design" (2008), without the yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"

_SETTINGS: Any = {  # a dictionary; matplotlib types its keys one by one
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=LINES),
}

P = ParamSpec("P")


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a plotting function under the kit's style, whatever the notebook has set."""

    @wraps(plot)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        open_before = plt.get_fignums()
        try:
            with plt.rc_context(_SETTINGS):
                return plot(*args, **kwargs)
        finally:
            # pyplot forgets it: a notebook shows it once, as the cell's value, half-drawn ones never, and memory stays free.
            for number in set(plt.get_fignums()) - set(open_before):
                plt.close(number)

    return wrapped


def panels(rows: int, columns: int, width: float = COLUMN, height: float = 2.9) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` × ``columns`` panels of ``width`` × ``height`` inches, and its axes as a 2-D array."""
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")


def look(number: int) -> dict[str, Any]:
    """Colour, line style and marker of curve ``number``; when the colours begin anew, the lines are one style further on."""
    shifted = number + number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[shifted % len(LINES)],
        "marker": MARKERS[shifted % len(MARKERS)],
    }


def hide_unused(axes: np.ndarray, used: int) -> list[Axes]:
    """The first ``used`` axes in reading order; the others are removed."""
    for unused in axes.flat[used:]:
        unused.remove()
    return list(axes.flat[:used])
