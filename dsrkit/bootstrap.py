"""Confidence intervals by subject: resample people, not pairs, because the pairs of one person rise and fall together.

The subset bootstrap of Bolle, Ratha & Pankanti ("Error analysis of pattern recognition systems: the subsets bootstrap",
CVIU 93, 2004). A draw takes as many subjects as there are, with replacement; subject s comes up n_s times. A genuine pair of
s then weighs n_s, an impostor pair of s and t weighs n_s·n_t (both must be drawn; Owen 2007, "The pigeonhole bootstrap", for
such products), a probe or a face of s weighs n_s. The gallery stays as it is.

Decisions are kept: whether a pair was judged rightly is fixed by the threshold of its fold, chosen once on the other folds,
and whether a probe is named by the frozen threshold. The intervals therefore hold the spread over people, not that of choosing
a threshold, nor of training anew with another seed; only rates *at* a stated rate (TAR@FAR, TPIR@FPIR) find their threshold
anew in each draw. Percentile intervals; with fewer than some twenty subjects read them as a rough guide. There is none (NaN)
where more than every other draw gives no value, or where all give the same: nobody failed, and resampling cannot tell how
rare a failure is. ``dsrkit.weighted`` says what each measure is when pairs and probes have weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsrkit.weighted import Samples, kind_of, sampler

_KNOWN = 0.5  # of the draws must give a value

Subjects = np.ndarray  # [P, 2] the two subjects of each pair, or [P] the subject of each probe or face
Interval = dict[str, tuple[float, float]]
Difference = dict[str, dict[str, float]]


def bootstrap_samples(result: Mapping[str, Any], subjects: Subjects, draws: int = 1000, seed: int = 0) -> Samples:
    """Every measure of a result in each draw, [draws]; the draws depend on ``subjects``, ``draws`` and ``seed`` alone.

    Two results with the same three are drawn with the same people: their samples may be subtracted (``differences``).
    Raises ValueError for subjects of another shape, or fewer than two of them, and for no draws.
    """
    subjects = _checked(result, subjects)
    if draws < 1:
        raise ValueError(f"draws: expected 1 or more, got {draws}. A thousand is usual.")
    names, person = np.unique(subjects, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"subjects: expected two or more to draw from, got {len(names)}. An interval needs several people.")
    measures = sampler(result, person.reshape(subjects.shape))
    generator = np.random.default_rng(seed)
    parts = []
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without genuine pairs gives NaN, and is left out later
        for start in range(0, draws, measures.draws_at_once):
            drawn = generator.integers(len(names), size=(min(measures.draws_at_once, draws - start), len(names)))
            counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn]).astype(np.float64)
            parts.append(measures(counts))
    return {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}


def measured(result: Mapping[str, Any], subjects: Subjects) -> dict[str, float]:
    """The measures themselves: every pair, probe or face weighs one. Raises ValueError for subjects of another shape."""
    subjects = _checked(result, subjects)
    names, person = np.unique(subjects, return_inverse=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        once = sampler(result, person.reshape(subjects.shape))(np.ones((1, len(names))))
    return {measure: float(values[0]) for measure, values in once.items()}


def _checked(result: Mapping[str, Any], subjects: Subjects) -> Subjects:
    subjects = np.asarray(subjects)
    kind, count = kind_of(result)
    shape = (count, 2) if kind == "pair" else (count,)
    if subjects.shape != shape:
        raise ValueError(f"subjects: expected shape {list(shape)}, those of each {kind}, got {list(subjects.shape)}.")
    return subjects


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share between 0 and 1, got {level}. 95 % is 0.95.")
    known = values[np.isfinite(values)]
    if len(known) < _KNOWN * len(values) or (len(known) > 1 and np.ptp(known) == 0):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def intervals(samples: Samples, level: float = 0.95) -> Interval:
    """(low, high) of each measure of ``bootstrap_samples``; NaN where there is none. Raises ValueError for a bad level."""
    return {measure: _percentiles(values, level) for measure, values in samples.items()}


def differences(
    values: Mapping[str, float], samples: Samples, other_values: Mapping[str, float], other: Samples, level: float = 0.95
) -> Difference:
    """One result minus another, by measure: {"value", "low", "high"}, from what ``measured`` and ``bootstrap_samples`` gave.

    Measures that only one of them has are left out. Raises ValueError for a bad level.
    """
    made = {}
    for measure in (measure for measure in samples if measure in other):
        apart = samples[measure] - other[measure]
        known = apart[np.isfinite(apart)]
        low, high = (0.0, 0.0) if len(known) and not known.any() else _percentiles(apart, level)  # equal in every draw: no gain
        made[measure] = {"value": values[measure] - other_values[measure], "low": low, "high": high}
    return made


def bootstrap_interval(
    result: Mapping[str, Any], subjects: Subjects, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The interval of each measure of a result, by measure: (low, high).

    Args:
        result: of ``verification``, ``identification`` or ``all_pairs_verification``, or {"means": {measure: [N] values}}.
        subjects: [P, 2] the subjects of each pair for a verification result; [P] of each probe for an identification one; [N]
            of each face for all pairs and for means.

    A verification gives verification_accuracy (over all pairs), auc, eer, d_prime and tar_at_far_…; an identification rank-k,
    map, unknown_rate, correct_rate, false_positive_identification_rate and tpir_at_fpir_… (NaN where there are no strangers).
    Raises ValueError for subjects of another shape, fewer than two of them, or a level outside (0, 1).
    """
    return intervals(bootstrap_samples(result, subjects, draws, seed), level)


def bootstrap_difference(
    result: Mapping[str, Any],
    reference: Mapping[str, Any],
    subjects: Subjects,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """``result`` minus ``reference`` on the same pairs or probes, by measure: {"value", "low", "high"}.

    Both are drawn with the same people, so what is hard for both cancels. A gain is shown when 0 lies outside [low, high].
    Raises ValueError as ``bootstrap_interval``, and when the two results are not of the same pairs or probes.
    """
    truth = "same" if "correct" in result else "rank"
    if truth in result and (truth not in reference or not np.array_equal(result[truth] > 0, reference[truth] > 0)):
        raise ValueError(
            "Expected two results of the same pairs (or probes), in the same order, got different ones. "
            "Use one list for every row."
        )
    one, other = (bootstrap_samples(part, subjects, draws, seed) for part in (result, reference))
    return differences(measured(result, subjects), one, measured(reference, subjects), other, level)
