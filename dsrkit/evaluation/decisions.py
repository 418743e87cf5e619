"""Every decision of every system, for ``decisions.csv`` (probes) and ``pair_decisions.csv`` (pairs).

Both begin with row and protocol. A probe's line then has:

    probe, subject          file name, and whose face it is
    enrolled                whether that subject is in the gallery; a stranger should be answered "unknown"
    nearest, score          who came first, and with which cosine
    runner_up, runner_up_score    the next other subject; empty in a gallery of one
    own_score, rank         cosine and place of the probe's own subject; empty and 0 for a stranger
    threshold, answer       the frozen threshold; right, wrong (somebody else was named) or unknown (score below threshold)

A pair's line has left, right, left_subject, right_subject, same, fold, score, threshold (chosen on the other folds),
accepted and decided_rightly; and probability, where one was fitted on validation pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dsrkit.evaluation.trial import Outcome, Trial


def decisions(trial: Trial, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Every probe's decision by every system, one line each; the columns are those of the module's text."""
    names, subjects = np.array(trial.faces.names, object), np.array(trial.faces.subjects, object)
    called = dict(zip(trial.faces.labels.tolist(), trial.faces.subjects, strict=True))
    return pd.concat([_of_probes(outcome, names, subjects, called) for outcome in outcomes], ignore_index=True)


def _of_probes(outcome: Outcome, names: np.ndarray, subjects: np.ndarray, called: dict[int, str]) -> pd.DataFrame:
    found = outcome.identified
    named = found["top_score"] >= found["threshold"]
    alone = np.isnan(found["runner_up_score"])
    return pd.DataFrame(
        {
            "row": outcome.system.row,
            "protocol": outcome.protocol,
            "probe": names[outcome.probes],
            "subject": subjects[outcome.probes],
            "enrolled": found["rank"] > 0,
            "nearest": [called[label] for label in found["nearest"].tolist()],
            "score": found["top_score"],
            "runner_up": np.where(alone, "", [called[label] for label in found["runner_up"].tolist()]),
            "runner_up_score": found["runner_up_score"],
            "own_score": found["own_score"],
            "rank": found["rank"],
            "threshold": found["threshold"],
            "answer": np.where(~named, "unknown", np.where(found["rank"] == 1, "right", "wrong")),
        }
    )


def pair_decisions(trial: Trial, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Every pair's decision by every system, one line each; the columns are those of the module's text."""
    names, subjects = np.array(trial.faces.names, object), np.array(trial.faces.subjects, object)
    left, right = trial.pairs.T
    tables = []
    for outcome in (one for one in outcomes if one.verified):
        verified: Any = outcome.verified
        about: dict[str, Any] = {"row": outcome.system.row, "protocol": outcome.protocol, "left": names[left]}
        about |= {"right": names[right], "left_subject": subjects[left], "right_subject": subjects[right]}
        about |= {"same": verified["same"], "fold": trial.folds, "score": verified["scores"]}
        about |= {"threshold": verified["pair_threshold"], "accepted": verified["scores"] >= verified["pair_threshold"]}
        about |= {"decided_rightly": verified["correct"]}
        about |= {"probability": verified["probability"]} if "probability" in verified else {}
        tables.append(pd.DataFrame(about))
    return pd.concat(tables, ignore_index=True)
