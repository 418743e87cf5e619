"""From a source to a data set: subject-disjoint splits of HR/VLR pairs, a manifest, and nothing dropped in silence.

``layout`` says where everything lies. A run that was stopped, by a kill or a full disk, goes on where it was when it is started
again; a data set that is whole is left alone, or given the VLR sizes that it lacks.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dsrkit.data.checks import FLAGS
from dsrkit.data.degrade import degradation_settings, parse_size
from dsrkit.data.layout import (
    MANIFEST_COLUMNS,
    canonical_size,
    dataset_hash,
    degradation_of,
    hash_of,
    hr_folder,
    read_manifest,
    read_rows,
    read_settings,
    vlr_folder,
    write_settings,
    write_table,
)
from dsrkit.data.onepass import Job, Row, Task, run, with_progress
from dsrkit.data.remaining import Journal, Key, plan_tasks
from dsrkit.data.splits import Splits, check_disjoint, check_names
from dsrkit.data.tables import finish, pair_tables

__all__ = ["Migration", "dataset_hash", "degradation_of", "hr_folder", "migrate", "read_manifest", "vlr_folder"]


@dataclass(frozen=True)
class Migration:
    """What is done to every face, written into the data set as ``dataset.json``.

    Args:
        seed: of the pairs, and of degradations that draw.
        set_aside: flags (``checks.FLAGS``) whose faces leave the data set; the others stay in it and are listed.
        source: what else made the HR faces (``splits.source_settings``), so that another source is not mixed in.
    """

    vlr_sizes: tuple[str, ...]
    degradation: str
    seed: int
    set_aside: tuple[str, ...] = ("conflict",)
    source: Mapping[str, str] = field(default_factory=dict)


def migrate(
    splits: Splits,
    dataset: Path,
    migration: Migration,
    pairs: Mapping[str, pd.DataFrame] | None = None,
    workers: int = 2,
) -> pd.DataFrame:
    """Write every face of every split as HR and as each VLR size; return the manifest.

    Args:
        splits: per split its source and the faces of that source that belong to it.
        dataset: folder to fill. A whole data set made with the same settings from the same faces is left alone, but for VLR
            sizes that it lacks and for files that are gone, which are made.
        pairs: verification pairs by split, where they are given; the others are made from the subjects. A split whose pairs
            are given keeps every face that can be read: its protocol says which faces count.
        workers: processes; they make the same files, however many they are.

    Raises ValueError when a split is empty, a subject stands in two splits, or a folder holds another data set; OSError when
    the disk is full, RuntimeError when a process was killed: what is done then stays, and the same call goes on from there.
    """
    pairs = pairs or {}
    _check_request(splits, migration, workers)
    planned = [(split, face.subject, face.name) for split, (_, faces) in splits.items() for face in faces]
    pair_tables(pd.DataFrame(planned, columns=MANIFEST_COLUMNS[:3]), pairs, migration.seed)  # fails now, not after hours
    settings, whole = _settings(splits, migration, pairs), (dataset / "manifest.csv").exists()
    _check_settings(dataset, settings, whole)
    journal = Journal(dataset)
    known = _known(dataset, journal, whole)
    begun = (size for row in known.values() for size in row["vlr_sizes"].split())
    sizes = sorted({*map(canonical_size, migration.vlr_sizes), *begun}, key=parse_size)  # what was begun is finished too
    job = Job(dataset, {split: source for split, (source, _) in splits.items()}, migration.degradation, migration.seed)
    with _clear_stops(dataset):
        if not whole:
            write_settings(dataset, settings)
        tasks = plan_tasks(splits, dataset, sizes, known, _names_set_aside(dataset) if whole else set())
        if whole and not tasks:
            return read_manifest(dataset)
        refused = _make(job, tasks, known, journal, workers)
        if whole:
            manifest = _add_sizes(dataset, refused, sizes)
        else:
            order = [(split, name) for split, _, name in planned]
            manifest = finish(dataset, order, known, refused, migration.set_aside, migration.seed, pairs)
    journal.remove()
    return manifest


def _check_request(splits: Splits, migration: Migration, workers: int) -> None:
    if workers < 1:
        raise ValueError(f"workers: expected 1 process or more, got {workers}. Leave it out for two.")
    if not migration.vlr_sizes:
        raise ValueError("vlr_sizes: expected one VLR size or more, such as ('16x16',), got none. Name the sizes to make.")
    if unknown := set(migration.set_aside) - set(FLAGS):
        raise ValueError(f"set_aside: expected flags among {', '.join(FLAGS)}, got {', '.join(sorted(unknown))}. Correct it.")
    for split, (_, faces) in splits.items():
        if not faces:
            raise ValueError(f"{split}: expected faces, got none. Give it some, or leave the split out.")
    check_disjoint(splits)
    check_names(splits)


def _settings(splits: Splits, migration: Migration, pairs: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    faces = [(split, face.subject, face.name, face.role) for split, (_, faces) in splits.items() for face in faces]
    return {
        "faces": hash_of(json.dumps(faces)),
        "pairs": {split: hash_of(table.to_csv(index=False)) for split, table in pairs.items()},
        "source": dict(migration.source),
        "degradation": migration.degradation,
        "degradation_settings": degradation_settings(migration.degradation),
        "seed": migration.seed,
        "set_aside": sorted(migration.set_aside),
    }


def _check_settings(dataset: Path, settings: Mapping[str, Any], whole: bool) -> None:
    """Raises ValueError where the folder holds, or began to be, a data set of other settings."""
    recorded = read_settings(dataset)
    if recorded == json.loads(json.dumps(settings)) or not (recorded or whole or any(dataset.glob("*_processed/*/*"))):
        return
    different = sorted(key for key in {*recorded, *settings} if recorded.get(key) != settings.get(key))
    raise ValueError(
        f"{dataset}: expected an empty folder or this very data set, got {'one' if whole else 'an unfinished one'} made with "
        f"other settings ({', '.join(different)}). Remove that folder (and no more of the run), or give the run another name. "
        "To bring an older data set to 112×112 in place: python -m dsrkit.data.upgrade."
    )


def _known(dataset: Path, journal: Journal, whole: bool) -> dict[Key, Row]:
    """What is said to be done: by the manifest of a whole data set, and by the journal of an unfinished run."""
    rows = read_rows(dataset / "manifest.csv") if whole else []
    return {(row["split"], row["name"]): row for row in [*rows, *journal.read()]}


def _names_set_aside(dataset: Path) -> set[Key]:
    return {(row["split"], row["name"]) for row in read_rows(dataset / "set_aside.csv")}


def _make(job: Job, tasks: Sequence[Task], known: dict[Key, Row], journal: Journal, workers: int) -> dict[Key, Row]:
    """Carry out the tasks and write down what is done, in ``known`` and in the journal; return what was refused.

    Raises ValueError where HR pixels are not those that the manifest or the journal remember.
    """
    refused: dict[Key, Row] = {}
    for rows in with_progress(run(job, tasks, workers), sum(len(task.faces) for task in tasks)):
        done = []
        for row in rows:
            key = (row["split"], row["name"])
            if row["reason"]:
                refused[key] = row
                continue
            before = known.get(key, {"sha256": row["sha256"], "vlr_sizes": ""})
            _check_same_pixels(job, before, row)
            sizes = {*before["vlr_sizes"].split(), *row["vlr_sizes"].split()}
            known[key] = {**before, **row, "vlr_sizes": " ".join(sorted(sizes, key=parse_size))}
            done.append(known[key])
        journal.append(done)
    return refused


def _check_same_pixels(job: Job, before: Row, row: Row) -> None:
    if before["sha256"] != row["sha256"]:
        file = hr_folder(job.dataset, row["split"]) / row["name"]
        raise ValueError(
            f"{file}: expected the HR face that was made first, got other pixels. Remove that file to have it made again "
            "from the source; if the source's images have changed, make a new data set under another run."
        )


def _add_sizes(dataset: Path, refused: Mapping[Key, Row], sizes: Sequence[str]) -> pd.DataFrame:
    """The manifest of a whole data set after VLR sizes were added, or lost files made again."""
    if refused:
        first = next(iter(refused.values()))
        raise ValueError(
            f"{dataset}: expected to read again what was read before, got {len(refused)} faces that cannot be, the first: "
            f"{first['reason']} Put the source's files back."
        )
    manifest = read_manifest(dataset).assign(vlr_sizes=" ".join(sizes))
    write_table(dataset / "manifest.csv", manifest)
    return manifest


@contextmanager
def _clear_stops(dataset: Path) -> Iterator[None]:
    """What ends a run from outside, said so that one knows how to go on."""
    go_on = "What is done stays: run the same again, and it goes on from there."
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = next(folder for folder in (dataset, *dataset.parents) if folder.exists())
        free = shutil.disk_usage(there).free / 1e6
        raise OSError(
            error.errno, f"{dataset}: expected room on the disk, got {free:,.0f} MB free of it. Make room. {go_on}"
        ) from error
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{dataset}: expected every process to work to the end, got one that ended at once or was killed. If for want of "
            f"memory: give fewer workers. In a script: call it below `if __name__ == '__main__':`. {go_on}"
        ) from error
