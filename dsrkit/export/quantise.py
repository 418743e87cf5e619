"""Int8 variants of an exported model, by ONNX Runtime's quantisation.

    dynamic      weights of the linear layers; their inputs are scaled as they come. Nothing to calibrate.
    static       weights and activations of convolutions and linear layers (QDQ), calibrated on faces
    static-dsr   weights and activations of the DSR's convolutions only; EdgeFace stays float
    mixed        static-dsr, and dynamic for EdgeFace's linear layers

Which of them keeps accuracy is measured, not known: see ``parity.choose_int8``. Weights are scaled by output channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsrkit.data.faces import batches_of
from dsrkit.export.network import INPUT
from dsrkit.export.quiet import quietly
from dsrkit.export.write import onnx_package, save_model
from dsrkit.models.onnx import Pixels, runtime

WAYS = ("dynamic", "static", "static-dsr", "mixed")
_BATCH = 32
_LINEAR = ["MatMul", "Gemm"]


def ways_for(dsr: bool) -> tuple[str, ...]:
    """The ways that differ for a model with a DSR, or without one (the direct feed)."""
    return WAYS if dsr else ("dynamic", "static")


def quantise(source: Path, target: Path, way: str, faces: Pixels) -> None:
    """Write an int8 variant of an exported model; its metadata is kept, and ``int8`` added to it.

    Args:
        way: one of ``WAYS``.
        faces: bytes [N, h, w, 3] of the model's size to calibrate on: of validation subjects, never of those judged later.

    Raises ImportError without the optional packages; ValueError for another way, for no faces, and where there is no DSR to
    quantise.
    """
    onnx, _ = onnx_package(), runtime()
    if way not in WAYS or not len(faces):
        raise ValueError(
            f"int8: expected one of {', '.join(WAYS)} and faces to calibrate on, got {way!r} and {len(faces)} faces."
        )
    model = onnx.load(source)
    about = {one.key: one.value for one in model.metadata_props} | {"int8": way, "int8_calibration_faces": str(len(faces))}
    del model.graph.value_info[:]  # shapes that torch wrote, in which ONNX Runtime's quantisation trips
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv" and _of_dsr(node)]
    if way in ("static-dsr", "mixed") and not convolutions:
        raise ValueError(f"int8: expected a model with a DSR for {way}, got one without. Take dynamic or static.")
    with tempfile.TemporaryDirectory() as folder, quietly():
        step = Path(folder) / "float.onnx"
        onnx.save(model, step)
        if way == "static":
            step = _static(step, faces, op_types_to_quantize=["Conv", *_LINEAR])
        elif way != "dynamic":
            step = _static(step, faces, nodes_to_quantize=convolutions)
        if way in ("dynamic", "mixed"):
            step = _dynamic(step)
        made = onnx.load(step)
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, about)
    save_model(target, made)


def _of_dsr(node: Any) -> bool:
    return any(name.startswith("dsr.") for name in node.input)  # weights keep the names that they have in PyTorch


def _dynamic(source: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = source.with_name("dynamic.onnx")
    quantize_dynamic(source, target, op_types_to_quantize=_LINEAR, per_channel=True, weight_type=QuantType.QInt8)
    return target


def _static(source: Path, faces: Pixels, **which: Any) -> Path:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    target = source.with_name("static.onnx")
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(source, target, _Calibration(faces), quant_format=QuantFormat.QDQ, per_channel=True, **types, **which)
    return target


class _Calibration:
    """Batches of faces as ONNX Runtime's calibration asks for them: one a call, None at the end."""

    def __init__(self, faces: Pixels) -> None:
        self._batches: Iterator[Pixels] = (faces[part] for part in batches_of(len(faces), _BATCH))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
