"""A recogniser in an ONNX file, run by ONNX Runtime: one that this kit exported (``dsrkit.export``), or anybody else's.

Somebody else's serves as an independent judge: it scores the same faces as EdgeFace, without having taken part in training.
What it wants to see is read from the file. A uint8 input gets the bytes as they are. A float input gets (byte − mean) / std,
RGB; the defaults are those of InsightFace's recognisers (insightface/model_zoo/arcface_onnx.py). [N, 3, H, W] and [N, H, W, 3]
are both understood, and so is a file of a fixed batch size. Needs ``pip install 'dsrkit[onnx]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from dsrkit.models.checkpoint import CheckpointError
from dsrkit.runs import file_hash

INPUT_SIZE = 112
BATCH = 128
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}

Pixels = UInt8[np.ndarray, "n h w 3"]


def runtime() -> Any:
    """The module onnxruntime. Raises ImportError that names the extra where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "ONNX: expected the package onnxruntime, got no such package. Install it: pip install 'dsrkit[onnx]'"
        ) from error
    return onnxruntime


def open_session(path: Path | str, threads: int = 0) -> Any:
    """An ``InferenceSession`` on the CPU.

    Args:
        threads: of one operator; 0 leaves it to ONNX Runtime, which takes every core.

    Raises ImportError without onnxruntime, FileNotFoundError, and CheckpointError for a damaged file or one of another kind.
    """
    onnxruntime, path = runtime(), Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an ONNX file at {path}, got nothing there. Make it with 07_export, or give its path.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: what they say is raised
    # Threads that spin while they wait slow down every other program on these cores, PyTorch in this process among them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a type of its own for each way in which a file can be wrong
        raise CheckpointError(
            f"{path}: expected an ONNX model, got a file that ONNX Runtime cannot run ({type(error).__name__}: "
            f"{str(error)[:200]}). It may be truncated or of another kind: export or fetch it again."
        ) from error


class OnnxRecognizer:
    """Embeddings from an ONNX file.

    Args:
        path: a model with one image input, 112×112 pixels for a recogniser of faces; the output ``embeddings``, or the first
            one, is [N, D] (512 for EdgeFace and most others).
        threads: see ``open_session``.
        mean, std: what a float input gets is (byte − mean) / std; 0 and 255 give [0, 1]. Not used for a uint8 input.

    Raises ImportError, FileNotFoundError or CheckpointError as ``open_session``; CheckpointError for a model of other inputs or
    outputs.
    """

    def __init__(self, path: Path | str, threads: int = 0, mean: float = 127.5, std: float = 127.5) -> None:
        self.path, self.mean, self.std = Path(path), mean, std
        self.session = open_session(path, threads)
        self._input, self._channels_first, self.input_size, self._batch = self._read_input()
        outputs = self.session.get_outputs()
        self._output = next((one for one in outputs if one.name == "embeddings"), outputs[0])
        if len(self._output.shape) != 2:
            raise CheckpointError(
                f"{path}: expected embeddings [N, D], got output {self._output.name!r} of shape {self._output.shape}. "
                "Give a model that recognises faces."
            )

    def _read_input(self) -> tuple[Any, bool, tuple[int, int], int | None]:
        """The input, whether channels come first, its height and width, and its batch size where that is fixed."""
        inputs = self.session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or inputs[0].type not in _TYPES or 3 not in (shape[1], shape[3]):
            got = ", ".join(f"{one.name!r} {one.type} {one.shape}" for one in inputs)
            raise CheckpointError(
                f"{self.path}: expected one input of images, [N, 3, H, W] or [N, H, W, 3], uint8 or float, got {got}. "
                "Give a model that recognises faces."
            )
        first = shape[1] == 3
        # a size or batch that is left open is a name or None
        height, width = (side if isinstance(side, int) else INPUT_SIZE for side in (shape[2:] if first else shape[1:3]))
        return inputs[0], first, (height, width), shape[0] if isinstance(shape[0], int) else None

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return file_hash(self.path)

    @property
    def about(self) -> dict[str, str]:
        """What the file says of itself: ONNX metadata, texts by name; empty where it says nothing."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def embed(self, images: Pixels, mirrored: Pixels | None = None) -> Float[np.ndarray, "n d"]:
        """Faces as bytes, RGB, of the model's size (112×112) → embeddings of unit length.

        Args:
            mirrored: the same faces mirrored (test-time augmentation): their embeddings are added. Where a model normalises its
                output itself, both count alike; ``dsrkit.recognition.embed`` adds them before they are normalised.

        Raises ValueError for images of another type or size, CheckpointError when the model gives what is no embedding.
        """
        raw = self._run(images)
        if mirrored is not None:
            raw = raw + self._run(mirrored)
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        if not (np.isfinite(length).all() and (length > 0).all()):
            raise CheckpointError(f"{self.path}: expected finite embeddings that are not zero, got others. It is damaged.")
        return raw / length

    def _run(self, images: Pixels) -> Float[np.ndarray, "n d"]:
        parts = [part[self._output.name] for part in self.run(images, [self._output.name])]
        return np.concatenate(parts).astype(np.float32) if parts else np.empty((0, self._width()), np.float32)

    def _width(self) -> int:
        return self._output.shape[1] if isinstance(self._output.shape[1], int) else 512

    def run(self, images: Pixels, names: list[str]) -> Any:
        """Yield the outputs ``names`` of each batch of images, by name. Raises ValueError as ``embed``."""
        self._check(images)
        size = self._batch or BATCH
        for start in range(0, len(images), size):
            batch = np.asarray(images[start : start + size])
            count = len(batch)
            if self._batch and count < size:  # a file of a fixed batch size: fill up with the last face
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
            outputs = self.session.run(names, {self._input.name: self._prepared(batch)})
            for name, values in zip(names, outputs, strict=True):
                if values.ndim < 2 or len(values) != len(batch):
                    raise CheckpointError(
                        f"{self.path}: expected one row of {name!r} a face, got {list(values.shape)} for {len(batch)} faces. "
                        "Give a model that recognises faces."
                    )
            yield {name: values[:count] for name, values in zip(names, outputs, strict=True)}

    def _prepared(self, batch: Pixels) -> np.ndarray:
        kind = _TYPES[self._input.type]
        values = batch if kind is np.uint8 else ((batch - np.float32(self.mean)) / np.float32(self.std)).astype(kind)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self._channels_first else values)

    def _check(self, images: Pixels) -> None:
        height, width = self.input_size
        shape = list(getattr(images, "shape", []))
        if getattr(images, "dtype", None) != np.uint8 or len(shape) != 4 or shape[1:] != [height, width, 3]:
            got = f"{images.dtype} {shape}" if hasattr(images, "dtype") else type(images).__name__
            raise ValueError(
                f"{self.path.name}: expected bytes (uint8), RGB, [N, {height}, {width}, 3], got {got}. "
                "dsrkit.data.degrade.as_bytes makes them of image tensors; degrade or restore faces to this size."
            )
