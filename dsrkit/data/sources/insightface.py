"""InsightFace's packs: the verification ``.bin`` (faces and pairs) and the training ``.rec`` with its ``.idx``.

Formats as written by insightface's ``lfw2pack.py`` and by MXNet's ``recordio.py`` (dmlc-core's RecordIO); faces in both are
aligned and 112×112. Neither MXNet nor a pickle loader is needed.
"""

from __future__ import annotations

import functools
import io
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8

from dsrkit.data.pairs import COLUMNS
from dsrkit.data.sources.pictures import decode, square_face
from dsrkit.data.sources.plain_pickle import read_plain_pickle
from dsrkit.data.sources.records import Face, ImageError, as_composed, checked

MOST_BYTES = 2**31  # of a .bin: the largest that is passed around holds 0.2 GB
MAGIC = struct.pack("<I", 0xCED7230A)
MOST_RECORD_BYTES = 2**26  # of one encoded face


class BinSource:
    """A verification pack: its faces, each once, and ``pairs`` (columns left, right, same, fold) as the pack lists them.

    A pack knows no subjects, only pairs. Images that a chain of "same" pairs links are one subject, named after its first image
    (``lfw_00012``); other images of that person may still stand under another name, so use the pairs, not the subjects.
    Folds are consecutive, as insightface's own evaluation cuts them.
    Raises FileNotFoundError, or ValueError for a file that is no such pack.
    """

    native = False

    def __init__(self, path: Path | str, folds: int = 10) -> None:
        self.path = str(path)
        images, same = read_bin(self.path)
        first: dict[bytes, int] = {}
        rows = np.array([first.setdefault(image, number) for number, image in enumerate(images)]).reshape(-1, 2)
        stem = as_composed(Path(path).stem)
        owner = _linked(rows[np.array(same)])
        subjects = {number: f"{stem}_{owner.get(number, number):05d}" for number in first.values()}
        names = {number: f"{subject}_{number:05d}.png" for number, subject in subjects.items()}
        self.faces = checked((Face(subjects[n], names[n], f"{self.path}#{n}") for n in first.values()), path)
        fold = np.concatenate([np.full(len(part), k) for k, part in enumerate(np.array_split(rows, folds))])
        columns = [[names[number] for number in rows[:, side]] for side in (0, 1)]
        self.pairs = pd.DataFrame(dict(zip(COLUMNS, [*columns, same, fold], strict=True)))

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "112 112 3"] | ImageError]:
        """Pixels of each face, in order, or the error that stands in their way."""
        images, _ = read_bin(self.path)
        return [_decoded(images[int(face.origin.rpartition("#")[2])], face.origin) for face in faces]


def _decoded(content: bytes, origin: str) -> UInt8[np.ndarray, "112 112 3"] | ImageError:
    name = os.path.basename(origin)
    try:
        return square_face(decode(io.BytesIO(content), name), name)
    except ImageError as error:
        return error


@functools.lru_cache(maxsize=1)  # a source that travels to another process leaves the images behind, and reads them there
def read_bin(path: str) -> tuple[list[bytes], list[bool]]:
    """Encoded images, two for each pair, and whether each pair is the same person; nothing in the file is executed.

    Raises FileNotFoundError, or ValueError for a file that is too large or no such pack.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a verification pack at {path}, got nothing there. Give the path of the .bin file.")
    if not 0 < (size := os.path.getsize(path)) <= MOST_BYTES:
        raise ValueError(f"{path}: expected a pack of 1 to {MOST_BYTES} bytes, got {size}. Fetch it again.")
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            content = read_plain_pickle(data)
        if not (isinstance(content, tuple | list) and len(content) == 2 and all(type(part) is list for part in content)):
            raise ValueError("expected a list of images and a list of pairs, got other things")
        images, same = content
        if len(images) != 2 * len(same) or not same:
            raise ValueError(f"expected two images for each of its pairs, got {len(images)} images for {len(same)} pairs")
        if not (all(type(image) is bytes for image in images) and all(kind in (0, 1) for kind in same)):
            raise ValueError("expected images as bytes and pairs as true or false, got other things")
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}. Nothing in it was executed. Fetch the pack again from where it is published."
        ) from error
    return images, [bool(kind) for kind in same]


def _linked(pairs: Int[np.ndarray, "n 2"]) -> dict[int, int]:
    """For every number in ``pairs`` the smallest number that a chain of pairs links it to (union-find)."""
    up = {int(number): int(number) for number in pairs.flat}

    def top(number: int) -> int:
        while up[number] != number:
            up[number] = number = up[up[number]]
        return number

    for left, right in pairs.tolist():
        one, other = sorted((top(left), top(right)))
        up[other] = one
    return {number: top(number) for number in up}


class RecSource:
    """A training pack: ``root`` is the ``.rec`` file, with its ``.idx`` beside it, or the folder of ``train.rec``.

    Subjects are the pack's label numbers. Only the headers are read here, one page of the disk per record.
    Raises FileNotFoundError, or ValueError where the index does not fit the records.
    """

    native = False

    def __init__(self, root: Path | str) -> None:
        path = Path(root) / "train.rec" if Path(root).is_dir() else Path(root)
        for file in (path, path.with_suffix(".idx")):
            if not file.is_file() or not file.stat().st_size:
                raise FileNotFoundError(
                    f"Expected a training pack at {file}, got nothing there. Give the .rec, with its .idx beside."
                )
        self.path = str(path)
        keys, offsets, labels = _read_headers(path)
        self.faces = checked(
            (
                Face(f"{label}", f"{label}_{key}.png", f"{self.path}@{offset}")
                for key, offset, label in zip(keys.tolist(), offsets.tolist(), labels.tolist(), strict=True)
            ),
            path,
        )

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "112 112 3"] | ImageError]:
        """Pixels of each face, in order, or the error that stands in their way."""
        with open(self.path, "rb") as stream:
            return [self._read(stream, face) for face in faces]

    @staticmethod
    def _read(stream: BinaryIO, face: Face) -> UInt8[np.ndarray, "112 112 3"] | ImageError:
        try:
            record = read_record(stream, int(face.origin.rpartition("@")[2]))
        except ValueError as error:
            return ImageError(f"{os.path.basename(face.origin)}: {error}. Fetch the pack again.")
        labels = int.from_bytes(record[:4], "little")  # IRHeader: that many labels follow its 24 bytes
        return _decoded(record[24 + 4 * labels :], face.origin)


def _read_headers(path: Path) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Key, byte and label of every image.

    After a record's magic number and length stands MXNet's ``IRHeader`` (flag u32, label f32, two ids u64); a flag above 0 is a
    number of labels that follow. Such a record 0 is no image: its labels are the first key after the images and the last key.
    Raises ValueError for an index of other records, or labels that are no whole numbers.
    """
    index = path.with_suffix(".idx")
    try:
        table = pd.read_csv(index, sep="\t", header=None, names=["key", "byte"], dtype=np.int64).sort_values("key")
    except ValueError as error:
        raise ValueError(f"{index}: expected lines of a key, a tab and a byte, got others ({error}). Fetch it again.") from error
    keys, starts = table.key.to_numpy(), table.byte.to_numpy()
    words = np.memmap(path, "<u4", "r", shape=path.stat().st_size // 4)
    at = starts // 4
    fits = (at >= 0) & (starts % 4 == 0) & (at + 9 <= len(words))
    if not fits.all() or (words[at] != int.from_bytes(MAGIC, "little")).any():
        raise ValueError(f"{index}: expected the places of records in {path.name}, got others. Fetch both files of one pack.")
    several = words[at + 2] > 0
    labels = np.where(several, words[at + 8], words[at + 3]).astype("<u4").view("<f4")
    if keys[0] == 0 and several[0]:
        images = (keys > 0) & (keys < labels[0])
        keys, starts, labels = keys[images], starts[images], labels[images]
    if not len(keys) or not (np.isfinite(labels) & (labels >= 0) & (labels == np.floor(labels))).all():
        raise ValueError(f"{path}: expected images labelled 0, 1, 2, …, got other labels or no image. Fetch the pack again.")
    return keys, starts, labels.astype(np.int64)


def read_record(stream: BinaryIO, offset: int) -> bytes:
    """One RecordIO record: parts of (magic, 3 bits of kind and 29 of length, data, padding to 4), joined by the magic
    number that the writer took out (dmlc-core ``recordio.h``).

    Raises ValueError where there is no whole record, or one of more than 64 MiB.
    """
    stream.seek(offset)
    parts: list[bytes] = []
    while True:
        magic, word = stream.read(4), int.from_bytes(stream.read(4), "little")
        kind, length = word >> 29, word & (2**29 - 1)
        if magic != MAGIC or (kind in (0, 1)) == bool(parts):  # whole or first part; 2 is a middle one, 3 the last
            raise ValueError(f"expected a record at byte {offset}, got none that begins and ends there")
        if sum(map(len, parts)) + length > MOST_RECORD_BYTES:
            raise ValueError(f"expected a record of at most {MOST_RECORD_BYTES} bytes at byte {offset}, got a larger one")
        parts.append(stream.read(length))
        if len(parts[-1]) < length:
            raise ValueError(f"expected a record of {length} bytes at byte {offset}, got the end of the file")
        stream.seek(-length % 4, io.SEEK_CUR)
        if kind in (0, 3):
            return MAGIC.join(parts)
