"""Searching one state of a gallery: exactly or through an index, for faces and for subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from dsrkit.gallery import index as indexes
from dsrkit.gallery.exact import SPARE, best_rows, score_again
from dsrkit.gallery.files import IndexPart
from dsrkit.gallery.state import State
from dsrkit.recognition import UNKNOWN

Unit = Float32[np.ndarray, "p d"]


@dataclass(frozen=True)
class Found:
    """The best faces for each of P probes, best first; equal scores in the order of enrolment.

    scores: cosines, −1 to 1. rows: numbers of faces in the order of enrolment. names: texts.
    An approximate search that found fewer than k gives NaN, −1 and None for the rest.
    """

    scores: Float32[np.ndarray, "p k"]
    rows: Int64[np.ndarray, "p k"]
    names: np.ndarray


def exact(state: State, unit: Unit, k: int) -> Found:
    """Every face is compared."""
    return _found(state, unit, best_rows(unit, state.blocks, min(k + SPARE, len(state))), k)


def approximate(state: State, index: Any, about: IndexPart, unit: Unit, k: int, asked: Mapping[str, int]) -> Found:
    """The index's shortlist is compared, and every face enrolled since it was built."""
    size = max(k, asked["shortlist"])
    while True:
        rows = indexes.shortlist(index, about.kind, unit, min(size, about.rows), asked["effort"])
        candidates = np.where((rows >= 0) & ~state.removed[rows], rows, -1)
        crowded = ((candidates >= 0).sum(1) < k) & (rows[:, -1] >= 0)  # a full shortlist, mostly of removed faces
        if size >= about.rows or not crowded.any():
            break
        size *= 4
    later = state.manifest.rows - about.rows
    if later:
        since = best_rows(unit, lambda: state.blocks(about.rows), min(k + SPARE, later))
        candidates = np.concatenate([candidates, since], axis=1)
    return _found(state, unit, candidates, k)


def _found(state: State, unit: Unit, candidates: Int64[np.ndarray, "p c"], k: int) -> Found:
    scores, rows = score_again(unit, candidates, state.embeddings, k)
    names = state.names[state.codes[rows]]
    names[rows < 0] = None
    return Found(scores, rows, names)


def two_subjects(search: Callable[[Unit, int], Found], unit: Unit, faces: int, threshold: float) -> pd.DataFrame:
    """The table of ``Gallery.identify``: the subjects of the best face, and of the best face of anybody else.

    A subject with many faces may take all the first places; such probes are asked again, for more.
    """
    score = np.full(len(unit), np.nan)
    nearest, runner_up = (np.full(len(unit), None, object) for _ in range(2))
    waiting, k = np.arange(len(unit)), 4
    while len(waiting):
        found = search(unit[waiting], min(k, faces))
        other = (found.names != found.names[:, :1]) & (found.rows >= 0)
        score[waiting], nearest[waiting] = found.scores[:, 0], found.names[:, 0]
        runner_up[waiting] = np.where(other.any(1), found.names[np.arange(len(waiting)), other.argmax(1)], None)
        waiting = waiting[~other.any(1) & (found.rows[:, -1] >= 0) & (k < faces)]
        k *= 4
    identity = np.where(score >= threshold, nearest, UNKNOWN)
    columns = {"identity": identity, "nearest": nearest, "runner_up": runner_up}
    table = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    table.insert(1, "score", score)
    return table
