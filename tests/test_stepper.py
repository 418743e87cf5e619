"""One step: in parts, out of memory, averaged, measured, in other precisions, compiled."""

import math
import shutil

import pytest
import torch
from conftest import difference, same_weights, weights_of
from torch import nn

from dsrkit import runs
from dsrkit.losses import MarginHead
from dsrkit.models import DSR, DSRConfig, load_edgeface
from dsrkit.models.checkpoint import load_checkpoint
from dsrkit.runs import Run
from dsrkit.training import TrainingError, open_setting, train_dsr
from dsrkit.training.dsr import DSRTask
from dsrkit.training.edgeface import EdgeFaceTask
from dsrkit.training.joint import JointTask
from dsrkit.training.loop import Schedule, fit
from dsrkit.training.sampling import Sampler
from dsrkit.training.stepper import Stepper

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def opened(tmp_path_factory, stage_params):
    """Settings of the stages; a step has seven faces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROOT", tmp_path_factory.mktemp("stepper"))
        stages = ("02_dsr_training", "03_edgeface_finetune", "04_cyclic_cycle")
        yield {stage[:2]: open_setting(stage_params(stage, batch_size=7)) for stage in stages}


@pytest.fixture
def make(opened, edgeface_path, tmp_path):
    """Make a task of a stage, the same each time, with parameters changed."""

    def task(stage, **changes):
        setting = opened[stage].with_params(**changes)
        params = setting.params
        torch.manual_seed(3)
        dsr, edgeface = DSR(DSRConfig(8, 1)), load_edgeface(edgeface_path)
        nn.init.normal_(dsr.conv_out.weight, std=0.02)
        if stage == "02":
            embeddings = torch.from_numpy(setting.hr_embeddings.copy())
            return DSRTask(setting, dsr, setting.original, params, embeddings, 1e-3, tmp_path / "dsr.pt", {})
        if stage == "03":
            head = MarginHead(6, 16.0, 0.3, 0.1, params.margin_head)
            faces = (setting.train.hr, setting.validation.faces.hr)
            return EdgeFaceTask(setting, edgeface, head, params, *faces, 1e-3, 1e-4, tmp_path / "edgeface.pt", {})
        return JointTask(setting, params, dsr, edgeface, (tmp_path / "dsr.pt", tmp_path / "edgeface.pt"), {})

    return task


def after_steps(task, parts=1, steps=2, **settings):
    """The trained weights after some steps, and what the last one logged."""
    stepper = Stepper(task, CPU, parts=parts, **settings)
    for _, draw in zip(range(steps), task.sampler.draws(1), strict=False):
        logged = stepper.step(draw)
    return {name: value.detach().clone() for name, value in stepper.trained.state_dict().items()}, logged, stepper


EVERY_TERM = {"lambda_relation": 0.5, "lambda_feature_match": 0.3, "lambda_tv": 1e-4}
FINETUNE = {"lambda_arcface": 0.5, "lambda_relation": 0.5, "lambda_direct": 0.5, "direct_fraction": 0.3, "hr_fraction": 0.4}


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("02", EVERY_TERM),
        ("02", EVERY_TERM | {"identity_target": "augmented", "blend_probability": 1.0, "diversity": 0.05}),
        ("03", FINETUNE),
        ("04", {"hr_fraction": 0.3, "lambda_arcface": 0.1, "lambda_relation": 0.5, "lambda_original": 0.5, "diversity": 0.05}),
        ("04", {"lambda_arcface": 0.1, "identity_target": "augmented", "blend_probability": 0.5, "cutmix_probability": 0.3}),
    ],
)
def test_parts_change_nothing(make, stage, changes):
    """Seven faces in 1, 2, 3 and 7 parts; 0.3 and 0.4 of them are 2 and 3, which the parts share unevenly."""
    whole, logged, stepper = after_steps(make(stage, **changes))
    assert difference(make(stage, **changes).trained.state_dict(), stepper.trained.state_dict()) > 1e-4
    for parts in (2, 3, 7):
        weights, told, _ = after_steps(make(stage, **changes), parts)
        assert difference(whole, weights) < (5e-6 if stage == "03" else 1e-6)  # a key's bias has gradients of rounding alone
        assert told == pytest.approx(logged, rel=1e-4)


def test_a_part_of_a_step_counts_for_its_faces(make):
    """Independent of the stepper: the gradients of one step, added up by hand over unequal parts."""
    task = make("03", **FINETUNE)
    draw = next(task.sampler.draws(1))
    weights = [weight for group in task.parameter_groups() for weight in group["params"]]

    def gradient(share):
        losses = task.losses(task.batch(share))
        return torch.cat([found.flatten() for found in torch.autograd.grad(sum(losses.values()), weights)])

    shares = [draw.share(number, 3) for number in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2] and [share.first(0.3)[0] for share in shares] == [1, 1, 0]
    summed = sum(len(share) / 7 * gradient(share) for share in shares)
    whole = gradient(draw)
    assert float((summed - whole).norm() / whole.norm()) < 1e-5


def test_the_first_faces_of_a_step_are_the_same_in_every_sharing():
    draw = next(Sampler(24, 7, 0, 0).draws(1))
    assert draw.first(0.01) == (1, 1.0)  # a share above 0 is a face at least
    assert draw.first(0.4) == (3, 1.0) and draw.first(0.0) == (0, 0.0) and draw.first(1.0) == (7, 1.0)
    for shares in (2, 3, 7):
        parts = [draw.share(number, shares) for number in range(shares)]
        chosen = [row for part in parts for row in part.rows[: part.first(0.4)[0]]]
        assert sorted(chosen) == sorted(draw.rows[:3])
        assert sum(part.first(0.4)[1] * len(part) for part in parts) == pytest.approx(7)


class Greedy:
    """A DSR task on a machine that holds so many faces."""

    def __init__(self, task, room, message="CUDA out of memory. Tried to allocate 2.00 GiB."):
        self.task, self.room, self.message, self.asked = task, room, message, []

    def __getattr__(self, name):
        return getattr(self.task, name)

    def losses(self, batch):
        self.asked.append(len(batch.vlr))
        if len(batch.vlr) > self.room:
            raise torch.OutOfMemoryError(self.message)
        return self.task.losses(batch)


def test_out_of_memory_halves_the_parts_and_changes_nothing(make, capsys):
    fitted, _, _ = after_steps(make("02", **EVERY_TERM), parts=4)
    greedy = Greedy(make("02", **EVERY_TERM), room=2)
    weights, _, stepper = after_steps(greedy)
    assert greedy.asked == [7, 4, 2, 2, 2, 1, 2, 2, 2, 1] and stepper.parts == 4
    assert same_weights(weights, fitted)
    printed = capsys.readouterr().out
    assert [f"7 faces is now computed in {parts} parts" in printed for parts in (2, 4, 8)] == [True, True, False]


def test_out_of_memory_with_a_single_face(make):
    greedy = Greedy(make("02"), room=0)
    with pytest.raises(
        TrainingError, match=r"memory for a step of 7 faces in 7 parts, got: CUDA out of.*GiB\. Raise accumulate, lower"
    ):
        after_steps(greedy)
    assert greedy.asked == [7, 4, 2, 1]


def test_other_errors_pass_through(make):
    greedy = Greedy(make("02"), room=0, message="device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        after_steps(greedy)
    assert greedy.asked == [7]


def test_a_part_s_loss_that_is_not_finite_names_its_faces(make):
    task = make("02")
    task.embeddings[:] = float("nan")  # of every face, so the first part is the one that stops
    draw = next(task.sampler.draws(1))
    faces = ", ".join(task.names(draw.share(0, 3).rows))
    with pytest.raises(TrainingError, match="'identity': nan") as caught:
        after_steps(task, parts=3)
    assert f"from the faces {faces}. The last good" in str(caught.value)


def test_the_whole_gradient_is_clipped_not_each_part_s(make):
    for parts in (1, 3):
        _, _, stepper = after_steps(make("02"), parts, steps=1, grad_clip=1e-3)
        assert math.sqrt(sum(float(weight.grad.square().sum()) for weight in stepper.parameters)) == pytest.approx(1e-3, rel=1e-3)


# --- the moving average


def test_the_average_is_validated_and_saved_and_training_goes_on_from_the_plain_weights(make, monkeypatch, tmp_path):
    plain, validated = [], []
    step = Stepper.step

    def stepping(stepper, *arguments, **options):
        logged = step(stepper, *arguments, **options)
        plain.append({name: value.detach().clone() for name, value in stepper.trained.state_dict().items()})
        return logged

    monkeypatch.setattr(Stepper, "step", stepping)
    task = make("02")
    task.validate = lambda: (
        validated.append({n: v.clone() for n, v in task.dsr.state_dict().items()}),
        {"psnr": len(validated)},
    )[1]
    fit(task, Schedule(3, select_by="psnr", ema_decay=0.9))
    with_average = list(plain)

    average, expected = None, []
    for number, weights in enumerate(with_average, 1):
        average = weights if average is None else {name: 0.9 * average[name] + 0.1 * weights[name] for name in weights}
        if number % 2 == 0:  # two steps an epoch
            expected.append(average)
    assert len(validated) == 4
    assert [difference(*pair) for pair in zip(validated[1:], expected, strict=True)] == pytest.approx([0] * 3, abs=1e-6)
    assert difference(validated[-1], with_average[-1]) > 1e-4
    assert same_weights(weights_of(tmp_path / "dsr.pt"), validated[-1])
    assert same_weights(task.dsr.state_dict(), with_average[-1])  # what is left to go on from

    plain.clear()
    without = make("02")
    without.validate = lambda: {"psnr": 0.0}
    fit(without, Schedule(3, select_by="psnr"))
    assert all(same_weights(*pair) for pair in zip(plain, with_average, strict=True))


def test_an_average_of_a_head_that_counts_batches(make):
    """AdaFace's statistics are buffers, one of them a whole number."""
    task = make("03", lambda_arcface=0.5, margin_head="adaface")
    _, _, stepper = after_steps(task, ema_decay=0.5)
    plain = task.head.length_mean.clone()
    with stepper.averaged():
        assert torch.isfinite(task.head.length_mean) and not torch.equal(task.head.length_mean, plain)
    assert torch.equal(task.head.length_mean, plain) and int(task.head.batches) == 2


# --- gradients of the terms


def test_gradient_norms_in_the_history(make):
    done = fit(make("02"), Schedule(1))
    task = make("02")
    task.trained.train()
    losses = task.losses(task.batch(next(task.sampler.draws(1))))
    assert {name for name in done.history[1] if name.startswith("gradient_")} == {f"gradient_{name}" for name in losses}
    for name, loss in losses.items():
        task.dsr.zero_grad()
        loss.backward(retain_graph=True)
        norm = math.sqrt(sum(float(weight.grad.square().sum()) for weight in task.dsr.parameters()))
        assert done.history[1][f"gradient_{name}"] == pytest.approx(norm, rel=1e-4)


def test_measuring_gradients_changes_nothing(make):
    weights = []
    for measure in (False, True):
        task = make("03", **FINETUNE)
        stepper = Stepper(task, CPU)
        stepper.step(next(task.sampler.draws(1)), measure_gradients=measure)
        weights.append(stepper.trained.state_dict())
    assert same_weights(*weights)


# --- precision and compiling


def test_bf16_trains_and_keeps_fp32_weights(make):
    task = make("02", batch_size=2)
    before = {name: value.clone() for name, value in task.dsr.state_dict().items()}
    done = fit(task, Schedule(1, precision="bf16"))
    assert all(math.isfinite(value) for value in done.history[1].values())
    assert all(value.dtype == torch.float32 for value in task.dsr.state_dict().values())
    full = make("02", batch_size=2)
    fit(full, Schedule(1))
    step = difference(full.dsr.state_dict(), before)
    assert 0 < difference(full.dsr.state_dict(), task.dsr.state_dict()) < step  # rounded, not another training


def test_fp16_on_a_cpu_is_refused(make):
    with pytest.raises(
        TrainingError, match=r"precision: expected fp32 or bf16 on a CPU, got fp16\. Change it, or train on a GPU"
    ):
        fit(make("02"), Schedule(1, precision="fp16"))


def only_l1(task):
    task.weights = task.weights.model_copy(update={"lambda_identity": 0.0, "lambda_feature_match": 0.0})
    return task


class Line:
    """The least that can be trained."""

    def __init__(self):
        torch.manual_seed(0)
        self.trained, self.sampler = nn.Linear(4, 3), Sampler(12, 6, 0, 0)

    def parameter_groups(self):
        return [{"params": list(self.trained.parameters()), "lr": 0.1}]

    def batch(self, draw):
        return draw.uniform[:, :4]

    def losses(self, batch):
        return {"sine": (self.trained(batch).sin() - batch.sum(1, keepdim=True)).square().mean()}


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_learns_the_same():
    eager, logged, _ = after_steps(Line())
    compiled, told, stepper = after_steps(Line(), compiled=True)
    assert stepper.objective._compiled_call_impl is not None
    assert difference(eager, compiled) < 1e-4 and told == pytest.approx(logged, rel=1e-4)


def test_compiling_is_a_parameter(root, stage_params, monkeypatch):
    """A whole stage, traced forward and backward; without the compiler itself, which takes half a minute for its networks."""
    compiling, compiled = nn.Module.compile, []

    def compile_module(module):
        compiled.append(module)
        compiling(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    done = train_dsr(open_setting(stage_params("02_dsr_training", compile=True)))
    assert len(compiled) == 1 and math.isfinite(done.history[1]["loss_total"]) and "gradient_l1" not in done.history[1]
    train_dsr(open_setting(stage_params("02_dsr_training", run="eager")))
    ended = [load_checkpoint(Run(run).folder / "02_dsr_training.state.pt", "training") for run in ("tiny", "eager")]
    weights = [content["training_state_dict"]["ended"]["DSR"]["stepper"]["trained"] for content in ended]
    assert difference(weights[0], weights_of(Run("eager").dsr)) > 0 and difference(*weights) < 1e-4
