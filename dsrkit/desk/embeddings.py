"""Embeddings of many faces, made once and kept on disk, so that a desk opens in seconds the second time.

A file in ``outputs/<run>/desk/cache/`` is named by the hash of everything that it depends on: the data set, the networks'
files, the size, the rows. Nothing is ever read that belongs to other weights; the folder may be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dsrkit import __version__
from dsrkit.data.faces import FaceSet, batches_of
from dsrkit.data.layout import hash_of
from dsrkit.evaluation.judge import embeddings_of
from dsrkit.evaluation.systems import System
from dsrkit.metrics import unit_length
from dsrkit.models.edgeface import EMBEDDING_SIZE
from dsrkit.runs import atomic_path, file_hash

AT_ONCE = 256  # faces between two reports of progress: some 20 MB of pixels
Say = Callable[[str], None]


def embedded(system: System, faces: FaceSet, dataset: str, folder: Path, say: Say) -> Float[np.ndarray, "n d"]:
    """What ``system`` makes of ``faces``, read from ``folder`` where it was made before.

    Args:
        dataset: the data set's hash.
        say: told how far it is, and when the result could not be kept.

    Raises ValueError for embeddings with NaN, which are never kept.
    """
    files = {role: file_hash(path) for role, path in sorted(system.files.items())}
    made_by = {"files": files, "tta": system.tta, "hr": system.restorer == "hr", "size": faces.vlr_size, "code": __version__}
    made_of = {"dataset": dataset, "faces": hash_of("\n".join(faces.names))}
    path = folder / f"{hash_of(json.dumps(made_of | made_by, sort_keys=True))[:32]}.npy"
    if path.exists():
        kept = np.load(path)
        if len(kept) == len(faces):
            return unit_length(kept)
    embeddings = unit_length(_made(system, faces, say))
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, embeddings)
    except OSError as error:  # a full disk or a folder of somebody else's: the desk works without, it opens more slowly
        say(f"The embeddings are not kept for the next time: {error}")
    return embeddings


def _made(system: System, faces: FaceSet, say: Say) -> Float[np.ndarray, "n d"]:
    parts = []
    for part in batches_of(len(faces), AT_ONCE):
        say(f"{system.row}: restoring and embedding face {part.start + 1:,} of {len(faces):,}; kept for the next time …")
        parts.append(embeddings_of(system.restored(faces.rows(part)), system.edgeface, system.tta))
    return np.concatenate(parts) if parts else np.empty((0, EMBEDDING_SIZE), np.float32)
