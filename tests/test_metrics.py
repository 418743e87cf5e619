"""Each metric beside a slow, obvious version of itself."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dsrkit import metrics


def scored(seed, genuine=40, impostor=60, digits=6, shift=1.0):
    """Random scores; few digits make ties."""
    generator = np.random.default_rng(seed)
    same = generator.permutation(np.arange(genuine + impostor) < genuine)
    return np.round(generator.normal(size=len(same)) + shift * same, digits), same


SAMPLES = [scored(0), scored(1, digits=1), scored(2, 3, 2), scored(3, 1, 1), scored(4, shift=-2), scored(5, 200, 10, digits=0)]


def rates(scores, same, threshold):
    accepted = [score >= threshold for score in scores]
    far = sum(a and not s for a, s in zip(accepted, same, strict=True)) / sum(not s for s in same)
    tar = sum(a and s for a, s in zip(accepted, same, strict=True)) / sum(bool(s) for s in same)
    return far, tar


def slow_roc(scores, same):
    return [(0.0, 0.0)] + [rates(scores, same, threshold) for threshold in sorted(set(scores.tolist()), reverse=True)]


def slow_eer(scores, same):
    points = slow_roc(scores, same)
    for (far0, tar0), (far1, tar1) in pairwise(points):
        gap0, gap1 = far0 - (1 - tar0), far1 - (1 - tar1)
        if gap0 < 0 <= gap1:
            return far0 + (far1 - far0) * -gap0 / (gap1 - gap0)
    raise AssertionError("the ROC ends where everything is accepted")


@pytest.mark.parametrize(("scores", "same"), SAMPLES)
def test_eer_lies_where_the_roc_crosses(scores, same):
    rate, threshold = metrics.eer(scores, same)
    assert rate == pytest.approx(slow_eer(scores, same), abs=1e-12)
    gaps = {t: abs(rates(scores, same, t)[0] - 1 + rates(scores, same, t)[1]) for t in scores.tolist()}
    assert gaps[threshold] == pytest.approx(min(gaps.values()), abs=1e-12)


@pytest.mark.parametrize(("scores", "same"), SAMPLES)
def test_auc_counts_pairs_in_order(scores, same):
    wins = [(g > i) + 0.5 * (g == i) for g in scores[same] for i in scores[~same]]
    assert metrics.auc(scores, same) == pytest.approx(sum(wins) / len(wins))
    assert metrics.auc(scores, same) == pytest.approx(roc_auc_score(same, scores))


@pytest.mark.parametrize("far", [0.0, 0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize(("scores", "same"), SAMPLES)
def test_tar_at_far_takes_the_best_threshold_allowed(scores, same, far):
    assert metrics.tar_at_far(scores, same, far) == max(t for f, t in slow_roc(scores, same) if f <= far)


def test_perfect_inverted_and_tied_scores():
    same = np.array([True, True, False, False])
    perfect = np.array([0.9, 0.8, 0.2, 0.1])
    assert metrics.eer(perfect, same) == (0.0, 0.8)
    assert metrics.auc(perfect, same) == 1
    assert metrics.tar_at_far(perfect, same, 0.001) == 1
    assert metrics.eer(-perfect, same)[0] == 1
    assert metrics.auc(-perfect, same) == 0
    tied = np.full(4, 0.5)
    assert metrics.eer(tied, same) == (0.5, 0.5)
    assert metrics.auc(tied, same) == 0.5
    assert metrics.tar_at_far(tied, same, 0.1) == 0
    assert metrics.d_prime(tied, same) == 0
    assert metrics.d_prime(np.array([1.0, 1, 0, 0]), same) == math.inf


def test_eer_agrees_with_the_overlap_of_two_gaussians():
    generator = np.random.default_rng(0)
    same = np.arange(200_000) < 100_000
    scores = generator.normal(size=len(same)) + 2 * same
    assert metrics.eer(scores, same)[0] == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)), abs=2e-3)
    assert metrics.d_prime(scores, same) == pytest.approx(2, abs=0.02)
    assert metrics.auc(scores, same) == pytest.approx(0.5 * math.erfc(-1), abs=2e-3)


def test_cosine_scores_against_a_loop(monkeypatch):
    monkeypatch.setattr(metrics, "_PAIRS_AT_ONCE", 3)  # several blocks, the last one short
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(6, 5)).astype(np.float32)
    pairs = generator.integers(6, size=(10, 2))
    slow = [
        sum(a * b for a, b in zip(embeddings[i], embeddings[j], strict=True))
        / math.sqrt(sum(a * a for a in embeddings[i]) * sum(b * b for b in embeddings[j]))
        for i, j in pairs.tolist()
    ]
    assert metrics.cosine_scores(embeddings, pairs) == pytest.approx(slow, abs=1e-6)
    assert metrics.cosine_scores(embeddings * 7, pairs) == pytest.approx(slow, abs=1e-6)
    assert metrics.cosine_scores(embeddings, np.empty((0, 2), int)).shape == (0,)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (1, 3)])
def test_effective_rank_against_an_svd(shape):
    embeddings = np.random.default_rng(0).normal(size=shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    singular = np.linalg.svd(embeddings, compute_uv=False)
    entropy = -sum(s / singular.sum() * math.log(s / singular.sum()) for s in singular)
    assert metrics.effective_rank(embeddings) == pytest.approx(math.exp(entropy))


def test_effective_rank_of_known_matrices():
    assert metrics.effective_rank(np.eye(5)) == pytest.approx(5)
    assert metrics.effective_rank(np.ones((9, 5))) == pytest.approx(1, abs=1e-4)
    assert metrics.effective_rank(np.repeat(np.eye(4)[:2], 3, axis=0)) == pytest.approx(2, abs=1e-4)


def slow_ssim(one, other):
    """Wang et al. 2004 at every pixel of every channel, the border reflected."""
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for x, y in zip(*(np.pad(part, ((0, 0), (5, 5), (5, 5)), "reflect") for part in (one, other)), strict=True):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                both = (window * (a - ma) * (b - mb)).sum()
                values.append((2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(values)


def test_psnr_and_ssim_of_each_image():
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(3, 3, 24, 20, generator=generator)
    sr = (hr + 0.2 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
    psnr, ssim = metrics.psnr(sr, hr), metrics.ssim(sr, hr)
    assert psnr.shape == ssim.shape == (3,)
    for n in range(3):
        one, other = sr[n].double().numpy(), hr[n].double().numpy()
        assert float(psnr[n]) == pytest.approx(-10 * math.log10(((one - other) ** 2).mean()), abs=1e-4)
        assert float(ssim[n]) == pytest.approx(slow_ssim(one, other), abs=1e-4)
        assert float(metrics.psnr(sr[n : n + 1], hr[n : n + 1])) == pytest.approx(float(psnr[n]))
        assert float(metrics.ssim(sr[n : n + 1], hr[n : n + 1])) == pytest.approx(float(ssim[n]), abs=1e-6)
    assert metrics.psnr(hr, hr).isinf().all()
    assert metrics.ssim(hr, hr) == pytest.approx(torch.ones(3))


def test_errors_say_what_was_expected():
    scores, same = scored(0)
    for measure in (metrics.eer, metrics.auc, metrics.d_prime):
        with pytest.raises(ValueError, match="no genuine pair"):
            measure(scores, np.zeros(100, bool))
        with pytest.raises(ValueError, match="no impostor pair"):
            measure(scores, np.ones(100, bool))
        with pytest.raises(ValueError, match=r"got \[100\] and \[99\]"):
            measure(scores, same[:99])
        with pytest.raises(ValueError, match="finite scores"):
            measure(np.where(same, np.nan, scores), same)
    with pytest.raises(ValueError, match="True or False"):
        metrics.auc(scores, np.arange(100))
    with pytest.raises(ValueError, match="from 0 to 1"):
        metrics.tar_at_far(scores, same, 5)
    embeddings = np.eye(3)
    embeddings[1, 1] = np.nan
    with pytest.raises(ValueError, match="in row 1"):
        metrics.cosine_scores(embeddings, np.array([[0, 2]]))
    with pytest.raises(ValueError, match="not all zero"):
        metrics.effective_rank(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="row numbers from 0 to 2, got 0 to 3"):
        metrics.cosine_scores(np.eye(3), np.array([[0, 3]]))
    with pytest.raises(ValueError, match=r"pairs \[P, 2\]"):
        metrics.cosine_scores(np.eye(3), np.array([0, 1]))
    with pytest.raises(ValueError, match="of one shape"):
        metrics.psnr(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 8))
    with pytest.raises(ValueError, match="Divide bytes by 255"):
        metrics.ssim(torch.rand(1, 3, 16, 16) * 255, torch.rand(1, 3, 16, 16))


def test_probabilities_keep_their_word_on_other_pairs():
    generator = np.random.default_rng(0)
    same = np.arange(40_000) % 2 == 0
    scores = generator.normal(size=len(same)) * 0.2 + 0.4 * same  # the true log-odds are linear in the score
    fit = metrics.fit_probability(scores[:20_000], same[:20_000])
    assert fit == pytest.approx((10, -2), rel=0.05)  # (µ1 − µ0) / σ², −(µ1² − µ0²) / 2σ²
    probabilities = metrics.probability(scores[20_000:], *fit)
    assert metrics.calibration_error(probabilities, same[20_000:]) < 0.02
    assert metrics.calibration_error(probabilities**3, same[20_000:]) > 0.1


@pytest.mark.parametrize("bins", [1, 7, 10])
def test_reliability_against_a_loop(bins):
    generator = np.random.default_rng(1)
    same = generator.random(300) < 0.5
    probabilities = np.append(np.round(generator.random(297), 2), [0, 1, 1])
    rows = []
    for number in range(bins):
        inside = [p for p in range(300) if min(int(probabilities[p] * bins), bins - 1) == number]
        if inside:
            rows.append((probabilities[inside].mean(), same[inside].mean(), len(inside)))
    table = metrics.reliability(probabilities, same, bins)
    assert list(table) == ["predicted", "observed", "count"]
    assert table.to_numpy() == pytest.approx(np.array(rows))
    error = sum(count * abs(predicted - observed) for predicted, observed, count in rows) / 300
    assert metrics.calibration_error(probabilities, same, bins) == pytest.approx(error)


@pytest.mark.parametrize("scores", [[0.9, 0.8, 0.2, 0.1], [0.1, 0.2, 0.8, 0.9], [0.5] * 4], ids=["perfect", "inverted", "tied"])
def test_probabilities_of_odd_scores_are_finite(scores):
    same = np.array([True, True, False, False])
    probabilities = metrics.probability(np.array(scores), *metrics.fit_probability(np.array(scores), same))
    assert np.isfinite(probabilities).all() and ((probabilities >= 0) & (probabilities <= 1)).all()
    assert metrics.reliability(probabilities, same)["count"].sum() == 4
    if len(set(scores)) == 1:
        assert probabilities == pytest.approx(0.5)


def test_reliability_errors():
    same = np.array([True, False])
    with pytest.raises(ValueError, match=r"probabilities from 0 to 1, got -0\.5 to 0\.5"):
        metrics.reliability(np.array([-0.5, 0.5]), same)
    with pytest.raises(ValueError, match="bins: expected 1 or more"):
        metrics.reliability(np.array([0.1, 0.5]), same, 0)
    with pytest.raises(ValueError, match="no genuine pair"):
        metrics.fit_probability(np.array([0.1, 0.5]), np.array([False, False]))
