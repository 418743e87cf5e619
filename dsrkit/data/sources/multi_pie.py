"""CMU Multi-PIE (Gross et al. 2010): all that its file names tell, and faces chosen by it.

``007_01_02_051_07.png`` is subject 007, session 01, recording 02, camera 051 (frontal), flash 07; a suffix such as ``_crop_128``
may follow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dsrkit.data.sources.files import FileSource, scan_images
from dsrkit.data.sources.folders import name_of
from dsrkit.data.sources.records import Aligner, Face

_NAME = re.compile(
    r"(?P<subject>\d{3,})_(?P<session>\d{2})_(?P<recording>\d{2})_(?P<camera>\d{3})_(?P<illumination>\d{2})(_.*)?", re.ASCII
)


@dataclass(frozen=True)
class MultiPieName:
    """The five fields, as text: camera ``051`` is not 51."""

    subject: str
    session: str
    recording: str
    camera: str
    illumination: str


def parse_multi_pie(name: str) -> MultiPieName | None:
    """The fields of a file name, else None."""
    match = _NAME.fullmatch(Path(name).stem)
    return MultiPieName(**{field: match[field] for field in MultiPieName.__dataclass_fields__}) if match else None


def multi_pie(
    root: Path,
    cameras: Sequence[str] = (),
    illuminations: Sequence[str] = (),
    recordings: Sequence[str] = (),
    sessions: Sequence[str] = (),
    aligner: Aligner | None = None,
) -> FileSource:
    """Multi-PIE images anywhere below ``root``; each filter lists the codes to keep, as text, and an empty one keeps all.

    Raises FileNotFoundError or ValueError: no images, a name of another kind, a code that no file has, nothing left.
    """
    paths, others = scan_images(root)
    fields = {path: parse_multi_pie(path) for path in paths}
    if strange := [path for path, name in fields.items() if name is None]:
        raise ValueError(
            f"{root}: expected names such as 007_01_02_051_07.png, got {len(strange)} others of {len(paths)}, "
            f"such as {strange[0]!r}. Move them elsewhere, or take the source as a 'folder'."
        )
    tables = {path: asdict(name) for path, name in fields.items() if name}
    kept = dict(tables)
    filters = {"session": sessions, "recording": recordings, "camera": cameras, "illumination": illuminations}
    for field, wanted in filters.items():
        _check_codes(root, field, wanted, {table[field] for table in tables.values()})
        kept = {path: table for path, table in kept.items() if not wanted or table[field] in wanted}
    if not kept:
        there = {field: sorted({table[field] for table in tables.values()}) for field in filters}
        raise ValueError(f"{root}: expected images that pass all filters, got none; there are {there}. Widen a filter.")
    faces = [Face(table["subject"], name_of(table["subject"], Path(path).name), str(root / path)) for path, table in kept.items()]
    return FileSource(root, faces, aligner, passed_over=others + Counter({"filtered out": len(tables) - len(kept)}))


def _check_codes(root: Path, field: str, wanted: Sequence[str], there: set[str]) -> None:
    if isinstance(wanted, str) or not all(isinstance(code, str) for code in wanted):
        raise ValueError(
            f"{field}: expected a list of codes in quotes, such as ['051'], got {wanted!r}. YAML reads a bare 051 as 41."
        )
    if unknown := sorted(set(wanted) - there):
        raise ValueError(f"{root}: expected values of {field} among {sorted(there)}, got {unknown}. Correct the filter.")
