"""Looking at faces with suspicion: too dark, too flat, without colour; a VLR file of another face; a name that may be wrong.

A check says what it saw and by how much; what becomes of the face is decided by ``migration`` (``set_aside``). The same picture
under two names is found in ``duplicates``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8

from dsrkit.data.degrade import DEGRADATIONS, as_tensor, degrade, file_draws
from dsrkit.data.layout import FLAG_COLUMNS

FLAGS = ("conflict", "duplicate", "dark", "bright", "flat", "grey")  # what the pass over the files finds
# Shares of full brightness, set where a face is hard to make out. For scale: of 13,795 faces of LFW and CelebA, the darkest has a
# mean of 0.086, the brightest 0.82, the flattest a deviation of 0.074; colour below 0.02 is a grey photo, toned or compressed.
DARKEST, BRIGHTEST, FLATTEST, GREYEST = 0.08, 0.92, 0.05, 0.02
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_ROUNDING = 1.0 / 255  # what recomputing a VLR face on another machine may change
_CHUNK = 256


def quality_flags(hr: UInt8[np.ndarray, "n h w 3"]) -> list[dict[str, str]]:
    """For each face its flags with what was measured: ``dark``, ``bright``, ``flat`` (low contrast), ``grey`` (no colour)."""
    channels = np.moveaxis(hr[:, ::2, ::2], 3, 0)  # every second pixel tells enough
    luma = np.tensordot(np.array(_LUMA, np.float32) / 255, channels.astype(np.float32), 1)
    brightness, contrast = luma.mean((1, 2)), luma.std((1, 2))
    colour = (channels.max(0) - channels.min(0)).mean((1, 2)) / 255
    return [_flags_of(*map(float, values)) for values in zip(brightness, contrast, colour, strict=True)]


def _flags_of(brightness: float, contrast: float, colour: float) -> dict[str, str]:
    found = {}
    if brightness < DARKEST:
        found["dark"] = f"mean brightness {brightness:.3f}, below {DARKEST}"
    if brightness > BRIGHTEST:
        found["bright"] = f"mean brightness {brightness:.3f}, above {BRIGHTEST}"
    if contrast < FLATTEST:
        found["flat"] = f"contrast (standard deviation) {contrast:.3f}, below {FLATTEST}"
    if colour < GREYEST:
        found["grey"] = f"mean colour (largest less smallest channel) {colour:.3f}, below {GREYEST}"
    return found


def pair_distances(
    hr: UInt8[np.ndarray, "n 112 112 3"],
    vlr: UInt8[np.ndarray, "n h w 3"],
    names: Sequence[str],
    degradation: str,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " n"], float]:
    """How far each VLR face is from what its HR face degrades to (mean absolute difference, of 1), and how far it may be.

    With a degradation of this library the VLR face is made again, and may differ by rounding. With any other name the HR face is
    shrunk by antialiased bicubic, and may differ by half of what two different faces of the set do (median).
    """
    known = degradation in DEGRADATIONS
    kind, size = degradation if known else "bicubic-antialias", f"{vlr.shape[2]}x{vlr.shape[1]}"
    own, others = [], []
    for start in range(0, len(hr), _CHUNK):
        part = slice(start, start + _CHUNK)
        expected = degrade(as_tensor(hr[part]), size, kind, file_draws(names[part], seed))
        found = as_tensor(vlr[part])
        own.append((expected - found).abs().mean((1, 2, 3)).numpy())
        others.append((expected - found.roll(1, 0)).abs().mean((1, 2, 3)).numpy())
    bound = _ROUNDING if known else 0.5 * float(np.median(np.concatenate(others)))
    return np.concatenate(own), bound


def unlike_pairs(
    hr: UInt8[np.ndarray, "n 112 112 3"],
    vlr: UInt8[np.ndarray, "n h w 3"],
    names: Sequence[str],
    degradation: str,
    seed: int = 0,
) -> pd.DataFrame:
    """VLR files that do not look like their HR face (swapped, stale, another degradation): columns row, name, distance, bound."""
    distances, bound = pair_distances(hr, vlr, names, degradation, seed)
    rows = np.flatnonzero(distances > bound)
    return pd.DataFrame({"row": rows, "name": [names[row] for row in rows.tolist()], "distance": distances[rows], "bound": bound})


def doubtful_names(
    split: str, names: Sequence[str], subjects: Sequence[str], embeddings: Float[np.ndarray, "n d"], fewest: int = 3
) -> pd.DataFrame:
    """Faces that a recogniser finds nearer to another subject than to their own, as flags ``mislabelled``.

    A face is compared with the mean of its subject's *other* faces, and with the mean of every other subject. Flagged are those
    nearer to another subject, whose similarity to their own also lies far below what is usual in this split (median less three
    times the median absolute deviation, scaled to a standard deviation). The most doubtful come first.

    Args:
        embeddings: unit length, of HR faces.
        fewest: subjects with fewer faces have no telling mean and are passed over.
    """
    table = pd.DataFrame({"name": list(names), "subject": list(subjects)})
    of, counts = np.unique(table.subject, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(counts), embeddings.shape[1]), np.float32)
    np.add.at(sums, of, embeddings)
    judged = np.flatnonzero(counts[of] >= fewest)
    if not len(judged) or len(counts) < 2:
        return pd.DataFrame(columns=FLAG_COLUMNS)
    own = (_unit(sums[of[judged]] - embeddings[judged]) * embeddings[judged]).sum(1)
    centres, nearest = _unit(sums), np.empty(len(judged), int)
    other = np.empty(len(judged), np.float32)
    for start in range(0, len(judged), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosines = embeddings[judged[part]] @ centres.T
        cosines[np.arange(len(cosines)), of[judged[part]]] = -np.inf
        nearest[part], other[part] = cosines.argmax(1), cosines.max(1)
    usual = np.median(own)
    low = usual - 3 * 1.4826 * np.median(np.abs(own - usual))  # 1.4826: the deviation of a normal distribution over its MAD
    people, flags = np.unique(table.subject), []
    doubtful = np.flatnonzero((own < other) & (own < low))
    for place in doubtful[np.argsort(own[doubtful] - other[doubtful], kind="stable")]:
        face, person = table.iloc[judged[place]], people[nearest[place]]
        like = table.name[table.subject == person].iloc[0]
        reason = f"cosine {own[place]:.2f} to its own subject, {other[place]:.2f} to {person}; usual here {usual:.2f}"
        flags.append((split, face["subject"], face["name"], "mislabelled", reason, split, like))
    return pd.DataFrame(flags, columns=FLAG_COLUMNS)


def _unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
