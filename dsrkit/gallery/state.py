"""One state of a gallery: what its manifest names, mapped into memory. It stays as it is when the gallery changes on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from dsrkit.gallery import files
from dsrkit.gallery.exact import ROWS_AT_ONCE, Block
from dsrkit.gallery.files import Manifest, Mapped


class State:
    """The faces of one manifest.

    codes: [N] the subject of each row, as a number into ``names`` (each name once). removed: [N] rows that do not count.
    index_bytes: the file of the approximate index, if there is one.

    Raises FileNotFoundError when a writer has just replaced its files.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._segments = [Mapped(folder / segment.embeddings.file) for segment in manifest.segments]
        self._starts = np.cumsum([0, *(segment.rows for segment in manifest.segments)])
        texts = [json.loads((folder / segment.names.file).read_bytes()) for segment in manifest.segments]
        codes, names = pd.factorize(np.array([name for part in texts for name in part], dtype=object))
        self.codes: Int64[np.ndarray, " n"] = codes
        self.names: np.ndarray = names
        self.removed = np.zeros(manifest.rows, bool)
        if manifest.removed:
            self.removed[np.load(folder / manifest.removed.file)] = True
        self.index_bytes = files.map_bytes(folder / manifest.index.part.file) if manifest.index else None

    def __len__(self) -> int:
        """Faces that count."""
        return int(self.manifest.rows - self.removed.sum())

    def rows_of(self, name: str) -> Int64[np.ndarray, " r"]:
        """The rows of a subject that count; none for a name that is not enrolled."""
        code = np.flatnonzero(self.names == name)
        return np.flatnonzero((self.codes == code[0]) & ~self.removed) if len(code) else code

    def names_of(self, rows: np.ndarray | slice) -> list[str]:
        return list(self.names[self.codes[rows]])

    def embeddings(self, rows: Int64[np.ndarray, " r"]) -> Float32[np.ndarray, "r d"]:
        """Embeddings by their row, from the disk."""
        if len(self._segments) == 1:
            return self._segments[0].rows[rows]
        found = np.empty((len(rows), self.manifest.width), np.float32)
        where = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(where):
            here = where == number
            found[here] = self._segments[number].rows[rows[here] - self._starts[number]]
        return found

    def blocks(self, first: int = 0) -> Iterator[Block]:
        """The gallery from row ``first`` on, in blocks; memory does not grow with it."""
        for start, segment in zip(self._starts, self._segments, strict=False):
            for at in range(max(0, first - int(start)), len(segment.rows), ROWS_AT_ONCE):
                block = segment.rows[at : at + ROWS_AT_ONCE]
                here = int(start) + at
                yield here, block, np.flatnonzero(self.removed[here : here + len(block)])
                segment.release()
