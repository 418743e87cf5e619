"""The threshold of identification: chosen on validation subjects for a gallery of the test's size, then frozen.

Whoever calibrates on a small gallery names many strangers in a large one. A stranger is named when any of N gallery images
reaches the threshold, so with a false match rate FMR of single comparisons

    FPIR = 1 − (1 − FMR)^N

as far as comparisons are independent (Wayman, "Error rate equations for the general biometric system", 1999; ISO/IEC
19795-1:2021). The stated FPIR and the size of the gallery, which whoever runs one knows, give the FMR; all pairs of validation
faces of different subjects give the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dsrkit.evaluation.all_pairs import above, highest_impostors

_SPARE = 3  # the tail is kept so many times as long as the rate needs, so that a draw finds its threshold in it
_AT_LEAST = 100


@dataclass(frozen=True)
class Threshold:
    """A cosine, and its 95 % interval over validation subjects (NaN where it was given, or where nobody was drawn for it).

    ``carried`` tells how many validation comparisons lie above it by the stated rate: below one it rests on the highest alone.
    """

    value: float
    interval: tuple[float, float] = (math.nan, math.nan)
    carried: float = math.inf


def false_match_rate(fpir: float, gallery: int) -> float:
    """The share of single comparisons that may be accepted where ``gallery`` images name a share ``fpir`` of strangers.

    Raises ValueError for a rate outside (0, 1) and for an empty gallery.
    """
    if not 0 < fpir < 1 or gallery < 1:
        raise ValueError(f"Expected an FPIR between 0 and 1 and a gallery of 1 or more, got {fpir} and {gallery}. 1 % is 0.01.")
    return -math.expm1(math.log1p(-fpir) / gallery)


def threshold_for_gallery(
    left: Float[np.ndarray, "v d"],
    right: Float[np.ndarray, "v d"],
    labels: Int[np.ndarray, " v"],
    fpir: float,
    gallery: int,
    draws: int = 0,
    seed: int = 0,
) -> Threshold:
    """The smallest threshold that keeps to ``fpir`` in a gallery of so many images.

    Args:
        left, right: unit embeddings of the validation faces as they stand in a gallery, and as probes.
        draws: of validation subjects, for the interval; 0 leaves it out.

    Raises ValueError as ``false_match_rate``, and when the validation faces are of one subject.
    """
    rate = false_match_rate(fpir, gallery)
    person = np.unique(labels, return_inverse=True)[1]
    images = np.bincount(person).astype(np.float64)
    impostors = _different(images[None])[0]
    if not impostors:
        raise ValueError(f"Expected validation faces of two subjects or more, got one among {len(labels)} faces. Add some.")
    carried = rate * impostors
    scores, pairs = highest_impostors(left, right, labels, min(int(impostors), int(_SPARE * carried) + _AT_LEAST))
    value = above(scores, int(carried))
    if not draws or len(images) < 2:
        return Threshold(value, carried=carried)
    left_person, right_person = person[pairs].T
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(images), size=(draws, len(images)))
    counts = np.stack([np.bincount(row, minlength=len(images)) for row in drawn]).astype(np.float64)
    reached = np.cumsum(counts[:, left_person] * counts[:, right_person], axis=1)
    over = reached > rate * _different(counts * images)[:, None]  # the first that is one too many sets the threshold
    first = np.where(over.any(1), over.argmax(1), len(scores) - 1)
    low, high = np.quantile(scores[first], [0.025, 0.975])
    return Threshold(value, (float(low), float(high)), carried)


def _different(images: Float[np.ndarray, "b s"]) -> Float[np.ndarray, " b"]:
    """How many pairs of different subjects so many images of each make."""
    return (images.sum(1) ** 2 - (images**2).sum(1)) / 2
