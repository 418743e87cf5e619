"""Batches: which code a notebook depends on, a GPU each, one batch a run, and exactly what runs when something changes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from dsrkit.batch import gpu
from dsrkit.batch.__main__ import check, lock, main
from dsrkit.batch.library import library_files, library_record
from dsrkit.batch.stages import read_by_evaluation, read_of_other_runs, with_runs_they_need
from dsrkit.batch.summary import summary_table
from dsrkit.params import STAGES

ROOT = Path(__file__).parents[1]


# --- which code


def notebook(path: Path, *cells: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = [new_code_cell(cell) for cell in cells]
    code[0].metadata["tags"] = ["parameters"]
    made = new_notebook(
        cells=code, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    nbformat.write(made, path)
    return path


def test_a_notebook_depends_on_what_its_modules_import(tmp_path):
    """What Python loads when it runs the imports is among the files that were read off."""
    cells = ["run = ''", "from dsrkit.training import train_dsr\nimport dsrkit.metrics"]
    found = {str(Path(file).resolve().relative_to(ROOT)) for file in library_files(notebook(tmp_path / "a.ipynb", *cells))}
    code = "\n".join(
        [*cells, "import sys", "print(*(module.__file__ for name, module in sys.modules.items() if name[:6] == 'dsrkit'))"]
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert {str(Path(file).relative_to(ROOT)) for file in loaded} <= found
    assert "dsrkit/training/dsr.py" in found and "dsrkit/evaluation/open_set.py" not in found
    assert all((ROOT / file).is_file() for file in found)


def test_figures_make_no_checkpoint():
    training = ROOT / "notebooks" / "02_dsr_training.ipynb"
    kept, whole = set(library_files(training, without=("dsrkit.plots",))), set(library_files(training))
    assert {Path(file).parent.name for file in whole - kept} >= {"plots"} and kept < whole
    assert not [file for file in kept if "/plots/" in file] and "loop.py" in {Path(file).name for file in kept}


def test_one_file_tells_whether_code_has_changed(tmp_path, monkeypatch):
    code = {name: tmp_path / name for name in ("a.py", "b.py")}
    for number, file in enumerate(code.values()):
        file.write_text("x = 1")
        os.utime(file, (1000 + number, 1000 + number))
    monkeypatch.setattr("dsrkit.batch.library.library_files", lambda notebook, without: [str(file) for file in code.values()])
    record = Path(library_record("02.ipynb", (), tmp_path / "records"))
    assert record.stat().st_mtime == 1001 and set(json.loads(record.read_text())) == {str(file) for file in code.values()}
    os.utime(code["a.py"])
    assert library_record("02.ipynb", (), tmp_path / "records") == str(record) and record.stat().st_mtime == 1001
    code["a.py"].write_text("x = 2")
    library_record("02.ipynb", (), tmp_path / "records")
    assert record.stat().st_mtime == code["a.py"].stat().st_mtime


def test_a_notebook_without_the_library(tmp_path):
    with pytest.raises(ValueError, match=r"a\.ipynb: expected a notebook that imports from dsrkit"):
        library_files(notebook(tmp_path / "a.ipynb", "import dsrkti.metrics"))


# --- a GPU each


def test_a_gpu_is_one_job_s_until_it_ends(tmp_path):
    with ExitStack() as one, ExitStack() as other:
        assert gpu.take(["0", "GPU-a"], 1, tmp_path, one) == ["0"] and gpu.take(["0", "GPU-a"], 1, tmp_path, other) == ["GPU-a"]
        with ExitStack() as third:
            assert gpu.take(["0", "GPU-a"], 1, tmp_path, third) is None
            other.close()
            assert gpu.take(["0", "GPU-a"], 2, tmp_path, third) is None  # and holds none of them meanwhile
            assert gpu.take(["0", "GPU-a"], 1, tmp_path, third) == ["GPU-a"]


@pytest.mark.parametrize(("given", "expected"), [("", ["0", "1"]), ("3, GPU-b", ["3", "GPU-b"]), ("5,6,7", ["5", "6"])])
def test_the_gpus_that_a_scheduler_left_us(monkeypatch, given, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpu.visible_gpus() == expected


def test_a_command_sees_its_gpus_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "visible_gpus", lambda: ["0", "1", "2"])
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    show = "import os, sys; sys.exit(os.environ['CUDA_VISIBLE_DEVICES'] != '0,1')"
    assert gpu.run_on_gpus(2, [sys.executable, "-c", show]) == 0
    with pytest.raises(ValueError, match="expected at most 3, the number of GPUs here, got 4"):
        gpu.run_on_gpus(4, ["true"])


def test_without_a_gpu_a_command_runs_at_once(monkeypatch):
    monkeypatch.setattr(gpu, "visible_gpus", list)
    assert gpu.run_on_gpus(1, [sys.executable, "-c", "raise SystemExit(7)"]) == 7


# --- what cannot be


@pytest.fixture
def params(root):
    for run in ("one", "two"):
        for stage in STAGES:
            file = root / "params" / run / f"{stage}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"run: {run}\n")
    return root / "params"


def test_unknown_runs_and_stages_name_the_nearest(params, monkeypatch):
    for module in ("__main__", "stages"):
        monkeypatch.setattr(f"dsrkit.batch.{module}.ROOT", params.parent)
    check(["one", "two"], "02_dsr_training")
    with pytest.raises(ValueError, match=r"Expected a run among one, two, got 'tow'\. Did you mean 'two'\?"):
        check(["one", "tow"], "")
    with pytest.raises(ValueError, match=r"got '02_dsr'\. Did you mean '02_dsr_training'\?"):
        check(["one"], "02_dsr")
    with pytest.raises(ValueError, match="comparison: expected a name that no run has, got 'two'"):
        check(["one", "two"], "", "two")
    cycle = params / "two" / "04_cyclic_cycle.yaml"
    cycle.write_text("run: two\ndry_run: true\n")
    with pytest.raises(ValueError, match=r"dry_run in params/two/04_cyclic_cycle\.yaml: expected false in a batch"):
        check(["one", "two"], "")
    cycle.write_text("run: two\ndry_run: false\n")
    (params / "two" / "03_edgeface_finetune.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"03_edgeface_finetune\.yaml, got nothing there\. Copy"):
        check(["one", "two"], "")


def test_a_run_that_evaluates_another_s_checkpoints(params, monkeypatch):
    """Its own data and its evaluation are all that it needs; whose checkpoints it reads must be a run."""
    for module in ("__main__", "stages"):
        monkeypatch.setattr(f"dsrkit.batch.{module}.ROOT", params.parent)
    for stage in list(STAGES)[:-1]:
        (params / "two" / f"{stage}.yaml").unlink()
    evaluation = params / "two" / "05_evaluation.yaml"
    evaluation.write_text("run: two\nof_run: one\ndataset: outputs/one/dataset\n")
    check(["one", "two"], "")
    assert (
        read_by_evaluation("two") == read_by_evaluation("one") == ["outputs/one/dsr_cycle1.pt", "outputs/one/edgeface_cycle1.pt"]
    )
    evaluation.write_text("run: two\nof_run: one\n")
    assert read_by_evaluation("two")[2:] == ["outputs/two/dataset/manifest.csv"]
    with pytest.raises(FileNotFoundError, match=r"two/01_data_migration\.yaml, got nothing there"):
        check(["two"], "")
    evaluation.write_text("run: two\nof_run: three\n")
    with pytest.raises(ValueError, match=r"of_run in params/two/05_evaluation\.yaml: expected a run among one, two, got 'three'"):
        check(["two"], "")


def test_a_training_that_starts_from_another_run_comes_after_it(params, monkeypatch):
    """Files under another run's outputs are named by parameters; the user's own files, and the run's own, ask for nothing."""
    monkeypatch.setattr("dsrkit.batch.stages.ROOT", params.parent)
    of_one = {name: f"outputs/one/{name}" for name in ("dsr_cycle1.pt", "edgeface_direct.pt", "dataset")}
    named = {"dsr": of_one["dsr_cycle1.pt"], "finetuned_edgeface": "outputs/two/edgeface.pt"}
    named |= {"initial_control": of_one["edgeface_direct.pt"], "dataset": of_one["dataset"]}
    (params / "two" / "04_cyclic_cycle.yaml").write_text(yaml.safe_dump(named, sort_keys=False))
    expected = ["dsr_cycle1.pt", "edgeface_cycle1.pt", "dataset/manifest.csv"]  # the control comes with its stage's networks
    assert read_of_other_runs("two", "04_cyclic_cycle") == [f"outputs/one/{name}" for name in expected]
    assert read_of_other_runs("two", "02_dsr_training") == [] and with_runs_they_need(["two"]) == ["one", "two"]
    (params / "two" / "02_dsr_training.yaml").write_text(
        "initial_dsr: outputs/of a friend/dsr.pt\nvgg_weights: /data/outputs/one/vgg.pth\n"
    )
    assert read_of_other_runs("two", "02_dsr_training") == []
    (params / "three").mkdir()
    (params / "three" / "05_evaluation.yaml").write_text("of_run: two\ndataset: outputs/two/dataset\n")
    assert with_runs_they_need(["three", "one"]) == ["one", "two", "three"]
    (params / "one" / "02_dsr_training.yaml").write_text("initial_dsr: outputs/three/dsr.pt\n")
    with pytest.raises(ValueError, match=r"got a circle: two → one → three → two\. Let one of them start from nothing"):
        with_runs_they_need(["two"])


def test_one_batch_a_run(root):
    with ExitStack() as held, ExitStack() as late:
        lock(["one", "two"], held)
        with pytest.raises(RuntimeError, match="two: expected to be alone, got another batch at work"):
            lock(["two"], late)
    with ExitStack() as held:
        lock(["two"], held)


def test_the_table_says_what_became_of_each_stage(root):
    made = {"01_data_migration": {"end_time": "x", "duration": 90.0}, "02_dsr_training": {"end_time": None}}
    for stage, about in made.items():
        path = notebook(root / "outputs" / "one" / f"{stage}.ipynb", "run = 'one'", "1 / 0")
        read = nbformat.read(path, 4)
        read.metadata["papermill"] = about
        nbformat.write(read, path)
    path = notebook(root / "outputs" / "one" / "03_edgeface_finetune.ipynb", "run = 'one'", "1 / 0")
    read = nbformat.read(path, 4)
    read.cells[1].outputs = [nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])]
    nbformat.write(read, path)
    row = summary_table(["one"]).iloc[0]
    assert row.tolist()[:5] == ["done, 1.5 min", "broken off", "failed in cell 2: ZeroDivisionError", "–", "–"]
    assert set(row.tolist()[5:]) == {"–"}


# --- what runs


MADE = {
    "01_data_migration": ["dataset/manifest.csv"], "02_dsr_training": ["dsr.pt"], "03_edgeface_finetune": ["edgeface.pt"],
    "04_cyclic_cycle": ["dsr_cycle1.pt", "edgeface_cycle1.pt"], "05_evaluation": ["metrics.json", "05_evaluation.html"],
}  # fmt: skip
STAND_IN = """
import pathlib, time
folder = pathlib.Path('outputs') / run
with open('began.txt', 'a') as stream:
    print(run, STAGE, file=stream)
assert not fail, 'as asked'
while pathlib.Path('wait').exists():
    time.sleep(0.05)
for name in MADE:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(pathlib.Path('demo.json').read_text() if name == 'metrics.json' else f'{value} {time.time()}')
if STAGE == '':
    from dsrkit.IMPORTS import x
with open('ended.txt', 'a') as stream:
    print(run, STAGE, file=stream)
"""
COMPARED = "one two 06_comparison"
COMPARISON = """
import pathlib
(pathlib.Path('outputs') / name / '06_comparison.html').write_text(runs)
if not runs:
    from dsrkit.comparison.tables import x
with open('ended.txt', 'a') as stream:
    print(runs, '06_comparison', file=stream)
"""
USED = {"01_data_migration": "data.layout", "02_dsr_training": "losses", "03_edgeface_finetune": "data.duplicates",
        "04_cyclic_cycle": "losses", "05_evaluation": "metrics"}  # fmt: skip


@pytest.fixture
def house(root, monkeypatch):
    """A root with the graph, a copy of the library, and notebooks that do in no time what stages do in hours."""
    shutil.copytree(ROOT / "workflow", root / "workflow")
    shutil.copytree(ROOT / "dsrkit", root / "dsrkit", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "docs/results/demo.json", root)
    for name in ("__init__.py", "__main__.py"):  # its page needs a real evaluation, and importing it takes seconds
        (root / "dsrkit/evaluation" / name).write_text("")
    for stage, names in MADE.items():
        code = STAND_IN.replace("STAGE", repr(stage)).replace("MADE", repr(names)).replace("IMPORTS", USED[stage])
        notebook(root / "notebooks" / f"{stage}.ipynb", "run = ''\nvalue = 0\nfail = False", code)
        for run in ("one", "two"):
            set_param(root, run, stage)
    notebook(root / "notebooks" / "06_comparison.ipynb", "runs = ''\nname = ''", COMPARISON)
    monkeypatch.setenv("DSRKIT_ROOT", str(root))
    monkeypatch.setenv("PYTHONPATH", str(root))
    for module in ("__main__", "stages"):
        monkeypatch.setattr(f"dsrkit.batch.{module}.ROOT", root)
    return root


def set_param(root: Path, run: str, stage: str, **values) -> None:
    file = root / "params" / run / f"{stage}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"run": run, "value": 0} | values))


@pytest.fixture
def batch(house, monkeypatch, capfd):
    """Calls the command in this process; gives its status and what was said: by its jobs, then by itself."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dsrkit.batch", *words, "--parallel", "2"])
        status = main()
        said = capfd.readouterr()
        return status, said.err + said.out

    return run


def ran(root: Path) -> list[str]:
    """What has ended since it was last asked, sorted."""
    file = root / "ended.txt"
    lines = sorted(file.read_text().splitlines()) if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def would_run(said: str) -> list[str]:
    """The jobs that a dry run of Snakemake lists, sorted."""
    stages = {stage[3:]: stage for stage in MADE}
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?: .*\n)+)", said, re.MULTILINE)
    found = [f"{re.findall('wildcards: run=(.+)', about)[0]} {stages[rule]}" for rule, about in jobs if rule in stages]
    return sorted(found + [COMPARED for rule, _ in jobs if rule == "comparison"])


def every(run: str, *stages: str) -> list[str]:
    return sorted(f"{run} {stage}" for stage in MADE if not stages or stage[:2] in stages)


@pytest.mark.slow
def test_two_runs_side_by_side_interrupted_resumed_and_changed(house, batch):
    (house / "wait").touch()
    words = [sys.executable, "-m", "dsrkit.batch", "one", "two", "--parallel", "2"]
    first = subprocess.Popen(
        words, cwd=house, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 600
    while not (house / "began.txt").exists() or len((house / "began.txt").read_text().splitlines()) < 2:
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C does; both runs are in stage 01, side by side
    said, _ = first.communicate(timeout=300)
    assert first.returncode and ran(house) == [] and "01_data_migration" in said.splitlines()[-4], said
    (house / "wait").unlink()

    status, said = batch("one", "two")
    assert status == 0 and ran(house) == sorted([*every("one"), *every("two"), COMPARED]), said
    assert len(re.findall(r"done, \d", said)) == 10 and "Side by side" in said.splitlines()[-1]  # after the table
    assert (house / "outputs/two/logs/04_cyclic_cycle.txt").read_text()
    assert (house / "outputs/comparison/06_comparison.html").read_text() == "one two"

    set_param(house, "two", "03_edgeface_finetune", value=1)
    set_param(house, "one", "02_dsr_training", fail=True)
    status, said = batch("one", "two")
    assert status and ran(house) == every("two", "03", "04", "05"), said  # one stops, two goes on, nothing is compared
    assert "failed in cell 2: AssertionError" in said and len(re.findall(r"done, \d", said)) == 9
    failed = nbformat.read(house / "outputs/one/02_dsr_training.ipynb", 4)
    assert any(output.output_type == "error" for cell in failed.cells for output in cell.get("outputs", []))

    set_param(house, "one", "02_dsr_training")
    with open(house / "dsrkit/data/duplicates.py", "a") as stream:
        stream.write("\n# changed\n")
    status, said = batch("one", "two", "--dry-run")
    assert status == 0 and ran(house) == [] and "reason" in said.lower(), said
    assert would_run(said) == sorted([*every("one", "02", "03", "04", "05"), *every("two", "03", "04", "05"), COMPARED])
    status, said = batch("two", "--dry-run")
    assert status == 0 and would_run(said) == every("two", "03", "04", "05"), said  # one run alone: nothing to compare
    job = ["--target-jobs", "cyclic_cycle:run=two", "--allowed-rules", "cyclic_cycle", "--force"]  # as a cluster's job is called
    status, said = batch("two", "--dry-run", *job)
    assert status == 0 and would_run(said) == every("two", "04"), said  # no stage before it, whatever was edited meanwhile

    set_param(house, "three", "05_evaluation", of_run="two", dataset="outputs/two/dataset")
    status, said = batch("three", "--dry-run")  # what it evaluates is trained first, and is not itself evaluated
    assert status == 0 and would_run(said) == [*every("three", "05"), *every("two", "03", "04")], said
