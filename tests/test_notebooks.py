"""The five stages, run headlessly by papermill, one after the other, on a handful of made-up faces."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TINY = {
    "01_data_migration": {"subjects": 20, "images_per_subject": 4, "validation_fraction": 0.25, "test_fraction": 0.4},
    "02_dsr_training": {"base_channels": 8, "residual_blocks": 1, "epochs": 1, "steps_per_epoch": 2, "batch_size": 4},
    "03_edgeface_finetune": {"stage1_epochs": 1, "stage2_epochs": 1, "steps_per_epoch": 2, "batch_size": 4}
    | {"lambda_arcface": 0.1},
    "04_cyclic_cycle": {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4},
    "05_evaluation": {"bootstrap_draws": 20, "strips": 2},
}


def papermill(root: Path, stage: str, *extra: str) -> subprocess.CompletedProcess:
    (root / "outputs" / "tiny").mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "papermill", ROOT / "notebooks" / f"{stage}.ipynb", root / "outputs/tiny" / f"{stage}.ipynb"]
    environment = os.environ | {"DSRKIT_ROOT": str(root), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run([*map(str, words), *extra], capture_output=True, text=True, env=environment, cwd=root, check=False)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all five stages ran with tiny parameters, given as a parameter file."""
    root = tmp_path_factory.mktemp("line")
    for stage, parameters in TINY.items():
        file = root / f"{stage}.yaml"
        file.write_text(yaml.safe_dump(parameters | {"run": "tiny"}))
        done = papermill(root, stage, "-f", str(file))
        assert done.returncode == 0, done.stderr[-3000:]
    return root / "outputs" / "tiny"


def test_stages_leave_what_they_promise(line: Path) -> None:
    for name in (
        "dsr.pt",
        "edgeface.pt",
        "dsr_cycle1.pt",
        "edgeface_cycle1.pt",
        "metrics.json",
        "decisions.csv",
        "pair_decisions.csv",
    ):
        assert (line / name).stat().st_size > 0
    rows = json.loads((line / "metrics.json").read_text())["rows"]
    assert {row["row"] for row in rows} == {"hr", "direct_feed", "direct_feed_finetuned", "dsr", "dsr_finetuned", "cycle_1"}
    assert {row["protocol"] for row in rows} == {"both-lr", "hr-lr", "hr+lr"}
    assert all(0 <= row["verification_accuracy"] <= 1 and 0 <= row["rank1"] <= 1 for row in rows)


def test_result_comes_first_on_the_evaluation(line: Path) -> None:
    cells = nbformat.read(line / "05_evaluation.ipynb", 4).cells
    shown = ("display_data", "execute_result")
    first = next(cell for cell in cells for out in cell.get("outputs", []) if out.output_type in shown)
    assert "headline_table" in first.source


def test_page_is_made_from_a_run(line: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dsrkit.evaluation", str(line)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "direct feed" in done.stdout and str(line / "05_evaluation.html") in done.stdout
    assert (line / "05_evaluation.html").stat().st_size < 5_000_000


def test_one_line_an_epoch_in_the_log(line: Path) -> None:
    cells = nbformat.read(line / "02_dsr_training.ipynb", 4).cells
    texts = [out.text for cell in cells for out in cell.get("outputs", []) if out.get("name") == "stdout"]
    assert sum(text.count("DSR 1/1") for text in texts) == 1


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [("epocs", "3", ["'epocs'", "'epochs'"]), ("epochs", "many", ["epochs", "'many'"])],
)
def test_a_wrong_parameter_stops_the_run(tmp_path: Path, parameter: str, value: str, words: list[str]) -> None:
    done = papermill(tmp_path, "02_dsr_training", "-p", parameter, value)
    assert done.returncode != 0
    assert all(word in done.stderr for word in ["ParameterError", *words])
    assert not (tmp_path / "outputs/tiny/dsr.pt").exists()
