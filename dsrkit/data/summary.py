"""A data set looked at as a whole, from its files: the tables and pictures of the data report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image

from dsrkit.data.checks import doubtful_names, unlike_pairs
from dsrkit.data.degrade import HR_SIZE, parse_size
from dsrkit.data.faces import FaceSet, open_split
from dsrkit.data.layout import (
    FLAG_COLUMNS,
    SPLITS,
    add_flags,
    degradation_of,
    hr_folder,
    read_flags,
    read_manifest,
    read_set_aside,
    read_settings,
    set_aside_picture,
    vlr_folder,
)
from dsrkit.data.splits import Splits

MOST_CHECKED = 20_000  # pairs of a split and size that are made again; evenly spaced, where there are more


def source_table(splits: Splits) -> pd.DataFrame:
    """What each source lists, what of it stands in a split, and the files that it passed over, by kind."""
    rows = []
    for source in {id(source): source for source, _ in splits.values()}.values():
        shares = {split: len(faces) for split, (other, faces) in splits.items() if other is source}
        over = getattr(source, "passed_over", {})
        where = Path(getattr(source, "root", "") or getattr(source, "path", "") or "made-up faces").name
        rows.append(
            {"source": where, "native": source.native, "faces": len(source.faces)}
            | {"in": ", ".join(shares), "in no split": len(source.faces) - sum(shares.values())}
            | {"files passed over": ", ".join(f"{kind}: {count}" for kind, count in over.items() if count) or "none"}
        )
    return pd.DataFrame(rows)


def planned_table(splits: Splits) -> pd.DataFrame:
    """Subjects and images planned for each split."""
    counts = {split: (len({face.subject for face in faces}), len(faces)) for split, (_, faces) in splits.items()}
    return pd.DataFrame(counts, index=["subjects", "images"]).T


def sizes_of(dataset: Path) -> list[str]:
    """The VLR sizes that a whole data set has."""
    return read_manifest(dataset).vlr_sizes.iloc[0].split()


def count_table(dataset: Path) -> pd.DataFrame:
    """Subjects, images on either side, and faces set aside or flagged, by split and in total. Files are counted, not rows."""
    manifest, aside, flags = read_manifest(dataset), read_set_aside(dataset), read_flags(dataset)
    table = {}
    for split in _splits_of(manifest):
        faces = manifest[manifest.split == split]
        counts = {"subjects": faces.subject.nunique(), "faces": len(faces), "HR images": _files(hr_folder(dataset, split))}
        counts |= {f"VLR {size}": _files(vlr_folder(dataset, split, size)) for size in sizes_of(dataset)}
        marked = flags[flags.split == split].name.nunique()
        table[split] = counts | {"set aside": int((aside.split == split).sum()), "flagged, kept": marked}
    counted = pd.DataFrame(table).T
    return pd.concat([counted, counted.sum().to_frame("total").T])


def _files(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def checked_table(dataset: Path, most: int = MOST_CHECKED) -> pd.DataFrame:
    """What reading everything back shows, by split and VLR size: sizes of the images, and files that are not as they were made.

    ``not its HR`` counts VLR files that are not what their HR face degrades to, of ``checked``; ``HR changed`` counts HR files
    whose pixels no longer have the SHA-256 of the manifest. Both are 0 in a data set that nobody touched.
    Raises ValueError for an image of another size, with its name.
    """
    manifest, rows = read_manifest(dataset), {}
    for split in _splits_of(manifest):
        digests = manifest.sha256[manifest.split == split].tolist()
        changed = None
        for size in sizes_of(dataset):
            faces = open_split(dataset, split, size)
            if changed is None and faces.has_hr:
                changed = sum(_digest(face) != digest for face, digest in zip(faces.hr, digests, strict=True))
            sides: dict[str, object] = {"HR": "none (native)", "VLR": "{}x{}".format(*faces.vlr.shape[2:0:-1])}
            if faces.has_hr:
                sides |= {"HR": "{}x{}".format(*faces.hr.shape[2:0:-1]), "HR changed": changed}
                sides |= _unlike(dataset, faces, most)
            rows[f"{split}, {size}"] = sides
    return pd.DataFrame(rows).T.reindex(columns=["HR", "VLR", "HR changed", "checked", "not its HR", "for example"]).fillna("")


def _digest(face: UInt8[np.ndarray, "h w 3"]) -> str:
    return hashlib.sha256(face.tobytes()).hexdigest()


def _unlike(dataset: Path, faces: FaceSet, most: int) -> dict[str, object]:
    rows = np.unique(np.linspace(0, len(faces) - 1, min(len(faces), most)).astype(int))
    names, seed = [faces.names[row] for row in rows.tolist()], read_settings(dataset).get("seed", 0)
    found = unlike_pairs(faces.hr[rows], faces.vlr[rows], names, degradation_of(dataset), seed)
    return {"checked": len(rows), "not its HR": len(found), "for example": found.name.iloc[0] if len(found) else ""}


def thumbnails(
    dataset: Path, table: pd.DataFrame, columns: Sequence[str], most: int = 12
) -> tuple[list[UInt8[np.ndarray, "112 w 3"]], list[str]]:
    """Pictures and captions of the first ``most`` rows of a table of flags or of faces set aside.

    A face whose row names another (the same picture elsewhere, or whom it looks like) has that other at its right; the row that
    says the same the other way round is left out.

    Args:
        columns: of the table, whose texts make the caption.
    """
    sizes, images = sizes_of(dataset), []
    ends = zip(table.split + "/" + table.name, table.other_split + "/" + table.other_name, strict=True)
    table = table[~pd.Series([frozenset(pair) for pair in ends], index=table.index, dtype=object).duplicated()].head(most)
    for row in table.itertuples():
        sides = [_picture(dataset, str(row.split), str(row.name), sizes)]
        if row.other_name:
            sides += [
                np.full((HR_SIZE, 4, 3), 255, np.uint8),
                _picture(dataset, str(row.other_split), str(row.other_name), sizes),
            ]
        images.append(np.concatenate(sides, axis=1))
    captions = ["\n".join(shorten(text, 120, placeholder=" …") for text in texts) for texts in table[list(columns)].to_numpy()]
    return images, captions


def _picture(dataset: Path, split: str, name: str, sizes: list[str]) -> UInt8[np.ndarray, "112 112 3"]:
    """A face from the data set, or from what was set aside of it: its pixels as they are, a grey square where there are none."""
    folders = [hr_folder(dataset, split), *(vlr_folder(dataset, split, size) for size in sorted(sizes, key=parse_size)[::-1])]
    for file in (*(folder / name for folder in folders), set_aside_picture(dataset, split, name)):
        if file.is_file():
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB").resize((HR_SIZE, HR_SIZE), Image.Resampling.NEAREST))
    return np.full((HR_SIZE, HR_SIZE, 3), 200, np.uint8)


def look_for_wrong_names(dataset: Path, embed: Callable[[np.ndarray], Float[np.ndarray, "n d"]]) -> pd.DataFrame:
    """Flags ``mislabelled`` of every split that has HR faces, also written into ``flags.csv``; see ``checks.doubtful_names``.

    Args:
        embed: from HR faces as bytes to embeddings of unit length.
    """
    found = [pd.DataFrame(columns=FLAG_COLUMNS)]
    for split in _splits_of(read_manifest(dataset)):
        faces = open_split(dataset, split, sizes_of(dataset)[0])
        if faces.has_hr:
            found.append(doubtful_names(split, faces.names, faces.subjects, embed(faces.hr)))
    flags = pd.concat(found, ignore_index=True)
    add_flags(dataset, flags, "mislabelled")
    return flags


def _splits_of(manifest: pd.DataFrame) -> list[str]:
    there = set(manifest.split)
    return [split for split in SPLITS if split in there]
