"""1:N identification against a gallery, closed set and open set, after ISO/IEC 19795-1:2021.

A probe's score for a subject is its highest cosine to that subject's gallery images. A probe is *enrolled* (mated) when its
subject has gallery images. The answer is the subject of the highest score, or "unknown" below the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from dsrkit.metrics import unit_length

FPIRS = (0.1, 0.01)
_PROBES_AT_ONCE = 1024  # against 10,000 gallery images: 40 MB of float32 scores

Probes = Float[np.ndarray, "p d"]
Gallery = Float[np.ndarray, "g d"]
Ids = Sequence[Any] | np.ndarray


def _search(
    probe_emb: Probes, probe_ids: Ids, gallery_emb: Gallery, gallery_ids: Ids
) -> tuple[Float[np.ndarray, " p"], Int[np.ndarray, " p"], int]:
    """Each probe's highest score, its own subject's rank (1 is best, 0 when not enrolled), and the number of subjects.

    Equal scores count against the probe: a collapsed recogniser, to whom all faces are alike, must not come out first.
    """
    probes, gallery = (unit_length(np.asarray(part, np.float32)) for part in (probe_emb, gallery_emb))
    probe_ids, gallery_ids = np.asarray(probe_ids), np.asarray(gallery_ids)
    for name, embeddings, ids in (("probe", probes, probe_ids), ("gallery", gallery, gallery_ids)):
        if not len(ids) or ids.shape != (len(embeddings),):
            raise ValueError(f"{name}: expected one id an embedding, got {list(ids.shape)} ids for {len(embeddings)} embeddings.")
    if probes.shape[1] != gallery.shape[1]:
        raise ValueError(f"Expected embeddings of one width, got probes of {probes.shape[1]}, gallery of {gallery.shape[1]}.")
    if probe_ids.dtype.kind != gallery_ids.dtype.kind:
        raise ValueError(f"Expected ids of one type, got {probe_ids.dtype} for probes, {gallery_ids.dtype} for the gallery.")
    order = np.argsort(gallery_ids, kind="stable")
    subjects, first = np.unique(gallery_ids[order], return_index=True)
    column = np.searchsorted(subjects, probe_ids).clip(max=len(subjects) - 1)
    enrolled = subjects[column] == probe_ids
    top, rank = np.empty(len(probes)), np.zeros(len(probes), int)
    columns_of_gallery = gallery[order].T
    for start in range(0, len(probes), _PROBES_AT_ONCE):
        part = slice(start, start + _PROBES_AT_ONCE)
        scores = np.maximum.reduceat(probes[part] @ columns_of_gallery, first, axis=1)
        own = np.take_along_axis(scores, column[part, None], axis=1)
        top[part] = scores.max(1)
        rank[part] = np.where(enrolled[part], (scores >= own).sum(1), 0)
    return top, rank, len(subjects)


def _threshold(top: Float[np.ndarray, " n"], fpir: float) -> float:
    """The smallest float32 threshold that at most a share ``fpir`` of the non-enrolled probes reaches."""
    descending = np.sort(top)[::-1]
    allowed = np.count_nonzero(np.arange(1, len(top) + 1) / len(top) <= fpir)
    if allowed == len(top):
        return float(descending[-1])
    # Scores are computed in float32; a float64 step above one would be rounded back onto it when they are compared.
    return float(np.nextafter(np.float32(descending[allowed]), np.float32(2)))


def identification(probe_emb: Probes, probe_ids: Ids, gallery_emb: Gallery, gallery_ids: Ids, threshold: float) -> dict[str, Any]:
    """1:N identification; thresholds are cosines, shares in [0, 1].

    Args:
        threshold: a best score below it is answered "unknown". Choose it elsewhere (``threshold_at_fpir`` on validation
            subjects), never on these probes.

    Returns a dictionary:
        cmc: [S] share of the enrolled probes whose subject is among the best k, k = 1 … S subjects (closed set).
        rank1, rank5, rank10: of it (with fewer subjects than that: 1).
        unknown_rate: share of enrolled probes answered "unknown".
        correct_rate: share of enrolled probes named rightly at the threshold.
        false_positive_identification_rate: share of non-enrolled probes answered with a name; NaN without such probes.
        tpir_at_fpir: {0.1: …, 0.01: …} correct_rate at the threshold of that rate on these non-enrolled probes; {} without.
        threshold: as given.
        rank, top_score: [P] the own subject's rank (0: not enrolled) and the best score of each probe.

    Raises ValueError for bad embeddings or ids, and when no probe is enrolled.
    """
    top, rank, subjects = _search(probe_emb, probe_ids, gallery_emb, gallery_ids)
    enrolled = rank > 0
    if not enrolled.any():
        raise ValueError(f"Expected probes of enrolled subjects, got none among {len(rank)}. Enrol some of their images.")
    cmc = np.cumsum(np.bincount(rank[enrolled], minlength=subjects + 1)[1:]) / enrolled.sum()
    named, first = top >= threshold, rank == 1
    outsiders = top[~enrolled]
    tpir = {fpir: float((first & (top >= _threshold(outsiders, fpir)))[enrolled].mean()) for fpir in FPIRS if len(outsiders)}
    return {
        **{f"rank{k}": float(cmc[min(k, subjects) - 1]) for k in (1, 5, 10)},
        "cmc": cmc,
        "unknown_rate": float(1 - named[enrolled].mean()),
        "correct_rate": float((first & named)[enrolled].mean()),
        "false_positive_identification_rate": float(named[~enrolled].mean()) if len(outsiders) else float("nan"),
        "tpir_at_fpir": tpir,
        "threshold": float(threshold),
        "rank": rank,
        "top_score": top,
    }


def threshold_at_fpir(probe_emb: Probes, gallery_emb: Gallery, fpir: float) -> float:
    """The smallest threshold at which at most a share ``fpir`` of non-enrolled probes is answered with a name.

    To be chosen on validation subjects and then frozen. The rate grows with the gallery: calibrate on a gallery about as
    large as the one in use.

    Args:
        probe_emb: probes of whom nobody is in the gallery; with fewer than 1/fpir of them none may be named at all.

    Raises ValueError for bad embeddings and for a rate outside [0, 1].
    """
    if not 0 <= fpir <= 1:
        raise ValueError(f"fpir: expected a share from 0 to 1, got {fpir}. One per cent is 0.01.")
    nobody = np.zeros(len(probe_emb), int)
    top, _, _ = _search(probe_emb, nobody, gallery_emb, np.ones(len(gallery_emb), int))
    return _threshold(top, fpir)


def threshold_sweep(
    probe_emb: Probes,
    probe_ids: Ids,
    gallery_emb: Gallery,
    gallery_ids: Ids,
    thresholds: Float[np.ndarray, " t"] | None = None,
) -> pd.DataFrame:
    """What a threshold costs: columns threshold, correct, wrong, unknown (shares of enrolled probes, sum 1) and fpir.

    ``thresholds`` defaults to 0, 0.01 … 1. ``fpir`` is NaN without non-enrolled probes. To look at, not to choose by.
    Raises ValueError as ``identification``.
    """
    top, rank, _ = _search(probe_emb, probe_ids, gallery_emb, gallery_ids)
    enrolled = rank > 0
    if not enrolled.any():
        raise ValueError(f"Expected probes of enrolled subjects, got none among {len(rank)}. Enrol some of their images.")
    thresholds = np.linspace(0, 1, 101) if thresholds is None else np.asarray(thresholds, np.float64)

    def reached(scores: Float[np.ndarray, " n"]) -> Int[np.ndarray, " t"]:
        return len(scores) - np.searchsorted(np.sort(scores), thresholds)

    named, correct, mated = reached(top[enrolled]), reached(top[rank == 1]), enrolled.sum()
    outsiders = top[~enrolled]
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "correct": correct / mated,
            "wrong": (named - correct) / mated,
            "unknown": 1 - named / mated,
            "fpir": reached(outsiders) / len(outsiders) if len(outsiders) else np.nan,
        }
    )


def gallery_split(
    labels: Ids, enrolled: int = 1, seed: int = 0
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " p"], Int[np.ndarray, " u"]]:
    """Row numbers of gallery, probes and unknown probes, each sorted.

    ``enrolled`` images of every subject with more than that are the gallery (a seeded choice), its others are probes; all
    images of the remaining subjects are probes of people unknown to the gallery.
    Raises ValueError when no subject has more than ``enrolled`` images.
    """
    if enrolled < 1:
        raise ValueError(f"enrolled: expected 1 or more gallery images a subject, got {enrolled}.")
    _, subject, count = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if not len(count) or count.max() <= enrolled:
        most = count.max(initial=0)
        raise ValueError(f"Expected a subject with more than {enrolled} images, got {most} at most. Lower enrolled.")
    # A random order, then grouped by subject without disturbing it: the first of each group are drawn without replacement.
    order = np.random.default_rng(seed).permutation(len(subject))
    order = order[np.argsort(subject[order], kind="stable")]
    place = np.arange(len(subject)) - (np.cumsum(count) - count)[subject[order]]
    known = count[subject[order]] > enrolled
    return (
        np.sort(order[known & (place < enrolled)]),
        np.sort(order[known & (place >= enrolled)]),
        np.sort(order[~known]),
    )
