"""``metrics.json``, which an evaluation leaves for machines: one flat row for each system, VLR size and protocol.

A row holds shares in [0, 1], and says null where something was not measured: JSON has no NaN. ``rows`` are the run's own
systems; what an independent recogniser makes of the same faces has the same form and stands apart, under ``judge``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsrkit.evaluation.all_pairs import FARS as ALL_PAIRS_FARS
from dsrkit.evaluation.open_set import FPIRS
from dsrkit.runs import atomic_path

Row = dict[str, Any]

FILE_KEYS = ("run", "provenance", "rows")
ROW_KEYS = (
    "row", "vlr_size", "protocol", "rank1", "unknown_rate", "verification_accuracy", "verification_accuracy_std", "auc", "eer",
    "tar_at_far_0.01", "tar_at_far_0.001", "d_prime", "effective_rank", "psnr", "ssim", "interval", "difference_to_direct_feed",
)  # fmt: skip
# Keys that came later: every row that is made now has them, and one read from an older file gets these values.
LATER_KEYS: dict[str, Any] = {"recognizer": "run", "hr_verification_accuracy": None, "difference_to_control": {}}
FURTHER_KEYS = (
    "rank20", "map", "enrolled_subjects", "gallery_images", "enrolled_probes", "strangers", "calibration_error", "brier_score",
    "all_pairs_impostors", *(f"all_pairs_tar_at_far_{far:g}" for far in ALL_PAIRS_FARS),
    "lpips", "similarity_to_true", "similarity_to_impostor", "nearer_to_impostor",
)  # fmt: skip
LATER_KEYS |= dict.fromkeys((*FURTHER_KEYS, *(f"tpir_at_fpir_{fpir:g}" for fpir in FPIRS)))
JUDGE_KEYS = ("recognizer", "sha256", "rows")

Differences = Mapping[str, Mapping[str, float]]  # {measure: {"value", "low", "high"}} of ``bootstrap_difference``


def evaluation_row(
    row: str,
    vlr_size: str,
    protocol: str,
    verified: Mapping[str, Any] | None = None,
    identified: Mapping[str, Any] | None = None,
    quality: Mapping[str, float] | None = None,
    interval: Mapping[str, Sequence[float]] | None = None,
    difference: Differences | None = None,
    *,
    control: Differences | None = None,
    hr_accuracy: float | None = None,
    recognizer: str = "run",
    further: Mapping[str, Any] | None = None,
) -> Row:
    """One flat row of ``metrics.json``; what was not measured is None.

    Args:
        vlr_size: width×height as in "16x16" or "14x16".
        protocol: "both-lr", "hr-lr", "hr+lr"; "native" or "native-…" for faces without HR.
        verified, identified: what ``verification`` and ``identification`` returned.
        quality: psnr (dB), ssim and lpips.
        interval: {measure: (low, high)} of ``bootstrap_interval``.
        difference, control: against the direct feed, and against the fine-tuned EdgeFace without a DSR.
        hr_accuracy: verification accuracy of the row's recogniser on HR faces.
        recognizer: "run", or "judge" for one that took no part in training.
        further: others of ``FURTHER_KEYS``.

    Raises ValueError for a further measure of another name.
    """
    if unknown := set(further or {}) - set(FURTHER_KEYS):
        raise ValueError(f"further: expected names among {', '.join(FURTHER_KEYS)}, got {sorted(unknown)}. Add them to the list.")
    made: Row = dict.fromkeys((*ROW_KEYS, *LATER_KEYS)) | {"row": row, "vlr_size": vlr_size, "protocol": protocol}
    made |= _measures(verified, identified)
    made |= {key: (quality or {}).get(key) for key in ("psnr", "ssim", "lpips")}
    made |= {"interval": interval or {}, "difference_to_direct_feed": difference or {}, "difference_to_control": control or {}}
    made |= {"hr_verification_accuracy": hr_accuracy, "recognizer": recognizer} | dict(further or {})
    return _plain(made)


def _measures(verified: Mapping[str, Any] | None, identified: Mapping[str, Any] | None) -> Row:
    """The measures of both results under the names that a row gives them."""
    made: Row = {}
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
        counts = ("rank20", "map", "enrolled_subjects", "gallery_images", "enrolled_probes", "strangers")
        made |= {key: identified[key] for key in (*keys, *counts)}
        made |= {f"tpir_at_fpir_{fpir:g}": identified["tpir_at_fpir"].get(fpir) for fpir in FPIRS}
    return made


def _plain(value: Any) -> Any:
    """Only what JSON knows: NumPy numbers become Python's, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(about: Any, where: str, keys: Sequence[str]) -> None:
    if not isinstance(about, Mapping) or any(key not in about for key in keys):
        got = list(about) if isinstance(about, Mapping) else type(about).__name__
        raise ValueError(f"{where}: expected the keys {', '.join(keys)}, got {got}. Run 05_evaluation again.")
    if not isinstance(about["rows"], list) or not about["rows"]:
        raise ValueError(f"{where}: expected a list of rows, got {about['rows']!r}. Run 05_evaluation again.")
    for number, row in enumerate(about["rows"]):
        if missing := [key for key in ROW_KEYS if key not in row]:
            raise ValueError(
                f"{where}, row {number} ({row.get('row', 'no name')}): expected also {', '.join(missing)}. "
                "Make rows with evaluation_row."
            )


def _check_file(about: Any, where: str) -> None:
    _check(about, where, FILE_KEYS)
    if about.get("judge") is not None:
        _check(about["judge"], f"{where}, judge", JUDGE_KEYS)


def write_metrics(
    path: Path | str,
    run: str,
    provenance: Mapping[str, Any],
    rows: Sequence[Row],
    judge: Mapping[str, Any] | None = None,
) -> None:
    """Write ``metrics.json`` under a temporary name, then rename it: no reader sees half a file.

    Args:
        judge: recognizer (its file's name), sha256 and rows of an independent recogniser; without one the key is left out.

    Raises ValueError naming the row and the keys it lacks.
    """
    about = _plain({"run": run, "provenance": provenance, "rows": list(rows)} | ({"judge": judge} if judge else {}))
    _check_file(about, str(path))
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_metrics(path: Path | str) -> dict[str, Any]:
    """``run``, ``provenance``, ``rows`` and, where there was one, ``judge`` of a ``metrics.json``.

    Raises FileNotFoundError, or ValueError saying what is missing in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected metrics at {path}, got nothing there. Run the notebook 05_evaluation of that run.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, got something else ({error}). Run 05_evaluation again.") from error
    _check_file(about, str(path))
    for part in (about, about.get("judge")):
        if part is not None:
            part["rows"] = [_plain(LATER_KEYS) | row for row in part["rows"]]
    return about
