"""From outcomes to rows for ``metrics.json`` and to a table of every decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dsrkit.bootstrap import Subjects, bootstrap_difference, bootstrap_interval
from dsrkit.evaluation.headline import CONTROL, TTA
from dsrkit.evaluation.report import Differences, Row, evaluation_row
from dsrkit.evaluation.trial import Outcome, Trial

NEVER_COMPARED = ("hr", "direct_feed", CONTROL)  # rows without a DSR: none of them asks what restoring adds to fine-tuning


def rows_of(trial: Trial, outcomes: Sequence[Outcome]) -> list[Row]:
    """Rows for ``metrics.json``: every measure with its interval, and its differences to the direct feed and the control.

    Like stands against like: a row with TTA against the direct feed with TTA, the judge's against the judge's.
    """
    subjects = np.array(trial.faces.subjects)
    of_pairs, of_probes = subjects[trial.pairs], subjects[trial.probes]
    draws, seed = trial.params.bootstrap_draws, trial.params.seed
    rows = []
    for outcome in outcomes:
        verified = bootstrap_interval(outcome.verified, of_pairs, draws, seed)
        identified = bootstrap_interval(outcome.identified, of_probes, draws, seed)
        feed, control = reference(outcome, outcomes, "direct_feed"), None
        if outcome.system.row.removesuffix(TTA) not in NEVER_COMPARED:
            control = reference(outcome, outcomes, CONTROL)
        rows.append(
            evaluation_row(
                outcome.system.row,
                trial.params.vlr_size,
                outcome.protocol,
                outcome.verified,
                outcome.identified,
                outcome.quality,
                verified | identified,
                _difference(outcome, feed, of_pairs, of_probes, draws, seed),
                control=_difference(outcome, control, of_pairs, of_probes, draws, seed),
                hr_accuracy=outcome.hr_accuracy,
                recognizer=outcome.system.recognizer,
            )
        )
    return rows


def reference(outcome: Outcome, outcomes: Sequence[Outcome], row: str) -> Outcome | None:
    """The outcome of ``row`` under the same protocol, with or without TTA alike, of the run or the judge alike; None without."""

    def kind(one: Outcome) -> tuple[Any, ...]:
        return one.protocol, one.system.tta, one.system.recognizer

    same_kind = (other for other in outcomes if kind(other) == kind(outcome))
    return next((other for other in same_kind if other.system.row.removesuffix(TTA) == row), None)


def _difference(
    outcome: Outcome, other: Outcome | None, of_pairs: Subjects, of_probes: Subjects, draws: int, seed: int
) -> Differences:
    """Paired differences of every measure; empty without another, and against itself."""
    if other is None or other is outcome:
        return {}
    verified = bootstrap_difference(outcome.verified, other.verified, of_pairs, draws, seed)
    return verified | bootstrap_difference(outcome.identified, other.identified, of_probes, draws, seed)


def decisions(trial: Trial, outcomes: Sequence[Outcome]) -> pd.DataFrame:
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
