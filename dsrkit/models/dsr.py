"""DSR, deep super-resolution: a VLR face of any size becomes a face of 112×112.

A residual network in EDSR's manner (Lim et al. 2017, arXiv 1707.02921: no batch normalisation), with most of its
arithmetic at VLR size, two blocks at half the output size, sub-pixel up-sampling (Shi et al. 2016, arXiv 1609.05158) and
a global bicubic skip: the network only learns what bicubic lacks, and an untrained one *is* bicubic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dsrkit.models.checkpoint import CheckpointError, load_checkpoint, load_strict


@dataclass(frozen=True)
class DSRConfig:
    """Width (channels at VLR size), depth (residual blocks at VLR size) and output size of a DSR.

    Raises ValueError for sizes that cannot be built.
    """

    base_channels: int = 120
    residual_blocks: int = 16
    output_size: int = 112

    def __post_init__(self) -> None:
        if self.base_channels < 2 or self.base_channels % 2 or self.residual_blocks < 1:
            raise ValueError(
                "DSRConfig: expected an even base_channels of at least 2 and at least 1 residual block, got "
                f"{self.base_channels} and {self.residual_blocks}."
            )
        if self.output_size != 112:
            raise ValueError(
                f"DSRConfig: expected output_size 112 (EdgeFace's input), got {self.output_size}. A DSR for 128 or 160 "
                "pixels cannot feed EdgeFace without a resize: train it anew with 02_dsr_training."
            )


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv2(F.relu(self.conv1(features)))


class DSR(nn.Module):
    """Restore VLR faces to 112×112.

    >>> DSR(DSRConfig(base_channels=16, residual_blocks=2))(torch.rand(1, 3, 16, 14)).shape
    torch.Size([1, 3, 112, 112])
    """

    def __init__(self, config: DSRConfig | None = None) -> None:
        super().__init__()
        self.config = config or DSRConfig()
        width, half = self.config.base_channels, self.config.base_channels // 2
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(self.config.residual_blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up = nn.Conv2d(width, half, 3, padding=1)
        self.refine = nn.Sequential(ResidualBlock(half), ResidualBlock(half))
        self.conv_out = nn.Conv2d(half, 3 * 4, 3, padding=1)
        for weights in self.conv_out.parameters():  # starts as bicubic: no step of the training is spent on finding it
            nn.init.zeros_(weights)

    def forward(self, vlr: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 112 112"]:
        """VLR faces in [0, 1] → restored faces; in [0, 1] in evaluation mode, unclamped while training.

        Raises ValueError for anything but [N, 3, H, W] of at most 112 pixels.
        """
        size = self.config.output_size
        if vlr.ndim != 4 or vlr.shape[1] != 3 or max(vlr.shape[2:]) > size:
            raise ValueError(
                f"DSR: expected VLR faces [N, 3, H, W] (RGB in [0, 1], at most {size} pixels), got {list(vlr.shape)}."
            )
        features = self.conv_in(vlr)
        features = features + self.conv_body(self.body(features))
        features = F.interpolate(features, (size // 2, size // 2), mode="bilinear", align_corners=False)
        detail = F.pixel_shuffle(self.conv_out(self.refine(self.conv_up(features))), 2)
        # antialias=True is Pillow's bicubic (a = −0.5), the same kernel as the direct feed
        sr = detail + F.interpolate(vlr, (size, size), mode="bicubic", antialias=True, align_corners=False)
        return sr if self.training else sr.clamp(0, 1)


class DSREnsemble(nn.Module):
    """The mean of several DSRs' outputs (EDSR's self-ensemble idea, over seeds instead of flips)."""

    def __init__(self, members: Sequence[DSR]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config = members[0].config

    def forward(self, vlr: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 112 112"]:
        return torch.stack([member(vlr) for member in self.members]).mean(0)


def dsr_content(dsr: DSR) -> dict:
    """What a checkpoint holds of a DSR: its weights and its configuration."""
    return {"state_dict": {key: value.cpu() for key, value in dsr.state_dict().items()}, "config": asdict(dsr.config)}


def load_dsr(path: Path | str | Sequence[Path | str], device: str | torch.device = "cpu") -> DSR | DSREnsemble:
    """A trained DSR with its configuration restored, in evaluation mode; a list of paths gives an ensemble.

    Raises FileNotFoundError, or CheckpointError for a file of another kind, architecture or output size.
    """
    if isinstance(path, str | Path):
        return read_dsr(path, device)
    if not path:
        raise ValueError("DSR: expected a path or a list of paths, got an empty list. Name at least one dsr.pt.")
    return DSREnsemble([read_dsr(one, device) for one in path]).eval()


def read_dsr(path: Path | str, device: str | torch.device = "cpu") -> DSR:
    """``load_dsr`` for a single file."""
    content = load_checkpoint(path, "dsr")
    try:
        dsr = DSR(DSRConfig(**content["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the configuration of a DSR for 112 pixels, got {content.get('config')}. {error}"
        ) from error
    load_strict(dsr, content["state_dict"], path)
    return dsr.to(device).to(memory_format=torch.channels_last).eval()
