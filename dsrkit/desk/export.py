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
from dsrkit.desk.looks import Look
from dsrkit.desk.pictures import png, stacked
from dsrkit.desk.state import DeskState, Judged
from dsrkit.desk.views import still_curves, strips
from dsrkit.runs import atomic_path


def save_view(state: DeskState, judged: Judged, looks: Sequence[Look], table: pd.DataFrame, name: str) -> tuple[Path, Path]:
    """Write faces and curves as a PNG, and ``table`` as a CSV with run, size, row, gallery and threshold in front.

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
        temporary.write_bytes(png(stacked([_still(strips(looks)), _curves(judged, threshold)])))
    table = table.drop(columns=[column for column in about if column in table])
    write_table(listing, pd.concat([pd.DataFrame([about] * len(table), index=table.index), table], axis=1))
    return picture, listing


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
