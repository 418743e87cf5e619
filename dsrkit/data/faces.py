"""Reading a data set: packed, memory-mapped arrays, made once from the files and shared by every reader.

A split is one uint8 array [N, H, W, 3] of HR faces and one of VLR faces of each size, in ``<dataset>/packed/``, named
by the manifest's hash, so that a data set that changed is packed anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from dsrkit.data.degrade import parse_size
from dsrkit.data.migration import dataset_hash, hr_folder, read_manifest, vlr_folder
from dsrkit.runs import atomic_path


@dataclass(frozen=True)
class FaceSet:
    """One split: HR and VLR pixels, file names, and subjects as text and as labels 0 … K−1 (sorted by name)."""

    hr: UInt8[np.ndarray, "n 112 112 3"]
    vlr: UInt8[np.ndarray, "n h w 3"]
    vlr_size: str
    names: list[str]
    subjects: list[str]
    labels: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def subject_to_id(self) -> dict[str, int]:
        return {subject: number for number, subject in enumerate(sorted(set(self.subjects)))}

    def rows(self, keep: Int[np.ndarray, " k"] | slice) -> FaceSet:
        """Some of the faces, in the order given; labels stay as they are."""
        numbers = np.arange(len(self))[keep]
        names, subjects = ([values[number] for number in numbers] for values in (self.names, self.subjects))
        return FaceSet(self.hr[keep], self.vlr[keep], self.vlr_size, names, subjects, self.labels[keep])

    def first(self, count: int) -> FaceSet:
        """The first ``count`` faces (0: all), for a quick look."""
        return self.rows(slice(count or None))


def open_split(dataset: Path | str, split: str, vlr_size: str) -> FaceSet:
    """Open ``train``, ``val`` or ``test`` of a data set at one VLR size.

    Raises FileNotFoundError when there is no data set, ValueError when it lacks the split or the size.
    """
    dataset = Path(dataset)
    if not (dataset / "manifest.csv").is_file():
        raise FileNotFoundError(f"Expected a data set at {dataset} (manifest.csv), got none. Run 01_data_migration first.")
    parse_size(vlr_size)
    manifest = read_manifest(dataset)
    faces = manifest[manifest.split == split]
    if faces.empty:
        raise ValueError(f"{dataset}: expected a split {split!r}, got {sorted(set(manifest.split))}.")
    names, subjects = faces.name.tolist(), faces.subject.tolist()
    numbers = {subject: number for number, subject in enumerate(sorted(set(subjects)))}
    return FaceSet(
        hr=_packed(dataset, hr_folder(dataset, split), f"{split}_hr", names),
        vlr=_packed(dataset, vlr_folder(dataset, split, vlr_size), f"{split}_vlr_{vlr_size}", names),
        vlr_size=vlr_size,
        names=names,
        subjects=subjects,
        labels=np.array([numbers[subject] for subject in subjects]),
    )


def _packed(dataset: Path, folder: Path, title: str, names: list[str]) -> np.ndarray:
    path = dataset / "packed" / f"{title}-{dataset_hash(dataset)[:16]}.npy"
    if not path.exists():
        if not folder.is_dir():
            sizes = sorted(other.name.removeprefix("vlr_images_") for other in folder.parent.glob("vlr_images_*"))
            raise ValueError(f"{dataset}: expected faces in {folder.name}, got VLR sizes {sizes}. Add the size in stage 01.")
        _pack(folder, names, path)
    return np.load(path, mmap_mode="r")


def _pack(folder: Path, names: list[str], path: Path) -> None:
    def read(name: str) -> np.ndarray:
        with Image.open(folder / name) as image:
            return np.asarray(image.convert("RGB"))

    shape = (len(names), *read(names[0]).shape)
    with atomic_path(path) as temporary, ThreadPoolExecutor(2) as pool:
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for row, image in enumerate(pool.map(read, names)):
            if image.shape != shape[1:]:
                raise ValueError(f"{folder / names[row]}: expected {shape[1:]}, got {image.shape}. Run stage 01 again.")
            packed[row] = image
        packed.flush()


def read_pairs(
    dataset: Path | str, split: str, faces: FaceSet
) -> tuple[Int[np.ndarray, "p 2"], Bool[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """The split's verification pairs as rows of ``faces``, whether each is genuine, and its fold.

    Pairs whose faces are not in ``faces`` (a limited set) are left out.
    """
    table = pd.read_csv(Path(dataset) / f"{split}_pairs.csv")
    row_of = {name: row for row, name in enumerate(faces.names)}
    table = table[table.left.isin(row_of) & table.right.isin(row_of)]
    pairs = np.stack([table.left.map(row_of), table.right.map(row_of)], axis=1).astype(int)
    return pairs, table.same.to_numpy(bool), table.fold.to_numpy(int)


def batches_of(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` over ``count`` items."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
