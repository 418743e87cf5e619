"""The systems that an evaluation compares, and what each makes of a split: one row of the table each.

    hr             the original EdgeFace on HR faces: the upper bound
    direct_feed    the original EdgeFace on bicubic faces: what a DSR must beat
    dsr            the original EdgeFace on restored faces
    dsr_finetuned  the fine-tuned EdgeFace on restored faces
    cycle_1, …     both networks after each cycle

Two protocols: *both-lr* (gallery and probe, left and right of a pair, are VLR faces) and *hr-lr* (the gallery, the left
face, is HR). The threshold of identification is chosen on validation subjects at a stated rate of strangers named (FPIR),
then frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import nn

from dsrkit.data.faces import FaceSet, open_split, read_pairs
from dsrkit.evaluation.bootstrap import bootstrap_difference, bootstrap_interval
from dsrkit.evaluation.open_set import gallery_split, identification, threshold_at_fpir, threshold_sweep
from dsrkit.evaluation.protocols import verification
from dsrkit.evaluation.report import Row, evaluation_row
from dsrkit.models.checkpoint import read_about
from dsrkit.models.dsr import load_dsr
from dsrkit.models.edgeface import EdgeFace, edgeface_file, load_edgeface
from dsrkit.params import Evaluation
from dsrkit.recognition import QUALITY_FACES, embed, quality, restore
from dsrkit.runs import Run, file_hash, resolve

PROTOCOLS = ("both-lr", "hr-lr")


@dataclass(frozen=True)
class System:
    """One row: how VLR faces are restored (None: bicubic), and who recognises them. ``files`` are what it was read from."""

    row: str
    edgeface: EdgeFace
    dsr: nn.Module | None
    files: dict[str, Path]

    def restored(self, faces: FaceSet) -> UInt8[np.ndarray, "n 112 112 3"]:
        """What this system shows its recogniser for each VLR face."""
        return faces.hr if self.row == "hr" else restore(faces.vlr, self.dsr)


def open_systems(run: Run, params: Evaluation, device: torch.device) -> list[System]:
    """Every system of which the run has the checkpoints.

    Raises FileNotFoundError when the run has no DSR yet.
    """
    original = edgeface_file(params.edgeface)
    pairs = [("dsr", run.dsr, original), ("dsr_finetuned", run.dsr, run.edgeface)]
    number = 1
    while run.cycle(number)[0].exists():
        pairs.append((f"cycle_{number}", *run.cycle(number)))
        number += 1
    resolve("", run.dsr, "DSR (run 02_dsr_training first)")
    for _, dsr, edgeface in pairs[1:]:
        check_lineage(dsr, edgeface)
    edgefaces = {path: load_edgeface(path, device) for path in {original, *(path for *_, path in pairs)} if path.exists()}
    dsrs = {dsr: load_dsr(dsr, device) for dsr in {dsr for _, dsr, _ in pairs}}
    systems = [System(row, edgefaces[original], None, {"edgeface": original}) for row in ("hr", "direct_feed")]
    return systems + [
        System(row, edgefaces[edgeface], dsrs[dsr], {"dsr": dsr, "edgeface": edgeface})
        for row, dsr, edgeface in pairs
        if edgeface in edgefaces
    ]


def check_lineage(dsr: Path, edgeface: Path) -> None:
    """Raises ValueError when ``edgeface`` was made for another DSR than the run's present one.

    A fine-tuned EdgeFace names the DSR whose faces it saw; both networks of a cycle name the same parents.
    """
    if not edgeface.exists():
        return
    parents = [read_about(path).get("provenance", {}).get("inputs", {}).get("dsr", {}).get("sha256") for path in (dsr, edgeface)]
    expected = file_hash(dsr) if parents[0] is None else parents[0]
    if parents[1] != expected:
        raise ValueError(
            f"{edgeface}: expected the EdgeFace that belongs to {dsr.name}, got one made for another DSR. "
            "Run 03_edgeface_finetune and 04_cyclic_cycle again, or remove the files of the earlier training."
        )


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
class Outcome:
    """What one system did under one protocol."""

    system: System
    protocol: str
    verified: dict[str, Any]
    identified: dict[str, Any]
    sweep: pd.DataFrame
    embeddings: Float[np.ndarray, "n 512"]  # of the faces as this system sees VLR ones
    quality: dict[str, float]


def evaluate(trial: Trial, systems: list[System], tta: bool) -> Iterator[Outcome]:
    """Every system under every protocol, in order. Faces are restored and embedded once a system."""
    for system in systems:
        low = system.restored(trial.faces)
        measured = quality(low[:QUALITY_FACES], trial.faces.hr[:QUALITY_FACES]) if system.row != "hr" else {}
        low_embeddings = embed(low, system.edgeface, tta)
        high_embeddings = low_embeddings if system.row == "hr" else embed(trial.faces.hr, system.edgeface, tta)
        known_low = embed(system.restored(trial.validation), system.edgeface, tta)
        known_high = known_low if system.row == "hr" else embed(trial.validation.hr, system.edgeface, tta)
        for protocol in PROTOCOLS:
            left, known_left = (low_embeddings, known_low) if protocol == "both-lr" else (high_embeddings, known_high)
            threshold = frozen_threshold(trial, known_left, known_low)
            yield _outcome(trial, system, protocol, left, low_embeddings, threshold, measured)


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


def _outcome(
    trial: Trial,
    system: System,
    protocol: str,
    left: Float[np.ndarray, "n 512"],
    right: Float[np.ndarray, "n 512"],
    threshold: float,
    measured: dict[str, float],
) -> Outcome:
    shifted = trial.pairs + np.array([0, len(left)])  # the left face is taken from `left`, the right one from `right`
    verified = verification(np.concatenate([left, right]), shifted, trial.same, trial.folds)
    labels = trial.faces.labels
    searched = (right[trial.probes], labels[trial.probes], left[trial.gallery], labels[trial.gallery])
    identified = identification(*searched, threshold)
    return Outcome(system, protocol, verified, identified, threshold_sweep(*searched), right, measured)


def rows_of(trial: Trial, outcomes: list[Outcome]) -> list[Row]:
    """Rows for ``metrics.json``: every measure with its interval, and its difference to the direct feed."""
    subjects = np.array(trial.faces.subjects)
    of_pairs, of_probes = subjects[trial.pairs], subjects[trial.probes]
    draws, seed = trial.params.bootstrap_draws, trial.params.seed
    feeds = {outcome.protocol: outcome for outcome in outcomes if outcome.system.row == "direct_feed"}
    rows = []
    for outcome in outcomes:
        interval = bootstrap_interval(outcome.verified, of_pairs, draws, seed) | bootstrap_interval(
            outcome.identified, of_probes, draws, seed
        )
        feed, difference = feeds[outcome.protocol], {}
        if outcome is not feed:
            difference = bootstrap_difference(outcome.verified, feed.verified, of_pairs, draws, seed) | bootstrap_difference(
                outcome.identified, feed.identified, of_probes, draws, seed
            )
        rows.append(
            evaluation_row(
                outcome.system.row,
                trial.params.vlr_size,
                outcome.protocol,
                outcome.verified,
                outcome.identified,
                outcome.quality,
                interval,
                difference,
            )
        )
    return rows


def decisions(trial: Trial, outcomes: list[Outcome]) -> pd.DataFrame:
    """Every probe's decision by every system: file, subject, best score, rank of the own subject (0: a stranger), answer."""
    tables = []
    for outcome in outcomes:
        found = outcome.identified
        named = found["top_score"] >= found["threshold"]
        tables.append(
            pd.DataFrame(
                {
                    "row": outcome.system.row,
                    "protocol": outcome.protocol,
                    "probe": [trial.faces.names[probe] for probe in trial.probes],
                    "subject": [trial.faces.subjects[probe] for probe in trial.probes],
                    "score": found["top_score"],
                    "rank": found["rank"],
                    "threshold": found["threshold"],
                    "answer": np.where(~named, "unknown", np.where(found["rank"] == 1, "right", "wrong")),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
