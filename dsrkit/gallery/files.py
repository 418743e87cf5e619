"""A gallery on disk: a folder of files that never change, and one small manifest that says which of them count.

    gallery.json            the manifest; replacing it, in one step, is what makes a change count
    embeddings-000007.npy   rows [N, D], float32, unit length: memory-mapped, so that opening reads none of them
    names-000007.json       whose they are, one text a row
    removed-000009.npy      rows that no longer count
    index-000012.faiss      an approximate index, where one was built

A change first writes new files, then the manifest. A process killed in between leaves files that no manifest names: the next
writer deletes them. This is how Lucene and LevelDB keep their segments.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Literal

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError

from dsrkit import __version__
from dsrkit.runs import atomic_path, file_hash

MANIFEST = "gallery.json"
LOCK = ".lock"
OWN_FILES = ("embeddings-*.npy", "names-*.json", "removed-*.npy", "index-*.faiss", ".*.tmp")


class GalleryError(ValueError):
    """A gallery that cannot be used or changed: says what was expected, what was found, and what to do."""


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Part(_Plain):
    """One file of a gallery: its name in the folder, its size in bytes, and the SHA-256 of what it holds."""

    file: str
    bytes: int
    sha256: str


class Segment(_Plain):
    """Faces that were written together."""

    rows: int
    embeddings: Part
    names: Part


class IndexPart(_Plain):
    """An approximate index of the first ``rows`` rows, and how it is asked."""

    part: Part
    kind: str
    rows: int
    settings: dict[str, int]


class Manifest(_Plain):
    """What ``gallery.json`` says. ``generation`` counts the changes; ``dsrkit`` is the version of the kit that made the last."""

    format: Literal["dsrkit-gallery-1"] = "dsrkit-gallery-1"
    dsrkit: str = __version__
    generation: int = 0
    width: int
    models: dict[str, str]
    segments: list[Segment] = []
    removed: Part | None = None
    index: IndexPart | None = None

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @property
    def parts(self) -> list[Part]:
        """Every file that counts."""
        several = [part for segment in self.segments for part in (segment.embeddings, segment.names)]
        return several + [part for part in (self.removed, self.index.part if self.index else None) if part]


class Mapped:
    """Rows of a file, mapped into memory: pages come in when they are touched, and ``release`` hands them back."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as stream:
            np.lib.format.read_magic(stream)
            shape, _, kind = np.lib.format.read_array_header_1_0(stream)
            # Of the file, not of its name: it stays when another process deletes it. A private copy, because torch warns of
            # arrays that cannot be written; nothing is.
            self._file = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            flat = np.frombuffer(self._file, kind, offset=stream.tell())
        self.rows: Float[np.ndarray, "n d"] = flat.reshape(shape)

    def release(self) -> None:
        """The process's memory goes back to what it was; the system's cache keeps the pages while there is room."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows, where the system does it by itself
            self._file.madvise(mmap.MADV_DONTNEED)


def map_bytes(path: Path) -> np.ndarray:
    """A file's bytes, read when they are touched, and there to the end even when another process deletes the name."""
    with open(path, "rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def write_part(folder: Path, name: str, write: Callable[[IO[bytes]], object]) -> Part:
    """Write a file whole or not at all, down to the disk. Raises OSError where there is no room."""
    path = folder / name
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    return Part(file=name, bytes=path.stat().st_size, sha256=file_hash(path))


def write_rows(folder: Path, name: str, rows: int, width: int, blocks: Iterable[Float[np.ndarray, "n d"]]) -> Part:
    """Blocks of rows, one after the other, as one ``.npy`` file."""

    def write(stream: IO[bytes]) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(np.ascontiguousarray(block, "<f4").data)

    return write_part(folder, name, write)


def write_json(folder: Path, name: str, value: object) -> Part:
    return write_part(folder, name, lambda stream: stream.write(json.dumps(value, indent=0).encode()))


def commit(folder: Path, manifest: Manifest) -> None:
    """Make a change count, then delete the files that no longer do."""
    write_part(folder, MANIFEST, lambda stream: stream.write(manifest.model_dump_json(indent=1).encode()))
    counts = {part.file for part in manifest.parts}
    for path in (found for pattern in OWN_FILES for found in folder.glob(pattern)):
        if path.name not in counts:
            path.unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read ``gallery.json`` and hold every file it names against its size.

    Raises FileNotFoundError where there is no gallery, GalleryError for one that is truncated, or no gallery of this kit.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a gallery at {folder}, got no {MANIFEST} there. Make one with Gallery.create, or give its folder."
        )
    while True:
        text = path.read_bytes()
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            what = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors()[:2])
            raise GalleryError(
                f"{path}: expected the manifest of a dsrkit gallery, got a truncated or foreign file ({what}). "
                "Put back a copy of the folder, or enrol again into a new one."
            ) from error
        wrong = [part for part in manifest.parts if _size(folder / part.file) != part.bytes]
        if not wrong:
            return manifest
        if path.read_bytes() == text:  # else another process has just replaced the manifest, and the files of the old one
            raise GalleryError(
                f"{folder / wrong[0].file}: expected {wrong[0].bytes:,} bytes, got {_size(folder / wrong[0].file):,} "
                f"({len(wrong)} file(s) truncated or missing). Put back a copy of the folder, or enrol again into a new one."
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def check_parts(folder: Path, manifest: Manifest) -> None:
    """Read every byte and hold it against its SHA-256. Raises GalleryError naming the first file that differs."""
    for part in manifest.parts:
        found = file_hash(folder / part.file)
        if found != part.sha256:
            raise GalleryError(
                f"{folder / part.file}: expected SHA-256 {part.sha256[:12]}…, got {found[:12]}…: the file was changed or "
                "damaged. Put back a copy of the folder, or enrol again into a new one."
            )
