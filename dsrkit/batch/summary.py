"""What came of a batch: a row a run, a column a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode
from nbformat.reader import NotJSONError

from dsrkit.evaluation.headline import TTA, headline_table
from dsrkit.evaluation.report import read_metrics
from dsrkit.evaluation.rows import NEVER_COMPARED
from dsrkit.params import STAGES
from dsrkit.runs import Run

_PAPERMILLS = {"injected-parameters", "papermill-error-cell-tag"}  # tags of cells that the notebook itself has not


def summary_table(runs: Sequence[str]) -> pd.DataFrame:
    """Each stage's state and minutes, and the run's best restored row, by verification (both-LR), with its gain.

    States: "–" not run, "done", "failed in cell …" with the error's name, "broken off" (killed, or still running).
    """
    return pd.DataFrame([{"run": name} | _stages(Run(name)) | _headline(Run(name)) for name in runs]).set_index("run")


def _stages(run: Run) -> dict[str, str]:
    return {stage: _state(run.folder / f"{stage}.ipynb") for stage in STAGES}


def _state(path: Path) -> str:
    if not path.is_file():
        return "–"
    try:
        notebook = nbformat.read(path, as_version=4)
    except NotJSONError:  # killed while it was written
        return "broken off"
    about = notebook.metadata.get("papermill", {})
    minutes = f", {about['duration'] / 60:.1f} min" if about.get("duration") else ""
    if failed := _failed_cell(notebook):
        return f"{failed}{minutes}"
    return f"done{minutes}" if about.get("end_time") else "broken off"


def _failed_cell(notebook: NotebookNode) -> str:
    """``failed in cell 4: ValueError``, counting the cells of the notebook itself; empty where none failed."""
    number = 0
    for cell in notebook.cells:
        number += _PAPERMILLS.isdisjoint(cell.metadata.get("tags", []))
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"failed in cell {number}: {output.ename}"
    return ""


def _headline(run: Run) -> dict[str, str]:
    rows = read_metrics(run.metrics)["rows"] if run.metrics.is_file() else []
    restored = [row for row in rows if row["protocol"] == "both-lr" and row["row"].removesuffix(TTA) not in NEVER_COMPARED]
    if not restored:
        return {"best row": "–", "verification %": "–", "gain (points)": "–"}
    best = headline_table([max(restored, key=lambda row: row["verification_accuracy"])]).iloc[0]
    return {"best row": str(best.name), "verification %": best["verification %"], "gain (points)": best["gain (points)"]}
