"""Embeddings of many faces, made once and kept on disk, so that a desk opens in seconds the second time.

A file in ``outputs/<run>/desk/cache/`` is named by the hash of everything that it depends on: the data set, the networks'
files, the size, the rows. Nothing is ever read that belongs to other weights; the folder may be deleted at any time.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dsrkit import __version__
from dsrkit.data.faces import FaceSet, batches_of
from dsrkit.data.layout import hash_of
from dsrkit.evaluation.headline import row_label
from dsrkit.evaluation.systems import System
from dsrkit.metrics import unit_length
from dsrkit.models.edgeface import EMBEDDING_SIZE
from dsrkit.models.guided import Guided
from dsrkit.recognition import BATCH
from dsrkit.runs import atomic_path, file_hash

AT_ONCE = BATCH  # faces between two reports of progress, a second or two on two cores: the batches of an evaluation
Report = Callable[[str, float | None], None]  # what goes on, and which share of it is done (None: nobody knows)


def silent(text: str, share: float | None) -> None:
    """A report that nobody hears."""


def embedded(system: System, faces: FaceSet, dataset: str, folder: Path, report: Report) -> Float[np.ndarray, "n d"]:
    """What ``system`` makes of ``faces``, read from ``folder`` where it was made before.

    Args:
        dataset: the data set's hash.
        report: told how far it is. What it raises ends the work; nothing is kept then.

    Raises ValueError for embeddings with NaN, which are never kept. Warns where the result cannot be kept.
    """
    files = {role: file_hash(path) for role, path in sorted(system.files.items())}
    made_by = {"files": files, "mirrored": system.tta, "hr": system.restorer == "hr", "size": faces.vlr_size, "code": __version__}
    made_by |= {"guide_steps": system.restorer.steps} if isinstance(system.restorer, Guided) else {}
    made_of = {"dataset": dataset, "faces": hash_of("\n".join(faces.names))}
    path = folder / f"{hash_of(json.dumps(made_of | made_by, sort_keys=True))[:32]}.npy"
    if path.exists():
        kept = np.load(path)
        if len(kept) == len(faces):
            return kept  # of unit length already; normalised twice it would differ by the last bit
    embeddings = unit_length(_made(system, faces, report))
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, embeddings)
    except OSError as error:  # a full disk or a folder of somebody else's: the desk works without, it opens more slowly
        warnings.warn(f"The embeddings are not kept for the next time: {error}", stacklevel=2)
    return embeddings


def _made(system: System, faces: FaceSet, report: Report) -> Float[np.ndarray, "n d"]:
    parts, began = [], time.monotonic()
    doing = f"{row_label(system.row)}: {len(faces):,} faces are restored and embedded, this first time only"
    for part in batches_of(len(faces), AT_ONCE):
        done = part.start / len(faces)
        left = f"; {(time.monotonic() - began) * (1 / done - 1):,.0f} s left" if done else ""
        report(doing + left, done)
        parts.append(system.embedded(faces.rows(part)))
    return np.concatenate(parts) if parts else np.empty((0, EMBEDDING_SIZE), np.float32)
