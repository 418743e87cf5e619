"""docs/RESULTS.md quotes the numbers that were kept, not others."""

import json
import re
import sys

import pytest
from conftest import REPOSITORY, quoted

from dsrkit.comparison.records import open_records
from dsrkit.comparison.tables import side_by_side, to_markdown
from dsrkit.evaluation import headline_markdown, read_metrics
from dsrkit.evaluation.headline import gain_text

RESULTS = (REPOSITORY / "docs" / "RESULTS.md").read_text()
COMPARED = {  # of 06, by the kept evaluations that it read
    "vlr": ("vlr-at-14x16", "vlr-at-16", "vlr-at-24", "vlr-at-32"),
    "budget": tuple(f"budget/{run}{size}" for size in ("14x16", "16", "24", "32") for run in ("seed-vlr", "vlr")),
    "sizes": ("tries/vlr14x16-again", "tries/vlr16-again", "vlr24", "vlr32"),
}
TABLES = sorted([*(REPOSITORY / "docs/results/recipes").glob("*.json"), *(REPOSITORY / "docs/results/search").glob("*.json")])


@pytest.fixture
def of_benchmarks(monkeypatch):
    """Modules of ``benchmarks`` can be imported by name, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(REPOSITORY / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_tables_are_quoted_as_measured(path, of_benchmarks):
    from on_validation import markdown

    assert quoted(RESULTS, f"{path.parent.name} {path.stem}") == markdown(json.loads(path.read_text()))


@pytest.mark.parametrize(("run", "protocol"), re.findall(r"<!-- (\w\S*) (both-lr|hr-lr|hr\+lr) -->", RESULTS))
def test_runs_are_quoted_as_measured(run, protocol):
    rows = read_metrics(REPOSITORY / "docs" / "results" / f"{run}.json")["rows"]
    kept = [row for row in rows if row["protocol"] == protocol and (protocol == "both-lr" or not row["row"].startswith("hr"))]
    assert quoted(RESULTS, f"{run} {protocol}") == headline_markdown(kept)


@pytest.mark.parametrize("run", sorted(path.stem for path in (REPOSITORY / "docs" / "results").glob("*.json")))
def test_every_kept_run_is_quoted(run):
    assert run == "demo" or quoted(RESULTS, f"{run} both-lr")  # the demo's table is the README's


@pytest.mark.parametrize("run", re.findall(r"<!-- judge (\S+) -->", RESULTS))
def test_judges_are_quoted_as_measured(run):
    rows = read_metrics(REPOSITORY / "docs" / "results" / f"{run}.json")["judge"]["rows"]
    assert quoted(RESULTS, f"judge {run}") == headline_markdown([row for row in rows if row["protocol"] == "both-lr"])


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_comparisons_are_quoted_as_made_from_the_kept_runs(name):
    records = open_records([f"docs/results/{run}.json" for run in COMPARED[name]])
    made = to_markdown(side_by_side(records, "both-lr"))
    assert quoted(RESULTS, f"comparison {name}") == made
    assert (REPOSITORY / "docs" / "results" / "comparison" / f"{name}.md").read_text().split("\n\n")[1].strip() == made


def test_where_it_stands_is_what_was_measured(of_benchmarks):
    from standing import recipes, standing, with_tta

    assert quoted(RESULTS, "standing") == standing()
    assert quoted(RESULTS, "recipes at 16×16") == recipes()
    for run in re.findall(r"<!-- tta (\S+) -->", RESULTS):
        assert quoted(RESULTS, f"tta {run}") == with_tta(run)


def test_scaling_is_quoted_as_measured(of_benchmarks):
    from scaling import computed, markdown

    results = json.loads((REPOSITORY / "docs/results/benchmarks/scaling.json").read_text())
    assert quoted(RESULTS, "benchmarks scaling") == markdown(results)
    alone = [row for row in results["measured"] if row["processes"] == 1]
    assert results["computed"] == [
        line for row in alone for line in computed(row["step"], 1e6 * row["gradient_mb"], row["seconds"])
    ]


def test_the_readme_says_what_one_size_alone_reached(of_benchmarks):
    from standing import row_of

    further = ("tries/vlr16-next-seed", "tries/vlr16-again", "tries/vlr16-four-drawings")
    first, *others = (row_of(run, "both-lr", "cycle_1") for run in ("vlr16", *further))
    judge = row_of(further[-1], "judge", "cycle_1_guided")
    over = {other: gain_text(first[f"difference_to_{other}"]["verification_accuracy"]) for other in ("direct_feed", "control")}
    reached, *again, judged = (f"{100 * row['verification_accuracy']:.2f}" for row in (first, *others, judge))
    readme = (REPOSITORY / "README.md").read_text()
    said = f"{reached} % ({over['direct_feed']} points over the direct feed, {over['control']} over its control)"
    assert f"{said}, in three further trainings {', '.join(again[:-1])} and {again[-1]} %." in readme
    assert f"as much: {judged} % ({gain_text(judge['difference_to_direct_feed']['verification_accuracy'])} points over" in readme
