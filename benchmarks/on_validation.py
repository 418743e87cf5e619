"""How benchmarks judge what they trained: verification of validation faces, a row, a Markdown table."""

from __future__ import annotations

import numpy as np

from dsrkit import metrics
from dsrkit.bootstrap import bootstrap_difference
from dsrkit.models.edgeface import EdgeFace
from dsrkit.recognition import embed
from dsrkit.training.setting import Setting

IMPOSTORS = 40_000


def judged(setting: Setting, edgeface: EdgeFace, restored: np.ndarray) -> dict:
    """Verification of pairs of validation faces, and what is left of the recogniser on HR faces."""
    faces = setting.validation.faces
    pairs = np.stack(np.triu_indices(len(faces), 1), axis=1)
    same = faces.labels[pairs[:, 0]] == faces.labels[pairs[:, 1]]
    keep = same | (np.random.default_rng(0).random(len(same)) < IMPOSTORS / (~same).sum())
    pairs, same = pairs[keep], same[keep]
    embeddings = embed(restored, edgeface)
    scores = metrics.cosine_scores(embeddings, pairs)
    correct = (scores >= metrics.eer(scores, same)[1]) == same
    return {
        "scores": scores,
        "same": same,
        "correct": correct,
        "subjects": np.array(faces.subjects)[pairs],
        "auc": metrics.auc(scores, same),
        "eer": metrics.eer(scores, same)[0],
        "tar_at_far_0.01": metrics.tar_at_far(scores, same, 0.01),
        "d_prime": metrics.d_prime(scores, same),
        "effective_rank": metrics.effective_rank(embeddings),
        "hr_similarity": setting.validation.hr_kept(edgeface)["hr_similarity"],
    }


def line(name: str, found: dict, start: dict | None, ended: str, seconds: float) -> dict:
    """One row: the measures, and the gain over ``start`` with its interval."""
    row = {"recipe": name, "ended": ended, "seconds": round(seconds)} | {
        key: value for key, value in found.items() if isinstance(value, float)
    }
    if start is not None:
        row["gain"] = bootstrap_difference(found, start, found["subjects"], draws=200)
    return row


def markdown(rows: list[dict]) -> str:
    lines = ["| recipe | AUC | gain in AUC | TAR@1% | gain | d′ | effective rank | HR cosine kept | seconds |", "|" + "---|" * 9]
    for row in rows:
        gains = ["–", "–"]
        if "gain" in row:
            parts = [row["gain"][measure] for measure in ("auc", "tar_at_far_0.01")]
            gains = [f"{100 * part['value']:+.2f} [{100 * part['low']:+.2f}, {100 * part['high']:+.2f}]" for part in parts]
        lines.append(
            f"| {row['recipe']} | {100 * row['auc']:.2f} | {gains[0]} | {100 * row['tar_at_far_0.01']:.1f} | {gains[1]} | "
            f"{row['d_prime']:.2f} | {row['effective_rank']:.0f} | {row['hr_similarity']:.3f} | {row['seconds']} |"
        )
    return "\n".join(lines)
