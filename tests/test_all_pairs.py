"""All pairs of faces, the search of a gallery, and their bootstrap, beside loops that follow the definitions."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_curve
from test_protocols import faces

from dsrkit.bootstrap import bootstrap_difference, bootstrap_interval, bootstrap_samples, measured
from dsrkit.evaluation import all_pairs as all_pairs_module
from dsrkit.evaluation import identification, open_set_curve, threshold_at_fpir
from dsrkit.evaluation.all_pairs import all_pairs_verification
from dsrkit.evaluation.open_set import sweep_of, threshold_sweep


def every_pair(left, right, labels):
    """Scores and truth of each pair i < j, by loops."""
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (left, right)]
    pairs = [(i, j) for i in range(len(labels)) for j in range(i + 1, len(labels))]
    return np.array([float(unit[0][i] @ unit[1][j]) for i, j in pairs]), np.array([labels[i] == labels[j] for i, j in pairs])


def tar(scores, same, far):
    measured_far, tars, _ = roc_curve(same, scores, drop_intermediate=False)
    return tars[measured_far <= far][-1]


@pytest.fixture(params=["random", "perfect", "inverted", "tied", "tiny"])
def compared(request):
    embeddings, labels = faces(noise=0.0 if request.param == "perfect" else 1.2, subjects=20)
    order = np.random.default_rng(2).permutation(len(labels))
    embeddings, labels = embeddings[order].astype(np.float64), labels[order]
    left, right = embeddings, embeddings + 0.1 * np.random.default_rng(3).normal(size=embeddings.shape)
    if request.param == "inverted":
        right = -right
    if request.param == "tied":
        left = right = np.ones_like(left)
    if request.param == "tiny":
        left, right, labels = left[:3], right[:3], np.array([0, 0, 1])
    return left, right, labels


def test_tar_over_all_pairs_against_sklearn(compared, monkeypatch):
    monkeypatch.setattr(all_pairs_module, "_SCORES_AT_ONCE", 500)
    monkeypatch.setattr(all_pairs_module, "FEWEST", 0)
    left, right, labels = compared
    scores, same = every_pair(left, right, labels)
    result = all_pairs_verification(left, right, labels, fars=(0.1, 0.01, 0.003))
    for far, rate in result["tar_at_far"].items():
        assert rate == pytest.approx(tar(np.round(scores, 6), same, far))
    assert (result["genuine"], result["impostors"]) == (same.sum(), (~same).sum())
    tail = np.sort(scores[~same])[::-1][: len(result["tail_scores"])]
    assert result["tail_scores"] == pytest.approx(tail, abs=1e-6)
    assert (labels[result["tail_pairs"][:, 0]] != labels[result["tail_pairs"][:, 1]]).all()


def test_a_far_that_too_few_impostors_carry_is_left_out():
    embeddings, labels = faces(subjects=20)  # 3,040 impostor pairs
    assert list(all_pairs_verification(embeddings, embeddings, labels)["tar_at_far"]) == []
    embeddings, labels = faces(subjects=60)  # 28,320
    assert list(all_pairs_verification(embeddings, embeddings, labels)["tar_at_far"]) == [1e-3]


def test_draws_of_all_pairs_against_repeated_pairs(monkeypatch):
    monkeypatch.setattr(all_pairs_module, "_TAIL", 20)
    embeddings, labels = faces(subjects=25, noise=1.2)
    people = np.array([f"person {label}" for label in labels])
    result = all_pairs_verification(embeddings, embeddings, labels, fars=(0.02, 0.005))
    scores, same = every_pair(embeddings, embeddings, labels)
    pairs = [(labels[i], labels[j]) for i in range(len(labels)) for j in range(i + 1, len(labels))]
    samples = bootstrap_samples(result, people, 10, 4)
    names = np.unique(people)
    drawn = np.random.default_rng(4).integers(25, size=(10, 25))
    for draw in range(10):
        times = {int(names[number].split()[1]): int((drawn[draw] == number).sum()) for number in range(25)}
        weights = np.array([times[a] if a == b else times[a] * times[b] for a, b in pairs])
        for far in (0.02, 0.005):
            expected = tar(np.repeat(scores, weights), np.repeat(same, weights), far)
            assert samples[f"all_pairs_tar_at_far_{far:g}"][draw] == pytest.approx(expected)
    assert measured(result, people) == pytest.approx(
        {f"all_pairs_tar_at_far_{far:g}": r for far, r in result["tar_at_far"].items()}
    )
    low, high = bootstrap_interval(result, people, 100)["all_pairs_tar_at_far_0.02"]
    assert low <= result["tar_at_far"][0.02] <= high
    same_again = bootstrap_difference(result, result, people, 20)
    assert set(same_again) == {"all_pairs_tar_at_far_0.02", "all_pairs_tar_at_far_0.005"}


def test_all_pairs_errors():
    embeddings, labels = faces(subjects=4)
    with pytest.raises(ValueError, match="no genuine pair among 16 faces"):
        all_pairs_verification(embeddings, embeddings, np.arange(16))
    with pytest.raises(ValueError, match="no impostor pair among 16 faces"):
        all_pairs_verification(embeddings, embeddings, np.zeros(16, int))
    with pytest.raises(ValueError, match=r"labels \[N\]"):
        all_pairs_verification(embeddings, embeddings, labels[:5])
    broken = embeddings.copy()
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="1 bad of 16, the first in row 3"):
        all_pairs_verification(broken, embeddings, labels)


@pytest.fixture
def searched():
    """One to four gallery images of 12 subjects, in mixed order; probes of them and of three strangers."""
    embeddings, labels = faces(seed=5, subjects=15, images=8, noise=1.8)
    order = np.random.default_rng(0).permutation(len(labels))
    in_gallery = np.array([labels[row] < 12 and row % 8 <= labels[row] % 4 for row in order])
    gallery, probes = order[in_gallery], order[~in_gallery]
    return embeddings[probes], labels[probes], embeddings[gallery], labels[gallery]


def test_the_two_nearest_of_each_probe(searched):
    probes, probe_ids, gallery, gallery_ids = searched
    result = identification(*searched, 0.3)
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (probes, gallery)]
    for number, probe in enumerate(unit[0]):
        best = {}
        for other, name in zip(unit[1], gallery_ids.tolist(), strict=True):
            best[name] = max(best.get(name, -2), float(probe @ other))
        first, second = sorted(best, key=best.get, reverse=True)[:2]
        assert (result["nearest"][number], result["runner_up"][number]) == (first, second)
        assert result["runner_up_score"][number] == pytest.approx(best[second], abs=1e-6)
        own = best.get(int(probe_ids[number]), np.nan)
        assert result["own_score"][number] == pytest.approx(own, abs=1e-6, nan_ok=True)
    assert (result["nearest"][result["rank"] == 1] == probe_ids[result["rank"] == 1]).all()


def test_average_precision_against_sklearn(searched):
    probes, probe_ids, gallery, gallery_ids = searched
    result = identification(*searched, 0.3)
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (probes, gallery)]
    for number in np.flatnonzero(result["rank"]):
        expected = average_precision_score(gallery_ids == probe_ids[number], unit[1] @ unit[0][number])
        assert result["average_precision"][number] == pytest.approx(expected)
    assert np.isnan(result["average_precision"][result["rank"] == 0]).all()
    assert result["map"] == pytest.approx(np.nanmean(result["average_precision"]))
    counts = result["enrolled_subjects"], result["gallery_images"], result["enrolled_probes"] + result["strangers"]
    assert counts == (12, len(gallery_ids), len(probe_ids))


def test_a_tie_names_somebody_else_and_a_gallery_of_one_has_no_second():
    ones = np.ones((4, 3))
    result = identification(ones[:1], [7], ones, [7, 3, 3, 9], 0.5)
    assert result["rank"] == [3] and result["nearest"] != [7]
    alone = identification(ones[:2], [7, 8], ones[:1], [7], 0.5)
    assert np.isnan(alone["runner_up_score"]).all() and alone["nearest"].tolist() == [7, 7] and alone["map"] == 1


def test_the_open_set_curve_goes_through_every_rate(searched):
    result = identification(*searched, 0.3)
    curve = open_set_curve(result)
    assert curve.fpir.iloc[0] == 0 and curve.fpir.iloc[-1] == 1
    assert (curve.threshold.diff()[1:] < 0).all() and (curve.fnir.diff()[1:] <= 0).all()
    for point in curve.itertuples():
        at = identification(*searched, point.threshold)
        assert point.fpir == pytest.approx(at["false_positive_identification_rate"])
        assert 1 - point.fnir == pytest.approx(at["correct_rate"])
    for fpir, tpir in result["tpir_at_fpir"].items():
        assert tpir == pytest.approx(1 - curve[curve.fpir <= fpir].fnir.min())
    closed = identification(searched[2], searched[3], searched[2], searched[3], 0.3)
    with pytest.raises(ValueError, match="probes of strangers, got none"):
        open_set_curve(closed)


def test_a_sweep_needs_no_second_search(searched):
    assert sweep_of(identification(*searched, 0.3)).equals(threshold_sweep(*searched))


def test_tpir_in_draws_against_repeated_probes(searched):
    probes, people, gallery, gallery_ids = searched
    result = identification(*searched, 0.4)
    samples = bootstrap_samples(result, people, 12, 9)
    drawn = np.random.default_rng(9).integers(15, size=(12, 15))
    for draw in range(12):
        chosen = np.concatenate([np.flatnonzero(people == number) for number in drawn[draw]])
        strangers = chosen[result["rank"][chosen] == 0]
        again = identification(probes[chosen], people[chosen], gallery, gallery_ids, 0.4)
        for measure in ("rank1", "rank5", "map", "unknown_rate", "correct_rate"):
            assert samples[measure][draw] == pytest.approx(again[measure])
        if not len(strangers):
            assert np.isnan(samples["tpir_at_fpir_0.1"][draw])
            continue
        if 0.1 in again["tpir_at_fpir"]:
            assert samples["tpir_at_fpir_0.1"][draw] == pytest.approx(again["tpir_at_fpir"][0.1])
    interval = bootstrap_interval(result, people, 200)
    assert interval["tpir_at_fpir_0.1"][0] <= result["tpir_at_fpir"][0.1] <= interval["tpir_at_fpir_0.1"][1]


def test_one_score_for_all_leaves_no_threshold_to_name_anybody(searched):
    _, probe_ids, _, gallery_ids = searched
    ones = [np.ones((len(ids), 4)) for ids in (probe_ids, gallery_ids)]
    result = identification(ones[0], probe_ids, ones[1], gallery_ids, 0.5)
    assert result["tpir_at_fpir"] == {0.1: 0}
    drawn = bootstrap_samples(result, probe_ids, 20)["tpir_at_fpir_0.1"]
    assert (drawn[np.isfinite(drawn)] == 0).all()
    assert threshold_at_fpir(ones[0], ones[1], 0.1) > 1 - 1e-6
