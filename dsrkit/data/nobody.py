"""Faces of nobody, made of the training faces: more identities than a data set has subjects.

A recogniser distilled from a teacher learns from any picture that the teacher can embed; with few subjects it is faces, not
time, that run short. Each picture here is a face, aligned as the others are, of someone who does not exist, and only a teacher
that sees the picture itself can say who that is. Every image has its own draw, from uniform numbers that are given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_KNOTS = 5  # of the warp, in each direction: features of a face move, its texture stays
_SHARPNESS = 12.0  # of the border between two faces: it fades over about a quarter of the face
_OFFSET = 0.3  # how far from the centre that border may pass, in half widths
_BLEND = 11  # the first of a blend's two uniform numbers
NOBODY_DRAWS = 4 + 2 * _KNOTS**2  # uniform numbers that one image takes, after the two of a blend (``augment.DRAWS``)


@dataclass(frozen=True)
class Nobody:
    """How often a face is put together with another, and how far its features are moved.

    Args:
        warp: standard deviation of an elastic displacement (Simard et al. 2003), in shares of the width; each image draws how
            much of it.
        cutmix_probability: of a face that goes over into another along a straight line in any direction, softly: CutMix (Yun
            et al. 2019, arXiv 1905.04899) with a border that no network can tell a face by.
        blend_probability: of a face that is blended with up to a half of another: mixup (Zhang et al. 2018, arXiv 1710.09412).
            Neither needs labels here: the teacher gives the target.
    """

    warp: float = 0.0
    cutmix_probability: float = 0.0
    blend_probability: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether another face is needed for each."""
        return bool(self.cutmix_probability or self.blend_probability)

    def unmixed(self, uniform: Float[Tensor, "n draws"]) -> Bool[Tensor, " n"]:
        """Which faces no other is put together with, by the step's numbers: but for a warp they are still who they were."""
        cut, on = uniform[:, -NOBODY_DRAWS], uniform[:, _BLEND]
        return (cut >= self.cutmix_probability) & (on >= self.blend_probability)

    def __call__(
        self, images: Float[Tensor, "n 3 h w"], others: Float[Tensor, "n 3 h w"], uniform: Float[Tensor, "n draws"]
    ) -> Float[Tensor, "n 3 h w"]:
        """New faces in [0, 1]. ``uniform``: a step's numbers in [0, 1) for each image (``sampling.Draw``)."""
        cut, angle, offset, strength, *knots = uniform[:, -NOBODY_DRAWS:].to(images.device).T
        if self.cutmix_probability:
            over = half_plane(images.shape[2:], angle, offset) * (cut < self.cutmix_probability)[:, None, None]
            images = torch.lerp(images, others, over[:, None])
        if self.blend_probability:
            images = blend(images, others, self.blend_probability, uniform)
        if self.warp:
            normal = torch.erfinv((2 * torch.stack(knots, 1) - 1).clamp(-0.999999, 0.999999)) * 2**0.5
            images = warp(images, (self.warp * strength)[:, None, None, None] * normal.view(-1, 2, _KNOTS, _KNOTS))
        return images


def blend(
    images: Float[Tensor, "n 3 h w"], others: Float[Tensor, "n 3 h w"], probability: float, uniform: Float[Tensor, "n draws"]
) -> Float[Tensor, "n 3 h w"]:
    """With ``probability`` an image is blended with up to a half of another."""
    on, share = uniform[:, _BLEND : _BLEND + 2].to(images.device).T
    return torch.lerp(images, others, (0.5 * share * (on < probability)).view(-1, 1, 1, 1))


def half_plane(size: torch.Size, angle: Float[Tensor, " n"], offset: Float[Tensor, " n"]) -> Float[Tensor, "n h w"]:
    """Masks that go from 0 to 1 across a line.

    Args:
        angle: of the line, in turns.
        offset: 0 to 1, between its places farthest to either side of the centre; 0.5 goes through it.
    """
    down, across = torch.meshgrid(*(torch.linspace(-1, 1, side, device=angle.device) for side in size), indexing="ij")
    turn = 2 * torch.pi * angle[:, None, None]
    return torch.sigmoid(_SHARPNESS * (across * turn.cos() + down * turn.sin() - _OFFSET * (2 * offset[:, None, None] - 1)))


def warp(images: Float[Tensor, "n c h w"], knots: Float[Tensor, "n 2 k k"]) -> Float[Tensor, "n c h w"]:
    """Move what is at each knot of a coarse grid by shares of the width and height, and what is between smoothly."""
    field = F.interpolate(knots, images.shape[2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    still = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(still, list(images.shape), align_corners=False) + 2 * field
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
