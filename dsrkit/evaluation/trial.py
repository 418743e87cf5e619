"""What every system makes of a split.

Protocols: *both-lr* (gallery and probe, left and right of a pair, are VLR faces), *hr-lr* (the gallery, the left face, is HR)
and *hr+lr* (the gallery holds the sum of both embeddings). Faces of native low resolution have no HR: the one protocol is
*native*, and where file names tell a distance, *native-4.2m* … for the probes of each; *native-hr*, *native-hr-4.2m* … have a
gallery of HR mugshots. The threshold of identification is chosen on validation subjects (``threshold``), then frozen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from dsrkit.data.degrade import mirror
from dsrkit.evaluation.all_pairs import all_pairs_verification
from dsrkit.evaluation.judge import AnyRecognizer, embeddings_of
from dsrkit.evaluation.material import NATIVE, PROTOCOLS, Trial, open_trial, some_rows
from dsrkit.evaluation.native import NATIVE_HR
from dsrkit.evaluation.open_set import identification, sweep_of
from dsrkit.evaluation.protocols import verification
from dsrkit.evaluation.quality import Values, identity_similarity, image_quality, load_lpips
from dsrkit.evaluation.systems import Restorer, System, shown_by
from dsrkit.evaluation.threshold import Threshold, threshold_for_gallery
from dsrkit.metrics import calibration_error, cosine_scores, effective_rank, fit_probability, probability, unit_length
from dsrkit.recognition import Pixels
from dsrkit.runs import ROOT, is_interactive, resolve

__all__ = [
    "NATIVE",
    "PROTOCOLS",
    "Outcome",
    "Seen",
    "Trial",
    "evaluate",
    "frozen_threshold",
    "gallery_version",
    "open_trial",
    "outcomes_of",
    "see",
    "version_of",
]


@dataclass(frozen=True)
class Seen:
    """One recogniser's embeddings of one version of the faces: of the trial's split (of mugshots: its gallery), and of the
    validation split.
    """

    faces: Float[np.ndarray, "n d"]
    validation: Float[np.ndarray, "v d"]


@dataclass(frozen=True)
class Outcome:
    """What one system did under one protocol. What has no meaning there is None, or empty."""

    system: System
    protocol: str
    verified: dict[str, Any] | None  # None for a protocol of some of the probes
    identified: dict[str, Any]
    sweep: pd.DataFrame
    embeddings: Float[np.ndarray, "n d"]  # of the faces as this system sees VLR ones
    hr_embeddings: Float[np.ndarray, "n d"] | None  # of the HR faces, by whom the system has for them
    hr_verified: dict[str, Any] | None  # verification of those
    quality: dict[str, float]  # means of ``image_quality``
    probes: Int[np.ndarray, " q"]  # whom ``identified`` is about
    all_pairs: dict[str, Any] | None = None
    image_quality: Values = field(default_factory=dict)  # of each of ``Trial.looked_at``
    similarity: Values = field(default_factory=dict)  # of each face


Judged = tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any] | None]  # verification, identification, all pairs
Version = tuple[Restorer, AnyRecognizer, bool]  # what is shown, who looks, with or without TTA


def evaluate(trial: Trial, systems: Sequence[System]) -> Iterator[Outcome]:
    """Every system that the faces can be shown to, under every protocol, in order.

    Faces are restored once a restorer and embedded once a recogniser, for all systems that share them.
    """
    systems = trial.takes(systems)
    yield from outcomes_of(trial, systems, *see(trial, systems))


def outcomes_of(
    trial: Trial, systems: Sequence[System], seen: Mapping[Version, Seen], measured: Mapping[Restorer, Values]
) -> Iterator[Outcome]:
    """Everything after the embeddings: ``seen`` and ``measured`` are what ``see`` gives."""
    of_hr: dict[tuple[AnyRecognizer, bool], dict[str, Any] | None] = {}
    for system in systems:
        low, whole = seen[version_of(system)], seen.get(version_of(system.at_hr()))
        high, mugshots = (None, whole) if trial.mugshots else (whole, None)
        recogniser = (system.at_hr().edgeface, system.tta)
        if recogniser not in of_hr:
            of_hr[recogniser] = verification(high.faces, trial.pairs, trial.same, trial.folds) if high else None
        similarity: Values = {}
        if high and system.restorer != "hr":
            similarity = identity_similarity(low.faces, high.faces, trial.faces.labels)
        each = measured.get(system.restorer, {})
        quality = {measure: float(values.mean()) for measure, values in each.items()}
        judged: Judged | None = None
        for protocol, probes in trial.protocols.items():
            if judged is None or system.restorer != "hr":  # HR faces are the same gallery under every protocol
                left = gallery_version(protocol, low, high)
                if mugshots and protocol.startswith(NATIVE_HR):
                    left = with_mugshots(trial, low, mugshots)
                judged = _judged(trial, protocol, probes, left, low)
            verified, identified, every_pair = judged
            yield Outcome(
                system, protocol, verified, identified, sweep_of(identified), low.faces, high.faces if high else None,
                of_hr[recogniser], quality, probes, every_pair, each, similarity,
            )  # fmt: skip


def gallery_version(protocol: str, low: Seen, high: Seen | None) -> Seen:
    """What stands in the gallery, and left in a pair: the faces as probes are seen, the HR ones, or the sum of both."""
    if high is None or protocol not in ("hr-lr", "hr+lr"):
        return low
    if protocol == "hr-lr":
        return high
    return Seen(unit_length(low.faces + high.faces), unit_length(low.validation + high.validation))


def with_mugshots(trial: Trial, low: Seen, mugshots: Seen) -> Seen:
    """The faces as probes are seen, but for the gallery: those are HR."""
    faces = low.faces.copy()
    faces[trial.gallery] = mugshots.faces
    return Seen(faces, mugshots.validation)


def see(trial: Trial, systems: Sequence[System]) -> tuple[dict[Version, Seen], dict[Restorer, Values]]:
    """Embeddings by restorer, recogniser and TTA (of HR faces by whom each system has for them), and image quality by restorer.

    One restorer after the other: the faces of one are in memory at a time (300 MB for LFW, with TTA twice), embeddings are small.
    """
    seen: dict[Version, Seen] = {}
    measured: dict[Restorer, Values] = {}
    lpips = None
    if trial.params.lpips_weights and trial.faces.has_hr:
        lpips = load_lpips(resolve(trial.params.lpips_weights, ROOT, "VGG16 weights (lpips_weights)"))
    restorers: list[Restorer] = [system.restorer for system in systems]
    if trial.faces.has_hr:
        restorers.insert(0, "hr")
    versions, watched, started = list(dict.fromkeys(restorers)), is_interactive(), time.monotonic()
    bar = tqdm(versions, desc="restoring, embedding", unit=" versions", leave=False, disable=not watched)
    for number, restorer in enumerate(bar, 1):
        looking = [one for one in (one.at_hr() if restorer == "hr" else one for one in systems) if one.restorer == restorer]
        splits = (trial.faces, trial.validation)
        shown = [shown_by(restorer, split) for split in splits]
        mirrored = [shown_by(restorer, split.mirrored) for split in splits] if any(one.tta for one in looking) else [None, None]
        if restorer != "hr" and trial.faces.has_hr:
            measured[restorer] = image_quality(shown[0][trial.looked_at], trial.faces.hr[trial.looked_at], lpips)
        _look(seen, looking, shown, mirrored)
        if not watched:  # to the log, where minutes pass; a page leaves it out
            done = f"{number} of {len(versions)} versions of {len(shown[0]) + len(shown[1]):,} faces"
            print(f"{done} restored and embedded, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if trial.mugshots:
        shown = [trial.mugshots.hr, trial.validation.hr if trial.validation.has_hr else trial.mugshots.hr[:0]]
        _look(seen, [one.at_hr() for one in systems], shown, [mirror(faces) for faces in shown])
    return seen, measured


def version_of(system: System) -> Version:
    """What makes a system's embeddings."""
    return system.restorer, system.edgeface, system.tta


def _look(
    seen: dict[Version, Seen], systems: Sequence[System], shown: Sequence[Pixels], mirrored: Sequence[Pixels | None]
) -> None:
    """Add to ``seen`` what each system that is not in it makes of the faces shown, with TTA of their mirror images too."""
    for system in systems:
        key = version_of(system)
        if key not in seen:
            beside = mirrored if system.tta else [None] * len(shown)
            seen[key] = Seen(*(_embedded(system, *faces) for faces in zip(shown, beside, strict=True)))


def _embedded(system: System, faces: Pixels, mirrored: Pixels | None) -> Float[np.ndarray, "n d"]:
    """Embeddings of faces by a system's recogniser. Raises ValueError that names the system when some are not finite."""
    try:
        return unit_length(embeddings_of(faces, system.edgeface, mirrored))
    except ValueError as error:
        raise ValueError(f"{system.row} (recogniser of the {system.recognizer}): {error}") from error


def frozen_threshold(trial: Trial, left: Float[np.ndarray, "v d"], right: Float[np.ndarray, "v d"]) -> Threshold:
    """The threshold at the stated FPIR for a gallery as large as the trial's, from validation faces in gallery and as probes.

    With ``threshold_fpir`` 0 the parameter ``threshold`` is taken as it is.
    """
    params = trial.params
    if not params.threshold_fpir:
        return Threshold(params.threshold)
    labels = trial.validation.labels
    return threshold_for_gallery(
        left, right, labels, params.threshold_fpir, len(trial.gallery), params.bootstrap_draws, params.seed
    )


def threshold_sentence(trial: Trial, outcome: Outcome) -> str:
    """What an outcome's threshold of identification rests on."""
    params, carried = trial.params, outcome.identified["threshold_carried"]
    if not params.threshold_fpir:
        return f"Threshold of identification {params.threshold:g}, as given."
    stated = f"Threshold of identification for {100 * params.threshold_fpir:g} % of strangers named"
    stated += f" in a gallery of {len(trial.gallery):,} images"
    if carried < 1:
        return (
            f"{stated}: not one validation comparison of strangers may lie above it ({carried:.2g}), so it rests on the highest. "
            "More validation faces, or a higher threshold_fpir, would settle it."
        )
    return f"{stated}; validation comparisons of strangers above it: {int(carried):,}."


def _judged(trial: Trial, protocol: str, probes: Int[np.ndarray, " q"], left: Seen, right: Seen) -> Judged:
    """Verification, identification and all pairs; gallery and left faces from ``left``, the others from ``right``."""
    labels = trial.faces.labels
    threshold = frozen_threshold(trial, left.validation, right.validation)
    gallery = left.faces[trial.gallery], labels[trial.gallery]
    identified = identification(right.faces[probes], labels[probes], *gallery, threshold.value)
    identified |= {"threshold_interval": threshold.interval, "threshold_carried": threshold.carried}
    if protocol.startswith(f"{NATIVE}-"):
        return None, identified, None
    verified = verification(*_two_sided(left.faces, right.faces, trial.pairs), trial.same, trial.folds)
    verified |= _calibrated(trial, verified, left, right) | {"effective_rank": effective_rank(right.faces)}
    few = some_rows(len(labels), trial.params.all_pairs_faces, trial.params.seed)
    if protocol == "hr+lr" or not len(few):  # a gallery of two versions of a face is for searching, not for a pair
        return verified, identified, None
    every_pair = all_pairs_verification(left.faces[few], right.faces[few], labels[few])
    return verified, identified, every_pair | {"rows": few}


def _two_sided(
    left: Float[np.ndarray, "n d"], right: Float[np.ndarray, "n d"], pairs: Int[np.ndarray, "p 2"]
) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, "p 2"]]:
    """Embeddings and pairs for ``verification``, where the left face of a pair is of ``left``, the right one of ``right``."""
    return np.concatenate([left, right]), pairs + np.array([0, len(left)])


def _calibrated(trial: Trial, verified: dict[str, Any], left: Seen, right: Seen) -> dict[str, Any]:
    """Probabilities of the pairs by a logistic fit on validation pairs, and how well they keep their word."""
    if trial.validation_pairs is None or len(np.unique(trial.validation_pairs[1])) < 2:
        return {}
    pairs, same = trial.validation_pairs
    fit = fit_probability(cosine_scores(*_two_sided(left.validation, right.validation, pairs)), same)
    probabilities = probability(verified["scores"], *fit)
    error, brier = calibration_error(probabilities, verified["same"]), np.mean((probabilities - verified["same"]) ** 2)
    return {"probability": probabilities, "probability_fit": fit, "calibration_error": error, "brier_score": float(brier)}
