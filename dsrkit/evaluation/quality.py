"""How close a restored face is to the true one: pixels (PSNR, SSIM), a network's features (LPIPS), and identity.

LPIPS (Zhang et al. 2018, "The unreasonable effectiveness of deep features") as torchmetrics has it, with its linear heads. The
VGG16 beneath them is not fetched: ``lpips_weights`` names torchvision's own file (``vgg16-397923af.pth``), else LPIPS is left
out. Identity asks two things: is the restored face like the true one, and is it more like somebody else?
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models.vgg import cfgs, make_layers

from dsrkit.data.degrade import as_tensor
from dsrkit.data.faces import batches_of
from dsrkit.metrics import unit_length
from dsrkit.models.checkpoint import read_weights
from dsrkit.recognition import qualities

_FACES_AT_ONCE = 32  # VGG16 at 112×112 keeps some 30 MB a face
_SCORES_AT_ONCE = 2**24

Values = dict[str, Float[np.ndarray, " n"]]
Faces = UInt8[np.ndarray, "n 112 112 3"]


def load_lpips(path: Path) -> nn.Module:
    """LPIPS over VGG16, from torchvision's file of VGG16 weights (or of its ``features`` alone).

    Raises ValueError for a file of another network.
    """
    trunk = make_layers(cfgs["D"], batch_norm=False)
    given = {key.removeprefix("features."): value for key, value in read_weights(path).items() if key.startswith("features.")}
    shapes = {name: value.shape for name, value in trunk.state_dict().items()}
    if {name: value.shape for name, value in given.items()} != shapes:
        raise ValueError(
            f"{path}: expected torchvision's VGG16 ({len(shapes)} tensors features.0.weight … features.28.bias), got "
            f"{len(given)} tensors of that kind or other shapes. Give vgg16-397923af.pth, or leave lpips_weights empty."
        )
    network = _LPIPS(net="vgg", pnet_rand=True)  # "rand": do not fetch the trunk; the heads come with torchmetrics
    network.net.load_state_dict(
        {key: given[key.split(".", 1)[1]] for key in network.net.state_dict()}
    )  # slice2.5.weight is 5.weight
    return network.eval()


@torch.inference_mode()
def image_quality(restored: Faces, hr: Faces, lpips: nn.Module | None = None) -> Values:
    """PSNR (dB), SSIM and, with a network, LPIPS (0 is equal) of each face, [N]. LPIPS takes images scaled to −1 … 1."""
    made = qualities(restored, hr)
    if lpips:
        pairs = ((as_tensor(restored[part]), as_tensor(hr[part])) for part in batches_of(len(hr), _FACES_AT_ONCE))
        made["lpips"] = torch.cat([lpips(2 * one - 1, 2 * other - 1).reshape(-1) for one, other in pairs])
    return {measure: values.numpy().astype(np.float64) for measure, values in made.items()}


def identity_similarity(seen: Float[np.ndarray, "n d"], hr: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> Values:
    """Does restoring invent somebody else? Cosines of one recogniser's embeddings, for each face [N].

    Args:
        seen: embeddings of the faces as they are shown to the recogniser (restored, bicubic).
        hr: embeddings of the same faces in HR.

    Gives ``similarity_to_true`` (its own HR face: high by nature, never to be read alone), ``similarity_to_impostor`` (the
    nearest HR face of another subject; the more faces, the nearer) and ``nearer_to_impostor`` (1 where that is at least as near).
    Raises ValueError for bad embeddings, and when there is one subject only.
    """
    seen, hr, labels = (*(unit_length(np.asarray(part, np.float32)) for part in (seen, hr)), np.asarray(labels))
    if len(np.unique(labels)) < 2:
        raise ValueError(f"Expected faces of two subjects or more, got one among {len(labels)} faces. There is no impostor.")
    true, impostor = np.empty(len(labels)), np.empty(len(labels))
    for part in batches_of(len(labels), max(1, _SCORES_AT_ONCE // len(labels))):
        scores = seen[part] @ hr.T
        true[part] = scores[np.arange(len(scores)), np.arange(len(labels))[part]]  # of the same product: ties stay ties
        scores[labels[part, None] == labels] = -np.inf
        impostor[part] = scores.max(1)
    return {
        "similarity_to_true": true,
        "similarity_to_impostor": impostor,
        "nearer_to_impostor": (impostor >= true).astype(np.float64),
    }
