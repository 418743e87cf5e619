"""Run against run on the same pairs and probes: a paired difference, so that what is hard for both cancels.

Two intervals that overlap do not say that two runs are alike. An evaluation leaves what it decided on every pair
(``pair_decisions.csv``) and on every probe (``decisions.csv``); where two runs saw the same ones, people are drawn once for
both (``dsrkit.bootstrap``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dsrkit.bootstrap import bootstrap_difference
from dsrkit.comparison.records import Record
from dsrkit.evaluation.headline import TTA, gain_text, row_label

KEYS = ["run", "reference", "vlr_size", "protocol", "row", "measure", "value", "low", "high", "shown"]


@dataclass(frozen=True)
class Kind:
    """One of the two files of decisions: what tells a decision from another, whose faces it is of, what it measures."""

    file: str
    names: tuple[str, ...]
    subjects: tuple[str, ...]
    numbers: tuple[str, ...]  # columns of finite numbers; of yes and no as well
    measures: dict[str, str]


PAIRS = Kind(
    "pair_decisions.csv",
    ("left", "right"),
    ("left_subject", "right_subject"),
    ("same", "fold", "score", "decided_rightly"),
    {"verification_accuracy": "verification (points)", "tar_at_far_0.01": "TAR@FAR 1 % (points)"},
)
PROBES = Kind(
    "decisions.csv",
    ("probe",),
    ("subject",),
    ("score", "rank", "threshold"),
    {
        "rank1": "rank-1 (points)",
        "unknown_rate": "unknown (points)",
        "false_positive_identification_rate": "strangers named (points)",
    },
)
TITLES = PAIRS.measures | PROBES.measures


def read_decisions(record: Record, kind: Kind) -> pd.DataFrame:
    """Every decision of a run on pairs or probes, checked against its ``metrics.json``.

    Raises FileNotFoundError without the file, and ValueError for one that is no such table or of another evaluation.
    """
    path, again = record.path.parent / kind.file, "Run 05_evaluation again."
    if not path.is_file():
        raise FileNotFoundError(f"{record.title}: expected {kind.file} beside its metrics.json, got nothing there. {again}")
    texts = dict.fromkeys(("row", "protocol", *kind.names, *kind.subjects), str)
    try:
        table = pd.read_csv(path, usecols=[*texts, *kind.numbers], dtype=texts, keep_default_na=False)
        values = table[list(kind.numbers)].astype(float)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{record.title}: expected decisions in {kind.file}, got something else ({error}). {again}") from error
    if not np.isfinite(values.to_numpy()).all():
        raise ValueError(f"{record.title}: expected finite numbers in {kind.file}, got others. {again}")
    table[values.columns] = values
    for (row, protocol), part in table.groupby(["row", "protocol"], sort=False):
        measure, value = _summary(part, kind)
        known = record.row(str(row), str(protocol))
        if known is None or (known[measure] is not None and abs(known[measure] - value) > 1e-6):
            raise ValueError(
                f"{record.title}: expected what metrics.json says in {kind.file}, got {measure} {value:.4f} for {row}, "
                f"{protocol}, there {'nothing' if known is None else known[measure]}: they are of different evaluations. {again}"
            )
    return table


def _summary(part: pd.DataFrame, kind: Kind) -> tuple[str, float]:
    """One measure of one system, to recognise an evaluation by."""
    if kind is PAIRS:
        return "verification_accuracy", float(part.groupby("fold")["decided_rightly"].mean().mean())
    return "rank1", float((part["rank"] == 1).sum() / max(1, (part["rank"] > 0).sum()))


def pairings(records: Sequence[Record], reference: str = "") -> list[tuple[Record, Record]]:
    """(run, the run it is held against) for every run that is not a reference itself: one reference for each VLR size.

    Args:
        reference: name of a run; empty, or for sizes that it lacks, is the first of each size.

    Raises ValueError for a reference that is not compared.
    """
    names = [record.name for record in records]
    if reference and reference not in names:
        raise ValueError(f"reference: expected one of {', '.join(names)}, got {reference!r}. Name a run that is compared.")
    pairs = []
    for size in dict.fromkeys(record.size for record in records):
        of_size = [record for record in records if record.size == size]
        against = next((record for record in of_size if record.name == reference), of_size[0])
        pairs += [(record, against) for record in of_size if record is not against]
    return pairs


def paired_differences(
    records: Sequence[Record], reference: str = "", draws: int = 1000, seed: int = 0, tta: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Run minus reference, by system, protocol and measure, with 95 % intervals; and why some pairs of runs have none.

    Only runs of one VLR size and only systems that both have. ``shown`` is whether 0 lies outside the interval.
    """
    made: list[dict[str, Any]] = []
    notes: list[str] = []
    for record, against in pairings(records, reference):
        for kind in (PAIRS, PROBES):
            try:
                made += _differences(record, against, kind, draws, seed, tta)
            except (FileNotFoundError, ValueError) as error:
                notes.append(f"{record.name} − {against.name}: no paired difference from {kind.file}. {error}")
    return pd.DataFrame(made, columns=KEYS), notes


def _differences(record: Record, against: Record, kind: Kind, draws: int, seed: int, tta: bool) -> list[dict[str, Any]]:
    tables = (read_decisions(one, kind) for one in (record, against))
    parts, others = (dict(tuple(table.groupby(["row", "protocol"], sort=False))) for table in tables)
    names = [*kind.names, *kind.subjects]
    about = {"run": record.name, "reference": against.name, "vlr_size": record.size}
    made = []
    for row, protocol in (key for key in parts if key in others and (tta or not str(key[0]).endswith(TTA))):
        mine, theirs = (one[row, protocol].sort_values(list(kind.names), kind="stable") for one in (parts, others))
        if not np.array_equal(mine[names].to_numpy(), theirs[names].to_numpy()):
            raise ValueError("Expected the same faces in both, got different ones. Evaluate both on one data set.")
        subjects = mine[list(kind.subjects)].to_numpy()
        subjects = subjects if kind is PAIRS else subjects[:, 0]
        found = bootstrap_difference(_result(mine, kind), _result(theirs, kind), subjects, draws, seed)
        for measure in (one for one in kind.measures if one in found):  # few impostor pairs carry no TAR at a low FAR
            gain = found[measure]
            shown = bool(gain["low"] > 0 or gain["high"] < 0)
            made.append(about | {"row": row, "protocol": protocol, "measure": measure, **gain, "shown": shown})
    return made


def _result(table: pd.DataFrame, kind: Kind) -> dict[str, Any]:
    """The part of a ``verification`` or an ``identification`` result that a bootstrap needs."""
    if kind is PAIRS:
        same, correct = (table[column].to_numpy() > 0 for column in ("same", "decided_rightly"))
        return {"same": same, "correct": correct, "scores": table["score"].to_numpy()}
    return {
        "rank": table["rank"].to_numpy(int),
        "top_score": table["score"].to_numpy(),
        "threshold": table["threshold"].to_numpy(),
    }


def paired_table(paired: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """``paired_differences`` to read: a row a pair of runs, protocol and system, a column a measure; and who decided alike.

    A system whose two runs differ nowhere (the untouched recogniser, the same checkpoint) has no row, but a sentence.
    """
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    alike: dict[str, list[str]] = {}
    titles = {measure: title for measure, title in TITLES.items() if measure in set(paired["measure"])}
    for key, part in paired.groupby(["run", "reference", "vlr_size", "protocol", "row"], sort=False):
        run, reference, size, protocol, row = map(str, key)
        name, system = f"{run} − {reference}, {size.replace('x', '×')}", row_label(row)
        if not part[["value", "low", "high"]].to_numpy(dtype=float).any():
            alike.setdefault(f"{name}, {protocol}", []).append(system)
            continue
        known = part.astype(object).where(part.notna(), None)
        gains = {str(one["measure"]): {str(name): value for name, value in one.items()} for one in known.to_dict("records")}
        rows[name, protocol, system] = {title: gain_text(gains.get(measure)) for measure, title in titles.items()}
    order = sorted(rows, key=lambda key: (key[0], key[1]))  # stable: systems stay in the order of the files
    index = pd.MultiIndex.from_tuples(order, names=["difference", "protocol", "system"]) if order else None
    table = pd.DataFrame([rows[key] for key in order], index=index, columns=list(titles.values()))
    return table, [f"{where}: the same decisions by {', '.join(systems)}." for where, systems in alike.items()]
