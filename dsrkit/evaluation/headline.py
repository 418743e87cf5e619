"""The headline table, which an evaluation leaves for people, the names of its rows, and what the control says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from dsrkit.evaluation.report import Row

TTA = "_tta"  # ends the name of a row with test-time augmentation
GUIDED = "_guided"  # ends the name of a row, before TTA, whose restored faces were led on
CONTROL = "direct_feed_finetuned"
LABELS = {
    "hr": "HR (upper bound)",
    "direct_feed": "direct feed (bicubic)",
    CONTROL: "control (bicubic + fine-tuned EdgeFace)",
    "dsr": "DSR",
    "dsr_ensemble": "DSR ensemble",
    "dsr_finetuned": "DSR + fine-tuned EdgeFace",
}
NO_CONTROL = (
    "There is no control (edgeface_direct.pt: EdgeFace fine-tuned on bicubic faces, no DSR), so these rows cannot tell what "
    "restoring adds to fine-tuning."
)


def row_label(row: str) -> str:
    """A row's name for people: ``cycle_2`` → "cycle 2", ``dsr_tta`` → "DSR, TTA", ``cycle_1_guided`` → "cycle 1, guided"."""
    for suffix, said in ((TTA, ", TTA"), (GUIDED, ", guided")):
        if row.endswith(suffix):
            return row_label(row.removesuffix(suffix)) + said
    return LABELS.get(row, row.replace("_", " "))


def percent_text(row: Row, measure: str) -> str:
    if row[measure] is None:
        return "–"
    ends = row["interval"].get(measure)
    known = ends and None not in ends
    return f"{100 * row[measure]:.1f}" + (f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if known else "")


def gain_text(gain: dict[str, Any] | None) -> str:
    """A difference in percentage points with its interval; one whose interval holds 0 is not shown by these data."""
    if not gain or gain["value"] is None:
        return "–"
    value, low, high = (None if gain[key] is None else 100 * gain[key] for key in ("value", "low", "high"))
    if low is None or high is None:
        return f"{value:+.1f} (no interval)"
    text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{text} not shown" if low <= 0 <= high else text


def row_order(row: Row) -> tuple[int, str, int, bool, bool]:
    """Known systems first, then cycles by number; after a row its guided faces, and a row's twin with TTA right after it."""
    twin = row["row"].removesuffix(TTA)
    system = twin.removesuffix(GUIDED)
    cycle = re.fullmatch(r"cycle_(\d+)", system)
    known = list(LABELS).index(system) if system in LABELS else len(LABELS)
    return known, "cycle" if cycle else system, int(cycle[1]) if cycle else 0, system != twin, twin != row["row"]


def headline_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The table that comes first, as text: HR, direct feed, control, DSR, DSR + fine-tuned EdgeFace, cycles, with 95 % intervals.

    Shares in per cent, gains over the direct feed in percentage points; "not shown" marks a gain whose interval holds 0.
    Size and protocol get columns of their own when they differ between rows; what no row has gets none.
    *Unknown* and *strangers named* are at the frozen threshold and belong together: either falls when the other may rise.
    """
    table = pd.DataFrame(
        [
            {
                "system": row_label(row["row"]),
                "size": row["vlr_size"],
                "protocol": row["protocol"],
                "verification %": percent_text(row, "verification_accuracy"),
                "gain (points)": gain_text(row["difference_to_direct_feed"].get("verification_accuracy")),
                "vs control (points)": gain_text(row["difference_to_control"].get("verification_accuracy")),
                "TAR@FAR 1 %": percent_text(row, "tar_at_far_0.01"),
                "rank-1 %": percent_text(row, "rank1"),
                "TPIR@FPIR 1 %": percent_text(row, "tpir_at_fpir_0.01"),
                "unknown %": percent_text(row, "unknown_rate"),
                "strangers named %": percent_text(row, "false_positive_identification_rate"),
            }
            for row in sorted(rows, key=lambda row: (row["vlr_size"], row["protocol"], *row_order(row)))
        ]
    )
    needless = [column for column in ("size", "protocol") if table[column].nunique() <= 1]
    table = table.drop(columns=needless).loc[:, lambda whole: (whole != "–").any()]
    # the name of the rows stands in the header's corner: one header line instead of two
    return table.set_index("system").rename_axis(index=None, columns="system")


def headline_markdown(rows: Sequence[Row]) -> str:
    """``headline_table`` as a Markdown table, for a README."""
    table = headline_table(rows).reset_index(names="system")
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def control_sentence(rows: Sequence[Row]) -> str:
    """Whether the run's last system beats the control, in one sentence with the numbers.

    The last is the last cycle, else DSR + fine-tuned EdgeFace, else DSR; with TTA where there is TTA. Named by that rule and not
    by its score: the best of several rows would beat a control too often by chance. Guided faces are for other recognisers.

    Args:
        rows: of one VLR size and one protocol. A row with TTA is held against the control with TTA.
    """
    names = {row["row"] for row in rows}
    own = [row for row in rows if not row["row"].removesuffix(TTA).endswith(GUIDED)]
    compared = [row for row in own if row["difference_to_control"].get("verification_accuracy") and CONTROL in names]
    if not compared:
        return NO_CONTROL
    last = max(compared, key=row_order)
    with_tta = last["row"].endswith(TTA)
    control = next(row for row in rows if row["row"] == (CONTROL + TTA if with_tta else CONTROL))
    gain = last["difference_to_control"]["verification_accuracy"]
    difference = gain_text(gain).removesuffix(" not shown")
    if gain["low"] is None or gain["high"] is None or gain["low"] <= 0 <= gain["high"]:
        verdict = "is not shown to differ from"
    else:
        verdict = "beats" if gain["low"] > 0 else "is worse than"
    of_last, of_control = (percent_text(row, "verification_accuracy") for row in (last, control))
    return (
        f"The run's last system ({row_label(last['row'])}; verification {of_last} %) {verdict} the control, EdgeFace fine-tuned "
        f"on bicubic faces{', with TTA' if with_tta else ''} ({of_control} %): difference in points {difference}."
    )
