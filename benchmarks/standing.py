"""What was set for real faces, and what the kept evaluations measured; every recipe at 16×16; what TTA brought.

    python benchmarks/standing.py

reads ``docs/results`` and prints these tables of ``docs/RESULTS.md``. A level is reached when the value is and, for a
row with a DSR, the interval of its gain over the direct feed lies above 0.
"""

from __future__ import annotations

import functools
from typing import Any

from dsrkit.evaluation import read_metrics
from dsrkit.evaluation.headline import CONTROL, TTA, gain_text, row_label
from dsrkit.runs import ROOT

Row = dict[str, Any]
LEVELS = ("must", "goal", "dream")
ACCURACY, HR_ACCURACY = "verification_accuracy", "hr_verification_accuracy"
# size, of the kept run, protocol, row, what it is held to: per cent, or points over the direct feed
SET = [
    ("32×32", "vlr-at-32", "both-lr", "dsr", (99.1, 99.3, 99.45), "per cent"),
    ("32×32", "vlr-at-32", "both-lr", "cycle_1", (99.1, 99.3, 99.45), "per cent"),
    ("32×32", "vlr32", "both-lr", "dsr", (99.1, 99.3, 99.45), "per cent"),
    ("24×24", "vlr-at-24", "both-lr", "cycle_1", (98.5, 98.9, 99.2), "per cent"),
    ("24×24", "vlr24", "both-lr", "cycle_1", (98.5, 98.9, 99.2), "per cent"),
    ("24×24", "tries/vlr24-last-epoch", "both-lr", "cycle_1", (98.5, 98.9, 99.2), "per cent"),
    ("16×16", "vlr16", "both-lr", "cycle_1", (97.0, 97.8, 98.5), "per cent"),
    ("16×16", "tries/vlr16-again", "both-lr", "cycle_1", (97.0, 97.8, 98.5), "per cent"),
    ("16×16", "tries/vlr16-four-drawings", "both-lr", "cycle_1", (97.0, 97.8, 98.5), "per cent"),
    ("16×16", "tries/vlr16-four-drawings", "both-lr", "cycle_1_guided", (97.0, 97.8, 98.5), "per cent"),
    ("16×16", "vlr16", "hr-lr", "cycle_1", (97.5, 98.67), "per cent"),
    ("14×16", "vlr-at-14x16", "both-lr", "cycle_1", (3.0, 4.5, 6.0), "points"),
    ("14×16", "vlr14x16", "both-lr", "cycle_1", (3.0, 4.5, 6.0), "points"),
    ("14×16", "tries/vlr14x16-again", "both-lr", "cycle_1", (3.0, 4.5, 6.0), "points"),
    ("16×16", "vlr16", "judge", "dsr", (96.8, 97.5), "per cent"),
    ("16×16", "tries/vlr16-ensemble", "judge", "dsr_ensemble", (96.8, 97.5), "per cent"),
    ("16×16", "tries/vlr16-guided", "judge", "cycle_1_guided", (96.8, 97.5), "per cent"),
    ("16×16", "tries/vlr16-four-drawings", "judge", "cycle_1_guided", (96.8, 97.5), "per cent"),
]
RECIPES = {
    "a first stretch": "tries/vlr16-first",
    "faces of nobody": "tries/vlr16-nobody",
    "four sizes (`vlr`)": "vlr-at-16",
    "on from `vlr`": "tries/vlr16-on-from-vlr",
    "small, flips (`cpu16`)": "cpu16",
    "small, from nothing": "tries/vlr16-mixed",
    "VLR faces alone": "tries/vlr16-no-hr",
    "a tenth of ArcFace (`vlr16`)": "vlr16",
    "ArcFace on whole faces": "tries/vlr16-arcface-whole-2",
}
WITH_TTA = ("tries/vlr16-arcface-whole-2", "tries/vlr16-ensemble")


@functools.cache
def kept(run: str) -> Row:
    return read_metrics(ROOT / "docs" / "results" / f"{run}.json")


def row_of(run: str, protocol: str, name: str) -> Row:
    """A row of a kept evaluation; of its judge (both-lr) where the protocol is "judge". Raises KeyError when there is none."""
    rows = kept(run)["judge"]["rows"] if protocol == "judge" else kept(run)["rows"]
    for row in rows:
        if (row["protocol"], row["row"]) == ("both-lr" if protocol == "judge" else protocol, name):
            return row
    raise KeyError(f"docs/results/{run}.json: expected a row {name} of {protocol}, got none. Keep an evaluation that has it.")


def level(row: Row, levels: tuple[float, ...], kind: str) -> str:
    """The highest level that a row reaches."""
    gain = row["difference_to_direct_feed"][ACCURACY]
    value = 100 * (gain["value"] if kind == "points" else row[ACCURACY])
    reached = [name for name, least in zip(LEVELS, levels, strict=False) if round(value, 2) >= least and gain["low"] > 0]
    return reached[-1] if reached else "**not reached**"


def standing() -> str:
    """What was set, and what was measured."""
    heads = ["size", "run", "protocol", "row", "set", "measured %", "over direct feed", "over the control", "reached"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for size, run, protocol, name, levels, kind in SET:
        row = row_of(run, protocol, name)
        form = "{:+g}" if kind == "points" else "{:g}"
        wanted = " / ".join(form.format(value) for value in levels)
        cells = [size, f"`{run}`", protocol, row_label(name), wanted, _percent(row)]
        cells += [gain_text(row[f"difference_to_{other}"].get(ACCURACY)) for other in ("direct_feed", "control")]
        lines.append(f"| {' | '.join([*cells, level(row, levels, kind)])} |")
    return "\n".join(lines)


def recipes() -> str:
    """Every recipe at 16×16: control, DSR, cycle 1 with VLR and HR galleries, at 112 pixels, and in the judge's eyes."""
    heads = ["recipe", "control", "DSR", "cycle 1", "over the control", "rank-1 over it", "HR–LR: cycle 1", "over the control"]
    heads += ["112 px", "judge: DSR", "judge: cycle 1"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for recipe, run in RECIPES.items():
        low, high = row_of(run, "both-lr", "cycle_1"), row_of(run, "hr-lr", "cycle_1")
        others = [row_of(run, "both-lr", name) for name in (CONTROL, "dsr")]
        judged = [row_of(run, "judge", name) for name in ("dsr", "cycle_1")]
        cells = [recipe, *(_percent(row) for row in (*others, low)), _over_control(low), _over_control(low, "rank1")]
        cells += [_percent(high), _over_control(high), _percent(low, HR_ACCURACY), *(_percent(row) for row in judged)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_tta(run: str) -> str:
    """Verification of a kept evaluation without and with test-time augmentation, its own recognisers' and its judge's."""
    lines = ["| | both-LR | HR–LR |", "|---|---|---|"]
    for who, rows in (("", kept(run)["rows"]), ("the judge, ", kept(run)["judge"]["rows"])):
        found = {(row["protocol"], row["row"]): _percent(row) for row in rows}
        names = [name for protocol, name in found if protocol == "both-lr" and ("hr-lr", name + TTA) in found]
        for name in names:
            pairs = (f"{found[protocol, name]} → {found[protocol, name + TTA]}" for protocol in ("both-lr", "hr-lr"))
            lines.append(f"| {who}{row_label(name)} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def _percent(row: Row, measure: str = ACCURACY) -> str:
    return f"{100 * row[measure]:.2f}"


def _over_control(row: Row, measure: str = ACCURACY) -> str:
    return gain_text(row["difference_to_control"].get(measure))


if __name__ == "__main__":
    print(standing(), recipes(), *map(with_tta, WITH_TTA), sep="\n\n")
