"""What every system makes of a split.

Two protocols: *both-lr* (gallery and probe, left and right of a pair, are VLR faces) and *hr-lr* (the gallery, the left
face, is HR). The threshold of identification is chosen on validation subjects at a stated rate of strangers named (FPIR),
then frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from dsrkit.data.faces import FaceSet, open_split, read_pairs
from dsrkit.evaluation.open_set import gallery_split, identification, threshold_at_fpir, threshold_sweep
from dsrkit.evaluation.protocols import verification
from dsrkit.evaluation.systems import Restorer, System, shown_by
from dsrkit.models.edgeface import EdgeFace
from dsrkit.params import Evaluation
from dsrkit.recognition import QUALITY_FACES, embed, quality
from dsrkit.runs import Run, resolve

PROTOCOLS = ("both-lr", "hr-lr")


@dataclass(frozen=True)
class Trial:
    """The test split with its pairs, and its gallery, probes and strangers; the validation split for thresholds."""

    params: Evaluation
    faces: FaceSet
    pairs: Int[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    folds: Int[np.ndarray, " p"]
    gallery: Int[np.ndarray, " g"]
    probes: Int[np.ndarray, " q"]
    validation: FaceSet


def open_trial(run: Run, params: Evaluation) -> Trial:
    """Open what is evaluated. Probes are the faces of enrolled subjects and, after them, of strangers.

    Subjects with too few images to be enrolled are strangers; where there are none, every fifth subject is made one.
    Raises FileNotFoundError or ValueError for a data set that cannot serve.
    """
    if params.split == "val" and params.threshold_fpir:
        raise ValueError(
            "threshold_fpir: expected 0 for split val, whose faces would choose the threshold that judges them, got "
            f"{params.threshold_fpir}. Set threshold_fpir to 0 and give a threshold, or evaluate the test split."
        )
    dataset = resolve(params.dataset, run.dataset, "data set (dataset)")
    faces = open_split(dataset, params.split, params.vlr_size).first(params.limit)
    pairs, same, folds = read_pairs(dataset, params.split, faces)
    gallery, probes, strangers = gallery_split(faces.labels, params.enrolled, params.seed)
    if not len(strangers):
        apart = faces.labels % 5 == 4
        strangers = np.sort(np.concatenate([gallery[apart[gallery]], probes[apart[probes]]]))
        gallery, probes = gallery[~apart[gallery]], probes[~apart[probes]]
    validation = open_split(dataset, "val", params.vlr_size)
    return Trial(params, faces, pairs, same, folds, gallery, np.concatenate([probes, strangers]), validation)


@dataclass(frozen=True)
class Seen:
    """One recogniser's embeddings of one version of the faces: of the trial's split and of the validation split."""

    faces: Float[np.ndarray, "n 512"]
    validation: Float[np.ndarray, "v 512"]


@dataclass(frozen=True)
class Outcome:
    """What one system did under one protocol."""

    system: System
    protocol: str
    verified: dict[str, Any]
    identified: dict[str, Any]
    sweep: pd.DataFrame
    embeddings: Float[np.ndarray, "n 512"]  # of the faces as this system sees VLR ones
    hr_embeddings: Float[np.ndarray, "n 512"]  # of the HR faces, by the same recogniser
    hr_accuracy: float  # verification of those
    quality: dict[str, float]


def evaluate(trial: Trial, systems: Sequence[System]) -> Iterator[Outcome]:
    """Every system under every protocol, in order.

    Faces are restored once a restorer and embedded once a recogniser, for all systems that share them.
    """
    seen, measured = see(trial, systems)
    hr_accuracies: dict[tuple[EdgeFace, bool], float] = {}
    for system in systems:
        low, high = (seen[restorer, system.edgeface, system.tta] for restorer in (system.restorer, "hr"))
        recogniser = (system.edgeface, system.tta)
        if recogniser not in hr_accuracies:
            hr_accuracies[recogniser] = verification(high.faces, trial.pairs, trial.same, trial.folds)["accuracy"]
        for protocol in PROTOCOLS:
            left = low if protocol == "both-lr" else high
            threshold = frozen_threshold(trial, left.validation, low.validation)
            verified, identified, sweep = _judged(trial, left.faces, low.faces, threshold)
            accuracy, quality_of = hr_accuracies[recogniser], measured.get(system.restorer, {})
            yield Outcome(system, protocol, verified, identified, sweep, low.faces, high.faces, accuracy, quality_of)


def see(
    trial: Trial, systems: Sequence[System]
) -> tuple[dict[tuple[Restorer, EdgeFace, bool], Seen], dict[Restorer, dict[str, float]]]:
    """Embeddings by restorer, recogniser and TTA (of HR faces for every recogniser), and PSNR and SSIM by restorer.

    One restorer after the other: the faces of one are in memory at a time (300 MB for LFW), embeddings are small.
    """
    seen: dict[tuple[Restorer, EdgeFace, bool], Seen] = {}
    measured: dict[Restorer, dict[str, float]] = {}
    restorers: list[Restorer] = ["hr", *(system.restorer for system in systems)]
    for restorer in dict.fromkeys(restorers):
        faces, validation = shown_by(restorer, trial.faces), shown_by(restorer, trial.validation)
        if restorer != "hr":
            measured[restorer] = quality(faces[:QUALITY_FACES], trial.faces.hr[:QUALITY_FACES])
        for system in systems:
            key = (restorer, system.edgeface, system.tta)
            if key not in seen and restorer in ("hr", system.restorer):
                seen[key] = Seen(*(embed(part, system.edgeface, system.tta) for part in (faces, validation)))
    return seen, measured


def frozen_threshold(trial: Trial, gallery: Float[np.ndarray, "n 512"], probes: Float[np.ndarray, "n 512"]) -> float:
    """The threshold at the stated FPIR on validation subjects: half of them enrolled, the others strangers.

    With ``threshold_fpir`` 0 the parameter ``threshold`` is taken as it is.
    """
    if not trial.params.threshold_fpir:
        return trial.params.threshold
    strangers = np.flatnonzero(trial.validation.labels % 2)
    known = np.flatnonzero(trial.validation.labels % 2 == 0)
    enrolled, _, _ = gallery_split(trial.validation.labels[known], trial.params.enrolled, trial.params.seed)
    return threshold_at_fpir(probes[strangers], gallery[known[enrolled]], trial.params.threshold_fpir)


def _judged(
    trial: Trial, left: Float[np.ndarray, "n 512"], right: Float[np.ndarray, "n 512"], threshold: float
) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """Verification, identification and threshold sweep; gallery and left faces from ``left``, the others from ``right``."""
    shifted = trial.pairs + np.array([0, len(left)])  # rows of `left`, then rows of `right`
    verified = verification(np.concatenate([left, right]), shifted, trial.same, trial.folds)
    labels = trial.faces.labels
    searched = (right[trial.probes], labels[trial.probes], left[trial.gallery], labels[trial.gallery])
    return verified, identification(*searched, threshold), threshold_sweep(*searched)
