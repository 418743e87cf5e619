"""What a training leaves one wondering: which faces it fails on, and where in the face."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from dsrkit.data.degrade import as_tensor
from dsrkit.data.faces import batches_of
from dsrkit.losses import identity_loss
from dsrkit.models.edgeface import EdgeFace
from dsrkit.recognition import embed, restore
from dsrkit.training.validation import Validation


def face_table(validation: Validation, dsr: nn.Module, edgeface: EdgeFace) -> pd.DataFrame:
    """Each validation face, the worst restored first: name, subject, cosine to the HR embedding as restored and as bicubic."""
    found = {"row": np.arange(len(validation.faces)), "name": validation.faces.names, "subject": validation.faces.subjects}
    for title, restorer in (("cosine", dsr), ("cosine_bicubic", None)):
        embeddings = embed(restore(validation.faces.vlr, restorer), edgeface)
        found[title] = (embeddings * validation.hr_embeddings).sum(1)
    return pd.DataFrame(found).sort_values("cosine", ignore_index=True)


def identity_map(validation: Validation, dsr: nn.Module, edgeface: EdgeFace, limit: int = 256) -> Float[np.ndarray, "112 112"]:
    """Where a restored face would have to change to be recognised better: mean size of the identity loss's gradient by pixel.

    Over at most ``limit`` validation faces; scaled to a mean of 1.
    """
    device, total = next(edgeface.parameters()).device, torch.zeros(112, 112)
    faces = validation.faces.first(limit)
    for part in batches_of(len(faces), 32):
        images = as_tensor(restore(faces.vlr[part], dsr)).to(device).requires_grad_()
        wanted = torch.from_numpy(validation.hr_embeddings[: len(faces)][part]).to(device)
        (gradient,) = torch.autograd.grad(identity_loss(edgeface.embed(images), wanted) * len(images), images)
        total += gradient.abs().sum((0, 1)).cpu()
    return (total / total.mean()).numpy()
