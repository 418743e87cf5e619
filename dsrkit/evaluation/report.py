"""``metrics.json``, which an evaluation leaves for machines, and the headline table, which it leaves for people.

A row is one system (``hr``, ``direct_feed``, ``dsr``, ``dsr_finetuned``, ``cycle_1``, …) on one VLR size and protocol. It is
flat, holds shares in [0, 1], and says null where something was not measured: JSON has no NaN.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dsrkit.runs import atomic_path

Row = dict[str, Any]

LABELS = {
    "hr": "HR (upper bound)",
    "direct_feed": "direct feed (bicubic)",
    "direct_feed_finetuned": "direct feed + fine-tuned EdgeFace",
    "dsr": "DSR",
    "dsr_finetuned": "DSR + fine-tuned EdgeFace",
}
FILE_KEYS = ("run", "provenance", "rows")
ROW_KEYS = (
    "row", "vlr_size", "protocol", "rank1", "unknown_rate", "verification_accuracy", "verification_accuracy_std", "auc", "eer",
    "tar_at_far_0.01", "tar_at_far_0.001", "d_prime", "effective_rank", "psnr", "ssim", "interval", "difference_to_direct_feed",
)  # fmt: skip


def row_label(row: str) -> str:
    """A row's name for people: ``cycle_2`` → "cycle 2"."""
    return LABELS.get(row, row.replace("_", " "))


def evaluation_row(
    row: str,
    vlr_size: str,
    protocol: str,
    verified: Mapping[str, Any] | None = None,
    identified: Mapping[str, Any] | None = None,
    quality: Mapping[str, float] | None = None,
    interval: Mapping[str, Sequence[float]] | None = None,
    difference: Mapping[str, Mapping[str, float]] | None = None,
) -> Row:
    """One flat row of ``metrics.json``; what was not measured is None.

    Args:
        vlr_size: width×height as in "16x16" or "14x16".
        protocol: "both-lr" or "hr-lr".
        verified, identified: what ``verification`` and ``identification`` returned.
        quality: psnr (dB) and ssim.
        interval: {measure: (low, high)} of ``bootstrap_interval``.
        difference: {measure: {"value", "low", "high"}} of ``bootstrap_difference`` against the direct feed.
    """
    made: Row = dict.fromkeys(ROW_KEYS) | {"row": row, "vlr_size": vlr_size, "protocol": protocol}
    if verified is not None:
        made |= {key: verified[key] for key in ("auc", "eer", "d_prime", "genuine_mean", "impostor_mean", "effective_rank")}
        made |= {f"tar_at_far_{far:g}": value for far, value in verified["tar_at_far"].items()}
        made |= {
            "verification_accuracy": verified["accuracy"],
            "verification_accuracy_std": verified["accuracy_std"],
            "verification_threshold": verified["threshold"],
        }
    if identified is not None:
        keys = ("rank1", "rank5", "rank10", "unknown_rate", "correct_rate", "false_positive_identification_rate", "threshold")
        made |= {key: identified[key] for key in keys}
        made |= {f"tpir_at_fpir_{fpir:g}": value for fpir, value in identified["tpir_at_fpir"].items()}
    made |= {key: (quality or {}).get(key) for key in ("psnr", "ssim")}
    made["interval"] = {measure: list(ends) for measure, ends in (interval or {}).items()}
    made["difference_to_direct_feed"] = {measure: dict(gain) for measure, gain in (difference or {}).items()}
    return _plain(made)


def _plain(value: Any) -> Any:
    """Only what JSON knows: NumPy numbers become Python's, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(about: Any, where: str) -> None:
    if not isinstance(about, Mapping) or (missing := [key for key in FILE_KEYS if key not in about]):
        got = list(about) if isinstance(about, Mapping) else type(about).__name__
        raise ValueError(f"{where}: expected the keys {', '.join(FILE_KEYS)}, got {got}. Run 05_evaluation again.")
    if not isinstance(about["rows"], list) or not about["rows"]:
        raise ValueError(f"{where}: expected a list of rows, got {about['rows']!r}. Run 05_evaluation again.")
    for number, row in enumerate(about["rows"]):
        if missing := [key for key in ROW_KEYS if key not in row]:
            raise ValueError(
                f"{where}, row {number} ({row.get('row', 'no name')}): expected also {', '.join(missing)}. "
                "Make rows with evaluation_row."
            )


def write_metrics(path: Path | str, run: str, provenance: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write ``metrics.json`` under a temporary name, then rename it: no reader sees half a file.

    Raises ValueError naming the row and the keys it lacks.
    """
    about = _plain({"run": run, "provenance": provenance, "rows": list(rows)})
    _check(about, str(path))
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_metrics(path: Path | str) -> dict[str, Any]:
    """``run``, ``provenance`` and ``rows`` of a ``metrics.json``.

    Raises FileNotFoundError, or ValueError saying what is missing in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected metrics at {path}, got nothing there. Run the notebook 05_evaluation of that run.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, got something else ({error}). Run 05_evaluation again.") from error
    _check(about, str(path))
    return about


def _percent(row: Row, measure: str) -> str:
    if row[measure] is None:
        return "–"
    ends = row["interval"].get(measure)
    known = ends and None not in ends
    return f"{100 * row[measure]:.1f}" + (f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if known else "")


def _gain(row: Row, measure: str) -> str:
    """The gain in percentage points with its interval; one whose interval holds 0 is not shown by these data."""
    gain = row["difference_to_direct_feed"].get(measure)
    if not gain or gain["value"] is None:
        return "–"
    value, low, high = (None if gain[key] is None else 100 * gain[key] for key in ("value", "low", "high"))
    if low is None or high is None:
        return f"{value:+.1f} (no interval)"
    text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{text} not shown" if low <= 0 <= high else text


def _order(row: Row) -> tuple[int, str, int]:
    cycle = re.fullmatch(r"cycle_(\d+)", row["row"])
    known = list(LABELS).index(row["row"]) if row["row"] in LABELS else len(LABELS)
    return known, "cycle" if cycle else row["row"], int(cycle[1]) if cycle else 0


def headline_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The table that comes first, as text: HR, direct feed, DSR, DSR + fine-tuned EdgeFace, cycles, with 95 % intervals.

    Shares in per cent, gains over the direct feed in percentage points; "not shown" marks a gain whose interval holds 0.
    Size and protocol get columns of their own when they differ between rows.
    """
    table = pd.DataFrame(
        [
            {
                "system": row_label(row["row"]),
                "size": row["vlr_size"],
                "protocol": row["protocol"],
                "verification %": _percent(row, "verification_accuracy"),
                "gain (points)": _gain(row, "verification_accuracy"),
                "AUC": "–" if row["auc"] is None else f"{row['auc']:.4f}",
                "TAR@FAR 1 %": _percent(row, "tar_at_far_0.01"),
                "rank-1 %": _percent(row, "rank1"),
                "rank-1 gain (points)": _gain(row, "rank1"),
                "unknown %": _percent(row, "unknown_rate"),
            }
            for row in sorted(rows, key=lambda row: (row["vlr_size"], row["protocol"], *_order(row)))
        ]
    )
    same_everywhere = [column for column in ("size", "protocol") if table[column].nunique() <= 1]
    # the name of the rows stands in the header's corner: one header line instead of two
    return table.drop(columns=same_everywhere).set_index("system").rename_axis(index=None, columns="system")


def headline_markdown(rows: Sequence[Row]) -> str:
    """``headline_table`` as a Markdown table, for a README."""
    table = headline_table(rows).reset_index(names="system")
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
