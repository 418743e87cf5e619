"""The current view as files: ``outputs/<run>/desk/<view>.png`` and ``.csv``, each whole or not at all."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from dsrkit.data.layout import write_table
from dsrkit.desk.looks import Look, look_at_probes
from dsrkit.desk.panes import Failures
from dsrkit.desk.pictures import png, stacked
from dsrkit.desk.state import DeskState, Judged
from dsrkit.desk.views import still_curves, strips, summary, title_of
from dsrkit.plots.style import SMALL, fitted
from dsrkit.runs import atomic_path


def save_view(state: DeskState, judged: Judged, looks: Sequence[Look], table: pd.DataFrame, name: str) -> tuple[Path, Path]:
    """Write a headline, faces and curves as a PNG, and ``table`` as a CSV with run, size, row, gallery and threshold in front.

    Args:
        looks: the faces on the view, one or more, at one threshold.
        name: of the view; what no file name takes is replaced. The same view again replaces its files.

    Raises OSError where the run's folder cannot be written.
    """
    threshold = looks[0].threshold
    about = {
        "run": state.run.name,
        "vlr_size": state.params.vlr_size,
        "row": judged.system.row,
        "protocol": judged.protocol,
        "threshold": threshold,
    }
    parts = [about["vlr_size"], about["row"], about["protocol"], f"t{threshold:.3f}", name]
    stem = re.sub(r"[^\w.+-]+", "_", "-".join(map(str, parts)))[:150]
    picture, listing = (state.run.folder / "desk" / f"{stem}.{kind}" for kind in ("png", "csv"))
    with atomic_path(picture) as temporary:
        faces = strips(looks)
        headline = _headline(f"{title_of(state, judged, threshold)}: {summary(judged, threshold)}", faces.get_figwidth())
        temporary.write_bytes(png(stacked([_still(headline), _still(faces), _curves(judged, threshold)])))
    table = table.drop(columns=[column for column in about if column in table])
    write_table(listing, pd.concat([pd.DataFrame([about] * len(table), index=table.index), table], axis=1))
    return picture, listing


def failures_to_export(
    state: DeskState, judged: Judged, failures: Failures, threshold: float
) -> tuple[str, list[Look], pd.DataFrame]:
    """Their kind, the looks on the page that is seen, and a table of all of that kind.

    Raises ValueError where there are none.
    """
    kind = failures.kind.value
    every = judged.failures(kind, threshold)
    if not len(every):
        raise ValueError(f"Expected {kind} to export, got none at this threshold. Move it, or choose another kind.")
    looks = look_at_probes(state, judged, failures.of_page(every), threshold)
    return kind, looks, state.table(judged, every, threshold)


def _headline(text: str, width: float) -> Figure:
    """A picture ``width`` inches wide that says what the others show."""
    lines = fitted(text, width - 0.2, most=1000)
    figure = Figure(figsize=(width, 0.14 * (lines.count("\n") + 1) + 0.14))
    figure.text(0.1 / width, 0.5, lines, va="center", fontsize=SMALL)
    return figure


def _still(figure: Figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160)
    return Image.open(stream).convert("RGB")


def _curves(judged: Judged, threshold: float) -> Image.Image:
    """The curves with the threshold's points, side by side."""
    pictures = [_still(figure) for figure in still_curves(judged, threshold)]
    page = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)), (255, 255, 255))
    left = 0
    for one in pictures:
        page.paste(one, (left, 0))
        left += one.width
    return page
