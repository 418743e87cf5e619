"""What the fine-tune may be told to do: a control, low ranks, bicubic faces, other heads, and faces restored only once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import same_weights

from dsrkit.models import load_dsr, load_edgeface
from dsrkit.models.checkpoint import load_checkpoint, read_weights
from dsrkit.models.lora import add_lora
from dsrkit.recognition import restore
from dsrkit.runs import Run, file_hash
from dsrkit.training import open_setting, train_edgeface
from dsrkit.training.edgeface import backbone_groups
from dsrkit.training.restored import restored_faces


@pytest.fixture
def finetuned(root, stage_params, dsr_path):
    """Fine-tune with the parameters given; the run and the fit."""

    def tune(**changes):
        changes = {"dsr": str(dsr_path), "control": False, "select_by": "identity_similarity"} | changes
        done = train_edgeface(open_setting(stage_params("03_edgeface_finetune", **changes)))
        return Run(changes.get("run", "tiny")), done

    return tune


def last_weights(run, title="EdgeFace"):
    """Where a training ended, whether or not its last epoch was the best."""
    state = load_checkpoint(run.folder / "03_edgeface_finetune.state.pt", "training")["training_state_dict"]
    return state["ended"][title]["stepper"]["trained"]


def test_the_control_is_the_same_on_bicubic_faces(finetuned, monkeypatch, dsr_path):
    from dsrkit.training import edgeface

    faces = {}

    def remembered(setting, split, given, dsr):
        faces[split, dsr] = restored_faces(setting, split, given, dsr)
        faces[split] = given
        return faces[split, dsr]

    monkeypatch.setattr(edgeface, "restored_faces", remembered)
    run, done = finetuned(control=True, lambda_arcface=0.1)
    for split in ("train", "val"):
        assert np.array_equal(faces[split, None], restore(faces[split].vlr, None))
        assert np.array_equal(faces[split, Path(dsr_path)], restore(faces[split].vlr, load_dsr(dsr_path)))
        assert not np.array_equal(faces[split, None], faces[split, Path(dsr_path)])
    about = {path: json.loads(path.with_suffix(".pt.json").read_text()) for path in (run.edgeface, run.edgeface_direct)}
    assert set(about[run.edgeface]["provenance"]["inputs"]) == {"manifest", "dataset", "original_edgeface", "dsr"}
    assert set(about[run.edgeface_direct]["provenance"]["inputs"]) == {"manifest", "dataset", "original_edgeface"}
    assert about[run.edgeface]["subject_to_id"] == about[run.edgeface_direct]["subject_to_id"]
    assert not same_weights(last_weights(run), last_weights(run, "EdgeFace, no DSR"))
    assert load_edgeface(run.edgeface_direct).variant == "edgeface_xxs"
    finetuned(run="without", lambda_arcface=0.1)
    assert same_weights(last_weights(run), last_weights(Run("without"))) and not Run("without").edgeface_direct.exists()
    assert done.history[0]["identity_similarity"] != about[run.edgeface_direct]["metrics"]["identity_similarity"]


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_share_of_the_original_is_kept(finetuned, edgeface_path, lora_rank):
    """What is saved lies on the line between the original and what was trained, and is what was validated."""
    rates = {"lora_rank": lora_rank, "backbone_lr": 0.01, "steps_per_epoch": 4, "select_by": "auc"}
    whole, _ = finetuned(run="whole", **rates)
    kept, done = finetuned(run="kept", original_share=0.25, **rates)
    assert same_weights(last_weights(whole), last_weights(kept))  # training itself is the same
    if done.improved:
        original, saved = read_weights(edgeface_path), load_checkpoint(kept.edgeface, "edgeface")["backbone_state_dict"]
        trained = load_checkpoint(whole.edgeface, "edgeface")["backbone_state_dict"]
        for name, weight in saved.items():
            assert torch.allclose(weight, 0.75 * trained[name] + 0.25 * original[name], atol=1e-6), name
    _, all_of_it = finetuned(run="all", original_share=1.0, **rates)
    assert all(record["hr_similarity"] == pytest.approx(1, abs=1e-5) for record in all_of_it.history)
    assert done.history[-1]["hr_similarity"] < 1 - 1e-4


def test_later_parts_learn_at_a_share_of_the_rate(finetuned, edgeface_path):
    """So small a share that nothing after the stem moves."""
    run, _ = finetuned(stage_decay=1e-30, backbone_lr=0.01, weight_decay=0.0, steps_per_epoch=4)
    before, ended = read_weights(edgeface_path), last_weights(run)
    moved = {name for name in before if (before[name] - ended[f"0.{name}"]).abs().max() > 1e-20}
    assert moved and all(name.startswith("model.stem.") for name in moved)


def test_every_weight_has_one_rate(edgeface_path):
    edgeface = load_edgeface(edgeface_path).requires_grad_(True)
    whole = {id(weight) for weight in edgeface.parameters()}
    (alike,) = backbone_groups(edgeface, 0.5, 1.0)
    falling = backbone_groups(edgeface, 0.5, 0.5)
    assert alike["lr"] == 0.5 and [group["lr"] for group in falling] == [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625]
    for groups in ([alike], falling):
        given = [id(weight) for group in groups for weight in group["params"]]
        assert set(given) == whole and len(given) == len(whole)
    assert {id(weight) for weight in edgeface.model.head.parameters()} <= {id(weight) for weight in falling[-1]["params"]}
    edgeface.requires_grad_(False)
    low_rank = add_lora(edgeface, 2)
    groups = backbone_groups(edgeface, 0.5, 0.5)
    assert {id(weight) for group in groups for weight in group["params"]} == {id(weight) for weight in low_rank}
    assert groups[-1]["lr"] == 0.015625  # a part without any still counts


def test_low_ranks_leave_an_ordinary_recogniser(finetuned, edgeface_path):
    run, done = finetuned(lora_rank=2, backbone_lr=0.01, steps_per_epoch=4)
    assert done.improved or done.history[-1]["identity_similarity"] != done.history[0]["identity_similarity"]
    before, ended = read_weights(edgeface_path), last_weights(run)
    assert sum("parametrizations" in name for name in ended) > 50
    for name, weight in ended.items():  # all but the updates stood still
        if not name.endswith((".up", ".down")):
            assert torch.equal(weight, before[name.removeprefix("0.").replace("parametrizations.weight.original", "weight")]), (
                name
            )
    saved = load_checkpoint(run.edgeface, "edgeface")["backbone_state_dict"]
    assert saved.keys() == before.keys() and load_edgeface(run.edgeface).variant == "edgeface_xxs"
    changed = {name for name in saved if not torch.equal(saved[name], before[name])}
    assert all(name.endswith(".weight") for name in changed)
    assert all(before[name].ndim == 2 or before[name].shape[2:] == (1, 1) for name in changed)


def test_bicubic_faces_may_take_part(finetuned):
    _, done = finetuned(lambda_direct=0.5, direct_fraction=0.5)
    assert 0 < done.history[1]["loss_direct"] <= 1
    _, without = finetuned(run="without", lambda_direct=0.5, direct_fraction=0.0)
    assert "loss_direct" not in without.history[1]


@pytest.mark.parametrize(("kind", "scale"), [("arcface", 64.0), ("cosface", 16.0), ("adaface", 64.0), ("arcface", 0.0)])
def test_each_head_learns(finetuned, kind, scale):
    changes = {"margin_head": kind, "arcface_scale": scale, "arcface_margin": 0.3, "lambda_arcface": 0.1}
    run, done = finetuned(stage1_epochs=1, **changes)
    assert [record["epoch"] for record in done.history] == [-1, 0, 1]
    assert all(0 < record["loss_margin"] < 10 for record in done.history[1:])
    head = load_checkpoint(run.edgeface, "edgeface")["arcface_state_dict"]
    assert head["weight"].shape == (6, 512)
    assert ("length_mean" in head) == (kind == "adaface")
    assert {name for name in done.history[-1] if name.startswith("gradient_")} == {
        f"gradient_{name}" for name in ("margin", "distill", "hr")
    }


# --- faces restored once


def test_faces_are_restored_once(root, stage_params, monkeypatch, tmp_path, dsr_path):
    from dsrkit.training import restored

    setting = open_setting(stage_params("03_edgeface_finetune", dsr=str(dsr_path)))

    def faces_of(dsr):
        for split, faces in (("train", setting.train), ("val", setting.validation.faces)):
            found = restored_faces(setting, split, faces, dsr)
            assert found.shape == (len(faces), 112, 112, 3) and found.dtype == np.uint8 and not found.flags.writeable
        return {path.name: path.stat().st_mtime_ns for path in sorted((setting.run.folder / "cache").iterdir())}

    faces_of(dsr_path)
    first = faces_of(None)
    manifest = "-".join(file_hash(setting.inputs[role])[:16] for role in ("manifest", "dataset"))
    old = file_hash(dsr_path)[:16]
    assert list(first) == [
        f"train-16x16-bicubic-{manifest}.npy", f"train-16x16-dsr-{old}-{manifest}.npy",
        f"val-16x16-bicubic-{manifest}.npy", f"val-16x16-dsr-{old}-{manifest}.npy",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(restored, "restore", lambda *given, **more: pytest.fail("expected the faces to be there"))
        assert faces_of(dsr_path) == faces_of(None) == first
    other = tmp_path / "other.pt"
    content = load_checkpoint(dsr_path, "dsr")
    content["state_dict"]["conv_out.bias"] += 0.01
    torch.save(content, other)
    second = faces_of(other)
    assert {name for name in second if old in name} == set()
    assert second.keys() - first.keys() == {
        f"{split}-16x16-dsr-{file_hash(other)[:16]}-{manifest}.npy" for split in ("train", "val")
    }
    assert all(second[name] == first[name] for name in first if "bicubic" in name)


def test_an_interrupted_restoring_leaves_nothing(root, stage_params, dsr_path, monkeypatch):
    from dsrkit.training import restored

    setting = open_setting(stage_params("03_edgeface_finetune", dsr=str(dsr_path)))

    def interrupted(*given, into):
        into[0] = 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restored, "restore", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restored_faces(setting, "val", setting.validation.faces, dsr_path)
    assert list((setting.run.folder / "cache").iterdir()) == []
    found = restored_faces(setting, "val", setting.validation.faces, dsr_path)
    assert np.array_equal(found, restore(setting.validation.faces.vlr, load_dsr(dsr_path)))
    shutil.rmtree(setting.run.folder / "cache")
