"""Who trained a recogniser how, and whether the control is its twin."""

from pathlib import Path

import torch

from dsrkit.evaluation.systems import System
from dsrkit.evaluation.trainings import trainings_table
from dsrkit.models.checkpoint import save_checkpoint
from dsrkit.training.teacher import fresh_edgeface


def saved(path: Path, epoch: int, **parameters) -> Path:
    about = {"provenance": {"parameters": parameters}, "epoch": epoch, "metrics": {"seconds": 90.0}}
    save_checkpoint(path, "edgeface", {"state_dict": {"weight": torch.zeros(1)}} | about)
    return path


def test_the_control_is_the_twin_of_what_was_trained_alike(tmp_path):
    alike = {"lambda_distill": 1.0, "lambda_arcface": 0.0, "blend_probability": 0.3}
    files = {
        "direct_feed_finetuned": saved(tmp_path / "edgeface_direct.pt", 7, mode="joint", **alike),
        "dsr_finetuned": saved(tmp_path / "edgeface.pt", 2, lambda_distill=1.0, lambda_arcface=0.1),
        "cycle_1": saved(tmp_path / "edgeface_cycle1.pt", 5, mode="joint", **alike),
        "cycle_2": saved(tmp_path / "edgeface_cycle2.pt", 6, mode="joint", **(alike | {"blend_probability": 0.5})),
    }
    original = tmp_path / "original.pt"
    edgeface = fresh_edgeface()
    systems = [System(row, edgeface, "bicubic", {"edgeface": original}) for row in ("direct_feed", "dsr")]
    assert trainings_table(systems).empty
    table = trainings_table([*systems, *(System(row, edgeface, "bicubic", {"edgeface": path}) for row, path in files.items())])
    twins = dict(zip(files, table["control is its twin"], strict=True))
    assert twins == {
        "direct_feed_finetuned": "–", "dsr_finetuned": "no: another recipe", "cycle_1": "yes", "cycle_2": "no: another recipe"
    }  # fmt: skip
    assert table.loc["cycle 1", ["trained in", "epoch kept", "minutes"]].tolist() == ["04_cyclic_cycle, joint", 5, "1.5"]
    assert table.loc["DSR + fine-tuned EdgeFace", "recipe"] == "lambda_distill 1, lambda_arcface 0.1"
    alone = trainings_table([*systems, System("cycle_1", edgeface, "bicubic", {"edgeface": files["cycle_1"]})])
    assert alone["control is its twin"].tolist() == ["–"]
