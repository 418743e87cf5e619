"""How good a DSR and an EdgeFace are together on validation subjects: image quality and verification, each epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from dsrkit import metrics
from dsrkit.data.faces import FaceSet
from dsrkit.models.edgeface import EdgeFace
from dsrkit.recognition import QUALITY_FACES, embed, quality


@dataclass(frozen=True)
class Validation:
    """Fixed validation faces, pairs of them, and the HR faces' embeddings by the original recogniser."""

    faces: FaceSet
    pairs: Int[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    hr_embeddings: Float[np.ndarray, "n 512"]

    def images(self, restored: UInt8[np.ndarray, "n 112 112 3"]) -> dict[str, float]:
        """PSNR (dB) and SSIM of restored faces against HR."""
        return quality(restored[:QUALITY_FACES], self.faces.hr[:QUALITY_FACES])

    def verification(self, edgeface: EdgeFace, restored: UInt8[np.ndarray, "n 112 112 3"]) -> dict[str, float]:
        """Both-LR verification on the fixed pairs, and the cosine to the HR embedding (``identity_similarity``)."""
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
