"""From a source to a data set: subject-disjoint splits of HR/VLR pairs, a manifest, and nothing dropped in silence.

<dataset>/{train,val,test}_processed/{hr_images,vlr_images_16x16,…}/<name>.png     same file name on both sides
<dataset>/{val,test}_pairs.csv        pairs for verification
<dataset>/set_aside.csv               files that could not serve, with the reason
<dataset>/manifest.csv                one row a face; written last: its presence says that the data set is whole
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from dsrkit.data.degrade import as_bytes, as_tensor, degrade, parse_size
from dsrkit.data.pairs import make_pairs
from dsrkit.data.sources import Face, ImageError, Source
from dsrkit.data.splits import Splits, check_disjoint
from dsrkit.runs import atomic_path, file_hash, is_interactive

CHUNK = 32


@dataclass(frozen=True)
class Migration:
    """What is done to every face, written into the data set as ``dataset.json``."""

    vlr_sizes: tuple[str, ...]
    degradation: str
    seed: int


def hr_folder(dataset: Path, split: str) -> Path:
    return dataset / f"{split}_processed" / "hr_images"


def vlr_folder(dataset: Path, split: str, vlr_size: str) -> Path:
    width, height = parse_size(vlr_size)
    return dataset / f"{split}_processed" / f"vlr_images_{width}x{height}"


def read_manifest(dataset: Path) -> pd.DataFrame:
    """One row a face, as text: subjects may be called ``007``, ``NA`` or ``null``."""
    return pd.read_csv(dataset / "manifest.csv", dtype=str, keep_default_na=False)


def migrate(
    splits: Splits,
    dataset: Path,
    migration: Migration,
    pairs: Mapping[str, pd.DataFrame] | None = None,
    workers: int = 2,
) -> pd.DataFrame:
    """Write every face of every split as HR and as each VLR size; return the manifest.

    Args:
        splits: per split its source and the faces of that source that belong to it.
        dataset: folder to fill. A whole data set made with the same settings from the same files is left alone.
        pairs: verification pairs by split, where they are given; the others are made from the subjects.

    Raises ValueError when a split is empty, a subject stands in two splits, or a folder holds another data set.
    """
    settings = _settings(splits, migration, pairs or {})
    if is_whole(dataset, settings):
        return read_manifest(dataset)
    if (dataset / "manifest.csv").exists():
        raise ValueError(
            f"{dataset}: expected an empty folder or this very data set, got one made with other settings. "
            "Remove that folder (and no more of the run), or give the run another name."
        )
    shutil.rmtree(dataset / "packed", ignore_errors=True)  # made from the files that are about to be written
    check_disjoint(splits)
    rows: list[dict[str, Any]] = []
    set_aside: list[dict[str, Any]] = []
    for split, (source, faces) in splits.items():
        for row in _migrate_split(split, source, faces, dataset, migration, workers):
            (set_aside if row["reason"] else rows).append(row)
    manifest = pd.DataFrame(rows).drop(columns="reason") if rows else pd.DataFrame(columns=["split"])
    for split in splits:
        if not (manifest.split == split).any():
            raise ValueError(f"{split}: expected faces, got none that can be used. See the files set aside: {set_aside[:2]}")
    _write_tables(dataset, manifest, set_aside, settings, pairs or {}, migration.seed)
    return manifest


def _settings(splits: Splits, migration: Migration, pairs: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    faces = {split: [face.origin.rsplit("/", 2)[-2:] for face in faces] for split, (_, faces) in splits.items()}
    return {
        "faces": hash_of(json.dumps(faces)),
        "pairs": {split: hash_of(table.to_csv(index=False)) for split, table in pairs.items()},
        "vlr_sizes": list(migration.vlr_sizes),
        "degradation": migration.degradation,
        "seed": migration.seed,
    }


def degradation_of(dataset: Path) -> str:
    """The name of the degradation that made a data set's VLR faces."""
    return json.loads((dataset / "dataset.json").read_text())["degradation"]


def hash_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_whole(dataset: Path, settings: Mapping[str, Any]) -> bool:
    """True where ``dataset`` was finished with these very settings."""
    record = dataset / "dataset.json"
    return (dataset / "manifest.csv").exists() and record.exists() and json.loads(record.read_text()) == dict(settings)


def _migrate_split(
    split: str, source: Source, faces: Sequence[Face], dataset: Path, migration: Migration, workers: int
) -> Iterator[dict[str, Any]]:
    hr_folder(dataset, split).mkdir(parents=True, exist_ok=True)
    for size in migration.vlr_sizes:
        vlr_folder(dataset, split, size).mkdir(parents=True, exist_ok=True)

    def do(chunk: Sequence[Face]) -> list[dict[str, Any]]:
        return _migrate_chunk(split, source, chunk, dataset, migration)

    chunks = [faces[start : start + CHUNK] for start in range(0, len(faces), CHUNK)]
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(faces), desc=split, disable=not is_interactive()) as bar:
        for rows in pool.map(do, chunks):
            bar.update(len(rows))
            yield from rows


def _migrate_chunk(
    split: str, source: Source, faces: Sequence[Face], dataset: Path, migration: Migration
) -> list[dict[str, Any]]:
    images = source.read(faces)
    rows = [
        {"split": split, "subject": face.subject, "name": face.name, "origin": face.origin, "reason": str(image) * bad}
        for face, image in zip(faces, images, strict=True)
        for bad in [isinstance(image, ImageError)]
    ]
    usable = {index: image for index, image in enumerate(images) if not isinstance(image, ImageError)}
    if not usable:
        return rows
    good, hr = list(usable), np.stack(list(usable.values()))
    _save_all([hr_folder(dataset, split) / rows[index]["name"] for index in good], hr)
    for size in migration.vlr_sizes:
        vlr = degrade(as_tensor(hr), size, migration.degradation)
        pixels = as_bytes(vlr)
        _save_all([vlr_folder(dataset, split, size) / rows[index]["name"] for index in good], pixels)
    return rows


def _save_all(paths: Sequence[Path], images: np.ndarray) -> None:
    for path, image in zip(paths, images, strict=True):
        with atomic_path(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG", compress_level=1)


def _write_tables(
    dataset: Path,
    manifest: pd.DataFrame,
    set_aside: list[dict[str, Any]],
    settings: Mapping[str, Any],
    pairs: Mapping[str, pd.DataFrame],
    seed: int,
) -> None:
    tables = {"set_aside.csv": pd.DataFrame(set_aside, columns=["split", "subject", "name", "origin", "reason"])}
    for split in set(manifest.split) - {"train"}:
        faces = manifest[manifest.split == split]
        tables[f"{split}_pairs.csv"] = (
            pairs[split] if split in pairs else make_pairs(faces.name.tolist(), faces.subject.tolist(), seed)
        )
        known = set(faces.name)
        if lost := (set(tables[f"{split}_pairs.csv"].left) | set(tables[f"{split}_pairs.csv"].right)) - known:
            raise ValueError(
                f"{split} pairs: expected files of the data set, got {len(lost)} that are not there, such as "
                f"{sorted(lost)[0]}. Give the list of pairs that belongs to these images."
            )
    tables["manifest.csv"] = manifest  # last: it says that everything before it is there
    with atomic_path(dataset / "dataset.json") as temporary:
        temporary.write_text(json.dumps(dict(settings), indent=1))
    for name, table in tables.items():
        with atomic_path(dataset / name) as temporary:
            table.to_csv(temporary, index=False)


def dataset_hash(dataset: Path) -> str:
    """SHA-256 of which faces, of whom, in which split, and how they were degraded."""
    faces = read_manifest(dataset)[["split", "subject", "name"]]  # not where they came from: paths differ between machines
    return hash_of(faces.to_csv(index=False) + file_hash(dataset / "dataset.json"))
