"""Runs side by side: what is read, what is refused, and that every number in a table is the one that was measured."""

import json
import os
import re
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

from dsrkit.bootstrap import bootstrap_difference, bootstrap_interval
from dsrkit.comparison import differences, tables
from dsrkit.comparison.paired import PAIRS, PROBES, paired_differences, paired_table, pairings, read_decisions
from dsrkit.comparison.records import find_metrics, open_records, stage_parameters
from dsrkit.evaluation import evaluation_row, gallery_split, identification, verification, write_metrics
from dsrkit.evaluation.headline import row_label
from dsrkit.evaluation.page import external_resources
from dsrkit.evaluation.report import LATER_KEYS
from dsrkit.params import Comparison, ParameterError
from dsrkit.plots.comparison import comparison_figures, figure_name, plot_against_pixels, plot_runs

LABELS = np.repeat(np.arange(24), 4)
CENTRES = np.random.default_rng(0).normal(size=(24, 16))[LABELS]
PAIR_LIST = np.array([(i, j) for i in range(96) for j in (i ^ 1, (i * 7 + 13) % 96, (i * 11 + 5) % 96) if i != j])
SAME = LABELS[PAIR_LIST[:, 0]] == LABELS[PAIR_LIST[:, 1]]
FOLDS = np.arange(len(PAIR_LIST)) % 4
GALLERY, PROBE_LIST, _ = gallery_split(LABELS)
STRANGERS = LABELS[PROBE_LIST] % 5 == 4
ENROLLED = GALLERY[LABELS[GALLERY] % 5 != 4]
NOISES = {"hr": 1.2, "direct_feed": 2.6, "direct_feed_finetuned": 2.0, "dsr": 1.9, "dsr_tta": 1.7}
DATA = {"dataset_sha256": "d" * 64, "degradation": {"name": "area"}, "inputs": {"hr, edgeface": {"sha256": "e" * 64}}}
PARAMETERS = {
    "split": "test",
    "limit": 0,
    "enrolled": 1,
    "seed": 0,
    "threshold_fpir": 0.1,
    "threshold": 0.35,
    "bootstrap_draws": 50,
}


def outcomes(seed, noises=NOISES):
    """What each system does on the same made-up people; the HR row is the same for every seed."""
    for row, noise in noises.items():
        generator = np.random.default_rng(99 if row == "hr" else [seed, list(NOISES).index(row)])
        embeddings = CENTRES + noise * generator.normal(size=CENTRES.shape)
        searched = embeddings[PROBE_LIST], LABELS[PROBE_LIST], embeddings[ENROLLED], LABELS[ENROLLED]
        yield row, verification(embeddings, PAIR_LIST, SAME, FOLDS), identification(*searched, 0.3)


def write_run(root, run, size="16x16", seed=1, noises=NOISES, protocols=("both-lr",), **provenance):
    """A run's metrics.json, decisions.csv and pair_decisions.csv as an evaluation leaves them."""
    found = {row: (verified, identified) for row, verified, identified in outcomes(seed, noises)}
    rows, probes, pairs = [], [], []
    people = LABELS.astype(str)
    for row, (verified, identified) in found.items():
        results = ((verified, LABELS[PAIR_LIST]), (identified, LABELS[PROBE_LIST]))
        interval, gains = {}, {"direct_feed": {}, "direct_feed_finetuned": {}}
        for kind, (result, subjects) in enumerate(results):
            interval |= bootstrap_interval(result, subjects, 50)
            for other in (other for other in gains if other in found and row not in ("direct_feed", other)):
                gains[other] |= bootstrap_difference(result, found[other][kind], subjects, 50)
        control = gains["direct_feed_finetuned"] if row == "dsr" else {}
        for protocol in protocols:
            rows.append(evaluation_row(
                row, size, protocol, verified, identified, None, interval, gains["direct_feed"], control=control
            ))  # fmt: skip
            about = {"row": row, "protocol": protocol}
            probes.append(pd.DataFrame(about | {
                "probe": PROBE_LIST, "subject": people[PROBE_LIST], "score": identified["top_score"],
                "rank": identified["rank"], "threshold": identified["threshold"],
            }))  # fmt: skip
            pairs.append(pd.DataFrame(about | {
                "left": PAIR_LIST[:, 0], "right": PAIR_LIST[:, 1], "left_subject": people[PAIR_LIST[:, 0]],
                "right_subject": people[PAIR_LIST[:, 1]], "same": SAME, "fold": FOLDS, "score": verified["scores"],
                "decided_rightly": verified["correct"],
            }))  # fmt: skip
    folder = root / "outputs" / run
    about = DATA | {"parameters": {"run": run, **PARAMETERS}, "commit": "c0ffee", "seconds": 3.5} | provenance
    write_metrics(folder / "metrics.json", run, about, rows)
    pd.concat(probes).to_csv(folder / "decisions.csv", index=False)
    pd.concat(pairs).to_csv(folder / "pair_decisions.csv", index=False)
    return folder


@pytest.fixture
def two(root):
    """Two runs of one size, the second without a control."""
    write_run(root, "one", seed=1, protocols=("both-lr", "hr-lr"))
    write_run(root, "two", seed=2, noises={row: noise for row, noise in NOISES.items() if row != "direct_feed_finetuned"})
    return open_records(["one", "two"])


def edit(folder, change):
    about = json.loads((folder / "metrics.json").read_text())
    change(about)
    (folder / "metrics.json").write_text(json.dumps(about))


# Reading


def test_a_run_is_a_name_a_file_or_a_folder(root):
    folder = write_run(root, "vlr24", "24x24")
    by_name, by_path, by_folder = (open_records([str(entry)])[0] for entry in ("vlr24", folder / "metrics.json", folder))
    assert by_name == by_path == by_folder
    assert by_name.title == "vlr24, 24×24" and by_name.row("dsr", "both-lr")["rank1"] > 0
    assert by_name.row("dsr", "hr-lr") is None


def test_runs_of_one_name_are_told_apart_and_sizes_are_columns(root, tmp_path):
    write_run(root, "one", seed=1)
    other = write_run(tmp_path / "elsewhere", "one", seed=2)
    names = [record.name for record in open_records(["one", str(other)])]
    assert names == ["one (one)", f"one ({other})"]
    pairs = (("one", "first"), (other, "second"))
    kept = [shutil.copy(find_metrics(str(entry)), tmp_path / f"{name}.json") for entry, name in pairs]
    assert [record.name for record in open_records(list(map(str, kept)))] == ["one (first)", "one (second)"]

    def second_size(about):
        about["rows"] += [row | {"vlr_size": "8x8"} for row in about["rows"]]

    edit(other, second_size)
    assert [record.size for record in open_records([str(other)])] == ["8x8", "16x16"]


def test_older_files_are_read(root):
    folder = write_run(root, "old")
    edit(folder, lambda about: [row.pop(key) for row in about["rows"] for key in LATER_KEYS])
    edit(folder, lambda about: about.update(provenance={}))
    records = open_records(["old"])
    assert tables.side_by_side(records, "both-lr").loc[("DSR", "verification %")].str.match(r"\d").all()
    assert differences.comparability(records) == []


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ([], ValueError, "got none"),
        (["vlr61"], FileNotFoundError, "did you mean 'vlr16'"),
        (["qqqq"], FileNotFoundError, "Evaluated here: one, vlr16"),
        (["one", "one"], ValueError, "got one twice"),
        (["one", "{root}/copy.json"], ValueError, "got one twice"),
        (["one", "{root}/strange"], ValueError, "one with both-lr and strange with native"),
        (["one", "nowhere.json"], FileNotFoundError, "nowhere.json"),
        (["../one"], FileNotFoundError, "one"),
        (["{root}/half.json"], ValueError, "expected JSON"),
        (["{root}/list.json"], ValueError, "05_evaluation again"),
        (["{root}/rows.json"], ValueError, "05_evaluation again"),
        (["{root}/bytes.json"], ValueError, "05_evaluation again"),
        (["{root}/share.json"], ValueError, r"expected rank1 in \[0, 1\], got 97.0"),
        (["{root}/twice.json"], ValueError, "dsr, 16x16, both-lr twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(root, entries, error, words):
    folder = write_run(root, "one")
    write_run(root, "vlr16", seed=2)
    (root / "strange").mkdir()
    good = (folder / "metrics.json").read_text()
    rows = json.loads(good)["rows"]
    dsr = next(row for row in rows if row["row"] == "dsr")
    bad = {
        "copy": good, "half": good[:500], "list": "[1, 2]",
        "rows": json.dumps({"run": "one", "provenance": {}, "rows": [1]}),
        "share": json.dumps({"run": "one", "provenance": {}, "rows": [dsr | {"rank1": 97.0}]}),
        "twice": json.dumps({"run": "one", "provenance": {}, "rows": [dsr, dsr]}),
        "strange/metrics": json.dumps({"run": "strange", "provenance": {}, "rows": [dsr | {"protocol": "native"}]}),
    }  # fmt: skip
    for name, text in bad.items():
        (root / f"{name}.json").write_text(text)
    (root / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(error, match=words):
        open_records([entry.format(root=root) for entry in entries])


def test_a_comparison_never_writes_into_a_run(root):
    write_run(root, "one")
    assert tables.comparison_folder("sizes") == root / "outputs" / "sizes"
    with pytest.raises(ValueError, match="'one', which is a run with results"):
        tables.comparison_folder("one")


@pytest.mark.parametrize("runs", [["a", "b"], "a b", " a  b "])
def test_runs_are_a_list_or_one_text(runs):
    given = {"runs": runs, "name": "c", "reference": "", "tta": False, "seed": 0, "bootstrap_draws": 20}
    assert Comparison.check(given).runs == ["a", "b"]
    with pytest.raises(ParameterError, match=r"name: .*'\.\./c'"):
        Comparison.check(given | {"name": "../c"})


# Tables


def test_every_cell_is_what_was_measured(two):
    table = tables.side_by_side(two, "both-lr", "rank1")
    assert list(table.columns) == ["one, 16×16", "two, 16×16"]
    labels = {"hr": "HR (upper bound)", "direct_feed": "direct feed (bicubic)", "dsr": "DSR"}
    for record in two:
        for name, label in labels.items():
            row = record.row(name, "both-lr")
            low, high = (100 * end for end in row["interval"]["rank1"])
            assert table.loc[(label, "rank-1 %"), record.title] == f"{100 * row['rank1']:.1f} [{low:.1f}, {high:.1f}]"
            gain = row["difference_to_direct_feed"].get("rank1")
            if gain:
                cell = table.loc[(label, "vs direct feed (points)"), record.title]
                assert cell.startswith(f"{100 * gain['value']:+.1f} [")
                assert cell.endswith("not shown") == (gain["low"] <= 0 <= gain["high"])
    assert ("direct feed (bicubic)", "vs direct feed (points)") not in table.index


def test_what_a_run_lacks_is_a_dash(two):
    table = tables.side_by_side(two, "both-lr")
    control = table.xs("control (bicubic + fine-tuned EdgeFace)")
    assert (control["two, 16×16"] == "–").all() and (control["one, 16×16"] != "–").all()
    assert (tables.side_by_side(two, "hr-lr")["two, 16×16"] == "–").all()
    with pytest.raises(ValueError, match="expected one of both-lr, hr-lr, got 'native'"):
        tables.side_by_side(two, "native")
    with pytest.raises(ValueError, match=r"measure: expected one of .*, got 'eyes'"):
        tables.side_by_side(two, "both-lr", "eyes")


def test_twins_with_tta_are_shown_on_demand_and_always_counted(two):
    assert "dsr_tta" not in tables.systems(two, "both-lr")
    assert tables.systems(two, "both-lr", tta=True)[-2:] == ["dsr", "dsr_tta"]
    assert "dsr_tta" in set(tables.numbers(two)["row"])


def test_numbers_are_unrounded_and_say_what_is_shown(two):
    numbers = tables.numbers(two).set_index(["run", "protocol", "row", "measure"])
    for record in two:
        for row in record.rows:
            one = numbers.loc[(record.name, row["protocol"], row["row"], "rank1")]
            assert one["value"] == row["rank1"] and one["pixels"] == 256
            assert [one["low"], one["high"]] == row["interval"]["rank1"]
            for name, key in (("gain", "difference_to_direct_feed"), ("vs_control", "difference_to_control")):
                gain = row[key].get("rank1")
                assert (one[f"{name}_shown"] is None) == (not gain)
                if gain:
                    assert one[f"{name}_shown"] == (gain["low"] > 0 or gain["high"] < 0)


def test_files_hold_the_tables(two, tmp_path):
    tables.write_tables(tmp_path, two, ["data set: other faces"])
    table = tables.side_by_side(two, "both-lr")
    markdown, latex = ((tmp_path / f"headline.{kind}").read_text() for kind in ("md", "tex"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    first = cells[2 : 2 + len(table)]
    assert [line[2:] for line in first] == table.to_numpy().tolist()
    assert [line[0] for line in first if line[0]] == list(dict.fromkeys(table.index.get_level_values(0)))
    assert "Not comparable as they stand: data set: other faces" in markdown and "% Not comparable" in latex
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%_]", body) and body.count(r"\begin{tabular}{@{}llrr@{}}") == body.count(r"\toprule")
    assert all(line.count("&") == 3 for line in body.splitlines() if line.rstrip().endswith((r"\\", "[2pt]")))
    written = pd.read_csv(tmp_path / "headline.csv")
    pd.testing.assert_series_equal(written["value"], tables.numbers(two)["value"].astype(float), check_exact=False)


def test_the_plain_file_has_everything(two, tmp_path):
    paired, _ = paired_differences(two, draws=20)
    tables.write_comparison(tmp_path / "comparison.json", two, ["careful"], paired, {"runs": ["one", "two"]})
    about = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert about["warnings"] == ["careful"] and [run["run"] for run in about["runs"]] == ["one", "two"]
    assert len(about["numbers"]) == len(tables.numbers(two)) and len(about["paired"]) == len(paired) > 0
    assert about["runs"][0]["provenance"]["dataset_sha256"] == "d" * 64


def test_nothing_is_left_half_written(two, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "numbers", lambda records: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tables.write_tables(tmp_path, two, [])
    assert not list(tmp_path.glob("headline*"))


# What differs


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dataset_sha256": "f" * 64}, "data set: .*ffffffffffff in two"),
        ({"degradation": {"name": "realistic", "blur": 2}}, "degradation: .*name realistic, blur 2 in two"),
        ({"inputs": {"hr, edgeface": {"sha256": "a" * 64}}}, "recogniser: "),
        ({"parameters": PARAMETERS | {"split": "val"}}, "split: .*val in two"),
        ({"parameters": PARAMETERS | {"limit": 500}}, "limit: "),
        ({"parameters": PARAMETERS | {"enrolled": 2}}, "enrolled: "),
        ({"parameters": PARAMETERS | {"seed": 7}}, "gallery seed: "),
        ({"parameters": PARAMETERS | {"threshold_fpir": 0}}, "threshold: .*fixed at 0.35 in two"),
        ({"parameters": PARAMETERS | {"bootstrap_draws": 9}}, "bootstrap draws: "),
        ({"dataset_sha256": None}, "data set: not recorded by two"),
    ],
)
def test_runs_that_were_not_tested_alike_are_told_loudly(root, changed, words):
    write_run(root, "one", seed=1)
    write_run(root, "two", seed=2, **changed)
    (warning,) = differences.comparability(open_records(["one", "two"]))
    assert re.match(words, warning)
    assert "Not comparable" in differences.warning_box([warning])


def test_other_pairs_show_in_the_row_that_no_training_touches(root):
    write_run(root, "one", seed=1)
    folder = write_run(root, "two", seed=2)
    assert differences.comparability(open_records(["one", "two"])) == [] and differences.warning_box([]) == ""

    def worse(about):
        next(row for row in about["rows"] if row["row"] == "hr")["verification_accuracy"] -= 0.05

    edit(folder, worse)
    (warning,) = differences.comparability(open_records(["one", "two"]))
    assert warning.startswith("test pairs: the HR row (both-lr)")


def test_parameters_come_from_the_best_record_there_is(root):
    folder = write_run(root, "one", seed=1)
    (folder / "dsr.pt.json").write_text(json.dumps({"provenance": {"parameters": {"run": "other", "epochs": 9}}}))
    for number, epochs in ((1, 5), (2, 6)):
        about = {"provenance": {"parameters": {"epochs": epochs}}}
        (folder / f"dsr_cycle{number}.pt.json").write_text(json.dumps(about))
    notebook = nbformat.v4.new_notebook(metadata={"papermill": {"parameters": {"head_lr": 1e-3}}})
    nbformat.write(notebook, folder / "03_edgeface_finetune.ipynb")
    planned = root / "params" / "one" / "01_data_migration.yaml"
    planned.parent.mkdir(parents=True)
    planned.write_text(yaml.safe_dump({"run": "one", "subjects": 20}))
    found = stage_parameters(open_records(["one"])[0])
    assert {stage: (one.source, dict(one.values)) for stage, one in found.items()} == {
        "01_data_migration": ("params/one/01_data_migration.yaml", {"subjects": 20}),
        "02_dsr_training": ("dsr.pt.json", {"epochs": 9}),
        "03_edgeface_finetune": ("03_edgeface_finetune.ipynb", {"head_lr": 1e-3}),
        "04_cyclic_cycle": ("dsr_cycle2.pt.json", {"epochs": 6}),
        "05_evaluation": ("metrics.json", PARAMETERS),
    }
    (folder / "dsr.pt.json").write_text("{")
    with pytest.raises(ValueError, match=r"dsr\.pt\.json: expected the parameters of a run"):
        stage_parameters(open_records(["one"])[0])


def test_only_what_differs_is_listed(root):
    for number, (run, more) in enumerate({"one": {"rank": 8, "off": 0}, "two": {"warp": 0.3}}.items()):
        folder = write_run(root, run, seed=number)
        values = {"epochs": 9 + number, "batch_size": 32, "share": 1 + number * 0.0, "resume": f"way {number}", **more}
        (folder / "dsr.pt.json").write_text(json.dumps({"provenance": {"parameters": values}}))
    table, rest = differences.parameter_differences(open_records(["one", "two"]))
    assert table.loc["02_dsr_training"].T.to_dict("list") == {"epochs": ["9", "10"], "rank": ["8", "–"], "warp": ["–", "0.3"]}
    assert "05_evaluation" not in table.index
    assert rest.startswith(f"{2 + len(PARAMETERS)} recorded parameters are equal. 1 more")


def test_circumstances(root):
    write_run(root, "one", seed=1, device="cpu", packages={"torch": "2.15", "numpy": "2.4"})
    write_run(root, "two", seed=2, device="cuda", packages={"torch": "2.16", "numpy": "2.4"}, commit="beef")
    table, rest = differences.circumstances(open_records(["one", "two"]))
    assert table.T.to_dict("list") == {"commit": ["c0ffee", "beef"], "device": ["cpu", "cuda"], "torch": ["2.15", "2.16"]}
    assert rest == "Equal: data set, degradation, recogniser, numpy, seconds."


# Run against run


def test_paired_differences_are_those_of_the_results(two):
    paired, notes = paired_differences(two, draws=60, seed=3)
    assert notes == []
    mine, theirs = ({row: results for row, *results in outcomes(seed)} for seed in (2, 1))
    table = paired.set_index(["row", "measure"])
    assert set(paired["run"]) == {"two"} and set(paired["reference"]) == {"one"} and set(paired["protocol"]) == {"both-lr"}
    order = np.argsort(PROBE_LIST.astype(str), kind="stable")  # of the file names
    subjects = LABELS.astype(str)[PROBE_LIST][order]
    results = [{key: one["dsr"][1][key][order] for key in ("rank", "top_score")} | {"threshold": 0.3} for one in (mine, theirs)]
    expected = bootstrap_difference(*results, subjects, 60, 3)
    for measure in PROBES.measures:
        one = table.loc[("dsr", measure)]
        assert one[["value", "low", "high"]].tolist() == pytest.approx(list(expected[measure].values()))
        assert one["shown"] == (expected[measure]["low"] > 0 or expected[measure]["high"] < 0)
    accuracy = mine["dsr"][0]["correct"].mean() - theirs["dsr"][0]["correct"].mean()
    assert table.loc[("dsr", "verification_accuracy"), "value"] == pytest.approx(accuracy)
    share = [np.mean(one["dsr"][1]["rank"][~STRANGERS] == 1) for one in (mine, theirs)]
    assert table.loc[("dsr", "rank1"), "value"] == pytest.approx(share[0] - share[1])


def test_paired_table_says_what_is_shown_and_who_decided_alike(two):
    paired, _ = paired_differences(two, draws=40)
    table, alike = paired_table(paired)
    assert alike == ["two − one, 16×16, both-lr: the same decisions by HR (upper bound)."]
    assert table.index.get_level_values("system").tolist() == ["direct feed (bicubic)", "DSR"]
    shown = paired.set_index(["row", "measure"])["shown"]
    for measure, title in (PAIRS.measures | PROBES.measures).items():
        assert table.loc[("two − one, 16×16", "both-lr", "DSR"), title].endswith("not shown") != shown["dsr", measure]
    assert paired_table(paired_differences(two[:1])[0])[0].empty


def test_a_reference_for_each_size(root):
    for number, (run, size) in enumerate({"a": "16x16", "b": "16x16", "c": "24x24", "d": "24x24", "e": "8x8"}.items()):
        write_run(root, run, size, seed=number, noises={"dsr": 1.9})
    records = open_records(list("abcde"))
    assert [(one.name, other.name) for one, other in pairings(records)] == [("b", "a"), ("d", "c")]
    assert [(one.name, other.name) for one, other in pairings(records, "d")] == [("b", "a"), ("c", "d")]
    with pytest.raises(ValueError, match="reference: expected one of a, b, c, d, e, got 'z'"):
        pairings(records, "z")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "expected decisions.csv beside its metrics.json, got nothing there"),
        (lambda path: path.write_text("row,protocol\nhr,both-lr\n"), "expected decisions in decisions.csv, got something else"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "expected decisions in decisions.csv, got something else"),
        (lambda path: path.write_text(re.sub(r",(\d+),0\.3$", r",9,0.3", path.read_text(), flags=re.M)), "different evaluations"),
        (lambda path: path.write_text(path.read_text().replace("0.3\n", "nan\n", 1)), "expected finite numbers|something else"),
        (lambda path: path.write_text(path.read_text().replace(",95,23,", ",950,23,")), "Expected the same faces in both"),
    ],
)
def test_decisions_that_cannot_be_paired_are_told_not_used(root, spoil, words):
    write_run(root, "one", seed=1)
    spoil(write_run(root, "two", seed=2) / "decisions.csv")
    paired, notes = paired_differences(open_records(["one", "two"]), draws=10)
    assert len(notes) == 1 and re.search(words, notes[0])
    assert set(paired["measure"]) == set(PAIRS.measures)  # the pairs are there still


def test_decisions_are_read_as_text_and_numbers(two):
    table = read_decisions(two[0], PROBES)
    assert table["subject"].map(type).eq(str).all() and table["rank"].dtype == float


# Figures and the page

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def points(axis):
    """{label: values} of every series with bars."""
    return {
        container.get_label(): (*(np.asarray(data, float) for data in container[0].get_data()), container[2][0].get_segments())
        for container in axis.containers
    }


def test_figures_hold_the_numbers(root):
    sizes = {"a": "8x8", "b": "16x16", "c": "16x16"}
    for number, (run, size) in enumerate(sizes.items()):
        write_run(root, run, size, seed=number)
    records = open_records(list(sizes))
    numbers = tables.numbers(records)
    figures = comparison_figures(numbers)
    assert set(figures) == {("pixels", "both-lr"), ("runs", "both-lr")}  # several sizes, and one of them twice
    for figure in figures.values():
        figure.draw_without_rendering()
    assert plt.get_fignums() == []
    axis = figures["pixels", "both-lr"].axes[2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["8×8", "16×16"]
    assert [text.get_text() for text in figures["pixels", "both-lr"].legends[0].get_texts()][-1].startswith("hollow")
    x, y, bars = points(axis)["DSR"]
    rows = [record.row("dsr", "both-lr") for record in records[:2]]
    assert y == pytest.approx([row["rank1"] for row in rows]) and np.round(x).tolist() == [0, 1]
    assert [bar[:, 1].tolist() for bar in bars] == [pytest.approx(row["interval"]["rank1"]) for row in rows]
    x, y, _ = points(figures["runs", "both-lr"].axes[0])["c, 16×16"]
    systems = tables.systems(records, "both-lr")
    assert np.round(y).tolist() == list(range(len(systems)))
    assert x == pytest.approx([records[2].row(name, "both-lr")["verification_accuracy"] for name in systems])


def test_a_system_of_a_further_run_alone_stands_in_the_legend(root):
    """Hollow, as it is drawn; the systems in one order, whichever run has them."""
    for number, run in enumerate("ab"):
        write_run(root, run, "16x16", seed=number)
    records = open_records(["a", "b"])
    numbers = tables.numbers(records)
    systems = [row_label(row) for row in tables.systems(records, "both-lr", tta=True)]
    figure = plot_against_pixels(numbers[(numbers["row"] != "dsr") | (numbers["run"] == "b")])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*systems, "hollow: a further run of that size"]
    inside = {container.get_label(): container[0].get_markerfacecolor() for container in figure.axes[0].containers}
    assert [inside[name] == "white" for name in systems] == [name == "DSR" for name in systems]


@pytest.mark.parametrize(("name", "columns"), [("vlr", 2), ("published-settings", 1), ("w" * 24, 1)])
def test_names_of_runs_are_not_cut_off(root, name, columns):
    runs = [f"{name}{number}" for number in range(4)]
    for number, run in enumerate(runs):
        write_run(root, run, seed=number)
    figure = plot_runs(tables.numbers(open_records(runs)))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    drawn = legend.get_window_extent()
    assert drawn.x0 >= 0 and drawn.x1 <= figure.bbox.x1
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) == columns


def test_one_run_has_one_figure_and_none_without_numbers(root):
    write_run(root, "one", protocols=("both-lr", "hr+lr", "hr-lr"))
    numbers = tables.numbers(open_records(["one"]))
    names = [figure_name(*of) for of in comparison_figures(numbers)]
    assert (
        names == ["runs_both-lr", "runs_hr-and-lr", "runs_hr-lr"] and figure_name("pixels", "native-4.2m") == "pixels_native-4_2m"
    )
    for plot in (plot_runs, plot_against_pixels):
        with pytest.raises(ValueError, match="got none"):
            plot(numbers[:0])
    only = plot_runs(numbers[numbers["measure"] == "rank1"])
    assert [axis.get_title(loc="left") for axis in only.axes] == ["rank-1"]


def run_notebook(root, *parameters):
    (root / "outputs" / "side").mkdir(parents=True, exist_ok=True)
    words = [REPOSITORY / "notebooks" / "06_comparison.ipynb", root / "outputs" / "side" / "06_comparison.ipynb"]
    environment = os.environ | {"DSRKIT_ROOT": str(root), "OMP_WAIT_POLICY": "PASSIVE"}
    done = [sys.executable, "-m", "papermill", *map(str, words), "-p", "name", "side", *parameters]
    return subprocess.run(done, capture_output=True, text=True, env=environment, cwd=root, check=False)


@pytest.mark.slow
def test_the_notebook_makes_the_page(root):
    write_run(root, "one", seed=1)
    write_run(root, "two", seed=2, dataset_sha256="f" * 64)
    done = run_notebook(root, "-p", "runs", "one two", "-p", "bootstrap_draws", "20")
    assert done.returncode == 0, done.stderr[-3000:]
    side = root / "outputs" / "side"
    words = [sys.executable, "-m", "dsrkit.evaluation", str(side)]
    page = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "Open " in page.stdout and "| DSR | verification % |" in page.stdout
    html = (side / "06_comparison.html").read_text()
    assert len(html) < 5_000_000 and external_resources(html) == [] and "open_records" not in html
    assert html.index("Not comparable as they stand") < html.index("control (bicubic + fine-tuned EdgeFace)") < html.index("<img")
    kinds = {path.name for path in side.rglob("*") if path.is_file()}
    assert kinds >= {"headline.md", "headline.tex", "headline.csv", "comparison.json"}
    assert kinds >= {f"runs_both-lr.{kind}" for kind in ("pdf", "svg", "png")}


@pytest.mark.slow
def test_the_notebook_stops_at_an_unknown_run_and_writes_nothing(root):
    write_run(root, "vlr16")
    done = run_notebook(root, "-p", "runs", "vlr61")
    assert done.returncode != 0 and "did you mean 'vlr16'?" in done.stderr
    assert {path.name for path in (root / "outputs" / "side").rglob("*")} == {"06_comparison.ipynb"}
