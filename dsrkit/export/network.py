"""From bytes to embeddings as one network: what ``recognition.restore`` and ``recognition.embed`` do, in one graph.

Bytes go in, so that no reader has to guess a value range; the restored face is rounded to bytes before it is recognised, as
``restore`` does, so that the exported model answers what the evaluation measured.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dsrkit.data.degrade import to_8_bits, upscale
from dsrkit.models.edgeface import EdgeFace

INPUT, EMBEDDINGS, RESTORED = "images", "embeddings", "restored"


class FromBytes(nn.Module):
    """EdgeFace on HR faces: bytes [N, 112, 112, 3] → embeddings [N, 512] of unit length.

    Args:
        tta: test-time augmentation, inside the graph: the un-normalised embedding of the flipped image is added (of a VLR face
            flipped before it is restored).
    """

    outputs: tuple[str, ...] = (EMBEDDINGS,)

    def __init__(self, edgeface: EdgeFace, tta: bool = False) -> None:
        super().__init__()
        self.edgeface, self.tta = edgeface, tta

    def _shown(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 112 112"]:
        """What EdgeFace sees of them."""
        return images

    def _seen(self, images: UInt8[Tensor, "n h w 3"]) -> tuple[Float[Tensor, "n 512"], Float[Tensor, "n 3 112 112"]]:
        """Embeddings, and what they were made of."""
        values = images.permute(0, 3, 1, 2).float() / 255
        faces = self._shown(values)
        raw = self.edgeface.embed(faces)
        if self.tta:
            raw = raw + self.edgeface.embed(self._shown(values.flip(3)))
        return F.normalize(raw, dim=1), faces

    def forward(self, images: UInt8[Tensor, "n 112 112 3"]) -> tuple[Tensor, ...]:
        return self._seen(images)[:1]


class RestoredFromBytes(FromBytes):
    """VLR faces restored, then recognised: bytes [N, h, w, 3] → embeddings [N, 512] and restored faces, bytes [N, 112, 112, 3].

    Args:
        dsr: a DSR or an ensemble; None is the direct feed (bicubic).
    """

    outputs = (EMBEDDINGS, RESTORED)

    def __init__(self, edgeface: EdgeFace, dsr: nn.Module | None, tta: bool = False) -> None:
        super().__init__(edgeface, tta)
        self.dsr = dsr

    def _shown(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 112 112"]:
        return upscale(images) if self.dsr is None else to_8_bits(self.dsr(images))

    def forward(self, images: UInt8[Tensor, "n h w 3"]) -> tuple[Tensor, ...]:
        embeddings, faces = self._seen(images)
        return embeddings, (faces * 255).round().byte().permute(0, 2, 3, 1)
