"""The tables below the headline: verification, identification, restoration, and every gain. Text, with 95 % intervals.

Shares are in per cent and their differences in percentage points; other measures keep their units. A column that no row has
is left out; a difference whose interval holds 0 is "not shown". Effective rank and calibration error describe, without interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from dsrkit.evaluation.headline import row_label, row_order
from dsrkit.evaluation.report import Row


class Column(NamedTuple):
    """A measure of a row: its key, how the table calls it, its factor (100: per cent) and decimals."""

    key: str
    title: str
    factor: float = 100
    decimals: int = 1


VERIFICATION = (
    Column("verification_accuracy", "accuracy %"),
    Column("eer", "EER %", 100, 2),
    Column("auc", "AUC", 1, 4),
    Column("d_prime", "d′", 1, 2),
    Column("tar_at_far_0.1", "TAR@FAR 10 %"),
    Column("tar_at_far_0.01", "TAR@FAR 1 %"),
    Column("tar_at_far_0.001", "TAR@FAR 0.1 %"),
    Column("brier_score", "Brier score", 1, 4),
    Column("calibration_error", "calibration error %"),
    Column("effective_rank", "effective rank", 1, 1),
    Column("hr_verification_accuracy", "accuracy at HR %"),
)
ALL_PAIRS = (
    Column("all_pairs_impostors", "impostor pairs", 1, 0),
    Column("all_pairs_tar_at_far_0.001", "all pairs TAR@FAR 1e-3"),
    Column("all_pairs_tar_at_far_0.0001", "all pairs TAR@FAR 1e-4"),
    Column("all_pairs_tar_at_far_1e-05", "all pairs TAR@FAR 1e-5"),
    Column("all_pairs_tar_at_far_1e-06", "all pairs TAR@FAR 1e-6"),
)
IDENTIFICATION = (
    Column("rank1", "rank-1 %"),
    Column("rank5", "rank-5 %"),
    Column("rank10", "rank-10 %"),
    Column("rank20", "rank-20 %"),
    Column("map", "mAP %"),
    Column("tpir_at_fpir_0.1", "TPIR@FPIR 10 %"),
    Column("tpir_at_fpir_0.01", "TPIR@FPIR 1 %"),
    Column("threshold", "threshold", 1, 3),
    Column("correct_rate", "named rightly %"),
    Column("unknown_rate", "unknown %"),
    Column("false_positive_identification_rate", "strangers named %"),
)
IDENTITY = (
    Column("similarity_to_true", "cosine to true face", 1, 3),
    Column("similarity_to_impostor", "to nearest impostor", 1, 3),
    Column("nearer_to_impostor", "nearer to impostor %"),
)
RESTORATION = (Column("psnr", "PSNR dB", 1, 2), Column("ssim", "SSIM", 1, 3), Column("lpips", "LPIPS", 1, 3), *IDENTITY)
# Counts, descriptions, and what another threshold would buy: fewer unknown are no gain when more strangers are named.
NO_GAINS = {"all_pairs_impostors", "threshold", "effective_rank", "calibration_error", "rank5", "rank10", "tar_at_far_0.1"}
NO_GAINS |= {"unknown_rate", "correct_rate", "false_positive_identification_rate"}
GAINS = tuple(column for column in (*VERIFICATION, *ALL_PAIRS, *IDENTIFICATION, *RESTORATION) if column.key not in NO_GAINS)


def measures_table(rows: Sequence[Row], columns: Sequence[Column]) -> pd.DataFrame:
    """Rows × measures, each value with its interval."""
    made = [{column.title: _value(row, column) for column in columns} for row in _sorted(rows)]
    return _table(rows, made)


def gains_table(rows: Sequence[Row], against: str = "difference_to_direct_feed") -> pd.DataFrame:
    """Measures × rows: what each row has beyond the direct feed (or beyond the control: ``difference_to_control``), paired.

    Rows that are not compared are left out; the table is empty when none is. EER, Brier score, LPIPS and
    what is nearer to an impostor are better when they fall.
    """
    compared = [row for row in rows if row[against]]
    made = [{column.title: _difference(row[against].get(column.key), column) for column in GAINS} for row in _sorted(compared)]
    return _table(compared, made).T if compared else pd.DataFrame()


def _sorted(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["vlr_size"], row["protocol"], *row_order(row)))


def _table(rows: Sequence[Row], made: list[dict[str, str]]) -> pd.DataFrame:
    several = len({row["protocol"] for row in rows}) > 1
    names = [f"{row_label(row['row'])}, {row['protocol']}" if several else row_label(row["row"]) for row in _sorted(rows)]
    table = pd.DataFrame(made, index=names)
    return table.loc[:, (table != "–").any()]


def _value(row: Row, column: Column) -> str:
    value = row.get(column.key)
    if value is None:
        return "–"
    text, ends = f"{column.factor * value:,.{column.decimals}f}", row["interval"].get(column.key)
    if not ends or None in ends:
        return text
    low, high = (f"{column.factor * end:.{column.decimals}f}" for end in ends)
    return f"{text} [{low}, {high}]"


def _difference(gain: dict[str, Any] | None, column: Column) -> str:
    if not gain or gain["value"] is None:
        return "–"
    value, ends = column.factor * gain["value"], [gain["low"], gain["high"]]
    if None in ends:
        return f"{value:+.{column.decimals}f} (no interval)"
    low, high = (column.factor * end for end in ends)
    text = f"{value:+.{column.decimals}f} [{low:+.{column.decimals}f}, {high:+.{column.decimals}f}]"
    return f"{text} not shown" if low <= 0 <= high else text
