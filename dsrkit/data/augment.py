"""Augmentation of whole batches on the device: flip, small rotation, colour jitter, each image with its own draw.

torchvision's transforms draw once for a batch; here every image has its own angle and factors, from a generator that is
given, so that a step can be repeated exactly. HR is augmented first and VLR degraded from it, so both sides stay a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's and torchvision's grey


@dataclass(frozen=True)
class Augmentation:
    """How often, and how far: degrees for rotation, ± factors for brightness, contrast, saturation, ± turns for hue."""

    flip_probability: float = 0.5
    rotation_probability: float = 0.0
    rotation_degrees: float = 0.0
    jitter_probability: float = 0.0
    jitter_brightness_contrast: float = 0.0
    jitter_saturation: float = 0.0
    jitter_hue: float = 0.0

    def __call__(self, images: Float[Tensor, "n 3 h w"], generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
        """Augmented copies in [0, 1]. ``generator`` lives on the CPU, so that draws do not depend on the device."""
        count = len(images)

        def chance(probability: float) -> Tensor:
            return (torch.rand(count, generator=generator) < probability).to(images.device)

        def spread(width: float) -> Tensor:
            return (2 * torch.rand(count, generator=generator) - 1).mul(width).to(images.device)

        if self.flip_probability:
            images = torch.where(chance(self.flip_probability)[:, None, None, None], images.flip(3), images)
        if self.rotation_probability:
            images = rotate(images, spread(self.rotation_degrees) * chance(self.rotation_probability))
        if self.jitter_probability:
            on = chance(self.jitter_probability)
            brightness, contrast = (1 + spread(self.jitter_brightness_contrast) * on for _ in range(2))
            images = jitter(images, brightness, contrast, 1 + spread(self.jitter_saturation) * on)
            if self.jitter_hue:
                images = turn_hue(images, spread(self.jitter_hue) * on)
        return images


def rotate(images: Float[Tensor, "n c h w"], degrees: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Turn each image about its own centre (bilinear; corners are filled by reflection)."""
    angles = torch.deg2rad(degrees)
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrix = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _grey(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    return (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def jitter(
    images: Float[Tensor, "n 3 h w"],
    brightness: Float[Tensor, " n"],
    contrast: Float[Tensor, " n"],
    saturation: Float[Tensor, " n"],
) -> Float[Tensor, "n 3 h w"]:
    """Multiply brightness, then contrast about the mean grey, then saturation about each pixel's grey (as Pillow)."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation))
    images = (images * brightness).clamp(0, 1)
    images = torch.lerp(_grey(images).mean((2, 3), keepdim=True).expand_as(images), images, contrast).clamp(0, 1)
    return torch.lerp(_grey(images).expand_as(images), images, saturation).clamp(0, 1)


def turn_hue(images: Float[Tensor, "n 3 h w"], turns: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
    """Turn hue by ``turns`` of a full circle, as a rotation of RGB about the grey axis (Rodrigues' formula)."""
    angles = 2 * torch.pi * turns.view(-1, 1, 1, 1)
    along = images.mean(1, keepdim=True).expand_as(images)
    across = (images.roll(1, 1) - images.roll(-1, 1)) / 3**0.5
    return (angles.cos() * images + angles.sin() * across + (1 - angles.cos()) * along).clamp(0, 1)
