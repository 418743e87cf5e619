"""Where faces come from. A source lists its faces and reads them; ``open_source`` opens one by the name of its kind.

Adding a source is one small function or class that gives a ``Source``, a line in ``_OPENERS``, and a test.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsrkit.data.sources.files import FileSource
from dsrkit.data.sources.folders import FolderSource, processed, subject_of_name
from dsrkit.data.sources.insightface import BinSource, RecSource
from dsrkit.data.sources.made_up import SyntheticSource
from dsrkit.data.sources.multi_pie import MultiPieName, multi_pie, parse_multi_pie
from dsrkit.data.sources.native import scface, tinyface
from dsrkit.data.sources.pictures import IMAGE_SUFFIXES, read_hr
from dsrkit.data.sources.records import Aligner, Face, ImageError, Source

__all__ = [
    "IMAGE_SUFFIXES", "KINDS", "Aligner", "BinSource", "Face", "FileSource", "FolderSource", "ImageError", "MultiPieName",
    "RecSource", "Source", "SyntheticSource", "open_source", "parse_multi_pie", "read_hr", "subject_of_name",
]  # fmt: skip

_OPENERS: dict[str, Callable[..., Source]] = {
    "folder": FolderSource,
    "multi-pie": multi_pie,
    "processed": processed,
    "insightface-bin": BinSource,
    "insightface-rec": RecSource,
    "tinyface": tinyface,
    "scface": scface,
}
KINDS = tuple(_OPENERS)  # that lie on disk; made-up faces are a SyntheticSource


def open_source(kind: str, root: Path | str, **options: Any) -> Source:
    """The faces at ``root``, a folder, or a file for the packs of InsightFace.

    Args:
        options: those of the kind's own function: ``aligner`` for ``folder`` and ``multi-pie``; also ``cameras``,
            ``illuminations``, ``recordings``, ``sessions`` for ``multi-pie``; ``folds`` for ``insightface-bin``;
            ``cameras``, ``distances`` for ``scface``.

    Raises ValueError for an unknown kind or option, or faces that cannot serve; FileNotFoundError when nothing is there.
    """
    if kind not in _OPENERS:
        raise ValueError(f"source: expected one of {', '.join(KINDS)}, got {kind!r}.")
    known = list(inspect.signature(_OPENERS[kind]).parameters)[1:]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"source {kind}: expected options among {known}, got {unknown}. Leave them out, or take another kind.")
    return _OPENERS[kind](Path(root), **options)
