"""From a photo to an aligned face: the five-point similarity transform that EdgeFace expects, and what to do without points.

Choices by name (``open_aligner``):

none          the photo is an aligned square already; larger ones are shrunk
centre-crop   a stated share of the shorter side about the centre, then shrunk: for photos that are centred on the face
landmarks     five points from a CSV table, moved onto the ArcFace template
yunet         five points found by OpenCV's YuNet, with the model file that the user gives (see ``yunet``)

Shrinking is antialiased: a photo whose face is larger than the crop is first shrunk as a whole (Pillow's bicubic, which filters),
so that what is left to the transform is a turn and a shift at scale 1. Faces smaller than 112 are never enlarged silently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.sources.pictures import resized, square_face
from dsrkit.data.sources.records import Aligner, ImageError, as_composed
from dsrkit.data.yunet import YuNet

ALIGNERS = ("none", "centre-crop", "landmarks", "yunet")
# the viewer's left eye, right eye, nose tip, left and right corner of the mouth, in pixels of a 112×112 crop, counted from the
# centre of the first pixel: the places on which ArcFace's training faces were laid (insightface, ``face_align.py``)
ARCFACE_TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
COLUMNS = ("name", *(f"{point}_{axis}" for point in POINTS for axis in "xy"))


def similarity(points: Float[np.ndarray, "k 2"], template: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "2 3"]:
    """The turn, scale and shift that lay ``points`` nearest to ``template`` (least squares), as ``[[a, −b, x], [b, a, y]]``.

    Umeyama (1991) without reflection; in the plane, with points as complex numbers, it is one regression.
    Raises ValueError for points that coincide, or numbers that are not finite.
    """
    here, there = (np.asarray(each, float) @ np.array([1, 1j]) for each in (points, template))
    centred = here - here.mean()
    spread = (np.abs(centred) ** 2).sum()
    if not spread > 1e-6:  # also where a number is NaN
        raise ValueError("points that differ")
    turn = (centred.conj() @ (there - there.mean())) / spread
    shift = there.mean() - turn * here.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align(
    image: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "5 2"], name: str = "image", enlarge: bool = False
) -> UInt8[np.ndarray, "112 112 3"]:
    """The face with its five ``landmarks`` on the ArcFace template; black where the crop reaches beyond the photo.

    Args:
        landmarks: x, y in pixels from the centre of the first pixel, in the order of ``POINTS``.
        enlarge: allow a face that covers fewer than 112 pixels.

    Raises ImageError for landmarks that cannot be a face's, or a face that is too small.
    """
    try:
        matrix = similarity(landmarks, ARCFACE_TEMPLATE)
    except ValueError as error:
        raise ImageError(
            f"{name}: expected five landmarks, {error}, got {np.asarray(landmarks).tolist()}. Correct them."
        ) from None
    eyes, down = landmarks[1] - landmarks[0], landmarks[3:].mean(0) - landmarks[:2].mean(0)
    if eyes[0] * down[1] - eyes[1] * down[0] <= 0:
        raise ImageError(
            f"{name}: expected left_eye to be the one on the left of an upright photo, got a mirrored face. Swap left and right."
        )
    height, width = image.shape[:2]
    if ((landmarks < -0.5) | (landmarks > [width - 0.5, height - 0.5])).any(1).sum() > 2:
        raise ImageError(f"{name}: expected landmarks in a photo of {width}x{height}, got {landmarks.tolist()}. Correct them.")
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    covered = HR_SIZE / scale
    if covered < HR_SIZE * 0.999 and not enlarge:
        raise ImageError(
            f"{name}: expected a face that covers at least {HR_SIZE}x{HR_SIZE} pixels, got about {covered:.0f}x{covered:.0f}. "
            "Use a larger photo; faces are never enlarged silently."
        )
    return _warp(image, matrix, min(1.0, scale))


def _warp(image: UInt8[np.ndarray, "h w 3"], matrix: Float[np.ndarray, "2 3"], shrink: float) -> UInt8[np.ndarray, "112 112 3"]:
    """Bring the photo to the crop's scale with a filter, then look each pixel of the crop up in it (bicubic)."""
    height, width = image.shape[:2]
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) if shrink < 1 else Image.fromarray(image)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]  # from the crop to the photo
    back[:, 2] += 0.5 - back[:, :2] @ [0.5, 0.5]  # from centres of pixels to their corners, from which Pillow counts
    back *= [[size[0] / width], [size[1] / height]]
    return np.array(
        small.transform((HR_SIZE, HR_SIZE), Image.Transform.AFFINE, back.flatten().tolist(), Image.Resampling.BICUBIC)
    )


def read_landmarks(path: Path | str) -> dict[str, Float[np.ndarray, "5 2"]]:
    """Five points by photo, from a CSV table with the columns ``COLUMNS``.

    ``name`` is the photo's path below the source's root, with ``/`` (``Bo/Bo_0001.jpg``). Left and right are the viewer's; x and
    y are pixels from the centre of the first pixel, in the photo as it is shown (after any EXIF rotation).
    Raises FileNotFoundError, or ValueError for missing columns, cells that are no numbers, or a photo named twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a table of landmarks at {path}, got nothing there. Columns: {', '.join(COLUMNS)}.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a CSV table, got a file that cannot be read as one ({error}). Save it anew."
        ) from error
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}, got none called {', '.join(missing)}. Add them.")
    table["name"] = table["name"].map(as_composed)
    numbers = table[list(COLUMNS[1:])].apply(pd.to_numeric, errors="coerce")
    faults = {"a number in every cell": ~np.isfinite(numbers).all(axis=1), "each name once": table["name"].duplicated()}
    for expected, rows in faults.items():
        if rows.any():
            row = table[rows].iloc[0]
            raise ValueError(f"{path}: expected {expected}, got line {row.name + 2}: {', '.join(map(str, row))}. Correct it.")
    return dict(zip(table["name"], numbers.to_numpy(float).reshape(-1, 5, 2), strict=True))


@dataclass(frozen=True)
class AsItIs:
    """Aligned squares: shrunk to 112 where they are larger."""

    enlarge: bool = False

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "112 112 3"]:
        return square_face(image, name, self.enlarge)


@dataclass(frozen=True)
class CentreCrop:
    """``share`` of the shorter side about the centre, shrunk to 112: no alignment, so expect lower scores.

    0.52 suits LFW's 250×250 photos best (their tests say how well).
    """

    share: float
    enlarge: bool = False

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "112 112 3"]:
        height, width = image.shape[:2]
        side = self.share * min(width, height)
        if side < HR_SIZE and not self.enlarge:
            raise ImageError(
                f"{name}: expected the centre crop to be at least {HR_SIZE}x{HR_SIZE}, got {side:.0f}x{side:.0f}, "
                f"{self.share:g} of {width}x{height}. Take a larger share or larger photos; faces are never enlarged silently."
            )
        left, top = (width - side) / 2, (height - side) / 2
        return resized(image, (left, top, left + side, top + side))


@dataclass(frozen=True)
class ByLandmarks:
    """Faces laid on the template by the points of a table (see ``read_landmarks``)."""

    landmarks: dict[str, Float[np.ndarray, "5 2"]]
    enlarge: bool = False

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "112 112 3"]:
        points = self.landmarks.get(as_composed(name))
        if points is None:
            raise ImageError(f"{name}: expected a row of that name in the table of landmarks, got none. Add it.")
        return align(image, points, name, self.enlarge)


@dataclass(frozen=True)
class ByDetector:
    """Faces laid on the template by the points that a detector finds; ``detector(image, name)`` gives them, [5, 2]."""

    detector: YuNet
    enlarge: bool = False

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "112 112 3"]:
        return align(image, self.detector(image, name), name, self.enlarge)


def open_aligner(
    kind: str, *, share: float | None = None, landmarks: Path | str = "", detector: Path | str = "", enlarge: bool = False
) -> Aligner:
    """The aligner of that name (one of ``ALIGNERS``), for the option ``aligner`` of a source.

    Args:
        share: for ``centre-crop``, above 0 and at most 1.
        landmarks: for ``landmarks``, the CSV table.
        detector: for ``yunet``, its ONNX file.
        enlarge: allow faces of fewer than 112 pixels; off, they are errors.

    Raises ValueError or FileNotFoundError for a choice that cannot serve, ImportError where OpenCV is missing.
    """
    match kind:
        case "none":
            return AsItIs(enlarge)
        case "centre-crop":
            if share is None or not 0 < share <= 1:
                raise ValueError(f"centre-crop: expected a share of the shorter side, above 0 and at most 1, got {share}.")
            return CentreCrop(share, enlarge)
        case "landmarks":
            return ByLandmarks(read_landmarks(landmarks), enlarge)
        case "yunet":
            return ByDetector(YuNet(detector), enlarge)
    raise ValueError(f"aligner: expected one of {', '.join(ALIGNERS)}, got {kind!r}.")
