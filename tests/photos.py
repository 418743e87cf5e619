"""Folders of made-up photos, written plainly, and what a folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dsrkit.data.sources import FolderSource


def write(path: Path, array=None, mode: str = "RGB", size: tuple[int, int] = (112, 112)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, 100 if len(mode) == 1 else None) if array is None else Image.fromarray(array)
    image.save(path)
    return path


def folder_of(root: Path, people, images: int = 2, seed: int = 0) -> FolderSource:
    """``root/<person>/<person>_0001.png``, …: pictures of noise, each another."""
    generator = np.random.default_rng(seed)
    for person in people:
        for number in range(1, images + 1):
            write(root / person / f"{person}_{number:04d}.png", generator.integers(0, 256, (112, 112, 3), dtype=np.uint8))
    return FolderSource(root)


def smooth(seed: int) -> np.ndarray:
    """A picture without fine detail, so that compression leaves it nearly as it was."""
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((112, 112), Image.Resampling.BICUBIC))


def contents(root: Path) -> dict[str, bytes]:
    """Every file below ``root``, by its path from there."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
