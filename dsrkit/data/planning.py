"""From the stage's parameters to sources, splits, pairs and roles: what ``migrate`` is then asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dsrkit.data.align import open_aligner
from dsrkit.data.layout import SPLITS
from dsrkit.data.migration import Migration
from dsrkit.data.pairs import read_lfw_pairs
from dsrkit.data.sources import BinSource, Face, Source, SyntheticSource, open_source
from dsrkit.data.splits import Splits, check_disjoint, enrolled_roles, read_split_list, split_subjects, splits_of_source
from dsrkit.data.upgrade import Plan, Report, plan, upgrade
from dsrkit.params import DataMigration
from dsrkit.runs import ROOT, file_hash, resolve

ALIGNED_HERE = ("folder", "multi-pie")  # kinds whose photos may need alignment; the others are aligned, or native


def plan_splits(params: DataMigration) -> tuple[Splits, dict[str, pd.DataFrame]]:
    """The splits that the stage's parameters describe, and the verification pairs that come with the test source.

    A ``test_source_root`` is the whole test split, and ``test_fraction`` is not used. Where a list or the source names no
    validation subjects, ``validation_fraction`` of the training subjects are taken.
    Raises FileNotFoundError or ValueError for sources that cannot serve, a leak, or two test splits.
    """
    source = _training_source(params)
    faces = _shared_out(params, source)
    splits: dict[str, tuple[Source, Sequence[Face]]] = {split: (source, faces[split]) for split in SPLITS if faces[split]}
    pairs = {}
    if params.test_source_root:
        if "test" in splits:
            raise ValueError(
                f"test_source_root: expected no other test split beside it, got {len(faces['test'])} faces of the source itself. "
                "Leave test_source_root empty, or name no test split."
            )
        test = _open(params, "test_")
        splits["test"] = (test, [face for face in test.faces if face.split in ("", "test")])
        if isinstance(test, BinSource):
            pairs["test"] = test.pairs
    if params.test_pairs:
        pairs["test"] = read_lfw_pairs(resolve(params.test_pairs, ROOT, "list of test pairs (test_pairs)"))
    if pairs and "test" not in splits:
        raise ValueError("test_pairs: expected a test split beside the pairs, got none. Give test_source_root or test_fraction.")
    check_disjoint(splits)
    if params.enrolled and "test" in splits:
        splits["test"] = (splits["test"][0], _with_roles(splits["test"][1], params))
    return splits, pairs


def upgrade_source(params: DataMigration) -> Plan | Report | None:
    """Bring the older paired data set at ``source_root`` itself to HR 112×112, or say what that would change; see ``upgrade``."""
    if params.upgrade == "none":
        return None
    root, in_place = _root(params, ""), params.upgrade == "in-place"
    return plan(root, params.workers) if params.upgrade == "dry-run" else upgrade(root, params.workers, in_place)


def migration_of(params: DataMigration) -> Migration:
    """What the parameters ask to be done to every face."""
    return Migration(
        tuple(params.vlr_sizes), params.degradation, params.seed, tuple(params.set_aside), source_settings(params)
    )  # fmt: skip


def source_settings(params: DataMigration) -> dict[str, str]:
    """What made the HR faces, without paths of this machine: kinds, last folders, aligners, and hashes of their files."""
    settings = {"source": str(params.source)} if params.source == "made-up" else _settings_of(params, "")
    return settings | (_settings_of(params, "test_") if params.test_source_root else {})


def _settings_of(params: DataMigration, prefix: str) -> dict[str, str]:
    values = {name: str(getattr(params, prefix + name)) for name in ("source", "align")}
    values["root"] = _root(params, prefix).name
    match values["align"]:
        case "centre-crop":
            values["centre_share"] = str(params.centre_share)
        case "landmarks":
            values["landmarks"] = file_hash(_file(params, prefix + "landmarks"))
        case "yunet":
            values["detector"] = file_hash(_file(params, "detector"))
    if params.enlarge:
        values["enlarge"] = "true"
    return {prefix + name: value for name, value in values.items()}


def _root(params: DataMigration, prefix: str) -> Path:
    name = f"{prefix}source_root"
    return resolve(getattr(params, name), ROOT / "data", f"{prefix.replace('_', ' ')}source of faces ({name})")


def _file(params: DataMigration, name: str) -> Path:
    return resolve(getattr(params, name), ROOT, f"file ({name})")


def _training_source(params: DataMigration) -> Source:
    if params.source == "made-up":
        return SyntheticSource(params.subjects, params.images_per_subject, params.seed)
    return _open(params, "")


def _open(params: DataMigration, prefix: str) -> Source:
    """The source of the parameters ``source``, ``source_root``, ``align`` …, or of the same with ``test_`` before them."""
    kind, align = getattr(params, f"{prefix}source"), getattr(params, f"{prefix}align")
    options = {}
    if kind in ALIGNED_HERE:
        landmarks = _file(params, f"{prefix}landmarks") if align == "landmarks" else ""
        detector = _file(params, "detector") if align == "yunet" else ""
        share = params.centre_share
        options["aligner"] = open_aligner(align, share=share, landmarks=landmarks, detector=detector, enlarge=params.enlarge)
    if kind == "multi-pie":
        options |= {name: getattr(params, name) for name in ("cameras", "illuminations", "recordings", "sessions")}
    return open_source(kind, _root(params, prefix), **options)


def _shared_out(params: DataMigration, source: Source) -> dict[str, list[Face]]:
    """The faces of the training source by split; ``{}`` for a split without any."""
    subjects = [face.subject for face in source.faces]
    test_fraction = 0.0 if params.test_source_root else params.test_fraction
    if params.split_by == "ratio":
        return _by_subject(source.faces, split_subjects(subjects, params.validation_fraction, test_fraction, params.seed))
    if params.split_by == "list":
        split_of = read_split_list(_file(params, "split_list"), subjects)
        found = {split: [face for face in source.faces if split_of[face.subject] == split] for split in SPLITS}
    else:
        found = splits_of_source(source.faces, params.source)
    if not found["val"] and params.validation_fraction and found["train"]:
        train = found["train"]
        shares = split_subjects([face.subject for face in train], params.validation_fraction, 0.0, params.seed)
        found |= {split: _by_subject(train, shares)[split] for split in ("train", "val")}
    return found


def _by_subject(faces: Sequence[Face], shares: dict[str, list[str]]) -> dict[str, list[Face]]:
    split_of = {subject: split for split, people in shares.items() for subject in people}
    return {split: [face for face in faces if split_of[face.subject] == split] for split in SPLITS}


def _with_roles(faces: Sequence[Face], params: DataMigration) -> list[Face]:
    if named := [face.role for face in faces if face.role]:
        raise ValueError(
            f"enrolled: expected 0 with a test source that names its own gallery, got {params.enrolled} and {len(named)} faces "
            f"with a role, such as {named[0]!r}. Set enrolled to 0."
        )
    roles = enrolled_roles([face.name for face in faces], [face.subject for face in faces], params.enrolled, params.seed)
    return [replace(face, role=role) for face, role in zip(faces, roles, strict=True)]
