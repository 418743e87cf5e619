"""DSR and EdgeFace as one ONNX file, with what it was made of written into it.

``torch.onnx.export`` with ``dynamo=True`` (torch ≥ 2.11), any batch size, one VLR size a file. Networks with LoRA updates are
exported with the updates added in.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsrkit.data.degrade import HR_SIZE, parse_size
from dsrkit.export.network import INPUT, FromBytes, RestoredFromBytes
from dsrkit.export.quiet import quietly
from dsrkit.models.edgeface import EdgeFace
from dsrkit.models.lora import merged_state_dict
from dsrkit.runs import atomic_path

OPSET = 20  # the first with antialiasing in Resize is 18; 20 has Gelu, which older ones spell out


def onnx_package() -> Any:
    """The module onnx. Raises ImportError that names the extra where it, or what torch exports with, is not installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch.onnx.export needs it, and says so less clearly
    except ImportError as error:
        raise ImportError(
            f"ONNX: expected the packages onnx and onnxscript, got no {error.name}. Install them: pip install 'dsrkit[onnx]'"
        ) from error
    return onnx


def export_pipeline(
    path: Path,
    edgeface: EdgeFace,
    dsr: nn.Module | None,
    vlr_size: str,
    tta: bool = False,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write DSR + EdgeFace as one ONNX model.

    Its input ``images`` is uint8 [N, h, w, 3], RGB, any N; its outputs are ``embeddings``, float [N, 512] of unit length, and
    ``restored``, uint8 [N, 112, 112, 3].

    Args:
        dsr: a DSR or an ensemble; None is the direct feed (bicubic).
        vlr_size: width×height, as in "16x16"; a graph serves one size.
        about: texts for the file's metadata.

    Raises ImportError without the optional packages, ValueError for a size that cannot be, OSError when it cannot be written.
    """
    width, height = parse_size(vlr_size)
    said = {"vlr_size": f"{width}x{height}", "tta": str(tta)} | dict(about or {})
    _export(path, RestoredFromBytes(_plain(edgeface), _on_cpu(dsr), tta), (height, width), said)


def export_edgeface(path: Path, edgeface: EdgeFace, tta: bool = False, about: Mapping[str, str] | None = None) -> None:
    """Write EdgeFace alone, for HR faces of a gallery: uint8 [N, 112, 112, 3] in, ``embeddings`` out. Raises as the other."""
    _export(path, FromBytes(_plain(edgeface), tta), (HR_SIZE, HR_SIZE), {"tta": str(tta)} | dict(about or {}))


def _plain(edgeface: EdgeFace) -> EdgeFace:
    """A new EdgeFace on the CPU with the same weights, LoRA updates added in.

    Not a copy without its updates: removing those from a copy removes them from the original's class, too.
    """
    plain = EdgeFace(edgeface.variant)
    plain.load_state_dict(merged_state_dict(edgeface))
    return plain.eval()


def _on_cpu(dsr: nn.Module | None) -> nn.Module | None:
    """A copy on the CPU, in evaluation mode: the DSR given may be on a GPU, or in training."""
    return None if dsr is None else copy.deepcopy(dsr).cpu().to(memory_format=torch.contiguous_format).eval()


def _export(path: Path, network: FromBytes, size: tuple[int, int], about: dict[str, str]) -> None:
    onnx = onnx_package()
    example = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)  # two faces: with one, the batch size would become fixed
    with quietly("torch.onnx"), torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            input_names=[INPUT],
            output_names=list(network.outputs),
        )
    assert program is not None  # None only where a file name was given
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with this machine's paths, half a megabyte of them
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    save_model(path, model)


def save_model(path: Path, model: Any) -> None:
    """Write an ONNX model into one file, whole or not at all. Raises OSError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
