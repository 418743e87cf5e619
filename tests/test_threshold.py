"""The threshold for a gallery: against a slow derivation, on faces whose comparisons are independent, and what is refused."""

import numpy as np
import pytest

from dsrkit.evaluation import identification
from dsrkit.evaluation.all_pairs import highest_impostors
from dsrkit.evaluation.threshold import false_match_rate, threshold_for_gallery


def strangers(subjects, images, seed=0, width=64):
    """Unit embeddings of people who are alike by chance alone; those of one person lie together."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(subjects), images)
    embeddings = generator.normal(size=(subjects, width))[labels] + 0.7 * generator.normal(size=(len(labels), width))
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32), labels


def impostor_scores(left, right, labels):
    scores = [
        (float(left[one] @ right[other]), labels[one], labels[other])
        for one in range(len(labels))
        for other in range(one + 1, len(labels))
        if labels[one] != labels[other]
    ]
    return sorted(scores, reverse=True)


def test_the_smallest_threshold_that_keeps_the_rate():
    faces, labels = strangers(12, 4)
    seen = strangers(12, 4, seed=1)[0]
    scores = [score for score, _, _ in impostor_scores(faces, seen, labels)]
    for fpir, gallery in ((0.5, 2), (0.3, 20), (0.1, 7)):
        found = threshold_for_gallery(faces, seen, labels, fpir, gallery)
        rate = 1 - (1 - fpir) ** (1 / gallery)
        allowed = int(rate * len(scores))
        assert np.mean([score > found.value + 1e-6 for score in scores]) <= rate
        assert found.value == pytest.approx(scores[allowed], abs=1e-6) and found.value > scores[allowed] - 1e-7
        assert found.carried == pytest.approx(rate * len(scores)) and np.isnan(found.interval).all()


@pytest.mark.parametrize(("fpir", "gallery"), [(0.1, 50), (0.1, 400), (0.02, 100)])
def test_so_many_strangers_are_named(fpir, gallery):
    validation, labels = strangers(150, 6, seed=2)
    threshold = threshold_for_gallery(validation, validation, labels, fpir, gallery).value
    people, _ = strangers(gallery + 3000, 1, seed=3)
    who = np.arange(len(people))
    found = identification(people[gallery - 1 :], who[gallery - 1 :], people[:gallery], who[:gallery], threshold)
    assert found["false_positive_identification_rate"] == pytest.approx(fpir, rel=0.35)


def test_draws_against_repeated_people():
    faces, labels = strangers(9, 3)
    found = threshold_for_gallery(faces, faces, labels, 0.4, 5, draws=40, seed=4)
    scores = impostor_scores(faces, faces, labels)
    generator, values = np.random.default_rng(4), []
    for drawn in generator.integers(9, size=(40, 9)):
        times = np.bincount(drawn, minlength=9)
        repeated = [score for score, one, other in scores for _ in range(times[one] * times[other])]
        values.append(repeated[int(np.floor(false_match_rate(0.4, 5) * len(repeated) + 1e-9))])
    assert found.interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-6)
    assert found.interval[0] <= found.value <= found.interval[1]


def test_what_has_no_threshold():
    faces, labels = strangers(4, 2)
    for fpir, gallery in ((0, 5), (1, 5), (0.1, 0)):
        with pytest.raises(ValueError, match="an FPIR between 0 and 1 and a gallery of 1 or more"):
            threshold_for_gallery(faces, faces, labels, fpir, gallery)
    with pytest.raises(ValueError, match="two subjects or more, got one among 8 faces"):
        threshold_for_gallery(faces, faces, np.zeros(8, int), 0.1, 5)
    found = threshold_for_gallery(faces, faces, labels, 0.001, 1000).value  # the next number above the highest impostor
    highest = highest_impostors(faces, faces, labels, 1)[0][0]
    assert found == np.nextafter(highest, np.float32(2)) > highest
    # a slow sum may round the last bits otherwise: on some processors it does
    assert highest == pytest.approx(max(impostor_scores(faces, faces, labels))[0], abs=1e-6)
