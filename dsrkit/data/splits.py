"""Who stands in which split: subjects are shared out so that no split knows a face of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dsrkit.data.pairs import read_lfw_pairs
from dsrkit.data.sources import Face, FolderSource, Source, SyntheticSource
from dsrkit.params import DataMigration
from dsrkit.runs import ROOT, resolve

SPLITS = ("train", "val", "test")
Splits = Mapping[str, tuple[Source, Sequence[Face]]]


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


def check_disjoint(splits: Splits) -> None:
    """Raises ValueError where a subject stands in two splits."""
    owner: dict[str, str] = {}
    for split, (_, faces) in splits.items():
        for face in faces:
            if owner.setdefault(face.subject, split) != split:
                raise ValueError(
                    f"Leak: subject {face.subject} stands in {owner[face.subject]} and in {split}. "
                    "Splits must not share subjects: remove the subject from one of them."
                )


def plan_splits(params: DataMigration) -> tuple[Splits, dict[str, pd.DataFrame]]:
    """The splits that the stage's parameters describe, and the verification pairs that come with the test source.

    A ``test_source_root`` is the whole test split, and ``test_fraction`` is not used.
    Raises FileNotFoundError or ValueError for sources that cannot serve.
    """
    source: Source
    if params.source == "made-up":
        source = SyntheticSource(params.subjects, params.images_per_subject, params.seed)
    else:
        source = FolderSource(resolve(params.source_root, ROOT / "data", "folder of faces (source_root)"))
    separate = bool(params.test_source_root)
    shares = split_subjects(
        [face.subject for face in source.faces],
        params.validation_fraction,
        0.0 if separate else params.test_fraction,
        params.seed,
    )
    split_of = {subject: split for split, people in shares.items() for subject in people}
    splits: dict[str, tuple[Source, Sequence[Face]]] = {
        split: (source, [face for face in source.faces if split_of[face.subject] == split]) for split in SPLITS if shares[split]
    }
    pairs = {}
    if separate:
        test = FolderSource(resolve(params.test_source_root, ROOT, "folder of test faces (test_source_root)"))
        splits["test"] = (test, test.faces)
    if params.test_pairs:
        pairs["test"] = read_lfw_pairs(resolve(params.test_pairs, ROOT, "list of test pairs (test_pairs)"))
    check_disjoint(splits)
    return splits, pairs
