"""Several processes learn what one learns, and what they saved any number may go on from."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, difference, weights_of

from dsrkit import runs
from dsrkit.models.checkpoint import load_checkpoint
from dsrkit.params import STAGES
from dsrkit.runs import Run
from dsrkit.training import __main__ as command
from dsrkit.training import open_setting, run_cycles, train_dsr, train_edgeface
from dsrkit.training.launch import _Followed
from dsrkit.training.sampling import Draw
from dsrkit.training.stepper import Stepper

TRAININGS = {"02_dsr_training": train_dsr, "03_edgeface_finetune": train_edgeface, "04_cyclic_cycle": run_cycles}
EXACT = {"batch_size": 7}
# Of seven faces one process has four and the other three. HR are one face (the second process has none) and three.
CASES = {
    "dsr": ("02_dsr_training", "DSR", EXACT | {"ema_decay": 0.5}),
    "finetune": (
        "03_edgeface_finetune",
        "EdgeFace",
        {"batch_size": 7, "control": False, "stage1_epochs": 0, "lambda_arcface": 0.1, "hr_fraction": 0.15},
    ),
    "joint": ("04_cyclic_cycle", "cycle 1, joint", EXACT | {"mode": "joint", "hr_fraction": 0.4}),
    "killed": ("02_dsr_training", "DSR", EXACT | {"epochs": 2, "checkpoint_minutes": 0.0}),
}
COMMANDS = """
import os, signal, sys
from dsrkit.training import __main__ as command
from dsrkit.training.resume import Progress

save, saves = Progress.save, []

def saving(progress, state):
    save(progress, state)
    saves.append(state)
    if "killed" in str(progress.path) and state["step"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)

Progress.save = saving
for words in sys.argv[1:]:
    sys.argv = ["dsrkit.training", *words.split()]
    command.main()
"""


def history(run, stage):
    return json.loads((Run(run).folder / f"{stage}.state.pt.json").read_text())["history"]


def last_weights(run, stage, title):
    """Where a training ended, whether or not its last epoch was the best."""
    state = load_checkpoint(Run(run).folder / f"{stage}.state.pt", "training")["training_state_dict"]
    return state["ended"][title]["stepper"]["trained"]


@pytest.fixture(scope="module")
def make(stage_params, dsr_path, edgeface_path):
    """Parameters of a case, in a run named for it."""

    def params(case, number, **changes):
        stage, _, own = CASES[case]
        files = {"dsr": str(dsr_path), "finetuned_edgeface": str(edgeface_path)}
        given = {name: path for name, path in files.items() if name in STAGES[stage].model_fields}
        return stage_params(stage, **{"run": f"{case}{number}"} | own | given | changes)

    return params


@pytest.fixture(scope="module")
def in_two(tmp_path_factory, make):
    """Every case trained by ``torchrun`` in two processes, of which the last case kills one; where they wrote."""
    root = tmp_path_factory.mktemp("two")
    words = []
    for case, (stage, _, _) in CASES.items():
        path = root / f"{case}.yaml"
        path.write_text(yaml.safe_dump(make(case, 2).model_dump()))
        words.append(f"{stage} {path}")
    (root / "commands.py").write_text(COMMANDS)
    environment = os.environ | {"DSRKIT_ROOT": str(root), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(root / "commands.py")]
    done = subprocess.run([*torchrun, *words], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "SIGKILL" in done.stderr, done.stdout + done.stderr
    assert done.stdout.count("DSR 1/1") == 1, done.stdout  # one process tells
    return root


@pytest.mark.parametrize("case", ["dsr", "finetune", "joint"])
def test_two_processes_learn_what_one_learns(in_two, make, monkeypatch, case):
    monkeypatch.setattr(runs, "ROOT", in_two)
    stage, title, _ = CASES[case]
    TRAININGS[stage](open_setting(make(case, 1)))
    one, two = (last_weights(f"{case}{processes}", stage, title) for processes in (1, 2))
    assert difference(one, two) < 1e-5
    one, two = (history(f"{case}{processes}", stage) for processes in (1, 2))
    assert len(one) == len(two) == 2 and one[1].keys() == two[1].keys()
    for name in one[1].keys() - {"seconds"}:
        if not name.startswith("gradient"):  # of a share of the faces
            assert two[1][name] == pytest.approx(one[1][name], rel=1e-3, abs=1e-5), name


def test_two_processes_that_were_killed_are_gone_on_from_by_one(in_two, make, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ROOT", in_two)
    train_dsr(open_setting(make("killed", 2, resume="must", processes=1)))
    assert "going on from 02_dsr_training.state.pt: DSR, epoch 1, step 1" in capsys.readouterr().out
    train_dsr(open_setting(make("killed", 1)))
    one, two = (last_weights(f"killed{processes}", "02_dsr_training", "DSR") for processes in (1, 2))
    assert difference(one, two) < 1e-5
    assert difference(weights_of(Run("killed1").dsr), weights_of(Run("killed2").dsr)) < 1e-5


def test_processes_started_from_a_notebook(root, stage_params, dsr_path, edgeface_path, monkeypatch):
    """With ``processes`` a stage spawns them itself; its answer and its epochs come back."""
    monkeypatch.setenv("DSRKIT_ROOT", str(root))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    files = {"dsr": str(dsr_path), "finetuned_edgeface": str(edgeface_path)}
    changes = EXACT | files | {"mode": "alternate", "accept_level": 0.0, "select_by": "auc"}
    told, handler = [], signal.getsignal(signal.SIGTERM)
    spawned = open_setting(stage_params("04_cyclic_cycle", run="spawned", processes=2, **changes))
    (two,) = run_cycles(spawned, on_epoch=lambda title, history: told.append((title, history)))
    assert signal.getsignal(signal.SIGTERM) is handler  # the launcher's own is gone
    assert [(title, len(seen)) for title, seen in told] == [("cycle 1, DSR", 1), ("cycle 1, DSR", 2)]
    assert told[-1][1] == two.fit.history
    (one,) = run_cycles(open_setting(stage_params("04_cyclic_cycle", run="alone", **changes)))
    assert (two.cycle, two.step, two.accepted) == (one.cycle, one.step, one.accepted)
    assert two.gain == pytest.approx(one.gain, abs=1e-3)
    weights = [last_weights(run, "04_cyclic_cycle", "cycle 1, DSR") for run in ("spawned", "alone")]
    assert difference(*weights) < 1e-5
    assert Run("spawned").cycle(1)[1].is_file()


def test_more_processes_than_faces():
    stepper = object.__new__(Stepper)
    stepper.accelerator, stepper.parts = SimpleNamespace(num_processes=4, process_index=3), 1
    with pytest.raises(ValueError, match=r"processes: expected at most 3, the faces of a step, got 4\. Raise batch_size"):
        stepper.step(Draw(np.arange(3), torch.zeros(3, 11), torch.zeros(3, 4), 0.0, np.arange(3)))


def test_following_what_another_process_tells():
    told = []
    with _Followed(lambda title, history: told.append((title, len(history)))) as path, open(path, "a") as stream:
        for line in (["one", [1]], ["one", [1, 2]], ["two", [1]]):
            stream.write(json.dumps(line) + "\n")
        stream.write('["half a li')
    assert told == [("one", 1), ("one", 2), ("two", 1)] and not path.exists()


def test_the_command_names_its_stages(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["dsrkit.training", "05_evaluation", "params.yaml"])
    with pytest.raises(SystemExit):
        command.main()
    assert "invalid choice: '05_evaluation'" in capsys.readouterr().err
