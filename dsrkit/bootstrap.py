"""Confidence intervals by subject: resample people, not pairs, because the pairs of one person rise and fall together.

The subset bootstrap of Bolle, Ratha & Pankanti ("Error analysis of pattern recognition systems: the subsets bootstrap",
CVIU 93, 2004). A draw takes as many subjects as there are, with replacement; subject s comes up n_s times. A genuine pair of
s then weighs n_s, an impostor pair of s and t weighs n_s·n_t (both must be drawn; Owen 2007, "The pigeonhole bootstrap", for
such products), a probe of s weighs n_s. The gallery stays as it is.

Decisions are kept: whether a pair was judged rightly is fixed by the threshold of its fold, chosen once on the other folds.
The intervals therefore hold the spread over people, not that of choosing a threshold. Percentile intervals; with fewer than
some twenty subjects read them as a rough guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dsrkit.metrics import FARS

_WEIGHTS_AT_ONCE = 500_000  # some ten float64 arrays of draws × pairs live at once: 40 MB

Subjects = np.ndarray  # [P, 2] the two subjects of each pair, or [P] the subject of each probe
Samples = dict[str, Float[np.ndarray, " b"]]


def _area_and_rates(genuine: Float[np.ndarray, "b u"], impostor: Float[np.ndarray, "b u"]) -> Samples:
    """AUC, EER and TAR@FAR of each draw, from weights at ascending distinct scores (columns)."""
    frr = np.cumsum(genuine, axis=1)
    rejected = np.cumsum(impostor, axis=1)
    genuine_sum, impostor_sum = frr[:, -1:].copy(), rejected[:, -1:].copy()
    frr /= genuine_sum
    area = (genuine * (rejected - impostor / 2)).sum(1) / (genuine_sum * impostor_sum)[:, 0]
    far = 1 - rejected / impostor_sum
    samples = {"auc": area}
    # Column k of far and frr is the threshold just above score k; before column 0 everything is accepted (FAR 1, FRR 0).
    after = np.argmax(frr >= far, axis=1)[:, None]
    far_after, frr_after = np.take_along_axis(far, after, 1)[:, 0], np.take_along_axis(frr, after, 1)[:, 0]
    before = np.maximum(after - 1, 0)
    started = after[:, 0] > 0
    far_before = np.where(started, np.take_along_axis(far, before, 1)[:, 0], 1.0)
    frr_before = np.where(started, np.take_along_axis(frr, before, 1)[:, 0], 0.0)
    gap_before, gap_after = far_before - frr_before, frr_after - far_after
    samples["eer"] = far_before + gap_before / (gap_before + gap_after) * (far_after - far_before)
    for rate in FARS[1:]:
        first = np.argmax(far <= rate + 1e-12, axis=1)[:, None]
        samples[f"tar_at_far_{rate}"] = 1 - np.take_along_axis(frr, first, 1)[:, 0]
    return samples


def _pair_samples(result: Mapping[str, Any], weights: Float[np.ndarray, "b p"]) -> Samples:
    same, correct = result["same"], result["correct"]
    values, place = np.unique(result["scores"], return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    at_scores = [np.add.reduceat((weights * kind)[:, order], starts, axis=1) for kind in (same, ~same)]
    accuracy = weights @ correct / weights.sum(1)
    return {"verification_accuracy": accuracy, **_area_and_rates(*at_scores)}


def _probe_samples(result: Mapping[str, Any], weights: Float[np.ndarray, "b p"]) -> Samples:
    rank, named = result["rank"], result["top_score"] >= result["threshold"]
    enrolled = weights @ (rank > 0)
    outsiders = weights @ (rank == 0)
    return {
        "rank1": weights @ (rank == 1) / enrolled,
        "unknown_rate": weights @ ((rank > 0) & ~named) / enrolled,
        "correct_rate": weights @ ((rank == 1) & named) / enrolled,
        "false_positive_identification_rate": weights @ ((rank == 0) & named) / outsiders,
    }


def _samples(result: Mapping[str, Any], subjects: Subjects, draws: int, seed: int) -> Samples:
    """Every measure of a result in each draw; the draws depend on ``subjects``, ``draws`` and ``seed`` alone."""
    subjects = np.asarray(subjects)
    kind, key = ("pair", "scores") if "correct" in result else ("probe", "rank")
    shape = (len(result[key]), 2) if kind == "pair" else (len(result[key]),)
    if subjects.shape != shape:
        raise ValueError(f"subjects: expected shape {list(shape)}, those of each {kind}, got {list(subjects.shape)}.")
    if draws < 1:
        raise ValueError(f"draws: expected 1 or more, got {draws}. A thousand is usual.")
    names, person = np.unique(subjects, return_inverse=True)
    person = person.reshape(subjects.shape)
    if len(names) < 2:
        raise ValueError(f"subjects: expected two or more to draw from, got {len(names)}. An interval needs several people.")
    generator = np.random.default_rng(seed)
    parts = []
    step = max(1, _WEIGHTS_AT_ONCE // len(person))
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without genuine pairs gives NaN, and is left out below
        for start in range(0, draws, step):
            drawn = generator.integers(len(names), size=(min(step, draws - start), len(names)))
            counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn]).astype(np.float64)
            if kind == "pair":
                parts.append(_pair_samples(result, _pair_weights(counts, person)))
            else:
                parts.append(_probe_samples(result, counts[:, person]))
    return {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}


def _pair_weights(counts: Float[np.ndarray, "b s"], person: Int[np.ndarray, "p 2"]) -> Float[np.ndarray, "b p"]:
    left, right = counts[:, person[:, 0]], counts[:, person[:, 1]]
    return left * np.where(person[:, 0] == person[:, 1], 1.0, right)


def _percentiles(values: Float[np.ndarray, " b"], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share between 0 and 1, got {level}. The usual 95 % is 0.95.")
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    result: Mapping[str, Any], subjects: Subjects, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The interval of each measure of a ``verification`` or an ``identification`` result, by measure: (low, high).

    Args:
        subjects: [P, 2] the subjects of each pair for a verification result, [P] of each probe for an identification one.

    A verification gives verification_accuracy (over all pairs), auc, eer, tar_at_far_0.01 and tar_at_far_0.001; an
    identification rank1, unknown_rate, correct_rate, false_positive_identification_rate (NaN where it has none).
    Raises ValueError for subjects of another shape, fewer than two of them, or a level outside (0, 1).
    """
    samples = _samples(result, subjects, draws, seed)
    return {measure: _percentiles(values, level) for measure, values in samples.items()}


def bootstrap_difference(
    result: Mapping[str, Any],
    reference: Mapping[str, Any],
    subjects: Subjects,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, float]]:
    """``result`` minus ``reference`` on the same pairs or probes, by measure: {"value", "low", "high"}.

    Both are drawn with the same people, so what is hard for both cancels. A gain is shown when 0 lies outside [low, high].
    Raises ValueError as ``bootstrap_interval``, and when the two results are not of the same pairs or probes.
    """
    truth = "same" if "correct" in result else "rank"
    if truth not in reference or not np.array_equal(result[truth] > 0, reference[truth] > 0):
        raise ValueError(
            "Expected two results of the same pairs (or probes), in the same order, got different ones. "
            "Use one list for every row."
        )
    samples, others = (_samples(part, subjects, draws, seed) for part in (result, reference))
    values, other_values = _measured(result), _measured(reference)
    differences = {}
    for measure, drawn in samples.items():
        low, high = _percentiles(drawn - others[measure], level)
        differences[measure] = {"value": values[measure] - other_values[measure], "low": low, "high": high}
    return differences


def _measured(result: Mapping[str, Any]) -> dict[str, float]:
    """The measures themselves: every pair or probe weighs one."""
    pairs = "correct" in result
    once = np.ones((1, len(result["scores" if pairs else "rank"])))
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = _pair_samples(result, once) if pairs else _probe_samples(result, once)
    return {measure: float(values[0]) for measure, values in samples.items()}
