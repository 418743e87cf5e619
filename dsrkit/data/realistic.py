"""VLR faces as a camera would have taken them: blur → downscale → noise → JPEG, each face with a draw of its own.

The order is that of GFPGAN (Wang et al. 2021, arXiv 2101.04061) and of Real-ESRGAN's first round (Wang et al. 2021, arXiv
2107.10833). Their ranges are for pictures of several hundred pixels; here a whole face fills 14 to 32 pixels of a camera's
frame. So lengths are counted in VLR pixels, and whatever follows the lens happens at VLR size:

- blur, round or elongated (defocus, motion). GFPGAN draws σ from 0.1 to 10 pixels of 512: at its strongest downscaling, 8, the
  nearest to 112 → 16, that is up to 1.25 pixels of the small image. Here it ends at 1: that leaves 0.7 % of the contrast of
  the finest detail that the small image can hold, and beyond it a face would be of a lower resolution under a false name.
- downscaling by area, bilinear or bicubic, as Real-ESRGAN, always antialiased: a sensor's pixel gathers the light of its area.
- noise belongs to a pixel of the sensor, however large the face in it is; Gaussian or shot noise, in colour or grey, as
  Real-ESRGAN. GFPGAN's σ of up to 20 levels is halved: beyond 10 a face of 16 pixels is speckle more than face, and cameras
  smooth such noise away before they compress.
- JPEG works on 8×8 pixels of the whole frame (16×16 for colour), and the face is cut out afterwards. So each face is compressed
  at a drawn place in that grid, its border repeated around it, and cut out again. Quality as GFPGAN, 60 to 100.

Left out: Real-ESRGAN's second round (pictures posted again and again) and sharpening, GFPGAN's changes of colour.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

# uniform numbers that one image's degradation takes: blur's two widths, its angle, whether it is round; which resize; whether the
# noise is shot noise, its level, whether it is grey; JPEG's quality and the place in its grid, from above and from the left
DEGRADE_DRAWS = 11
RESIZES: dict[str, dict[str, Any]] = {
    "area": {"mode": "area"},
    "bilinear": {"mode": "bilinear", "antialias": True, "align_corners": False},
    "bicubic": {"mode": "bicubic", "antialias": True, "align_corners": False},
}
GRID = 16  # pixels of JPEG's repeating unit, colour at half resolution (4:2:0)


@dataclass(frozen=True)
class Realistic:
    """The ranges that each face's draw is taken from, evenly; a number of ``DEGRADE_DRAWS`` decides each.

    Args:
        blur: standard deviations of the Gaussian along its two axes, in VLR pixels.
        round_blur: share of the faces whose blur is as wide one way as the other.
        resizes: names of ``RESIZES``.
        noise: standard deviation in levels of 255; where it is shot noise, at white.
        shot_noise: share of the faces whose noise grows with the root of the light (Poisson's, drawn as the Gaussian of the same
            variance); the others' is the same in light and dark.
        grey_noise: share of the faces whose noise is the same in red, green and blue.
        jpeg_quality: both ends included.

    Raises ValueError for a range that ends before it begins or leaves what is possible, and for an unknown resize.
    """

    blur: tuple[float, float] = (0.1, 1.0)
    round_blur: float = 0.5
    resizes: tuple[str, ...] = ("area", "bilinear", "bicubic")
    noise: tuple[float, float] = (0.0, 10.0)
    shot_noise: float = 0.5
    grey_noise: float = 0.4
    jpeg_quality: tuple[int, int] = (60, 100)

    def __post_init__(self) -> None:
        for name, least, most in (("blur", 0, 4), ("noise", 0, 255), ("jpeg_quality", 1, 100)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name}: expected (low, high) from {least} to {most}, got {(low, high)}. Put the smaller first."
                )
        for name in ("round_blur", "shot_noise", "grey_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}. Write 0.5 for 50 %.")
        if not self.resizes or not set(self.resizes) <= set(RESIZES):
            raise ValueError(f"resizes: expected some of {', '.join(RESIZES)}, got {self.resizes}. Correct the names.")

    def __call__(
        self, hr: Float[Tensor, "n 3 H W"], size: tuple[int, int], uniform: Float[Tensor, "n draws"] | None
    ) -> Float[Tensor, "n 3 h w"]:
        """HR faces in [0, 1] → VLR faces of ``size`` (width, height) in [0, 1], rounded to 8 bits, on the device of ``hr``.

        An image's row of ``uniform`` decides everything, so the same row gives the same VLR face in any batch and on any
        device: blur and downscaling run on the device in double precision, noise and JPEG on the CPU.
        Raises ValueError for uniform numbers that are missing, of another shape, or outside [0, 1).
        """
        draws = _checked(uniform, len(hr))
        images = hr.cpu() if hr.device.type == "mps" else hr  # Apple's GPUs have no double precision
        chunk = 8 if images.device.type == "cpu" else 128  # what fits a CPU's cache; a GPU wants more at a time
        parts = zip(images.split(chunk), draws.split(chunk), strict=True)
        noisy = self._noisy(torch.cat([self._small(*part, size) for part in parts]), draws)
        pixels = self._compressed(noisy, draws)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(hr) / 255

    def _small(
        self, images: Float[Tensor, "n 3 H W"], draws: Float[Tensor, "n draws"], size: tuple[int, int]
    ) -> Float[Tensor, "n 3 h w"]:
        """Blurred and downscaled, on the CPU."""
        one, other, angle, alike, which = draws[:, :5].T
        deviations = torch.stack([one, torch.where(alike < self.round_blur, one, other)], dim=1)
        images = images.contiguous().double()  # channels last would slow the transforms
        blurred = blur(images, between(self.blur, deviations), angle * math.pi, size, self.blur[1])
        width, height = size
        small = torch.empty(len(images), 3, height, width, dtype=torch.float64)
        for number, name in enumerate(self.resizes):
            rows = torch.nonzero((which * len(self.resizes)).long() == number)[:, 0]
            if len(rows):
                small[rows] = F.interpolate(blurred[rows.to(blurred.device)], (height, width), **RESIZES[name]).cpu()
        return small.clamp(0, 1)

    def _noisy(self, images: Float[Tensor, "n 3 h w"], draws: Float[Tensor, "n draws"]) -> Float[Tensor, "n 3 h w"]:
        shot, level, grey = (draw.view(-1, 1, 1, 1) for draw in draws[:, 5:8].T)
        same, normal = grey < self.grey_noise, normal_numbers(draws, images.shape[1:])
        light = torch.where(same, images.mean(1, keepdim=True), images)
        strength = between(self.noise, level) / 255 * torch.where(shot < self.shot_noise, light.sqrt(), 1.0)
        return (images + strength * torch.where(same, normal[:, :1], normal)).clamp(0, 1)

    def _compressed(self, images: Float[Tensor, "n 3 h w"], draws: Float[Tensor, "n draws"]) -> UInt8[np.ndarray, "n h w 3"]:
        low, high = self.jpeg_quality
        qualities = between((low, high + 1), draws[:, 8]).long().tolist()
        corners = (draws[:, 9:] * GRID).long().tolist()
        pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        faces = zip(pixels, qualities, corners, strict=True)
        return np.stack([through_jpeg(face, quality, *corner) for face, quality, corner in faces])


def _checked(uniform: Float[Tensor, "n draws"] | None, count: int) -> Float[Tensor, "n draws"]:
    wanted = f"realistic: expected uniform numbers in [0, 1) of shape {[count, DEGRADE_DRAWS]}, one row an image, got"
    remedy = "dsrkit.data.degrade.file_draws(names, seed) makes them from file names."
    if uniform is None or list(uniform.shape) != [count, DEGRADE_DRAWS]:
        raise ValueError(f"{wanted} {'none' if uniform is None else f'shape {list(uniform.shape)}'}. {remedy}")
    draws = uniform.detach().cpu().double()
    if not bool(((draws >= 0) & (draws < 1)).all()):
        raise ValueError(f"{wanted} numbers outside it. {remedy}")
    return (draws * 2**24).floor() / 2**24  # as single precision holds them: no product of one rounds up to its end


def between(ends: tuple[float, float], draw: Tensor) -> Tensor:
    """A draw from [0, 1) moved to [low, high)."""
    return ends[0] + draw * (ends[1] - ends[0])


def blur(
    images: Float[Tensor, "n 3 H W"],
    deviations: Float[Tensor, "n 2"],
    angles: Float[Tensor, " n"],
    size: tuple[int, int],
    widest: float,
) -> Float[Tensor, "n 3 H W"]:
    """Each image under a Gaussian of its own, with standard deviations along axes turned by ``angles`` (radians).

    Lengths are pixels of the image shrunk to ``size`` (width, height); no deviation exceeds ``widest``. Beyond the border the
    image is mirrored. A product of Fourier transforms: a kernel of 57×57 pixels, at 112 → 16, costs as little as a small one.
    """
    scales = images.shape[2] / size[1], images.shape[3] / size[0]
    pads = [min(math.ceil(4 * widest * scale), side - 1) for scale, side in zip(scales, images.shape[2:], strict=True)]
    padded = F.pad(images, (pads[1], pads[1], pads[0], pads[0]), mode="reflect")
    height, width = padded.shape[2:]
    down = torch.fft.fftfreq(height, dtype=torch.float64)[:, None] * scales[0]  # cycles in a VLR pixel
    across = torch.fft.rfftfreq(width, dtype=torch.float64) * scales[1]
    cosine, sine = (values.view(-1, 1, 1) for values in (angles.cos(), angles.sin()))
    along, beside = cosine * across + sine * down, cosine * down - sine * across
    long, wide = (values.view(-1, 1, 1) for values in deviations.T)
    passed = torch.exp(-2 * math.pi**2 * ((long * along) ** 2 + (wide * beside) ** 2))[:, None].to(images)
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * passed, s=(height, width))
    return blurred[..., pads[0] : height - pads[0], pads[1] : width - pads[1]]


def normal_numbers(draws: Float[Tensor, "n draws"], shape: tuple[int, ...]) -> Float[Tensor, "n ..."]:
    """Normal numbers for each image, from a generator that its row of draws seeds.

    Of the generator only the raw bits are used: NumPy promises them for ever, its normal numbers it does not.
    """
    seeds = (draws * 2**24).long().tolist()  # every bit of a draw in single precision
    bits = np.stack([np.random.PCG64(seed).random_raw(math.prod(shape)) for seed in seeds])
    return torch.special.ndtri(torch.from_numpy(((bits >> 11) + 0.5) * 2.0**-53)).view(len(draws), *shape)


def through_jpeg(face: UInt8[np.ndarray, "h w 3"], quality: int, top: int, left: int) -> UInt8[np.ndarray, "h w 3"]:
    """A face as a JPEG file gives it back, had it lain ``top`` and ``left`` pixels into the grid of blocks of a larger frame.

    Colour at half resolution, as cameras write it. By Pillow's libjpeg-turbo, the same on any processor.
    """
    height, width = face.shape[:2]
    frame = np.pad(face, ((top, GRID - 1 - top), (left, GRID - 1 - left), (0, 0)), mode="edge")
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as image:
        return np.asarray(image)[top : top + height, left : left + width]
