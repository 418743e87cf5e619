"""How far an exported model is from PyTorch: in embeddings, in scores, in verification accuracy, in restored bytes.

PyTorch's side is what the evaluation does: ``recognition.restore``, then ``recognition.embed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8
from torch import nn

from dsrkit.bootstrap import bootstrap_difference
from dsrkit.evaluation.protocols import verification
from dsrkit.export.loader import OnnxSystem
from dsrkit.export.network import EMBEDDINGS, RESTORED
from dsrkit.models.edgeface import EdgeFace
from dsrkit.models.onnx import Pixels
from dsrkit.recognition import embed, restore

Parity = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """VLR faces and their verification pairs (rows of them), what PyTorch makes of them, and who they are."""

    vlr: Pixels
    pairs: Int[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    folds: Int[np.ndarray, " p"]
    subjects: list[str]
    embeddings: Float[np.ndarray, "n 512"]
    restored: UInt8[np.ndarray, "n 112 112 3"]
    verified: dict[str, Any]


def open_task(faces: Any, pairs: tuple[Any, Any, Any], dsr: nn.Module | None, edgeface: EdgeFace, tta: bool) -> Task:
    """What PyTorch makes of a split (a ``FaceSet`` and its ``read_pairs``): the side that exports are held against."""
    restored = restore(faces.vlr, dsr)
    embeddings = embed(restored, edgeface, restore(faces.mirrored.vlr, dsr) if tta else None)
    return Task(faces.vlr, *pairs, faces.subjects, embeddings, restored, verification(embeddings, *pairs))


def parity(model: OnnxSystem, task: Task, draws: int, seed: int) -> Parity:
    """How far ``model`` is from PyTorch on a task.

    Returns, among others: ``embedding_difference_max`` and ``_mean`` (of components), ``cosine_mean`` and ``_min`` (between the
    two embeddings of a face), ``score_difference_max`` (over pairs), ``restored_difference_max`` (byte levels) and
    ``restored_bytes_differing`` (share), ``verification_accuracy`` and ``points_lost`` (PyTorch minus this, in percentage
    points: {"value", "low", "high"}, over all pairs, paired bootstrap by subject).
    """
    parts, largest, differing, start = [], 0, 0.0, 0
    for part in model.run(task.vlr, [EMBEDDINGS, RESTORED]):
        parts.append(part[EMBEDDINGS])
        apart = np.abs(part[RESTORED].astype(np.int16) - task.restored[start : start + len(part[RESTORED])])
        largest, differing = max(largest, int(apart.max())), differing + float((apart > 0).mean((1, 2, 3)).sum())
        start += len(part[RESTORED])
    embeddings = np.concatenate(parts)
    apart, cosines = np.abs(embeddings - task.embeddings), (embeddings * task.embeddings).sum(1)
    verified = verification(embeddings, task.pairs, task.same, task.folds)
    of_pairs = np.array(task.subjects)[task.pairs]
    lost = bootstrap_difference(task.verified, verified, of_pairs, draws, seed)["verification_accuracy"]
    return {
        "faces": len(embeddings),
        "pairs": len(task.pairs),
        "embedding_difference_max": float(apart.max()),
        "embedding_difference_mean": float(apart.mean()),
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "score_difference_max": float(np.abs(verified["scores"] - task.verified["scores"]).max()),
        "restored_difference_max": largest,
        "restored_bytes_differing": differing / len(embeddings),
        "verification_accuracy": verified["accuracy"],
        "verification_accuracy_pytorch": task.verified["accuracy"],
        "points_lost": {end: 100 * value for end, value in lost.items()},
    }


def choose_int8(candidates: Mapping[str, Parity]) -> str:
    """The int8 variant that loses the least verification accuracy on validation pairs; of equal ones the nearest in cosine.

    Args:
        candidates: what ``parity`` gave of each way, on validation subjects: a choice by the test split would flatter itself.
    """
    return max(candidates, key=lambda way: (candidates[way]["verification_accuracy"], candidates[way]["cosine_mean"]))


def parity_table(parities: Mapping[str, Parity]) -> pd.DataFrame:
    """Parities (with ``megabytes`` added) as text, one row a file; "not shown" marks a loss whose interval holds 0."""
    return pd.DataFrame(
        {
            name: {
                "MB": f"{one['megabytes']:.2f}",
                "verification %": f"{100 * one['verification_accuracy']:.2f}",
                "points lost": _lost(one["points_lost"]),
                "embedding, max": f"{one['embedding_difference_max']:.1e}",
                "embedding, mean": f"{one['embedding_difference_mean']:.1e}",
                "cosine, least": f"{one['cosine_min']:.5f}",
                "score, max": f"{one['score_difference_max']:.1e}",
                "restored, max (of 255)": str(one["restored_difference_max"]),
                "restored bytes that differ %": f"{100 * one['restored_bytes_differing']:.3f}",
            }
            for name, one in parities.items()
        }
    ).T.rename_axis(index=None, columns="against PyTorch")


def _lost(lost: Mapping[str, float]) -> str:
    text = f"{lost['value']:+.2f} [{lost['low']:+.2f}, {lost['high']:+.2f}]"
    return f"{text} not shown" if lost["low"] <= 0 <= lost["high"] else text
