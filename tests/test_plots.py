"""Figures hold the data they were given; how they look was judged by eye."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from dsrkit import plots
from dsrkit.evaluation import identification, threshold_sweep, verification
from dsrkit.plots import history as history_module
from dsrkit.plots.style import COLOURS, LINES, MARKERS


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
    return verified, identified, sweeps


def drawn(figure):
    """Render it: clipped or impossible layouts warn here, and warnings fail the test."""
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    assert plt.get_fignums() == []  # pyplot forgets it, so a notebook shows it once
    sizes = [text.get_fontsize() for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")) if text.get_text()]
    assert min(sizes) >= 8
    return figure


pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def test_styles_differ_in_grey_too():
    assert len(COLOURS) == len(LINES) == len(MARKERS) == len(set(COLOURS)) == len(set(MARKERS)) == len(set(map(str, LINES)))


def test_roc(evaluated):
    axis = drawn(plots.plot_roc(evaluated[0])).axes[0]
    assert axis.get_xscale() == "log"
    curves = [line for line in axis.lines if len(line.get_xdata()) > 5]
    assert len(curves) == 3
    for line, result in zip(curves, evaluated[0].values(), strict=True):
        x, y = line.get_xdata(), line.get_ydata()
        assert np.trapezoid(y, x) == pytest.approx(result["auc"])
    assert len({str(line.get_linestyle()) for line in curves}) == 3


def test_roc_of_few_pairs():
    few = {"scores": np.array([0.1, 0.9]), "same": np.array([False, True]), "auc": 1.0, "tar_at_far": {0.1: 1.0, 0.01: 1.0}}
    drawn(plots.plot_roc({"dsr": few}))


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
    closed = sweeps["dsr"].assign(fpir=np.nan)
    assert len(drawn(plots.plot_threshold_sweep(closed)).axes[0].lines) == 3
    nobody = sweeps["dsr"].assign(unknown=1.0)
    drawn(plots.plot_threshold_sweep(nobody))


def test_cmc(evaluated):
    axis = drawn(plots.plot_cmc(evaluated[1], most=8)).axes[0]
    for line, result in zip(axis.lines, evaluated[1].values(), strict=True):
        assert np.allclose(line.get_ydata(), result["cmc"][:8])
    drawn(plots.plot_cmc({"dsr": {"cmc": np.array([1.0])}}))


def test_nothing_to_draw():
    for plot in (plots.plot_roc, plots.plot_score_histograms, plots.plot_cmc, plots.plot_threshold_sweep):
        with pytest.raises(ValueError, match="to draw, got none"):
            plot({})
    with pytest.raises(ValueError, match="to draw, got none"):
        plots.plot_threshold_sweep(pd.DataFrame())


def test_face_strips():
    columns = {"VLR": torch.rand(3, 3, 14, 16), "DSR": torch.rand(3, 3, 112, 112)}
    columns["HR"] = torch.rand(3, 3, 112, 112).numpy()  # either kind of array
    figure = drawn(plots.plot_face_strips(columns, {"DSR": [0.1, 0.25, 0.5]}, ["007", "008", "A_long_name_of_somebody"]))
    assert len(figure.axes) == 9
    assert {axis.images[0].get_interpolation() for axis in figure.axes} == {"nearest"}
    assert np.allclose(figure.axes[0].images[0].get_array(), columns["VLR"][0].permute(1, 2, 0))
    assert [axis.get_xlabel() for axis in figure.axes[:3]] == ["", "0.10", ""]
    assert figure.axes[6].get_ylabel() == "A_long_name_of_somebody"
    drawn(plots.plot_face_strips({"HR": columns["HR"][:1]}))


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
    figure = drawn(plots.plot_history(HISTORY))
    losses, errors = figure.axes[:2]
    assert losses.get_yscale() == "log"
    assert losses.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert errors.lines[0].get_ydata() == pytest.approx([0.1, 0.1, 0.05, 0.1 / 3])
    assert len(drawn(plots.plot_history(HISTORY, {"mine": ["psnr", "eer"]})).axes) == 1
    drawn(plots.plot_history(HISTORY[:1]))
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
