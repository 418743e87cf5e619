"""One look for every figure, at the size of print: colours that the colour-blind tell apart, and lines that differ in grey too.

Sizes, fonts, colours and line patterns are in ``dsrkit.mplstyle``, a style file like any other of matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any, ParamSpec

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

STYLE_FILE = Path(__file__).with_name("dsrkit.mplstyle")
_SETTINGS: Any = matplotlib.rc_params_from_file(STYLE_FILE, use_default_template=False)

COLUMN = 3.4  # width in inches of one column of a paper
PAGE = 7.0  # and of both columns
UNDER = COLUMN - 0.25  # of a note beneath a figure: on a screen letters are hinted, and a twentieth wider than in print
SMALL = 7.0  # size in points of the smallest text

_cycle = _SETTINGS["axes.prop_cycle"].by_key()
COLOURS = tuple(_cycle["color"])
LINES = tuple(_cycle["linestyle"])
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")  # not in the style file: curves of thousands of points have none
GREY = "#666666"
_LONGEST = 120  # letters of a name that are shown; a note may have more

P = ParamSpec("P")


def in_style() -> Any:
    """A context in which matplotlib draws and saves with the kit's style, whatever else has been set."""
    return plt.rc_context(_SETTINGS)


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a plotting function under the kit's style, whatever the notebook has set."""

    @wraps(plot)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        open_before = plt.get_fignums()
        try:
            with in_style():
                return plot(*args, **kwargs)
        finally:
            # pyplot forgets it: a notebook shows it once, as the cell's value, half-drawn ones never, and memory stays free.
            for number in set(plt.get_fignums()) - set(open_before):
                plt.close(number)

    return wrapped


def panels(rows: int, columns: int, width: float = COLUMN, height: float = 2.4, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` × ``columns`` panels of ``width`` × ``height`` inches, and its axes as a 2-D array.

    ``shared`` goes to ``plt.subplots``: ``sharex=True`` and the like.
    """
    size = (width * columns, height * rows)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **shared)


def look(number: int) -> dict[str, Any]:
    """Colour, line pattern and marker of curve ``number``; nine all differ, then the patterns move one colour further on."""
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


def text_width(line: str, size: float = SMALL) -> float:
    """How wide a line of plain text is, in inches."""
    font = FontProperties(family=_SETTINGS["font.sans-serif"], size=size)
    return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] / 72


def fitted(text: str, inches: float, size: float = SMALL, most: int = _LONGEST) -> str:
    """``text`` broken into lines of at most ``inches``, as it is, not as mathematics;
    what is beyond ``most`` letters is left out.
    """
    lines: list[str] = []
    for line in text.splitlines():
        line = shorten(line, most, placeholder="…") if " " in line else line[:most]
        letters = max(1, len(line))
        while letters > 1 and max(text_width(part, size) for part in wrap(line, letters) or [""]) > inches:
            letters -= 1
        lines += wrap(line, letters) or [""]
    return "\n".join(lines).replace("$", r"\$")
