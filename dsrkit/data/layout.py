"""Where a data set's files lie, and what they say about it: the one place that writers and readers share.

<dataset>/{train,val,test}_processed/{hr_images,vlr_images_16x16,…}/<name>.png     same file name on both sides
<dataset>/{val,test}_pairs.csv        pairs for verification
<dataset>/set_aside.csv               faces that do not serve, with the reason; pictures of them in set_aside/
<dataset>/flags.csv                   faces that serve but look doubtful, with the reason
<dataset>/dataset.json                what was asked for, written first
<dataset>/manifest.csv                one row a face; written last: its presence says that the data set is whole
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dsrkit.data.degrade import parse_size
from dsrkit.runs import atomic_path, file_hash

SPLITS = ("train", "val", "test")
# CSV, not Parquet: a row a face is 30 MB for 150,000 faces and read in half a second, opens in any program, and shows in a diff.
MANIFEST_COLUMNS = [
    "split", "subject", "name", "role", "origin", "width", "height", "vlr_sizes", "degradation", "sha256", "status"
]  # fmt: skip
SET_ASIDE_COLUMNS = ["split", "subject", "name", "origin", "flag", "reason", "other_split", "other_name"]
UNUSABLE = "unusable"  # the flag of a face that could not be read, or is no face of 112×112
FLAG_COLUMNS = ["split", "subject", "name", "flag", "reason", "other_split", "other_name"]


def hr_folder(dataset: Path, split: str) -> Path:
    return dataset / f"{split}_processed" / "hr_images"


def vlr_folder(dataset: Path, split: str, vlr_size: str) -> Path:
    return dataset / f"{split}_processed" / f"vlr_images_{canonical_size(vlr_size)}"


def set_aside_picture(dataset: Path, split: str, name: str) -> Path:
    """Where the HR picture of a face that was set aside after it was read lies."""
    return dataset / "set_aside" / split / name


def canonical_size(vlr_size: str) -> str:
    """``"16"`` → ``"16x16"``. Raises ValueError like ``parse_size``."""
    return "{}x{}".format(*parse_size(vlr_size))


def read_manifest(dataset: Path) -> pd.DataFrame:
    """One row a face, as text: subjects may be called ``007``, ``NA`` or ``null``."""
    return _read_text(dataset / "manifest.csv")


def read_set_aside(dataset: Path) -> pd.DataFrame:
    """One row a face that does not serve, as text."""
    return _read_text(dataset / "set_aside.csv")


def read_flags(dataset: Path) -> pd.DataFrame:
    """One row a doubt about a face that serves, as text."""
    return _read_text(dataset / "flags.csv")


def add_flags(dataset: Path, flags: pd.DataFrame, kind: str) -> None:
    """Write flags of one kind, in the place of those of that kind that are there."""
    known = read_flags(dataset)
    write_table(dataset / "flags.csv", pd.concat([known[known.flag != kind], flags], ignore_index=True))


def _read_text(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A CSV file as one dictionary a row, every value as text."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV file, whole or not at all."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_settings(dataset: Path) -> dict[str, Any]:
    """What a data set was asked to be; ``{}`` where nothing was begun."""
    record = dataset / "dataset.json"
    return json.loads(record.read_text()) if record.exists() else {}


def write_settings(dataset: Path, settings: Mapping[str, Any]) -> None:
    with atomic_path(dataset / "dataset.json") as temporary:
        temporary.write_text(json.dumps(dict(settings), indent=1))


def degradation_of(dataset: Path) -> str:
    """The name of the degradation that made a data set's VLR faces."""
    return json.loads((dataset / "dataset.json").read_text())["degradation"]


def hash_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def dataset_hash(dataset: Path) -> str:
    """SHA-256 of which faces, of whom, in which split and role, their HR pixels, and how they were degraded.

    Not of where they came from, which differs between machines, nor of the VLR sizes, so that adding one leaves it as it is.
    """
    manifest = read_manifest(dataset)
    telling = [column for column in ("split", "subject", "name", "role", "sha256") if column in manifest]
    return hash_of(manifest[telling].to_csv(index=False) + file_hash(dataset / "dataset.json"))
