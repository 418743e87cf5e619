"""DSR and EdgeFace as one ONNX file, its int8 variant, and how far both are from PyTorch.

export_pipeline("system.onnx", edgeface, dsr, "16x16")
embeddings = load_onnx("system.onnx")(images)          # bytes [N, 16, 16, 3] → [N, 512]
"""

from dsrkit.export.latency import latency, latency_table
from dsrkit.export.loader import OnnxSystem, load_onnx
from dsrkit.export.parity import parity, parity_table
from dsrkit.export.quantise import quantise
from dsrkit.export.write import export_edgeface, export_pipeline

__all__ = [
    "OnnxSystem", "export_edgeface", "export_pipeline", "latency", "latency_table", "load_onnx", "parity", "parity_table",
    "quantise",
]  # fmt: skip
