"""What a printer asks of a figure: nine rows to tell apart, also in grey and by the colour-blind, small text, files alike."""

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_plots import drawn

from dsrkit import plots
from dsrkit.evaluation import identification, threshold_sweep, verification
from dsrkit.evaluation.headline import LABELS
from dsrkit.metrics import fit_probability, probability, reliability
from dsrkit.plots.style import COLOURS, COLUMN, LINES, MARKERS, STYLE_FILE, fitted, in_style, look, text_width

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

LONG = "a_run_with_a_name_that_somebody_wrote_without_ever_thinking_of_a_legend_that_must_hold_it" * 2
NINE = [*LABELS, "cycle_1", "cycle_2_tta", LONG]


def test_style_is_a_style_file():
    assert STYLE_FILE.suffix == ".mplstyle"
    with plt.style.context(str(STYLE_FILE)):
        assert matplotlib.rcParams["pdf.fonttype"] == 42
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLOURS)
    with in_style():
        assert matplotlib.rcParams["font.size"] == 8
    assert matplotlib.rcParams["font.size"] != 8
    assert len(COLOURS) == len(LINES) == len(MARKERS) == len(set(COLOURS)) == len(set(MARKERS)) == len(set(map(str, LINES))) == 9


# What the colour-blind see, as linear RGB: Machado, Oliveira & Fernandes (2009), at full severity.
SIGHT = {
    "all colours": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colours, sight):
    """CIE L*a*b* (D65) of sRGB colours, as ``sight`` lets them be seen."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(sight)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear.clip(0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("sight", SIGHT)
def test_nine_colours_differ(sight):
    """Everybody sees any two at least 15 apart (CIE 1976; 2.3 is just noticeable), and all of them on white."""
    seen = lab(COLOURS, SIGHT[sight])
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 15
    assert lab([*COLOURS, "white"], SIGHT[sight])[:, 0][:-1].max() < 75


def ink(number):
    """How dark a line of look ``number`` is along two inches, in grey, 300 dots an inch; 0 is paper, 1 is black."""
    with in_style():
        figure = Figure(figsize=(2, 0.1), dpi=300)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.axis("off")
        style = look(number) | {"marker": "none"}
        axis.plot([0, 1], [0, 0], **style)
        axis.set_xlim(0, 1)
        figure.canvas = FigureCanvasAgg(figure)
        figure.canvas.draw()
    grey = np.asarray(figure.canvas.buffer_rgba())[..., :3] @ [0.299, 0.587, 0.114] / 255
    return 1 - grey.min(axis=0)


def test_nine_lines_differ_in_grey():
    """Slide one line along another as they will: some way of each inch is dark in the one and light in the other."""
    lines = [ink(number) for number in range(9)]
    for one, other in itertools.combinations(lines, 2):
        apart = min(np.sqrt(np.mean((one - np.roll(other, shift)) ** 2)) for shift in range(len(other)))
        assert apart > 0.15


def test_more_than_nine_looks_stay_apart():
    looks = [tuple(map(str, look(number).values())) for number in range(30)]
    assert len(set(looks)) == len(looks)


@pytest.fixture(scope="module")
def nine():
    """Nine rows, one with a very long name, at one-column width."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 4)
    centres = generator.normal(size=(20, 16))[labels]
    pairs = np.array([(i, j) for i in range(80) for j in (i ^ 1, (i * 7 + 13) % 80) if i != j])
    verified, identified, sweeps, calibrated = {}, {}, {}, {}
    for number, row in enumerate(NINE):
        embeddings = centres + (0.5 + 0.2 * number) * generator.normal(size=centres.shape)
        search = embeddings[1::2], labels[1::2], embeddings[:60:4], labels[:60:4]
        verified[row] = result = verification(embeddings, pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]])
        identified[row], sweeps[row] = identification(*search, 0.3), threshold_sweep(*search)
        likely = probability(result["scores"], *fit_probability(result["scores"], result["same"]))
        calibrated[row] = reliability(likely, result["same"])
    return {"verified": verified, "identified": identified, "sweeps": sweeps, "calibrated": calibrated, "subjects": labels[pairs]}


NINE_ROWS = {
    "roc": lambda nine: plots.plot_roc(nine["verified"], {"dsr": plots.roc_band(nine["verified"]["dsr"], nine["subjects"])}),
    "det": lambda nine: plots.plot_det(nine["verified"]),
    "cmc": lambda nine: plots.plot_cmc(nine["identified"]),
    "histograms": lambda nine: plots.plot_score_histograms(nine["verified"]),
    "sweep": lambda nine: plots.plot_threshold_sweep(nine["sweeps"], dict.fromkeys(nine["sweeps"], 0.3)),
    "reliability": lambda nine: plots.plot_reliability(nine["calibrated"]),
}


@pytest.mark.parametrize("kind", NINE_ROWS)
def test_nine_rows_are_legible_in_one_column(nine, kind):
    """``drawn`` measures: 3.4 inches wide, nothing below 7 points, no text cut, none on another."""
    figure = drawn(NINE_ROWS[kind](nine))
    assert 3.3 <= figure.get_figwidth() <= 3.5
    assert figure.get_figheight() < 9.5  # of a page


def test_fitted():
    broken = fitted("one two three four", 0.5)
    assert broken.replace("\n", " ") == "one two three four"
    assert max(map(text_width, broken.split("\n"))) <= 0.5 < text_width("one two three")
    assert fitted("costs $5 or $6", 9) == r"costs \$5 or \$6"
    assert fitted("", 1) == ""
    assert max(map(text_width, fitted(LONG, 1.0).split("\n"))) <= 1.0
    assert fitted("W", 0.01) == "W"


def test_choose_faces():
    gain = np.random.default_rng(1).normal(size=200)
    chosen = plots.choose_faces(gain, 11, seed=3)
    assert chosen.equals(plots.choose_faces(gain, 11, seed=3))
    assert not chosen.equals(plots.choose_faces(gain, 11, seed=4))
    assert chosen["face"].is_unique and chosen["gain"].is_monotonic_decreasing
    assert chosen["gain"].tolist() == gain[chosen["face"]].tolist()
    place = np.array([np.sum(gain > gain[face]) for face in chosen["face"]])  # 0 gained most
    assert chosen["group"].value_counts().to_dict() == {"best tenth": 3, "median": 3, "worst tenth": 3, "others": 2}
    for group, first, last in (("best tenth", 0, 20), ("median", 90, 110), ("worst tenth", 180, 200)):
        where = place[chosen["group"] == group]
        assert ((where >= first) & (where < last)).all()
    rule = plots.strip_rule("cycle_1", chosen, len(gain), 3)
    assert rule.startswith("11 of 200 faces, by what cycle 1 gains over the direct feed")
    assert "3 from the best tenth, 3 from the tenth around the median, 3 from the worst tenth, 2 from all others" in rule
    assert rule.endswith("drawn by seed 3.")


@pytest.mark.parametrize(("faces", "count"), [(1, 8), (2, 3), (3, 3), (7, 6), (8, 8), (5, 1)])
def test_choose_among_few_faces(faces, count):
    chosen = plots.choose_faces(np.zeros(faces), count, 0)
    assert len(chosen) == chosen["face"].nunique() == min(faces, count)


def test_choose_faces_errors():
    for bad in ([], [0.1, np.nan], [[0.1]]):
        with pytest.raises(ValueError, match="gain: expected a finite number for each face"):
            plots.choose_faces(np.array(bad), 3, 0)
    with pytest.raises(ValueError, match="count: expected one face or more, got 0"):
        plots.choose_faces(np.zeros(3), 0, 0)


def test_choose_subjects():
    subjects = np.array(list("aaaaabbbcccccccd"))
    rows = plots.choose_subjects(subjects, 2, 4, 0)
    assert pd.Series(subjects[rows]).value_counts().to_dict() == {"a": 4, "c": 4}
    assert rows.tolist() == plots.choose_subjects(subjects, 2, 4, 0).tolist()
    few = plots.choose_subjects(subjects, 3, 4, 0)  # only two have four: the third is the one with most of the rest
    assert pd.Series(subjects[few]).value_counts().to_dict() == {"a": 4, "c": 4, "b": 3}
    with pytest.raises(ValueError, match="Expected two faces or more"):
        plots.choose_subjects(["a"], 2, 4, 0)


@pytest.fixture(scope="module")
def versions():
    """Five subjects far apart; the restored faces lie nearer to the HR ones than the bicubic ones do."""
    generator = np.random.default_rng(0)
    subjects = np.repeat(["a", "b", "c", "d", "e"], 6)
    hr = np.repeat(4 * generator.normal(size=(5, 32)), 6, axis=0) + generator.normal(size=(30, 32))
    noise = generator.normal(size=(30, 32))
    return {"hr": hr, "direct_feed": hr + 2 * noise, "dsr": hr + noise}, subjects


def test_embedding_map(versions):
    embeddings, subjects = versions
    figure = drawn(plots.plot_embedding_map(embeddings, subjects, seed=1, note="drawn by seed 1"))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    unit = {row: part / np.linalg.norm(part, axis=1, keepdims=True) for row, part in embeddings.items()}
    cosines = [np.median((unit["hr"] * unit[row]).sum(1)) for row in ("direct_feed", "dsr")]
    assert labels == ["HR", f"direct feed (bicubic), cosine to HR {cosines[0]:.2f}", f"DSR, cosine to HR {cosines[1]:.2f}"]
    assert (
        figure.get_supxlabel().replace("\n", " ").startswith("30 faces of 5 subjects, drawn by seed 1; t-SNE after PCA, seed 1.")
    )
    joins = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(joins) == 2 * 30 + 30  # each face of two versions with its HR face, and that with its subject's middle


def test_map_is_the_same_each_time_and_keeps_neighbours(versions):
    embeddings, subjects = versions
    one, other = (plots.map_embeddings(embeddings["hr"], seed=5) for _ in range(2))
    assert np.array_equal(one, other)
    apart = np.linalg.norm(one[:, None] - one, axis=2) + 1e9 * np.eye(len(one))
    assert (subjects[apart.argmin(1)] == subjects).mean() > 0.9


def test_map_of_one_subject_and_errors(versions):
    embeddings, subjects = versions
    drawn(plots.plot_embedding_map({row: part[:6] for row, part in embeddings.items()}, subjects[:6]))
    with pytest.raises(ValueError, match="Expected HR and another version"):
        plots.plot_embedding_map({"hr": embeddings["hr"]}, subjects)
    with pytest.raises(ValueError, match="Expected HR and another version"):
        plots.plot_embedding_map(embeddings, subjects[1:])
    with pytest.raises(ValueError, match="finite embeddings"):
        plots.plot_embedding_map({"hr": embeddings["hr"], "dsr": np.full((30, 32), np.nan)}, subjects)
    with pytest.raises(ValueError, match="four embeddings or more"):
        plots.map_embeddings(embeddings["hr"][:3])
    with pytest.raises(ValueError, match="has collapsed"):
        plots.map_embeddings(np.ones((9, 4)))


def a_figure():
    generator = np.random.default_rng(0)
    faces = {"VLR": generator.random((1, 3, 16, 16)), "HR": generator.random((1, 3, 28, 28))}
    return plots.plot_face_strips(faces, {"HR": [0.1]}, ["a"], note="Costs $5.")


def test_save_figure(tmp_path):
    """The same figure gives the same three files, at a column's width, and they tell no date, place or version."""
    first, second = (plots.save_figure(a_figure(), tmp_path / folder, "faces") for folder in ("one", "two/deep"))
    assert [path.name for path in first] == ["faces.pdf", "faces.svg", "faces.png"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(path.name for path in first)
    for one, other in zip(first, second, strict=True):
        held = one.read_bytes()
        assert held == other.read_bytes()
        assert len(held) < 400_000
        for secret in (b"CreationDate", b"<dc:date>", b"Software", b"Matplotlib v", str(tmp_path).encode()):
            assert secret not in held, (one, secret)
    assert b"/Type3" not in first[0].read_bytes()  # journals refuse such fonts
    assert plt.imread(first[2]).shape[1] == round(300 * COLUMN)


def test_save_figure_is_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = a_figure()
    before = {path: path.read_bytes() for path in plots.save_figure(figure, tmp_path, "faces")}

    def full_disk(path, **_):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        plots.save_figure(figure, tmp_path, "faces")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["", "roc.pdf", "../roc", "a b", "a/b"])
def test_save_figure_under_a_plain_name(tmp_path, name):
    with pytest.raises(ValueError, match="name: expected letters, digits"):
        plots.save_figure(Figure(), tmp_path, name)
    assert not list(tmp_path.iterdir())
