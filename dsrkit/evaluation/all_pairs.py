"""Verification over all pairs of faces: what a rate of one false match in 10,000 needs, and a list of pairs cannot carry.

LFW's list has 3,000 impostor pairs, its 7,701 faces make 29.6 million. All scores are made in blocks; only genuine ones and
the highest impostor ones are kept, which is all that TAR at a low FAR depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dsrkit.data.faces import batches_of
from dsrkit.metrics import unit_length

FARS = (1e-3, 1e-4, 1e-5, 1e-6)
FEWEST = 10  # impostor pairs that must lie above a threshold for its rate to say anything
MOST_RATES = 3  # the lowest: where all pairs carry 1e-6, a list of pairs carries 1e-3, and the tail stays short
_TAIL = 3  # times as long as the largest FAR needs, so that a bootstrap draw finds its threshold in it
_SCORES_AT_ONCE = 2**24  # 64 MB of float32
_PAIRS_AT_ONCE = 2**14

Found = tuple[Float[np.ndarray, " k"], Int[np.ndarray, "k 2"]]  # scores, and the two faces of each


def all_pairs_verification(
    left: Float[np.ndarray, "n d"], right: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], fars: Sequence[float] = FARS
) -> dict[str, Any]:
    """TAR@FAR over the pairs (i, j), i < j, of N faces: ``left[i]`` against ``right[j]``.

    Args:
        left, right: two versions of the same faces, such as HR and restored; the same array twice for one version.

    Returns a dictionary:
        tar_at_far: {far: share of genuine pairs above the smallest threshold whose FAR is at most ``far``}, for those ``fars``
            (falling) that at least ten impostor pairs carry, the lowest three of them.
        threshold_at_far: {far: cosine}
        genuine, impostors, faces: how many.
        tail_scores, tail_pairs, genuine_scores, genuine_pairs: the highest impostor scores, falling, and all genuine ones.

    Raises ValueError for bad embeddings, for labels of another length, and without genuine or impostor pairs.
    """
    left, right, labels = (*(unit_length(np.asarray(part, np.float32)) for part in (left, right)), np.asarray(labels))
    if left.shape != right.shape or labels.shape != (len(left),):
        raise ValueError(f"Expected two [N, D] and labels [N], got {left.shape}, {right.shape} and {labels.shape}.")
    genuine_pairs = _genuine_pairs(labels)
    impostors = len(labels) * (len(labels) - 1) // 2 - len(genuine_pairs)
    if not (len(genuine_pairs) and impostors):
        missing = "impostor" if len(genuine_pairs) else "genuine"
        raise ValueError(f"Expected genuine and impostor pairs, got no {missing} pair among {len(labels)} faces. Add some.")
    scores = np.empty(len(genuine_pairs), np.float32)
    for part in batches_of(len(scores), _PAIRS_AT_ONCE):
        one, other = genuine_pairs[part].T
        scores[part] = np.einsum("pd,pd->p", left[one], right[other])
    carried = [far for far in fars if far * impostors >= FEWEST][-MOST_RATES:]
    length = min(impostors, int(_TAIL * max(carried, default=0) * impostors) + 1)
    tail_scores, tail_pairs = highest_impostors(left, right, labels, length)
    thresholds = {far: above(tail_scores, int(far * impostors)) for far in carried}
    return {
        "tar_at_far": {far: float((scores >= threshold).mean()) for far, threshold in thresholds.items()},
        "threshold_at_far": thresholds,
        "genuine": len(genuine_pairs),
        "impostors": impostors,
        "faces": len(labels),
        "tail_scores": tail_scores,
        "tail_pairs": tail_pairs,
        "genuine_scores": scores,
        "genuine_pairs": genuine_pairs,
    }


def above(falling: Float[np.ndarray, " k"], allowed: int) -> float:
    """The smallest float32 threshold that at most ``allowed`` of the scores reach."""
    return float(np.nextafter(np.float32(falling[min(allowed, len(falling) - 1)]), np.float32(2)))


def _genuine_pairs(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, "k 2"]:
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    pairs = [np.sort(group)[np.stack(np.triu_indices(len(group), 1), axis=1)] for group in groups if len(group) > 1]
    return np.concatenate(pairs) if pairs else np.empty((0, 2), int)


def highest_impostors(
    left: Float[np.ndarray, "n d"], right: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], length: int
) -> Found:
    """The ``length`` highest impostor scores of pairs (i, j), i < j, falling, and their pairs; embeddings of unit length."""
    images = np.unique(labels, return_counts=True)[1]
    genuine = int((images * (images - 1) // 2).sum())
    scores, pairs, floor = np.empty(0, np.float32), np.empty((0, 2), np.int32), np.float32(-2)
    step = max(1, _SCORES_AT_ONCE // len(labels))
    for start in range(0, len(labels), step):
        block = left[start : start + step] @ right[start:].T
        block[:, : len(block)][np.tril_indices(len(block))] = -2  # j > i alone
        flat = block.ravel()
        if floor == -2 and len(flat) > length + genuine:  # at least `length` impostors of this block lie as high
            floor = np.nextafter(np.partition(flat, -length - genuine)[-length - genuine], np.float32(-2))
        one, other = np.divmod(np.flatnonzero(flat > floor), block.shape[1])
        differ = labels[one + start] != labels[other + start]
        one, other = one[differ], other[differ]
        scores = np.append(scores, block[one, other])
        pairs = np.concatenate([pairs, np.stack([one + start, other + start], axis=1).astype(np.int32)])
        if len(scores) > length:
            keep = np.argpartition(-scores, length - 1)[:length]
            scores, pairs = scores[keep], pairs[keep]
            floor = scores.min()
    order = np.argsort(-scores, kind="stable")
    return scores[order], pairs[order]
