"""1:N identification against a gallery, closed set and open set, after ISO/IEC 19795-1:2021.

A probe is *enrolled* (mated) when its subject has gallery images; the others are strangers. The answer is the subject of the
highest score, or "unknown" below the threshold.

    FPIR    share of strangers answered with a name
    TPIR    share of enrolled probes named rightly, first and at or above the threshold; FNIR = 1 − TPIR
    DIR     the same as TPIR at rank 1 (Phillips, Grother & Micheals 2011 call it detection and identification rate, and the
            share of strangers named FAR: DIR@FAR is TPIR@FPIR)

Both depend on how many subjects are enrolled: the result says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from dsrkit.evaluation.search import Found, Gallery, Ids, Probes, search
from dsrkit.weighted import RANKS

FPIRS = (0.1, 0.01)


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
        threshold: a best score below it is answered "unknown". Choose it elsewhere (``threshold_for_gallery`` on
            validation subjects), never on these probes.

    Returns a dictionary:
        cmc: [S] share of the enrolled probes whose subject is among the best k, k = 1 … S subjects (closed set).
        rank1, rank5, rank10, rank20: of it (with fewer subjects than that: 1).
        map: mean average precision over the gallery images of the own subject (TinyFace's measure).
        unknown_rate: share of enrolled probes answered "unknown".
        correct_rate: share of enrolled probes named rightly at the threshold.
        false_positive_identification_rate: share of strangers answered with a name; NaN without strangers.
        tpir_at_fpir: {0.1: …, 0.01: …} correct_rate at the threshold of that rate on these strangers, for those rates
            that one stranger or more can carry.
        threshold: as given.
        enrolled_subjects, gallery_images, enrolled_probes, strangers: how many.
        rank, top_score, own_score, average_precision: [P] see ``search.Found``.
        nearest, runner_up, runner_up_score: [P] the ids of the two best subjects, and the second's score.

    Raises ValueError for bad embeddings or ids, and when no probe is enrolled.
    """
    found = search(probe_emb, probe_ids, gallery_emb, gallery_ids)
    top, rank, subjects = found.top, found.rank, len(found.subjects)
    enrolled = _enrolled(rank)
    cmc = np.cumsum(np.bincount(rank[enrolled], minlength=subjects + 1)[1:]) / enrolled.sum()
    named, first = top >= threshold, rank == 1
    outsiders = top[~enrolled]
    carried = [fpir for fpir in FPIRS if fpir * len(outsiders) >= 1]
    tpir = {fpir: float((first & (top >= _threshold(outsiders, fpir)))[enrolled].mean()) for fpir in carried}
    return {
        **{f"rank{k}": float(cmc[min(k, subjects) - 1]) for k in RANKS},
        "cmc": cmc,
        "map": float(found.average_precision[enrolled].mean()),
        "unknown_rate": float(1 - named[enrolled].mean()),
        "correct_rate": float((first & named)[enrolled].mean()),
        "false_positive_identification_rate": float(named[~enrolled].mean()) if len(outsiders) else float("nan"),
        "tpir_at_fpir": tpir,
        "threshold": float(threshold),
        "enrolled_subjects": subjects,
        "gallery_images": len(gallery_emb),
        "enrolled_probes": int(enrolled.sum()),
        "strangers": len(outsiders),
        **_each_probe(found),
    }


def _enrolled(rank: Int[np.ndarray, " p"]) -> np.ndarray:
    if not (rank > 0).any():
        raise ValueError(f"Expected probes of enrolled subjects, got none among {len(rank)}. Enrol some of their images.")
    return rank > 0


def _each_probe(found: Found) -> dict[str, np.ndarray]:
    return {
        "rank": found.rank,
        "top_score": found.top,
        "own_score": found.own_score,
        "average_precision": found.average_precision,
        "nearest": found.subjects[found.nearest],
        "runner_up": found.subjects[found.runner_up],
        "runner_up_score": found.runner_up_score,
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
    found = search(probe_emb, nobody, gallery_emb, np.ones(len(gallery_emb), int))
    return _threshold(found.top, fpir)


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
    found = search(probe_emb, probe_ids, gallery_emb, gallery_ids)
    return sweep_of({"rank": found.rank, "top_score": found.top}, thresholds)


def sweep_of(identified: Mapping[str, Any], thresholds: Float[np.ndarray, " t"] | None = None) -> pd.DataFrame:
    """``threshold_sweep`` from an ``identification`` result, without another search. Raises ValueError as it does."""
    top, rank = identified["top_score"], identified["rank"]
    enrolled = _enrolled(rank)
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


def open_set_curve(identified: Mapping[str, Any]) -> pd.DataFrame:
    """Points of the identification DET: columns threshold (falling), fpir and fnir, at every score of a stranger.

    The first point lies above all strangers (FPIR 0), the last accepts them all.
    Raises ValueError when the ``identification`` result has no strangers, or no enrolled probes.
    """
    top, rank = identified["top_score"], identified["rank"]
    enrolled = _enrolled(rank)
    strangers = np.unique(top[~enrolled])[::-1]
    if not len(strangers):
        raise ValueError(f"Expected probes of strangers, got none among {len(rank)}. Keep some subjects out of the gallery.")
    thresholds = np.append(np.nextafter(np.float32(strangers[0]), np.float32(2)), strangers)
    reached = [len(part) - np.searchsorted(np.sort(part), thresholds) for part in (top[~enrolled], top[rank == 1])]
    fpir, fnir = reached[0] / np.sum(~enrolled), 1 - reached[1] / enrolled.sum()
    return pd.DataFrame({"threshold": thresholds, "fpir": fpir, "fnir": fnir})


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
