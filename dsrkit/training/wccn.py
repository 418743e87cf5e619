"""WCCN of what a training left: fitted on the training faces, VLR and HR, and put into the checkpoint beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import nn

from dsrkit.data.faces import batches_of
from dsrkit.models.checkpoint import load_checkpoint, save_checkpoint
from dsrkit.models.edgeface import EdgeFace
from dsrkit.models.wccn import WCCN
from dsrkit.recognition import embed, restore
from dsrkit.training.setting import Setting

_FACES = 4096  # restored at a time


def fit_wccn(setting: Setting, dsr: nn.Module | None, edgeface: EdgeFace, sizes: Sequence[str], power: float) -> WCCN:
    """WCCN for comparing restored faces (without a DSR: bicubic ones) of these VLR sizes, and HR faces, with each other.

    What differs between a face and itself restored counts as a difference within a subject. Raises as ``WCCN.fit``.
    """
    train, sides = setting.train, []
    for size in dict.fromkeys(sizes):
        sides.append(_embeddings(setting.validation.vlr_of(train, size), dsr, edgeface))
    sides.append(embed(train.hr, edgeface, unit=False))
    return WCCN.fit(np.concatenate(sides), np.tile(train.labels, len(sides)), power)


def _embeddings(vlr: UInt8[np.ndarray, "n h w 3"], dsr: nn.Module | None, edgeface: EdgeFace) -> Float[np.ndarray, "n 512"]:
    parts = (restore(vlr[part], dsr) for part in batches_of(len(vlr), _FACES))
    return np.concatenate([embed(faces, edgeface, unit=False) for faces in parts])


def put_wccn(path: Path, wccn: WCCN | None, power: float) -> None:
    """Write ``wccn`` into the checkpoint at ``path`` (None: take out what it holds); its weights stay as they were trained."""
    content = load_checkpoint(path, "edgeface")
    kind = content.pop("kind")
    held = {"mean": wccn.mean, "matrix": wccn.matrix} if wccn else {}
    save_checkpoint(path, kind, content | {"wccn": power if wccn else 0.0, "wccn_state_dict": held})
