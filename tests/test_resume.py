"""A training that was killed, at any save, goes on to the very weights that it would have had."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, same_weights, weights_of

from dsrkit.models.checkpoint import load_checkpoint, read_weights
from dsrkit.runs import Run
from dsrkit.training import TrainingError, open_setting, run_cycles, train_dsr, train_edgeface
from dsrkit.training.resume import Progress, generator_states, open_progress, restore_generators
from dsrkit.training.stepper import Stepper
from dsrkit.training.validation import Validation


class Killed(BaseException):
    """Stands for whatever ends a process."""


def tensors(content, name=""):
    """Every tensor in nested dictionaries and lists, by its place."""
    if isinstance(content, torch.Tensor):
        return {name: content}
    if not isinstance(content, dict | list | tuple):
        return {}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {
        place: found for key, value in items if key != "generators" for place, found in tensors(value, f"{name}/{key}").items()
    }


def results(run):
    """Every tensor of every file that a run left, the state files among them."""
    return {
        path.name: tensors(torch.load(path, weights_only=True))
        for path in sorted(run.folder.glob("*.pt"))
        if "previous" not in path.name
    }


def assert_same_results(one, other):
    assert one.keys() == other.keys() and one
    for name in one:
        assert one[name].keys() == other[name].keys() and one[name], name
        differing = [place for place, value in one[name].items() if not torch.equal(value, other[name][place])]
        assert not differing, f"{name}: {len(differing)} of {len(one[name])} differ: {differing[:3]}"


def killed_at_every_save(train, setting, monkeypatch):
    """Run ``train`` again and again; its very first save is lost, then each time its second: what was on disk is gone on from."""
    save, saves = Progress.save, []

    def saving(progress, state):
        saves.append(state["title"])
        if len(saves) == (1 if attempts == 1 else 2):
            raise Killed
        save(progress, state)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", saving)
        for attempts in range(1, 100):
            saves.clear()
            with suppress(Killed):  # then the next attempt goes on
                return attempts, train(setting)
    raise AssertionError("expected the training to end")


DRIVER = """
import json, os, signal, sys, traceback
from dsrkit.params import DSRTraining
from dsrkit.training import open_setting, train_dsr
from dsrkit.training.resume import Progress

save = Progress.save

def attempt(values, last):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    saves = []
    def saving(progress, state):
        save(progress, state)
        saves.append(state)
        if len(saves) == last:
            os.kill(os.getpid(), signal.SIGKILL)
    Progress.save = saving
    try:
        train_dsr(open_setting(DSRTraining.check(values)))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

values = json.loads(sys.argv[1])
print(json.dumps([attempt(values, last) for last in (2, 3, 1, 99)] + [attempt(values | {"run": "whole"}, 99)]))
"""


def test_killed_processes_end_with_the_weights_of_one_that_lived(stage_params, tmp_path):
    """SIGKILL within and at the end of an epoch, three times; then the same in one go. To the bit."""
    params = stage_params("02_dsr_training", epochs=3, checkpoint_minutes=0.0, ema_decay=0.9)
    environment = os.environ | {"DSRKIT_ROOT": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", DRIVER, params.model_dump_json()]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [-9, -9, -9, 0, 0], done.stdout + done.stderr
    assert done.stdout.count("going on from 02_dsr_training.state.pt: DSR, epoch") == 3
    assert_same_results(results(Run("tiny", tmp_path)), results(Run("whole", tmp_path)))


@pytest.fixture
def starting(root, stage_params, dsr_path, edgeface_path):
    """Open a stage that starts from the session's networks."""

    def opened(stage, run, **changes):
        files = {"dsr": str(dsr_path), "finetuned_edgeface": str(edgeface_path)}
        files = {name: path for name, path in files.items() if stage[:2] == "04" or (stage[:2] == "03" and name == "dsr")}
        small = {"batch_size": 2, "checkpoint_minutes": 0.0} | ({"finetune_batch_size": 2} if stage[:2] == "04" else {})
        return open_setting(stage_params(stage, run=run, **small | files | changes))

    return opened


FINETUNE = {
    "lambda_arcface": 0.2, "margin_head": "adaface", "arcface_margin": 0.4, "ema_decay": 0.9, "batch_size": 4,
    "hr_fraction": 0.5, "backbone_lr": 1e-3,
}  # fmt: skip


NOBODY = {"identity_target": "augmented", "warp": 0.03, "cutmix_probability": 0.5, "blend_probability": 0.5}


@pytest.mark.parametrize(
    ("stage", "train", "changes", "attempts"),
    [
        ("02_dsr_training", train_dsr, {"members": 2, "select_by": "psnr"}, 7),
        ("03_edgeface_finetune", train_edgeface, FINETUNE | {"control": True, "stage1_epochs": 1}, 13),
        ("03_edgeface_finetune", train_edgeface, FINETUNE | {"control": False, "lora_rank": 2, "stage1_epochs": 0}, 4),
        ("04_cyclic_cycle", run_cycles, FINETUNE | {"mode": "alternate", "cycles": 2, "stage1_epochs": 0}, 10),
        ("04_cyclic_cycle", run_cycles, {"mode": "joint", "batch_size": 4, "accept_level": 0.0}, 4),
        ("04_cyclic_cycle", run_cycles, NOBODY | {"mode": "joint", "dataset": "realistic"}, 4),
    ],
)
def test_a_stage_interrupted_at_every_save(starting, realistic_dataset, monkeypatch, stage, train, changes, attempts):
    if "dataset" in changes:
        changes = changes | {"dataset": str(realistic_dataset)}
    whole = train(starting(stage, "whole", **changes))
    interrupted = starting(stage, "pieces", **changes)
    tried, pieces = killed_at_every_save(train, interrupted, monkeypatch)
    assert tried == attempts  # the start and each save but the last was a place to go on from
    assert_same_results(results(Run("whole")), results(Run("pieces")))
    assert told(whole) == told(pieces)


def told(answer):
    """What a stage returns, without its seconds."""
    if isinstance(answer, list):
        return [(step.cycle, step.step, step.gain, step.accepted, told(step.fit)) for step in answer]
    records = [{name: value for name, value in record.items() if name != "seconds"} for record in [*answer.history, answer.best]]
    assert answer.seconds >= answer.history[-1]["seconds"] - 0.1 > 0
    return records, answer.ended


def test_what_stood_there_before_is_kept_once(starting, monkeypatch):
    train_dsr(starting("02_dsr_training", "again", seed=5, learning_rate=1e-2, select_by="identity_similarity"))
    run = Run("again")
    before = weights_of(run.dsr)
    killed_at_every_save(train_dsr, starting("02_dsr_training", "again", seed=6), monkeypatch)
    kept = run.folder / "dsr.previous.pt"
    assert same_weights(weights_of(kept), before)
    assert load_checkpoint(kept, "dsr")["provenance"]["parameters"]["seed"] == 5
    assert json.loads((run.folder / "dsr.previous.pt.json").read_text())["provenance"]["parameters"]["seed"] == 5
    assert load_checkpoint(run.dsr, "dsr")["provenance"]["parameters"]["seed"] == 6


def test_a_result_that_is_also_an_input(starting, stage_params):
    train_dsr(starting("02_dsr_training", "own"))
    own = str(Run("own").dsr)
    with pytest.raises(ValueError, match=r"dsr\.pt: expected an input that stays.*Copy it under another name"):
        train_dsr(starting("02_dsr_training", "own", initial_dsr=own))
    assert Run("own").dsr.is_file()


# --- the state file


def origin(**parameters):
    return {"parameters": {"run": "tiny", "device": "cpu"} | parameters, "inputs": {"manifest": {"file": "m", "sha256": "aa"}}}


def state(title="DSR", ended="", epochs=2):
    return {
        "title": title,
        "ended": ended,
        "epoch": epochs,
        "step": 0,
        "history": [{"epoch": n, "eer": 0.1} for n in range(epochs)],
        "stepper": {"trained": {}},
    }


def begun(path, **parameters):
    progress = open_progress(path, origin(**parameters), "auto", 5.0, [])
    progress.save(state())
    return progress


def test_the_state_file_is_data_and_its_history_is_readable(starting):
    done = train_dsr(starting("02_dsr_training", "file"))
    path = Run("file").folder / "02_dsr_training.state.pt"
    content = torch.load(path, weights_only=True)
    assert content["kind"] == "training" and content["finished"]
    about = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert about["history"] == done.history and "training_state_dict" not in about
    assert about["origin"]["parameters"]["learning_rate"] == 5e-4 and "device" not in about["origin"]["parameters"]


def test_going_on_takes_what_was_saved(tmp_path, capsys):
    path = tmp_path / "02.state.pt"
    progress = begun(path, learning_rate=1.0)
    progress.save(state("DSR, member 1", ended="all epochs done"))
    progress.note("judged", {"gain": {"value": 0.1}})
    progress.save(state("DSR, member 2", epochs=1))
    found = open_progress(path, origin(learning_rate=1.0, device="cuda", processes=8), "must", 5.0, [])
    assert found.resumed and "going on from 02.state.pt: DSR, member 2, epoch 1" in capsys.readouterr().out
    assert found.of("DSR, member 1")["ended"] and found.of("DSR, member 2")["epoch"] == 1 and found.of("DSR, member 3") is None
    assert found.notes == {"judged": {"gain": {"value": 0.1}}}


def test_a_finished_state_is_not_gone_on_from(tmp_path):
    path, result = tmp_path / "02.state.pt", tmp_path / "dsr.pt"
    begun(path).finish()
    result.write_text("old")
    with pytest.raises(
        TrainingError, match=r"resume: expected an interrupted training.*that training was finished.*auto to begin"
    ):
        open_progress(path, origin(), "must", 5.0, [result])
    assert result.is_file()
    progress = open_progress(path, origin(), "auto", 5.0, [result])
    assert not progress.resumed and progress.of("DSR") is None
    assert result.is_file()  # nothing moves before there is something to put in its place
    progress.begin()
    progress.begin()
    assert (tmp_path / "dsr.previous.pt").read_text() == "old" and not (tmp_path / "02.state.previous.pt").exists()


def test_a_finished_result_outlives_trainings_that_were_broken_off(tmp_path):
    path, result = tmp_path / "02.state.pt", tmp_path / "dsr.pt"
    result.write_text("finished")
    for rate in (1.0, 2.0, 3.0):
        progress = open_progress(path, origin(learning_rate=rate), "auto", 5.0, [result])
        progress.begin()
        result.write_text(f"broken off at {rate}")
        progress.save(state())
    assert (tmp_path / "dsr.previous.pt").read_text() == "finished"
    progress.finish()
    progress = open_progress(path, origin(learning_rate=4.0), "auto", 5.0, [result])
    progress.begin()
    assert (tmp_path / "dsr.previous.pt").read_text() == "broken off at 3.0"  # the last one ended well


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 999}, {"precision": "fp16"}, {"vgg_weights": "gone.pth", "lambda_perceptual": 1.0}]
)
def test_a_training_that_cannot_begin_leaves_everything_as_it_was(starting, stage_params, wrong):
    train_dsr(starting("02_dsr_training", "unharmed"))
    folder = Run("unharmed").folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises((ValueError, TrainingError, FileNotFoundError)):
        train_dsr(open_setting(stage_params("02_dsr_training", run="unharmed", **wrong)))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_notebook_takes_over_what_a_command_trained(starting, monkeypatch):
    setting = starting("02_dsr_training", "handed_over")
    trained = train_dsr(dataclasses.replace(setting, finishes=False))
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", lambda *given, **more: pytest.fail("expected nothing left to train"))
        assert train_dsr(setting).history == trained.history
    assert read_weights(setting.run.folder / "02_dsr_training.state.pt")["finished"]


def test_a_larger_ensemble_leaves_no_member_behind(starting, stage_params):
    train_dsr(open_setting(stage_params("02_dsr_training", run="members", members=2)))
    seeds = [load_checkpoint(Run("members").dsr_member(k), "dsr")["provenance"]["parameters"]["seed"] for k in (1, 2)]
    assert seeds[1] == seeds[0] + 1
    train_dsr(open_setting(stage_params("02_dsr_training", run="members", members=1)))
    assert not Run("members").dsr_member(2).exists() and (Run("members").folder / "dsr_member2.previous.pt").exists()


def test_a_file_that_cannot_be_written_says_so_and_harms_nothing(tmp_path):
    """A real limit on the size of files: torch's own writer fails, as on a full disk."""
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from dsrkit.models.checkpoint import save_checkpoint;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); path = Path(sys.argv[1]);"
        "save_checkpoint(path, 'dsr', {'weights': torch.zeros(9)});"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "save_checkpoint(path, 'dsr', {'weights': torch.ones(99999)})"
    )
    path = tmp_path / "dsr.pt"
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "OSError" in ran.stderr and "MB free. What was saved before is whole. Make room" in ran.stderr
    assert load_checkpoint(path, "dsr")["weights"].sum() == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == ["dsr.pt", "dsr.pt.json"]


def test_must_without_a_state(tmp_path):
    with pytest.raises(TrainingError, match=r"resume: expected an interrupted training of these parameters at .*there is none"):
        open_progress(tmp_path / "02.state.pt", origin(), "must", 5.0, [])
    assert list(tmp_path.iterdir()) == []


def test_never_begins_anew(tmp_path):
    path = tmp_path / "02.state.pt"
    begun(path)
    progress = open_progress(path, origin(), "never", 5.0, [])
    assert not progress.resumed
    progress.begin()
    assert open_progress(path, origin(), "auto", 5.0, []).of("DSR") is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (origin(learning_rate=2.0), "learning_rate was 1.0 and is 2.0"),
        (origin(learning_rate=1.0) | {"inputs": {"manifest": {"file": "m", "sha256": "bb"}}}, "manifest was 'aa' and is 'bb'"),
    ],
)
def test_another_training_s_state_is_kept_and_not_gone_on_from(tmp_path, capsys, other, words):
    path = tmp_path / "02.state.pt"
    begun(path, learning_rate=1.0)
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=f"none that fits: {words}"):
        open_progress(path, other, "must", 5.0, [])
    assert path.read_bytes() == before
    progress = open_progress(path, other, "auto", 5.0, [])
    assert not progress.resumed and progress.of("DSR") is None
    assert f"not going on from 02.state.pt: {words}. It is kept as 02.state.previous.pt" in capsys.readouterr().out
    assert path.read_bytes() == before
    progress.begin()
    assert (tmp_path / "02.state.previous.pt").read_bytes() == before
    assert open_progress(path, other, "must", 5.0, []).resumed


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_state_that_cannot_be_read(tmp_path, resume):
    path = tmp_path / "02.state.pt"
    begun(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"resume: .*02\.state\.pt.*truncated.*Remove the file, or set resume to never"):
        open_progress(path, origin(), resume, 5.0, [])
    torch.save({"kind": "dsr"}, path)
    with pytest.raises(TrainingError, match=r"expected a training checkpoint of dsrkit, got kind 'dsr'.*set resume to never"):
        open_progress(path, origin(), resume, 5.0, [])
    torch.save({"kind": "training", "version": 99}, path)
    with pytest.raises(TrainingError, match=r"expected a training state of version 1, got 99, written by another dsrkit"):
        open_progress(path, origin(), resume, 5.0, [])
    assert not open_progress(path, origin(), "never", 5.0, []).resumed


def test_every_generator_is_restored():
    import random

    import numpy as np

    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(())), float(np.random.randn())

    np.random.randn()  # the second normal of a pair is kept in the state
    states = generator_states()
    first = draw()
    draw()
    restore_generators(states)
    assert draw() == first


# --- a full disk


@pytest.mark.parametrize("full_at", [4, 5, 6])
def test_a_full_disk(starting, monkeypatch, full_at):
    """The save that does not fit ends the training; what was saved before is whole, and the training can go on.

    Saves: the state's start, the first checkpoint, its state; then the first step's, the second checkpoint, and its state.
    """
    save, saves, measure, validations = torch.save, [], Validation.measure, []

    def measuring(*arguments):
        validations.append(1)
        return measure(*arguments) | {"psnr": len(validations)}  # each epoch is the best

    def saving(content, path):
        saves.append(Path(path).name)
        save(content, path)
        if len(saves) == full_at:
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    run, setting = Run("full"), starting("02_dsr_training", "full", select_by="psnr")
    monkeypatch.setattr(Validation, "measure", measuring)
    state_file = run.folder / "02_dsr_training.state.pt"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", saving)
        with pytest.raises(OSError, match="No space left"):
            train_dsr(setting)
    assert ("dsr.pt" in saves[-1]) == (full_at == 5)
    assert [path.name for path in run.folder.iterdir() if path.name.endswith(".tmp")] == []
    assert load_checkpoint(run.dsr, "dsr")["epoch"] == (1 if full_at == 6 else 0)
    assert load_checkpoint(state_file, "training")["training_state_dict"]["current"]["step"] == (0 if full_at == 4 else 1)
    train_dsr(setting)
    found = results(run)
    train_dsr(setting)  # it was finished, so this one begins anew
    assert_same_results(found, results(run))
