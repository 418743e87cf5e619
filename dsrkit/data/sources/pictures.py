"""From bytes to RGB pixels, with suspicion: files come from anywhere.

Decided here, once: grey becomes RGB; an EXIF rotation is applied; 16 bits a channel, CMYK, palettes and transparency are refused,
since each has several readings as RGB and the wrong one would go unnoticed; and so are more than 64 million pixels.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.sources.records import ImageError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # whatever the suffix says; Pillow knows others that start programs
MOST_PIXELS = 64_000_000
LFW_ORIGINAL = (250, 250)  # square by chance: shrunk as a whole, their faces would be tiny, and nobody would notice


def decode(file: str | Path | io.BytesIO, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a file as upright RGB; ``name`` is what errors call it.

    Raises ImageError for a file that cannot be read, or holds anything but 8-bit RGB or grey of at most 64 million pixels.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_header(image, name)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.array(image.convert("RGB"))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders given arbitrary bytes raise nearly anything: OSError, SyntaxError, struct.error, …
        raise ImageError(f"{name}: expected an image, got a file that cannot be read ({error}). Replace it.") from error


def _check_header(image: Image.Image, name: str) -> None:
    """Before a pixel is decoded."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(
            f"{name}: expected at most {MOST_PIXELS // 10**6} million pixels, got {width}x{height}. Shrink it, if it is a photo."
        )
    if image.mode not in {"RGB", "L"}:
        raise ImageError(f"{name}: expected 8-bit RGB or grey, got mode {image.mode}. Convert it to RGB.")
    if any(
        "16" in str(tile.args) for tile in getattr(image, "tile", ())
    ):  # Pillow calls 16-bit RGB "RGB" too, and drops half of it
        raise ImageError(f"{name}: expected 8-bit RGB or grey, got 16 bits a channel. Convert it to 8-bit RGB.")


def resized(image: UInt8[np.ndarray, "h w 3"], box: tuple[float, float, float, float]) -> UInt8[np.ndarray, "112 112 3"]:
    """The part of ``image`` within ``box`` (left, top, right, bottom, in pixels) at 112×112: Pillow's antialiased bicubic."""
    return np.array(Image.fromarray(image).resize((HR_SIZE, HR_SIZE), Image.Resampling.BICUBIC, box=box))


def square_face(image: UInt8[np.ndarray, "h w 3"], name: str, enlarge: bool = False) -> UInt8[np.ndarray, "112 112 3"]:
    """An aligned square face at 112×112.

    Raises ImageError where it is not square, is smaller than 112 while ``enlarge`` is off, or has the size of LFW's originals.
    """
    height, width = image.shape[:2]
    if (width, height) == LFW_ORIGINAL:
        raise ImageError(
            f"{name}: expected an aligned square face, got {width}x{height}, the size of LFW's photos, which show "
            "more than the face. Take the aligner centre-crop, landmarks or yunet."
        )
    if width != height or (width < HR_SIZE and not enlarge):
        raise ImageError(
            f"{name}: expected an aligned square face of at least {HR_SIZE}x{HR_SIZE}, got {width}x{height}. "
            "Align and crop it first; faces are never enlarged silently."
        )
    return image if width == HR_SIZE else resized(image, (0, 0, width, height))


def read_hr(path: Path) -> UInt8[np.ndarray, "112 112 3"]:
    """One aligned face as RGB 112×112. Larger square images are shrunk (Pillow bicubic); nothing is ever enlarged.

    Raises ImageError for an unreadable file, a colour mode other than RGB or grey, a shape that is not square, or
    fewer than 112 pixels.
    """
    return square_face(decode(path, path.name), path.name)
