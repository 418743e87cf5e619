"""metrics.json, the headline table, and the page that asks for no network."""

import base64
import importlib.util
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dsrkit.evaluation import (
    bootstrap_difference,
    bootstrap_interval,
    control_sentence,
    evaluation_row,
    export_html,
    gallery_split,
    headline_markdown,
    headline_table,
    identification,
    page,
    read_metrics,
    verification,
    write_metrics,
)
from dsrkit.evaluation.headline import NO_CONTROL, row_label
from dsrkit.evaluation.report import FILE_KEYS, LATER_KEYS, ROW_KEYS

CHROMIUM = Path("/usr/bin/chromium")
DESIGNED = {
    "row", "vlr_size", "protocol", "rank1", "unknown_rate", "verification_accuracy", "auc", "eer", "tar_at_far_0.01",
    "tar_at_far_0.001", "interval",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """Direct feed and DSR on the same made-up embeddings, DSR with less noise."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 4)
    centres = generator.normal(size=(40, 16))[labels]
    pairs = np.array([(i, j) for i in range(160) for j in (i ^ 1, (i * 7 + 13) % 160) if i != j])
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    gallery, probes, _ = gallery_split(labels)
    made, verified, identified = [], {}, {}
    for name, noise in (("direct_feed", 2.5), ("dsr", 1.2)):
        embeddings = centres + noise * generator.normal(size=centres.shape)
        verified[name] = verification(embeddings, pairs, same)
        identified[name] = identification(embeddings[probes], labels[probes], embeddings[gallery], labels[gallery], 0.3)
        interval = bootstrap_interval(verified[name], labels[pairs], 200)
        interval |= bootstrap_interval(identified[name], labels[probes], 200)
        gain = {}
        if name == "dsr":
            gain = bootstrap_difference(verified[name], verified["direct_feed"], labels[pairs], 200)
            gain |= bootstrap_difference(identified[name], identified["direct_feed"], labels[probes], 200)
        quality = {"psnr": 21.5, "ssim": float("nan")}
        made.append(evaluation_row(name, "16x16", "both-lr", verified[name], identified[name], quality, interval, gain))
    return made


def test_a_row_is_flat_and_says_null(rows):
    row = rows[1]
    assert not DESIGNED - set(row)
    assert not set(ROW_KEYS) - set(row)
    assert {key for key, value in row.items() if isinstance(value, dict)} == {
        "interval", "difference_to_direct_feed", "difference_to_control"
    }  # fmt: skip
    assert row["ssim"] is None
    assert row["psnr"] == 21.5
    assert row["false_positive_identification_rate"] is None  # nobody is a stranger here
    assert row["tar_at_far_0.001"] is None  # 150 impostor pairs do not carry it
    assert 0 <= row["tar_at_far_0.01"] <= row["tar_at_far_0.1"] <= 1
    assert row["interval"]["rank1"][0] <= row["rank1"] <= row["interval"]["rank1"][1]
    assert set(row["difference_to_direct_feed"]["auc"]) == {"value", "low", "high"}
    empty = evaluation_row("hr", "16x16", "both-lr")
    assert set(empty) == {*ROW_KEYS, *LATER_KEYS}
    assert empty["auc"] is None and empty["hr_verification_accuracy"] is None
    assert (empty["recognizer"], empty["difference_to_control"]) == ("run", {})


def test_metrics_come_back_as_written(rows, tmp_path):
    path = tmp_path / "run" / "metrics.json"
    provenance = {"parameters": {"threshold": np.float32(0.5), "size": (16, 16)}, "worst": float("inf")}
    write_metrics(path, "demo", provenance, rows)
    about = read_metrics(path)
    assert tuple(about) == FILE_KEYS
    assert about["rows"] == rows
    assert about["provenance"] == {"parameters": {"threshold": 0.5, "size": [16, 16]}, "worst": None}
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_a_judge_s_rows_stand_apart(rows, tmp_path):
    path = tmp_path / "metrics.json"
    judged = [row | {"recognizer": "judge"} for row in rows]
    write_metrics(path, "demo", {}, rows, {"recognizer": "other.pt", "sha256": "ab", "rows": judged})
    about = read_metrics(path)
    assert tuple(about) == (*FILE_KEYS, "judge")
    assert about["rows"] == rows and about["judge"]["rows"] == judged
    before = path.read_text()
    for broken in ({"rows": judged}, {"recognizer": "other.pt", "sha256": "ab", "rows": [{"row": "dsr"}]}):
        with pytest.raises(ValueError, match=r"metrics\.json, judge.*: expected"):
            write_metrics(path, "demo", {}, rows, broken)
    assert path.read_text() == before


def test_a_file_from_before_the_control_is_still_read(rows, tmp_path):
    path = tmp_path / "metrics.json"
    old = [{key: value for key, value in row.items() if key not in LATER_KEYS} for row in rows]
    path.write_text(json.dumps({"run": "demo", "provenance": {}, "rows": old}))
    for row in read_metrics(path)["rows"]:
        assert {key: row[key] for key in LATER_KEYS} == LATER_KEYS
    assert headline_table(read_metrics(path)["rows"]).equals(headline_table(rows))


def test_a_failed_write_leaves_the_old_file(rows, tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, "demo", {}, rows)
    before = path.read_text()
    with pytest.raises(ValueError, match=r"row 0 \(dsr\): expected also vlr_size"):
        write_metrics(path, "demo", {}, [{"row": "dsr"}])
    with pytest.raises(TypeError):
        write_metrics(path, "demo", {"folder": tmp_path}, rows)
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_reading_says_what_is_wrong(rows, tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(FileNotFoundError, match="05_evaluation"):
        read_metrics(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        read_metrics(path)
    for broken in ([], {"run": "demo", "rows": rows}, {"run": "demo", "provenance": {}, "rows": []}):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="expected"):
            read_metrics(path)
    row = {key: value for key, value in rows[0].items() if key != "eer"}
    path.write_text(json.dumps({"run": "demo", "provenance": {}, "rows": [row]}))
    with pytest.raises(ValueError, match=r"row 0 \(direct_feed\): expected also eer"):
        read_metrics(path)


def test_headline_table(rows):
    table = headline_table(rows[::-1])
    assert table.index.tolist() == ["direct feed (bicubic)", "DSR"]
    assert "size" not in table and "protocol" not in table
    row = rows[1]
    low, high = row["interval"]["verification_accuracy"]
    expected = f"{100 * row['verification_accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert table.loc["DSR", "verification %"] == expected
    assert table.loc["DSR", "TAR@FAR 1 %"].startswith(f"{100 * row['tar_at_far_0.01']:.1f} [")
    assert "strangers named %" not in table  # nobody is a stranger here
    assert table.loc["direct feed (bicubic)", "gain (points)"] == "–"
    assert table.loc["DSR", "gain (points)"].startswith("+")
    assert "not shown" not in table.loc["DSR", "gain (points)"]


def test_a_gain_whose_interval_holds_zero_is_not_shown(rows):
    unsure = {"verification_accuracy": {"value": 0.004, "low": -0.01, "high": 0.02}}
    touching = {"verification_accuracy": {"value": 0.004, "low": 0.0, "high": 0.02}}
    assert "not shown" in headline_table([rows[1] | {"difference_to_direct_feed": touching}]).loc["DSR", "gain (points)"]
    unknown = {"verification_accuracy": {"value": 0.004, "low": None, "high": None}}
    table = headline_table([
        rows[0],
        rows[1] | {"difference_to_direct_feed": unsure},
        rows[1] | {"row": "cycle_10", "difference_to_direct_feed": unknown},
        rows[1] | {"row": "cycle_2", "vlr_size": "16x16", "tar_at_far_0.01": None, "rank1": None},
    ])  # fmt: skip
    assert table.index.tolist()[2:] == ["cycle 2", "cycle 10"]
    assert table.loc["DSR", "gain (points)"] == "+0.4 [-1.0, +2.0] not shown"
    assert table.loc["cycle 10", "gain (points)"] == "+0.4 (no interval)"
    assert table.loc["cycle 2", ["TAR@FAR 1 %", "rank-1 %"]].tolist() == ["–", "–"]


def against_control(row, value, low, high):
    return row | {"difference_to_control": {"verification_accuracy": {"value": value, "low": low, "high": high}}}


def test_a_control_gets_a_column(rows):
    feed, dsr = rows
    assert "vs control (points)" not in headline_table(rows)
    control = feed | {"row": "direct_feed_finetuned"}
    table = headline_table([
        against_control(dsr | {"row": "cycle_1"}, -0.02, -0.03, -0.01),
        against_control(dsr, 0.004, -0.01, 0.02),
        against_control(dsr | {"row": "dsr_finetuned"}, 0.02, 0.01, 0.03),
        control,
        feed,
    ])  # fmt: skip
    assert table["vs control (points)"].tolist() == [
        "–", "–", "+0.4 [-1.0, +2.0] not shown", "+2.0 [+1.0, +3.0]", "-2.0 [-3.0, -1.0]"
    ]  # fmt: skip
    assert table.index[1] == row_label("direct_feed_finetuned") == "control (bicubic + fine-tuned EdgeFace)"


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((0.02, 0.01, 0.03), ") beats the control"),
        ((0.004, -0.01, 0.02), ") is not shown to differ from the control"),
        ((0.004, 0.0, 0.02), ") is not shown to differ from the control"),
        ((0.004, None, None), ") is not shown to differ from the control"),
        ((-0.02, -0.03, -0.01), ") is worse than the control"),
    ],
)
def test_a_sentence_says_whether_the_last_system_beats_the_control(rows, difference, words):
    feed, dsr = rows
    control = feed | {"row": "direct_feed_finetuned", "verification_accuracy": 0.9, "interval": {}}
    better = against_control(dsr | {"verification_accuracy": 0.99}, 0.5, 0.4, 0.6)  # the last speaks, not the best
    last = against_control(dsr | {"row": "cycle_1", "verification_accuracy": 0.923, "interval": {}}, *difference)
    sentence = control_sentence([feed, last, control, better])
    assert sentence.startswith("The run's last system (cycle 1; verification 92.3 %") and words in sentence
    assert "(90.0 %)" in sentence and f"points {100 * difference[0]:+.1f}" in sentence
    assert ("(no interval)" in sentence) == (difference[1] is None)


def test_a_twin_s_sentence_is_about_the_control_s_twin(rows):
    feed, dsr = rows
    controls = [
        feed | {"row": f"direct_feed_finetuned{end}", "verification_accuracy": accuracy, "interval": {}}
        for end, accuracy in (("", 0.8), ("_tta", 0.85))
    ]
    twin = against_control(dsr | {"row": "dsr_tta", "verification_accuracy": 0.95}, 0.1, 0.05, 0.15)
    guided = twin | {"row": "dsr_finetuned_guided_tta"}  # made for other recognisers than the run's last
    for compared in ([dsr, twin], [dsr, twin, guided]):
        sentence = control_sentence([*controls, *compared])
        assert "DSR, TTA" in sentence and "with TTA (85.0 %)" in sentence


def test_without_a_control_the_sentence_says_so(rows):
    assert control_sentence(rows) == NO_CONTROL and "edgeface_direct.pt" in NO_CONTROL


def test_twins_follow_their_rows(rows):
    names = [
        "cycle_2_tta",
        "dsr_tta",
        "cycle_1",
        "direct_feed_tta",
        "hr",
        "dsr_ensemble",
        "cycle_2",
        "dsr",
        "cycle_1_guided_tta",
        "hr_tta",
        "dsr_finetuned_guided",
        "cycle_1_tta",
        "cycle_1_guided",
    ]
    table = headline_table([rows[1] | {"row": name} for name in names])
    assert table.index.tolist() == [
        "HR (upper bound)", "HR (upper bound), TTA", "direct feed (bicubic), TTA", "DSR", "DSR, TTA", "DSR ensemble",
        "DSR + fine-tuned EdgeFace, guided", "cycle 1", "cycle 1, TTA", "cycle 1, guided", "cycle 1, guided, TTA", "cycle 2",
        "cycle 2, TTA",
    ]  # fmt: skip


def test_headline_of_several_sizes_and_as_markdown(rows):
    table = headline_table([*rows, rows[0] | {"vlr_size": "32x32"}])
    assert table["size"].tolist() == ["16x16", "16x16", "32x32"]
    lines = headline_markdown(rows).splitlines()
    assert lines[0].startswith("| system | verification % |")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert len(lines) == 4


def a_picture():
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 3, 2])
    figure.savefig(buffer := io.BytesIO())
    return base64.b64encode(buffer.getvalue()).decode()


def a_notebook(path, *outputs):
    """A notebook as papermill leaves it: prose, a figure, a table, a widget, red lines."""
    widget = "application/vnd.jupyter.widget-view+json"
    outputs = outputs or (
        new_output("display_data", {"image/png": a_picture(), "text/plain": "<Figure>"}),
        new_output("display_data", {"text/html": headline_table.__doc__ + "<table><tr><td>95.7</td></tr></table>"}),
        new_output("display_data", {widget: {"model_id": "1"}, "text/plain": "a slider"}),
        new_output("display_data", {"application/javascript": "require(['https://cdn/x'])", "text/plain": "script"}),
        new_output("stream", name="stderr", text="a red warning"),
    )
    cells = [
        new_markdown_cell("# Faces of 16×16\n\nSee [the paper](https://arxiv.org/abs/2307.01838)."),
        new_code_cell("secret_code = 1", outputs=list(outputs), execution_count=1),
    ]
    state = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}}
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": state}), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return export_html(a_notebook(folder / "05_evaluation.ipynb"), folder / "out" / "05_evaluation.html")


def test_the_page_is_whole_and_asks_for_nothing(exported):
    html = exported.read_text()
    soup = BeautifulSoup(html, "html.parser")
    assert soup.title.string == "Faces of 16×16"
    assert soup.find_all("script") == []
    assert soup.find_all("link") == []
    assert soup.find_all("iframe") == []
    assert [image["src"][:22] for image in soup.find_all("img")] == ["data:image/png;base64,"]
    styles = " ".join(style.get_text() for style in soup.find_all("style"))
    assert "@import" not in styles
    assert all(part.lstrip("\"' ").startswith(("data:", "#")) for part in styles.split("url(")[1:])
    assert page.external_resources(html) == []
    assert "95.7" in html
    assert "a slider" in html
    assert "secret_code" not in html
    assert "a red warning" not in html
    assert soup.find("a", href="https://arxiv.org/abs/2307.01838")
    assert exported.stat().st_size < 1_000_000
    assert [file.name for file in exported.parent.iterdir()] == ["05_evaluation.html"]


@pytest.mark.parametrize(
    "html",
    [
        '<img src="https://example.org/a.png">',
        '<img src="//example.org/a.png">',
        '<img src="figures/a.png">',
        '<img srcset="https://example.org/a.png 2x">',
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<style>@import "https://example.org/a.css";</style>',
        "<style>p { background: url(https://example.org/a.png) }</style>",
        "<p style=\"background: url('https://example.org/a.png')\">x</p>",
        '<script type="module">import a from "https://example.org/a.js"</script>',
        '<script>import("https://example.org/a.js")</script>',
        "<script>require.config({paths: {d3: 'https://example.org/d3'}})</script>",
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_a_page_that_would_fetch_is_refused(html, tmp_path):
    assert page.external_resources(html)
    notebook = a_notebook(tmp_path / "n.ipynb", new_output("display_data", {"text/html": html}))
    with pytest.raises(ValueError, match="expected a page that fetches nothing, got 1 addresses"):
        export_html(notebook, tmp_path / "n.html")
    assert not (tmp_path / "n.html").exists()


def test_a_picture_in_prose_is_embedded(tmp_path):
    (tmp_path / "face.png").write_bytes(base64.b64decode(a_picture()))
    cells = [new_markdown_cell("![a face](face.png)")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    html = export_html(tmp_path / "n.ipynb", tmp_path / "n.html").read_text()
    image = BeautifulSoup(html, "html.parser").find("img")
    assert image["src"].startswith("data:image/png;base64,")
    assert image["alt"] == "a face"


def test_an_interval_stays_in_one_piece(tmp_path):
    output = new_output("display_data", {"text/html": "<table><tr><td>+2.1 [-0.5, +4.6] not shown, [a, b]</td></tr></table>"})
    html = export_html(a_notebook(tmp_path / "n.ipynb", output), tmp_path / "n.html").read_text()
    assert "+2.1 [-0.5,&nbsp;+4.6] not&nbsp;shown, [a, b]" in html


def test_what_is_no_fetch_passes():
    assert page.external_resources('<a href="https://example.org">x</a><style>p { fill: url(#a) }</style>') == []
    assert page.external_resources('<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>') == []


def test_export_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="papermill"):
        export_html(tmp_path / "none.ipynb", tmp_path / "n.html")
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "raw.ipynb")
    with pytest.raises(ValueError, match="without outputs"):
        export_html(tmp_path / "raw.ipynb", tmp_path / "n.html")
    large = a_notebook(tmp_path / "large.ipynb", new_output("display_data", {"text/html": "x" * 5_000_000}))
    with pytest.warns(UserWarning, match="MB, more than 5"):
        export_html(large, tmp_path / "large.html")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs playwright")
def test_a_browser_sends_no_request(exported):
    from playwright.sync_api import sync_playwright

    requests, errors = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        view = browser.new_page()
        view.on("request", lambda request: requests.append(request.url))
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.goto(exported.as_uri())
        width = view.evaluate("document.images[0].naturalWidth")
        browser.close()
    assert [url for url in requests if not url.startswith("data:")] == [exported.as_uri()]
    assert errors == []
    assert width > 0
