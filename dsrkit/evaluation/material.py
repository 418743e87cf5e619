"""What an evaluation is about: faces, pairs, gallery, probes and strangers, and the validation split.

The manifest's roles say who is enrolled; where it has none, ``native.searched`` says how they are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from dsrkit.data.faces import FaceSet, open_split, read_pairs
from dsrkit.data.layout import read_manifest
from dsrkit.evaluation.native import NATIVE, NATIVE_HR, conditions_of, hr_gallery, searched
from dsrkit.evaluation.protocols import folds_left_alone
from dsrkit.evaluation.systems import System
from dsrkit.params import Evaluation
from dsrkit.recognition import QUALITY_FACES
from dsrkit.runs import Run, resolve

PROTOCOLS = ("both-lr", "hr-lr", "hr+lr")

Pairs = tuple[Int[np.ndarray, "p 2"], Bool[np.ndarray, " p"], Int[np.ndarray, " p"]]


@dataclass(frozen=True)
class Trial:
    """The test split with its pairs, and its gallery, probes and strangers; the validation split for thresholds.

    ``conditions`` says which of the probes were taken under which condition. ``validation_pairs`` are pairs, and whether each
    is genuine, to fit probabilities on; None where there are none, or where validation is what is tested. ``mugshots`` are the
    gallery as HR faces, where native faces have such a gallery.
    """

    params: Evaluation
    faces: FaceSet
    pairs: Int[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    folds: Int[np.ndarray, " p"]
    gallery: Int[np.ndarray, " g"]
    probes: Int[np.ndarray, " q"]
    validation: FaceSet
    conditions: dict[str, Bool[np.ndarray, " q"]] = field(default_factory=dict)
    validation_pairs: tuple[Int[np.ndarray, "v 2"], Bool[np.ndarray, " v"]] | None = None
    mugshots: FaceSet | None = None

    @cached_property
    def looked_at(self) -> Int[np.ndarray, " k"]:
        """The faces of which image quality is measured, drawn by seed: SSIM of thousands takes longer than all the rest."""
        return some_rows(len(self.faces), QUALITY_FACES, self.params.seed)

    @cached_property
    def protocols(self) -> dict[str, Int[np.ndarray, " q"]]:
        """The probes of each protocol, the first protocol being the one that stands for the evaluation."""
        if self.faces.has_hr:
            return dict.fromkeys(PROTOCOLS, self.probes)
        found: dict[str, Int[np.ndarray, " q"]] = {}
        for gallery in (NATIVE, NATIVE_HR) if self.mugshots else (NATIVE,):
            found |= {gallery: self.probes}
            found |= {f"{gallery}-{name}": self.probes[there] for name, there in self.conditions.items()}
        return found

    def takes(self, systems: Sequence[System]) -> list[System]:
        """The systems that these faces can be shown to: without HR faces, none that looks at HR."""
        return [system for system in systems if self.faces.has_hr or system.restorer != "hr"]


def some_rows(count: int, most: int, seed: int) -> Int[np.ndarray, " k"]:
    """All rows, or ``most`` of them by seed; ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def open_trial(run: Run, params: Evaluation) -> Trial:
    """Open what is evaluated. Probes are the faces of enrolled subjects and, after them, of strangers.

    Raises FileNotFoundError or ValueError for a data set that cannot serve.
    """
    if params.split == "val" and params.threshold_fpir:
        raise ValueError(
            "threshold_fpir: expected 0 for split val, whose faces would choose the threshold that judges them, got "
            f"{params.threshold_fpir}. Set threshold_fpir to 0 and give a threshold, or evaluate the test split."
        )
    dataset = resolve(params.dataset, run.dataset, "data set (dataset)")
    faces = open_split(dataset, params.split, params.vlr_size).first(params.limit)
    gallery, probes, strangers = searched(faces, params.enrolled, params.seed)
    every = np.concatenate([probes, strangers])
    conditions = conditions_of([faces.names[probe] for probe in every])
    validation = _validation(dataset, params, faces)
    of_validation = read_pairs(dataset, "val", validation)[:2] if len(validation) else None
    can_choose = validation.has_hr or not params.threshold_fpir  # a threshold for an HR gallery is chosen with one
    mugshots = hr_gallery(dataset, params.split, faces, gallery) if can_choose else None
    pairs = pairs_to_judge(dataset, params.split, faces, params.limit)
    _check_all_pairs(params, faces)
    return Trial(params, faces, *pairs, gallery, every, validation, conditions, of_validation, mugshots)


def pairs_to_judge(dataset: Path, split: str, faces: FaceSet, limit: int) -> Pairs:
    """The split's pairs among ``faces``, the first ``limit`` of it (0: all).

    Raises ValueError where they name faces that are not there, or where the other folds of one lack a kind of pair to choose its
    threshold on: before hours of restoring, not after.
    """
    pairs, same, folds = read_pairs(dataset, split, faces, limited=bool(limit))
    if folds_left_alone(same, folds) or not len(folds):
        raise ValueError(
            f"{dataset}: expected genuine and impostor pairs in two folds or more of split {split}, got {same.sum()} genuine "
            f"ones of {len(same)} pairs in {len(np.unique(folds))} folds, among {len(faces)} faces. "
            + ("Raise limit." if limit else "Make the data set again with four subjects of two images or more in this split.")
        )
    return pairs, same, folds


def _check_all_pairs(params: Evaluation, faces: FaceSet) -> None:
    """Raises ValueError where ``all_pairs_faces`` draws no two faces of one subject, or of one subject alone."""
    labels = faces.labels[some_rows(len(faces), params.all_pairs_faces, params.seed)]
    if len(labels) and len(np.unique(labels)) in (1, len(labels)):
        raise ValueError(
            f"all_pairs_faces: expected genuine and impostor pairs among the faces drawn, got {len(labels)} of "
            f"{len(np.unique(labels))} subjects. Raise it, or set it to 0 to leave all pairs out."
        )


def _validation(dataset: Path, params: Evaluation, faces: FaceSet) -> FaceSet:
    """The validation split; no faces where there is none that can serve, or where it is what is tested, and no threshold to be
    chosen on it.
    """
    if params.split != "val" and "val" in set(read_manifest(dataset).split):
        validation = open_split(dataset, "val", params.vlr_size)
        if validation.has_hr or not faces.has_hr:
            return validation
    if params.threshold_fpir:
        raise ValueError(
            f"{dataset}: expected validation subjects {'with HR faces ' if faces.has_hr else ''}to choose a threshold on, got "
            "none. Set threshold_fpir to 0 and give a threshold that was chosen elsewhere."
        )
    return faces.rows(slice(0))
