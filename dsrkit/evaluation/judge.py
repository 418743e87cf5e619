"""The independent judge: any recogniser that took no part in training, to expose a gain that only the run's own one sees.

Named by the parameter ``judge``:

    edgeface_xs_q.pt            a file of EdgeFace weights
    recogniser.onnx             anybody's recogniser, run by ONNX Runtime; ``models.onnx`` says what it is shown
    my_package.faces:embed      a function in Python: images [N, 3, 112, 112], RGB, float in [0, 1] → embeddings [N, D]

Whichever it is, the file that it is in is named with its SHA-256 in ``metrics.json``.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from dsrkit.data.degrade import as_tensor
from dsrkit.data.faces import batches_of
from dsrkit.models.edgeface import EdgeFace, edgeface_file, load_edgeface
from dsrkit.models.onnx import OnnxRecognizer
from dsrkit.recognition import BATCH, embed

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Faces = UInt8[np.ndarray, "n 112 112 3"]


class CalledRecognizer:
    """Embeddings from a function, named ``package.module:function``; ``path`` is the file that it is written in.

    Raises ImportError or ValueError that say which part of the name is wrong.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.name, self.device = name, device
        module_name, function_name = name.split(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ImportError(
                f"judge: expected {name!r} as package.module:function, got no module {module_name!r} ({error}). Install it, "
                "or add its folder to PYTHONPATH."
            ) from error
        function: Callable[..., Any] | None = getattr(module, function_name, None)
        if not callable(function):
            raise ValueError(f"judge: expected a function {function_name!r} in {module_name}, got none. Correct the name.")
        self.function = function
        self.path = Path(inspect.getfile(module))

    def embed(self, images: Faces, mirrored: Faces | None = None) -> Float[np.ndarray, "n d"]:
        """Faces as bytes → embeddings of unit length; those of ``mirrored`` faces are added before normalising.

        Raises ValueError when the function gives what is no embedding.
        """
        raw = self._raw(images) if mirrored is None else self._raw(images) + self._raw(mirrored)
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        if not (np.isfinite(length).all() and (length > 0).all()):
            raise ValueError(f"judge: expected finite embeddings that are not zero of {self.name}, got others. Correct it.")
        return raw / length

    def _raw(self, images: Faces) -> Float[np.ndarray, "n d"]:
        parts = [self._called(as_tensor(np.asarray(images[part])).to(self.device)) for part in batches_of(len(images), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)

    @torch.inference_mode()
    def _called(self, faces: torch.Tensor) -> Float[np.ndarray, "n d"]:
        made = self.function(faces)
        made = np.asarray(made.detach().float().cpu() if isinstance(made, torch.Tensor) else made, np.float32)
        if made.ndim != 2 or len(made) != len(faces):
            raise ValueError(
                f"judge: expected embeddings [{len(faces)}, D] of {self.name}, got {list(made.shape)}. Return one row a face."
            )
        return made


AnyRecognizer = EdgeFace | OnnxRecognizer | CalledRecognizer


def embeddings_of(faces: Faces, recognizer: AnyRecognizer, mirrored: Faces | None = None) -> Float[np.ndarray, "n d"]:
    """Faces as bytes → embeddings of unit length, by whatever recognises; ``mirrored`` as in ``recognition.embed``."""
    return embed(faces, recognizer, mirrored) if isinstance(recognizer, EdgeFace) else recognizer.embed(faces, mirrored)


def open_judge(name: str, device: torch.device | str) -> tuple[AnyRecognizer, Path]:
    """The judge that a parameter names, and the file that it is in.

    Raises FileNotFoundError, ImportError, ValueError or CheckpointError for one that cannot be used.
    """
    if _FUNCTION.fullmatch(name):
        called = CalledRecognizer(name, device)
        return called, called.path
    path = edgeface_file(name, "an independent recogniser (judge)")
    if path.suffix.lower() != ".onnx":
        return load_edgeface(path, device), path
    recognizer = OnnxRecognizer(path)
    if recognizer.input_size != (112, 112):
        raise ValueError(
            f"judge: expected an ONNX recogniser of faces of 112×112, got {path.name}, which takes {recognizer.input_size}. "
            "A whole system that was exported restores faces itself: give its recogniser alone."
        )
    return recognizer, path
