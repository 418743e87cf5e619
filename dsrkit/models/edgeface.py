"""EdgeFace: a face 112×112 becomes a 512-dimensional embedding.

Paper: George et al., "EdgeFace: Efficient Face Recognition Model for Edge Devices", 2024, arXiv 2307.01838.
Original: github.com/otroshi/edgeface (BSD-3; its weights are CC-BY-NC-SA-4.0 and are never shipped here).
Backbone: timm's EdgeNeXt. Written anew from the paper; what differs: the input is RGB in [0, 1], normalised inside,
the output has unit length, and the int8 ``_q`` files are read into the float model, so that they can be fine-tuned.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dsrkit.models.checkpoint import CheckpointError, load_strict, read_weights
from dsrkit.models.lora import merged_state_dict
from dsrkit.runs import file_hash, resolve

INPUT_SIZE = 112
EMBEDDING_SIZE = 512
DEMO_WEIGHTS = Path(__file__).parent / "edgeface_demo.safetensors"


@dataclass(frozen=True)
class Variant:
    """One EdgeFace: the timm backbone and γ, the rank ratio of its low-rank linear layers (None: full rank)."""

    backbone: str
    gamma: float | None


VARIANTS = {
    "edgeface_base": Variant("edgenext_base", None),
    "edgeface_s_gamma_05": Variant("edgenext_small", 0.5),
    "edgeface_xs_gamma_06": Variant("edgenext_x_small", 0.6),
    "edgeface_xxs": Variant("edgenext_xx_small", None),
    "edgeface_xs_q": Variant("edgenext_x_small", None),
    "edgeface_xxs_q": Variant("edgenext_xx_small", None),
}
# SHA-256 of official files; who else's file it is cannot be told from its weights.
OFFICIAL = {
    "46be7cc7e8d6e23501c0627fe5fbef101922ee9b85ccbef476987ab1a320b053": "edgeface_xxs_q",
    "a31314377876ab9fa2a75e5638bc528efe79fd17d5c9c0a228fb7f846d7581a6": "edgeface_xs_q",
}
# The first convolution's width tells the backbone, the presence of `linear1` whether it is low-rank.
_VARIANT_OF = {
    (80, False): "edgeface_base",
    (48, True): "edgeface_s_gamma_05",
    (32, True): "edgeface_xs_gamma_06",
    (32, False): "edgeface_xs_q",
    (24, False): "edgeface_xxs",
}


class LoRaLin(nn.Module):
    """A linear layer as a product of two of lower rank, r = max(2, int(min(in, out)·γ)); EdgeFace paper, section 3."""

    def __init__(self, in_features: int, out_features: int, gamma: float, bias: bool) -> None:
        super().__init__()
        rank = max(2, int(min(in_features, out_features) * gamma))
        self.linear1 = nn.Linear(in_features, rank, bias=False)
        self.linear2 = nn.Linear(rank, out_features, bias=bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.linear2(self.linear1(values))


def _to_low_rank(module: nn.Module, gamma: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, LoRaLin(child.in_features, child.out_features, gamma, child.bias is not None))
        else:
            _to_low_rank(child, gamma)


class EdgeFace(nn.Module):
    """EdgeFace of one of the ``VARIANTS``, freshly initialised. ``load_edgeface`` reads weights.

    Raises ValueError for an unknown variant.
    """

    def __init__(self, variant: str = "edgeface_xxs") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}.")
        self.variant = variant
        self.model: Any = timm.create_model(VARIANTS[variant].backbone, num_classes=EMBEDDING_SIZE)
        if gamma := VARIANTS[variant].gamma:
            _to_low_rank(self.model, gamma)

    def embed(self, images: Float[Tensor, "n 3 112 112"]) -> Float[Tensor, "n 512"]:
        """Embeddings as the network gives them, not normalised (test-time augmentation sums these)."""
        return self.stages_and_embedding(images)[1]

    def stages_and_embedding(
        self, images: Float[Tensor, "n 3 112 112"]
    ) -> tuple[list[Float[Tensor, "n _ _ _"]], Float[Tensor, "n 512"]]:
        """The outputs of EdgeNeXt's four stages (28, 14, 7 and 3 pixels wide) and the un-normalised embedding."""
        if images.shape[1:] != (3, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(
                f"EdgeFace: expected images [N, 3, 112, 112] (RGB in [0, 1]), got {list(images.shape)}. "
                "Restore them with DSR or resize them first."
            )
        features = self.model.stem((images - 0.5) / 0.5)
        stages = []
        for stage in self.model.stages:
            features = stage(features)
            stages.append(features)
        return stages, self.model.forward_head(self.model.norm_pre(features))

    def parts(self) -> list[nn.Module]:
        """What a face passes through, in order: the stem, the four stages, the head."""
        return [self.model.stem, *self.model.stages, nn.Sequential(self.model.norm_pre, self.model.head)]

    def forward(self, images: Float[Tensor, "n 3 112 112"]) -> Float[Tensor, "n 512"]:
        """RGB images in [0, 1] → embeddings of unit length.

        Raises ValueError for images of another shape.
        """
        return F.normalize(self.embed(images), dim=1)


def _dequantise(weights: dict[str, Any]) -> dict[str, Tensor]:
    """Turn the packed int8 linear layers of a ``_q`` file into float weights and biases; leave the rest alone."""
    floats = {}
    for key, value in weights.items():
        layer, _, _ = key.partition("._packed_params._packed_params")
        if key.endswith("._packed_params._packed_params"):
            floats[f"{layer}.weight"] = value[0].dequantize()
            if value[1] is not None:
                floats[f"{layer}.bias"] = value[1].detach()
        elif isinstance(value, Tensor) and not key.endswith((".scale", ".zero_point")):
            floats[key] = value
    return floats


def _variant_of(weights: dict[str, Any], path: Path) -> str:
    stem = weights.get("model.stem.0.weight")
    low_rank = any(".linear1." in key for key in weights)
    variant = None if stem is None else _VARIANT_OF.get((stem.shape[0], low_rank))
    if variant is None:
        raise CheckpointError(
            f"{path}: expected EdgeFace weights (keys such as 'model.stem.0.weight'), got keys such as "
            f"{list(weights)[:2]}. Give an official EdgeFace file, or one that 03_edgeface_finetune wrote."
        )
    return variant


def interpolated(edgeface: EdgeFace, original: EdgeFace, share: float) -> EdgeFace:
    """A recogniser between two of one variant: ``share`` of the original's weights, the rest of the fine-tuned one's.

    What a fine-tune forgot mostly returns, what it learned mostly stays (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903).
    Neither is changed. A share of 0 gives ``edgeface`` itself.
    """
    if not share:
        return edgeface
    between = copy.deepcopy(original)
    tuned, first = merged_state_dict(edgeface), original.state_dict()
    between.load_state_dict({key: torch.lerp(tuned[key], first[key], share) for key in first})
    return between.train(edgeface.training)


def edgeface_file(name: str, what: str = "EdgeFace weights (edgeface)") -> Path:
    """The file that a parameter names: ``demo`` (ships with the kit), or a path.

    Raises FileNotFoundError saying where it was looked for.
    """
    if not name:
        raise FileNotFoundError(f"{what}: expected a file or demo (for made-up faces), got nothing. Name one.")
    return DEMO_WEIGHTS if name == "demo" else resolve(name, DEMO_WEIGHTS, what)


def licence(path: Path) -> str:
    """One line on whose weights a file holds and what they may be used for, told by its SHA-256."""
    if path == DEMO_WEIGHTS:
        return "EdgeFace of made-up faces, ships with the kit: BSD-3-Clause"
    if name := OFFICIAL.get(file_hash(path)):
        return f"{name}, official file (SHA-256 matches): CC-BY-NC-SA-4.0, Idiap Research Institute; non-commercial use only"
    return (
        f"{path.name}: not a file whose SHA-256 the kit knows. Official EdgeFace weights, and what is fine-tuned from them, are "
        "CC-BY-NC-SA-4.0 (non-commercial)"
    )


def load_edgeface(path: Path | str = "demo", device: str | torch.device = "cpu", variant: str | None = None) -> EdgeFace:
    """EdgeFace with weights, in evaluation mode.

    Args:
        path: an official float file, an official ``_q`` (int8) file, a fine-tuned ``edgeface.pt``, or ``demo``: the
            small recogniser of made-up faces that ships with the kit.
        device: where to put it.
        variant: one of ``VARIANTS``; read from the keys when left out.

    Raises FileNotFoundError when there is no file, CheckpointError when it holds something else.
    """
    path = DEMO_WEIGHTS if str(path) == "demo" else Path(path)
    with warnings.catch_warnings():  # torch warns that quantised tensors will go away; dequantising is why we read them
        warnings.filterwarnings("ignore", message=".*(quantized tensor|TypedStorage).*")
        content = read_weights(path)
        if isinstance(content, dict) and "backbone_state_dict" in content:
            content = content["backbone_state_dict"]
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: expected EdgeFace weights, got a {type(content).__name__}. Give another file.")
        weights = {key: value.float() for key, value in _dequantise(content).items()}
    edgeface = EdgeFace(variant or _variant_of(weights or content, path))
    load_strict(edgeface, weights, path)
    return edgeface.to(device).to(memory_format=torch.channels_last).eval()
