"""What an unfinished migration has done already, and what it has still to do."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsrkit.data.layout import hr_folder, vlr_folder
from dsrkit.data.onepass import CHUNK, Row, Task
from dsrkit.data.sources import Face
from dsrkit.data.splits import Splits

Key = tuple[str, str]  # split and name


class Journal:
    """``<dataset>/unfinished.jsonl``: a line of rows for each portion, appended when its files are in place.

    A kill can tear the last line only; it is cut off before the next is written, and its portion is made again.
    """

    def __init__(self, dataset: Path) -> None:
        self.path = dataset / "unfinished.jsonl"

    def read(self) -> list[Row]:
        """All rows so far, oldest first; a torn last line is removed from the file."""
        if not self.path.exists():
            return []
        rows: list[Row] = []
        whole = 0
        with open(self.path, "r+b") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                rows += json.loads(line)
                whole += len(line)
            stream.truncate(whole)
        return rows

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(rows) + "\n")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def plan_tasks(
    splits: Splits, dataset: Path, vlr_sizes: Sequence[str], known: Mapping[Key, Row], skip: Collection[Key]
) -> list[Task]:
    """What has to be written, in portions; the folders for it are made.

    A face is done where ``known`` has it with every size and its files are there; where only VLR sizes are missing, they are made
    from its HR file. Faces in ``skip`` are left out.
    """
    tasks: list[Task] = []
    for split, (source, faces) in splits.items():
        hr = None if source.native else _files_in(hr_folder(dataset, split))
        vlr = {size: _files_in(vlr_folder(dataset, split, size)) for size in vlr_sizes}
        groups: dict[tuple[bool, tuple[str, ...]], list[Face]] = {}
        for face in faces:
            row = known.get((split, face.name))
            has_hr = row is not None and (hr is None or face.name in hr)
            done = row["vlr_sizes"].split() if row and has_hr else ()
            missing = tuple(size for size in vlr_sizes if size not in done or face.name not in vlr[size])
            if (split, face.name) not in skip and (missing or not has_hr):
                groups.setdefault((has_hr, missing), []).append(face)
        for (has_hr, missing), some in groups.items():
            starts = range(0, len(some), CHUNK)
            tasks += [Task(split, tuple(some[start : start + CHUNK]), missing, has_hr) for start in starts]
    return tasks


def _files_in(folder: Path) -> set[str]:
    """Names of the files that are there and not empty; temporary ones of a run that was killed are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                os.unlink(entry)
            elif entry.stat().st_size:  # a power cut leaves names of empty files
                names.add(entry.name)
    return names
