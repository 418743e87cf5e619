"""Measures of pairs, probes and faces that have weights: what one draw of the bootstrap sees.

Each class takes a result once, sorts what can be sorted beforehand, and is then called with how often each subject was drawn,
[draws, subjects]; it gives every measure of each draw. With weights of one it gives the measures themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from dsrkit.metrics import FARS

_WEIGHTS_AT_ONCE = 500_000  # some ten float64 arrays of draws × pairs live at once: 40 MB
_BLOCKS = 256
RANKS = (1, 5, 10, 20)

Samples = dict[str, Float[np.ndarray, " b"]]
Counts = Float[np.ndarray, "b s"]
Result = Mapping[str, Any]


class Sampler(Protocol):
    """Called with counts [b, s], gives {measure: [b]}."""

    draws_at_once: int

    def __call__(self, counts: Counts) -> Samples: ...


def kind_of(result: Result) -> tuple[str, int]:
    """Whether a result is of pairs, of probes or of faces, and of how many.

    Raises ValueError for a result of another kind.
    """
    if "tail_scores" in result:
        return "face", result["faces"]
    if "correct" in result:
        return "pair", len(result["scores"])
    if "rank" in result:
        return "probe", len(result["rank"])
    if "means" in result:
        return "face", len(next(iter(result["means"].values())))
    raise ValueError(
        f"Expected a result of verification, identification or all_pairs_verification, or {{'means': …}}, got {list(result)}. "
        "Give what one of them returned."
    )


def sampler(result: Result, person: np.ndarray) -> Sampler:
    """What draws measures of ``result``; ``person`` numbers the subjects of its pairs, probes or faces."""
    if "tail_scores" in result:
        return WeightedTail(result, person)
    if "correct" in result:
        return WeightedPairs(result, person)
    return WeightedProbes(result, person) if "rank" in result else WeightedMeans(result, person)


def _draws_at_once(columns: int) -> int:
    return max(1, _WEIGHTS_AT_ONCE // max(columns, 1))


def _by_subject(values: Float[np.ndarray, "p m"], person: Int[np.ndarray, " p"]) -> Float[np.ndarray, "s m"]:
    """Sums over each subject's probes: a weighted sum over probes is then one over subjects, far fewer."""
    return np.stack([np.bincount(person, column) for column in values.T.astype(np.float64)], axis=1)


class WeightedMeans:
    """Weighted means of values of each face, {"means": {measure: [N]}}."""

    def __init__(self, result: Result, person: Int[np.ndarray, " n"]) -> None:
        self.names = list(result["means"])
        values = np.stack([np.asarray(values, np.float64) for values in result["means"].values()], axis=1)
        self.sums = _by_subject(np.column_stack([np.ones(len(values)), values]), person)
        self.draws_at_once = _draws_at_once(len(self.sums))

    def __call__(self, counts: Counts) -> Samples:
        sums = counts @ self.sums
        return {name: sums[:, number] / sums[:, 0] for number, name in enumerate(self.names, 1)}


class WeightedProbes:
    """Shares of probes at the result's threshold, and TPIR where the threshold is that of a stated FPIR in each draw."""

    def __init__(self, result: Result, person: Int[np.ndarray, " p"]) -> None:
        rank, top = np.asarray(result["rank"]), np.asarray(result["top_score"])
        named, mated = top >= result["threshold"], rank > 0
        shares = {f"rank{k}": mated & (rank <= k) for k in RANKS}
        shares |= {"unknown_rate": mated & ~named, "correct_rate": (rank == 1) & named}
        if "average_precision" in result:
            shares["map"] = np.where(mated, result["average_precision"], 0)
        self.names = list(shares)
        self.sums = _by_subject(np.column_stack([mated, ~mated, ~mated & named, *shares.values()]), person)
        self.fpirs = list(result.get("tpir_at_fpir", {}))
        strangers, right = np.flatnonzero(~mated), np.flatnonzero(rank == 1)
        strangers = strangers[np.argsort(-top[strangers], kind="stable")]
        right = right[np.argsort(-top[right], kind="stable")]
        self.strangers, self.right = person[strangers], person[right]
        # a face named rightly comes before stranger k when fewer than k + 1 strangers score as high as it
        above = np.searchsorted(-top[strangers], -top[right], side="right")
        self.right_before = np.searchsorted(above, np.arange(len(strangers)), side="right")
        self.draws_at_once = _draws_at_once(len(self.sums) + (len(rank) if self.fpirs else 0))

    def __call__(self, counts: Counts) -> Samples:
        mated, strangers, named, *shares = (counts @ self.sums).T
        samples = {name: share / mated for name, share in zip(self.names, shares, strict=True)}
        samples["false_positive_identification_rate"] = named / strangers
        if not self.fpirs:
            return samples
        reached, right = (np.cumsum(counts[:, who], axis=1) for who in (self.strangers, self.right))
        right = np.column_stack([np.zeros(len(counts)), right])
        for fpir in self.fpirs:
            over = reached / strangers[:, None] > fpir  # the first stranger who is one too many sets the threshold
            before = np.where(over.any(1), self.right_before[over.argmax(1)], len(self.right))
            tpir = np.take_along_axis(right, before[:, None], 1)[:, 0] / mated
            samples[f"tpir_at_fpir_{fpir:g}"] = np.where(strangers > 0, tpir, np.nan)
        return samples


class WeightedPairs:
    """Accuracy, AUC, EER, TAR@FAR, d′ and mean scores of a list of pairs; the Brier score where pairs have probabilities.

    The calibration error is no sum over pairs but of absolute values, which grow under resampling: it has no interval here.
    """

    def __init__(self, result: Result, person: Int[np.ndarray, "p 2"]) -> None:
        order = np.argsort(result["scores"], kind="stable")
        self.scores, self.same, self.correct = (np.asarray(result[key])[order] for key in ("scores", "same", "correct"))
        self.left, self.right = person[order].T
        self.two_people = np.flatnonzero(self.left != self.right)
        self.first = np.flatnonzero(np.diff(self.scores, prepend=-np.inf))  # of equal scores
        self.moments = np.stack([np.ones(len(order)), self.scores, self.scores**2], axis=1)
        self.fars = [far for far in FARS if far * np.count_nonzero(~self.same) >= 1]  # those that these pairs carry
        self.of_fold = np.asarray(result.get("fold_weight", np.ones(len(order))))[order]
        self.brier = (np.asarray(result["probability"])[order] - self.same) ** 2 if "probability" in result else None
        self.draws_at_once = _draws_at_once(len(order))

    def __call__(self, counts: Counts) -> Samples:
        weights = counts[:, self.left]
        weights[:, self.two_people] *= counts[:, self.right[self.two_people]]
        genuine = weights * self.same
        impostor = weights - genuine
        samples = {"verification_accuracy": weights @ (self.of_fold * self.correct) / (weights @ self.of_fold)}
        moments = genuine @ self.moments, impostor @ self.moments
        samples["d_prime"] = _d_prime(*moments)
        samples["genuine_mean"], samples["impostor_mean"] = (part[:, 1] / part[:, 0] for part in moments)
        if self.brier is not None:
            samples["brier_score"] = weights @ self.brier / weights.sum(1)
        if len(self.first) < len(self.scores):
            genuine, impostor = (np.add.reduceat(part, self.first, axis=1) for part in (genuine, impostor))
        return samples | _area_and_rates(genuine, impostor, self.fars)


def _d_prime(genuine: Float[np.ndarray, "b 3"], impostor: Float[np.ndarray, "b 3"]) -> Float[np.ndarray, " b"]:
    """From the sums of weights, of weighted scores, and of their squares."""
    (mean, variance), (other, other_variance) = (
        (part[:, 1] / part[:, 0], np.clip(part[:, 2] / part[:, 0] - (part[:, 1] / part[:, 0]) ** 2, 0, None))
        for part in (genuine, impostor)
    )
    return (mean - other) / np.sqrt((variance + other_variance) / 2)


def _area_and_rates(genuine: Float[np.ndarray, "b u"], impostor: Float[np.ndarray, "b u"], fars: Sequence[float]) -> Samples:
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
    for rate in fars:
        first = np.argmax(far <= rate + 1e-12, axis=1)[:, None]
        samples[f"tar_at_far_{rate:g}"] = 1 - np.take_along_axis(frr, first, 1)[:, 0]
    return samples


class WeightedTail:
    """TAR@FAR over all pairs of faces, from the genuine pairs and the highest impostor scores (``all_pairs_verification``).

    A draw in which even the whole tail weighs less than the stated FAR takes the tail's lowest score: TAR is then too low,
    never too high. The tail is kept three times as long as the largest FAR needs.
    """

    def __init__(self, result: Result, person: Int[np.ndarray, " n"]) -> None:
        self.fars = list(result["tar_at_far"])
        scores = result["tail_scores"]  # descending
        self.left, self.right = person[result["tail_pairs"]].T
        self.last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of equal scores
        genuine = np.argsort(-result["genuine_scores"], kind="stable")
        self.genuine = person[result["genuine_pairs"][genuine, 0]]
        above = np.searchsorted(-scores[self.last], -result["genuine_scores"][genuine], side="right")
        self.genuine_before = np.searchsorted(above, np.arange(len(self.last)), side="right")
        # A genuine pair weighs what its subject does: sums of blocks are one matrix product, and only one block is added up.
        self.block = -(-len(genuine) // _BLOCKS)
        cells = self.genuine * _BLOCKS + np.arange(len(genuine)) // self.block
        self.images = np.bincount(person).astype(np.float64)
        self.in_block = np.bincount(cells, minlength=len(self.images) * _BLOCKS).reshape(-1, _BLOCKS).astype(np.float64)
        self.draws_at_once = _draws_at_once(len(scores))

    def __call__(self, counts: Counts) -> Samples:
        drawn = counts * self.images
        impostors = (drawn.sum(1) ** 2 - (drawn**2).sum(1)) / 2
        narrow = counts.astype(np.float32)  # whole numbers; half the memory of what is read most
        accepted = np.cumsum(narrow[:, self.left] * narrow[:, self.right], axis=1, dtype=np.float64)[:, self.last]
        genuine = np.column_stack([np.zeros(len(counts)), np.cumsum(counts @ self.in_block, axis=1)])
        samples = {}
        for far in self.fars:
            over = accepted / impostors[:, None] > far
            first = np.where(over.any(1), over.argmax(1), len(self.last) - 1)
            before = self.genuine_before[first]
            right = np.take_along_axis(genuine, (before // self.block)[:, None], 1)[:, 0]
            right += [row[self.genuine[end - end % self.block : end]].sum() for row, end in zip(counts, before, strict=True)]
            samples[f"all_pairs_tar_at_far_{far:g}"] = right / genuine[:, -1]
        return samples
