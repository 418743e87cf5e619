"""What an upgrade would do: a table, the files to be seen to, seconds and bytes. Writes nothing into the tree."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.shrink import Look, RefusedError, cores, is_png, shrunk, worker_pool
from dsrkit.data.upgrade.survey import Part, Problem, check_root, looks_at, megabytes, readable, survey

PORTION = 4096  # files that an upgrade in place writes beside before it moves them: 90 MB
SAMPLE = 64  # files made on trial, to tell seconds and bytes
BLOCK = 4096  # bytes that a file takes on disk are a multiple of it


@dataclass(frozen=True)
class Plan:
    """A dry run. ``table`` has a row a folder, ``problems`` a row a file (those that ``stop`` first); bytes, seconds."""

    table: pd.DataFrame
    problems: pd.DataFrame
    seconds: float
    needed_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        room = "enough" if self.free_bytes >= self.needed_bytes else "NOT ENOUGH"
        stopping = int(self.problems.stops.sum())
        return (
            f"{int(self.table.to_shrink.sum()):,} images to shrink to {HR_SIZE}x{HR_SIZE}, about {self.seconds:,.0f} s; "
            f"about {megabytes(self.needed_bytes)} of disk needed, {megabytes(self.free_bytes)} free: {room}; "
            f"{stopping:,} files must be seen to first, {len(self.problems) - stopping:,} more are worth a look"
        )


def plan(root: Path | str, workers: int = 0, in_place: bool = False) -> Plan:
    """Say what ``upgrade`` would do with the same arguments, from the headers of all files and a trial of a few.

    Args:
        root: folder with ``{train,val,test}_processed/hr_images``.
        workers: processes, 0 for one a CPU core.

    Raises FileNotFoundError without a folder, ValueError for a folder of another layout.
    """
    root, workers = Path(root), workers or cores()
    check_root(root)
    rows: list[dict] = []
    problems: list[Problem] = []
    with worker_pool(workers) as pool:
        parts = survey(root, pool)
        each, share = try_some(parts, in_place)
        each /= min(workers, cores())
        for part in parts:
            rows.append(_hr_row(part, each, share))
            problems += part.problems
            for folder in sorted(path for path in part.hr.parent.glob("vlr_images*") if path.is_dir()):
                looks = looks_at(pool, folder, sorted(name for name in os.listdir(folder) if is_png(name)))
                rows.append(_vlr_row(part.split, folder.name, looks))
                problems += _vlr_problems(part, folder.name, looks)
    problems = [replace(one, name=readable(one.name), problem=readable(one.problem)) for one in problems]
    listed = pd.DataFrame(problems, columns=list(Problem.__annotations__)).astype({"stops": bool})
    return Plan(
        table=pd.DataFrame(rows),
        problems=listed.sort_values("stops", ascending=False, kind="stable", ignore_index=True),
        seconds=sum(len(part.larger) for part in parts) * each,
        needed_bytes=needed(parts, share, in_place),
        free_bytes=shutil.disk_usage(root).free,
    )


def try_some(parts: Sequence[Part], in_place: bool) -> tuple[float, float]:
    """Make a few of the new files, in memory: seconds each in one process, bytes after / bytes before."""
    todo = [part.hr / look.name for part in parts for look in part.larger]
    some = todo[:: max(1, -(-len(todo) // SAMPLE))]
    before = after = 0
    start = time.perf_counter()
    for path in some:
        with suppress(RefusedError, OSError):  # the upgrade names it
            content = path.read_bytes()
            _, new = shrunk(content, path.name, HR_SIZE, in_place)
            before, after = before + len(content), after + len(new)
    return (time.perf_counter() - start) / max(len(some), 1), after / before if before else 1.0


def needed(parts: Sequence[Part], share: float, in_place: bool) -> int:
    """Bytes of disk that an upgrade takes on top while the originals are there. ``share``: bytes after / before."""
    larger = [look.bytes for part in parts for look in part.larger]
    if in_place:
        larger = sorted(larger, reverse=True)[:PORTION]
    copied = [look.bytes for part in parts if part.larger and not in_place for look in (*part.ready, *part.others)]
    return int(share * sum(larger)) + sum(copied) + BLOCK * (len(larger) + len(copied))


def _hr_row(part: Part, seconds_each: float, share: float) -> dict:
    larger, ready = sum(look.bytes for look in part.larger), sum(look.bytes for look in part.ready)
    return {
        "split": part.split,
        "folder": part.hr.name,
        "images": len(part.larger) + len(part.ready),
        "sizes": _sizes([*part.larger, *part.ready]),
        "to_shrink": len(part.larger),
        "stopping": sum(problem.stops for problem in part.problems),
        "other_files": len(part.others),
        "bytes": larger + ready,
        "bytes_after": int(larger * share) + ready,
        "seconds": len(part.larger) * seconds_each,
    }


def _vlr_row(split: str, folder: str, looks: Sequence[Look]) -> dict:
    good = [look for look in looks if not look.problem]
    weight = sum(look.bytes for look in good)
    row = {"split": split, "folder": folder, "images": len(good), "sizes": _sizes(good), "to_shrink": 0, "stopping": 0}
    return row | {"other_files": 0, "bytes": weight, "bytes_after": weight, "seconds": 0.0}


def _vlr_problems(part: Part, folder: str, faces: Sequence[Look]) -> list[Problem]:
    """VLR files that cannot be read, and those of either side without a partner. They do not stop an upgrade of the HR side."""
    hr, vlr = {look.name for look in (*part.larger, *part.ready)}, {look.name for look in faces}
    bad = {problem.name for problem in part.problems}
    notes = [(folder, look.name, look.problem) for look in faces if look.problem]
    for where, there, kind, names in (
        (part.hr.name, folder, "a VLR", hr - vlr),
        (folder, part.hr.name, "an HR", vlr - hr - bad),
    ):
        text = f"expected {kind} face of that name in {there}, got none. Add it, or take this one out."
        notes += [(where, name, f"{name}: {text}") for name in sorted(names)]
    return [Problem(part.split, where, name, problem, stops=False) for where, name, problem in notes]


def _sizes(looks: Iterable[Look]) -> str:
    counted = Counter((look.width, look.height) for look in looks).most_common(4)
    return ", ".join(f"{width}x{height}: {count:,}" for (width, height), count in counted)
