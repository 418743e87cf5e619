"""WCCN: the affine map, its fold into every kind of last layer, and the step that a cycle ends with."""

import json

import numpy as np
import pytest
import torch
from conftest import same_weights, weights_of
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dsrkit import metrics
from dsrkit.models import EdgeFace, load_edgeface
from dsrkit.models.checkpoint import copy_checkpoint, load_checkpoint, save_checkpoint
from dsrkit.models.wccn import WCCN
from dsrkit.recognition import embed
from dsrkit.runs import Run
from dsrkit.training import open_setting, run_cycles
from dsrkit.training.validation import Validation


@pytest.fixture
def people():
    """Embeddings of 40 people × 25 pictures in 16 dimensions, which differ most within a person along the first four."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 25)
    centres = draw.normal(size=(40, 16))
    spread = np.where(np.arange(16) < 4, 3.0, 0.5)
    return centres[labels] + draw.normal(size=(1000, 16)) * spread + 2.0, labels


def normalised(wccn: WCCN, embeddings: np.ndarray) -> np.ndarray:
    return (embeddings - wccn.mean.numpy()) @ wccn.matrix.numpy().T


def within(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.cov(np.concatenate([embeddings[labels == one] - embeddings[labels == one].mean(0) for one in np.unique(labels)]).T)


def test_every_direction_spreads_alike_within_a_person(people):
    embeddings, labels = people
    found = normalised(WCCN.fit(embeddings, labels, power=1.0), embeddings)
    assert found.mean(0) == pytest.approx(np.zeros(16), abs=1e-4)
    covariance = within(found, labels)
    assert covariance / covariance.trace() * 16 == pytest.approx(np.eye(16), abs=0.06)


def test_between_people_it_is_what_linear_discriminant_analysis_does(people):
    """scikit-learn's, with the same shrinkage: distances between centres of people are alike, up to one factor."""
    embeddings, labels = people
    ours = normalised(WCCN.fit(embeddings, labels, power=1.0), embeddings)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=16)
    theirs = lda.fit(embeddings, labels).transform(embeddings)
    distances = []
    for values in (ours, theirs):
        centres = np.stack([values[labels == one].mean(0) for one in range(40)])
        distances.append(np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(40, 1)])
    assert np.corrcoef(*distances)[0, 1] > 0.99


def test_people_are_told_apart_better(people):
    embeddings, labels = people
    pairs = np.stack(np.triu_indices(len(labels), 1), axis=1)
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    other = embeddings[::2], labels[::2]  # fitted on half of the pictures
    aucs = [
        metrics.auc(metrics.cosine_scores(values / np.linalg.norm(values, axis=1, keepdims=True), pairs), same)
        for values in (embeddings, *(normalised(WCCN.fit(*other, power=power), embeddings) for power in (0.0, 1.0)))
    ]
    assert aucs[0] < aucs[1] < aucs[2]


def test_power_0_subtracts_the_mean_alone(people):
    embeddings, labels = people
    wccn = WCCN.fit(embeddings, labels, power=0.0)
    assert wccn.matrix.numpy() == pytest.approx(np.eye(16), abs=1e-6)
    assert wccn.mean.numpy() == pytest.approx(embeddings.mean(0), abs=1e-5)


def test_subjects_of_one_face_say_nothing_of_what_is_within(people):
    embeddings, labels = people
    alone = np.concatenate([labels, [100, 101]]), np.concatenate([embeddings, embeddings[:2] + 50])
    wccn, plain = WCCN.fit(alone[1], alone[0]), WCCN.fit(embeddings, labels)
    assert wccn.matrix.numpy() == pytest.approx(plain.matrix.numpy(), abs=1e-6)
    with pytest.raises(ValueError, match="two faces or more of some subject, got one each of 3"):
        WCCN.fit(embeddings[:3], np.arange(3))


@pytest.mark.parametrize("variant", ["edgeface_xxs", "edgeface_xs_gamma_06"])
def test_it_is_folded_into_the_last_layer(variant):
    torch.manual_seed(0)
    edgeface, faces = EdgeFace(variant).eval(), torch.rand(3, 3, 112, 112)
    wccn = WCCN(torch.randn(512), torch.randn(512, 512) / 20)
    with torch.no_grad():
        before = edgeface.embed(faces)
        after = wccn.of(edgeface).embed(faces)
        assert torch.equal(edgeface.embed(faces), before)  # a copy
    assert torch.allclose(after, (before - wccn.mean) @ wccn.matrix.T, atol=1e-3)


@pytest.fixture
def start(root, dsr_path, edgeface_path) -> Run:
    run = Run("tiny")
    run.folder.mkdir(parents=True)
    copy_checkpoint(dsr_path, run.dsr)
    weights = {"backbone_state_dict": weights_of(edgeface_path), "arcface_state_dict": {}, "subject_to_id": {}}
    save_checkpoint(run.edgeface, "edgeface", weights | {"variant": "edgeface_xxs", "epoch": 1, "metrics": {}, "provenance": {}})
    return run


@pytest.mark.parametrize("mode", ["joint", "alternate"])
@pytest.mark.parametrize("low", [0.1, -0.1])
def test_a_cycle_ends_with_it(start, stage_params, monkeypatch, mode, low):
    """Put beside the weights when it validates better, and folded in by whoever loads them; else nothing is left of it."""
    monkeypatch.setattr(Validation, "gain", lambda *given: {"value": 0.1, "low": low, "high": 0.2})
    control = {"control_epochs": 1} if mode == "joint" else {"skip_edgeface": True}
    setting = open_setting(stage_params("04_cyclic_cycle", mode=mode, wccn=0.5, cycles=2, **control))
    steps = {step.step: step for step in run_cycles(setting)}
    ended = [(steps["WCCN"], start.cycle(2)[1])]
    if mode == "joint":
        ended.append((steps["control, WCCN"], start.edgeface_direct))
        assert "control, cycle 2" in steps
    assert not load_checkpoint(start.cycle(1)[1], "edgeface").get("wccn_state_dict")  # the last cycle's alone
    for step, path in ended:
        assert step.accepted == (low > 0)
        content, about = load_checkpoint(path, "edgeface"), json.loads(path.with_suffix(".pt.json").read_text())
        trained, loaded = load_edgeface(path, wccn=False), load_edgeface(path)
        assert same_weights(trained.state_dict(), content["backbone_state_dict"])
        assert same_weights(trained.state_dict(), loaded.state_dict()) == (low <= 0)
        assert about["wccn"] == (0.5 if low > 0 else 0.0)
        record = step.record("eer")
        assert (record["epochs"], record["ended"], record["accepted"]) == (1, "in closed form", low > 0)


def test_what_goes_on_from_it_goes_on_without(start, stage_params, monkeypatch):
    """A later training starts from the weights as they were trained; its teacher's embeddings are not normalised either."""
    monkeypatch.setattr(Validation, "gain", lambda *given: {"value": 0.1, "low": 0.1, "high": 0.2})
    run_cycles(open_setting(stage_params("04_cyclic_cycle", mode="joint", wccn=0.5)))
    first = start.cycle(1)[1].rename(start.folder / "earlier.pt")
    still = {"finetuned_edgeface": str(first), "learning_rate": 1e-12, "backbone_lr": 1e-12, "accept_level": 0.0}
    run_cycles(open_setting(stage_params("04_cyclic_cycle", mode="joint", **still)))
    again = start.cycle(1)[1]
    assert same_weights(load_edgeface(again, wccn=False).state_dict(), load_edgeface(first, wccn=False).state_dict())


def test_it_is_fitted_on_restored_and_hr_faces_of_all_sizes(start, stage_params, monkeypatch):
    seen = {}
    fit = WCCN.fit.__func__

    def watched(cls, embeddings, labels, power):
        seen.update(embeddings=embeddings, labels=labels, power=power)
        return fit(cls, embeddings, labels, power)

    monkeypatch.setattr(WCCN, "fit", classmethod(watched))
    sizes = ["16x16", "16x16", "24x24"]
    setting = open_setting(stage_params("04_cyclic_cycle", mode="joint", wccn=0.25, train_sizes=sizes))
    run_cycles(setting)
    train = setting.train
    assert len(seen["embeddings"]) == 3 * len(train) and seen["power"] == 0.25
    assert (seen["labels"] == np.tile(train.labels, 3)).all()
    hr = embed(train.hr, load_edgeface(start.cycle(1)[1], wccn=False), unit=False)
    assert seen["embeddings"][-len(train) :] == pytest.approx(hr, abs=1e-4)
