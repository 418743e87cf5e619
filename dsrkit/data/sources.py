"""Where faces come from. A source lists its faces and reads them; adding one is one small class here and one test.

File names understood (both appear in published low-resolution sets):
CMU Multi-PIE ``007_01_01_051_07_crop_128.png`` → subject ``007``; flattened LFW ``1001_0001_lfw.png`` → ``1001``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.synthetic import face_names, render_faces

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_MULTI_PIE = re.compile(r"(?P<subject>\d{3,})_\d{2}_\d{2}_\d{3}_\d{2}_crop_\d+$")
_FLAT_LFW = re.compile(r"(?P<subject>\d+)_\d{4}_lfw$")


class ImageError(ValueError):
    """An image that cannot serve as an HR face: says what was expected, what was found, and what to do."""


@dataclass(frozen=True)
class Face:
    """One HR face: whose it is, the file name it gets in the data set, and where it came from."""

    subject: str
    name: str
    origin: str


@runtime_checkable
class Source(Protocol):
    """What a source offers: its faces, and their pixels by chunk (an error in place of a face that is unusable)."""

    faces: list[Face]

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "112 112 3"] | ImageError]: ...


def subject_of_name(name: str) -> str | None:
    """The subject in a CMU Multi-PIE or flattened LFW file name, else None."""
    stem = Path(name).stem
    match = _MULTI_PIE.match(stem) or _FLAT_LFW.match(stem)
    return match["subject"] if match else None


def read_hr(path: Path) -> UInt8[np.ndarray, "112 112 3"]:
    """One aligned face as RGB 112×112. Larger square images are shrunk (Pillow bicubic); nothing is ever enlarged.

    Raises ImageError for an unreadable file, a colour mode other than RGB or grey, a shape that is not square, or
    fewer than 112 pixels.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path.name}: expected an image, got a file that cannot be read ({error}). Replace it.") from error
    if image.mode not in {"RGB", "L"}:
        raise ImageError(f"{path.name}: expected 8-bit RGB or grey, got mode {image.mode}. Convert it to RGB.")
    width, height = image.size
    if width != height or width < HR_SIZE:
        raise ImageError(
            f"{path.name}: expected an aligned square face of at least {HR_SIZE}x{HR_SIZE}, got {width}x{height}. "
            "Align and crop it first; faces are never enlarged silently."
        )
    small = image.resize((HR_SIZE, HR_SIZE), Image.Resampling.BICUBIC) if width > HR_SIZE else image
    return np.asarray(small.convert("RGB"))


class FolderSource:
    """``root/<subject>/<image>`` (LFW's own layout), or one flat folder of CMU Multi-PIE or flattened LFW names.

    Raises FileNotFoundError when the folder is missing, ValueError when it holds no image that tells its subject, or
    two images that would get the same name.
    """

    def __init__(self, root: Path | str) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"Expected a folder of faces at {root}, got nothing there. Give the folder of subjects.")
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        self.faces = [self._face(root, path) for path in files]
        if not files:
            raise ValueError(f"{root}: expected images in folders of subjects, got none ({', '.join(sorted(IMAGE_SUFFIXES))}).")
        seen: dict[str, str] = {}
        for face in self.faces:
            if other := seen.get(face.name):
                raise ValueError(f"{root}: {face.origin} and {other} would both be named {face.name}. Rename one of them.")
            seen[face.name] = face.origin

    @staticmethod
    def _face(root: Path, path: Path) -> Face:
        subject = subject_of_name(path.name) or (path.parent.name if path.parent != root else None)
        if subject is None:
            raise ValueError(
                f"{path}: expected a folder per subject, or names such as 007_01_01_051_07_crop_128.png or "
                f"1001_0001_lfw.png, got {path.name!r} beside them. Move it into its subject's folder."
            )
        stem = path.stem if path.stem.startswith(f"{subject}_") else f"{subject}_{path.stem}"
        return Face(subject, f"{stem}.png", str(path))

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "112 112 3"] | ImageError]:
        return [self._read(Path(face.origin)) for face in faces]

    @staticmethod
    def _read(path: Path) -> UInt8[np.ndarray, "112 112 3"] | ImageError:
        try:
            return read_hr(path)
        except ImageError as error:  # handed on, so that one bad file is set aside and named, not fatal
            return error


class SyntheticSource:
    """Made-up faces: ``subjects`` people × ``images_per_subject`` images, drawn from ``seed``; see ``synthetic``."""

    def __init__(self, subjects: int, images_per_subject: int, seed: int = 0) -> None:
        if subjects < 1 or images_per_subject < 1:
            raise ValueError(
                f"Made-up faces: expected at least one subject and one image each, got {subjects} and {images_per_subject}."
            )
        self.seed = seed
        people = np.repeat(np.arange(subjects), images_per_subject)
        images = np.tile(np.arange(images_per_subject), subjects)
        names = face_names(people.tolist(), images.tolist(), seed=seed)
        self.faces = [
            Face(subject_of_name(name) or "", name, f"made-up:{person}:{image}")
            for name, person, image in zip(names, people, images, strict=True)
        ]

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "112 112 3"] | ImageError]:
        people, images = zip(*(map(int, face.origin.split(":")[1:]) for face in faces), strict=True)
        return list(render_faces(people, images, seed=self.seed))
