"""What an upgrade did: a row a split, a row a file, and the files that stopped it. Written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import PIL

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.shrink import Outcome
from dsrkit.data.upgrade.ledger import Ledger
from dsrkit.data.upgrade.survey import Part, Problem, megabytes, readable
from dsrkit.runs import atomic_path

REPORT, FILES, PROBLEMS = "upgrade_report.json", "upgrade_files.csv", "upgrade_problems.csv"


@dataclass(frozen=True)
class Report:
    """``table``: a row a split (images, bytes, seconds of all runs); ``kept``: where the originals are, by split."""

    table: pd.DataFrame
    kept: dict[str, str]

    def __str__(self) -> str:
        total = self.table.sum(numeric_only=True)
        if not total.shrunk:
            return f"nothing to do: {int(total.images):,} images are {HR_SIZE}x{HR_SIZE}"
        ready = int(total.images - total.shrunk)
        kept = ", ".join(f"{split}: {folder}" for split, folder in self.kept.items()) or "replaced"
        return (
            f"{int(total.shrunk):,} images shrunk to {HR_SIZE}x{HR_SIZE} and checked, {ready:,} had that size; "
            f"{megabytes(total.bytes_before)} became {megabytes(total.bytes_after)}; {total.seconds:,.1f} s, "
            f"{total.shrunk / max(total.seconds, 1e-3):,.0f} images/s; originals {kept}"
        )


def make_report(parts: Sequence[Part], ledger: Ledger) -> Report:
    """From the ledger, over all runs, for the files that are in the tree."""
    rows = []
    for part in parts:
        shrunk = _shrunk(part, ledger)
        seconds = ledger.seconds.get(part.split, 0.0)
        rows.append(
            {
                "split": part.split,
                "images": len(part.larger) + len(part.ready),
                "shrunk": len(shrunk),
                "bytes_before": sum(outcome.bytes_before for outcome in shrunk),
                "bytes_after": sum(outcome.bytes_after for outcome in shrunk),
                "seconds": round(seconds, 3),
                "images_per_second": round(len(shrunk) / seconds, 1) if seconds else 0.0,
            }
        )
    return Report(pd.DataFrame(rows), dict(ledger.kept))


def _shrunk(part: Part, ledger: Ledger) -> list[Outcome]:
    here = {look.name for look in (*part.larger, *part.ready)}
    return [one for name, one in sorted(ledger.done.get(part.split, {}).items()) if one.width > HR_SIZE and name in here]


def write_report(root: Path, parts: Sequence[Part], ledger: Ledger) -> Report:
    """Make the report and leave it in the tree: ``upgrade_report.json``, and ``upgrade_files.csv`` with SHA-256 by file."""
    report = make_report(parts, ledger)
    files = [{"split": part.split, **outcome._asdict()} for part in parts for outcome in _shrunk(part, ledger)]
    with atomic_path(root / FILES) as temporary:
        pd.DataFrame(files).drop(columns="problem").to_csv(temporary, index=False, errors="surrogateescape")
    about = {
        "size": f"{HR_SIZE}x{HR_SIZE}",
        "resize": f"bicubic, antialiased, Pillow {PIL.__version__}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": len(ledger.runs),
        "originals": report.kept or "replaced",
        "splits": report.table.to_dict(orient="records"),
    }
    with atomic_path(root / REPORT) as temporary:
        temporary.write_text(json.dumps(about, indent=1))
    (root / PROBLEMS).unlink(missing_ok=True)
    return report


def stop_at(root: Path, problems: Sequence[Problem]) -> None:
    """Write the list of files to be seen to. Raises ValueError, always."""
    with atomic_path(root / PROBLEMS) as temporary:
        pd.DataFrame(problems).drop(columns="stops").to_csv(temporary, index=False, errors="surrogateescape")
    first = "\n".join(f"  {problem.split}: {readable(problem.problem)}" for problem in problems[:5])
    raise ValueError(
        f"{root}: expected images that can be shrunk to {HR_SIZE}x{HR_SIZE}, got {len(problems)} that cannot:\n{first}\n"
        f"All are listed in {PROBLEMS}. See to them (one that is taken out leaves its VLR face alone), then run again: "
        "what is done is kept."
    )
