"""The upgrade itself: write beside, check, then swap folders or move file by file; finish what a killed run began."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from tqdm.auto import tqdm

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.layout import hr_folder
from dsrkit.data.shrink import CHUNK, cores, shrink_all, worker_pool
from dsrkit.data.upgrade.dry_run import PORTION, needed, try_some
from dsrkit.data.upgrade.ledger import Ledger
from dsrkit.data.upgrade.report import Report, make_report, stop_at, write_report
from dsrkit.data.upgrade.survey import Part, Problem, check_root, chunks, megabytes, new_folder, quoted, survey
from dsrkit.runs import is_interactive

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class _Work:
    """What the steps share."""

    root: Path
    ledger: Ledger
    pool: Executor
    in_place: bool
    bar: tqdm


def upgrade(root: Path | str, workers: int = 0, in_place: bool = False, progress: bool | None = None) -> Report:
    """Shrink every HR image of the tree at ``root`` to 112×112 (Pillow's bicubic, antialiased). VLR images stay as they are.

    Args:
        root: folder with ``{train,val,test}_processed/hr_images``.
        workers: processes, 0 for one a CPU core.
        in_place: replace the originals, a portion at a time; they are kept as ``hr_images_160x160`` otherwise.
        progress: show a bar; by default only in a person's notebook.

    A second call does nothing. Raises FileNotFoundError and ValueError as ``plan`` does; RuntimeError while another upgrade is
    at work; OSError when the disk is full; ValueError when files are left that cannot be shrunk. The originals are safe
    whatever is raised, and the next call goes on where this one stopped.
    """
    root = Path(root)
    check_root(root)
    with Ledger(root) as ledger, worker_pool(workers or cores()) as pool:
        _finish_swap(root, ledger)
        parts = survey(root, pool)
        _clear(root, parts)
        problems = [problem for part in parts for problem in part.problems]
        count = sum(len(_names(part, in_place)) for part in parts)
        hidden = not (is_interactive() if progress is None else progress)
        with tqdm(total=count, unit=" images", smoothing=0.05, disable=hidden) as bar:
            problems += _carry_out(parts, _Work(root, ledger, pool, in_place, bar), bool(problems))
        if problems:
            stop_at(root, problems)
        if ledger.empty:
            return make_report(parts, ledger)
        report = write_report(root, parts, ledger)
        ledger.remove()
        return report


def _carry_out(parts: Sequence[Part], work: _Work, stopped: bool) -> list[Problem]:
    parts = [part for part in parts if part.larger]
    if not parts:
        return []
    _check_kind(parts, work)
    with _explained(parts, work):
        if work.in_place:
            return [problem for part in parts for problem in _replace_files(part, work)]
        problems = [problem for part in parts for problem in _write_beside(part, _names(part), work)]
        if not (problems or stopped):
            _swap_folders(parts, work)
        return problems


def _names(part: Part, in_place: bool = False) -> list[str]:
    """Files that get a new one: all, where the whole folder is replaced; none where nothing is to be shrunk."""
    looks = [*part.larger, *([] if in_place else [*part.ready, *part.others])]
    return [look.name for look in looks] if part.larger else []


def _write_beside(part: Part, names: Sequence[str], work: _Work) -> list[Problem]:
    part.new.mkdir(exist_ok=True)
    shutil.copymode(part.hr, part.new)
    done = work.ledger.done[part.split]
    groups = chunks(names, CHUNK)
    known = [{name: done[name] for name in group if name in done} for group in groups]
    problems = []
    made = work.pool.map(shrink_all, repeat(part.hr), repeat(part.new), groups, repeat(HR_SIZE), known, repeat(work.in_place))
    for outcomes in made:
        work.ledger.add(part.split, outcomes)
        work.bar.update(len(outcomes))
        problems += [Problem(part.split, part.hr.name, one.name, one.problem) for one in outcomes if one.problem]
    return problems


def _replace_files(part: Part, work: _Work) -> list[Problem]:
    problems = []
    for names in chunks(_names(part, in_place=True), PORTION):
        found = _write_beside(part, names, work)
        _flush()
        for name in set(names) - {problem.name for problem in found}:
            os.replace(part.new / name, part.hr / name)
        problems += found
    shutil.rmtree(part.new)  # empty, unless an earlier run was not in place
    return problems


def _swap_folders(parts: Sequence[Part], work: _Work) -> None:
    for part in parts:
        names = set(_names(part))
        for folder in (part.hr, part.new):
            if changed := names ^ set(os.listdir(folder)):
                raise ValueError(
                    f"{folder}: expected the {len(names)} files of the start, got changes: {quoted(sorted(changed))}. "
                    "Leave the tree alone, and run again."
                )
    _flush()
    work.ledger.begin_swaps({part.split: part.kept.name for part in parts})
    for part in parts:
        os.rename(part.hr, part.kept)
        os.rename(part.new, part.hr)
    work.ledger.end_swaps()


def _finish_swap(root: Path, ledger: Ledger) -> None:
    """Do the second rename, where a kill came between the two. A split that has had none is looked at anew, like any other."""
    for split in ledger.swaps:
        hr = hr_folder(root, split)
        if not hr.exists():
            os.rename(new_folder(hr), hr)
    if ledger.swaps:
        ledger.end_swaps()


def _clear(root: Path, parts: Sequence[Part]) -> None:
    """Remove what killed runs left: temporary files, and new files whose originals are gone or need none any more."""
    for path in root.glob(".upgrade_*.tmp"):
        path.unlink()
    for part in parts:
        if part.new.is_dir():
            for name in set(os.listdir(part.new)) - set(_names(part)):
                (part.new / name).unlink()
            if not part.larger:
                part.new.rmdir()


def _flush() -> None:
    """Everything written so far is on the disk, not only in memory: whatever is renamed next survives a power cut."""
    if hasattr(os, "sync"):  # not on Windows
        os.sync()


def _check_kind(parts: Sequence[Part], work: _Work) -> None:
    if (work.root / "manifest.csv").exists():
        raise ValueError(
            f"{work.root}: expected a tree of the older layout, got one with a manifest, whose HR faces are {HR_SIZE}x{HR_SIZE} "
            "from the start, and here are not. Somebody changed them: make the data set again with stage 01."
        )
    for part in parts:
        if not work.in_place and os.path.lexists(part.kept):
            raise ValueError(
                f"{part.kept}: expected the name to be free for the originals, got something there. Move it, or upgrade in place."
            )
    if (short := _missing_bytes(parts, work)) > 0:
        raise OSError(errno.ENOSPC, _disk_full(work, short))


def _missing_bytes(parts: Sequence[Part], work: _Work) -> int:
    """Disk that is needed and not free; what an earlier run wrote counts as there."""
    _, share = try_some(parts, work.in_place)
    there = 0 if work.in_place else sum(one.bytes_after for part in parts for one in work.ledger.done[part.split].values())
    return needed(parts, share, work.in_place) - there - shutil.disk_usage(work.root).free


def _disk_full(work: _Work, short: int) -> str:
    done = sum(map(len, work.ledger.done.values()))
    missing = megabytes(short) if short > 0 else "or a limit of yours that is reached, some"
    return (
        f"{work.root}: expected room for the new files, got a disk that is full, {missing} short. "
        f"Free it, or upgrade in place, then run again: the originals are safe, and {done:,} new files are kept."
    )


@contextmanager
def _explained(parts: Sequence[Part], work: _Work) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{work.root}: expected the worker processes to live, got one that was ended (out of memory?). Run again, with fewer "
            "workers if it happens again: what is done is kept."
        ) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, _disk_full(work, _missing_bytes(parts, work))) from error
