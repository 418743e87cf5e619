"""Faces in files: find them below a root without leaving it, and read them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dsrkit.data.sources.pictures import IMAGE_SUFFIXES, decode, square_face
from dsrkit.data.sources.records import Aligner, Face, ImageError, checked

SMALLEST_NATIVE = 4  # pixels; below, nothing of a face is left


def scan_images(root: Path) -> tuple[list[str], Counter[str]]:
    """Images below ``root`` as sorted paths from there, and how many other files were passed over, by suffix.

    Files and folders whose name starts with a dot are hidden: no faces. Links to folders are not followed.
    Raises FileNotFoundError when the root is no folder or holds no image, ValueError for a link to a folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a folder of faces at {root}, got nothing there. Give the folder of subjects.")
    images: list[str] = []
    others, folders = Counter[str](), [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path, suffix = folder + entry.name, os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    others["hidden"] += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(f"{path}/")
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    raise ValueError(
                        f"{root}: expected folders, got {path!r}, a link to {os.path.realpath(entry.path)}. "
                        "Put the folder itself there, or give its parent as the root."
                    )
                elif suffix in IMAGE_SUFFIXES:
                    images.append(path)
                else:
                    others[suffix or "no suffix"] += 1
    if not images:
        raise ValueError(
            f"{root}: expected images in folders of subjects, got none ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"other files there: {dict(others)}. Give the folder of subjects, or convert the images."
        )
    return sorted(images), others


class FileSource:
    """Faces that lie in files below ``root``; ``aligner`` makes each an HR face unless they are ``native``.

    ``passed_over`` counts the files that were not taken, by suffix or by reason, for the report.
    Raises ValueError for names that cannot be (see ``records.checked``).
    """

    def __init__(
        self,
        root: Path,
        faces: Sequence[Face],
        aligner: Aligner | None = None,
        native: bool = False,
        passed_over: Mapping[str, int] | None = None,
    ) -> None:
        self.root = str(root)
        self.faces = checked(faces, root)
        self.aligner: Aligner = aligner or square_face
        self.native = native
        self.passed_over = dict(passed_over or {})

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "_ _ 3"] | ImageError]:
        """Pixels of each face, in order, or the error that stands in their way."""
        return [self._read(face) for face in faces]

    def _read(self, face: Face) -> UInt8[np.ndarray, "_ _ 3"] | ImageError:
        name = os.path.relpath(face.origin, self.root).replace(os.sep, "/")
        try:
            image = decode(file_within(self.root, face.origin, name), name)
            return _native(image, name) if self.native else self.aligner(image, name)
        except ImageError as error:  # handed on, so that one bad file is set aside and named, not fatal
            return error


def file_within(root: str, path: str, name: str) -> str:
    """``path`` with its links followed. Raises ImageError where that leads outside ``root`` or to anything but a file."""
    real = os.path.realpath(path)
    if not real.startswith(os.path.join(os.path.realpath(root), "")):
        raise ImageError(f"{name}: expected a file below {root}, got a link to {real}. Put the file itself there.")
    if not os.path.isfile(real):  # a pipe would wait for ever
        raise ImageError(f"{name}: expected a file, got a broken link or a device. Put the image itself there.")
    return real


def _native(image: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "h w 3"]:
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_NATIVE:
        raise ImageError(
            f"{name}: expected at least {SMALLEST_NATIVE}x{SMALLEST_NATIVE} pixels, got {width}x{height}. Remove it."
        )
    return image
