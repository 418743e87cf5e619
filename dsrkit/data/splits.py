"""Who stands in which split: by seeded ratio, by a list, or as the source itself says; no split knows a face of another."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dsrkit.data.layout import SPLITS
from dsrkit.data.sources import Face, Source

Splits = Mapping[str, tuple[Source, Sequence[Face]]]
LEFT_OUT = "none"  # what a list writes in the place of a split


def split_subjects(subjects: Sequence[str], validation_fraction: float, test_fraction: float, seed: int) -> dict[str, list[str]]:
    """Share out subjects by seeded draw; at least one subject for each fraction above 0.

    Raises ValueError when nobody is left to train on.
    """
    people = np.random.default_rng(seed).permutation(sorted(set(subjects)))
    counts = [max(1, round(len(people) * part)) if part > 0 else 0 for part in (validation_fraction, test_fraction)]
    if sum(counts) >= len(people):
        raise ValueError(
            f"Splits: expected subjects left for training, got {len(people)} subjects for fractions "
            f"{validation_fraction} (validation) and {test_fraction} (test). Lower the fractions or add subjects."
        )
    val, test, train = np.split(people, np.cumsum(counts))
    return {"train": sorted(train), "val": sorted(val), "test": sorted(test)}


def read_split_list(path: Path, subjects: Sequence[str]) -> dict[str, str]:
    """The split of every subject, by a list: a CSV table with columns subject and split, or lines ``subject split``.

    ``none`` leaves a subject out. Raises FileNotFoundError, or ValueError for a split of another name, a subject with two
    splits, one that is not among ``subjects``, or one of ``subjects`` that is not in the list.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a list of subjects and splits at {path}, got nothing there. Give its path.")
    if path.suffix.lower() == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if missing := {"subject", "split"} - set(table.columns):
            raise ValueError(f"{path}: expected columns subject and split, got {list(table.columns)}. Add {sorted(missing)}.")
        lines = list(zip(table["subject"], table["split"], strict=True))
    else:
        words = [line.rsplit(maxsplit=1) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if short := [line for line in words if len(line) < 2]:
            raise ValueError(f"{path}: expected a subject and a split on each line, got {short[0]}. Write both.")
        lines = [(subject, split) for subject, split in words]
    split_of: dict[str, str] = {}
    for subject, split in lines:
        if split not in (*SPLITS, LEFT_OUT):
            raise ValueError(
                f"{path}: expected a split among {', '.join(SPLITS)}, or {LEFT_OUT}, got {split!r} for {subject}. Correct it."
            )
        if split_of.setdefault(unicodedata.normalize("NFC", subject), split) != split:
            raise ValueError(f"{path}: expected one split for {subject}, got {split_of[subject]} and {split}. Remove one line.")
    if strange := split_of.keys() - set(subjects):
        raise ValueError(
            f"{path}: expected subjects of the source, got {len(strange)} others, such as {min(strange)}. Correct the list."
        )
    if missing_ones := set(subjects) - split_of.keys():
        raise ValueError(
            f"{path}: expected every subject of the source, got none of {len(missing_ones)}, such as {min(missing_ones)}. "
            f"Add them; the split {LEFT_OUT} leaves a subject out."
        )
    return split_of


def splits_of_source(faces: Sequence[Face], where: str) -> dict[str, list[Face]]:
    """The faces by the split that the source itself gives them. Raises ValueError for a face without one."""
    if without := [face for face in faces if face.split not in SPLITS]:
        raise ValueError(
            f"{where}: expected a source that tells the split of each face, got {without[0].split!r} for {without[0].origin} and "
            f"{len(without) - 1} others. Split by ratio or by list."
        )
    return {split: [face for face in faces if face.split == split] for split in SPLITS}


def alike_key(subject: str) -> str:
    """What a name has in common with other ways to write it: case, accents' encoding, blanks, underscores, width."""
    return " ".join(unicodedata.normalize("NFKC", subject).casefold().replace("_", " ").split())


def check_disjoint(splits: Splits) -> None:
    """Raises ValueError where a subject stands in two splits, or two subjects' names differ only in how they are written.

    The latter is an error too, not a warning: were they one person, the split would leak, or a pair of the same person would
    count as different people; and it is mended by renaming a folder.
    """
    owner: dict[str, tuple[str, str]] = {}
    for split, subject in dict.fromkeys((split, face.subject) for split, (_, faces) in splits.items() for face in faces):
        other, known = owner.setdefault(alike_key(subject), (split, subject))
        if other != split and known == subject:
            raise ValueError(
                f"Leak: subject {subject} stands in {other} and in {split}. "
                "Splits must not share subjects: remove the subject from one of them, or rename it if they are two people."
            )
        if known != subject:
            raise ValueError(
                f"Alike: expected names that differ by more than case, blanks or accents' encoding, got subjects {known!r} "
                f"in {other} and {subject!r} in {split}. Merge their folders, or rename one if they are two people."
            )


def check_names(splits: Splits) -> None:
    """Raises ValueError where two faces of a split would get one file name, also on a file system that ignores case."""
    for split, (_, faces) in splits.items():
        origin: dict[str, str] = {}
        for face in faces:
            other = origin.setdefault(unicodedata.normalize("NFC", face.name).casefold(), face.origin)
            if other != face.origin:
                raise ValueError(
                    f"{split}: expected a file name of its own for each face, got {face.name} for {other} and for {face.origin}. "
                    "Rename one of them."
                )


def enrolled_roles(names: Sequence[str], subjects: Sequence[str], enrolled: int, seed: int) -> list[str]:
    """``gallery`` for ``enrolled`` images of each subject with more than that, ``probe`` for all others.

    Which ones is drawn by SHA-256 of seed and file name: the same on any machine, in any order, whoever else is in the set.
    Probes of subjects without a gallery image are strangers to it.
    Raises ValueError when no subject has enough images.
    """
    if enrolled < 1:
        raise ValueError(f"enrolled: expected 1 or more gallery images a subject, got {enrolled}.")
    draws = [hashlib.sha256(f"{seed} {unicodedata.normalize('NFC', name)}".encode()).hexdigest() for name in names]
    table = pd.DataFrame({"subject": list(subjects), "draw": draws})
    groups = table.groupby("subject").draw
    images = groups.transform("size")
    if not (images > enrolled).any():
        raise ValueError(
            f"enrolled: expected a subject with more than {enrolled} images, got {images.max() if len(images) else 0} at most. "
            "Lower enrolled, or give more images."
        )
    chosen = (groups.rank(method="first") <= enrolled) & (images > enrolled)
    return np.where(chosen, "gallery", "probe").tolist()
