"""Five landmarks by OpenCV's YuNet (Wu, Peng, Yu 2023), with a model file that the user fetches.

The kit ships neither OpenCV nor the model: ``pip install 'dsrkit[align]'``, and ``face_detection_yunet_2023mar.onnx``
(MIT licence) from OpenCV's model zoo, ``models/face_detection_yunet``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from dsrkit.data.sources.records import ImageError

LONGEST_SIDE = 640  # pixels that the detector sees; YuNet was trained on faces of 10 to 300 pixels
_FETCH = "Fetch face_detection_yunet_2023mar.onnx (MIT licence) from OpenCV's model zoo, models/face_detection_yunet"


class YuNet:
    """Finds the landmarks of the face that a photo is about: ``YuNet(path)(image, name)`` → [5, 2].

    Can be pickled: OpenCV's own object is made again, from the file, in each process that needs it.
    Raises FileNotFoundError without the model file, ImportError without OpenCV, ValueError for a file that is no such model.
    """

    def __init__(self, model: Path | str, least_score: float = 0.6) -> None:
        self.model, self.least_score = str(model), least_score
        if not Path(model).is_file():
            raise FileNotFoundError(f"yunet: expected the detector's model file at {self.model!r}, got nothing there. {_FETCH}.")
        self._detector = _open_detector(self.model, least_score)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "least_score": self.least_score, "_detector": None}

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], name: str = "image") -> Float[np.ndarray, "5 2"]:
        """x, y of left eye, right eye, nose, left and right corner of the mouth, as the viewer sees them.

        Of several faces the large and central one is taken. Raises ImageError where there is none.
        """
        if self._detector is None:
            self._detector = _open_detector(self.model, self.least_score)
        height, width = image.shape[:2]
        shrink = min(1.0, LONGEST_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        seen = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        self._detector.setInputSize(size)
        _, faces = self._detector.detect(np.ascontiguousarray(seen[:, :, ::-1]))  # OpenCV takes BGR
        if faces is None or not len(faces):
            raise ImageError(
                f"{name}: expected a face, got none that scores {self.least_score:g}. Crop it by hand, or remove it."
            )
        points = faces[main_face(faces, size), 4:14].reshape(5, 2).astype(float)
        return (points + 0.5) * [width / size[0], height / size[1]] - 0.5


def main_face(faces: Float[np.ndarray, "n 15"], size: tuple[int, int]) -> int:
    """The row of the face with the best area less twice its squared distance from the centre (insightface's own rule).

    A row holds x, y, width, height of the box, five points (x, y) and the score; ``size`` is the photo's width and height.
    """
    corner, sides = faces[:, :2], faces[:, 2:4]
    apart = corner + sides / 2 - np.array(size) / 2
    return int(np.argmax(sides.prod(1) - 2 * (apart**2).sum(1)))


def _open_detector(model: str, least_score: float) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError("yunet: expected OpenCV, got no module cv2. Install it: pip install 'dsrkit[align]'.") from error
    try:
        return cv2.FaceDetectorYN.create(model, "", (LONGEST_SIDE, LONGEST_SIDE), least_score)
    except cv2.error as error:
        raise ValueError(f"{model}: expected YuNet's ONNX file, got one that OpenCV cannot read ({error}). {_FETCH}.") from error
