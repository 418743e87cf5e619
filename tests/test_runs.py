"""Paths, provenance, and files that are never half written."""

import hashlib
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from dsrkit import runs
from dsrkit.runs import Run, atomic_path, banner, file_hash, pick_device, pick_precision, provenance, resolve, seed_everything


def test_the_files_of_a_run(root):
    run = Run("vlr32")
    folder = root / "outputs" / "vlr32"
    assert (run.folder, run.dataset, run.dsr) == (folder, folder / "dataset", folder / "dsr.pt")
    assert (run.edgeface, run.metrics) == (folder / "edgeface.pt", folder / "metrics.json")
    assert run.cycle(2) == (folder / "dsr_cycle2.pt", folder / "edgeface_cycle2.pt")
    assert not folder.exists()  # asking for a path makes nothing
    assert run.figure("roc.pdf").parent.is_dir()


def test_a_run_lies_in_the_repository_unless_told_otherwise(tmp_path):
    assert Run("demo").folder == runs.ROOT / "outputs" / "demo"
    assert Run("demo", tmp_path).folder == tmp_path / "outputs" / "demo"


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-p", "two words", "a\n"])
def test_a_run_s_name_is_a_plain_folder_name(name):
    with pytest.raises(ValueError, match=r"got .*Choose a name such as 'vlr32'"):
        Run(name)


def test_resolve(root, monkeypatch):
    (root / "here").mkdir()
    monkeypatch.setenv("SOME_FACES", str(root / "here"))
    assert resolve("", root / "here", "x") == root / "here"
    assert resolve("here", Path("nowhere"), "x") == root / "here"
    assert resolve(str(root / "here"), Path("nowhere"), "x") == root / "here"
    assert resolve("$SOME_FACES", Path("nowhere"), "x") == root / "here"
    assert resolve("${SOME_FACES}", Path("nowhere"), "x") == root / "here"
    monkeypatch.setenv("HOME", str(root))
    assert resolve("~/here", Path("nowhere"), "x") == root / "here"


@pytest.mark.parametrize("path", ["$NOT_SET_ANYWHERE/x.pt", "${NOT_SET_ANYWHERE}"])
def test_resolve_names_a_variable_that_is_not_set(root, monkeypatch, path):
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(FileNotFoundError, match=r"weights \(edgeface\): .*NOT_SET_ANYWHERE is not set.*export NOT_SET"):
        resolve(path, root, "weights (edgeface)")


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_resolve_says_what_was_looked_for_and_where(root, path):
    with pytest.raises(FileNotFoundError, match=rf"data set: expected it at {root}/nowhere"):
        resolve(path, root / "nowhere", "data set")


def test_seeding_repeats_every_generator():
    def draw():
        seed_everything(7)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw() == draw()
    seed_everything(8)
    assert random.random() != draw()[0]


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match=r"expected auto, cpu, cuda, .*got 'gpu'"):
        pick_device("gpu")


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True, "avx512_bf16": False}, "fp32"), ({}, "fp32")],
)
def test_bf16_where_a_cpu_computes_in_it(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert pick_precision("auto", torch.device("cpu")) == expected
    assert [pick_precision(name, torch.device("cpu")) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_bf16_where_a_gpu_computes_in_it(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has and not including_emulation)
    assert pick_precision("auto", torch.device("cuda", 0)) == expected


def test_a_torch_that_does_not_know_the_cpu(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert pick_precision("auto", torch.device("cpu")) == "fp32"


def test_auto_prefers_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device() == torch.device("mps")


def test_interactive_only_under_a_jupyter_server(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not runs.is_interactive()
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/explore.ipynb")
    assert runs.is_interactive()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file.txt"]


def test_file_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_commit_outside_and_inside_a_checkout(root, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert runs.commit() == "unknown"
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (root / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert runs.commit() == head[:12]
    (root / "file").write_text("2")
    assert runs.commit() == head[:12] + "+changes"


def test_provenance_and_its_banner(tmp_path):
    (tmp_path / "dsr.pt").write_bytes(b"weights")
    about = provenance({"run": "demo", "seed": 3}, "cpu", dsr=tmp_path / "dsr.pt")
    assert about["parameters"] == {"run": "demo", "seed": 3}
    assert about["inputs"] == {"dsr": {"file": "dsr.pt", "sha256": hashlib.sha256(b"weights").hexdigest()}}
    assert about["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert str(tmp_path) not in str(about)  # folders of one machine mean nothing on another
    for word in ("run demo", "cpu", about["commit"], "timm"):
        assert word in banner(about)


def test_each_process_of_a_launcher_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert pick_device("cuda") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"expected auto or cuda for several processes, got 'cuda:0'"):
        pick_device("cuda:0")
