"""A tiny run for the desk: made-up people, networks that learnt nothing but to differ, an evaluation's parameters in YAML."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from conftest import REPOSITORY

from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import SyntheticSource
from dsrkit.data.splits import split_subjects
from dsrkit.models.checkpoint import save_checkpoint
from dsrkit.models.dsr import DSR, DSRConfig, dsr_content
from dsrkit.runs import Run


def save_dsr(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    dsr = DSR(DSRConfig(base_channels=8, residual_blocks=1))
    torch.nn.init.normal_(dsr.conv_out.weight, std=0.02)
    save_checkpoint(path, "dsr", dsr_content(dsr) | {"provenance": {}})


def save_parameters(run: Run, **changes: object) -> None:
    """``params/<run>/05_evaluation.yaml``: the demo's, whose EdgeFace knows made-up faces."""
    values = yaml.safe_load((REPOSITORY / "params" / "demo" / "05_evaluation.yaml").read_text())
    file = run.root / "params" / run.name / "05_evaluation.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values | {"run": run.name, "device": "cpu"} | changes))


def make_run(root: Path, name: str = "tiny", seed: int = 2, subjects: int = 20) -> Run:
    """A run of 16x16 and 14x16 faces: half its people to test on, a fifth to validate."""
    run = Run(name, root)
    source = SyntheticSource(subjects, 4, seed)
    shares = split_subjects([face.subject for face in source.faces], 0.2, 0.5, 0)
    splits = {split: (source, [face for face in source.faces if face.subject in shares[split]]) for split in shares}
    migrate(splits, run.dataset, Migration(("16x16", "14x16"), "bicubic-antialias", 0))
    save_dsr(run.dsr, seed)
    save_parameters(run)
    return run
