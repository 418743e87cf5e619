"""Runs and VLR sizes side by side: systems in rows, runs in columns, as tables to read, to paste and to compute with."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from dsrkit.comparison.records import Record, pixels, stage_parameters
from dsrkit.evaluation.headline import CONTROL, TTA, gain_text, percent_text, row_label, row_order
from dsrkit.evaluation.report import Row, _plain
from dsrkit.runs import Run, atomic_path

MEASURES = {
    "verification_accuracy": "verification %",
    "tar_at_far_0.01": "TAR@FAR 1 %",
    "rank1": "rank-1 %",
    "tpir_at_fpir_0.01": "TPIR@FPIR 1 %",
    "unknown_rate": "unknown %",
    "false_positive_identification_rate": "strangers named %",
}
GAINS = {"difference_to_direct_feed": "vs direct feed (points)", "difference_to_control": "vs control (points)"}
PROTOCOLS = {
    "both-lr": "gallery and probe VLR (both-lr)",
    "hr-lr": "gallery HR, probe VLR (hr-lr)",
    "hr+lr": "gallery HR and VLR together, probe VLR (hr+lr)",
    "native": "faces of native low resolution (native)",
}
MISSING = "–"
IN_THE_CAPTION = {title: title.removesuffix(" (points)") for title in GAINS.values()} | {row_label(CONTROL): "control"}
RULE, LIGHT = "border-top: 1px solid #BDBDBD", "color: #555555"  # of a system's first line, and of those beneath it
NOTE = (
    "Shares in per cent with 95 % intervals (bootstrap by subject). Differences in percentage points, paired: to the direct "
    "feed, and to the control (EdgeFace fine-tuned on bicubic faces). Not shown: the interval holds 0. –: not measured."
)


def comparison_folder(name: str) -> Path:
    """``outputs/<name>``, where a comparison writes. Raises ValueError when a run has it already."""
    run = Run(name)
    if run.metrics.exists():
        raise ValueError(f"name: expected a name of its own, got {name!r}, which is a run with results. Choose another name.")
    return run.folder


def protocols(records: Sequence[Record], measure: str = "verification_accuracy", judge: bool = False) -> list[str]:
    """The protocols for which a run (or its independent recogniser) has a measure, those of every evaluation first."""
    rows = [row for record in records for row in (record.judge_rows if judge else record.rows)]
    found = {row["protocol"] for row in rows if row[measure] is not None}
    return [name for name in PROTOCOLS if name in found] + sorted(found - set(PROTOCOLS))


def headline_measure(records: Sequence[Record]) -> str:
    """What the first table shows: verification accuracy, or rank-1 where no run has pairs."""
    return next((measure for measure in ("verification_accuracy", "rank1") if protocols(records, measure)), "rank1")


def protocol_title(protocol: str) -> str:
    """A protocol's name for people."""
    return PROTOCOLS.get(protocol, protocol)


def systems(records: Sequence[Record], protocol: str, tta: bool = False, judge: bool = False) -> list[str]:
    """The names of the rows that any run has under a protocol, in the headline's order; their TTA twins only if asked for."""
    rows = [row for record in records for row in (record.judge_rows if judge else record.rows) if row["protocol"] == protocol]
    ordered = dict.fromkeys(row["row"] for row in sorted(rows, key=row_order))
    return [name for name in ordered if tta or not name.endswith(TTA)]


def side_by_side(
    records: Sequence[Record], protocol: str, measure: str = "verification_accuracy", tta: bool = False, judge: bool = False
) -> pd.DataFrame:
    """The table of a paper, as text: a block of rows a system (value, gain, difference to the control), a column a run.

    Args:
        measure: a key of ``MEASURES``.
        tta: with the rows of test-time augmentation.
        judge: the rows of the independent recogniser, instead of the run's own.

    Lines that no run can fill, such as the gain of the direct feed over itself, are left out. Raises ValueError for a
    measure or protocol that is not there.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}. Choose one of these.")
    names = systems(records, protocol, tta, judge)
    if not names:
        raise ValueError(f"protocol: expected one of {', '.join(protocols(records))}, got {protocol!r}. Choose one of these.")
    lines: dict[tuple[str, str], list[str]] = {}
    for name in names:
        rows = [record.row(name, protocol, judge) for record in records]
        block = {MEASURES[measure]: [MISSING if row is None else percent_text(row, measure) for row in rows]}
        for key, title in GAINS.items():
            block[title] = [MISSING if row is None else gain_text(row[key].get(measure)) for row in rows]
        for title, cells in block.items():
            if title == MEASURES[measure] or any(cell != MISSING for cell in cells):
                lines[row_label(name), title] = cells
    index = pd.MultiIndex.from_tuples(list(lines), names=["system", ""])
    return pd.DataFrame(list(lines.values()), index=index, columns=[record.title for record in records])


def numbers(records: Sequence[Record]) -> pd.DataFrame:
    """Every number of the comparison, unrounded: a row for each run, recogniser, protocol, system (TTA too) and measure."""
    made = [
        {
            "run": record.name,
            "vlr_size": record.size,
            "pixels": pixels(record.size),
            "recognizer": recognizer,
            "protocol": row["protocol"],
            "row": row["row"],
            "measure": measure,
            "value": row[measure],
            **_ends(row, measure),
            **_difference(row["difference_to_direct_feed"].get(measure), "gain"),
            **_difference(row["difference_to_control"].get(measure), "vs_control"),
        }
        for record in records
        for recognizer, rows in (("run", record.rows), ("judge", record.judge_rows))
        for row in sorted(rows, key=lambda row: (row["protocol"], *row_order(row)))
        for measure in MEASURES
    ]
    return pd.DataFrame(made)


def _ends(row: Row, measure: str) -> dict[str, float | None]:
    low, high = row["interval"].get(measure) or (None, None)
    return {"low": low, "high": high}


def _difference(gain: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """A difference, its interval, and whether it is shown: 0 lies outside the interval."""
    value, low, high = ((gain or {}).get(key) for key in ("value", "low", "high"))
    shown = None if value is None else bool(low is not None and high is not None and not low <= 0 <= high)
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_shown": shown}


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """The index as columns of text, each of its names (but the last) on the first of its lines only."""
    flat = table.reset_index()
    for level in range(table.index.nlevels - 1, 0, -1):
        repeated = flat.iloc[:, :level].eq(flat.iloc[:, :level].shift()).all(axis=1)
        flat[flat.columns[level - 1]] = flat[flat.columns[level - 1]].mask(repeated, "")
    return flat


def for_page(table: pd.DataFrame, lighter: bool = False) -> Styler:
    """A table with an index of several levels as a notebook shows it: a rule above each block.

    Args:
        lighter: whether a block's lines after the first, such as a system's differences, are in a lighter ink.
    """
    flat, levels = _flat(table), table.index.nlevels
    lines = [RULE if begins else LIGHT if lighter else "" for begins in flat.iloc[:, max(0, levels - 2)] != ""]
    style = flat.style.hide(axis="index").apply(lambda column: lines, axis=0)
    style.set_table_styles([{"selector": "tr", "props": "background: none"}])
    left: Any = [{"selector": f".col{number}", "props": "text-align: left"} for number in range(levels)]
    return style.set_table_styles(left, overwrite=False)


def to_markdown(table: pd.DataFrame) -> str:
    """``side_by_side`` as a Markdown table."""
    flat = _flat(table)
    lines = [list(flat.columns), ["---"] * flat.shape[1], *flat.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """``side_by_side`` as a LaTeX table with booktabs' rules; nothing in it needs another package.

    In small type, and with a circle for *not shown*: so four VLR sizes stand beside each other on a page of text.
    """
    flat = _flat(table).replace(IN_THE_CAPTION)
    style = flat.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    text = style.to_latex(
        hrules=True, column_format="@{}ll" + "r" * table.shape[1] + "@{}", caption=_escaped(caption), position_float="centering"
    )
    # Space before each further system, true minus signs, and what older engines lack of Unicode.
    text = re.sub(r"\\\\\n(?=[^ &\\])", r"\\\\[2pt]\n", text)
    text = text.replace("\\centering", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}", 1)
    text = text.replace(" not shown", r"$^{\circ}$").replace("Not shown:", r"$^{\circ}$ not shown:")
    return re.sub(r"(?<![\w}-])-(?=\d)", "$-$", text).replace("–", "--").replace("×", r"$\times$")


def _escaped(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_")


def _tables(records: Sequence[Record], tta: bool) -> list[tuple[str, pd.DataFrame]]:
    return [
        (f"{title}, {protocol_title(protocol)}", side_by_side(records, protocol, measure, tta))
        for measure, title in MEASURES.items()
        for protocol in protocols(records, measure)
    ]


def write_tables(folder: Path, records: Sequence[Record], warnings: Sequence[str], tta: bool = False) -> None:
    """Write ``headline.md`` and ``headline.tex`` (text, with what makes runs incomparable) and ``headline.csv`` (numbers).

    Everything is made before the first file is written, and each file appears whole.
    """
    tables = _tables(records, tta)
    plain = [f"Not comparable as they stand: {warning}" for warning in warnings]
    markdown = "\n\n".join([f"**{title}**\n\n{to_markdown(table)}" for title, table in tables] + [NOTE] + plain) + "\n"
    comments = "".join(f"% {line}\n" for line in ["Needs \\usepackage{booktabs}.", *plain])
    latex = comments + "\n".join(to_latex(table, f"{title}. {NOTE}") for title, table in tables)
    buffer = io.StringIO()
    numbers(records).to_csv(buffer, index=False)
    for name, text in (("headline.md", markdown), ("headline.tex", latex), ("headline.csv", buffer.getvalue())):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_comparison(
    path: Path, records: Sequence[Record], warnings: Sequence[str], paired: pd.DataFrame, parameters: Mapping[str, Any]
) -> None:
    """Write ``comparison.json``: runs with their provenance and recorded parameters, every number, paired differences.

    Args:
        warnings: of ``comparability``.
        paired: of ``paired_differences``.
        parameters: of the comparison itself.
    """
    about = {
        "parameters": dict(parameters),
        "warnings": list(warnings),
        "runs": [
            {"run": record.name, "vlr_size": record.size, "metrics": record.path.name, "provenance": record.provenance}
            | {"stages": {stage: vars(recorded) for stage, recorded in stage_parameters(record).items()}}
            for record in records
        ],
        "numbers": numbers(records).astype(object).to_dict("records"),
        "paired": paired.astype(object).to_dict("records"),
    }
    text = json.dumps(_plain(about), indent=1, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
