"""What differs between runs, and whether their numbers may stand in one table.

A table says nothing when the faces under it are others: a difference in the data set, the degradation, the split or the
pairs is told loudly. All other differences are listed, and what is equal is only counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import pandas as pd

from dsrkit.comparison.records import Record, Recorded, stage_parameters

MISSING = "–"
# Parameters of how a stage runs or shows, which change none of its numbers.
WITHOUT_EFFECT = {"resume", "checkpoint_minutes", "workers", "dry_run", "show_faces", "strips"}
OFF = {"0", "false", "", "[]", "none", "own"}  # how a parameter says that what it stands for is not done
Told = Callable[[Record], Any]  # a fact of a run; None where it was not recorded


def _parameter(name: str) -> Told:
    return lambda record: record.provenance.get("parameters", {}).get(name)


def _original(record: Record) -> str | None:
    inputs = record.provenance.get("inputs", {})
    untouched = (inputs[role] for role in ("hr, edgeface", "direct_feed, edgeface") if role in inputs)
    return next((file["sha256"] for file in untouched), None)


def _judge(record: Record) -> str | None:
    return (record.about.get("judge") or {}).get("sha256")


def _threshold(record: Record) -> str | None:
    given = record.provenance.get("parameters", {})
    if "threshold_fpir" not in given:
        return None
    return f"at FPIR {given['threshold_fpir']}" if given["threshold_fpir"] else f"fixed at {given.get('threshold')}"


# What makes numbers incomparable: (what differs, how it is told, what it means).
CONDITIONS: tuple[tuple[str, Told, str], ...] = (
    ("data set", lambda record: record.provenance.get("dataset_sha256"), "other faces or subjects: no number may be compared"),
    ("degradation", lambda record: record.provenance.get("degradation"), "other VLR faces: no number may be compared"),
    ("split", _parameter("split"), "other test faces: no number may be compared"),
    ("limit", _parameter("limit"), "only part of the test faces: no number may be compared"),
    ("test pairs", lambda record: record.provenance.get("pairs_sha256"), "other pairs: verification may not be compared"),
    ("recogniser", _original, "another original EdgeFace: compare gains within a run, not values between runs"),
    ("enrolled", _parameter("enrolled"), "another gallery: rank-1 and the unknown rate may not be compared"),
    ("gallery seed", _parameter("seed"), "another draw of the gallery: rank-1 and the unknown rate may not be compared"),
    ("threshold", _threshold, "another rule for the threshold: the unknown rate may not be compared"),
    ("independent recogniser", _judge, "another judge: what judges say may not be compared"),
    ("bootstrap draws", _parameter("bootstrap_draws"), "intervals of another precision"),
)  # fmt: skip


def comparability(records: Sequence[Record]) -> list[str]:
    """A sentence for each reason why these runs' numbers should not be held against each other; empty when there is none."""
    warnings = []
    for what, told, meaning in CONDITIONS:
        values = {record.title: told(record) for record in records}
        known = {_text(value) for value in values.values() if value is not None}
        if len(known) > 1:
            warnings.append(f"{what}: {meaning} ({_grouped(values)}).")
        elif what == "data set" and None in values.values() and len(records) > 1:
            absent = ", ".join(title for title, value in values.items() if value is None)
            warnings.append(f"{what}: not recorded by {absent}, so nobody can tell whether the faces are the same.")
    return warnings + _other_pairs(records)


def _other_pairs(records: Sequence[Record]) -> list[str]:
    """Runs whose faces and recogniser agree must agree on the HR row, which no training touches; else the pairs differ."""
    seen: dict[tuple[Any, Any, str], tuple[str, float]] = {}
    warnings = []
    for record in records:
        for row in (one for one in record.rows if one["row"] == "hr" and one["verification_accuracy"] is not None):
            key = (record.provenance.get("dataset_sha256"), _original(record), row["protocol"])
            title, value = seen.setdefault(key, (record.title, row["verification_accuracy"]))
            if None not in key and abs(value - row["verification_accuracy"]) > 0.002:  # less is another machine's rounding
                warnings.append(
                    f"test pairs: the HR row ({row['protocol']}) is {100 * value:.1f} % in {title} and "
                    f"{100 * row['verification_accuracy']:.1f} % in {record.title}, with the same faces and recogniser: "
                    "other pairs, verification may not be compared."
                )
    return warnings


def warning_box(warnings: Sequence[str]) -> str:
    """The warnings as a framed piece of HTML; empty without any."""
    if not warnings:
        return ""
    points = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    frame = "border: 3px solid #D55E00; padding: 0.4em 1em; margin: 0.6em 0"
    title = "<strong>Not comparable as they stand: these runs were not tested alike</strong>"
    return f'<div style="{frame}">{title}<ul>{points}</ul></div>'


def parameter_differences(records: Sequence[Record]) -> tuple[pd.DataFrame, str]:
    """The parameters that differ, a row each by stage and name, a column a run ("–": not recorded); and a note on the rest.

    A parameter that only some runs have, because others ran with older code, differs unless it is off (0, empty, none).
    """
    by_run = {record.title: _telling(record) for record in records}
    stages = sorted({stage for found in by_run.values() for stage in found})
    rows, off, equal = {}, 0, 0
    for stage in stages:
        having = {title: found[stage].values for title, found in by_run.items() if stage in found}
        for name in dict.fromkeys(name for values in having.values() for name in values):
            known = {title: _text(values[name]) for title, values in having.items() if name in values}
            everywhere = len(known) == len(having)
            if len(set(known.values())) == 1 and (everywhere or not set(known.values()) - OFF):
                equal, off = equal + everywhere, off + (not everywhere)
            else:
                rows[stage, name] = {title: known.get(title, MISSING) or "empty" for title in by_run}
    index = pd.MultiIndex.from_tuples(list(rows), names=["stage", "parameter"]) if rows else None
    return pd.DataFrame(list(rows.values()), index=index, columns=list(by_run)), _rest(by_run, equal, off)


def _telling(record: Record) -> dict[str, Recorded]:
    """The parameters of every stage, without those that touch no number."""
    return {
        stage: replace(recorded, values={name: value for name, value in recorded.values.items() if name not in WITHOUT_EFFECT})
        for stage, recorded in stage_parameters(record).items()
    }


def _rest(by_run: Mapping[str, Mapping[str, Any]], equal: int, off: int) -> str:
    sentences = [f"{equal} recorded parameters are equal."]
    if off:
        sentences.append(f"{off} more are recorded by some runs only, and off there (0, empty or none).")
    for title, found in by_run.items():
        planned = [stage for stage, recorded in found.items() if recorded.source.startswith("params/")]
        if planned:
            sentences.append(f"{title}: {', '.join(planned)} as its YAML says today, which may not be what ran.")
        if absent := sorted({stage for other in by_run.values() for stage in other} - set(found)):
            sentences.append(f"{title}: nothing recorded of {', '.join(absent)}.")
    return " ".join(sentences)


def circumstances(records: Sequence[Record]) -> tuple[pd.DataFrame, str]:
    """Data, recogniser, code, machine and time of the evaluations where they differ, a column a run; and a note on the rest."""
    facts: dict[str, Told] = {what: told for what, told, _ in CONDITIONS if what in ("data set", "degradation", "recogniser")}
    facts |= {name: lambda record, name=name: record.provenance.get(name) for name in ("commit", "device", "python")}  # type: ignore[misc]
    packages = sorted({name for record in records for name in record.provenance.get("packages", {})})
    facts |= {name: lambda record, name=name: record.provenance.get("packages", {}).get(name) for name in packages}  # type: ignore[misc]
    facts |= {name: lambda record, name=name: record.provenance.get(name) for name in ("started", "seconds")}  # type: ignore[misc]
    rows, equal = {}, []
    for name, told in facts.items():
        values = {record.title: _short(told(record)) for record in records}
        if len(set(values.values())) > 1:
            rows[name] = values
        elif set(values.values()) != {MISSING}:
            equal.append(name)
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=[record.title for record in records])
    return table, f"Equal: {', '.join(equal)}." if equal else ""


def _text(value: Any) -> str:
    """One text for equal values: 1 and 1.0 are the same number, the order of a mapping says nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def _grouped(values: Mapping[str, Any]) -> str:
    """Each value with the runs that have it."""
    groups: dict[str, list[str]] = {}
    for title, value in values.items():
        groups.setdefault("not recorded" if value is None else _short(value), []).append(title.replace(", ", " "))
    return "; ".join(f"{value} in {', '.join(titles)}" for value, titles in groups.items())
