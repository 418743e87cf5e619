"""A restored face led on until an untouched recogniser sees in it whom the fine-tuned pair saw.

The recogniser of a cycle knows who is on a VLR face better than the face that its DSR draws tells anybody else. So its embedding
becomes the aim, and the drawn face follows the untouched recogniser's gradient towards it: what Mahendran and Vedaldi 2015
(arXiv 1412.0035) did to see what an embedding holds, and what classifier guidance (Dhariwal and Nichol 2021, arXiv 2105.05233)
does to an image in the making. Nothing is trained, and neither HR faces nor labels are asked for. What moves is a grid of a
quarter of the face's width (a finer one brought no more), by a level or two of 255: recognisers see it, people do not.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dsrkit.models.edgeface import EdgeFace

GRID = 28  # pixels across on which a face is moved
FIRST_STEP = 0.002  # of the value range [0, 1], root mean square; later ones fall to nothing by equal parts


class Guided(nn.Module):
    """VLR faces restored by ``dsr``, then moved in ``steps`` steps.

    Args:
        dsr, edgeface: a pair that was fine-tuned together; its embedding of its own two drawings is the aim.
        original: the recogniser that is to see in the face what the pair saw.
        others: DSRs whose drawings are part of the mean that is led on.

    Raises ValueError for fewer than one step.
    """

    def __init__(
        self, dsr: nn.Module, edgeface: EdgeFace, original: EdgeFace, steps: int, others: Iterable[nn.Module] = ()
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"Guided: expected at least 1 step, got {steps}. Without steps, take the DSR itself.")
        self.dsr, self.edgeface, self.original, self.steps = dsr, edgeface, original, steps
        self.others = nn.ModuleList(others)

    def forward(self, vlr: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 112 112"]:
        """VLR faces in [0, 1] → restored and moved faces in [0, 1]. Raises ValueError as ``DSR`` does."""
        sr, of_mirrored = self.dsr(vlr), self.dsr(vlr.flip(3))
        aim = F.normalize(self.edgeface.embed(sr) + self.edgeface.embed(of_mirrored), dim=1)
        drawn = [sr, of_mirrored.flip(3)]
        for other in self.others:
            drawn += [other(vlr), other(vlr.flip(3)).flip(3)]
        mean = torch.stack(drawn).mean(0)
        with torch.inference_mode(False), torch.enable_grad():  # gradients, also where nothing is trained
            return self._moved(mean.detach().clone(), aim.detach().clone())

    def _moved(self, sr: Float[Tensor, "n 3 112 112"], aim: Float[Tensor, "n 512"]) -> Float[Tensor, "n 3 112 112"]:
        change = sr.new_zeros(len(sr), 3, GRID, GRID)
        for step in range(self.steps):
            change.requires_grad_(True)
            seen = changed(sr, change)
            seen = seen.flip(3) if step % 2 else seen  # from both sides in turn: a face mirrored is the same person
            (gradient,) = torch.autograd.grad((self.original(seen) * aim).sum(), change)
            size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(torch.finfo(gradient.dtype).tiny)
            change = change.detach() + FIRST_STEP * (1 - step / self.steps) * gradient / size
        return changed(sr, change)


def changed(faces: Float[Tensor, "n 3 112 112"], change: Float[Tensor, "n 3 g g"]) -> Float[Tensor, "n 3 112 112"]:
    """Faces in [0, 1] and a coarse change, added and kept in [0, 1]."""
    return (faces + F.interpolate(change, faces.shape[2:], mode="bicubic", align_corners=False)).clamp(0, 1)
