"""The losses of DSR training and of the EdgeFace fine-tune. Each is one small function or module, with its source.

Images are RGB [N, 3, H, W] in [0, 1]; every loss is a scalar, a mean over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from dsrkit.models.checkpoint import CheckpointError, load_strict, read_weights

HeadKind = Literal["arcface", "cosface", "adaface"]


def identity_loss(sr: Float[Tensor, "n d"], hr: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """1 − cosine between the embeddings of restored and true faces (SICNN, Zhang et al. 2018, arXiv 1811.02328)."""
    return (1 - F.cosine_similarity(sr, hr)).mean()


def relation_loss(
    sr: Float[Tensor, "n d"], hr: Float[Tensor, "n d"], anchors: Float[Tensor, "m d"], temperature: float
) -> Float[Tensor, ""]:
    """How differently restored and true faces stand to many other faces, the anchors: who is near, and how near.

    The divergence KL(p ‖ q) of two softmaxes over cosines with the anchors divided by ``temperature``: p of the true face's
    embedding, q of the restored one's (SEED, Fang et al. 2021, arXiv 2101.04731), times the temperature, so that gradients
    of any temperature are alike in size. A cosine to one's own HR embedding pulls along all 512 directions alike; this one
    counts those most that tell a face from those near it.

    Args:
        anchors: embeddings by the same recogniser as ``hr``. Lengths do not matter on any side.
    """
    with torch.autocast(sr.device.type, enabled=False):  # half precision would blur cosines that the temperature magnifies
        anchors = F.normalize(anchors.float(), dim=1).T
        wanted, found = (F.normalize(embeddings.float(), dim=1) @ anchors / temperature for embeddings in (hr, sr))
        return temperature * F.kl_div(found.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)


def feature_match_loss(sr: Sequence[Float[Tensor, "n _ _ _"]], hr: Sequence[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, ""]:
    """Mean absolute difference of a recogniser's stages, each face's divided by the mean size of its HR features.

    pix2pixHD's feature matching (Wang et al. 2018, arXiv 1711.11585) on a recogniser instead of a discriminator; the
    division lets stages of different scale count alike, and by face, so that a face counts the same in every batch.
    """
    stages = []
    for one, other in zip(sr, hr, strict=True):
        difference, size = (values.abs().flatten(1).mean(1) for values in (one - other, other))
        stages.append((difference / size.clamp_min(1e-6)).mean())
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


def automatic_scale(classes: int) -> float:
    """The scale s for a number of classes: √2·ln(classes − 1), at least ln 99 (AdaCos, Zhang et al. 2019, arXiv 1905.00292).

    The softmax over s·cosine has to span from sure to unsure. The usual s = 64 was tuned on tens of thousands of subjects;
    with few it saturates: nearly every face is already "sure", the gradient vanishes but for a handful of faces, and
    those are overfitted. The formula tends to 0 at two classes, where nothing could be learnt; ln 99 ≈ 4.6 lets a face
    on its own of two orthogonal centres reach a probability of .99. Margins push logits down and so want an s no smaller.

    Raises ValueError for fewer than one class.
    """
    if classes < 1:
        raise ValueError(f"classes: expected one or more, got {classes}. Give a data set with subjects.")
    return max(math.log(99), math.sqrt(2) * math.log(max(classes - 1, 1)))


class MarginHead(nn.Module):
    """Softmax over cosines with a margin on the true class: the class weights and the loss.

    - ``arcface``: cos(θ + m), an angular margin (Deng et al. 2019, arXiv 1801.07698);
    - ``cosface``: cos θ − m, an additive margin (Wang et al. 2018, arXiv 1801.09414);
    - ``adaface``: cos(θ − m·ẑ) − m·ẑ − m (Kim et al. 2022, arXiv 2204.00964), where ẑ in [−1, 1] says how long the
      embedding is among those seen: a long one (a clear face) is pushed when it is hard, a short one (a face that may be
      beyond recognition) when it is easy. The paper's h = .333 is fixed, its margin is .4.

    Differs from AdaFace's paper in one thing: the running mean and spread of lengths begin with the first batch, not at
    20 and 100, from which a short fine-tune would never come down. They are buffers, learnt in training mode only.

    Args:
        classes: number of subjects.
        scale: s of the papers; 0 takes ``automatic_scale(classes)``.
        margin: m of the papers, radians for ArcFace, 0 or more.
        label_smoothing: share of probability given to the other classes.
        kind: ``arcface``, ``cosface`` or ``adaface``.
        size: length of an embedding.

    Raises ValueError for another kind, or a scale or margin below 0.
    """

    # pytorch-metric-learning has ArcFace and CosFace (tests compare with it), but neither label smoothing nor AdaFace.
    _SPREAD = 0.333  # h: one standard deviation of lengths becomes a third of the margin
    _NEWEST = 0.01  # share of the newest batch in the running mean and spread

    length_mean: Tensor
    length_std: Tensor
    batches: Tensor

    def __init__(
        self, classes: int, scale: float, margin: float, label_smoothing: float = 0.0, kind: HeadKind = "arcface", size: int = 512
    ) -> None:
        super().__init__()
        if kind not in get_args(HeadKind):
            raise ValueError(f"Margin head: expected kind {', '.join(get_args(HeadKind))}, got {kind!r}. Name one of these.")
        if scale < 0 or margin < 0:
            raise ValueError(f"Margin head: expected scale and margin of 0 or more, got {scale} and {margin}. Raise them.")
        self.weight = nn.Parameter(F.normalize(torch.randn(classes, size), dim=1))
        self.kind, self.margin, self.label_smoothing = kind, margin, label_smoothing
        self.scale = scale or automatic_scale(classes)
        if kind == "adaface":
            self.register_buffer("length_mean", torch.tensor(20.0))
            self.register_buffer("length_std", torch.tensor(100.0))
            self.register_buffer("batches", torch.tensor(0))

    @torch.no_grad()
    def imprint(self, embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> None:
        """Start each class centre at the mean of its embeddings (weight imprinting, Qi et al. 2018, arXiv 1712.07136).

        No epoch is then spent on finding the centres of a recogniser that is trained already.
        Raises ValueError when a class has no embedding.
        """
        missing = set(range(len(self.weight))) - set(labels.tolist())
        if missing:
            raise ValueError(f"Margin head: expected embeddings of every class, got none of {sorted(missing)[:5]}. Add some.")
        sums = torch.zeros_like(self.weight).index_add_(0, labels, F.normalize(embeddings.to(self.weight.dtype), dim=1))
        self.weight.copy_(F.normalize(sums, dim=1))

    def cosines(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Cosine of every embedding, of any length, with every class centre."""
        return F.normalize(embeddings, dim=1) @ F.normalize(self.weight, dim=1).T

    def forward(
        self, embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"], counted: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of embeddings as the network gives them (not normalised: AdaFace reads their length).

        A face that is not ``counted``, since it is no subject's, stands in the mean with 0.
        """
        with torch.autocast(embeddings.device.type, enabled=False):  # half precision has no room for a margin at s = 64
            losses = self._losses(embeddings.to(self.weight.dtype), labels)
        return (losses if counted is None else losses * counted).mean()

    def _losses(self, embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        cosines = self.cosines(embeddings).clamp(-1 + 1e-6, 1 - 1e-6)  # arccos has no gradient at ±1
        true = cosines.gather(1, labels[:, None])
        match self.kind:
            case "arcface":
                true = self._arcface(true)
            case "cosface":
                true = true - self.margin
            case "adaface":
                true = self._adaface(true, self._quality(embeddings)[:, None])
        logits = cosines.scatter(1, labels[:, None], true)
        return F.cross_entropy(self.scale * logits, labels, reduction="none", label_smoothing=self.label_smoothing)

    def _arcface(self, cosines: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
        # Beyond π the cosine would rise again; the authors' code goes on with a line, which keeps falling.
        angles = cosines.acos()
        beyond = cosines - self.margin * math.sin(self.margin)
        return torch.where(angles + self.margin <= torch.pi, (angles + self.margin).cos(), beyond)

    def _adaface(self, cosines: Float[Tensor, "n 1"], quality: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
        angles = (cosines.acos() - self.margin * quality).clamp(1e-3, torch.pi - 1e-3)
        return angles.cos() - self.margin * (1 + quality)

    def _quality(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        lengths = embeddings.detach().norm(dim=1)
        if self.training and len(lengths) > 1:  # one length has no spread
            self.batches += 1
            share = (1 / self.batches).clamp(min=self._NEWEST)  # a plain mean until there are enough batches to forget some
            self.length_mean += share * (lengths.mean() - self.length_mean)
            self.length_std += share * (lengths.std() - self.length_std)
        return (self._SPREAD * (lengths - self.length_mean) / (self.length_std + 1e-3)).clamp(-1, 1)
