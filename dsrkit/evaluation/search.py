"""Searching a gallery: who comes first for each probe, who second, and where its own subject stands.

A probe's score for a subject is its highest cosine to that subject's gallery images. Scores are made in blocks, so that the
memory does not grow with the number of probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dsrkit.metrics import unit_length

_SCORES_AT_ONCE = 2**24  # 64 MB of float32 scores, and as much again for the best of each subject

Probes = Float[np.ndarray, "p d"]
Gallery = Float[np.ndarray, "g d"]
Ids = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Found:
    """What a search found for each of P probes.

    top, runner_up_score: the best score, and that of the next other subject (NaN in a gallery of one).
    nearest, runner_up: those subjects, as numbers into ``subjects``.
    rank: of the probe's own subject, 1 is best; 0 when it is not enrolled.
    own_score: the score of the own subject; NaN when it is not enrolled.
    average_precision: over the own subject's gallery images among all images; NaN when it is not enrolled.
    """

    subjects: np.ndarray
    top: Float[np.ndarray, " p"]
    nearest: Int[np.ndarray, " p"]
    runner_up: Int[np.ndarray, " p"]
    runner_up_score: Float[np.ndarray, " p"]
    rank: Int[np.ndarray, " p"]
    own_score: Float[np.ndarray, " p"]
    average_precision: Float[np.ndarray, " p"]


def search(probe_emb: Probes, probe_ids: Ids, gallery_emb: Gallery, gallery_ids: Ids) -> Found:
    """Compare every probe with every gallery image.

    Equal scores count against the probe: a collapsed recogniser, to whom all faces are alike, must not come out first.
    Raises ValueError for bad embeddings or ids.
    """
    probes, probe_ids, gallery, gallery_ids = _checked(probe_emb, probe_ids, gallery_emb, gallery_ids)
    order = np.argsort(gallery_ids, kind="stable")
    subjects, first, images = np.unique(gallery_ids[order], return_index=True, return_counts=True)
    column = np.searchsorted(subjects, probe_ids).clip(max=len(subjects) - 1)
    enrolled = subjects[column] == probe_ids
    columns_of_gallery, several = gallery[order].T, len(order) > len(subjects)
    step = max(1, _SCORES_AT_ONCE // len(order))
    parts = []
    for start in range(0, len(probes), step):
        part = slice(start, start + step)
        scores = probes[part] @ columns_of_gallery
        precision = _average_precision(scores, column[part], enrolled[part], first, images)
        best = np.maximum.reduceat(scores, first, axis=1) if several else scores
        parts.append((*_best_two(best, column[part], enrolled[part]), precision))
    whole = [np.concatenate(values) for values in zip(*parts, strict=True)]
    return Found(subjects, *whole)


def _checked(probe_emb: Probes, probe_ids: Ids, gallery_emb: Gallery, gallery_ids: Ids) -> tuple[np.ndarray, ...]:
    probes, gallery = (unit_length(np.asarray(part, np.float32)) for part in (probe_emb, gallery_emb))
    probe_ids, gallery_ids = np.asarray(probe_ids), np.asarray(gallery_ids)
    for name, embeddings, ids in (("probe", probes, probe_ids), ("gallery", gallery, gallery_ids)):
        if not len(ids) or ids.shape != (len(embeddings),):
            raise ValueError(f"{name}: expected one id an embedding, got {list(ids.shape)} ids for {len(embeddings)} embeddings.")
    if probes.shape[1] != gallery.shape[1]:
        raise ValueError(f"Expected embeddings of one width, got probes of {probes.shape[1]}, gallery of {gallery.shape[1]}.")
    if probe_ids.dtype.kind != gallery_ids.dtype.kind:
        raise ValueError(f"Expected ids of one type, got {probe_ids.dtype} for probes, {gallery_ids.dtype} for the gallery.")
    return probes, probe_ids, gallery, gallery_ids


def _best_two(best: Float[np.ndarray, "p s"], column: Int[np.ndarray, " p"], enrolled: np.ndarray) -> tuple[np.ndarray, ...]:
    """top, nearest, runner_up, runner_up_score, rank and own_score, from each probe's score for each subject."""
    rows = np.arange(len(best))
    own = best[rows, column]
    rank = np.where(enrolled, (best >= own[:, None]).sum(1), 0)
    nearest = best.argmax(1)
    top = best[rows, nearest].astype(np.float64)
    own_score = np.where(enrolled, own, np.nan).astype(np.float64)
    if best.shape[1] == 1:
        return top, nearest, nearest, np.full(len(best), np.nan), rank, own_score
    best[rows, nearest] = -np.inf  # the caller has no further use for it
    runner_up = best.argmax(1)
    score = best[rows, runner_up].astype(np.float64)
    tied = (rank > 1) & (nearest == column)  # an equal score of somebody else: that one is named, as the rank says
    nearest, runner_up = np.where(tied, runner_up, nearest), np.where(tied, nearest, runner_up)
    return top, nearest, runner_up, score, rank, own_score


def _average_precision(
    scores: Float[np.ndarray, "p g"],
    column: Int[np.ndarray, " p"],
    enrolled: np.ndarray,
    first: Int[np.ndarray, " s"],
    images: Int[np.ndarray, " s"],
) -> Float[np.ndarray, " p"]:
    """Mean over the own images of (own images down to it) / (all images down to it), ties counting against the probe."""
    total = np.where(enrolled, 0.0, np.nan)
    count = images[column]
    for number in range(int(count[enrolled].max(initial=0))):
        rows = np.flatnonzero(enrolled & (count > number))
        score = scores[rows, first[column[rows]] + number]
        down_to_it = (scores[rows] >= score[:, None]).sum(1)
        own = np.zeros(len(rows))
        for other in range(int(count[rows].max())):
            there = np.flatnonzero(count[rows] > other)
            own[there] += scores[rows[there], first[column[rows[there]]] + other] >= score[there]
        total[rows] += own / down_to_it
    return total / count
