"""From outcomes to rows for ``metrics.json``: every measure with its interval, every difference with its paired interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dsrkit.bootstrap import Difference, Interval, Subjects, bootstrap_samples, differences, intervals, measured
from dsrkit.evaluation.decisions import decisions, pair_decisions
from dsrkit.evaluation.headline import CONTROL, TTA
from dsrkit.evaluation.report import Row, evaluation_row
from dsrkit.evaluation.trial import Outcome, Trial
from dsrkit.runs import is_interactive
from dsrkit.weighted import Samples

__all__ = ["NEVER_COMPARED", "decisions", "pair_decisions", "reference", "rows_of"]

NEVER_COMPARED = ("hr", "direct_feed", CONTROL)  # rows without a DSR: none of them asks what restoring adds to fine-tuning

ACCURACY = "verification_accuracy"
Drawn = tuple[dict[str, float], Samples]  # the measures themselves, and in each draw


def rows_of(trial: Trial, outcomes: Sequence[Outcome]) -> list[Row]:
    """Rows for ``metrics.json``: every measure with its interval, and its differences to the direct feed and the control.

    Like stands against like: a row with TTA against the direct feed with TTA, the judge's against the judge's. The same people
    are drawn for every row, and each result is drawn once, whatever it is compared with.
    """
    # by number: protocols share image quality and similarity
    results = {number: of for outcome in outcomes for number, *of in _results(trial, outcome)}
    bar = tqdm(results.items(), desc="intervals", unit=" results", leave=False, disable=not is_interactive())
    known: dict[int, Drawn] = {number: _drawn(trial, result, of_whom) for number, (result, of_whom) in bar}
    drawn = [_of_outcome(trial, outcome, known) for outcome in outcomes]
    of_outcome = {id(outcome): one for outcome, one in zip(outcomes, drawn, strict=True)}
    rows = []
    for outcome, (values, samples) in zip(outcomes, drawn, strict=True):
        feed, control = reference(outcome, outcomes, "direct_feed"), None
        if outcome.system.row.removesuffix(TTA) not in NEVER_COMPARED:
            control = reference(outcome, outcomes, CONTROL)
        against = [
            {} if other is None or other is outcome else differences(values, samples, *of_outcome[id(other)])
            for other in (feed, control)
        ]
        interval = intervals(samples) | {"threshold": outcome.identified["threshold_interval"]}
        rows.append(_row(trial, outcome, values, interval, *against))
    return rows


def _row(
    trial: Trial, outcome: Outcome, values: Mapping[str, float], interval: Interval, feed: Difference, control: Difference
) -> Row:
    further: dict[str, Any] = {measure: values[measure] for measure in outcome.similarity}
    if outcome.verified:
        further |= {measure: outcome.verified.get(measure) for measure in ("calibration_error", "brier_score")}
    if outcome.all_pairs:
        further["all_pairs_impostors"] = outcome.all_pairs["impostors"]
        further |= {f"all_pairs_tar_at_far_{far:g}": tar for far, tar in outcome.all_pairs["tar_at_far"].items()}
    return evaluation_row(
        outcome.system.row,
        trial.params.vlr_size,
        outcome.protocol,
        outcome.verified,
        outcome.identified,
        outcome.quality,
        interval,
        feed,
        control=control,
        hr_accuracy=outcome.hr_verified["accuracy"] if outcome.hr_verified else None,
        recognizer=outcome.system.recognizer,
        further=further,
    )


def reference(outcome: Outcome, outcomes: Sequence[Outcome], row: str) -> Outcome | None:
    """The outcome of ``row`` under the same protocol, with or without TTA alike, of the run or the judge alike; None without."""

    def kind(one: Outcome) -> tuple[Any, ...]:
        return one.protocol, one.system.tta, one.system.recognizer

    same_kind = (other for other in outcomes if kind(other) == kind(outcome))
    return next((other for other in same_kind if other.system.row.removesuffix(TTA) == row), None)


def _results(trial: Trial, outcome: Outcome) -> Iterator[tuple[int, Mapping[str, Any], Subjects]]:
    """Every result of an outcome with the subjects of its pairs, probes or faces, and a number that tells it from others."""
    subjects = np.array(trial.faces.subjects)
    for verified in (outcome.hr_verified, outcome.verified):
        if verified:
            yield id(verified), verified, subjects[trial.pairs]
    yield id(outcome.identified), outcome.identified, subjects[outcome.probes]
    if outcome.all_pairs and outcome.all_pairs["tar_at_far"]:
        yield id(outcome.all_pairs), outcome.all_pairs, subjects[outcome.all_pairs["rows"]]
    if outcome.similarity:
        yield id(outcome.similarity), {"means": outcome.similarity}, subjects
    if outcome.image_quality:
        yield id(outcome.image_quality), {"means": outcome.image_quality}, subjects[trial.looked_at]


def _drawn(trial: Trial, result: Mapping[str, Any], subjects: Subjects) -> Drawn:
    return measured(result, subjects), bootstrap_samples(result, subjects, trial.params.bootstrap_draws, trial.params.seed)


def _of_outcome(trial: Trial, outcome: Outcome, known: Mapping[int, Drawn]) -> Drawn:
    """All measures of an outcome, and their samples; of the HR pairs their accuracy."""
    values: dict[str, float] = {}
    samples: Samples = {}
    for number, result, _ in _results(trial, outcome):
        of_values, of_samples = known[number]
        if result is outcome.hr_verified:
            of_values, of_samples = {f"hr_{ACCURACY}": of_values[ACCURACY]}, {f"hr_{ACCURACY}": of_samples[ACCURACY]}
        values |= of_values
        samples |= of_samples
    return values, samples
