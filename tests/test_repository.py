"""What the README and the workflow say is so."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import quoted

from dsrkit.batch.stages import stages_of
from dsrkit.evaluation import headline_markdown, read_metrics
from dsrkit.params import STAGES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RUNS = sorted(folder.name for folder in (ROOT / "params").iterdir())


def test_readme_quotes_the_demo_s_metrics() -> None:
    rows = read_metrics(ROOT / "docs" / "results" / "demo.json")["rows"]
    assert quoted(README, "demo") == headline_markdown([row for row in rows if row["protocol"] == "both-lr"])


def test_readme_quotes_the_comparison_of_sizes() -> None:
    """Of ``06_comparison``'s tables the first: verification, gallery and probe VLR."""
    tables = (ROOT / "docs" / "results" / "comparison" / "vlr.md").read_text()
    assert quoted(README, "comparison vlr") == tables.split("\n\n")[1].strip()


def test_readme_names_every_run_stage_and_folder() -> None:
    assert all(f"`{name}`" in README for name in [*RUNS, *STAGES])
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert all(f"    {name}/" in README for name in folders)


def test_demo_shows_that_dsr_beats_the_direct_feed() -> None:
    rows = {row["row"]: row for row in read_metrics(ROOT / "docs/results/demo.json")["rows"] if row["protocol"] == "both-lr"}
    gains = rows["dsr"]["difference_to_direct_feed"]
    assert gains["verification_accuracy"]["low"] > 0 and gains["rank1"]["low"] > 0


def test_graph_has_every_stage_of_every_run() -> None:
    words = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "-n", "--forceall"]
    plan = subprocess.run([*words, "--config", f"runs={' '.join(RUNS)}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert plan.returncode == 0, plan.stderr
    for stage in STAGES:
        rule, runs = stage[3:], [run for run in RUNS if stage in stages_of(run)]
        assert re.search(rf"^{rule}\s+{len(runs)}$", plan.stdout + plan.stderr, re.MULTILINE), rule
