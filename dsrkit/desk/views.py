"""What the desk draws: curves with a point that moves, and the whole view as still figures.

A curve is drawn once by ``dsrkit.plots``; the point is a small SVG laid over it, so that moving it costs no drawing. Where each
value lies in the picture is asked of the figure's own axes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsrkit.data.degrade import as_tensor
from dsrkit.desk.looks import Look, mark
from dsrkit.desk.state import GALLERIES, DeskState, Judged
from dsrkit.evaluation.headline import row_label
from dsrkit.plots import plot_face_strips, plot_roc, plot_threshold_sweep

SHARES = ("correct", "wrong", "unknown", "fpir")  # the curves of the sweep, in the order in which they are drawn


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Chart:
    """A drawn figure and the axis on which points are placed."""

    figure: Figure
    axis: Axes
    png: bytes

    @classmethod
    def drawn(cls, figure: Figure) -> Chart:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=160)
        return cls(figure, figure.axes[0], stream.getvalue())

    @property
    def width(self) -> int:
        return round(self.figure.get_figwidth() * 100)

    @property
    def height(self) -> int:
        return round(self.figure.get_figheight() * 100)

    def place(self, x: float, y: float) -> tuple[float, float, bool]:
        """Pixels from the upper left corner, and whether the value lies within the axes; one beyond is put at the edge."""
        (left, right), (bottom, top) = self.axis.get_xlim(), self.axis.get_ylim()
        inside = (min(max(x, left), right), min(max(y, bottom), top))
        across, up = self.axis.transData.transform(inside) / [self.figure.bbox.width, self.figure.bbox.height]
        return float(across * self.width), float((1 - up) * self.height), inside == (x, y)

    def overlay(self, points: Sequence[tuple[float, float]], line_at: float | None = None) -> str:
        """An SVG of the same size as the picture: a ring at each point, dotted at the edge for one beyond it; a vertical line."""
        shapes = []
        if line_at is not None:
            (x, low, _), (_, high, _) = (self.place(line_at, end) for end in self.axis.get_ylim())
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"'
            shapes.append(f'<line {ends} stroke="black" stroke-dasharray="5 3"/>')
        for x, y, within in (self.place(*point) for point in points if not any(map(math.isnan, point))):
            line = 'stroke-width="2.5"' if within else 'stroke-width="2" stroke-dasharray="2 2"'
            shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="white" stroke="black" {line}/>')
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" width="100%" style="display:block;pointer-events:none" '
            f'role="img" aria-label="the point at the threshold">{"".join(shapes)}</svg>'
        )


def roc_chart(judged: Judged) -> Chart | None:
    """TAR over FAR of the split's pairs; None when there are none of one kind."""
    return None if judged.verified is None else Chart.drawn(plot_roc({judged.system.row: judged.verified}))


def sweep_chart(judged: Judged) -> Chart:
    return Chart.drawn(plot_threshold_sweep(judged.sweep, judged.frozen))


def points_at(judged: Judged, threshold: float) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Where the threshold lies on the ROC and on each curve of the sweep."""
    shares = judged.at(threshold)
    return [(shares["far"], shares["tar"])], [(threshold, shares[name]) for name in SHARES]


def still_curves(judged: Judged, threshold: float) -> list[Figure]:
    """Sweep and ROC (where there is one) with the threshold's points drawn into them, for a page or a file."""
    sweep, roc = plot_threshold_sweep(judged.sweep, judged.frozen), roc_chart(judged)
    on_roc, on_sweep = points_at(judged, threshold)
    drawn = [(sweep, on_sweep)] + ([(roc.figure, on_roc)] if roc else [])
    for figure, points in drawn:
        axis = figure.axes[0]
        for x, y in points:
            if not (math.isnan(x) or math.isnan(y)):
                x, y = max(x, axis.get_xlim()[0]), max(y, axis.get_ylim()[0])  # FAR 0 has no place on a logarithmic axis
                axis.plot(x, y, "o", markersize=8, markerfacecolor="white", markeredgecolor="black", clip_on=False, zorder=5)
    return [figure for figure, _ in drawn]


def summary(judged: Judged, threshold: float) -> str:
    """The threshold's price in one line."""
    at = judged.at(threshold)
    return (
        f"named rightly {percent(at['correct'])}, wrongly {percent(at['wrong'])}, unknown {percent(at['unknown'])} "
        f"of enrolled probes; strangers named {percent(at['fpir'])}; FAR {percent(at['far'])}, TAR {percent(at['tar'])} of pairs"
    )


def strips(looks: Sequence[Look], matches: int = 3) -> Figure:
    """Faces with their nearest subjects, names and scores beneath, and what the system answers at their left."""
    matches = min(matches, *(len(one.matches) for one in looks))
    columns = {title: [one.versions[title] for one in looks] for title in looks[0].versions}
    columns |= {f"match {number + 1}": [one.pictures[number] for one in looks] for number in range(matches)}
    names = [f"{mark(one.answer)} {one.answer}\n{shortened(one.subject or one.name, 22)}" for one in looks]
    figure = plot_face_strips({title: as_tensor(np.stack(pictures)) for title, pictures in columns.items()}, names=names)
    width, height = figure.get_size_inches()
    figure.set_size_inches(2 * width, 2 * height + 0.3 * len(looks))  # on a screen; and room for a name and a score
    for row, one in enumerate(looks):
        for number, match in enumerate(one.matches.head(matches).itertuples()):
            axis = figure.axes[row * len(columns) + len(one.versions) + number]
            axis.set_xlabel(f"{shortened(str(match.subject), 16)}\n{match.score:.2f}".replace("$", r"\$"), labelpad=2, fontsize=7)
    return figure


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def title_of(state: DeskState, judged: Judged, threshold: float) -> str:
    return (
        f"{state.run.name}, {state.params.vlr_size}, {row_label(judged.system.row)}, gallery of "
        f"{GALLERIES.get(judged.protocol, judged.protocol)}, threshold {threshold:.3f}"
    )
