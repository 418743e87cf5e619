"""What an approximate search costs in accuracy, measured, not promised."""

from __future__ import annotations

import time

import numpy as np
from jaxtyping import Float, Int64

from dsrkit.gallery.store import Gallery

KS = (1, 10)


def measure_recall(
    gallery: Gallery, probes: Float[np.ndarray, "p d"], effort: int | None = None, shortlist: int | None = None
) -> dict[str, float]:
    """Approximate against exact search on given probes.

    Returns a dictionary:
        recall@1, recall@10: share, 0 to 1, of the exact best k rows that are among the approximate best k, mean over probes
            (k at most the faces there are). Both sides break ties alike, so equal answers give 1.
        exact_seconds, approximate_seconds: processor time of each search, other programs left out.

    Give probes like those to come: strangers, whose best scores lie close together, are found again less often.
    Raises as ``Gallery.search``.
    """
    most = min(max(KS), len(gallery))
    started = time.process_time()
    exact = gallery.search(probes, most).rows
    between = time.process_time()
    found = gallery.search(probes, most, approximate=True, effort=effort, shortlist=shortlist).rows
    seconds = {"exact_seconds": between - started, "approximate_seconds": time.process_time() - between}
    return {f"recall@{k}": recall(exact[:, :k], found[:, :k]) for k in KS} | seconds


def recall(exact: Int64[np.ndarray, "p k"], found: Int64[np.ndarray, "p k"]) -> float:
    """Share of the exact rows that were found, whatever their order."""
    return float((exact[:, :, None] == found[:, None, :]).any(2).mean())
