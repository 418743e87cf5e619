"""How benchmarks judge what they trained: verification of validation faces, a row, a Markdown table."""

from __future__ import annotations

import numpy as np

from dsrkit import metrics
from dsrkit.bootstrap import bootstrap_difference
from dsrkit.data.faces import FaceSet
from dsrkit.models.edgeface import EdgeFace
from dsrkit.recognition import embed
from dsrkit.training.setting import Setting

IMPOSTORS = 40_000


def all_pairs(faces: FaceSet) -> tuple[np.ndarray, np.ndarray]:
    """Rows of every pair of faces [p, 2], and whether both are of one subject [p]."""
    pairs = np.stack(np.triu_indices(len(faces), 1), axis=1)
    return pairs, faces.labels[pairs[:, 0]] == faces.labels[pairs[:, 1]]


def judged(setting: Setting, edgeface: EdgeFace, restored: np.ndarray, mirrored: np.ndarray | None = None) -> dict:
    """Verification of pairs of validation faces (with TTA of their ``mirrored`` ones), and what is left of the recogniser on
    HR faces.
    """
    faces = setting.validation.faces
    pairs, same = all_pairs(faces)
    keep = same | (np.random.default_rng(0).random(len(same)) < IMPOSTORS / (~same).sum())
    pairs, same = pairs[keep], same[keep]
    embeddings = embed(restored, edgeface, mirrored)
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
    of_judge = ["judge's AUC", "gain"] if any("judge" in row for row in rows) else []
    mirrored = ["AUC by TTA"] if any("tta" in row for row in rows) else []
    heads = ["recipe", "AUC", "gain in AUC", "TAR@1%", "gain", *mirrored, *of_judge]
    counted = ["faces"] if any("faces" in row for row in rows) else []
    heads += ["d′", "effective rank", "HR cosine kept", *counted, "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        judge = row.get("judge", {"auc": np.nan})
        cells = [row["recipe"] + (" (never beat its start, which stands here)" if row.get("kept_start") else "")]
        cells += [
            f"{100 * row['auc']:.2f}",
            gain_of(row, "auc"),
            f"{100 * row['tar_at_far_0.01']:.1f}",
            gain_of(row, "tar_at_far_0.01"),
        ]
        cells += [gain_of(row.get("tta", {}), "auc")] if mirrored else []
        cells += [f"{100 * judge['auc']:.2f}", gain_of(judge, "auc")] if of_judge else []
        cells += [f"{row['d_prime']:.2f}", f"{row['effective_rank']:.0f}", f"{row['hr_similarity']:.3f}"]
        cells += [f"{row['faces']:,}"] if counted else []
        cells += [f"{row['seconds']}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gain_of(row: dict, measure: str) -> str:
    if "gain" not in row:
        return "–"
    part = row["gain"][measure]
    return f"{100 * part['value']:+.2f} [{100 * part['low']:+.2f}, {100 * part['high']:+.2f}]"
