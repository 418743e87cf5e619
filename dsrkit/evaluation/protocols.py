"""1:1 verification over folds, as LFW view 2 does it (Huang et al., "Labeled Faces in the Wild", 2007).

The threshold that decides a fold is chosen on the other folds, so no pair takes part in choosing the threshold that judges it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dsrkit import metrics


def best_threshold(scores: Float[np.ndarray, " p"], same: Bool[np.ndarray, " p"]) -> float:
    """The threshold of highest accuracy: the midpoint between two neighbouring scores, the lowest of equally good ones.

    Accepting every pair and rejecting every pair are candidates too.
    Raises ValueError as ``metrics.check_scores``.
    """
    scores, same = metrics.check_scores(scores, same)
    values, place = np.unique(scores, return_inverse=True)
    genuine = np.bincount(place[same], minlength=len(values))
    impostor = np.bincount(place[~same], minlength=len(values))
    # Candidate k lies below values[k]: what is right are the genuine pairs from k on and the impostor pairs before k.
    right = genuine.sum() - np.append(0, np.cumsum(genuine)) + np.append(0, np.cumsum(impostor))
    midpoints = np.maximum((values[:-1] + values[1:]) / 2, np.nextafter(values[:-1], np.inf))
    candidates = np.concatenate([values[:1], midpoints, [np.nextafter(values[-1], np.inf)]])
    return float(candidates[np.argmax(right)])


def fold_numbers(folds: int | Int[np.ndarray, " p"], count: int) -> Int[np.ndarray, " p"]:
    """The fold of each of ``count`` pairs; an integer K means K consecutive blocks of equal size, as in LFW's list.

    Raises ValueError for fewer than two folds or a list of another length.
    """
    if np.ndim(folds) == 0:
        blocks = int(folds)
        if not 2 <= blocks <= count:
            raise ValueError(
                f"folds: expected 2 to {count} (the number of pairs), got {blocks}. The threshold comes from the other folds."
            )
        return np.arange(count) * blocks // count
    numbers = np.asarray(folds)
    if numbers.shape != (count,):
        raise ValueError(f"folds: expected a number for each of the {count} pairs, got shape {list(numbers.shape)}.")
    if len(np.unique(numbers)) < 2:
        raise ValueError("folds: expected two folds or more, got one. The threshold comes from the other folds.")
    return numbers


def folds_left_alone(same: Bool[np.ndarray, " p"], folds: Int[np.ndarray, " p"]) -> list[int]:
    """Folds for which no threshold can be chosen: the others hold no genuine pair, or no impostor pair."""
    return [int(fold) for fold in np.unique(folds) if len(np.unique(same[folds != fold])) < 2]


def _held_out(
    scores: Float[np.ndarray, " p"], same: Bool[np.ndarray, " p"], folds: Int[np.ndarray, " p"]
) -> tuple[Bool[np.ndarray, " p"], Float[np.ndarray, " p"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Whether each pair is judged rightly by its fold's threshold, and that threshold; accuracy and threshold of each fold."""
    correct, judged_at = np.zeros(len(scores), bool), np.zeros(len(scores))
    accuracies, thresholds = [], []
    if alone := folds_left_alone(same, folds):
        raise ValueError(
            f"Fold {alone[0]}: expected genuine and impostor pairs in the other folds to choose its threshold on, got one "
            "kind only. Spread both kinds over all folds."
        )
    for fold in np.unique(folds):
        held = folds == fold
        thresholds.append(best_threshold(scores[~held], same[~held]))
        judged_at[held] = thresholds[-1]
        correct[held] = (scores[held] >= thresholds[-1]) == same[held]
        accuracies.append(correct[held].mean())
    return correct, judged_at, np.array(accuracies), np.array(thresholds)


def _fold_weight(folds: Int[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    _, place, count = np.unique(folds, return_inverse=True, return_counts=True)
    return len(folds) / (len(count) * count[place])


def verification(
    embeddings: Float[np.ndarray, "n d"],
    pairs: Int[np.ndarray, "p 2"],
    same: Bool[np.ndarray, " p"],
    folds: int | Int[np.ndarray, " p"] = 10,
) -> dict[str, Any]:
    """1:1 verification of pairs of rows of ``embeddings``.

    Args:
        folds: K (consecutive blocks of equal size) or the fold number of each pair.

    Returns a dictionary, shares in [0, 1]:
        accuracy, accuracy_std: mean and sample standard deviation over folds (K − 1 in the denominator, as LFW states it).
        auc, eer, tar_at_far: over all pairs at once; tar_at_far by FAR 0.1, 0.01 and 0.001, NaN where there are fewer than
            1/FAR impostor pairs.
        threshold: mean over folds, a cosine.
        d_prime, genuine_mean, impostor_mean, effective_rank: the collapse measures; the rank is that of ``embeddings``.
        scores, same, correct: [P] the cosine, the truth, and whether the held-out decision was right (for the bootstrap).
        pair_threshold: [P] the threshold that decided the pair, chosen on the other folds.
        fold_weight: [P] what the pair weighs in ``accuracy``, a mean over folds: one where all folds are of one size.

    Raises ValueError for bad embeddings, pairs or folds, and when genuine or impostor pairs are missing.
    """
    scores, same = metrics.check_scores(metrics.cosine_scores(embeddings, pairs), same)
    numbers = fold_numbers(folds, len(scores))
    correct, judged_at, accuracies, thresholds = _held_out(scores, same, numbers)
    impostors = np.count_nonzero(~same)
    return {
        "accuracy": float(accuracies.mean()),
        "accuracy_std": float(accuracies.std(ddof=1)),
        "auc": metrics.auc(scores, same),
        "eer": metrics.eer(scores, same)[0],
        "tar_at_far": {
            far: metrics.tar_at_far(scores, same, far) if far * impostors >= 1 else float("nan") for far in metrics.FARS
        },
        "threshold": float(thresholds.mean()),
        "d_prime": metrics.d_prime(scores, same),
        "genuine_mean": float(scores[same].mean()),
        "impostor_mean": float(scores[~same].mean()),
        "effective_rank": metrics.effective_rank(embeddings),
        "scores": scores,
        "same": same,
        "correct": correct,
        "pair_threshold": judged_at,
        "fold_weight": _fold_weight(numbers),
    }
