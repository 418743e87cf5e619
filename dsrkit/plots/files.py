"""Figures as files: vectors for a paper, pixels for a screen; the same figure gives the same bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dsrkit.plots.style import in_style
from dsrkit.runs import atomic_path

# Without dates, versions and users: what a file holds depends on the figure alone.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


def save_figure(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write ``<folder>/<name>.pdf``, ``.svg`` and ``.png`` (300 dpi), each whole or not at all; returns their paths.

    Drawn in the kit's style: fonts are embedded in the PDF, letters are outlines in the SVG, and faces have 300 dpi in each.
    The folder is made. Raises ValueError for a name that is not a plain one.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"name: expected letters, digits, '_' and '-', without an ending, got {name!r}. Use one such as 'roc'.")
    paths = [Path(folder) / f"{name}.{kind}" for kind in _METADATA]
    with in_style():
        for path, (kind, metadata) in zip(paths, _METADATA.items(), strict=True):
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
    return paths
