"""Bands around curves: the bootstrap by subject of ``dsrkit.bootstrap``, at every FAR or rank instead of at a few.

A pointwise band ("vertical averaging" in Macskassy & Provost, "Confidence bands for ROC curves", 2004): at each FAR, 95 % of
the draws lie inside; the whole curve lies inside less often.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from dsrkit.metrics import check_scores

_WEIGHTS_AT_ONCE = 2_000_000  # draws × pairs: some four float64 arrays of 16 MB live at once


def _people(subjects: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """The number of each subject, in the given shape, and how many subjects there are."""
    if np.shape(subjects) != shape:
        raise ValueError(f"subjects: expected shape {list(shape)}, as the result's, got {list(np.shape(subjects))}.")
    names, person = np.unique(subjects, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"subjects: expected two or more to draw from, got {len(names)}. A band needs several people.")
    return person.reshape(shape), len(names)


def _drawn(people: int, draws: int, each: int, seed: int) -> list[Float[np.ndarray, "b s"]]:
    """How often each subject comes up in each draw, in parts small enough for weights of ``each`` pairs or probes."""
    counts = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=draws).astype(np.float64)
    step = max(1, _WEIGHTS_AT_ONCE // each)
    return [counts[start : start + step] for start in range(0, draws, step)]


def _table(name: str, places: np.ndarray, samples: list[Float[np.ndarray, "b k"]], level: float) -> pd.DataFrame:
    low, high = np.nanquantile(np.concatenate(samples), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame({name: places, "low": low, "high": high})


def roc_band(
    result: Mapping[str, Any], subjects: np.ndarray, draws: int = 300, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """TAR's interval at 60 rates from one impostor pair on: columns far, low, high, shares in [0, 1].

    Args:
        result: of ``verification`` (scores, same).
        subjects: [P, 2] the two subjects of each pair.

    Raises ValueError for subjects of another shape, for fewer than two, and for scores as ``metrics.check_scores``.
    """
    scores, same = check_scores(result["scores"], result["same"])
    person, people = _people(subjects, (len(scores), 2))
    rates, samples = np.geomspace(1 / np.sum(~same), 1, 60), []
    values, place = np.unique(-scores, return_inverse=True)  # from the highest score down; ties fall together
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    for counts in _drawn(people, draws, len(scores), seed):
        left, right = counts[:, person[:, 0]], counts[:, person[:, 1]]
        weights = left * np.where(person[:, 0] == person[:, 1], 1.0, right)
        tar, far = (np.cumsum(np.add.reduceat((weights * kind)[:, order], starts, axis=1), axis=1) for kind in (same, ~same))
        with np.errstate(invalid="ignore"):  # a draw without genuine or impostor pairs gives NaN, and is left out
            tar, far = tar / tar[:, -1:], far / far[:, -1:]
        reached = [np.searchsorted(one, rates + 1e-12, side="right") for one in far]
        samples.append(np.stack([np.append(0.0, one)[upto] for one, upto in zip(tar, reached, strict=True)]))
    return _table("far", rates, samples, level)


def cmc_band(
    result: Mapping[str, Any], subjects: np.ndarray, most: int = 20, draws: int = 300, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """The CMC's interval at ranks 1 … ``most``: columns rank, low, high, shares in [0, 1]. The gallery stays as it is.

    Args:
        result: of ``identification`` (rank, cmc).
        subjects: [P] the subject of each probe.

    Raises ValueError for subjects of another shape, and for fewer than two.
    """
    rank = np.asarray(result["rank"])
    person, people = _people(subjects, rank.shape)
    ranks = np.arange(1, min(most, len(result["cmc"])) + 1)
    found = ((rank[:, None] > 0) & (rank[:, None] <= ranks)).astype(np.float64)
    samples = []
    for counts in _drawn(people, draws, len(rank), seed):
        weights = counts[:, person]
        with np.errstate(invalid="ignore"):
            samples.append(weights @ found / (weights @ (rank > 0))[:, None])
    return _table("rank", ranks, samples, level)
