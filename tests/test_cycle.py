"""The cycle: steps that are accepted or rolled back, verdicts that outlive an interruption, and a dry run that writes nothing."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import same_weights, weights_of

from dsrkit.evaluation.systems import rows_on_disk
from dsrkit.losses import identity_loss
from dsrkit.models import edgeface_file, load_dsr, load_edgeface
from dsrkit.models.checkpoint import copy_checkpoint, load_checkpoint, previous, refused, save_checkpoint
from dsrkit.recognition import restore
from dsrkit.runs import Run
from dsrkit.training import cycle, open_setting, run_cycles
from dsrkit.training.cycle import joint_task
from dsrkit.training.plan import plan_cycles
from dsrkit.training.resume import Progress
from dsrkit.training.validation import Validation


@pytest.fixture
def start(root, dsr_path, edgeface_path) -> Run:
    """A run in a folder of its own with a ``dsr.pt`` and an ``edgeface.pt``."""
    run = Run("tiny")
    run.folder.mkdir(parents=True)
    copy_checkpoint(dsr_path, run.dsr)
    weights = {"backbone_state_dict": weights_of(edgeface_path), "arcface_state_dict": {}, "subject_to_id": {}}
    save_checkpoint(run.edgeface, "edgeface", weights | {"variant": "edgeface_xxs", "epoch": 1, "metrics": {}, "provenance": {}})
    return run


class Killed(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture
def improving(monkeypatch):
    """Each validation says that it went better than the last."""
    measure, calls = Validation.measure, []

    def measuring(*arguments):
        calls.append(1)
        return measure(*arguments) | {"auc": 1 - 1 / len(calls)}

    monkeypatch.setattr(Validation, "measure", measuring)
    monkeypatch.setattr(Validation, "gain", lambda *given: {"value": 0.2, "low": 0.1, "high": 0.3})


@pytest.mark.parametrize(("mode", "steps"), [("joint", ["joint", "joint"]), ("alternate", ["DSR", "EdgeFace", "DSR"])])
def test_two_cycles(start, stage_params, improving, mode, steps):
    titles = set()
    setting = open_setting(stage_params("04_cyclic_cycle", mode=mode, cycles=2, select_by="auc", accept_level=0.0))
    done = run_cycles(setting, on_epoch=lambda title, history: titles.add(title))
    assert [step.step for step in done] == steps and len(titles) == len(steps)
    for number in (1, 2):
        dsr, edgeface = start.cycle(number)
        assert load_dsr(dsr).config.base_channels == 8 and load_edgeface(edgeface).variant == "edgeface_xxs"
        inputs = json.loads(dsr.with_suffix(".pt.json").read_text())["provenance"]["inputs"]
        assert inputs.keys() == {
            "manifest", "dataset", "original_edgeface", "dsr", "edgeface", "previous_dsr", "previous_edgeface",
        }  # fmt: skip
        assert "metrics" in json.loads(edgeface.with_suffix(".pt.json").read_text())
    if mode == "alternate":  # cycle 1 leaves EdgeFace alone
        assert same_weights(weights_of(start.cycle(1)[1]), weights_of(start.edgeface))
    record = done[0].record("auc")
    assert (record["cycle"], record["epochs"], record["accepted"]) == (1, 1, True)
    assert record["before"] == done[0].fit.history[0]["auc"] and record["best"] == done[0].fit.best["auc"]
    assert (record["gain"], record["gain_low"]) == (done[0].gain["value"], done[0].gain["low"])


def test_joint_cycles_and_their_controls_go_on_at_their_own_rates(start, stage_params, improving, monkeypatch):
    starts, fit = [], cycle.fit

    def seen(task, schedule, *rest):
        rates = [group["lr"] for group in task.parameter_groups()]
        weights = {name: value.clone() for name, value in task.edgeface.state_dict().items()}
        starts.append((rest[-2], schedule.epochs, rates, weights))
        return fit(task, schedule, *rest)

    monkeypatch.setattr(cycle, "fit", seen)
    rates = {"learning_rate": 4e-4, "learning_rate_cycle2": 1e-4, "backbone_lr": 2e-4, "epochs": 2, "epochs_cycle2": 1}
    params = stage_params("04_cyclic_cycle", mode="joint", cycles=2, select_by="auc", control_epochs=1, accept_level=0.0, **rates)
    done = run_cycles(open_setting(params))
    assert [start[:2] for start in starts] == [
        ("control, no DSR", 1), ("control, cycle 2", 1), ("cycle 1, joint", 2), ("cycle 2, joint", 1),
    ]  # fmt: skip
    for (_, _, rates, _), expected in zip(starts, ([2e-4], [5e-5], [4e-4, 2e-4], [1e-4, 5e-5]), strict=True):
        assert rates == pytest.approx(expected)
    original = load_edgeface(params.edgeface).state_dict()
    assert same_weights(starts[0][3], original) and not same_weights(starts[1][3], original)  # goes on from what the first left
    assert [step.step for step in done] == ["control, cycle 2", "joint", "joint"] and done[0].accepted


def test_a_control_goes_on_from_another_run_s(start, stage_params):
    """As the joint step may go on from another run's networks; its file is read, never replaced."""
    first = open_setting(stage_params("04_cyclic_cycle", mode="joint", control_epochs=1))
    run_cycles(first)
    earlier = first.run.edgeface_direct.rename(start.folder / "earlier.pt")
    before = earlier.read_bytes()
    still = 1e-30  # a rate that moves no weight by a bit; 1e-12 moves faint ones, which shows where that epoch validates better
    again = stage_params("04_cyclic_cycle", mode="joint", control_epochs=1, initial_control=str(earlier), backbone_lr=still)
    control, _ = run_cycles(open_setting(again))
    assert same_weights(weights_of(start.edgeface_direct), weights_of(earlier)) and earlier.read_bytes() == before
    assert control.gain["value"] == pytest.approx(0, abs=1e-9)  # against what it started from
    assert "control" in load_checkpoint(start.edgeface_direct, "edgeface")["provenance"]["inputs"]
    itself = stage_params("04_cyclic_cycle", mode="joint", control_epochs=1, initial_control=str(start.edgeface_direct))
    with pytest.raises(
        ValueError, match=r"edgeface_direct\.pt: expected an input that stays, got a file that this stage replaces"
    ):
        run_cycles(open_setting(itself))


def test_a_joint_step_may_leave_the_last_parts_of_edgeface_as_they_are(start, stage_params):
    setting = open_setting(stage_params("04_cyclic_cycle", mode="joint", stage_decay=1e-30, lambda_arcface=0.1, backbone_lr=2e-4))
    task = joint_task(setting, 1, load_dsr(start.dsr), load_edgeface(start.edgeface), {})
    first, *later, head = [group["lr"] for group in task.parameter_groups()[1:]]
    assert first == head == 2e-4 and len(later) == 5 and max(later) == pytest.approx(2e-34)  # the margin head is no part of it
    given = [id(weight) for group in task.parameter_groups() for weight in group["params"]]
    assert sorted(given) == sorted(id(weight) for weight in task.trained.parameters())


@pytest.mark.parametrize("mode", ["joint", "alternate"])
def test_a_refused_step_leaves_both_networks_as_they_were(start, stage_params, mode):
    ruin = {"learning_rate": 1.0, "grad_clip": 0.0}
    setting = open_setting(stage_params("04_cyclic_cycle", mode=mode, **ruin))
    (step,) = run_cycles(setting)
    assert not step.record("eer")["accepted"]
    assert step.fit.history[1]["psnr"] < step.fit.history[0]["psnr"] - 1
    dsr, edgeface = start.cycle(1)
    assert same_weights(weights_of(dsr), weights_of(start.dsr)) and same_weights(weights_of(edgeface), weights_of(start.edgeface))


def test_an_accepted_step_holds_the_better_networks(start, stage_params):
    gentle = {"learning_rate": 1e-3, "backbone_lr": 1e-4, "lambda_l1": 0.0, "steps_per_epoch": 20, "jitter_probability": 0.0}
    setting = open_setting(stage_params("04_cyclic_cycle", mode="joint", select_by="auc", accept_level=0.0, **gentle))
    (step,) = run_cycles(setting)
    assert step.fit.improved and step.accepted
    restored = restore(setting.validation.faces.vlr, load_dsr(start.cycle(1)[0]))
    again = setting.validation.verification(load_edgeface(start.cycle(1)[1]), restored)
    assert again["identity_similarity"] == pytest.approx(step.fit.best["identity_similarity"], abs=1e-4)
    assert not same_weights(weights_of(start.cycle(1)[1]), weights_of(start.edgeface))


def test_a_joint_step_without_hr_faces(start, stage_params):
    (step,) = run_cycles(open_setting(stage_params("04_cyclic_cycle", mode="joint", hr_fraction=0.0)))
    assert {name for name in step.fit.history[1] if name.startswith("loss_")} == {"loss_l1", "loss_identity", "loss_total"}


def test_restored_faces_are_held_to_the_untouched_recogniser_too(start, stage_params):
    """The term is the loss of the frozen original alone; it moves the DSR and leaves the recogniser's gradient as it was."""
    losses, gradients = {}, {}
    for weight in (0.0, 0.5):
        setting = open_setting(stage_params("04_cyclic_cycle", mode="joint", lambda_original=weight))
        task = joint_task(setting, 1, load_dsr(start.dsr).requires_grad_(True), load_edgeface(start.edgeface), {})
        task.parameter_groups()
        batch = task.batch(next(task.sampler.draws(1)))
        losses[weight] = task.losses(batch)
        sum(losses[weight].values()).backward()
        networks = (task.dsr, task.edgeface)
        gradients[weight] = [torch.cat([value.grad.flatten() for value in network.parameters()]) for network in networks]
    with torch.no_grad():
        seen = setting.original(task.dsr(batch.faces.vlr))
    assert "original" not in losses[0.0]
    assert losses[0.5]["original"].item() == pytest.approx(0.5 * float(identity_loss(seen, batch.faces.embeddings)), rel=1e-4)
    assert not torch.allclose(gradients[0.0][0], gradients[0.5][0], atol=1e-6)
    assert torch.allclose(gradients[0.0][1], gradients[0.5][1], atol=1e-6)
    assert all(weight.grad is None for weight in setting.original.parameters())


def test_the_untouched_recogniser_looks_from_all_sides(start, stage_params):
    """With ``diversity`` it sees the restored face moved, the trained one as it is."""
    found = {}
    for diversity in (0.0, 0.1):
        params = stage_params("04_cyclic_cycle", mode="joint", lambda_original=1.0, diversity=diversity)
        task = joint_task(open_setting(params), 1, load_dsr(start.dsr), load_edgeface(start.edgeface), {})
        found[diversity] = {name: loss.item() for name, loss in task.losses(task.batch(next(task.sampler.draws(1)))).items()}
    assert found[0.0]["identity"] == found[0.1]["identity"] and found[0.0]["original"] != found[0.1]["original"]


# --- verdicts


SMALL = {"batch_size": 2, "finetune_batch_size": 2, "steps_per_epoch": 1}


@pytest.mark.parametrize(("low", "level", "accepted"), [(0.001, 0.95, True), (0.0, 0.95, False), (-0.1, 0.0, True)])
def test_a_step_is_accepted_when_its_interval_lies_above_0(start, stage_params, improving, monkeypatch, low, level, accepted):
    """And rolled back otherwise, to the very files."""
    levels = []

    def gain(validation, before, after, measure, asked, sizes):
        levels.append((measure, asked, sizes))
        return {"value": 0.1, "low": low, "high": 0.2}

    monkeypatch.setattr(Validation, "gain", gain)
    params = stage_params("04_cyclic_cycle", **SMALL, accept_level=level, select_by="auc")
    setting = open_setting(params)
    stale = refused(start.cycle(1)[0])  # of an earlier training, which must not be taken for one of this
    stale.write_bytes(b"stale")
    (step,) = run_cycles(setting)
    assert previous(stale).read_bytes() == b"stale"
    assert step.fit.improved and step.accepted == accepted and step.gain["low"] == low
    assert levels == [("auc", level or 0.95, ("16x16",))]
    for before, after in zip((start.dsr, start.edgeface), start.cycle(1), strict=True):
        assert (before.read_bytes() == after.read_bytes()) == (not accepted)
    trained = start.cycle(1)[0]
    assert refused(trained).exists() == (not accepted)
    if not accepted:
        seen = setting.validation.images(restore(setting.validation.faces.vlr, load_dsr(refused(trained))))
        assert seen["psnr"] == pytest.approx(step.fit.best["psnr"], abs=1e-5) and step.fit.best["epoch"] > 0


@pytest.mark.parametrize("changes", [{}, {"mode": "alternate", "skip_edgeface": True}], ids=["refused", "skipped"])
def test_what_a_cycle_leaves_as_it_was_belongs_to_it(start, stage_params, improving, monkeypatch, changes):
    """Also an original recogniser, whose file names no DSR: an evaluation takes the pair."""
    start.edgeface.unlink()  # the stage before was left out
    monkeypatch.setattr(Validation, "gain", lambda *asked: {"value": -0.1, "low": -0.2, "high": 0.0})
    params = stage_params("04_cyclic_cycle", **SMALL, **({"mode": "joint", "finetuned_edgeface": "demo"} | changes))
    (step,) = run_cycles(open_setting(params))
    assert not step.accepted
    rows = {row: files for row, *files in rows_on_disk(start, edgeface_file("demo"))}
    assert rows["cycle_1"] == [(start.cycle(1)[0],), start.cycle(1)[1]]


def test_a_fit_that_brought_nothing_is_refused_at_any_level(start, stage_params):
    (step,) = run_cycles(
        open_setting(stage_params("04_cyclic_cycle", **SMALL, accept_level=0.0, learning_rate=1.0, select_by="auc"))
    )
    assert not step.fit.improved and not step.accepted
    assert start.cycle(1)[0].read_bytes() == start.dsr.read_bytes()


def test_a_refused_step_s_successor_starts_from_what_was_there_before(start, stage_params):
    """DSR of cycle 1 is ruined and refused; in cycle 2 it starts anew, not from the ruin."""
    changes = {"mode": "alternate", "cycles": 2, "learning_rate": 1.0, "skip_edgeface": True, "grad_clip": 0.0}
    first, second = run_cycles(open_setting(stage_params("04_cyclic_cycle", **SMALL, **changes)))
    assert not first.accepted and first.fit.history[1]["psnr"] < first.fit.history[0]["psnr"] - 1
    assert second.fit.history[0]["psnr"] == first.fit.history[0]["psnr"]


def test_the_gain_is_that_of_the_two_pairs(start, stage_params):
    """The interval is told for what selects, and errors count downwards."""
    setting = open_setting(stage_params("04_cyclic_cycle", **SMALL))
    old = (load_dsr(start.dsr), setting.original)
    new = (None, setting.original)
    eer, auc = (setting.validation.gain(old, new, measure, 0.95) for measure in ("eer", "auc"))
    back = setting.validation.gain(new, old, "eer", 0.95)
    for gain in (eer, auc):
        assert gain["low"] <= gain["value"] <= gain["high"]
    assert back == pytest.approx({"value": -eer["value"], "low": -eer["high"], "high": -eer["low"]}, abs=1e-9)
    faces = setting.validation.faces
    pairs = np.array(list(itertools.combinations(range(len(faces)), 2)))  # of so few faces, all genuine pairs and as many others
    same = faces.labels[pairs[:, 0]] == faces.labels[pairs[:, 1]]
    told = setting.validation
    assert {tuple(sorted(pair)) for pair in told.pairs[told.same].tolist()} == set(map(tuple, pairs[same].tolist()))
    assert (~told.same).sum() == told.same.sum()
    assert np.array_equal(faces.labels[told.pairs[:, 0]] == faces.labels[told.pairs[:, 1]], told.same)
    before, after = (told.verification(edgeface, restore(faces.vlr, dsr)) for dsr, edgeface in (old, new))
    assert eer["value"] == pytest.approx(before["eer"] - after["eer"], abs=1e-6)
    assert auc["value"] == pytest.approx(after["auc"] - before["auc"], abs=1e-6)


@pytest.mark.parametrize("at", ["before the roll-back", "within the roll-back"])
def test_a_judged_step_is_not_judged_again(start, stage_params, improving, monkeypatch, at):
    """Interrupted around its roll-back, a refused step is refused with the gain that it had, and rolled back whole."""
    from dsrkit.training import cycle

    judged, copied = [], []

    def gain(validation, before, after, measure, asked, sizes):
        judged.append(measure)
        return {"value": -0.5, "low": -0.6, "high": -0.4}

    def copying(source, target, **about):
        if about and copied and at == "within the roll-back":
            raise Killed
        copied.extend([target] if about else [])
        copy(source, target, **about)

    copy, note = cycle.copy_checkpoint, Progress.note

    def noting(progress, title, value):
        note(progress, title, value)
        if at == "before the roll-back":
            raise Killed

    monkeypatch.setattr(Validation, "gain", gain)
    setting = open_setting(stage_params("04_cyclic_cycle", **SMALL, select_by="auc"))
    with monkeypatch.context() as patch:
        patch.setattr(cycle, "copy_checkpoint", copying)
        patch.setattr(Progress, "note", noting)
        with pytest.raises(Killed):
            run_cycles(setting)
    (step,) = run_cycles(setting)
    assert judged == ["auc"] and not step.accepted and step.gain["value"] == -0.5 and step.fit.improved
    for before, after in zip((start.dsr, start.edgeface), start.cycle(1), strict=True):
        assert before.read_bytes() == after.read_bytes()
    assert not same_weights(weights_of(refused(start.cycle(1)[0])), weights_of(start.dsr))


# --- what may be left out, and what stood there before


@pytest.mark.parametrize(("skip", "steps"), [("skip_dsr", [(2, "EdgeFace")]), ("skip_edgeface", [(1, "DSR"), (2, "DSR")])])
def test_a_step_that_is_skipped(start, stage_params, skip, steps):
    setting = open_setting(stage_params("04_cyclic_cycle", **SMALL, mode="alternate", cycles=2, **{skip: True}))
    done = run_cycles(setting)
    assert [(step.cycle, step.step) for step in done] == steps
    number = 0 if skip == "skip_dsr" else 1
    kept = (start.dsr, start.edgeface)[number]
    for number_of_cycle in (1, 2):
        assert all(path.is_file() for path in start.cycle(number_of_cycle))
        assert same_weights(weights_of(start.cycle(number_of_cycle)[number]), weights_of(kept))


def test_earlier_cycles_are_kept_as_previous(start, stage_params):
    """A shorter second run leaves none of the first one's later cycles standing as if they were its own."""
    run_cycles(
        open_setting(stage_params("04_cyclic_cycle", **SMALL, mode="alternate", cycles=2, skip_edgeface=True, skip_dsr=True))
    )
    before = {path.name: path.read_bytes() for number in (1, 2) for path in start.cycle(number)}
    run_cycles(open_setting(stage_params("04_cyclic_cycle", **SMALL, seed=9)))
    assert all(path.is_file() for path in start.cycle(1)) and not any(path.exists() for path in start.cycle(2))
    for name, content in before.items():
        assert (start.folder / name.replace(".pt", ".previous.pt")).read_bytes() == content


# --- the dry run


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"mode": "joint", "cycles": 2}, [(1, "joint", 3), (2, "joint", 5)]),
        ({"mode": "alternate", "cycles": 2}, [(1, "DSR", 3), (2, "EdgeFace", 4), (2, "DSR", 5)]),
        ({"mode": "alternate", "cycles": 2, "lambda_arcface": 0.1}, [(1, "DSR", 3), (2, "EdgeFace", 6), (2, "DSR", 5)]),
        ({"mode": "alternate", "cycles": 2, "skip_dsr": True}, [(2, "EdgeFace", 4)]),
    ],
)
def test_a_dry_run_tells_the_steps_and_writes_nothing(start, stage_params, monkeypatch, changes, steps):
    epochs = {"epochs": 3, "epochs_cycle2": 5, "stage1_epochs": 2, "stage2_epochs": 4}
    setting = open_setting(stage_params("04_cyclic_cycle", **SMALL, **epochs, **changes))
    before = {path: path.stat().st_mtime_ns for path in sorted(start.root.rglob("*"))}
    weights = [weights_of(path) for path in (start.dsr, start.edgeface)]
    original = {name: value.clone() for name, value in setting.original.state_dict().items()}
    plan = plan_cycles(setting)
    assert {path: path.stat().st_mtime_ns for path in sorted(start.root.rglob("*"))} == before
    assert all(same_weights(was, weights_of(path)) for was, path in zip(weights, (start.dsr, start.edgeface), strict=True))
    assert same_weights(original, setting.original.state_dict())  # the networks that learned were others
    assert [(row.cycle, row.step, row.epochs) for row in plan.itertuples()] == steps
    assert (plan["steps"] == plan.epochs).all()
    assert np.isfinite(plan["expected hours"]).all() and (plan["expected hours"] >= 0).all()


def test_a_dry_run_without_a_network_to_start_from(root, stage_params):
    with pytest.raises(FileNotFoundError, match=r"DSR \(dsr\): expected it at"):
        plan_cycles(open_setting(stage_params("04_cyclic_cycle", **SMALL)))


def test_the_gain_over_several_sizes_is_the_mean_of_theirs(start, stage_params):
    setting = open_setting(stage_params("04_cyclic_cycle", **SMALL))
    pair, sizes = ((load_dsr(start.dsr), setting.original), (None, setting.original)), ("14x16", "16x16", "14x16")
    together = setting.validation.gain(*pair, "eer", 0.95, sizes)
    each = [setting.validation.gain(*pair, "eer", 0.95, (size,)) for size in sizes[:2]]
    assert together["value"] == pytest.approx(np.mean([one["value"] for one in each]), abs=1e-9)
    assert together["low"] <= together["value"] <= together["high"]
    assert setting.validation.gain(*pair, "eer", 0.95) == each[1]  # without any: the data set's own size


def test_one_pair_of_networks_for_several_sizes(start, stage_params):
    """The joint step and its control draw all sizes, are validated at each, and are selected by the mean."""
    sizes = ["14x16", "16x16", "14x16", "20x20"]
    setting = open_setting(
        stage_params("04_cyclic_cycle", **SMALL | {"steps_per_epoch": 12}, train_sizes=sizes, control_epochs=1)
    )
    task = joint_task(setting, 1, load_dsr(start.dsr), load_edgeface(start.edgeface), {})
    drawn = [tuple(task.batch(draw).faces.vlr.shape[2:]) for epoch in range(4) for draw in task.sampler.draws(epoch)]
    assert set(drawn) == {(16, 14), (16, 16), (20, 20)}  # height first
    assert drawn.count((16, 14)) > drawn.count((20, 20))
    control, joint = run_cycles(setting)
    for step in (control, joint):
        for record in step.fit.history:
            assert record["auc"] == pytest.approx(np.mean([record[f"auc_{size}"] for size in ("14x16", "16x16", "20x20")]))
