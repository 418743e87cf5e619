"""From HR to VLR and back up: every resize has a name.

The same "bicubic" differs by points of accuracy between libraries: Pillow and torch with ``antialias=True`` filter
before they shrink, OpenCV's ``INTER_CUBIC`` and torch's default do not. So a degradation is chosen by name, and VLR
faces are rounded to 8 bits, because files hold bytes. ``realistic`` is the one with chance in it; see ``realistic.py``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dsrkit.data.realistic import DEGRADE_DRAWS, RESIZES, Realistic

HR_SIZE = 112
DEGRADATIONS: dict[str, dict[str, Any] | Realistic] = {
    "bicubic-antialias": RESIZES["bicubic"],
    "bicubic-aliased": RESIZES["bicubic"] | {"antialias": False},
    "area": RESIZES["area"],
    "realistic": Realistic(),
}


def parse_size(size: str) -> tuple[int, int]:
    """``"14x16"`` → (14, 16): width × height, as image tools write sizes; ``"16"`` means 16x16.

    Raises ValueError for anything else, and for sizes outside 4 to 112.
    """
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", size.strip())
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not (4 <= width <= HR_SIZE and 4 <= height <= HR_SIZE):
        raise ValueError(f"VLR size: expected width x height such as '16x16' or '14x16', 4 to {HR_SIZE}, got {size!r}.")
    return width, height


def to_8_bits(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Clamp to [0, 1] and round to multiples of 1/255, as saving to a file does."""
    return (images.clamp(0, 1) * 255).round() / 255


def degrade(
    hr: Float[Tensor, "n 3 H W"],
    vlr_size: str,
    degradation: str = "bicubic-antialias",
    uniform: Float[Tensor, "n draws"] | None = None,
) -> Float[Tensor, "n 3 h w"]:
    """HR faces in [0, 1] → VLR faces of ``vlr_size`` in [0, 1], rounded to 8 bits.

    Args:
        uniform: ``DEGRADE_DRAWS`` numbers in [0, 1) for each image: all the chance that there is. ``realistic`` needs them, the
            others do not look at them. Of files: ``file_draws``.

    Raises ValueError for an unknown degradation or size, and where ``realistic`` gets no such numbers.
    """
    how, (width, height) = _known(degradation), parse_size(vlr_size)
    if isinstance(how, Realistic):
        return how(hr, (width, height), uniform)
    return to_8_bits(F.interpolate(hr, (height, width), **how))


def _known(degradation: str) -> dict[str, Any] | Realistic:
    if degradation not in DEGRADATIONS:
        raise ValueError(f"degradation: expected one of {', '.join(DEGRADATIONS)}, got {degradation!r}.")
    return DEGRADATIONS[degradation]


def degradation_settings(degradation: str) -> dict[str, Any]:
    """``{"name": …}`` and everything that the name stands for, as JSON has it: for a data set's record and for reports.

    Raises ValueError for an unknown degradation.
    """
    how = _known(degradation)
    settings = asdict(how) if isinstance(how, Realistic) else how
    return {"name": degradation} | {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def file_draws(names: Sequence[str], seed: int) -> Float[Tensor, "n draws"]:
    """Uniform numbers in [0, 1) for ``degrade`` from SHA-256 of the seed and each file's name: the same on any machine.

    A name counts as its characters, however its accents are encoded: file systems change that.
    """
    texts = [f"{seed} {unicodedata.normalize('NFC', name)}" for name in names]
    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
    numbers = np.frombuffer(digests, ">u2").reshape(-1, 16)[:, :DEGRADE_DRAWS]
    return torch.from_numpy(numbers / np.float32(2**16))


def upscale(vlr: Float[Tensor, "n 3 h w"], size: int = HR_SIZE) -> Float[Tensor, "n 3 size size"]:
    """Bicubic up-scaling as Pillow does it (a = −0.5), in [0, 1], rounded to 8 bits: the *direct feed* to a recogniser."""
    return to_8_bits(F.interpolate(vlr, (size, size), mode="bicubic", antialias=True, align_corners=False))


def as_bytes(images: Float[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Float tensor [N, 3, h, w] in [0, 1] → uint8 array [N, h, w, 3], rounded: the inverse of ``as_tensor``."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def mirror(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Faces, as bytes, left and right exchanged: a view."""
    return images[:, :, ::-1]


def as_tensor(images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """uint8 array [N, h, w, 3] → float tensor [N, 3, h, w] in [0, 1], channels last in memory."""
    # one pass of NumPy into a fresh array (memory maps are read-only): three times torch's copy, float and divide
    return torch.from_numpy(np.divide(images, np.float32(255), dtype=np.float32)).permute(0, 3, 1, 2)
