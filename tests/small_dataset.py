"""A data set of noise, written as plainly as can be: what reading and sharding are compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def write_dataset(
    root: Path,
    counts: dict[str, int] | None = None,
    sizes: Sequence[str] = ("16x16", "14x16"),
    native: bool = False,
    roles: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """``counts`` faces in each split, three of each subject, in an order that is not sorted; ``native`` has no HR faces."""
    generator, rows = np.random.default_rng(seed), []
    for split, count in (counts or {"train": 10, "val": 4}).items():
        for number in generator.permutation(count):
            subject, name = f"{split}-person{number // 3}", f"face {number:03d} é.b.png"
            rows.append({"split": split, "subject": subject, "name": name})
            for size in (*sizes, *([] if native else ["112x112"])):
                width, height = map(int, size.split("x"))
                folder = root / f"{split}_processed" / ("hr_images" if size == "112x112" else f"vlr_images_{size}")
                folder.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name, compress_level=1)
    manifest = pd.DataFrame(rows)
    if roles:
        manifest["role"] = [roles[row % len(roles)] for row in range(len(manifest))]
    (root / "dataset.json").write_text(json.dumps({"degradation": "none"}))
    manifest.to_csv(root / "manifest.csv", index=False)
    return root


def pixels_of(dataset: Path, split: str, folder: str, names: Sequence[str]) -> np.ndarray:
    """The files' pixels, one after the other."""
    return np.stack([np.asarray(Image.open(dataset / f"{split}_processed" / folder / name)) for name in names])
