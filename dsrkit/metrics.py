"""What a score, an embedding matrix and a restored face are worth.

Scores are cosines, higher means more alike; ``same`` is True for a genuine pair (one subject) and False for an impostor
pair. A pair is accepted when its score is at or above the threshold: FAR is the accepted share of impostor pairs, FRR the
rejected share of genuine pairs, TAR = 1 − FRR (ISO/IEC 19795-1:2021 calls them FMR, FNMR on single comparisons).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

FARS = (0.1, 0.01, 0.001)
_PAIRS_AT_ONCE = 8192  # two float64 blocks of 8,192 × 512 take 64 MB, however long the list of pairs

Scores = Float[np.ndarray, " p"]
Same = Bool[np.ndarray, " p"]


def unit_length(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Each row divided by its Euclidean length; the floating type is kept.

    Raises ValueError for another shape, for NaN or infinity, and for a row of zeros, which has no direction.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
        raise ValueError(f"Expected embeddings [N, D] of floats, got {embeddings.dtype} {list(embeddings.shape)}.")
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if len(bad):
        raise ValueError(
            f"Expected finite embeddings that are not all zero, got {len(bad)} bad of {len(embeddings)}, the first in row "
            f"{bad[0]}. Look at that image, and at the network's weights for NaN."
        )
    return embeddings / length


def check_scores(scores: Scores, same: Same) -> tuple[Float[np.ndarray, " p"], Bool[np.ndarray, " p"]]:
    """Scores as float64 and ``same`` as bool.

    Raises ValueError when they differ in shape, when a score is NaN or infinite, when ``same`` is not of truth values,
    and when there is no genuine or no impostor pair.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same)
    if scores.ndim != 1 or same.shape != scores.shape:
        raise ValueError(f"Expected scores [P] and same [P], got {list(scores.shape)} and {list(same.shape)}.")
    if same.dtype != bool and not np.isin(same, (0, 1)).all():
        raise ValueError(f"Expected same to be True or False (1 or 0), got values such as {same[:3].tolist()}.")
    if not np.isfinite(scores).all():
        raise ValueError(f"Expected finite scores, got {np.sum(~np.isfinite(scores))} others. Look for NaN embeddings.")
    same = same.astype(bool)
    if not same.any() or same.all():
        missing = "impostor" if same.any() else "genuine"
        raise ValueError(f"Expected genuine and impostor pairs, got no {missing} pair among {len(same)}. Add some.")
    return scores, same


def cosine_scores(embeddings: Float[np.ndarray, "n d"], pairs: Int[np.ndarray, "p 2"]) -> Float[np.ndarray, " p"]:
    """Cosine of each pair of rows, −1 to 1; embeddings need not be of unit length.

    Raises ValueError for bad embeddings (see ``unit_length``) and for pairs that are not rows of them.
    """
    embeddings, pairs = unit_length(embeddings), np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"Expected pairs [P, 2] of row numbers, got {pairs.dtype} {list(pairs.shape)}.")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= len(embeddings)):
        raise ValueError(
            f"Expected row numbers from 0 to {len(embeddings) - 1}, got {pairs.min()} to {pairs.max()}. "
            "Make the pairs from the same list of images as the embeddings."
        )
    scores = np.empty(len(pairs), np.float64)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        left, right = (embeddings[pairs[part, side]].astype(np.float64) for side in (0, 1))
        scores[part] = np.einsum("pd,pd->p", left, right)
    return scores


def eer(scores: Scores, same: Same) -> tuple[float, float]:
    """Equal error rate in [0, 1] and the threshold nearest to it.

    The rate lies where the ROC, joined by straight lines, crosses FAR = FRR (so all-equal scores give 0.5); the threshold
    is the observed score whose FAR and FRR are nearest to each other.
    Raises ValueError as ``check_scores``.
    """
    scores, same = check_scores(scores, same)
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    gap = far - (1 - tar)  # rises from −1 (nothing accepted) to 1 (everything accepted)
    after = int(np.argmax(gap >= 0))
    before = after - 1
    weight = -gap[before] / (gap[after] - gap[before])
    rate = far[before] + weight * (far[after] - far[before])
    nearest = after if gap[after] <= -gap[before] else before
    return float(rate), float(thresholds[nearest])


def auc(scores: Scores, same: Same) -> float:
    """Area under the ROC: the share of (genuine, impostor) pairs of pairs in the right order, ties counting half.

    Raises ValueError as ``check_scores``.
    """
    scores, same = check_scores(scores, same)
    return float(roc_auc_score(same, scores))


def tar_at_far(scores: Scores, same: Same, far: float) -> float:
    """Accepted share of genuine pairs at the smallest threshold whose measured FAR is at most ``far``.

    With fewer than 1/far impostor pairs no impostor may be accepted at all, and the value says little: it then rests on
    the single highest impostor score. LFW's 3,000 impostor pairs carry 1e-3 (three pairs), not 1e-4.
    Raises ValueError as ``check_scores``, and for a ``far`` outside [0, 1].
    """
    if not 0 <= far <= 1:
        raise ValueError(f"far: expected a share from 0 to 1, got {far}. One per cent is 0.01.")
    scores, same = check_scores(scores, same)
    measured, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    return float(tar[measured <= far][-1])


def d_prime(scores: Scores, same: Same) -> float:
    """Distance of the genuine from the impostor mean, in units of their pooled standard deviation (Daugman 2000).

    Without any spread: 0 when both means are equal, else infinite.
    Raises ValueError as ``check_scores``.
    """
    scores, same = check_scores(scores, same)
    genuine, impostor = scores[same], scores[~same]
    distance, spread = genuine.mean() - impostor.mean(), np.sqrt((genuine.var() + impostor.var()) / 2)
    if spread == 0:
        return float(np.copysign(np.inf, distance)) if distance else 0.0
    return float(distance / spread)


def effective_rank(embeddings: Float[np.ndarray, "n d"]) -> float:
    """How many directions the embeddings use: exp of the entropy of the normalised singular values.

    From 1 (all rows on one line: collapsed) to min(N, D) (all directions alike). Not centred, as in Roy & Vetterli, "The
    effective rank", EUSIPCO 2007.
    Raises ValueError for bad embeddings (see ``unit_length``).
    """
    unit = unit_length(embeddings).astype(np.float64)
    # Through the smaller Gram matrix, in float64: 16,708 × 512 takes under a second, an SVD tens of seconds.
    gram = unit.T @ unit if unit.shape[0] > unit.shape[1] else unit @ unit.T
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def fit_probability(scores: Scores, same: Same) -> tuple[float, float]:
    """Slope and intercept of the logistic fit that turns a score into the probability of one person (Platt 1999).

    The probability holds for the share of genuine pairs among these: half, in balanced lists. Fit on validation pairs, apply
    to others. The weakest penalty keeps the slope finite where a threshold parts both kinds without error.
    Raises ValueError as ``check_scores``.
    """
    scores, same = check_scores(scores, same)
    fitted = LogisticRegression(C=1e4, max_iter=1000).fit(scores[:, None], same)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def probability(scores: Scores, slope: float, intercept: float) -> Float[np.ndarray, " p"]:
    """The probability, 0 to 1, that each pair is of one person, by a fit of ``fit_probability``."""
    return 1 / (1 + np.exp(-np.clip(slope * np.asarray(scores, np.float64) + intercept, -500, 500)))


def reliability(scores: Scores, same: Same, bins: int = 10) -> pd.DataFrame:
    """Do probabilities keep their word? One row for each of ``bins`` equally wide bins that holds pairs.

    Args:
        scores: probabilities from 0 to 1, such as ``probability`` makes of cosines.

    Columns: predicted (mean probability), observed (share of genuine pairs), count (pairs). Alike is calibrated (DeGroot &
    Fienberg 1983).
    Raises ValueError as ``check_scores``, for scores outside 0 to 1 and for fewer than one bin.
    """
    scores, same = check_scores(scores, same)
    if bins < 1:
        raise ValueError(f"bins: expected 1 or more, got {bins}. Ten are usual.")
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(
            f"Expected probabilities from 0 to 1, got {scores.min():.3g} to {scores.max():.3g}. "
            "Fit them on validation pairs: probability(scores, *fit_probability(validation_scores, validation_same))."
        )
    place = np.minimum((scores * bins).astype(int), bins - 1)
    table = pd.DataFrame({"place": place, "predicted": scores, "observed": same.astype(float), "count": 1})
    means = {"predicted": "mean", "observed": "mean", "count": "sum"}
    return table.groupby("place").agg(means).reset_index(drop=True)


def calibration_error(scores: Scores, same: Same, bins: int = 10) -> float:
    """How far probabilities lie from what is observed, 0 to 1: the mean over the bins of ``reliability``, by their pairs.

    The expected calibration error of Naeini et al. 2015. Raises ValueError as ``reliability``.
    """
    table = reliability(scores, same, bins)
    return float(np.average((table.predicted - table.observed).abs(), weights=table["count"]))


def _check_images(sr: Tensor, hr: Tensor) -> None:
    if sr.ndim != 4 or sr.shape[1] != 3 or sr.shape != hr.shape:
        raise ValueError(f"Expected sr and hr [N, 3, H, W] of one shape, got {list(sr.shape)} and {list(hr.shape)}.")
    for name, images in (("sr", sr), ("hr", hr)):
        if not (images.is_floating_point() and images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"{name}: expected floats in [0, 1], got {images.dtype} or values outside. Divide bytes by 255.")


def psnr(sr: Float[Tensor, "n 3 h w"], hr: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each image in dB, over its three channels; infinite for equal images.

    Raises ValueError for other shapes or values outside [0, 1].
    """
    _check_images(sr, hr)
    return peak_signal_noise_ratio(sr, hr, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(sr: Float[Tensor, "n 3 h w"], hr: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Structural similarity of each image, −1 to 1 (Wang et al. 2004): Gaussian window 11×11, σ 1.5, mean over channels.

    As torchmetrics has it: the border is reflected, so every pixel counts (scikit-image leaves out a border of 5).
    Raises ValueError for other shapes or values outside [0, 1].
    """
    _check_images(sr, hr)
    values = cast(Tensor, structural_similarity_index_measure(sr, hr, data_range=1.0, reduction="none"))
    return values.reshape(len(sr))  # a single image comes back without its dimension in some versions
