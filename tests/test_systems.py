"""What an evaluation compares, and how: against slow re-derivations on made-up faces and networks that learnt nothing."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY

from dsrkit import metrics
from dsrkit.data.degrade import as_tensor, to_8_bits
from dsrkit.data.faces import open_split
from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import SyntheticSource
from dsrkit.data.splits import split_subjects
from dsrkit.evaluation import evaluation_row, tables, verification
from dsrkit.evaluation import systems as systems_module
from dsrkit.evaluation.material import pairs_to_judge
from dsrkit.evaluation.rows import decisions, pair_decisions, rows_of
from dsrkit.evaluation.systems import (
    check_control,
    distinct_restorers,
    ensemble_members,
    judge_about,
    judge_systems,
    open_systems,
)
from dsrkit.evaluation.threshold import threshold_for_gallery
from dsrkit.evaluation.trial import PROTOCOLS, evaluate, frozen_threshold, open_trial, threshold_sentence
from dsrkit.models.checkpoint import copy_checkpoint, keep_previous, save_checkpoint
from dsrkit.models.dsr import DSR, DSRConfig, dsr_content, load_dsr
from dsrkit.models.edgeface import load_edgeface
from dsrkit.params import Evaluation
from dsrkit.recognition import embed, restore
from dsrkit.runs import Run, file_hash
from dsrkit.training.teacher import fresh_edgeface

CPU = torch.device("cpu")


def save_edgeface_of(path, dsr, seed):
    """An EdgeFace that learnt nothing and names ``dsr`` as the one whose faces it saw; None: it saw none's."""
    torch.manual_seed(seed)
    inputs = {"dsr": {"file": dsr.name, "sha256": file_hash(dsr)}} if dsr else {}
    about = {"provenance": {"inputs": inputs}}
    save_checkpoint(path, "edgeface", {"backbone_state_dict": fresh_edgeface().state_dict(), "metrics": {}} | about)


def save_dsr(path, seed, provenance=None):
    torch.manual_seed(seed)
    dsr = DSR(DSRConfig(base_channels=8, residual_blocks=1))
    torch.nn.init.normal_(dsr.conv_out.weight, std=0.02)
    save_checkpoint(path, "dsr", dsr_content(dsr) | {"provenance": provenance or {}})


def save_run(run):
    """A DSR, a fine-tuned EdgeFace and one cycle."""
    save_dsr(run.dsr, 2)
    save_edgeface_of(run.edgeface, run.dsr, 3)
    save_dsr(run.cycle(1)[0], 5, {"inputs": {"dsr": {"sha256": file_hash(run.dsr)}}})
    save_edgeface_of(run.cycle(1)[1], run.dsr, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a data set of 20 people, a DSR, a fine-tuned EdgeFace and one cycle."""
    run = Run("tiny", tmp_path_factory.mktemp("evaluated"))
    source = SyntheticSource(20, 4, 7)
    shares = split_subjects([face.subject for face in source.faces], 0.2, 0.5, 0)
    splits = {split: (source, [face for face in source.faces if face.subject in shares[split]]) for split in shares}
    migrate(splits, run.dataset, Migration(("16x16",), "bicubic-antialias", 0))
    save_run(run)
    return run


@pytest.fixture(scope="module")
def whole(run):
    """Another run on the same faces, with a control and an ensemble of three besides."""
    whole = Run("whole", run.root)
    save_run(whole)
    save_edgeface_of(whole.edgeface_direct, None, 5)
    for number in (2, 3):
        save_dsr(whole.dsr_member(number), 10 + number)
    return whole


@pytest.fixture(scope="module")
def params(edgeface_path, run):
    demo = Evaluation.read(REPOSITORY / "params" / "demo" / "05_evaluation.yaml")
    here = {"run": "tiny", "edgeface": str(edgeface_path), "dataset": str(run.dataset), "bootstrap_draws": 20, "device": "cpu"}
    return demo.model_copy(update=here)


@pytest.fixture(scope="module")
def evaluated(run, params):
    trial, systems = open_trial(run, params), open_systems(run, params, CPU)
    return trial, systems, list(evaluate(trial, systems))


@pytest.fixture(scope="module")
def judge_path(tmp_path_factory):
    torch.manual_seed(99)
    path = tmp_path_factory.mktemp("judge") / "edgeface_judge.pt"
    torch.save(fresh_edgeface().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def compared(whole, params, judge_path):
    """Every kind of row: control, ensemble, twins with TTA, and a judge's."""
    asked = params.model_copy(update={"tta": True, "judge": str(judge_path)})
    trial, systems = open_trial(whole, asked), open_systems(whole, asked, CPU)
    judges = judge_systems(asked, systems, CPU)
    outcomes = list(evaluate(trial, [*systems, *judges]))
    return trial, systems, judges, outcomes, rows_of(trial, outcomes)


def pick(outcomes, row, protocol="both-lr", recognizer="run"):
    return next(one for one in outcomes if (one.system.row, one.protocol, one.system.recognizer) == (row, protocol, recognizer))


def pick_row(rows, row, protocol="both-lr", recognizer="run"):
    return next(one for one in rows if (one["row"], one["protocol"], one["recognizer"]) == (row, protocol, recognizer))


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
    low, high = embed(restore(trial.faces.vlr, dsr.restorer), dsr.edgeface), embed(trial.faces.hr, dsr.edgeface)
    for protocol, left in (("both-lr", low), ("hr-lr", high)):
        slow = [float(np.dot(left[one], low[other])) for one, other in trial.pairs]
        assert by_name["dsr", protocol].verified["scores"] == pytest.approx(np.array(slow), abs=1e-5)
    upper = [float(np.dot(high[one], high[other])) for one, other in trial.pairs]
    assert by_name["hr", "hr-lr"].verified["scores"] == pytest.approx(np.array(upper), abs=1e-5)


def test_hr_faces_may_be_left_to_the_original(evaluated, params, run, judge_path):
    asked = params.model_copy(update={"hr_edgeface": "original", "judge": str(judge_path)})
    trial, systems = open_trial(run, asked), open_systems(run, asked, CPU)
    original, cycle = systems[0].edgeface, systems[4]
    assert cycle.row == "cycle_1" and cycle.files["hr_edgeface"] == systems[0].files["edgeface"]
    assert "hr_edgeface" not in systems[2].files  # the DSR's row has the original anyway
    judges = judge_systems(asked, systems, CPU)
    outcomes = list(evaluate(trial, [*systems, *judges]))
    low, high = embed(restore(trial.faces.vlr, cycle.restorer), cycle.edgeface), embed(trial.faces.hr, original)
    expected = [float(np.dot(high[one], low[other])) for one, other in trial.pairs]
    mixed = pick(outcomes, "cycle_1", "hr-lr")
    assert mixed.verified["scores"] == pytest.approx(np.array(expected), abs=1e-5)
    assert mixed.hr_verified["accuracy"] == pick(outcomes, "hr").verified["accuracy"]
    own = pick(evaluated[2], "cycle_1")
    assert np.array_equal(pick(outcomes, "cycle_1").verified["scores"], own.verified["scores"])
    assert not np.array_equal(own.hr_embeddings, mixed.hr_embeddings)
    seen_by_judge = pick(outcomes, "cycle_1", "hr-lr", "judge")
    assert np.allclose(seen_by_judge.hr_embeddings, embed(trial.faces.hr, judges[0].edgeface), atol=1e-5)
    assert "hr_edgeface" not in seen_by_judge.system.files


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
    reached = frozen_threshold(trial, known, known)
    again = threshold_for_gallery(known, known, trial.validation.labels, 0.1, gallery=8, draws=trial.params.bootstrap_draws)
    assert reached == again and outcomes[0].identified["threshold"] == pytest.approx(reached.value, abs=1e-6)
    assert outcomes[0].identified["threshold_interval"] == pytest.approx(reached.interval, abs=1e-6)
    fixed = open_trial(run, params.model_copy(update={"threshold_fpir": 0.0, "threshold": 0.42}))
    assert frozen_threshold(fixed, known, known).value == 0.42
    assert threshold_sentence(fixed, outcomes[0]) == "Threshold of identification 0.42, as given."


def test_the_page_says_what_the_threshold_rests_on(evaluated):
    trial, _, (outcome, *_) = evaluated
    labels = trial.validation.labels
    impostors = sum(one != other for one, other in itertools.combinations(labels, 2))
    above = (1 - 0.9 ** (1 / 8)) * impostors
    stated = "Threshold of identification for 10 % of strangers named in a gallery of 8 images"
    assert threshold_sentence(trial, outcome) == f"{stated}; validation comparisons of strangers above it: {int(above)}."
    few = replace(outcome, identified=outcome.identified | {"threshold_carried": 0.4})
    assert threshold_sentence(trial, few).startswith(
        f"{stated}: not one validation comparison of strangers may lie above it (0.4)"
    )


def test_faces_that_choose_the_threshold_are_not_judged_by_it(run, params):
    with pytest.raises(ValueError, match="threshold_fpir: expected 0 for split val"):
        open_trial(run, params.model_copy(update={"split": "val"}))


def test_validation_faces_that_are_judged_are_restored_once(run, params, monkeypatch, capsys):
    """They choose no threshold and fit no probability for themselves."""
    asked = params.model_copy(update={"split": "val", "threshold_fpir": 0.0, "threshold": 0.4})
    trial, restored = open_trial(run, asked), []
    monkeypatch.setattr(systems_module, "restore", lambda vlr, dsr: restored.append(len(vlr)) or restore(vlr, dsr))
    outcomes = list(evaluate(trial, open_systems(run, asked, CPU)))
    faces = len(open_split(run.dataset, "val", "16x16"))
    assert Counter(restored) == {faces: 3, 0: 3}  # bicubic, the DSR, the cycle's DSR
    told = capsys.readouterr()
    assert f"\n4 of 4 versions of {faces} faces restored and embedded, " in told.err and not told.out
    assert {one.identified["threshold"] for one in outcomes} == {0.4}
    assert all("probability" not in one.verified for one in outcomes)


def test_decisions_name_every_probe_of_every_system(evaluated):
    trial, _, outcomes = evaluated
    table = decisions(trial, outcomes)
    assert len(table) == len(trial.probes) * len(outcomes)
    assert set(table.answer) <= {"right", "wrong", "unknown"}
    assert (table[table.answer == "unknown"].score < table[table.answer == "unknown"].threshold).all()
    assert (table[table.answer == "right"]["rank"] == 1).all()


def test_a_decision_says_who_was_nearest_and_by_how_much(evaluated):
    trial, _, outcomes = evaluated
    table = decisions(trial, outcomes)
    for outcome in outcomes[2:8:3]:
        part = table[(table.row == outcome.system.row) & (table.protocol == outcome.protocol)]
        assert part.probe.tolist() == [trial.faces.names[probe] for probe in trial.probes]
        enrolled = {trial.faces.subjects[face] for face in trial.gallery}
        assert part.enrolled.tolist() == [subject in enrolled for subject in part.subject]
        assert ((part.answer == "right") == ((part.nearest == part.subject) & (part.score >= part.threshold))).all()
        assert (part.runner_up != part.nearest).all() and (part.runner_up_score <= part.score).all()
        own = part[part.enrolled]
        assert (own.own_score <= own.score).all() and (own[own["rank"] == 1].own_score == own[own["rank"] == 1].score).all()
        assert part[~part.enrolled].own_score.isna().all() and (part[~part.enrolled]["rank"] == 0).all()


def test_pair_decisions_name_every_pair_of_every_system(evaluated):
    trial, _, outcomes = evaluated
    table = pair_decisions(trial, outcomes)
    assert len(table) == len(trial.pairs) * len(outcomes)
    assert ((table.left_subject == table.right_subject) == table.same).all()
    assert ((table.score >= table.threshold) == table.accepted).all()
    assert ((table.accepted == table.same) == table.decided_rightly).all()
    assert table.probability.between(0, 1).all()
    accuracy = table[(table.row == "dsr") & (table.protocol == "hr-lr")].groupby("fold").decided_rightly.mean().mean()
    assert accuracy == pytest.approx(pick(outcomes, "dsr", "hr-lr").verified["accuracy"])


def test_probabilities_come_from_validation_pairs(evaluated):
    trial, _, outcomes = evaluated
    outcome = pick(outcomes, "dsr")
    pairs, same = trial.validation_pairs
    low = embed(restore(trial.validation.vlr, outcome.system.restorer), outcome.system.edgeface)
    fit = metrics.fit_probability(np.array([float(low[one] @ low[other]) for one, other in pairs]), same)
    assert outcome.verified["probability_fit"] == pytest.approx(fit, rel=1e-3)
    assert outcome.verified["probability"] == pytest.approx(metrics.probability(outcome.verified["scores"], *fit), abs=1e-3)


def test_a_gallery_of_both_adds_the_embeddings(evaluated):
    trial, _, outcomes = evaluated
    outcome = pick(outcomes, "dsr", "hr+lr")
    both = outcome.embeddings + outcome.hr_embeddings
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    slow = [float(both[one] @ outcome.embeddings[other]) for one, other in trial.pairs]
    assert outcome.verified["scores"] == pytest.approx(np.array(slow), abs=1e-5)
    labels = trial.faces.labels
    best = (outcome.embeddings[trial.probes] @ both[trial.gallery].T).argmax(1)
    right = labels[trial.gallery][best] == labels[trial.probes]
    assert (outcome.identified["rank"] == 1).tolist() == right.tolist()


FIGURES = (
    "rank1", "rank5", "rank10", "rank20", "map", "unknown_rate", "correct_rate", "false_positive_identification_rate",
    "verification_accuracy", "auc", "eer", "d_prime", "tar_at_far_0.1", "genuine_mean", "impostor_mean", "brier_score",
    "hr_verification_accuracy", "psnr", "ssim", "similarity_to_true", "similarity_to_impostor", "nearer_to_impostor",
)  # fmt: skip


def test_every_figure_has_an_interval_and_a_paired_difference(evaluated):
    trial, _, outcomes = evaluated
    rows = rows_of(trial, outcomes)
    for row in rows:
        there = [measure for measure in FIGURES if row[measure] is not None]
        assert len(there) == len(FIGURES) - (5 if row["row"] == "hr" else 0)
        assert row["interval"]["threshold"][0] <= row["threshold"] <= row["interval"]["threshold"][1]
        for measure in there:
            low, high = row["interval"][measure]
            if low is None:  # two strangers are missing from many a draw; where nobody failed, or everybody, no draw differs
                assert measure == "false_positive_identification_rate" or row[measure] in (0, 1), measure
            else:
                assert low <= high
    dsr, feed = pick_row(rows, "dsr"), pick_row(rows, "direct_feed")
    assert set(dsr["difference_to_direct_feed"]) >= set(FIGURES)
    for measure in FIGURES:
        assert dsr["difference_to_direct_feed"][measure]["value"] == pytest.approx(dsr[measure] - feed[measure], abs=1e-6)
    shown = tables.gains_table([row for row in rows if row["protocol"] == "both-lr"])
    assert "cosine to true face" in shown.index and "DSR" in shown.columns and "HR (upper bound)" in shown.columns
    assert "PSNR dB" in tables.measures_table([dsr, feed], tables.RESTORATION)
    with pytest.raises(ValueError, match="further: expected names among"):
        evaluation_row("dsr", "16x16", "both-lr", further={"colour": 1})


def test_an_embedding_that_is_no_number_names_its_system(run, params):
    trial, systems = open_trial(run, params), open_systems(run, params, CPU)
    broken = fresh_edgeface()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"dsr \(recogniser of the run\): Expected finite embeddings .* bad of"):
        list(evaluate(trial, [replace(systems[2], edgeface=broken)]))


def test_pairs_that_cannot_be_judged_are_refused_before_a_face_is_restored(run, params):
    """Whatever is not refused can be verified: with the limit, with all pairs, and with few subjects."""
    faces = open_split(run.dataset, "test", "16x16")
    embeddings = np.random.default_rng(0).normal(size=(len(faces), 8)).astype(np.float32)
    refused = 0
    for limit in range(1, len(faces)):
        try:
            pairs, same, folds = pairs_to_judge(run.dataset, "test", faces.first(limit), limit)
        except ValueError as error:
            assert "in two folds or more" in str(error) and str(error).endswith("Raise limit.")
            refused += 1
        else:
            assert verification(embeddings, pairs, same, folds)["accuracy"] > 0
    assert 0 < refused < len(faces) - 1
    with pytest.raises(
        ValueError, match=r"all_pairs_faces: expected genuine and impostor pairs .*, got 1 of 1 subjects\. Raise it"
    ):
        open_trial(run, params.model_copy(update={"all_pairs_faces": 1}))


def test_three_people_are_too_few_to_judge(tiny_dataset):
    """They make one fold of pairs, whose threshold nobody could choose."""
    faces = open_split(tiny_dataset, "test", "16x16")
    with pytest.raises(ValueError, match=r"got \d+ genuine ones of \d+ pairs in 1 folds, among 12 faces\. .*four subjects"):
        pairs_to_judge(tiny_dataset, "test", faces, 0)


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


def test_control_and_ensemble_stand_in_the_same_table(whole, params):
    systems = open_systems(whole, params, CPU)
    assert [system.row for system in systems] == [
        "hr", "direct_feed", "direct_feed_finetuned", "dsr", "dsr_ensemble", "dsr_finetuned", "cycle_1"
    ]  # fmt: skip
    control = systems[2]
    assert control.restorer == "bicubic" and control.files == {"edgeface": whole.edgeface_direct}
    files = systems[4].files
    assert list(files) == ["dsr", "dsr_member2", "dsr_member3", "edgeface"] and files["dsr"] == whole.dsr


def test_guided_faces_stand_beside_the_pair_that_guides_them(whole, params, edgeface_path, judge_path):
    """The original recogniser looks at them, HR faces too; a judge sees them as faces of their own; a DSR alone guides nobody."""
    asked = params.model_copy(update={"guide_steps": 2, "judge": str(judge_path)})
    systems = open_systems(whole, asked, CPU)
    assert [system.row for system in systems] == [
        "hr", "direct_feed", "direct_feed_finetuned", "dsr", "dsr_ensemble", "dsr_finetuned", "dsr_finetuned_guided", "cycle_1",
        "cycle_1_guided",
    ]  # fmt: skip
    pair, guided = systems[-2:]
    assert guided.restorer.dsr is pair.restorer and guided.restorer.edgeface is pair.edgeface and guided.restorer.steps == 2
    beside = {"dsr_guide": whole.cycle(1)[1], "dsr_other": whole.dsr, "edgeface": edgeface_path}
    assert guided.files == {"dsr": whole.cycle(1)[0]} | beside and list(guided.restorer.others) == [systems[3].restorer]
    of_finetuned = systems[-3]  # its DSR is that of the row "dsr", which is not drawn by twice
    assert "dsr_other" not in of_finetuned.files and not len(of_finetuned.restorer.others)
    assert guided.edgeface is guided.restorer.original is guided.at_hr().edgeface is systems[0].edgeface
    judge = judge_systems(asked, systems, CPU)[-1]
    assert (judge.row, judge.restorer) == ("cycle_1_guided", guided.restorer)
    assert list(judge.files) == ["dsr", "dsr_guide", "dsr_other", "edgeface"]
    trial = open_trial(whole, asked)
    outcomes = list(evaluate(trial, systems))
    found, control = (pick(outcomes, row) for row in ("cycle_1_guided", "direct_feed_finetuned"))
    assert found.embeddings == pytest.approx(embed(restore(trial.faces.vlr, guided.restorer), guided.edgeface), abs=1e-5)
    row = pick_row(rows_of(trial, outcomes), "cycle_1_guided")
    gain = metrics.auc(found.verified["scores"], trial.same) - metrics.auc(control.verified["scores"], trial.same)
    assert row["difference_to_control"]["auc"]["value"] == pytest.approx(gain)


def test_a_refused_cycle_guides_nobody(params, edgeface_path, tmp_path):
    """Its EdgeFace is the original under another name, which has nothing to tell the original."""
    run = Run("refused", tmp_path)
    save_dsr(run.dsr, 3)
    inputs = {"dsr": {"file": run.dsr.name, "sha256": file_hash(run.dsr)}}
    for source, target in zip((run.dsr, edgeface_path), run.cycle(1), strict=True):
        copy_checkpoint(source, target, carried_over={"from": str(source), "inputs": inputs})
    systems = open_systems(run, params.model_copy(update={"guide_steps": 2}), CPU)
    assert [system.row for system in systems] == ["hr", "direct_feed", "dsr", "cycle_1"]
    dsr, cycle = systems[2:]
    assert cycle.restorer is dsr.restorer and cycle.edgeface is dsr.edgeface  # restored and embedded once for both
    assert cycle.files == {"dsr": run.cycle(1)[0], "edgeface": run.cycle(1)[1]}  # and still named as what they were read from


def test_a_control_that_saw_a_dsr_s_faces_is_refused(run, params, tmp_path):
    path = tmp_path / "edgeface_direct.pt"
    save_edgeface_of(path, None, 5)
    check_control(path)
    save_edgeface_of(run.edgeface_direct, run.dsr, 5)
    try:
        with pytest.raises(ValueError, match=r"edgeface_direct\.pt: expected a control, .* got one that names dsr\.pt"):
            open_systems(run, params, CPU)
    finally:
        keep_previous(run.edgeface_direct)


def test_members_of_an_ensemble_are_numbered_without_a_gap(tmp_path):
    run = Run("tiny", tmp_path)
    assert run.dsr_member(1) == run.dsr and run.dsr_member(2).name == "dsr_member2.pt"
    with pytest.raises(ValueError, match=r"Member 1 is dsr\.pt"):
        run.dsr_member(0)
    run.folder.mkdir(parents=True)
    for number in (1, 3):
        run.dsr_member(number).touch()
    assert ensemble_members(run) == (run.dsr,)
    run.dsr_member(2).touch()
    assert ensemble_members(run) == (run.dsr, run.dsr_member(2), run.dsr_member(3))


@torch.inference_mode()
def test_an_ensemble_is_the_mean_of_its_members_faces(whole, compared):
    trial, systems, *_ = compared
    part = trial.faces.first(5)
    ensemble = next(system for system in systems if system.row == "dsr_ensemble")
    members = [load_dsr(whole.dsr_member(number))(as_tensor(part.vlr)) for number in (1, 2, 3)]
    mean = sum(members) / 3
    restored = as_tensor(ensemble.restored(part))
    assert (restored - mean).abs().max() <= 0.5 / 255 + 1e-6
    assert (restored - members[0]).abs().max() > 1 / 255


def test_every_row_has_a_twin_with_tta_beside_it(whole, params, compared):
    trial, systems, _, outcomes, rows = compared
    names = [system.row for system in systems]
    assert names[1::2] == [f"{name}_tta" for name in names[::2]]
    assert [system.tta for system in systems] == [False, True] * (len(systems) // 2)
    plain = list(evaluate(trial, open_systems(whole, params, CPU)))
    for outcome in plain:  # asking for TTA leaves the rows without it as they were
        assert np.array_equal(outcome.verified["scores"], pick(outcomes, outcome.system.row, outcome.protocol).verified["scores"])
    assert {row["row"] for row in rows if row["recognizer"] == "run"} == set(names)


@torch.inference_mode()
def test_a_twin_adds_the_mirrored_face_before_normalising(compared):
    trial, _, _, outcomes, _ = compared
    twin = pick(outcomes, "dsr_tta")
    edgeface, vlr = twin.system.edgeface, as_tensor(trial.faces.vlr[:6])
    slow = F.normalize(sum(edgeface.embed(to_8_bits(twin.system.restorer(faces))) for faces in (vlr, vlr.flip(3))), dim=1)
    assert twin.embeddings[:6] == pytest.approx(slow.numpy(), abs=1e-5)
    assert np.allclose(twin.system.embedded(trial.faces.first(6)), twin.embeddings[:6], atol=1e-5)
    assert not np.allclose(twin.embeddings, pick(outcomes, "dsr").embeddings)
    hr = as_tensor(trial.faces.hr[:6])
    slow = F.normalize(edgeface.embed(hr) + edgeface.embed(hr.flip(3)), dim=1)
    assert twin.hr_embeddings[:6] == pytest.approx(slow.numpy(), abs=1e-5)


def test_faces_are_restored_once_whoever_looks_at_them(monkeypatch, compared):
    trial, systems, judges, *_ = compared
    calls = []

    def counted(vlr, dsr):
        calls.append((len(vlr), dsr))
        return restore(vlr, dsr)

    monkeypatch.setattr(systems_module, "restore", counted)
    list(evaluate(trial, [*systems, *judges]))
    # bicubic, dsr.pt, the ensemble and the cycle's DSR, each on the test and on the validation faces, and on these mirrored
    assert [count for _, count in Counter(calls).most_common()] == [2] * (2 * 4)


def test_like_stands_against_like(compared):
    *_, rows = compared
    for protocol in PROTOCOLS:
        for row, recognizer, feed in (
            ("dsr", "run", "direct_feed"), ("dsr_tta", "run", "direct_feed_tta"), ("hr_tta", "run", "direct_feed_tta"),
            ("direct_feed_finetuned", "run", "direct_feed"), ("dsr", "judge", "direct_feed"),
            ("dsr_tta", "judge", "direct_feed_tta"),
        ):  # fmt: skip
            one, other = (pick_row(rows, name, protocol, recognizer) for name in (row, feed))
            assert one["difference_to_direct_feed"]["rank1"]["value"] == pytest.approx(one["rank1"] - other["rank1"])
            assert one["difference_to_direct_feed"]["auc"]["value"] == pytest.approx(one["auc"] - other["auc"])
    feeds = [row for row in rows if row["row"].removesuffix("_tta") == "direct_feed"]
    assert len(feeds) == 4 * len(PROTOCOLS) and not any(row["difference_to_direct_feed"] for row in feeds)


def test_rows_with_a_dsr_are_compared_with_the_control(compared, evaluated):
    *_, rows = compared
    for name in ("dsr", "dsr_ensemble", "dsr_finetuned", "cycle_1"):
        for end in ("", "_tta"):
            one, control = (pick_row(rows, row + end, "hr-lr") for row in (name, "direct_feed_finetuned"))
            difference = one["difference_to_control"]["auc"]
            assert difference["value"] == pytest.approx(one["auc"] - control["auc"])
            assert difference["low"] <= difference["high"]
            assert set(one["difference_to_control"]) == set(one["difference_to_direct_feed"])
    bare = ("hr", "direct_feed", "direct_feed_finetuned")
    assert not any(row["difference_to_control"] for row in rows if row["row"].removesuffix("_tta") in bare)
    assert not any(row["difference_to_control"] for row in rows if row["recognizer"] == "judge")
    trial, _, outcomes = evaluated  # a run without a control
    assert not any(row["difference_to_control"] for row in rows_of(trial, outcomes))


def test_hr_accuracy_is_that_of_the_row_s_own_recogniser(whole, compared):
    trial, *_, rows = compared
    for name, path in (("dsr_finetuned", whole.edgeface), ("direct_feed_finetuned", whole.edgeface_direct)):
        embeddings = embed(trial.faces.hr, load_edgeface(path))
        expected = verification(embeddings, trial.pairs, trial.same, trial.folds)["accuracy"]
        for protocol in PROTOCOLS:
            assert pick_row(rows, name, protocol)["hr_verification_accuracy"] == pytest.approx(expected)
    hr = pick_row(rows, "hr")
    assert hr["hr_verification_accuracy"] == hr["verification_accuracy"] == pick_row(rows, "dsr")["hr_verification_accuracy"]
    twin = pick_row(rows, "hr_tta")
    assert pick_row(rows, "dsr_tta")["hr_verification_accuracy"] == twin["verification_accuracy"]


def test_a_judge_scores_the_faces_of_every_restorer(compared, judge_path):
    trial, systems, judges, outcomes, rows = compared
    names = ["hr", "direct_feed", "dsr", "dsr_ensemble", "cycle_1"]
    assert [system.row for system in distinct_restorers(systems)] == names
    twins = [row for name in names for row in (name, f"{name}_tta")]
    assert [system.row for system in judges] == twins
    judge = load_edgeface(judge_path)
    for name in names:
        low = embed(judges[twins.index(name)].restored(trial.faces), judge)
        slow = [float(np.dot(low[one], low[other])) for one, other in trial.pairs]
        assert pick(outcomes, name, recognizer="judge").verified["scores"] == pytest.approx(np.array(slow), abs=1e-5)
    scored = [row for row in rows if row["recognizer"] == "judge"]
    about = judge_about(judges, scored)
    assert (about["recognizer"], about["sha256"]) == ("edgeface_judge.pt", file_hash(judge_path))
    assert [row["row"] for row in about["rows"]] == [name for name in twins for _ in PROTOCOLS]
    assert judge_about([], []) is None


def test_a_judge_that_took_part_in_training_is_refused(whole, params, edgeface_path, tmp_path):
    systems = open_systems(whole, params, CPU)
    assert judge_systems(params, systems, CPU) == []
    renamed = tmp_path / "another_name.pt"
    shutil.copyfile(edgeface_path, renamed)
    for path in (edgeface_path, renamed, whole.edgeface, whole.edgeface_direct):
        with pytest.raises(ValueError, match=r"judge: expected an EdgeFace that took no part in training, got .* the same file"):
            judge_systems(params.model_copy(update={"judge": str(path)}), systems, CPU)
    with pytest.raises(FileNotFoundError, match="an independent recogniser"):
        judge_systems(params.model_copy(update={"judge": str(tmp_path / "none.pt")}), systems, CPU)
    assert judge_systems(params.model_copy(update={"judge": "demo"}), systems, CPU)[0].recognizer == "judge"
