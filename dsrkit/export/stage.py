"""One row of a run's evaluation, exported: which files it is made of, what the ONNX files say of themselves, ``export.json``."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import dsrkit
from dsrkit.data.faces import FaceSet, open_split
from dsrkit.evaluation.headline import TTA
from dsrkit.evaluation.material import pairs_to_judge
from dsrkit.evaluation.report import read_metrics
from dsrkit.evaluation.systems import edgeface_of_hr, rows_on_disk
from dsrkit.export.loader import load_onnx
from dsrkit.export.network import RestoredFromBytes
from dsrkit.export.parity import Parity, Task, choose_int8, open_task, parity
from dsrkit.export.quantise import quantise, ways_for
from dsrkit.export.settings import Export
from dsrkit.export.write import export_edgeface, export_pipeline
from dsrkit.models.checkpoint import read_about
from dsrkit.models.dsr import load_dsr
from dsrkit.models.edgeface import EdgeFace, edgeface_file, licence, load_edgeface
from dsrkit.models.onnx import Pixels
from dsrkit.runs import Run, atomic_path, commit, file_hash, resolve

INPUT_TEXT = "uint8 [N, height, width, 3], RGB, 0 to 255, any N"
OUTPUT_TEXT = "embeddings: float32 [N, 512], unit length; restored: uint8 [N, 112, 112, 3], RGB"


@dataclass(frozen=True)
class Exported:
    """A row's networks and the files that they were read from; ``dsr`` is None for the direct feed.

    ``hr_edgeface`` embeds HR faces; ``hr_about`` is what its file says of it.
    """

    edgeface: EdgeFace
    dsr: nn.Module | None
    tta: bool
    about: dict[str, str]
    hr_edgeface: EdgeFace
    hr_about: dict[str, str]

    def module(self) -> RestoredFromBytes:
        """The same as a PyTorch module, for comparison: weights channels last, as they are loaded."""
        return RestoredFromBytes(self.edgeface, self.dsr, self.tta).eval()


def output_files(run: Run) -> dict[str, Path]:
    """Where the stage writes, by name."""
    names = {"float": "dsrkit.onnx", "int8": "dsrkit_int8.onnx", "edgeface": "edgeface.onnx", "json": "export.json"}
    return {name: run.folder / file for name, file in names.items()}


def open_row(run: Run, params: Export) -> Exported:
    """The networks of ``params.row`` (a row of the evaluation, such as ``dsr``, ``cycle_1`` or ``direct_feed``).

    Raises FileNotFoundError for a run without checkpoints, ValueError for a row of which the run has none, or that restores
    nothing (``hr``).
    """
    original = edgeface_file(params.edgeface)
    rows = {row: (dsrs, edgeface) for row, dsrs, edgeface in rows_on_disk(run, original) if row != "hr"}
    if params.row not in rows:
        raise ValueError(
            f"row: expected a row of which {run.name} has the checkpoints, one of {', '.join(rows)}, got {params.row!r}. "
            "Name another, or train it first."
        )
    dsrs, edgeface = rows[params.row]
    dsr = None if not dsrs else load_dsr(dsrs[0] if len(dsrs) == 1 else list(dsrs))
    files = {("dsr" if number == 1 else f"dsr_member{number}"): path for number, path in enumerate(dsrs, 1)}
    about = _about(run, params, files | {"edgeface": edgeface})
    by = edgeface_of_hr(params.hr_edgeface, edgeface, original)
    of_dsr = ("dsr", "threshold", "output", "row")
    hr_about = {key: text for key, text in about.items() if not key.startswith(of_dsr)}
    hr_about |= {"licence_of_edgeface_weights": _licence(by, original), "edgeface_sha256": file_hash(by)}
    return Exported(load_edgeface(edgeface), dsr, params.tta, about, load_edgeface(by), hr_about)


def _licence(edgeface: Path, original: Path) -> str:
    """Whose weights: of a fine-tuned file that of the recogniser that it was fine-tuned from, where its record names it."""
    parent = read_about(edgeface).get("provenance", {}).get("inputs", {}).get("original_edgeface", {}).get("sha256")
    return f"fine-tuned from {licence(original)}" if parent == file_hash(original) else licence(edgeface)


def _about(run: Run, params: Export, files: Mapping[str, Path]) -> dict[str, str]:
    """What the ONNX file says of itself: texts, as ONNX has them."""
    hashes = {role: file_hash(path) for role, path in files.items()}
    threshold = _threshold(run, params, hashes)
    return {
        "made_by": f"dsrkit {dsrkit.__version__}, commit {commit()}",
        "run": run.name,
        "row": params.row,
        "input": INPUT_TEXT,
        "output": OUTPUT_TEXT,
        "threshold": "" if threshold is None else f"{threshold:.6f}",
        "licence_of_edgeface_weights": _licence(files["edgeface"], edgeface_file(params.edgeface)),
        **{f"{role}_sha256": digest for role, digest in hashes.items()},
    }


def _threshold(run: Run, params: Export, hashes: Mapping[str, str]) -> float | None:
    """The threshold that ``05_evaluation`` froze for these very files (both sides VLR); None where it has not judged them."""
    if not run.metrics.is_file():
        return None
    metrics = read_metrics(run.metrics)
    judged = metrics["provenance"].get("inputs", {})
    if any(judged.get(f"{params.row}, {role}", {}).get("sha256") != digest for role, digest in hashes.items()):
        return None
    name = params.row + (TTA if params.tta else "")
    key = (name, params.vlr_size, "both-lr")
    return next((row["threshold"] for row in metrics["rows"] if (row["row"], row["vlr_size"], row["protocol"]) == key), None)


def write_models(run: Run, params: Export, exported: Exported) -> None:
    """Write ``dsrkit.onnx`` and ``edgeface.onnx`` (the recogniser alone, for HR faces of a gallery)."""
    files = output_files(run)
    export_pipeline(files["float"], exported.edgeface, exported.dsr, params.vlr_size, params.tta, exported.about)
    export_edgeface(files["edgeface"], exported.hr_edgeface, params.tta, exported.hr_about)


def split_task(run: Run, params: Export, split: str, exported: Exported) -> Task:
    """A split's faces and pairs, and what PyTorch makes of them. Raises FileNotFoundError or ValueError for other data sets."""
    dataset = resolve(params.dataset, run.dataset, "data set (dataset)")
    faces: FaceSet = open_split(dataset, split, params.vlr_size).first(params.limit)
    pairs = pairs_to_judge(dataset, split, faces, params.limit)
    return open_task(faces, pairs, exported.dsr, exported.edgeface, exported.tta)


def write_int8(run: Run, params: Export, exported: Exported, validation: Task) -> dict[str, Any]:
    """Write ``dsrkit_int8.onnx``: the best variant on validation pairs, or the one that ``params.int8`` names.

    Returns {"chosen": its name, "calibration_faces": how many, "tried": {name: parity on validation pairs}}; each parity has
    ``megabytes``, too.
    """
    files = output_files(run)
    ways = ways_for(exported.dsr is not None) if params.int8 == "auto" else (params.int8,)
    faces = calibration_faces(validation.vlr, params.validation_faces)
    tried: dict[str, Parity] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = {way: Path(folder) / f"{way}.onnx" for way in ways}
        for way, path in made.items():
            quantise(files["float"], path, way, faces)
            tried[way] = parity(load_onnx(path), validation, params.bootstrap_draws, params.seed)
            tried[way]["megabytes"] = path.stat().st_size / 1e6
        chosen = choose_int8(tried)
        with atomic_path(files["int8"]) as temporary:
            shutil.copyfile(made[chosen], temporary)
    return {"chosen": chosen, "calibration_faces": len(faces), "tried": tried}


def calibration_faces(vlr: Pixels, count: int) -> Pixels:
    """``count`` faces spread over all of them, since neighbours are of one person."""
    return np.asarray(vlr)[np.unique(np.linspace(0, len(vlr) - 1, min(count, len(vlr))).astype(int))]


def write_json(run: Run, content: Mapping[str, Any]) -> None:
    """Write ``export.json``: plain JSON. Raises ValueError for NaN, of which JSON knows nothing."""
    with atomic_path(output_files(run)["json"]) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False))


def file_facts(run: Run) -> dict[str, dict[str, Any]]:
    """Name, megabytes and SHA-256 of each model that was written."""
    paths = {name: path for name, path in output_files(run).items() if path.suffix == ".onnx"}
    return {
        name: {"file": path.name, "megabytes": path.stat().st_size / 1e6, "sha256": file_hash(path)}
        for name, path in paths.items()
    }
