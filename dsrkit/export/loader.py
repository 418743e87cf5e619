"""An exported system, ready to use: ``load_onnx("outputs/demo/dsrkit.onnx")(images)`` gives embeddings.

Without this kit the file is as easily used: ``onnxruntime.InferenceSession(path).run(None, {"images": images})`` with bytes
[N, h, w, 3], RGB, gives the embeddings and the restored faces.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from dsrkit.export.network import EMBEDDINGS, INPUT, RESTORED
from dsrkit.models.checkpoint import CheckpointError
from dsrkit.models.onnx import OnnxRecognizer, Pixels


class OnnxSystem(OnnxRecognizer):
    """A DSR + EdgeFace in one file. ``vlr_size`` is width×height, ``about`` what the file says of itself.

    Raises ImportError, FileNotFoundError or CheckpointError as ``OnnxRecognizer``; CheckpointError for another program's file.
    """

    def __init__(self, path: Path | str, threads: int = 0) -> None:
        super().__init__(path, threads)
        names = [one.name for one in (*self.session.get_inputs(), *self.session.get_outputs())]
        if names != [INPUT, EMBEDDINGS, RESTORED]:
            raise CheckpointError(
                f"{path}: expected a system of 07_export ({INPUT} in, {EMBEDDINGS} and {RESTORED} out), got {names}. "
                "A recogniser alone is opened with dsrkit.models.onnx.OnnxRecognizer."
            )
        height, width = self.input_size
        self.vlr_size = f"{width}x{height}"

    def __call__(self, images: Pixels) -> Float[np.ndarray, "n 512"]:
        """VLR faces as bytes, RGB, [N, h, w, 3] → embeddings of unit length. Raises ValueError for another type or size."""
        return self.embed(images)

    def restore(self, images: Pixels) -> UInt8[np.ndarray, "n 112 112 3"]:
        """VLR faces as bytes → the restored faces. Raises ValueError for another type or size."""
        return np.concatenate([part[RESTORED] for part in self.run(images, [RESTORED])] or [np.empty((0, 112, 112, 3), np.uint8)])


def load_onnx(path: Path | str, threads: int = 0) -> OnnxSystem:
    """Open a file that 07_export wrote. Raises as ``OnnxSystem``.

    Args:
        threads: of one operator; 0 takes every core.
    """
    return OnnxSystem(path, threads)
