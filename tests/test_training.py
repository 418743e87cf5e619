"""The loop on a toy with a script; then every stage on a handful of made-up faces."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, made_up_splits, same_weights, weights_of
from small_dataset import write_dataset
from torch import nn

from dsrkit import metrics, runs
from dsrkit.data.migration import Migration, migrate
from dsrkit.models import DSR, DSRConfig, load_dsr, load_edgeface
from dsrkit.models.checkpoint import load_checkpoint, read_weights
from dsrkit.params import STAGES
from dsrkit.recognition import restore
from dsrkit.runs import Run
from dsrkit.training import TrainingError, open_setting, run_cycles, train_dsr, train_edgeface
from dsrkit.training.collapse import CollapseWatch
from dsrkit.training.dsr import DSRTask
from dsrkit.training.loop import Schedule, better, fit, warmup_cosine
from dsrkit.training.sampling import Draw, Sampler


class Toy:
    """A task whose validation results stand in a script."""

    def __init__(self, script, measure="eer", losses=None):
        self.trained = nn.Linear(2, 1)
        self.script, self.measure, self.given = list(script), measure, losses
        self.saved, self.modes, self.dtypes, self.epoch = [], [], [], 0

    def parameter_groups(self):
        return [{"params": list(self.trained.parameters()), "lr": 0.1}]

    @property
    def sampler(self):
        return self

    def __len__(self):
        return 3

    def draws(self, epoch, first=0):
        self.epoch = epoch
        none = (torch.zeros(4, 11), torch.zeros(4, 4), 0.0)
        return iter([Draw(np.full(4, step), *none, np.full(4, step)) for step in (1, 2, 3)][first:])

    def batch(self, draw):
        return float(draw.rows[0])

    def names(self, rows):
        return [f"face {row}" for row in rows]

    def losses(self, batch):
        self.modes.append(self.trained.training)
        answer = self.trained(torch.ones(4, 2))
        self.dtypes.append(answer.dtype)
        return {"fit": (answer.float() - 1000).square().mean(), **(self.given(self.epoch, batch) if self.given else {})}

    def validate(self):
        assert not self.trained.training
        return {self.measure: self.script.pop(0)}

    def save(self, epoch, metrics):
        self.saved.append((epoch, metrics[self.measure]))


class OneStep(Toy):
    def __len__(self):
        return 1

    def draws(self, epoch, first=0):
        return itertools.islice(super().draws(epoch), 1)


def test_warm_up_then_half_a_cosine():
    factor = warmup_cosine(4, 12)
    assert [factor(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factor(4) == 1
    assert factor(8) == pytest.approx(0.5)
    assert factor(6) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert factor(12) == pytest.approx(0) and factor(99) == pytest.approx(0)
    assert warmup_cosine(0, 10)(0) == 1
    assert warmup_cosine(0, 0)(0) == 1


def test_history_holds_the_start_and_every_epoch():
    task, seen = Toy([0.5, 0.4, 0.3]), []
    done = fit(task, Schedule(2, warmup_epochs=1), on_epoch=lambda history: seen.append(len(history)))
    assert [record["epoch"] for record in done.history] == [0, 1, 2] and seen == [1, 2, 3]
    assert [record["eer"] for record in done.history] == [0.5, 0.4, 0.3]
    assert "loss_total" not in done.history[0]
    assert done.history[1]["learning_rate"] == pytest.approx(0.1)  # warmed up after one epoch
    assert done.history[2]["learning_rate"] == pytest.approx(0)
    assert done.ended == "all epochs done" and done.improved and done.seconds > 0
    assert all(task.modes) and len(task.modes) == 6


def test_losses_are_means_over_the_epoch():
    task = Toy([0.5, 0.4], losses=lambda epoch, batch: {"batch": torch.tensor(batch)})
    record = fit(task, Schedule(1)).history[1]
    assert record["loss_batch"] == pytest.approx(2.0)
    assert record["loss_total"] == pytest.approx(record["loss_fit"] + 2.0)


def test_the_best_epoch_is_kept():
    task = Toy([0.5, 0.3, 0.4, 0.2, 0.6])
    done = fit(task, Schedule(4))
    assert task.saved == [(0, 0.5), (1, 0.3), (3, 0.2)]
    assert done.best["epoch"] == 3


def test_the_start_is_kept_when_nothing_is_better():
    task = Toy([0.1, 0.3, 0.1])
    done = fit(task, Schedule(2))
    assert task.saved == [(0, 0.1)] and done.best["epoch"] == 0 and not done.improved


def test_early_stopping():
    task = Toy([0.5, 0.3, 0.4, 0.4, 0.1])
    done = fit(task, Schedule(9, patience=2))
    assert [record["epoch"] for record in done.history] == [0, 1, 2, 3]
    assert done.ended == "no better eer for 2 epochs" and done.best["epoch"] == 1


def test_which_record_is_better():
    assert better({"eer": 0.1}, {"eer": 0.2}, "eer") and not better({"eer": 0.2}, {"eer": 0.1}, "eer")
    assert better({"auc": 0.9}, {"auc": 0.8}, "auc") and not better({"auc": 0.9}, {"auc": 0.9}, "auc")
    tied = {"eer": 0.1, "identity_similarity": 0.5}
    assert better(tied | {"identity_similarity": 0.6}, tied, "eer") and not better(tied, tied, "eer")
    assert not better({"eer": float("nan")}, {"eer": 0.1}, "eer")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_its_terms(bad):
    task = Toy([0.5, 0.4], losses=lambda epoch, batch: {"broken": torch.tensor(bad if epoch == 2 and batch == 2 else 1.0)})
    with pytest.raises(
        TrainingError, match=rf"DSR, epoch 2, step 2: expected finite.*'broken': {bad}.*face 2, face 2.*lower the"
    ):
        fit(task, Schedule(3), title="DSR")
    assert task.saved == [(0, 0.5), (1, 0.4)]


def test_weights_that_are_not_finite_stop_before_validation():
    """A loss may be finite and its gradient not: the square root's at 0."""
    task = OneStep([0.5])
    weight = task.trained.weight
    task.losses = lambda batch: {"fit": (weight - weight.detach()).square().sum().sqrt()}
    with pytest.raises(TrainingError, match=r"expected finite weights, got others after epoch 1\. The last good"):
        fit(task, Schedule(3))
    assert task.saved == [(0, 0.5)]


def test_no_loss_at_all():
    task = Toy([0.5])
    task.losses = lambda batch: {}
    with pytest.raises(TrainingError, match=r"expected a loss to train with, got none\. Set one lambda"):
        fit(task, Schedule(1))


def test_a_measure_that_is_not_measured():
    with pytest.raises(TrainingError, match=r"select_by: expected one of .*'eer'.*got 'psnr'"):
        fit(Toy([0.5]), Schedule(1, select_by="psnr"))


def test_a_watch_stops_and_the_epoch_it_stopped_at_is_not_kept():
    task = Toy([0.5, 0.4, 0.01])
    done = fit(task, Schedule(9), watch=lambda record: "too good to be true" if record["eer"] < 0.1 else None)
    assert done.ended == "too good to be true" and len(done.history) == 3
    assert task.saved == [(0, 0.5), (1, 0.4)] and done.best["epoch"] == 1


def test_gradients_are_clipped_when_asked():
    def norm(task):
        return math.sqrt(sum(float(weight.grad.square().sum()) for weight in task.trained.parameters()))

    clipped, free = Toy([0.5, 0.5]), Toy([0.5, 0.5])
    fit(clipped, Schedule(1, grad_clip=0.5))
    fit(free, Schedule(1))
    assert norm(clipped) == pytest.approx(0.5, rel=1e-3) and norm(free) > 100


def test_precision_can_change_within_one_process():
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        task = Toy([0.5, 0.4])
        fit(task, Schedule(1, precision=precision))
        assert set(task.dtypes) == {dtype}
        assert task.trained.weight.dtype == torch.float32


# --- sampler and watch


def test_sampler_passes_over_every_face_once():
    sampler = Sampler(10, 3, 0, seed=1)
    batches = sampler.epoch(1)
    assert len(batches) == len(sampler) == 3 and len(set(np.concatenate(batches))) == 9
    again = Sampler(10, 3, 0, seed=1).epoch(1)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(sampler.epoch(2)))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(Sampler(10, 3, 0, seed=2).epoch(1)))


def test_a_share_of_each_batch_is_a_share_of_all_faces():
    sampler = Sampler(64, 8, 0, seed=0)
    first_quarters = [batch[:2] for epoch in range(1, 21) for batch in sampler.epoch(epoch)]
    assert set(np.concatenate(first_quarters)) == set(range(64))


def test_sampler_comes_round_again_for_a_longer_epoch():
    rows = np.concatenate(Sampler(10, 5, 6, seed=0).epoch(1))
    assert np.bincount(rows).tolist() == [3] * 10


def test_draws_depend_on_seed_epoch_and_step_alone():
    def numbers(seed, epoch, step):
        return float(next(Sampler(8, 2, 0, seed).draws(epoch, first=step)).uniform[0, 0])

    assert numbers(0, 1, 2) == numbers(0, 1, 2)
    assert len({numbers(0, 1, 0), numbers(0, 1, 1), numbers(0, 2, 0), numbers(1, 1, 0)}) == 4
    rest = list(Sampler(8, 2, 0, 0).draws(1))[2:]
    again = list(Sampler(8, 2, 0, 0).draws(1, first=2))
    assert all(np.array_equal(one.rows, other.rows) for one, other in zip(rest, again, strict=True)) and len(again) == 2


def test_shares_of_a_step_make_up_the_step():
    draw = next(Sampler(12, 7, 0, 0).draws(1))
    shares = [draw.share(number, 3) for number in range(3)]
    assert sorted(np.concatenate([share.rows for share in shares])) == sorted(draw.rows)
    for share in shares:
        for row, uniform in zip(share.rows, share.uniform, strict=True):
            assert torch.equal(uniform, draw.uniform[list(draw.rows).index(row)])


def measured(d_prime, rank):
    return {"d_prime": d_prime, "effective_rank": rank, "genuine_mean": 0.9, "impostor_mean": 0.8}


def test_collapse_watch():
    watch = CollapseWatch(0.7, 0.5)
    assert watch(measured(2.0, 100)) is None  # the start
    assert watch(measured(1.41, 51)) is None
    reason = watch(measured(1.39, 100))
    assert "d_prime fell from 2.00 to 1.39, below 70%" in reason and "impostor mean 0.80" in reason and "Lower" in reason
    assert "effective_rank fell from 100.00 to 49.00" in watch(measured(3.0, 49))


def test_what_is_left_of_hr_embeddings_is_watched_and_nan_is_a_collapse():
    watch = CollapseWatch(0.7, 0.5, 0.5)
    assert watch(measured(2.0, 100) | {"hr_similarity": 1.0}) is None
    assert watch(measured(2.0, 100) | {"hr_similarity": 0.51}) is None
    assert "hr_similarity fell from 1.00 to 0.49" in watch(measured(2.0, 100) | {"hr_similarity": 0.49})
    assert "d_prime fell from 2.00 to nan" in watch(measured(float("nan"), 100) | {"hr_similarity": 1.0})


def test_collapse_watch_can_be_switched_off():
    watch = CollapseWatch(0, 0)
    assert watch(measured(2.0, 100)) is None and watch(measured(0.01, 1)) is None


# --- the stages


@pytest.fixture(scope="module")
def trained(tmp_path_factory, stage_params):
    """Stages 02 and 03 run once; returns the folder, both fits, and what ``on_epoch`` saw."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("trained")
        patch.setattr(runs, "ROOT", root)
        seen = []
        params = stage_params("02_dsr_training", epochs=2, learning_rate=2e-3)
        dsr_fit = train_dsr(open_setting(params), on_epoch=lambda history: seen.append(len(history)))
        params = stage_params("03_edgeface_finetune", lambda_arcface=0.1, stage1_epochs=1, stage2_epochs=2)
        edgeface_fit = train_edgeface(open_setting(params), on_epoch=lambda history: seen.append(len(history)))
        yield root, dsr_fit, edgeface_fit, seen


@pytest.fixture
def after(trained, monkeypatch) -> Run:
    """The run that holds ``dsr.pt`` and ``edgeface.pt``; what a test writes, the next may overwrite."""
    monkeypatch.setattr(runs, "ROOT", trained[0])
    return Run("tiny")


TRAINING = {"02_dsr_training": train_dsr, "03_edgeface_finetune": train_edgeface, "04_cyclic_cycle": run_cycles}

SHIPPED = {path.parent.name for path in REPOSITORY.glob("params/*/02_dsr_training.yaml")}
TWINS = {"demo", "vlr14x16", "vlr24", "vlr32"}  # trained by other tests; and three that differ from vlr16 by their size alone


@pytest.mark.parametrize("run", sorted(SHIPPED - TWINS))
def test_every_recipe_that_ships_can_be_trained(root, tmp_path, edgeface_path, run):
    """Its losses, fractions and augmentations as they stand, with small networks and one small batch of noise an epoch."""
    dataset = write_dataset(tmp_path / "noise", {"train": 6, "val": 6}, ["14x16", "16x16", "24x24", "32x32"])
    (dataset / "dataset.json").write_text(json.dumps({"degradation": "bicubic-antialias", "seed": 0}))
    short = dict.fromkeys(["epochs", "epochs_cycle2", "steps_per_epoch", "members", "residual_blocks"], 1)
    short |= {"base_channels": 8, "batch_size": 4, "finetune_batch_size": 4, "warmup_epochs": 0, "lambda_perceptual": 0.0}
    for stage, train in TRAINING.items():
        values = STAGES[stage].read(REPOSITORY / "params" / run / f"{stage}.yaml").model_dump()
        changes = {name: min(values.get(name, 0), 1) for name in ("stage1_epochs", "stage2_epochs", "control_epochs")}
        changes |= {name: str(edgeface_path) for name in ("edgeface", "finetuned_edgeface") if values.get(name)}
        changes |= short | {"device": "cpu", "dataset": str(dataset)}
        train(open_setting(STAGES[stage].check(values | {name: changes[name] for name in changes if name in values})))
    assert all(path.exists() for path in (Run(run).dsr, *Run(run).cycle(1)))


def test_dsr_training_leaves_a_checkpoint_that_says_where_it_came_from(trained, after):
    fit_ = trained[1]
    content = load_checkpoint(after.dsr, "dsr")
    assert content["config"] == {"base_channels": 8, "residual_blocks": 1, "output_size": 112}
    assert content["epoch"] == fit_.best["epoch"] and content["metrics"]["eer"] == fit_.best["eer"]
    assert content["provenance"]["parameters"]["learning_rate"] == 2e-3
    about = json.loads(after.dsr.with_suffix(".pt.json").read_text())
    assert about["epoch"] == content["epoch"] and "state_dict" not in about
    assert {"eer", "auc", "d_prime", "psnr", "ssim", "identity_similarity", "effective_rank"} <= set(fit_.history[0])
    assert {"loss_l1", "loss_identity", "loss_feature_match", "loss_tv", "loss_total"} <= set(fit_.history[1])
    assert trained[3][:3] == [1, 2, 3]
    assert load_dsr(after.dsr).config.base_channels == 8


def test_epoch_0_of_dsr_training_is_the_direct_feed(trained, stage_params, after):
    setting = open_setting(stage_params("02_dsr_training"))
    direct = setting.validation.images(restore(setting.validation.faces.vlr, None))
    assert trained[1].history[0]["psnr"] == pytest.approx(direct["psnr"], abs=0.02)


def test_edgeface_fine_tune_leaves_the_documented_checkpoint(trained, after, edgeface_path):
    content = load_checkpoint(after.edgeface, "edgeface")
    subjects = content["subject_to_id"]
    assert len(subjects) == 6 and sorted(subjects.values()) == list(range(6)) and list(subjects) == sorted(subjects)
    assert content["arcface_state_dict"]["weight"].shape == (6, 512)
    assert content["variant"] == "edgeface_xxs" and set(content["backbone_state_dict"]) == set(read_weights(edgeface_path))
    assert load_edgeface(after.edgeface).variant == "edgeface_xxs"
    history = trained[2].history
    assert [record["epoch"] for record in history] == [-1, 0, 1, 2]  # the head alone up to 0, then everything
    assert {"loss_margin", "loss_distill", "loss_hr"} <= set(history[1])
    assert {"eer", "hr_eer", "hr_similarity", "d_prime"} <= set(history[0])
    assert history[0]["hr_similarity"] == pytest.approx(1, abs=1e-4)
    measured_in_stage1 = [history[0]["identity_similarity"], history[1]["identity_similarity"]]
    assert measured_in_stage1[0] == measured_in_stage1[1]  # the backbone stood still
    assert history[-1]["identity_similarity"] != measured_in_stage1[0]


def test_training_twice_gives_the_same_weights(after, stage_params):
    weights = []
    for _ in range(2):
        train_dsr(open_setting(stage_params("02_dsr_training", run="again", select_by="identity_similarity")))
        weights.append(weights_of(Run("again").dsr))
    assert same_weights(*weights)


def test_dsr_training_continues_from_a_checkpoint(after, stage_params):
    changes = {"run": "continued", "initial_dsr": str(after.dsr), "learning_rate": 1e-30}
    train_dsr(open_setting(stage_params("02_dsr_training", **changes)))
    assert same_weights(weights_of(Run("continued").dsr), weights_of(after.dsr))
    with pytest.raises(ValueError, match=r"initial_dsr: expected .*base_channels=16.*got .*base_channels=8.*Give the same"):
        train_dsr(open_setting(stage_params("02_dsr_training", base_channels=16, **changes)))


def test_the_perceptual_loss_takes_part(after, stage_params, tmp_path):
    import torchvision

    torch.manual_seed(0)
    trunk = torchvision.models.vgg19(weights=None).features[:13]
    torch.save({f"features.{key}": value for key, value in trunk.state_dict().items()}, tmp_path / "vgg.pth")
    vgg = {"lambda_perceptual": 0.1, "vgg_weights": str(tmp_path / "vgg.pth")}
    params = stage_params("02_dsr_training", run="vgg", steps_per_epoch=1, batch_size=2, **vgg)
    assert train_dsr(open_setting(params)).history[1]["loss_perceptual"] > 0


def test_terms_of_weight_0_are_left_out(after, stage_params):
    none = {"lambda_identity": 0.0, "lambda_feature_match": 0.0, "lambda_tv": 0.0}
    record = train_dsr(open_setting(stage_params("02_dsr_training", run="l1", **none))).history[1]
    assert {name for name in record if name.startswith("loss_")} == {"loss_l1", "loss_total"}


def test_fine_tuning_without_arcface_skips_the_head(after, stage_params):
    params = stage_params("03_edgeface_finetune", run="distill", dsr=str(after.dsr), lambda_arcface=0.0, stage1_epochs=3)
    done = train_edgeface(open_setting(params))
    assert [record["epoch"] for record in done.history] == [0, 1]
    assert {name for name in done.history[1] if name.startswith("loss_")} == {"loss_distill", "loss_hr", "loss_total"}


@pytest.mark.parametrize(("term", "left"), [("l1", 0.5), ("identity", 0.65), ("relation", 0.65), ("feature_match", 0.65)])
def test_one_batch_can_be_overfitted(after, stage_params, tmp_path, term, left):
    """Enough steps on the same four faces bring each term down, where it is the one that counts.

    The faces to restore are negatives: what bicubic lacks of a face is mostly camera noise, which takes too long to learn.
    """
    weights = {f"lambda_{name}": float(name == term) for name in ("l1", "identity", "relation", "feature_match", "tv")}
    still = {"flip_probability": 0.0, "jitter_probability": 0.0}
    setting = open_setting(stage_params("02_dsr_training", batch_size=4, **weights, **still))
    few = dataclasses.replace(setting, train=setting.train.first(4), hr_embeddings=setting.hr_embeddings[:4])
    torch.manual_seed(0)
    dsr, embeddings = DSR(DSRConfig(16, 1)), torch.from_numpy(few.hr_embeddings)
    task = DSRTask(few, dsr, few.original, few.params, embeddings, 0.0, tmp_path / "dsr.pt", {})
    batch, optimizer = task.batch(next(task.sampler.draws(1))), torch.optim.Adam(dsr.parameters(), 4e-3)
    batch.hr = 1 - batch.hr
    values = []
    for _ in range(40):
        losses = task.losses(batch)
        values.append(float(losses[term].detach()))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert values[-1] < left * values[0]


def test_vlr_is_degraded_from_the_augmented_hr(after, stage_params):
    from dsrkit.data.degrade import degrade
    from dsrkit.training.dsr import PairedFaces

    setting = open_setting(stage_params("02_dsr_training", vlr_size="14x16", rotation_probability=1.0))
    faces = PairedFaces(setting, torch.from_numpy(setting.hr_embeddings), None, ("14x16",))
    batch = faces(next(setting.sampler(8).draws(1)))
    assert batch.vlr.shape == (8, 3, 16, 14) and batch.embeddings.shape == (8, 512)
    assert torch.equal(batch.vlr, degrade(batch.hr, "14x16"))


# --- collapse


def test_a_real_collapse_is_stopped_where_distillation_holds(after, stage_params, tmp_path):
    """Eight people, the shipped recogniser, 15 times the demo's rate: ArcFace alone (s = 64, m = 0.5) ruins it within a few
    steps and is stopped, its last good weights kept; the demo's recipe, on the same data, rates, steps and seed, improves it."""
    migrate(made_up_splits(16, 6), tmp_path / "set", Migration(("16x16",), "bicubic-antialias", 0))
    common = {
        "dataset": str(tmp_path / "set"), "edgeface": "demo", "dsr": str(after.dsr), "control": False, "stage1_epochs": 0,
        "stage2_epochs": 3, "steps_per_epoch": 10, "backbone_lr": 1.5e-3,
    }  # fmt: skip
    alone = {"lambda_arcface": 1.0, "lambda_distill": 0.0, "lambda_hr": 0.0, "arcface_scale": 64.0, "arcface_margin": 0.5}
    ruined, held = (
        train_edgeface(open_setting(stage_params("03_edgeface_finetune", run=run, **common, **changes)))
        for run, changes in (("ruined", alone), ("held", {}))
    )
    start, last = ruined.history[0], ruined.history[-1]
    assert ruined.ended.startswith("collapse: ") and "The last good weights are kept" in ruined.ended
    assert min(last["d_prime"] / start["d_prime"] / 0.7, last["effective_rank"] / start["effective_rank"] / 0.5) < 1
    kept = load_checkpoint(Run("ruined").edgeface, "edgeface")
    assert kept["epoch"] < last["epoch"] and kept["metrics"]["d_prime"] >= 0.7 * start["d_prime"]
    if kept["epoch"] == 0:
        assert same_weights(kept["backbone_state_dict"], load_edgeface("demo").state_dict())
    assert held.ended == "all epochs done" and held.history[0] | {"seconds": 0} == start | {"seconds": 0}
    assert held.improved and held.best["eer"] <= start["eer"] < last["eer"]
    assert held.best["identity_similarity"] > start["identity_similarity"] + 0.05


# --- what stops a stage


def test_a_learning_rate_that_ends_in_nan_is_a_training_error(after, stage_params):
    params = stage_params("02_dsr_training", run="nan", learning_rate=1e30, grad_clip=0.0, epochs=3)
    with pytest.raises(TrainingError, match=r"DSR.*: expected finite (losses|weights).*[Ll]ower the learning rate"):
        train_dsr(open_setting(params))
    assert load_checkpoint(Run("nan").dsr, "dsr")["epoch"] == 0


def test_fewer_faces_than_a_batch(after, stage_params):
    with pytest.raises(ValueError, match=r"expected at least one batch of 25 faces, got 24\. Lower batch_size or add"):
        train_dsr(open_setting(stage_params("02_dsr_training", run="few", batch_size=25)))


def test_arcface_needs_two_subjects(after, stage_params, tmp_path):
    splits = made_up_splits()
    source, train = splits["train"]
    lonely = splits | {"train": (source, [face for face in train if face.subject == train[0].subject])}
    migrate(lonely, tmp_path / "set", Migration(("16x16",), "bicubic-antialias", 0))
    changes = {"run": "lonely", "dataset": str(tmp_path / "set"), "dsr": str(after.dsr), "batch_size": 4}
    with pytest.raises(ValueError, match=r"expected two training subjects or more, got 1\. .*set lambda_arcface to 0"):
        train_edgeface(open_setting(stage_params("03_edgeface_finetune", lambda_arcface=0.5, **changes)))
    train_edgeface(open_setting(stage_params("03_edgeface_finetune", lambda_arcface=0.0, **changes)))


def test_stages_before_that_did_not_run(root, stage_params):
    with pytest.raises(FileNotFoundError, match=r"DSR \(dsr\): expected it at .*outputs/tiny/dsr\.pt, got nothing there\. Run"):
        train_edgeface(open_setting(stage_params("03_edgeface_finetune")))
    with pytest.raises(FileNotFoundError, match=r"DSR \(dsr\): expected it at"):
        run_cycles(open_setting(stage_params("04_cyclic_cycle")))
    with pytest.raises(FileNotFoundError, match=r"data set \(dataset\): expected it at .*outputs/tiny/dataset"):
        open_setting(stage_params("02_dsr_training", dataset=""))


def test_native_low_resolution_teaches_nothing(root, stage_params):
    dataset = write_dataset(root / "scface", native=True)
    with pytest.raises(
        ValueError, match=r"scface: expected HR faces to learn from, got a native low-resolution data set.*evaluate on"
    ):
        open_setting(stage_params("02_dsr_training", dataset=str(dataset)))


def test_an_edgeface_that_is_not_there(root, stage_params, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"EdgeFace weights \(edgeface\): expected it at .*gone\.pt"):
        open_setting(stage_params("02_dsr_training", edgeface="gone.pt"))
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(FileNotFoundError, match=r"\$NOT_SET_ANYWHERE is not set\. Set it \(export"):
        open_setting(stage_params("02_dsr_training", edgeface="$NOT_SET_ANYWHERE/edgeface.pt"))


def test_vgg_weights_that_are_not_there(after, stage_params):
    params = stage_params("02_dsr_training", run="vgg", lambda_perceptual=0.1, vgg_weights="gone.pth")
    with pytest.raises(FileNotFoundError, match=r"VGG19 weights \(vgg_weights\): expected it at .*gone\.pth"):
        train_dsr(open_setting(params))


def test_validation_on_hr_faces(after, stage_params):
    """The measures agree with the metrics on embeddings worked out here."""
    setting = open_setting(stage_params("02_dsr_training"))
    validation, edgeface = setting.validation, setting.original
    with torch.inference_mode():
        images = torch.from_numpy(np.array(validation.faces.hr)).permute(0, 3, 1, 2).float() / 255
        embeddings = edgeface(images).numpy()
    scores = (embeddings[validation.pairs[:, 0]] * embeddings[validation.pairs[:, 1]]).sum(1)
    kept = validation.hr_kept(edgeface)
    assert kept["hr_similarity"] == pytest.approx(1, abs=1e-5)
    assert kept["hr_eer"] == pytest.approx(metrics.eer(scores, validation.same)[0], abs=1e-6)
    found = validation.verification(edgeface, np.array(validation.faces.hr))
    assert found["genuine_mean"] == pytest.approx(scores[validation.same].mean(), abs=1e-5)
    assert found["impostor_mean"] == pytest.approx(scores[~validation.same].mean(), abs=1e-5)


# --- the teacher that ships


def test_the_teacher_s_command(tmp_path, monkeypatch, capsys):
    from dsrkit.training import teacher

    path = tmp_path / "teacher.safetensors"
    monkeypatch.setattr(teacher, "ROOT", tmp_path)
    words = "--people 12 --images 2 --validation-people 3 --neutral-epochs 1 --epochs 1 --batch-size 6 --device cpu --path"
    monkeypatch.setattr("sys.argv", ["teacher", *words.split(), str(path)])
    teacher.main()
    assert path.stat().st_size < 2.6e6  # half precision
    assert load_edgeface(path).variant == "edgeface_xxs"
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["sha256"] == runs.file_hash(path)
    assert about["provenance"]["parameters"]["people"] == 12 and str(tmp_path) not in json.dumps(about["provenance"])
    assert {"rank1", "eer", "effective_rank"} <= set(about["metrics"])
    assert "after" in capsys.readouterr().out
