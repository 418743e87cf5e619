"""An exported system in ONNX Runtime against the same in PyTorch: median time of a batch, by turns in one process run.

    python benchmarks/export.py outputs/vlr16/dsr_cycle1.pt outputs/vlr16/edgeface_cycle1.pt [--vlr_size 16x16] [--rounds 30]

Bytes in, embeddings and restored faces out; PyTorch is eager with weights channels last, in inference mode. Faces are made up,
since time does not depend on what is seen. *int8* is the way named by --int8, calibrated on made-up faces: its accuracy is
measured by 07_export, not here.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from dsrkit.data.degrade import as_bytes, as_tensor, degrade
from dsrkit.data.sources import SyntheticSource
from dsrkit.export import export_pipeline, latency, latency_table, quantise
from dsrkit.export.network import RestoredFromBytes
from dsrkit.export.quantise import WAYS
from dsrkit.models import load_dsr, load_edgeface


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dsr", type=Path)
    parser.add_argument("edgeface", type=Path)
    parser.add_argument("--vlr_size", default="16x16")
    parser.add_argument("--int8", choices=WAYS, default="static-dsr")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    dsr, edgeface = load_dsr(asked.dsr), load_edgeface(asked.edgeface)
    source = SyntheticSource(8, 4)
    vlr = as_bytes(degrade(as_tensor(np.stack(source.read(source.faces))), asked.vlr_size))
    with tempfile.TemporaryDirectory() as folder:
        files = {"ONNX float": Path(folder) / "float.onnx", "ONNX int8": Path(folder) / "int8.onnx"}
        export_pipeline(files["ONNX float"], edgeface, dsr, asked.vlr_size)
        quantise(files["ONNX float"], files["ONNX int8"], asked.int8, vlr)
        network = RestoredFromBytes(edgeface, dsr).eval()
        rows = latency(files, network, vlr, asked.batches, asked.threads, asked.rounds)
    print(f"torch {torch.__version__}, {asked.vlr_size}, int8 {asked.int8}, medians of {asked.rounds} rounds")
    print(latency_table(rows).to_string())


if __name__ == "__main__":
    main()
