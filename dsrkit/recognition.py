"""From faces to names: restore, embed, compare.

``restore`` and ``embed`` run a network over any number of faces in batches; ``Recognizer`` holds a gallery and answers
with an identity or ``unknown``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dsrkit import metrics
from dsrkit.data.degrade import as_bytes, as_tensor, mirror, to_8_bits, upscale
from dsrkit.data.faces import batches_of
from dsrkit.models.edgeface import EMBEDDING_SIZE, EdgeFace

BATCH = 128
QUALITY_FACES = 500  # PSNR and SSIM of this many faces; SSIM of thousands takes longer than everything else
UNKNOWN = "unknown"

Pixels = UInt8[np.ndarray, "n h w 3"]


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@torch.inference_mode()
def restore(vlr: Pixels, dsr: nn.Module | None, into: np.ndarray | None = None) -> UInt8[np.ndarray, "n 112 112 3"]:
    """VLR faces → faces of 112×112, as bytes. Without a DSR: bicubic, the direct feed.

    Args:
        into: an array to fill (a memory map, say) instead of a new one.
    """
    restored = np.empty((len(vlr), 112, 112, 3), np.uint8) if into is None else into
    for part in batches_of(len(vlr), BATCH):
        images = as_tensor(np.asarray(vlr[part]))
        images = upscale(images) if dsr is None else to_8_bits(dsr(images.to(_device_of(dsr))))
        restored[part] = as_bytes(images)
    return restored


@torch.inference_mode()
def embed(images: Pixels, edgeface: EdgeFace, mirrored: Pixels | None = None) -> Float[np.ndarray, "n 512"]:
    """Faces of 112×112 as bytes → embeddings of unit length.

    Args:
        mirrored: test-time augmentation: the same faces mirrored, ``mirror(images)``, whose un-normalised embeddings are added.
            A VLR face is mirrored *before* it is restored: ``restore(mirror(vlr), dsr)``. A DSR draws a mirrored face a
            little differently, and what differs averages out.
    """
    embeddings = np.empty((len(images), EMBEDDING_SIZE), np.float32)
    for part in batches_of(len(images), BATCH):
        raw = _raw(images[part], edgeface)
        if mirrored is not None:
            raw = raw + _raw(mirrored[part], edgeface)
        embeddings[part] = F.normalize(raw.float(), dim=1).cpu().numpy()
    return embeddings


def _raw(images: Pixels, edgeface: EdgeFace) -> Float[Tensor, "n 512"]:
    return edgeface.embed(as_tensor(np.asarray(images)).to(_device_of(edgeface)))


def embed_vlr(vlr: Pixels, dsr: nn.Module | None, edgeface: EdgeFace, tta: bool = False) -> Float[np.ndarray, "n 512"]:
    """VLR faces as bytes, restored (``restore``), then embedded; with ``tta`` their mirror images too."""
    return embed(restore(vlr, dsr), edgeface, restore(mirror(vlr), dsr) if tta else None)


def qualities(restored: UInt8[np.ndarray, "n 112 112 3"], hr: UInt8[np.ndarray, "n 112 112 3"]) -> dict[str, Float[Tensor, " n"]]:
    """PSNR (dB) and SSIM of each face, given as bytes."""
    psnr, ssim = [], []
    for part in batches_of(len(hr), BATCH):
        one, other = as_tensor(restored[part]), as_tensor(hr[part])
        psnr.append(metrics.psnr(one, other))
        ssim.append(metrics.ssim(one, other))
    return {"psnr": torch.cat(psnr), "ssim": torch.cat(ssim)}


def quality(restored: UInt8[np.ndarray, "n 112 112 3"], hr: UInt8[np.ndarray, "n 112 112 3"]) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over faces given as bytes."""
    return {measure: float(values.mean()) for measure, values in qualities(restored, hr).items()}


class Recognizer:
    """Enrol faces, then name others.

    Args:
        edgeface: the recogniser.
        dsr: restores VLR faces first; None is direct feed (bicubic).
        threshold: a best score below it is answered ``unknown`` (cosine, −1 to 1).
        tta: test-time augmentation: add the embedding of each face's mirror image (of a VLR face, mirrored, then restored).
        hr_edgeface: embeds faces that need no restoring, such as the original beside an ``edgeface`` fine-tuned without HR faces;
            None is ``edgeface``.

    Raises ValueError for a threshold outside −1 to 1.
    """

    def __init__(
        self,
        edgeface: EdgeFace,
        dsr: nn.Module | None = None,
        threshold: float = 0.35,
        tta: bool = False,
        hr_edgeface: EdgeFace | None = None,
    ) -> None:
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold: expected a cosine from -1 to 1, got {threshold}.")
        self.edgeface, self.dsr, self.threshold, self.tta = edgeface, dsr, threshold, tta
        self.hr_edgeface = hr_edgeface or edgeface
        self.labels: list[str] = []
        self.gallery = np.empty((0, EMBEDDING_SIZE), np.float32)

    @torch.inference_mode()
    def _embed(self, images: Float[Tensor, "n 3 h w"], through_dsr: bool) -> Float[np.ndarray, "n 512"]:
        got = f"{images.dtype} {list(images.shape)}" if hasattr(images, "shape") else type(images).__name__
        tensor = isinstance(images, Tensor) and images.is_floating_point()
        if not tensor or images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(
                f"Expected a tensor of images [N, 3, H, W], float RGB in [0, 1], got {got}. "
                "dsrkit.data.degrade.as_tensor turns bytes [N, H, W, 3] into such images."
            )
        if not bool(torch.isfinite(images).all()) or images.min() < 0 or images.max() > 1:
            raise ValueError("Expected images with values in [0, 1], got others. Divide bytes by 255.")
        pixels = as_bytes(images)
        if through_dsr or images.shape[2:] != (112, 112):
            return embed_vlr(pixels, self.dsr, self.edgeface, self.tta)
        return embed(pixels, self.hr_edgeface, mirror(pixels) if self.tta else None)

    def enroll(self, images: Float[Tensor, "n 3 h w"], labels: Sequence[str], through_dsr: bool = False) -> None:
        """Add faces to the gallery. HR faces (112×112) are embedded as they are unless ``through_dsr``; VLR faces are restored.

        Raises ValueError for other shapes or values, or when labels and images differ in number.
        """
        if len(images) != len(labels):
            raise ValueError(f"Expected one label an image, got {len(labels)} labels for {len(images)} images.")
        self.gallery = np.concatenate([self.gallery, self._embed(images, through_dsr)])
        self.labels += [str(label) for label in labels]

    def identify(self, images: Float[Tensor, "n 3 h w"]) -> pd.DataFrame:
        """Name each face: columns identity (or ``unknown``), score (cosine), nearest and runner_up (another identity).

        Raises ValueError with an empty gallery, and for other shapes or values.
        """
        if not self.labels:
            raise ValueError("Expected faces in the gallery, got none. Call enroll(images, labels) first.")
        scores = pd.DataFrame(self._embed(images, through_dsr=False) @ self.gallery.T, columns=self.labels)
        best = scores.T.groupby(level=0).max().T  # an identity's score is that of its best enrolled face
        return pd.DataFrame(self._answers(best.columns.tolist(), best.to_numpy()))

    def _answers(self, names: list[str], scores: Float[np.ndarray, "n k"]) -> Iterable[dict[str, object]]:
        for row in scores:
            order = np.argsort(-row, kind="stable")
            yield {
                "identity": names[order[0]] if row[order[0]] >= self.threshold else UNKNOWN,
                "score": float(row[order[0]]),
                "nearest": names[order[0]],
                "runner_up": names[order[1]] if len(order) > 1 else None,
            }
