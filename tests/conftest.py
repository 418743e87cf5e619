"""A tiny data set of made-up faces, a fresh EdgeFace, a run in a folder of its own, and the user's real files by variable."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
import yaml

from dsrkit import runs
from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import SyntheticSource
from dsrkit.data.splits import split_subjects
from dsrkit.models.checkpoint import read_weights, save_checkpoint
from dsrkit.models.dsr import DSR, DSRConfig, dsr_content
from dsrkit.params import STAGES
from dsrkit.training.teacher import fresh_edgeface

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that of several processes none works on one of them at the end, alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def given_file(variable: str) -> Path:
    """The path that an environment variable names; the test is skipped where it is not set."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set (path of the real file)")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def real_edgeface() -> Path:
    return given_file("DSRKIT_EDGEFACE")


@pytest.fixture(scope="session")
def lfw() -> Path:
    return given_file("DSRKIT_LFW")


@pytest.fixture(scope="session")
def lfw_pairs() -> Path:
    return given_file("DSRKIT_LFW_PAIRS")


@pytest.fixture(scope="session")
def real_vgg() -> Path:
    return given_file("DSRKIT_VGG")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a DSR's, an EdgeFace's or a plain file."""
    content = read_weights(path)
    return content.get("state_dict", content.get("backbone_state_dict", content))


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts agree to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """How far apart two state dicts are: the norm of the difference over the norm of the first, over all weights."""
    assert one.keys() == other.keys()
    apart = sum(float((one[key].double() - other[key].double()).square().sum()) for key in one)
    return (apart / sum(float(value.double().square().sum()) for value in one.values())) ** 0.5


def made_up_splits(subjects: int = 12, images: int = 4, seed: int = 0):
    """Splits of made-up faces: half the subjects to train on, a quarter each to validate and to test."""
    source = SyntheticSource(subjects, images, seed)
    shares = split_subjects([face.subject for face in source.faces], 0.25, 0.25, seed)
    return {split: (source, [face for face in source.faces if face.subject in shares[split]]) for split in shares}


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """12 made-up people × 4 images at 16x16 and 14x16; 6 people train, 3 validate, 3 test."""
    dataset = tmp_path_factory.mktemp("faces") / "dataset"
    migrate(made_up_splits(), dataset, Migration(("16x16", "14x16"), "bicubic-antialias", 0))
    return dataset


@pytest.fixture(scope="session")
def realistic_dataset(tmp_path_factory) -> Path:
    """The same people, degraded by the realistic chain."""
    dataset = tmp_path_factory.mktemp("realistic") / "dataset"
    migrate(made_up_splits(), dataset, Migration(("16x16", "14x16"), "realistic", 5))
    return dataset


@pytest.fixture(scope="session")
def edgeface_path(tmp_path_factory) -> Path:
    """A file laid out like the official float one: the state dict of an EdgeFace that learned nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "edgeface_xxs.pt"
    torch.save(fresh_edgeface().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def dsr_path(tmp_path_factory) -> Path:
    """A tiny DSR with every weight drawn at random, so that it is not bicubic."""
    torch.manual_seed(1)
    dsr = DSR(DSRConfig(base_channels=8, residual_blocks=1))
    torch.nn.init.normal_(dsr.conv_out.weight, std=0.02)
    path = tmp_path_factory.mktemp("weights") / "dsr.pt"
    save_checkpoint(path, "dsr", dsr_content(dsr) | {"epoch": 3, "metrics": {}, "provenance": {}})
    return path


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Runs write below here, not into the repository."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def stage_params(tiny_dataset, edgeface_path):
    """Make a stage's settings from those of the demo: tiny, on the tiny data set, with the changes given."""

    def make(stage: str, **changes):
        values = yaml.safe_load((REPOSITORY / "params" / "demo" / f"{stage}.yaml").read_text())
        small = {
            "run": "tiny", "device": "cpu", "dataset": str(tiny_dataset), "edgeface": str(edgeface_path), "batch_size": 8,
            "finetune_batch_size": 8, "steps_per_epoch": 2, "epochs": 1, "epochs_cycle2": 1, "stage1_epochs": 1,
            "stage2_epochs": 1, "base_channels": 8, "residual_blocks": 1, "warmup_epochs": 0,
        }  # fmt: skip
        kind = STAGES[stage]
        return kind.check(values | {name: value for name, value in small.items() if name in kind.model_fields} | changes)

    return make


def quoted(text: str, name: str) -> str:
    """What stands between the two marks of a table in a document."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)\n<!-- /{re.escape(name)} -->", text, re.DOTALL)
    assert found, f"there is no table <!-- {name} -->"
    return found[1].strip()
