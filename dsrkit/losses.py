"""The losses of DSR training and of the EdgeFace fine-tune. Each is one small function or module, with its source.

Images are RGB [N, 3, H, W] in [0, 1]; every loss is a scalar, a mean over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from dsrkit.models.checkpoint import CheckpointError, load_strict, read_weights


def identity_loss(sr: Float[Tensor, "n d"], hr: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """1 − cosine between the embeddings of restored and true faces (SICNN, Zhang et al. 2018, arXiv 1811.02328)."""
    return (1 - F.cosine_similarity(sr, hr)).mean()


def feature_match_loss(sr: Sequence[Float[Tensor, "n _ _ _"]], hr: Sequence[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, ""]:
    """Mean absolute difference of a recogniser's stages, each divided by the mean size of its HR features.

    pix2pixHD's feature matching (Wang et al. 2018, arXiv 1711.11585) on a recogniser instead of a discriminator; the
    division lets stages of different scale count alike.
    """
    stages = [F.l1_loss(one, other) / other.abs().mean().clamp_min(1e-6) for one, other in zip(sr, hr, strict=True)]
    return torch.stack(stages).mean()


def total_variation_loss(images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Sum of absolute differences between neighbours, a mean over images (anisotropic; Rudin et al. 1992).

    Summed over pixels and channels, not averaged: weights near 1e-6 belong to this scale.
    """
    vertical = (images[:, :, 1:] - images[:, :, :-1]).abs().sum()
    horizontal = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().sum()
    return (vertical + horizontal) / len(images)


class PerceptualLoss(nn.Module):
    """Mean absolute difference of VGG19 features at relu1_1, relu2_1, relu3_1 (Johnson et al. 2016, arXiv 1603.08155).

    Args:
        weights: a file of torchvision's VGG19 (``vgg19-….pth``, as in the user's torch cache), or the activation-normalised
            VGG19 up to conv3_1 whose first 1×1 convolution maps RGB in [0, 1] to BGR minus mean.

    Raises FileNotFoundError naming the file when it is absent, CheckpointError when it holds something else.
    """

    _CACHED = "vgg19-dcbb9e9d.pth"

    def __init__(self, weights: Path | str = "") -> None:
        super().__init__()
        path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / self._CACHED
        if not path.is_file():
            raise FileNotFoundError(
                f"Perceptual loss: expected VGG19 weights at {path}, got nothing there. Put torchvision's {self._CACHED} "
                "there, name a file in vgg_weights, or set lambda_perceptual to 0."
            )
        content = read_weights(path)
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: expected VGG19 weights, got a {type(content).__name__}. Give another file.")
        self.layers, self.taps = _normalised_vgg(content, path) if "0.weight" in content else _torchvision_vgg(content, path)
        self.requires_grad_(False).eval()

    def features(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        found = []
        for number, layer in enumerate(self.layers):
            images = layer(images)
            if number in self.taps:
                found.append(images)
        return found

    def forward(self, sr: Float[Tensor, "n 3 h w"], hr: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        with torch.no_grad():
            wanted = self.features(hr)
        return torch.stack([F.l1_loss(*pair) for pair in zip(self.features(sr), wanted, strict=True)]).mean()


class _ImageNetNormalise(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return (images - mean) / std


def _torchvision_vgg(content: dict[str, Tensor], path: Path) -> tuple[nn.Sequential, set[int]]:
    if "features.0.weight" not in content:
        raise CheckpointError(
            f"{path}: expected VGG19 weights (features.0.weight, …), got {sorted(content)[:2]}. Give another file."
        )
    trunk = make_layers([64, 64, "M", 128, 128, "M", 256])
    names = [name for name in trunk.state_dict() if f"features.{name}" in content]  # load_strict names those missing
    load_strict(trunk, {name: content[f"features.{name}"] for name in names}, path)
    for layer in trunk:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return nn.Sequential(_ImageNetNormalise(), *trunk), {2, 7, 12}


def _normalised_vgg(content: dict[str, Tensor], path: Path) -> tuple[nn.Sequential, set[int]]:
    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.ReflectionPad2d(1), nn.Conv2d(inside, outside, 3), nn.ReLU()]

    layers = nn.Sequential(
        nn.Conv2d(3, 3, 1), *block(3, 64), *block(64, 64), nn.MaxPool2d(2), *block(64, 128), *block(128, 128),
        nn.MaxPool2d(2), *block(128, 256),
    )  # fmt: skip
    load_strict(layers, content, path)
    return layers, {3, 10, 17}


class ArcFace(nn.Module):
    """Additive angular margin softmax (Deng et al. 2019, arXiv 1801.07698): the class weights and the loss.

    Args:
        classes: number of subjects.
        scale, margin: s and m (radians) of the paper.
        label_smoothing: share of probability given to the other classes.
    """

    def __init__(self, classes: int, scale: float, margin: float, label_smoothing: float = 0.0, size: int = 512) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(classes, size), dim=1))
        self.scale, self.margin, self.label_smoothing = scale, margin, label_smoothing

    def cosines(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        return F.normalize(embeddings, dim=1) @ F.normalize(self.weight, dim=1).T

    def forward(self, embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        with torch.autocast(embeddings.device.type, enabled=False):  # half precision has no room for a margin at s = 64
            return self._loss(embeddings.to(self.weight.dtype), labels)

    def _loss(self, embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        cosines = self.cosines(embeddings).clamp(-1 + 1e-6, 1 - 1e-6)  # arccos has no gradient at ±1
        angles = cosines.gather(1, labels[:, None]).acos() + self.margin
        logits = cosines.scatter(1, labels[:, None], angles.clamp(max=torch.pi).cos())
        return F.cross_entropy(self.scale * logits, labels, label_smoothing=self.label_smoothing)
