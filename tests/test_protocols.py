"""Verification, identification and the bootstrap beside loops that follow the definitions."""

import time
from itertools import pairwise

import numpy as np
import pytest
from test_metrics import slow_eer, slow_roc

from dsrkit import metrics
from dsrkit.bootstrap import bootstrap_samples
from dsrkit.evaluation import (
    bootstrap_difference,
    bootstrap_interval,
    gallery_split,
    identification,
    threshold_at_fpir,
    threshold_sweep,
    verification,
)
from dsrkit.evaluation.protocols import best_threshold, fold_numbers


def faces(seed=0, subjects=30, images=4, noise=1.0, width=16):
    """Embeddings around one centre a subject, and the subjects."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(subjects), images)
    centres = generator.normal(size=(subjects, width))
    return (centres[labels] + noise * generator.normal(size=(len(labels), width))).astype(np.float32), labels


def pairs_of(labels, count=200, seed=0):
    generator = np.random.default_rng(seed)
    every = np.array([(i, j) for i in range(len(labels)) for j in range(i)])
    same = labels[every[:, 0]] == labels[every[:, 1]]
    chosen = np.concatenate([generator.choice(np.flatnonzero(kind), count // 2, replace=False) for kind in (same, ~same)])
    chosen = generator.permutation(chosen)
    return every[chosen], same[chosen]


def accuracy(scores, same, threshold):
    return np.mean([(score >= threshold) == bool(kind) for score, kind in zip(scores, same, strict=True)])


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_best_threshold_beats_every_other(digits):
    generator = np.random.default_rng(digits)
    for _ in range(20):
        same = np.append(generator.random(12) < 0.5, [True, False])
        scores = np.round(generator.normal(size=14) + same, digits)
        values = sorted(set(scores.tolist()))
        tried = [values[0], *((a + b) / 2 for a, b in pairwise(values)), values[-1] + 1]
        best = max(accuracy(scores, same, threshold) for threshold in tried)
        threshold = best_threshold(scores, same)
        assert accuracy(scores, same, threshold) == best
        lowest = next(t for t in tried if accuracy(scores, same, t) == best)
        assert threshold == pytest.approx(lowest) or threshold > values[-1]


def test_best_threshold_is_the_midpoint():
    assert best_threshold(np.array([0.1, 0.3, 0.7]), np.array([False, False, True])) == pytest.approx(0.5)
    close = np.array([0.5, np.nextafter(0.5, 1)])  # no float lies between: the upper one still parts them
    assert accuracy(close, [False, True], best_threshold(close, np.array([False, True]))) == 1


@pytest.mark.parametrize("numbered", [False, True])
def test_verification_against_loops(numbered):
    embeddings, labels = faces(noise=1.5)
    pairs, same = pairs_of(labels)
    folds = np.random.default_rng(1).integers(5, size=len(pairs)) if numbered else 5
    result = verification(embeddings, pairs, same, folds)
    of_pair = folds if numbered else np.repeat(np.arange(5), 40)
    scores = metrics.cosine_scores(embeddings, pairs)
    thresholds = [best_threshold(scores[of_pair != fold], same[of_pair != fold]) for fold in range(5)]
    accuracies = [accuracy(scores[of_pair == fold], same[of_pair == fold], thresholds[fold]) for fold in range(5)]
    assert result["accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert result["threshold"] == pytest.approx(np.mean(thresholds))
    assert result["eer"] == pytest.approx(slow_eer(scores, same))
    assert list(result["tar_at_far"]) == [0.1, 0.01, 0.001]
    assert result["tar_at_far"][0.1] == max(t for f, t in slow_roc(scores, same) if f <= 0.1)
    expected = [(scores[p] >= thresholds[of_pair[p]]) == same[p] for p in range(len(pairs))]
    assert result["correct"].tolist() == expected
    assert result["genuine_mean"] == pytest.approx(scores[same].mean())
    assert result["impostor_mean"] == pytest.approx(scores[~same].mean())
    assert result["effective_rank"] == pytest.approx(metrics.effective_rank(embeddings))


def test_verification_at_its_ends():
    embeddings, labels = faces(noise=0)
    pairs, same = pairs_of(labels)
    perfect = verification(embeddings, pairs, same, 10)
    assert (perfect["accuracy"], perfect["accuracy_std"], perfect["eer"]) == (1, 0, 0)
    collapsed = verification(np.ones((len(labels), 4)), pairs, same, 10)
    assert collapsed["auc"] == pytest.approx(0.5)
    assert collapsed["effective_rank"] == pytest.approx(1, abs=1e-4)


def test_a_score_at_the_threshold_is_accepted():
    embeddings = np.array([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 2]])  # cosines 1, 0 and 0.5, 0: fold 1 is judged at 0.5
    result = verification(embeddings, pairs, np.array([True, False, True, False]), np.array([0, 0, 1, 1]))
    assert result["correct"].all()
    named = identification(embeddings[3:], [0], embeddings[:1], [0], 0.5)
    assert named["unknown_rate"] == 0
    assert threshold_sweep(embeddings[3:], [0], embeddings[:1], [0], np.array([0.5]))["unknown"].item() == 0


def test_a_fold_does_not_choose_its_own_threshold():
    embeddings, labels = faces()
    pairs, same = pairs_of(labels)
    folds = fold_numbers(10, len(pairs))
    flipped = np.where(folds == 3, ~same, same)
    one, other = verification(embeddings, pairs, same, folds), verification(embeddings, pairs, flipped, folds)
    assert (one["correct"] != other["correct"])[folds == 3].all()


def test_fold_numbers_are_consecutive_blocks():
    assert fold_numbers(10, 6000).tolist() == [number // 600 for number in range(6000)]
    assert np.bincount(fold_numbers(3, 10)).tolist() == [4, 3, 3]


def test_verification_errors():
    embeddings, labels = faces()
    pairs, same = pairs_of(labels)
    with pytest.raises(ValueError, match="expected 2 to 200"):
        verification(embeddings, pairs, same, 1)
    with pytest.raises(ValueError, match="expected two folds or more"):
        verification(embeddings, pairs, same, np.zeros(200, int))
    with pytest.raises(ValueError, match="a number for each of the 200 pairs"):
        verification(embeddings, pairs, same, np.zeros(199, int))
    with pytest.raises(ValueError, match="Fold 0: expected genuine and impostor pairs in the other folds"):
        verification(embeddings, pairs, same, (~same).astype(int))
    with pytest.raises(ValueError, match="no genuine pair"):
        verification(embeddings, pairs, np.zeros(200, bool), 10)


def slow_identification(probes, probe_ids, gallery, gallery_ids):
    """(best score, name, rank or 0) of each probe, face by face."""
    answers = []
    for probe, own in zip(probes, probe_ids, strict=True):
        best = {}
        for other, name in zip(gallery, gallery_ids, strict=True):
            score = float(np.dot(probe, other) / np.linalg.norm(probe) / np.linalg.norm(other))
            best[name] = max(score, best.get(name, -2))
        order = sorted(best, key=best.get, reverse=True)
        answers.append((best[order[0]], order[0], order.index(own) + 1 if own in best else 0))
    return answers


@pytest.fixture(params=[False, True], ids=["numbers", "names"])
def search(request):
    """Two gallery images for each of 20 subjects, in mixed order; probes of them and of ten strangers."""
    embeddings, labels = faces(noise=1.6)
    ids = np.array([f"subject {label:02d}" for label in labels]) if request.param else labels
    order = np.random.default_rng(3).permutation(len(labels))
    gallery = order[(order % 4 < 2) & (labels[order] < 20)]
    probes = np.setdiff1d(order, gallery)
    return embeddings[probes], ids[probes], embeddings[gallery], ids[gallery]


def test_identification_against_loops(search, monkeypatch):
    monkeypatch.setattr("dsrkit.evaluation.search._SCORES_AT_ONCE", 7 * 40)
    answers = slow_identification(*search)
    mated = [answer for answer in answers if answer[2]]
    strangers = [answer for answer in answers if not answer[2]]
    threshold = float(np.median([score for score, _, _ in answers]))
    result = identification(*search, threshold)
    for k in (1, 5, 10, 20):
        assert result["cmc"][k - 1] == pytest.approx(np.mean([rank <= k for _, _, rank in mated]))
    assert result["cmc"].shape == (20,)
    assert result["cmc"][-1] == 1
    assert [result[f"rank{k}"] for k in (1, 5, 10)] == [result["cmc"][k - 1] for k in (1, 5, 10)]
    assert result["unknown_rate"] == pytest.approx(np.mean([score < threshold for score, _, _ in mated]))
    assert result["correct_rate"] == pytest.approx(np.mean([s >= threshold and rank == 1 for s, _, rank in mated]))
    assert result["false_positive_identification_rate"] == pytest.approx(np.mean([s >= threshold for s, _, _ in strangers]))
    for fpir, tpir in result["tpir_at_fpir"].items():
        allowed = [t for t, _, _ in answers if np.mean([s >= t for s, _, _ in strangers]) <= fpir]
        best = max((np.mean([s >= t and rank == 1 for s, _, rank in mated]) for t in allowed), default=0)
        assert tpir == pytest.approx(best)
    assert set(result["tpir_at_fpir"]) == {0.1}  # twenty strangers do not carry one per cent


def test_threshold_sweep_against_identification(search):
    table = threshold_sweep(*search)
    assert list(table) == ["threshold", "correct", "wrong", "unknown", "fpir"]
    assert np.allclose(table[["correct", "wrong", "unknown"]].sum(axis=1), 1)
    for row in table.iloc[::17].itertuples():
        result = identification(*search, row.threshold)
        assert row.correct == pytest.approx(result["correct_rate"])
        assert row.unknown == pytest.approx(result["unknown_rate"])
        assert row.fpir == pytest.approx(result["false_positive_identification_rate"])


def test_closed_set_has_no_false_positive_rate():
    embeddings, labels = faces(noise=0.1)
    gallery, probes, strangers = gallery_split(labels)
    result = identification(embeddings[probes], labels[probes], embeddings[gallery], labels[gallery], -1.0)
    assert len(strangers) == 0
    assert np.isnan(result["false_positive_identification_rate"])
    assert result["tpir_at_fpir"] == {}
    assert (result["rank1"], result["unknown_rate"], result["correct_rate"]) == (1, 0, 1)
    assert threshold_sweep(embeddings[probes], labels[probes], embeddings[gallery], labels[gallery])["fpir"].isna().all()


def test_a_collapsed_recogniser_is_ranked_last():
    ones, labels = np.ones((30, 8)), np.arange(30) % 10
    result = identification(ones[10:], labels[10:], ones[:10], labels[:10], 0.5)
    assert result["rank1"] == 0
    assert result["rank10"] == 1


@pytest.mark.parametrize("fpir", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_threshold_at_fpir_is_the_smallest_that_keeps_it(fpir):
    embeddings, labels = faces()
    probes, gallery = embeddings[labels < 10], embeddings[labels >= 10]
    threshold = threshold_at_fpir(probes, gallery, fpir)
    top = np.array([best for best, _, _ in slow_identification(probes, [None] * 40, gallery, np.arange(80))])
    assert np.mean(top >= threshold + 1e-6) <= fpir
    assert fpir == 1 or np.mean(top >= threshold - 1e-6) > fpir
    # A frozen threshold does what it promises on the probes it was chosen on.
    ids = np.append(np.full(40, -1), 0)
    mated = np.concatenate([probes, gallery[:1]])
    rate = identification(mated, ids, gallery, np.arange(80), threshold)["false_positive_identification_rate"]
    assert rate <= fpir


def test_ties_at_the_threshold_stay_out():
    gallery, probes = np.eye(2), np.array([[1.0, 0], [1, 0], [1, 0], [1, 1]])
    assert threshold_at_fpir(probes, gallery, 0.5) > 1
    assert threshold_at_fpir(probes, gallery, 0.75) == pytest.approx(np.sqrt(0.5), abs=1e-6)


def test_identification_errors():
    embeddings, labels = faces()
    with pytest.raises(ValueError, match="enrolled subjects, got none among 60"):
        identification(embeddings[:60], labels[:60], embeddings[60:], labels[60:], 0.3)
    with pytest.raises(ValueError, match="gallery: expected one id an embedding"):
        identification(embeddings[:60], labels[:60], embeddings[60:], labels[:60][:5], 0.3)
    with pytest.raises(ValueError, match="ids of one type"):
        identification(embeddings, labels, embeddings, labels.astype(str), 0.3)
    with pytest.raises(ValueError, match="one width"):
        identification(embeddings, labels, embeddings[:, :4], labels, 0.3)
    with pytest.raises(ValueError, match="share from 0 to 1"):
        threshold_at_fpir(embeddings, embeddings, 2)


def test_gallery_split_parts_the_images():
    labels = np.array(list("aaabbbbcdd"))
    gallery, probes, strangers = gallery_split(labels, enrolled=2)
    assert sorted(labels[gallery].tolist()) == list("aabb")
    assert sorted(labels[probes].tolist()) == list("abb")
    assert sorted(labels[strangers].tolist()) == list("cdd")
    assert sorted(np.concatenate([gallery, probes, strangers]).tolist()) == list(range(10))
    again = gallery_split(labels, enrolled=2)
    assert all(np.array_equal(one, other) for one, other in zip((gallery, probes, strangers), again, strict=True))
    assert len({tuple(gallery_split(labels, 2, seed)[0].tolist()) for seed in range(20)}) > 3
    with pytest.raises(ValueError, match="more than 4 images, got 4 at most"):
        gallery_split(labels, enrolled=4)
    with pytest.raises(ValueError, match="expected 1 or more"):
        gallery_split(labels, enrolled=0)


def repeated(scores, same, weights):
    """The pairs, each as often as it weighs."""
    weights = weights.astype(int)
    return np.repeat(scores, weights), np.repeat(same, weights)


@pytest.mark.parametrize("digits", [1, 6])
def test_pair_draws_against_repeated_pairs(digits):
    embeddings, labels = faces(noise=1.5)
    pairs, same = pairs_of(labels)
    result = verification(embeddings, pairs, same)
    result["scores"] = np.round(result["scores"], digits)
    people = labels[pairs]
    samples = bootstrap_samples(result, people, 12, 5)
    drawn = np.random.default_rng(5).integers(30, size=(12, 30))
    for draw in range(12):
        times = [int((drawn[draw] == person).sum()) for person in range(30)]
        weights = np.array([times[a] if a == b else times[a] * times[b] for a, b in people.tolist()])
        scores, kinds = repeated(result["scores"], same, weights)
        assert samples["verification_accuracy"][draw] == pytest.approx(np.repeat(result["correct"], weights).mean())
        assert samples["auc"][draw] == pytest.approx(metrics.auc(scores, kinds))
        assert samples["eer"][draw] == pytest.approx(metrics.eer(scores, kinds)[0])
        assert samples["tar_at_far_0.01"][draw] == pytest.approx(metrics.tar_at_far(scores, kinds, 0.01))


def test_probe_draws_against_repeated_probes(search):
    result = identification(*search, 0.5)
    people = search[1]
    samples = bootstrap_samples(result, people, 8, 2)
    names = sorted(set(people.tolist()))
    drawn = np.random.default_rng(2).integers(len(names), size=(8, len(names)))
    for draw in range(8):
        chosen = [p for number in drawn[draw] for p in range(len(people)) if people[p] == names[number]]
        mated = [p for p in chosen if result["rank"][p]]
        assert samples["rank1"][draw] == pytest.approx(np.mean([result["rank"][p] == 1 for p in mated]))
        named = {p: result["top_score"][p] >= 0.5 for p in chosen}
        assert samples["unknown_rate"][draw] == pytest.approx(np.mean([not named[p] for p in mated]))
        assert samples["correct_rate"][draw] == pytest.approx(np.mean([named[p] and result["rank"][p] == 1 for p in mated]))
        strangers = [named[p] for p in chosen if not result["rank"][p]]
        assert samples["false_positive_identification_rate"][draw] == pytest.approx(np.mean(strangers))
    interval = bootstrap_interval(result, people, draws=8, seed=2, level=0.9)
    assert interval["rank1"] == pytest.approx(np.quantile(samples["rank1"], [0.05, 0.95]))


def test_intervals_hold_the_measure_and_pairing_narrows_the_difference():
    embeddings, labels = faces(subjects=80, noise=1.5)
    pairs, same = pairs_of(labels, 400)
    noise = np.random.default_rng(8).normal(size=embeddings.shape)
    one = verification(embeddings, pairs, same)
    other = verification(embeddings + 0.4 * noise, pairs, same)
    interval = bootstrap_interval(one, labels[pairs])
    for measure, value in (("verification_accuracy", one["accuracy"]), ("auc", one["auc"]), ("eer", one["eer"])):
        low, high = interval[measure]
        assert low <= value <= high
        assert low < high
    gain = bootstrap_difference(one, other, labels[pairs])["auc"]
    assert gain["value"] == pytest.approx(one["auc"] - other["auc"])
    assert gain["low"] <= gain["value"] <= gain["high"]
    apart = bootstrap_interval(other, labels[pairs])["auc"]
    assert gain["high"] - gain["low"] < apart[1] - apart[0]
    nothing = bootstrap_difference(one, one, labels[pairs])
    assert all(part == {"value": 0, "low": 0, "high": 0} for part in nothing.values())


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        skill = generator.beta(4, 2, size=60)  # each subject is easier or harder; the truth is 4/6
        people = np.repeat(np.arange(60), 5)
        rank = np.where(generator.random(300) < skill[people], 1, 2)
        result = {"rank": rank, "top_score": np.ones(300), "threshold": 0.0}
        low, high = bootstrap_interval(result, people, draws=200, seed=seed)["rank1"]
        covered += low <= 4 / 6 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_bootstrap_errors():
    embeddings, labels = faces()
    pairs, same = pairs_of(labels)
    result = verification(embeddings, pairs, same)
    with pytest.raises(ValueError, match=r"subjects: expected shape \[200, 2\]"):
        bootstrap_interval(result, labels)
    with pytest.raises(ValueError, match="two or more to draw from"):
        bootstrap_interval(result, np.zeros((200, 2), int))
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(result, labels[pairs], draws=5, level=95)
    with pytest.raises(ValueError, match="draws"):
        bootstrap_interval(result, labels[pairs], draws=0)
    with pytest.raises(ValueError, match="of the same pairs"):
        bootstrap_difference(result, result | {"same": ~same}, labels[pairs])


def test_a_thousand_draws_of_lfw_take_seconds():
    generator = np.random.default_rng(0)
    same = np.arange(6000) % 2 == 0
    people = generator.integers(4281, size=(6000, 2))
    people[same, 1] = people[same, 0]
    result = {"scores": generator.normal(size=6000) + same, "same": same, "correct": generator.random(6000) < 0.9}
    started = time.perf_counter()
    bootstrap_interval(result, people)
    assert time.perf_counter() - started < 15
