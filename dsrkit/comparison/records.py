"""Runs on record: the ``metrics.json`` of any number of runs, and the parameters of every stage that made them.

All of it is plain JSON, CSV or YAML that the stages left: nothing is computed again, and nothing is written here.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import yaml

from dsrkit.data.degrade import parse_size
from dsrkit.evaluation.report import Row, read_metrics
from dsrkit.runs import Run, resolve

# The checkpoints beside which a training leaves its parameters, the latest first; a name may hold a pattern.
CHECKPOINTS = {
    "02_dsr_training": "dsr.pt.json",
    "03_edgeface_finetune": "edgeface.pt.json",
    "04_cyclic_cycle": "dsr_cycle*.pt.json",
}
EVALUATION = "05_evaluation"
STAGES = ("01_data_migration", *CHECKPOINTS, EVALUATION)


@dataclass(frozen=True)
class Record:
    """One column of a comparison: a run at one VLR size.

    ``rows`` and ``judge_rows`` are those of this size; ``about`` is the whole of ``metrics.json``.
    """

    name: str  # told apart from every other of the comparison
    size: str  # "16x16"
    path: Path
    about: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.name}, {self.size.replace('x', '×')}"

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.about["rows"] if row["vlr_size"] == self.size]

    @property
    def judge_rows(self) -> list[Row]:
        judge = self.about.get("judge")
        return [row for row in judge["rows"] if row["vlr_size"] == self.size] if judge else []

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.about["provenance"]

    def row(self, name: str, protocol: str, judge: bool = False) -> Row | None:
        """The row of a system under a protocol; None where this run lacks it."""
        rows = self.judge_rows if judge else self.rows
        return next((row for row in rows if (row["row"], row["protocol"]) == (name, protocol)), None)


def pixels(size: str) -> int:
    """How many pixels a face of ``size`` ("14x16") has."""
    width, height = parse_size(size)
    return width * height


def open_records(entries: Sequence[str]) -> list[Record]:
    """Read what is to be compared, in the order given; a file that holds several VLR sizes gives a record for each.

    Args:
        entries: names of runs (``outputs/<run>/metrics.json``), or paths of a ``metrics.json`` or of the folder that holds one;
            a relative path starts at the repository's root.

    Raises ValueError for no entry, one result given twice, runs without a protocol in common, or a file that is no
    ``metrics.json``; FileNotFoundError for a run that was not evaluated, naming the nearest that was.
    """
    if not entries:
        raise ValueError("runs: expected one run or more, got none. Name runs that were evaluated, such as ['demo'].")
    paths = [find_metrics(entry) for entry in entries]
    files = [(entry, path, _read(path)) for entry, path in zip(entries, paths, strict=True)]
    _refuse_twice(files)
    records = [
        Record(name, size, path, about)
        for name, (_, path, about) in zip(_names(files), files, strict=True)
        for size in sorted({row["vlr_size"] for row in about["rows"]}, key=pixels)
    ]
    _refuse_strangers(records)
    return records


def _names(files: Sequence[tuple[str, Path, Mapping[str, Any]]]) -> list[str]:
    """Names of runs; of runs with one name also the file's or the folder's, or where these are alike what was asked for."""
    names = [about["run"] for _, _, about in files]
    places = [path.parent.name if path.stem == "metrics" else path.stem for _, path, _ in files]
    apart = [entry if len(set(places)) < len(places) else place for place, (entry, _, _) in zip(places, files, strict=True)]
    return [f"{name} ({other})" if names.count(name) > 1 else name for name, other in zip(names, apart, strict=True)]


def find_metrics(entry: str) -> Path:
    """The ``metrics.json`` that a run's name or a path stands for. Raises FileNotFoundError naming the nearest evaluated run."""
    if entry.endswith(".json") or os.sep in entry or entry.startswith(("~", "$")):
        found = resolve(entry, Path(), "runs")
        return found / "metrics.json" if found.is_dir() else found
    run = Run(entry)
    if not run.metrics.is_file():
        evaluated = sorted(path.parent.name for path in (run.root / "outputs").glob("*/metrics.json"))
        nearest = difflib.get_close_matches(entry, evaluated, n=1, cutoff=0.5)
        there = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise FileNotFoundError(
            f"runs: expected a run that was evaluated, got {entry!r}{there}, without {run.metrics}. "
            f"Evaluated here: {', '.join(evaluated) or 'none'}. Evaluate that run, or give the path of a metrics.json."
        )
    return run.metrics


def _read(path: Path) -> dict[str, Any]:
    try:
        about = read_metrics(path)
    except (UnicodeDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a metrics.json, got something else ({error}). Run 05_evaluation again.") from error
    if not isinstance(about["run"], str) or not isinstance(about["provenance"], Mapping):
        raise ValueError(f"{path}: expected a run's name and its provenance, got other kinds. Run 05_evaluation again.")
    for rows in (about["rows"], (about.get("judge") or {"rows": []})["rows"]):
        _check_rows(rows, path)
    return about


def _check_rows(rows: Sequence[Row], path: Path) -> None:
    seen = set()
    for row in rows:
        key = row["row"], row["vlr_size"], row["protocol"]
        if key in seen:
            raise ValueError(f"{path}: expected each row once, got {', '.join(map(str, key))} twice. Run 05_evaluation again.")
        seen.add(key)
        for measure in ("verification_accuracy", "tar_at_far_0.01", "rank1", "unknown_rate"):
            value = row[measure]
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(
                    f"{path}, row {row['row']}: expected {measure} in [0, 1], got {value!r}. Run 05_evaluation again."
                )


def _refuse_twice(files: Sequence[tuple[str, Path, Mapping[str, Any]]]) -> None:
    for number, (entry, path, about) in enumerate(files):
        for earlier, earlier_path, earlier_about in files[:number]:
            if path.resolve() == earlier_path.resolve() or about["rows"] == earlier_about["rows"]:
                raise ValueError(
                    f"runs: expected different results, got one twice: {earlier!r} and {entry!r} hold the same numbers. "
                    "Leave one of them out."
                )


def _refuse_strangers(records: Sequence[Record]) -> None:
    first = records[0]
    known = {row["protocol"] for row in first.rows}
    for record in records[1:]:
        other = {row["protocol"] for row in record.rows}
        if not known & other:
            raise ValueError(
                f"runs: expected runs with a protocol in common, got {first.name} with {', '.join(sorted(known))} and "
                f"{record.name} with {', '.join(sorted(other))}. Compare them apart."
            )


@dataclass(frozen=True)
class Recorded:
    """The parameters that a stage ran with, and where they were read."""

    source: str
    values: Mapping[str, Any]


def stage_parameters(record: Record) -> dict[str, Recorded]:
    """The parameters of every stage of a run that can still be told, by stage.

    Of the evaluation from ``metrics.json``. Of the others what stands beside a checkpoint, else in the executed notebook,
    else the run's YAML: what was planned, which may have changed since; the source says which.
    """
    found = {}
    for stage in STAGES:
        recorded = _of_evaluation(record) if stage == EVALUATION else _of_stage(record, stage)
        if recorded is not None:
            without_run = {name: value for name, value in recorded.values.items() if name != "run"}
            found[stage] = replace(recorded, values=without_run)
    return found


def _of_evaluation(record: Record) -> Recorded | None:
    values = record.provenance.get("parameters")
    return Recorded("metrics.json", values) if values else None


def _of_stage(record: Record, stage: str) -> Recorded | None:
    folder, planned = record.path.parent, Run("any").root / "params" / record.about["run"] / f"{stage}.yaml"
    checkpoints = sorted(folder.glob(CHECKPOINTS[stage]), reverse=True) if stage in CHECKPOINTS else []
    for path in (*checkpoints, folder / f"{stage}.ipynb", planned):
        if path.is_file() and (values := _values(path)):
            return Recorded(f"params/{record.about['run']}/{path.name}" if path == planned else path.name, values)
    return None


def _values(path: Path) -> dict[str, Any]:
    """The parameters in a checkpoint's JSON, an executed notebook or a YAML; none where it holds none."""
    try:
        if path.suffix == ".yaml":
            return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        if path.suffix == ".ipynb":
            return dict(nbformat.read(path, 4).metadata.get("papermill", {}).get("parameters", {}))
        return dict((json.loads(path.read_text(encoding="utf-8")).get("provenance") or {}).get("parameters") or {})
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path}: expected the parameters of a run, got something else ({error}). Remove or remake it."
        ) from error
