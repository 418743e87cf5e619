"""Faces as PNG bytes for the desk: small files, drawn once, no figure around them.

A VLR face is enlarged by a whole factor without smoothing, so that its pixels stay squares: a smoothing viewer would restore
faces on its own. Larger faces are resized for the screen only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

FACE = 128  # height on the screen, in pixels: 8 times 16, 5 times 24 and 8, 4 times 32
SMALL = 80
WHITE = (255, 255, 255)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def enlarged(face: UInt8[np.ndarray, "h w 3"], height: int = FACE) -> Image.Image:
    """A face about ``height`` pixels high; one of fewer than half of them by the whole factor that comes nearest."""
    image, (tall, wide) = Image.fromarray(face), face.shape[:2]
    if 2 * tall <= height:
        factor = max(1, round(height / tall))
        return image.resize((wide * factor, tall * factor), Image.Resampling.NEAREST)
    return image.resize((round(wide * height / tall), height), Image.Resampling.BICUBIC)


def beside(faces: Sequence[UInt8[np.ndarray, "h w 3"]], height: int = SMALL, gap: int = 4) -> Image.Image:
    """Faces side by side on white, each in a square of ``height``."""
    strip = Image.new("RGB", (len(faces) * (height + gap) - gap, height), WHITE)
    for number, face in enumerate(faces):
        image = enlarged(face, height)
        image.thumbnail((height, height), Image.Resampling.NEAREST)  # a factor rounded up may stand out by a few pixels
        corner = (number * (height + gap) + (height - image.width) // 2, (height - image.height) // 2)
        strip.paste(image, corner)
    return strip


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other on white."""
    page = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), WHITE)
    top = 0
    for one in pictures:
        page.paste(one, (0, top))
        top += one.height
    return page
