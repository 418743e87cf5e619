"""Figures hold the data they were given, and at the width of a column their texts can be read; the rest was judged by eye."""

from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy.stats import norm

from dsrkit import plots
from dsrkit.evaluation import identification, threshold_sweep, verification
from dsrkit.metrics import fit_probability, probability, reliability, tar_at_far
from dsrkit.plots import history as history_module
from dsrkit.plots.style import COLUMN, PAGE


@pytest.fixture(scope="module")
def evaluated():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 4)
    centres = generator.normal(size=(30, 16))[labels]
    pairs = np.array([(i, j) for i in range(120) for j in (i ^ 1, (i * 7 + 13) % 120) if i != j])
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    gallery, probes = np.arange(0, 100, 4), np.setdiff1d(np.arange(120), np.arange(0, 100, 4))
    verified, identified, sweeps = {}, {}, {}
    for name, noise in (("hr", 0.5), ("direct_feed", 2.0), ("dsr", 1.2)):
        embeddings = centres + noise * generator.normal(size=centres.shape)
        search = embeddings[probes], labels[probes], embeddings[gallery], labels[gallery]
        verified[name] = verification(embeddings, pairs, same)
        identified[name] = identification(*search, 0.3)
        sweeps[name] = threshold_sweep(*search)
    return verified, identified, sweeps, labels[pairs], labels[probes]


def shown_texts(figure):
    """The texts that a drawing shows, with their boxes in pixels; ticks beyond an axis are not among them."""
    figure.draw_without_rendering()  # lays out
    texts, draw = {}, Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            texts[id(text)] = text
        draw(text, renderer)

    with patch.object(Text, "draw", record):
        figure.draw_without_rendering()
    return [(text, text.get_window_extent()) for text in texts.values()]


def drawn(figure, width=COLUMN):
    """Render it at the width of a column: no warning, no text below 7 points, cut at an edge or on another."""
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []  # pyplot forgets it, so a notebook shows it once
    assert figure.get_figwidth() == pytest.approx(width, abs=0.01)
    texts = shown_texts(figure)
    assert texts
    for number, (text, box) in enumerate(texts):
        assert text.get_fontsize() >= 7, text
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, (text, box, figure.bbox)
        for other, other_box in texts[:number]:
            shared = Bbox.intersection(box, other_box)
            assert shared is None or min(shared.width, shared.height) < 1, (text, other)
    return figure


pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def test_roc(evaluated):
    axis = drawn(plots.plot_roc(evaluated[0])).axes[0]
    assert axis.get_xscale() == "log"
    curves = [line for line in axis.lines if len(line.get_xdata()) > 5]
    assert len(curves) == 3
    for line, result in zip(curves, evaluated[0].values(), strict=True):
        x, y = line.get_xdata(), line.get_ydata()
        assert np.trapezoid(y, x) == pytest.approx(result["auc"])
        assert axis.get_ylim()[0] <= y[x <= axis.get_xlim()[0]].max()  # what the axis leaves out holds no curve


def test_det(evaluated):
    """On its axes a curve shows FRR over FAR, and on the diagonal the equal error rate."""
    axis = drawn(plots.plot_det(evaluated[0])).axes[0]
    curves = [line for line in axis.lines if len(line.get_xdata()) > 5]
    for line, result in zip(curves, evaluated[0].values(), strict=True):
        genuine, impostor = result["scores"][result["same"]], result["scores"][~result["same"]]
        far, frr = norm.cdf(line.get_xdata()), norm.cdf(line.get_ydata())
        for threshold in np.quantile(result["scores"], [0.2, 0.5, 0.8]):
            rates = np.mean(impostor >= threshold), np.mean(genuine < threshold)
            clipped = np.clip(rates, 0.5 / len(impostor), 1 - 0.5 / len(impostor))
            assert np.min(abs(far - clipped[0]) + abs(frr - np.clip(rates[1], 0.5 / len(genuine), 1))) < 1e-9
    marks = [line for line in axis.lines if line.get_linestyle() == "None"]
    found = [norm.cdf([line.get_xdata()[0], line.get_ydata()[0]]).tolist() for line in marks]
    counts = np.array([np.sum(~result["same"]), np.sum(result["same"])])
    assert found == [pytest.approx(np.maximum(one["eer"], 0.5 / counts).tolist()) for one in evaluated[0].values()]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert norm.cdf(axis.get_xticks()) == pytest.approx([float(label) / 100 for label in labels])


@pytest.mark.parametrize("plot", [plots.plot_roc, plots.plot_det])
def test_few_pairs_perfect_and_inverted(plot):
    scores, same = np.array([0.1, 0.9]), np.array([False, True])
    few = {"scores": scores, "same": same, "auc": 1.0, "eer": 0.0, "tar_at_far": {0.1: 1.0, 0.01: 1.0}}
    drawn(plot({"dsr": few}))
    drawn(plot({"dsr": few | {"same": ~same, "auc": 0.0, "eer": 1.0, "tar_at_far": {0.1: 0.0}}}))
    drawn(plot({"dsr": few | {"scores": np.ones(2), "auc": 0.5, "eer": 0.5, "tar_at_far": {0.1: 0.0}}}))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_score_histograms(evaluated, count):
    some = dict(list(evaluated[0].items())[:count])
    figure = drawn(plots.plot_score_histograms(some))
    assert len(figure.axes) == count
    for axis, result in zip(figure.axes, some.values(), strict=True):
        assert axis.lines[0].get_xdata()[0] == result["threshold"]
    drawn(plots.plot_score_histograms({"dsr": some["hr"] | {"scores": np.ones(len(some["hr"]["scores"]))}}))


def test_threshold_sweep(evaluated):
    sweeps = evaluated[2]
    one = drawn(plots.plot_threshold_sweep(sweeps["dsr"], 0.3))
    assert np.allclose(one.axes[0].lines[0].get_ydata(), sweeps["dsr"]["correct"])
    assert len(one.axes[0].lines) == 5  # four shares and the threshold
    assert len(drawn(plots.plot_threshold_sweep(sweeps)).axes) == 3
    own = drawn(plots.plot_threshold_sweep(sweeps, {"dsr": 0.4, "hr": 0.2}))
    assert [axis.lines[-1].get_xdata()[0] for axis in own.axes if len(axis.lines) == 5] == [0.2, 0.4]
    closed = sweeps["dsr"].assign(fpir=np.nan)
    assert len(drawn(plots.plot_threshold_sweep(closed)).axes[0].lines) == 3
    nobody = sweeps["dsr"].assign(unknown=1.0)
    drawn(plots.plot_threshold_sweep(nobody))
    with pytest.raises(ValueError, match="dsr: expected a table with columns threshold, correct"):
        plots.plot_threshold_sweep({"dsr": sweeps["dsr"].drop(columns="wrong")})


def test_cmc(evaluated):
    axis = drawn(plots.plot_cmc(evaluated[1], most=8)).axes[0]
    for line, result in zip(axis.lines, evaluated[1].values(), strict=True):
        assert np.allclose(line.get_ydata(), result["cmc"][:8])
    drawn(plots.plot_cmc({"dsr": {"cmc": np.array([1.0])}}))


def test_reliability(evaluated):
    tables = {}
    for name, result in evaluated[0].items():
        likely = probability(result["scores"], *fit_probability(result["scores"], result["same"]))
        tables[name] = reliability(likely, result["same"])
    tables["hr"] = pd.concat([tables["hr"], pd.DataFrame({"predicted": [np.nan], "observed": [np.nan], "count": [0]})])
    upper, lower = drawn(plots.plot_reliability(tables)).axes
    for number, table in enumerate(tables.values()):
        solid = table[table["count"] >= 10]
        assert np.allclose(upper.lines[1 + number].get_xydata(), solid[["predicted", "observed"]])
        assert lower.lines[1 + number].get_ydata().tolist() == table.loc[table["count"] > 0, "count"].tolist()
    weights = tables["dsr"]["count"] / tables["dsr"]["count"].sum()
    error = np.sum(weights * abs(tables["dsr"]["observed"] - tables["dsr"]["predicted"]))
    assert upper.lines[3].get_label() == f"DSR, ECE {error:.3f}"


@pytest.mark.parametrize("plot", [plots.plot_roc, plots.plot_det])
def test_bands(evaluated, plot):
    """A band encloses its curve; draws are re-derived by writing each pair down as often as it was drawn."""
    verified, _, _, subjects, _ = evaluated
    band = plots.roc_band(verified["dsr"], subjects, draws=200)
    figure = drawn(plot(verified, {"dsr": band}))
    assert len(figure.axes[0].collections) == 2  # the band, and its mark in the legend
    assert band["low"].le(band["high"]).all() and band["far"].is_monotonic_increasing
    inside = [
        row.low <= tar_at_far(verified["dsr"]["scores"], verified["dsr"]["same"], min(row.far + 1e-12, 1)) <= row.high
        for row in band.itertuples()
    ]
    assert np.mean(inside) > 0.9
    people, person = np.unique(subjects, return_inverse=True)
    counts = np.random.default_rng(0).multinomial(len(people), np.full(len(people), 1 / len(people)), size=200)
    left, right = person.reshape(-1, 2).T
    tars = []
    for count in counts:
        times = np.where(left == right, count[left], count[left] * count[right])
        scores, same = (np.repeat(verified["dsr"][key], times) for key in ("scores", "same"))
        tars.append([tar_at_far(scores, same, min(far + 1e-12, 1)) for far in band["far"][[5, 30, 50]]])
    assert np.allclose(np.quantile(tars, [0.025, 0.975], axis=0), band.loc[[5, 30, 50], ["low", "high"]].T)


def test_cmc_band(evaluated):
    _, identified, _, _, probes = evaluated
    band = plots.cmc_band(identified["dsr"], probes, most=5, draws=100)
    drawn(plots.plot_cmc(identified, bands={"dsr": band}))
    people, person = np.unique(probes, return_inverse=True)
    counts = np.random.default_rng(0).multinomial(len(people), np.full(len(people), 1 / len(people)), size=100)
    rank = identified["dsr"]["rank"]
    found = []
    for count in counts:
        ranks = np.repeat(rank, count[person])
        found.append([np.mean(ranks[ranks > 0] <= k) for k in range(1, 6)])
    assert np.allclose(np.quantile(found, [0.025, 0.975], axis=0), band[["low", "high"]].T)


def test_bad_bands(evaluated):
    verified, identified, _, subjects, probes = evaluated
    with pytest.raises(ValueError, match="subjects: expected shape"):
        plots.roc_band(verified["dsr"], subjects[:, 0])
    with pytest.raises(ValueError, match=r"expected two or more to draw from, got 1"):
        plots.roc_band(verified["dsr"], np.zeros_like(subjects))
    with pytest.raises(ValueError, match=r"expected two or more to draw from, got 1"):
        plots.cmc_band(identified["dsr"], np.zeros_like(probes))
    band = plots.roc_band(verified["dsr"], subjects, draws=10)
    with pytest.raises(ValueError, match=r"bands: expected rows that are drawn .*, got also cycle_1"):
        plots.plot_roc(verified, {"cycle_1": band})


VERIFIERS = (plots.plot_roc, plots.plot_det, plots.plot_score_histograms)


def test_nothing_to_draw():
    for plot in (*VERIFIERS, plots.plot_cmc, plots.plot_threshold_sweep, plots.plot_reliability):
        with pytest.raises(ValueError, match="to draw, got none"):
            plot({})
    with pytest.raises(ValueError, match="to draw, got none"):
        plots.plot_threshold_sweep(pd.DataFrame())


@pytest.mark.parametrize("plot", VERIFIERS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": np.array([0.1, np.nan, 0.3])}, "dsr: Expected finite scores, got 1 others"),
        ({"same": np.ones(3, bool)}, "dsr: Expected genuine and impostor pairs, got no impostor pair among 3"),
        ({"same": np.zeros(3, bool)}, "dsr: Expected genuine and impostor pairs, got no genuine pair among 3"),
        ({"same": np.ones(2, bool)}, "dsr: Expected scores"),
        ({"scores": None}, "dsr: "),
    ],
)
def test_scores_that_cannot_be_drawn(plot, change, said):
    good = {"scores": np.array([0.1, 0.2, 0.3]), "same": np.array([False, True, True]), "auc": 1.0, "eer": 0.0,
            "tar_at_far": {0.1: 1.0}, "threshold": 0.15, "d_prime": 1.0}  # fmt: skip
    drawn(plot({"dsr": good}))
    with pytest.raises(ValueError, match=said):
        plot({"hr": good, "dsr": good | change})
    with pytest.raises(ValueError, match="dsr: expected a verification result, got one without 'scores'"):
        plot({"dsr": {"rank1": 0.5}})
    assert plt.get_fignums() == []


def test_other_results_that_cannot_be_drawn():
    for bad in ({}, {"cmc": []}, {"cmc": [0.5, np.nan]}, {"cmc": [2.0]}):
        with pytest.raises(ValueError, match="dsr: expected a CMC of shares"):
            plots.plot_cmc({"dsr": bad})
    table = pd.DataFrame({"predicted": [0.2, 0.8], "observed": [0.3, 0.9], "count": [20, 20]})
    for bad in (table.assign(count=0), table.assign(observed=np.nan), table.assign(predicted=1.5)):
        with pytest.raises(ValueError, match="dsr: expected bins with pairs and shares"):
            plots.plot_reliability({"dsr": bad})
    with pytest.raises(ValueError, match="dsr: expected a table with columns predicted, observed, count"):
        plots.plot_reliability({"dsr": table.drop(columns="count")})


def test_face_strips():
    columns = {"VLR": torch.rand(3, 3, 14, 16), "DSR": torch.rand(3, 3, 112, 112)}
    columns["HR"] = torch.rand(3, 3, 112, 112).numpy()  # either kind of array
    names = ["007", "best tenth\n+0.30", "A_long_name_of_somebody"]
    figure = drawn(plots.plot_face_strips(columns, {"DSR": [0.1, 0.25, 0.5]}, names, note="Chosen by seed 0. " * 12))
    assert len(figure.axes) == 9
    vlr = figure.axes[0].images[0].get_array()  # each pixel a block of seven, so that nobody smooths it
    assert np.allclose(vlr, columns["VLR"][0].permute(1, 2, 0).numpy().repeat(7, 0).repeat(7, 1))
    assert [axis.get_xlabel() for axis in figure.axes[:3]] == ["", "0.10", ""]
    assert figure.axes[6].get_ylabel().replace("\n", "") == "A_long_name_of_somebody"
    drawn(plots.plot_face_strips({"HR": columns["HR"][:1]}))
    many = plots.plot_face_strips({f"DSR {number}": columns["HR"] for number in range(9)}, names=["a", "b", "c"])
    drawn(many, width=many.get_figwidth())


def test_face_strips_errors():
    faces = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match="Divide bytes by 255"):
        plots.plot_face_strips({"HR": faces * 255})
    with pytest.raises(ValueError, match=r"HR: expected images \[N, 3, H, W\]"):
        plots.plot_face_strips({"HR": faces[0]})
    with pytest.raises(ValueError, match="in every column"):
        plots.plot_face_strips({"HR": faces, "VLR": faces[:1]})
    with pytest.raises(ValueError, match="in every column"):
        plots.plot_face_strips({"HR": faces}, names=["one"])
    assert plt.get_fignums() == []
    with pytest.raises(ValueError, match="got also SR"):
        plots.plot_face_strips({"HR": faces}, {"SR": [1, 2]})


HISTORY = [{"epoch": 0, "eer": 0.1, "psnr": 22.0, "odd_measure": 3.0, "seconds": 1.0}] + [
    {"epoch": n, "loss_l1": 0.1 / n, "loss_tv": 1e-5, "loss_total": 0.1 / n, "learning_rate": 1e-4, "eer": 0.1 / n,
     "psnr": 22.0 + n, "odd_measure": None, "hr_eer": 0.01, "seconds": 1.0}
    for n in (1, 2, 3)
]  # fmt: skip


def test_history_groups_every_measure_once():
    groups = history_module.history_groups(HISTORY)
    assert list(groups) == ["training losses", "equal error rate", "PSNR (dB)", "odd measure", "learning rate"]
    assert groups["equal error rate"] == ["eer", "hr_eer"]
    assert groups["training losses"] == ["loss_l1", "loss_tv", "loss_total"]


def test_history():
    figure = drawn(plots.plot_history(HISTORY), width=PAGE)
    losses, errors = figure.axes[:2]
    assert losses.get_yscale() == "log"
    assert losses.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert errors.lines[0].get_ydata() == pytest.approx([0.1, 0.1, 0.05, 0.1 / 3])
    assert len(drawn(plots.plot_history(HISTORY, {"mine": ["psnr", "eer"]}), width=PAGE / 3).axes) == 1
    drawn(plots.plot_history(HISTORY[:1]), width=PAGE)
    with pytest.raises(ValueError, match=r"got none\. Train first"):
        plots.plot_history([])
    with pytest.raises(ValueError, match="got also nothing"):
        plots.plot_history(HISTORY, {"mine": ["nothing"]})


def test_live_plot_updates_one_display(monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(("update", figure))

    def display(figure, display_id):
        shown.append(("display", figure))
        return Handle()

    monkeypatch.setattr(history_module, "display", display)
    live, headless = plots.LivePlot(interactive=True), plots.LivePlot(interactive=False)
    for epochs in range(1, len(HISTORY) + 1):
        live(HISTORY[:epochs])
        headless(HISTORY[:epochs])
    assert [kind for kind, _ in shown] == ["display", "update", "update", "update"]
