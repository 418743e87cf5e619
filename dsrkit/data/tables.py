"""The end of a migration: which faces stay, which are set aside, which are doubtful, and the tables that say so.

Every face that was planned ends up in exactly one of ``manifest.csv`` and ``set_aside.csv``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dsrkit.data.duplicates import duplicate_flags
from dsrkit.data.layout import (
    FLAG_COLUMNS,
    MANIFEST_COLUMNS,
    SET_ASIDE_COLUMNS,
    UNUSABLE,
    hr_folder,
    set_aside_picture,
    vlr_folder,
    write_table,
)
from dsrkit.data.onepass import Row
from dsrkit.data.pairs import make_pairs
from dsrkit.data.remaining import Key


def finish(
    dataset: Path,
    planned: Sequence[Key],
    rows: dict[Key, Row],
    refused: dict[Key, Row],
    set_aside: Collection[str],
    seed: int,
    pairs: Mapping[str, pd.DataFrame],
) -> pd.DataFrame:
    """Write every table, the manifest last, and move the files of faces that are set aside; return the manifest.

    Args:
        planned: every face, in the order that the manifest gets.
        rows: of the faces that were written, with ``sha256``, ``flags`` and ``hash``.
        refused: of the faces that could not be read, with the reason.
        set_aside: flags whose faces leave, but for splits in ``pairs``.

    Raises ValueError when nothing is left of a split, or pairs name a face that is not there.
    """
    flags = find_flags([rows[key] for key in planned if key in rows])
    about = {"flag": UNUSABLE, "other_split": "", "other_name": ""}
    leaving = {key: about | {"reason": row["reason"]} for key, row in refused.items()}
    for flag in flags[flags.flag.isin(list(set_aside)) & ~flags.split.isin(list(pairs))].to_dict("records"):
        told = {column: flag[column] for column in ("flag", "reason", "other_split", "other_name")}
        leaving.setdefault((flag["split"], flag["name"]), told)
    aside = [{**(rows | refused)[key], **leaving[key]} for key in planned if key in leaving]
    flags = flags[np.array([key not in leaving for key in zip(flags.split, flags.name, strict=True)], bool)]
    manifest = _manifest([rows[key] for key in planned if key not in leaving], flags)
    _check_splits({split for split, _ in planned}, manifest, aside)
    tables = {f"{split}_pairs.csv": table for split, table in pair_tables(manifest, pairs, seed).items()}
    tables |= {"set_aside.csv": pd.DataFrame(aside, columns=SET_ASIDE_COLUMNS), "flags.csv": flags}
    for row in aside:
        _move_away(dataset, row)
    for name, table in tables.items():
        write_table(dataset / name, table)
    write_table(dataset / "manifest.csv", manifest)  # last: it says that everything before it is there
    return manifest


def _manifest(kept: Sequence[Row], flags: pd.DataFrame) -> pd.DataFrame:
    status: dict[Key, list[str]] = {}
    for split, name, flag in zip(flags.split, flags.name, flags.flag, strict=True):
        status.setdefault((split, name), []).append(flag)
    texts = [" ".join(status.get((row["split"], row["name"]), ["ok"])) for row in kept]
    return pd.DataFrame(kept).reindex(columns=MANIFEST_COLUMNS).assign(status=texts)


def find_flags(rows: Sequence[Row]) -> pd.DataFrame:
    """Every flag of every face: those of a face by itself, then those of the same picture met twice."""
    alone = [
        (row["split"], row["subject"], row["name"], flag, reason, "", "") for row in rows for flag, reason in row["flags"].items()
    ]
    pictures = [row for row in rows if "flat" not in row["flags"]]  # a flat picture is like every other flat one
    faces = pd.DataFrame([(row["split"], row["subject"], row["name"]) for row in pictures], columns=FLAG_COLUMNS[:3])
    twice = duplicate_flags(faces, [row["hash"] for row in pictures])
    return pd.concat([twice, pd.DataFrame(alone, columns=FLAG_COLUMNS)], ignore_index=True)


def _check_splits(splits: Collection[str], manifest: pd.DataFrame, aside: Sequence[Row]) -> None:
    for split in sorted(splits):
        if not (manifest.split == split).any():
            reasons = [row["reason"] for row in aside if row["split"] == split]
            raise ValueError(
                f"{split}: expected faces, got none that can be used of {len(reasons)}. The first: {reasons[0]} "
                "Mend the files, or choose others."
            )


def pair_tables(table: pd.DataFrame, given: Mapping[str, pd.DataFrame], seed: int) -> dict[str, pd.DataFrame]:
    """The verification pairs of every split but ``train``: those given, else made from the subjects.

    Args:
        table: columns split, subject and name.

    Raises ValueError where none can be made, or given ones name a face that is not in ``table``.
    """
    tables = {}
    for split in sorted(set(table.split) - {"train"}):
        faces = table[table.split == split]
        tables[split] = given[split] if split in given else make_pairs(faces.name.tolist(), faces.subject.tolist(), seed)
        if lost := (set(tables[split].left) | set(tables[split].right)) - set(faces.name):
            raise ValueError(
                f"{split} pairs: expected files of the data set, got {len(lost)} that are not there, such as "
                f"{sorted(lost)[0]}. Give the list of pairs that belongs to these images."
            )
    return tables


def _move_away(dataset: Path, row: Row) -> None:
    """Take a face's files out of the folders that are read; the largest of them stays to be looked at."""
    folders = [vlr_folder(dataset, row["split"], size) for size in row.get("vlr_sizes", "").split()]
    picture = set_aside_picture(dataset, row["split"], row["name"])
    for folder in (*folders, hr_folder(dataset, row["split"])):
        if (file := folder / row["name"]).exists():
            picture.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, picture)
