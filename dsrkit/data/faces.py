"""Reading a data set: packed, memory-mapped arrays, made once from the files and shared by every reader.

A split is one uint8 array [N, H, W, 3] of HR faces and one of VLR faces of each size, in ``<dataset>/packed/``, named
by the manifest's hash, so that a data set that changed is packed anew and its old packs are removed.

Random rows are read by indexing, ``faces.hr[rows]``: a copy from the kernel's page cache, shared by all processes that open
the split (benchmarks/reading.py measures it). ``prefetch`` asks for rows ahead of time, for data larger than the memory.
Open the split in each process: pickling a FaceSet copies its pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from dsrkit.data.degrade import HR_SIZE, mirror, parse_size
from dsrkit.data.layout import canonical_size, dataset_hash, hr_folder, read_manifest, vlr_folder
from dsrkit.data.packing import ImageFile, packed, read_ahead

_TRUTH = {"True": True, "False": False, "1": True, "0": False}


@dataclass(frozen=True)
class FaceSet:
    """One split: HR and VLR pixels, file names, and subjects as text and as labels 0 … K−1 (sorted by name).

    Args:
        packed_hr: HR faces; None for a native low-resolution split, which was photographed small. Read them as ``hr``.
        roles: ``gallery``, ``probe`` or ``distractor`` where the data set's protocol says so, else empty texts.
    """

    packed_hr: UInt8[np.ndarray, "n 112 112 3"] | None
    vlr: UInt8[np.ndarray, "n h w 3"]
    vlr_size: str
    names: list[str]
    subjects: list[str]
    labels: Int[np.ndarray, " n"]
    roles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.roles:
            object.__setattr__(self, "roles", [""] * len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_hr(self) -> bool:
        """False for a native low-resolution split: there are no HR faces to train on, or to compare with."""
        return self.packed_hr is not None

    @property
    def hr(self) -> UInt8[np.ndarray, "n 112 112 3"]:
        """HR faces. Raises ValueError for a native low-resolution split."""
        if self.packed_hr is None:
            raise ValueError(
                "HR faces: expected the split's hr_images, got a native low-resolution split, which has none. "
                "Ask has_hr first, leave out what compares with HR, or take a data set made from HR photos."
            )
        return self.packed_hr

    @property
    def subject_to_id(self) -> dict[str, int]:
        return {subject: number for number, subject in enumerate(sorted(set(self.subjects)))}

    def rows(self, keep: Int[np.ndarray, " k"] | slice) -> FaceSet:
        """Some of the faces, in the order given; labels stay as they are. A slice is a view, row numbers are a copy."""
        numbers = np.arange(len(self))[keep]
        texts = (self.names, self.subjects, self.roles)
        names, subjects, roles = ([values[number] for number in numbers] for values in texts)
        hr = None if self.packed_hr is None else self.packed_hr[keep]
        return FaceSet(hr, self.vlr[keep], self.vlr_size, names, subjects, self.labels[keep], roles)

    @property
    def mirrored(self) -> FaceSet:
        """The same faces, left and right exchanged: views."""
        return replace(self, packed_hr=None if self.packed_hr is None else mirror(self.packed_hr), vlr=mirror(self.vlr))

    def prefetch(self, rows: Int[np.ndarray, " k"]) -> None:
        """Start reading rows that are wanted next from disk, without waiting: for a data set larger than the memory."""
        for array in (self.packed_hr, self.vlr):
            if array is not None:
                read_ahead(array, rows)

    def first(self, count: int) -> FaceSet:
        """The first ``count`` faces (0: all), for a quick look."""
        return self.rows(slice(count or None))


def open_split(dataset: Path | str, split: str, vlr_size: str) -> FaceSet:
    """Open ``train``, ``val`` or ``test`` of a data set at one VLR size; packs it where that was not done yet.

    A split without a folder ``hr_images`` is native low resolution: see ``FaceSet.has_hr``.
    Raises FileNotFoundError when there is no data set; ValueError when it lacks the split or the size, or when an image
    cannot serve; OSError when there is no room to pack it.
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
    key = dataset_hash(dataset)[:16]
    return FaceSet(
        packed_hr=_hr(dataset, split, key, names),
        vlr=_vlr(dataset, split, key, names, vlr_size),
        vlr_size=vlr_size,
        names=names,
        subjects=subjects,
        labels=np.array([numbers[subject] for subject in subjects]),
        roles=faces.role.tolist() if "role" in faces else [],
    )


def pack_path(dataset: Path, key: str, split: str, vlr_size: str = "") -> Path:
    """Where a split's HR faces (or VLR faces of a size) are packed; ``key`` is the data set's hash."""
    part = f"vlr_{canonical_size(vlr_size)}" if vlr_size else "hr"
    return dataset / "packed" / f"{split}_{part}-{key}.npy"


def _hr(dataset: Path, split: str, key: str, names: list[str]) -> np.ndarray | None:
    path, folder = pack_path(dataset, key, split), hr_folder(dataset, split)
    if not path.exists() and not folder.is_dir():
        return None
    return packed(path, (len(names), HR_SIZE, HR_SIZE, 3), lambda: _files(folder, names))


def _vlr(dataset: Path, split: str, key: str, names: list[str], vlr_size: str) -> np.ndarray:
    width, height = parse_size(vlr_size)

    def files() -> Iterator[ImageFile]:
        folders, size = vlr_folders(dataset, split, names[0]), canonical_size(vlr_size)
        if size not in folders:
            wanted = vlr_folder(dataset, split, size).name
            raise ValueError(f"{dataset}: expected faces in {wanted}, got VLR sizes {sorted(folders)}. Add the size in stage 01.")
        return _files(folders[size], names)

    return packed(pack_path(dataset, key, split, vlr_size), (len(names), height, width, 3), files)


def _files(folder: Path, names: list[str]) -> Iterator[ImageFile]:
    return ((row, folder / name, str(folder / name)) for row, name in enumerate(names))


def vlr_folders(dataset: Path, split: str, name: str) -> dict[str, Path]:
    """The folders of a split's VLR faces by size; a flat ``vlr_images`` counts by the size of its face ``name``."""
    root = hr_folder(dataset, split).parent
    sized = {path.name.removeprefix("vlr_images_"): path for path in sorted(root.glob("vlr_images_*"))}
    found = {size: path for size, path in sized.items() if re.fullmatch(r"\d+x\d+", size)}
    flat = root / "vlr_images" / name
    try:
        if flat.is_file():
            with Image.open(flat) as image:
                found.setdefault("{}x{}".format(*image.size), flat.parent)
    except OSError as error:
        raise ValueError(f"{flat}: expected an image, got a file that cannot be read ({error}). Replace it.") from error
    return found


def read_pairs(
    dataset: Path | str, split: str, faces: FaceSet, limited: bool = False
) -> tuple[Int[np.ndarray, "p 2"], Bool[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """The split's verification pairs as rows of ``faces``, whether each is genuine, and its fold.

    Args:
        limited: whether ``faces`` are only some of the split's; pairs of others are then left out.

    Raises FileNotFoundError without a list, and ValueError for one that names other faces or says anything but True or False.
    """
    path = Path(dataset) / f"{split}_pairs.csv"
    if not path.is_file():
        raise FileNotFoundError(f"Expected pairs at {path}, got nothing there. Make the data set again with 01_data_migration.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    row_of = {name: row for row, name in enumerate(faces.names)}
    here = table.left.isin(row_of) & table.right.isin(row_of)
    if not limited and not here.all():
        lost = sorted((set(table.left) | set(table.right)) - set(row_of))
        raise ValueError(
            f"{dataset}: expected pairs of faces of the split, got {np.sum(~here)} that name others, such as {lost[0]}. "
            f"Make the data set again, or remove these lines from {path.name}."
        )
    strange = table.index[~table.same.isin(_TRUTH)]
    if len(strange):
        raise ValueError(
            f"{path}, line {strange[0] + 2}: expected same to be True or False, got {table.same[strange[0]]!r}. Correct it."
        )
    table = table[here]
    pairs = np.stack([table.left.map(row_of), table.right.map(row_of)], axis=1).astype(int)
    return pairs, table.same.map(_TRUTH).to_numpy(bool), table.fold.to_numpy(int)


def batches_of(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` over ``count`` items."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
