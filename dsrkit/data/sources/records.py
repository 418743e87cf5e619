"""What every source gives: a record for each face, and its pixels or an error that says why there are none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

LONGEST_NAME = 200  # bytes; file systems take 255, and a temporary name is longer than the final one
_UNFIT = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^\.")  # separators, control characters, bytes that are no text, hidden


class ImageError(ValueError):
    """An image that cannot serve: says what was expected, what was found, and what to do."""


@dataclass(frozen=True)
class Face:
    """One face: whose it is, the file name it gets in the data set, and where it came from.

    Args:
        split: ``train``, ``val`` or ``test`` where the source itself says so, else empty.
        role: ``gallery``, ``probe`` or ``distractor`` where the source itself says so, else empty.
    """

    subject: str
    name: str
    origin: str
    split: str = ""
    role: str = ""


@runtime_checkable
class Source(Protocol):
    """Lists its faces and reads them by chunk, in any process (sources can be pickled).

    ``native`` sources hold faces of low resolution as a camera took them: ``read`` gives each at its own size, to be used
    without any degradation. All others give HR faces of 112×112. An unusable face is an ``ImageError`` in its place.
    """

    faces: list[Face]
    native: bool

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "_ _ 3"] | ImageError]: ...


# from a photo and its path below the source's root to an HR face; raises ImageError
Aligner = Callable[[UInt8[np.ndarray, "_ _ 3"], str], UInt8[np.ndarray, "112 112 3"]]


def as_composed(text: str) -> str:
    """Unicode NFC, so that é typed as one letter and as e with an accent is one name."""
    return unicodedata.normalize("NFC", text)


def checked(faces: Iterable[Face], where: Path | str) -> list[Face]:
    """The faces, after a look at their names.

    Raises ValueError where a name is no plain file name, or two faces of one split would get the same name, also on a file
    system that ignores case.
    """
    faces, seen = list(faces), dict[tuple[str, str], str]()
    for face in faces:
        if _UNFIT.search(face.name) or _UNFIT.search(face.subject) or len(face.name.encode()) > LONGEST_NAME:
            raise ValueError(
                f"{where}: expected names of letters, digits and marks, at most {LONGEST_NAME} bytes, got {face.name!r} "
                f"from {face.origin!r}. Rename that file or its folder."
            )
        key = (face.split, face.name.casefold())
        if other := seen.get(key):
            raise ValueError(f"{where}: {face.origin} and {other} would both be named {face.name}. Rename one of them.")
        seen[key] = face.origin
    return faces
