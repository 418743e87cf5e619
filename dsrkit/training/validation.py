"""How good a DSR and an EdgeFace are together on validation subjects: image quality and verification, each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import nn

from dsrkit import metrics
from dsrkit.bootstrap import bootstrap_samples, differences, measured
from dsrkit.data.degrade import as_bytes, as_tensor, degrade, file_draws
from dsrkit.data.faces import FaceSet, batches_of
from dsrkit.data.pairs import make_pairs
from dsrkit.models.edgeface import EdgeFace
from dsrkit.recognition import BATCH, QUALITY_FACES, embed, quality, restore

Pair = tuple[nn.Module | None, EdgeFace]  # a DSR (None: bicubic) and the recogniser of its faces
PAIRS = 50_000  # genuine and impostor pairs each, at most: 6,000 in all left intervals twice as wide


@dataclass(frozen=True)
class Validation:
    """Validation faces, all their genuine pairs and as many impostor ones, and HR embeddings by the original recogniser.

    Args:
        degradation, seed: what made the data set's VLR faces, and makes those of other sizes.
    """

    faces: FaceSet
    degradation: str
    pairs: Int[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    hr_embeddings: Float[np.ndarray, "n 512"]
    seed: int = 0

    def images(self, restored: UInt8[np.ndarray, "n 112 112 3"]) -> dict[str, float]:
        """PSNR (dB) and SSIM of restored faces against HR."""
        return quality(restored[:QUALITY_FACES], self.faces.hr[:QUALITY_FACES])

    def measure(self, dsr: nn.Module | None, edgeface: EdgeFace, sizes: Sequence[str] = ()) -> dict[str, float]:
        """``images`` and ``verification`` of restored faces.

        Args:
            sizes: for a DSR of several VLR sizes: means over these, beside each measure's value at each size (``eer_24x24``).
        """
        restored = {size: restore(self._vlr(size), dsr) for size in self._sizes(sizes)}
        each = {size: self.images(faces) | self.verification(edgeface, faces) for size, faces in restored.items()}
        if len(each) == 1:
            return next(iter(each.values()))
        means = {name: float(np.mean([found[name] for found in each.values()])) for name in next(iter(each.values()))}
        return means | {f"{name}_{size}": found[name] for size, found in each.items() for name in ("eer", "auc")}

    def _sizes(self, sizes: Sequence[str]) -> list[str]:
        """Each size once, however often a training draws it; without any, that of the data set."""
        return list(dict.fromkeys(sizes)) or [self.faces.vlr_size]

    def _vlr(self, size: str) -> UInt8[np.ndarray, "n h w 3"]:
        """VLR faces of another size than the data set was opened at: degraded anew."""
        if size == self.faces.vlr_size:
            return self.faces.vlr
        draws = file_draws(self.faces.names, self.seed)
        parts = ((as_tensor(self.faces.hr[part]), draws[part]) for part in batches_of(len(self.faces), BATCH))
        return np.concatenate([as_bytes(degrade(hr, size, self.degradation, uniform)) for hr, uniform in parts])

    def verification(self, edgeface: EdgeFace, restored: UInt8[np.ndarray, "n 112 112 3"]) -> dict[str, float]:
        """Both-LR verification on these pairs, and the cosine to the HR embedding (``identity_similarity``)."""
        embeddings = embed(restored, edgeface)
        scores = metrics.cosine_scores(embeddings, self.pairs)
        return {
            "eer": metrics.eer(scores, self.same)[0],
            "auc": metrics.auc(scores, self.same),
            "d_prime": metrics.d_prime(scores, self.same),
            "genuine_mean": float(scores[self.same].mean()),
            "impostor_mean": float(scores[~self.same].mean()),
            "effective_rank": metrics.effective_rank(embeddings),
            "identity_similarity": float((embeddings * self.hr_embeddings).sum(1).mean()),
        }

    def hr_kept(self, edgeface: EdgeFace) -> dict[str, float]:
        """What a fine-tuned recogniser still does on HR faces: EER, and the cosine to the original's embedding."""
        embeddings = embed(self.faces.hr, edgeface)
        scores = metrics.cosine_scores(embeddings, self.pairs)
        return {
            "hr_eer": metrics.eer(scores, self.same)[0],
            "hr_similarity": float((embeddings * self.hr_embeddings).sum(1).mean()),
        }

    def gain(self, before: Pair, after: Pair, measure: str, level: float, sizes: Sequence[str] = ()) -> dict[str, float]:
        """How much better ``after`` verifies than ``before``: {"value", "low", "high"} of ``eer`` or ``auc``, above 0 is better.

        The interval, of ``level``, is a bootstrap over subjects, paired: what is hard for both cancels. Of several ``sizes`` it
        is that of the mean gain; every size is drawn with the same people.
        """
        subjects = np.array(self.faces.subjects)[self.pairs]
        vlr, values, samples = [self._vlr(size) for size in self._sizes(sizes)], [], []
        for pair in (after, before):
            each = [self._verified(faces, *pair) for faces in vlr]
            values.append({measure: float(np.mean([measured(one, subjects)[measure] for one in each]))})
            samples.append({measure: np.mean([bootstrap_samples(one, subjects)[measure] for one in each], axis=0)})
        difference = differences(values[0], samples[0], values[1], samples[1], level)[measure]
        if measure == "eer":  # lower is better
            return {"value": -difference["value"], "low": -difference["high"], "high": -difference["low"]}
        return difference

    def _verified(self, vlr: UInt8[np.ndarray, "n h w 3"], dsr: nn.Module | None, edgeface: EdgeFace) -> dict[str, np.ndarray]:
        scores = metrics.cosine_scores(embed(restore(vlr, dsr), edgeface), self.pairs)
        return {"scores": scores, "same": self.same, "correct": (scores >= metrics.eer(scores, self.same)[1]) == self.same}


def pairs_of(faces: FaceSet, seed: int) -> tuple[Int[np.ndarray, "p 2"], Bool[np.ndarray, " p"]]:
    """Rows of all genuine pairs and of as many impostor ones, at most ``PAIRS`` of each, and which are genuine.

    The pairs of the data set's ``pairs`` file are for tables; an epoch is better chosen, and a step judged, by more.
    Raises ValueError when there is none.
    """
    table = make_pairs(faces.names, faces.subjects, seed, folds=1, most=PAIRS)
    row = {name: number for number, name in enumerate(faces.names)}
    return table[["left", "right"]].map(row.__getitem__).to_numpy(), table["same"].to_numpy()
