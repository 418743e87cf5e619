"""LFW view 2 with an EdgeFace, at 112 pixels and, through the direct feed, at the VLR sizes given.

    python benchmarks/lfw.py [16x16 24x24 …]

reads $DSRKIT_EDGEFACE, $DSRKIT_LFW (aligned 112×112 faces) and $DSRKIT_LFW_PAIRS (pairs.txt).
"""

import sys

import numpy as np

from dsrkit.data.degrade import as_bytes, as_tensor, degrade
from dsrkit.data.faces import batches_of
from dsrkit.data.pairs import read_lfw_pairs
from dsrkit.data.sources import FolderSource
from dsrkit.evaluation import verification
from dsrkit.models import load_edgeface
from dsrkit.recognition import embed, restore
from dsrkit.runs import ROOT, resolve


def shrink(faces: np.ndarray, size: str) -> np.ndarray:
    """Degraded faces as bytes, in batches."""
    parts = [degrade(as_tensor(faces[part]), size) for part in batches_of(len(faces), 256)]
    return np.concatenate([as_bytes(part) for part in parts])


def main() -> None:
    edgeface = load_edgeface(resolve("$DSRKIT_EDGEFACE", ROOT, "EdgeFace weights"))
    source = FolderSource(resolve("$DSRKIT_LFW", ROOT, "aligned LFW"))
    table = read_lfw_pairs(resolve("$DSRKIT_LFW_PAIRS", ROOT, "LFW's pairs.txt"))
    faces = np.stack(source.read(source.faces))
    row_of = {face.name: row for row, face in enumerate(source.faces)}
    pairs = np.stack([table.left.map(row_of), table.right.map(row_of)], axis=1)
    for size in ["112x112", *sys.argv[1:]]:
        seen = faces if size == "112x112" else restore(shrink(faces, size), None)
        result = verification(embed(seen, edgeface), pairs, table.same.to_numpy(), table.fold.to_numpy())
        tar = ", ".join(f"TAR@{100 * far:g}% {rate:.3f}" for far, rate in result["tar_at_far"].items())
        accuracy, spread = 100 * result["accuracy"], 100 * result["accuracy_std"]
        print(f"{edgeface.variant} {size:>8}: {accuracy:.2f} ± {spread:.2f} %, AUC {result['auc']:.4f}, {tar}", flush=True)


if __name__ == "__main__":
    main()
