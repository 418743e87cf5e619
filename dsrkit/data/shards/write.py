"""From a data set to tar shards."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dsrkit.data.faces import vlr_folders
from dsrkit.data.layout import hr_folder, read_manifest
from dsrkit.data.packing import writing
from dsrkit.data.shards.index import (
    Shard,
    ShardIndex,
    copy_tables,
    index_path,
    read_index,
    refuse_another,
    shard_path,
    splits_of,
    webdataset,
)
from dsrkit.runs import atomic_path, file_hash, is_interactive


def write_shards(dataset: Path | str, folder: Path | str, faces_per_shard: int = 10_000, seed: int = 0) -> None:
    """Write every split of a data set to tar files of nearly equal size, of at most ``faces_per_shard`` faces.

    ``seed`` draws the order of the faces: mixed once here, a small buffer mixes them well at every reading. The same data
    set gives the same bytes. A folder that holds this data set already, in all its VLR sizes, is left alone.
    Raises FileNotFoundError without a data set; ValueError for a folder that holds another one, or an image that is not
    there; OSError when the disk is full; ImportError without webdataset.
    """
    webdataset()
    dataset, folder = Path(dataset), Path(folder)
    if faces_per_shard < 1:
        raise ValueError(f"faces_per_shard: expected 1 or more, got {faces_per_shard}. Take some thousands.")
    splits = splits_of(dataset)
    if folder.resolve() == dataset.resolve():
        raise ValueError(f"{folder}: expected another folder than the data set's own, got that. Give a new folder.")
    refuse_another(folder, dataset)
    manifest = read_manifest(dataset)
    of_split = {split: manifest[manifest.split == split] for split in splits}
    if (folder / "manifest.csv").is_file() and all(_is_written(dataset, split, of_split[split], folder) for split in splits):
        return
    (folder / "manifest.csv").unlink(missing_ok=True)  # not whole while tar files change
    for split, faces in of_split.items():
        index = _write_split(dataset, split, faces, folder, faces_per_shard, seed)
        with atomic_path(index_path(folder, split)) as temporary:
            temporary.write_text(index.model_dump_json(indent=1))
    copy_tables(dataset, folder)


def _is_written(dataset: Path, split: str, faces: pd.DataFrame, folder: Path) -> bool:
    try:
        return read_index(folder, split).vlr_sizes == sorted(vlr_folders(dataset, split, faces.name.iloc[0]))
    except (FileNotFoundError, ValueError):  # none, or damaged: to be written
        return False


def _write_split(dataset: Path, split: str, faces: pd.DataFrame, folder: Path, faces_per_shard: int, seed: int) -> ShardIndex:
    hr, vlr = hr_folder(dataset, split), vlr_folders(dataset, split, faces.name.iloc[0])
    members = ({"hr.png": hr} if hr.is_dir() else {}) | {f"vlr_{size}.png": path for size, path in vlr.items()}
    order = np.random.default_rng(seed).permutation(len(faces))
    parts = np.array_split(order, -(-len(order) // faces_per_shard))
    shards = [
        _write_shard(shard_path(folder, split, number), faces.iloc[part], part, members)
        for number, part in enumerate(tqdm(parts, desc=f"shards of {split}", disable=not is_interactive()))
    ]
    for number in itertools.count(len(shards)):  # of an earlier writing, in smaller shards
        if not (old := shard_path(folder, split, number)).exists():
            break
        old.unlink()
    return ShardIndex(subjects=sorted(set(faces.subject)), vlr_sizes=sorted(vlr), has_hr=hr.is_dir(), shards=shards)


def _write_shard(path: Path, faces: pd.DataFrame, rows: np.ndarray, members: dict[str, Path]) -> Shard:
    roles = faces.role if "role" in faces else [""] * len(faces)
    with writing(path, f"a shard of {len(faces)} faces"), atomic_path(path) as temporary:
        with open(temporary, "wb") as stream, webdataset().TarWriter(stream, encoder=False, mtime=0) as tar:
            for row, name, subject, role in zip(rows, faces.name, faces.subject, roles, strict=True):
                about = json.dumps({"name": name, "subject": subject, "role": role}).encode()
                images = {member: _bytes_of(images / name) for member, images in members.items()}
                tar.write({"__key__": f"{row:09d}", "json": about} | images)
        return Shard(faces=len(faces), bytes=temporary.stat().st_size, sha256=file_hash(temporary))


def _bytes_of(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise ValueError(f"{image}: expected an image, got '{error.strerror}'. Run stage 01 again.") from error
