"""Augmentation of whole batches on the device: flip, small rotation, colour jitter, each image with its own draw.

torchvision's transforms draw once for a batch; here every image has its own angle and factors, from uniform numbers that
are given, so that a step can be repeated exactly. HR is augmented first and VLR degraded from it, so both sides stay a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DRAWS = 13  # uniform numbers that one image's augmentation takes; the last two are for ``nobody.blend``
LOOK_DRAWS = 4  # uniform numbers that one image takes for ``look_again``
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's and torchvision's grey


@dataclass(frozen=True)
class Augmentation:
    """How often, and how far: degrees for rotation, ± shares of the width for zoom and shift, ± factors for brightness,
    contrast, saturation, ± turns for hue. Zoom and shift are drawn for every image."""

    flip_probability: float = 0.5
    rotation_probability: float = 0.0
    rotation_degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    jitter_probability: float = 0.0
    jitter_brightness_contrast: float = 0.0
    jitter_saturation: float = 0.0
    jitter_hue: float = 0.0

    def __call__(self, images: Float[Tensor, "n 3 h w"], uniform: Float[Tensor, "n draws"]) -> Float[Tensor, "n 3 h w"]:
        """Augmented copies in [0, 1]. ``uniform``: ``DRAWS`` numbers in [0, 1) for each image, in a fixed order."""
        flip, turn, angle, jittered, bright, contrast, saturation, hue, near, across, down = uniform[:, :11].to(images.device).T

        def spread(draw: Tensor, width: float) -> Tensor:
            return (2 * draw - 1) * width

        if self.flip_probability:
            images = torch.where((flip < self.flip_probability)[:, None, None, None], images.flip(3), images)
        if self.rotation_probability or self.zoom or self.shift:
            degrees = spread(angle, self.rotation_degrees) * (turn < self.rotation_probability)
            moved = [spread(draw, self.shift) for draw in (across, down)]
            images = move(images, degrees, 1 + spread(near, self.zoom), *moved)
        if self.jitter_probability:
            on = jittered < self.jitter_probability
            light, depth = (1 + spread(draw, self.jitter_brightness_contrast) * on for draw in (bright, contrast))
            images = jitter(images, light, depth, 1 + spread(saturation, self.jitter_saturation) * on)
            if self.jitter_hue:
                images = turn_hue(images, spread(hue, self.jitter_hue) * on)
        return images


def move(
    images: Float[Tensor, "n c h w"],
    degrees: Float[Tensor, " n"],
    zoom: Float[Tensor, " n"],
    across: Float[Tensor, " n"],
    down: Float[Tensor, " n"],
) -> Float[Tensor, "n c h w"]:
    """Turn each image about its own centre, enlarge it by ``zoom`` and shift it by shares of its size, in one resampling.

    Bilinear; what comes in at the border is a reflection.
    """
    if not len(images):  # none of a kind in a mixed batch: affine_grid takes one image at least
        return images
    angles = torch.deg2rad(degrees)
    cosine, sine = angles.cos() / zoom, angles.sin() / zoom
    # the grid says where each output pixel comes from, in units of half the size: the inverse of what the image does
    matrix = torch.stack([cosine, -sine, -2 * across, sine, cosine, -2 * down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def look_again(images: Float[Tensor, "n c h w"], share: float, uniform: Float[Tensor, "n 4"]) -> Float[Tensor, "n c h w"]:
    """Each image turned, enlarged and shifted a little, so that its border moves by up to ``share`` of the width each time.

    "Input diversity" (Xie et al. 2019, arXiv 1803.06978): what one network sees in an image from every side is seen by other
    networks too; what it sees from one side only was made for it alone. ``uniform``: ``LOOK_DRAWS`` numbers in [0, 1) each.
    A ``share`` of 0 gives the images themselves.
    """
    if not share:
        return images
    angle, near, across, down = ((2 * uniform.to(images.device) - 1) * share).T
    return move(images, torch.rad2deg(2 * angle), 1 + 2 * near, across, down)


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
