"""What an evaluation compares, and how: against slow re-derivations on made-up faces and networks that learnt nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from dsrkit import runs
from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import SyntheticSource
from dsrkit.data.splits import split_subjects
from dsrkit.evaluation import threshold_at_fpir
from dsrkit.evaluation.systems import PROTOCOLS, decisions, evaluate, frozen_threshold, open_systems, open_trial, rows_of
from dsrkit.models.checkpoint import keep_previous, save_checkpoint
from dsrkit.models.dsr import DSR, DSRConfig, dsr_content
from dsrkit.params import Evaluation
from dsrkit.recognition import embed, restore
from dsrkit.runs import Run, file_hash
from dsrkit.training.teacher import fresh_edgeface

CPU = torch.device("cpu")


def save_edgeface_of(path, dsr, seed):
    torch.manual_seed(seed)
    about = {"provenance": {"inputs": {"dsr": {"sha256": file_hash(dsr)}}}}
    save_checkpoint(path, "edgeface", {"backbone_state_dict": fresh_edgeface().state_dict(), "metrics": {}} | about)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, edgeface_path, dsr_path):
    """A run with a data set of 20 people, a DSR, a fine-tuned EdgeFace and one cycle."""
    root = tmp_path_factory.mktemp("evaluated")
    source = SyntheticSource(20, 4, 7)
    shares = split_subjects([face.subject for face in source.faces], 0.2, 0.5, 0)
    splits = {split: (source, [face for face in source.faces if face.subject in shares[split]]) for split in shares}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROOT", root)
        run = Run("tiny")
        migrate(splits, run.dataset, Migration(("16x16",), "bicubic-antialias", 0))
        torch.manual_seed(2)
        dsr = DSR(DSRConfig(base_channels=8, residual_blocks=1))
        torch.nn.init.normal_(dsr.conv_out.weight, std=0.02)
        save_checkpoint(run.dsr, "dsr", dsr_content(dsr) | {"provenance": {}})
        save_edgeface_of(run.edgeface, run.dsr, 3)
        parent = {"provenance": {"inputs": {"dsr": {"sha256": file_hash(run.dsr)}}}}
        save_checkpoint(run.cycle(1)[0], "dsr", dsr_content(dsr) | parent)
        save_edgeface_of(run.cycle(1)[1], run.dsr, 4)
    return root


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", folder)
    return Run("tiny")


@pytest.fixture
def params(edgeface_path):
    demo = Evaluation.read(REPOSITORY / "params" / "demo" / "05_evaluation.yaml")
    return demo.model_copy(update={"run": "tiny", "edgeface": str(edgeface_path), "bootstrap_draws": 20, "device": "cpu"})


@pytest.fixture
def evaluated(run, params):
    trial, systems = open_trial(run, params), open_systems(run, params, CPU)
    return trial, systems, list(evaluate(trial, systems, tta=False))


def test_every_system_of_the_run_stands_under_both_protocols(evaluated):
    trial, systems, outcomes = evaluated
    assert [system.row for system in systems] == ["hr", "direct_feed", "dsr", "dsr_finetuned", "cycle_1"]
    assert [outcome.protocol for outcome in outcomes] == list(PROTOCOLS) * len(systems)
    rows = rows_of(trial, outcomes)
    feed = next(row for row in rows if row["row"] == "direct_feed")
    dsr = next(row for row in rows if row["row"] == "dsr")
    assert not feed["difference_to_direct_feed"] and {"verification_accuracy", "rank1"} <= set(dsr["difference_to_direct_feed"])
    gain = dsr["difference_to_direct_feed"]["rank1"]["value"]
    assert gain == pytest.approx(dsr["rank1"] - feed["rank1"])
    assert dsr["interval"]["rank1"][0] <= dsr["rank1"] <= dsr["interval"]["rank1"][1]
    assert rows[0]["psnr"] is None and feed["psnr"] > 10


def test_scores_of_pairs_are_the_cosines_that_the_protocol_names(evaluated):
    trial, systems, outcomes = evaluated
    by_name = {(outcome.system.row, outcome.protocol): outcome for outcome in outcomes}
    dsr = systems[2]
    low, high = embed(restore(trial.faces.vlr, dsr.dsr), dsr.edgeface), embed(trial.faces.hr, dsr.edgeface)
    for protocol, left in (("both-lr", low), ("hr-lr", high)):
        slow = [float(np.dot(left[one], low[other])) for one, other in trial.pairs]
        assert by_name["dsr", protocol].verified["scores"] == pytest.approx(np.array(slow), abs=1e-5)
    upper = [float(np.dot(high[one], high[other])) for one, other in trial.pairs]
    assert by_name["hr", "hr-lr"].verified["scores"] == pytest.approx(np.array(upper), abs=1e-5)


def test_strangers_are_nobody_of_the_gallery(evaluated):
    trial, _, outcomes = evaluated
    labels = trial.faces.labels
    enrolled, strangers = set(labels[trial.gallery]), set(labels[trial.probes]) - set(labels[trial.gallery])
    assert len(trial.gallery) == len(enrolled) == 8 and len(strangers) == 2
    assert not set(trial.gallery) & set(trial.probes)
    ranks = outcomes[0].identified["rank"]
    assert ((ranks == 0) == np.isin(labels[trial.probes], list(strangers))).all()


def test_threshold_comes_from_validation_subjects_and_stays(evaluated, params, run):
    trial, systems, outcomes = evaluated
    known = embed(trial.validation.hr, systems[0].edgeface)
    odd = trial.validation.labels % 2 == 1
    gallery = [np.flatnonzero(trial.validation.labels == label) for label in (0, 2)]
    reached = frozen_threshold(trial, known, known)
    candidates = [threshold_at_fpir(known[odd], known[[one, other]], 0.1) for one in gallery[0] for other in gallery[1]]
    assert reached in candidates and outcomes[0].identified["threshold"] == reached
    fixed = open_trial(run, params.model_copy(update={"threshold_fpir": 0.0, "threshold": 0.42}))
    assert frozen_threshold(fixed, known, known) == 0.42


def test_faces_that_choose_the_threshold_are_not_judged_by_it(run, params):
    with pytest.raises(ValueError, match="threshold_fpir: expected 0 for split val"):
        open_trial(run, params.model_copy(update={"split": "val"}))


def test_decisions_name_every_probe_of_every_system(evaluated):
    trial, _, outcomes = evaluated
    table = decisions(trial, outcomes)
    assert len(table) == len(trial.probes) * len(outcomes)
    assert set(table.answer) <= {"right", "wrong", "unknown"}
    assert (table[table.answer == "unknown"].score < table[table.answer == "unknown"].threshold).all()
    assert (table[table.answer == "right"]["rank"] == 1).all()


def test_test_time_augmentation_changes_the_embeddings(evaluated, run, params):
    trial, systems, outcomes = evaluated
    flipped = next(evaluate(trial, systems[:1], tta=True))
    assert not np.allclose(flipped.embeddings, outcomes[0].embeddings)


def test_a_limited_look_takes_the_first_faces(run, params):
    assert len(open_trial(run, params.model_copy(update={"limit": 32})).faces) == 32


def test_a_run_without_a_dsr_says_so(root, params):
    with pytest.raises(FileNotFoundError, match="02_dsr_training first"):
        open_systems(Run("empty"), params, CPU)


def test_an_edgeface_made_for_another_dsr_is_refused(run, params, dsr_path):
    save_edgeface_of(run.edgeface, dsr_path, 5)
    with pytest.raises(ValueError, match="made for another DSR"):
        open_systems(run, params, CPU)
    keep_previous(run.edgeface)
    assert [system.row for system in open_systems(run, params, CPU)] == ["hr", "direct_feed", "dsr", "cycle_1"]
    save_edgeface_of(run.edgeface, run.dsr, 3)
