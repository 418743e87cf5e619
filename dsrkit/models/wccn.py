"""Within-class covariance normalisation (WCCN): a recogniser's last layer set anew, in closed form, from labelled faces.

All VLR faces share a direction, that of the blur, and pictures of one person spread along some directions more than along
others; neither tells who it is. Subtracting the mean and shrinking the directions of that spread takes both out: Hatch et al.
2006 (Interspeech, for support vectors that verify speakers), with cosine scores after Dehak et al. 2011 (IEEE TASLP 19:4). It
is an affine map after the last, linear layer, so it is folded into that layer's weights: what comes out is an EdgeFace like
any other.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from dsrkit.models.edgeface import EdgeFace


@dataclass(frozen=True)
class WCCN:
    """x ↦ matrix · (x − mean), of embeddings that are not normalised yet."""

    mean: Float[Tensor, " d"]
    matrix: Float[Tensor, "d d"]

    @classmethod
    def fit(cls, embeddings: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], power: float = 0.5) -> WCCN:
        """From embeddings of several faces a subject, not normalised; of one kind of face, or of all that will be compared.

        Args:
            power: 1 makes every direction spread alike within subjects (WCCN as published), 0 only subtracts the mean.

        The covariance is shrunk (Ledoit & Wolf 2004), so that few faces do. Raises ValueError without two faces of one subject.
        """
        labels, counts = np.unique(labels, return_inverse=True, return_counts=True)[1:]
        if not (counts > 1).any():
            raise ValueError(
                f"WCCN: expected two faces or more of some subject, got one each of {len(counts)}. Add faces, or set wccn to 0."
            )
        values = embeddings.astype(np.float64)
        sums = np.zeros((len(counts), values.shape[1]))
        np.add.at(sums, labels, values)
        within = (values - (sums / counts[:, None])[labels])[counts[labels] > 1]
        variances, directions = np.linalg.eigh(ledoit_wolf(within, assume_centered=True)[0])
        scales = (variances / variances.mean()) ** (-power / 2)
        matrix = (directions * scales) @ directions.T
        return cls(*(torch.from_numpy(part).float() for part in (values.mean(0), matrix)))

    def of(self, edgeface: EdgeFace) -> EdgeFace:
        """A copy of ``edgeface`` whose embeddings are the normalised ones."""
        edgeface = copy.deepcopy(edgeface)
        edgeface.normalise(self.mean, self.matrix)
        return edgeface
