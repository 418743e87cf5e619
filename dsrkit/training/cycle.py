"""The cycle: DSR goes on learning with the fine-tuned EdgeFace as its teacher, and EdgeFace from the new DSR.

Two modes. *Alternate* is the seeds' recipe: cycle 1 continues DSR; from cycle 2 on EdgeFace is fine-tuned again first.
*Joint* trains both at once, end to end, towards the original recogniser's embedding of the HR face (distillation, as in
FitNets-style teacher-student training, Hinton et al. 2015, arXiv 1503.02531). Every step starts from its own validation
result: a step whose best epoch is its start is refused, and the networks stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsrkit.losses import identity_loss
from dsrkit.models.checkpoint import copy_checkpoint, keep_previous, save_checkpoint
from dsrkit.models.dsr import DSR, dsr_content, read_dsr
from dsrkit.models.edgeface import EdgeFace, load_edgeface
from dsrkit.params import CyclicCycle
from dsrkit.recognition import embed, restore
from dsrkit.runs import resolve
from dsrkit.training.collapse import CollapseWatch
from dsrkit.training.dsr import DSRBatch, DSRTask, pair_batches
from dsrkit.training.edgeface import Recipe, finetune, save_edgeface
from dsrkit.training.loop import Fit, fit
from dsrkit.training.setting import Setting


@dataclass
class JointTask:
    """DSR and EdgeFace together. See ``loop.Task``."""

    setting: Setting
    dsr: DSR
    edgeface: EdgeFace
    paths: tuple[Path, Path]
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        assert isinstance(self.setting.params, CyclicCycle)
        self.params = self.setting.params
        self.embeddings = torch.from_numpy(self.setting.hr_embeddings).to(self.setting.device)

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleList([self.dsr, self.edgeface])

    def parameter_groups(self) -> list[dict[str, Any]]:
        self.edgeface.requires_grad_(True)
        groups = ((self.dsr, self.params.learning_rate), (self.edgeface, self.params.backbone_lr))
        return [{"params": list(module.parameters()), "lr": rate} for module, rate in groups]

    def steps(self) -> int:
        return len(self.setting.batches(len(self.setting.train), self.params.batch_size))

    def batches(self, epoch: int) -> Iterator[DSRBatch]:
        return pair_batches(self.setting, self.embeddings, self.params.batch_size, epoch)

    def losses(self, batch: DSRBatch) -> dict[str, Tensor]:
        """Restored and HR faces (a share of them) towards the original's embedding; L1 keeps the face a face."""
        params, sr = self.params, self.dsr(batch.vlr)
        count = round(params.hr_fraction * len(sr))
        embeddings = self.edgeface.embed(torch.cat([sr, batch.hr[:count]]))
        losses = {
            "l1": params.lambda_l1 * F.l1_loss(sr, batch.hr),
            "identity": params.lambda_identity * identity_loss(embeddings[: len(sr)], batch.embeddings),
        }
        if count:
            losses["hr"] = params.lambda_hr * identity_loss(embeddings[len(sr) :], batch.embeddings[:count])
        return losses

    def validate(self) -> dict[str, float]:
        validation = self.setting.validation
        restored = restore(validation.faces.vlr, self.dsr)
        return validation.images(restored) | validation.verification(self.edgeface, restored) | validation.hr_kept(self.edgeface)

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        about = {"epoch": epoch, "metrics": metrics, "provenance": self.origin}
        save_checkpoint(self.paths[0], "dsr", dsr_content(self.dsr) | about)
        save_edgeface(self.paths[1], self.edgeface, None, self.setting, epoch, metrics, self.origin)


@dataclass
class Step:
    """One step of a cycle that was tried."""

    cycle: int
    step: str
    fit: Fit

    def record(self, measure: str) -> dict[str, Any]:
        """For a table: the measure before and after, and whether the step was accepted."""
        start = next(row for row in self.fit.history if row["epoch"] == 0)
        return {
            "cycle": self.cycle, "step": self.step, "before": start[measure], "best": self.fit.best[measure],
            "accepted": self.fit.improved, "epochs": self.fit.history[-1]["epoch"], "ended": self.fit.ended,
            "seconds": round(self.fit.seconds),
        }  # fmt: skip


OnStep = Callable[[str, list[dict[str, float]]], None]


def run_cycles(setting: Setting, on_epoch: OnStep = lambda title, history: None) -> list[Step]:
    """The stage ``04_cyclic_cycle``: ``cycles`` cycles from ``dsr.pt`` and ``edgeface.pt``.

    Cycle k leaves ``dsr_cycle<k>.pt`` and ``edgeface_cycle<k>.pt``, the same networks as before where a step was refused.
    """
    params, run = setting.params, setting.run
    assert isinstance(params, CyclicCycle)
    dsr_path = resolve(params.dsr, run.dsr, "DSR (dsr)")
    edgeface_path = resolve(params.finetuned_edgeface, run.edgeface, "fine-tuned EdgeFace (finetuned_edgeface)")
    steps: list[Step] = []
    number = 1
    while run.cycle(number)[0].exists():  # every cycle of an earlier training, so that none of them is taken for one of this
        for path in run.cycle(number):
            keep_previous(path)
        number += 1
    for number in range(1, params.cycles + 1):
        one_cycle = _joint if params.mode == "joint" else _alternate
        steps += one_cycle(setting, number, dsr_path, edgeface_path, on_epoch)
        dsr_path, edgeface_path = run.cycle(number)
    return steps


def _joint(setting: Setting, number: int, dsr_path: Path, edgeface_path: Path, on_epoch: OnStep) -> list[Step]:
    params = setting.params
    assert isinstance(params, CyclicCycle)
    dsr = read_dsr(dsr_path, setting.device)
    task = JointTask(
        setting,
        dsr,
        load_edgeface(edgeface_path, setting.device),
        setting.run.cycle(number),
        setting.origin(dsr=dsr_path, edgeface=edgeface_path),
    )
    schedule = setting.schedule(epochs=params.epochs, warmup_epochs=params.warmup_epochs)
    watch = CollapseWatch(params.collapse_d_prime, params.collapse_effective_rank)
    title = f"cycle {number}, joint"
    return [Step(number, "joint", fit(task, schedule, lambda history: on_epoch(title, history), watch, title))]


def _alternate(setting: Setting, number: int, dsr_path: Path, edgeface_path: Path, on_epoch: OnStep) -> list[Step]:
    params, steps = setting.params, []
    assert isinstance(params, CyclicCycle)
    new_dsr, new_edgeface = setting.run.cycle(number)
    origin = setting.origin(dsr=dsr_path, edgeface=edgeface_path)
    dsr, edgeface = read_dsr(dsr_path, setting.device), load_edgeface(edgeface_path, setting.device)
    if number == 1:
        copy_checkpoint(edgeface_path, new_edgeface)
    else:
        recipe = Recipe(
            params.stage1_epochs, params.stage2_epochs, params.head_lr, params.backbone_lr, params.head_lr_stage2,
            params.finetune_batch_size,
        )  # fmt: skip
        title = f"cycle {number}, EdgeFace"
        tuned = finetune(
            replace(setting, params=params.of_finetune()),
            edgeface,
            dsr,
            recipe,
            new_edgeface,
            origin,
            lambda history: on_epoch(title, history),
        )
        steps.append(Step(number, "EdgeFace", tuned))
        edgeface = load_edgeface(new_edgeface, setting.device)
    weights, rate, epochs = params, params.learning_rate, params.epochs
    if number > 1:
        changes = {"lambda_identity": params.lambda_identity_cycle2, "lambda_feature_match": params.lambda_feature_match_cycle2}
        weights, rate, epochs = params.model_copy(update=changes), params.learning_rate_cycle2, params.epochs_cycle2
    embeddings = torch.from_numpy(embed(setting.train.hr, edgeface)).to(setting.device)
    task = DSRTask(setting, dsr, edgeface, weights, embeddings, rate, new_dsr, origin)
    title = f"cycle {number}, DSR"
    schedule = setting.schedule(epochs=epochs, warmup_epochs=params.warmup_epochs)
    steps.append(Step(number, "DSR", fit(task, schedule, lambda history: on_epoch(title, history), title=title)))
    return steps
