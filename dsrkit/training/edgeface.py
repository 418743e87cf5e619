"""Fine-tuning EdgeFace on restored faces, in two stages: the head alone, then everything at a low learning rate.

Three terms: ArcFace on the training subjects (the seeds' recipe), distillation to the original recogniser's embedding of
the HR face (no labels, no collapse), and the same on a share of HR faces, so that HR accuracy is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dsrkit.data.degrade import as_tensor
from dsrkit.losses import ArcFace, identity_loss
from dsrkit.models.checkpoint import keep_previous, save_checkpoint
from dsrkit.models.dsr import load_dsr
from dsrkit.models.edgeface import EdgeFace
from dsrkit.params import EdgeFaceFinetune, EdgeFaceLosses
from dsrkit.recognition import restore
from dsrkit.runs import resolve
from dsrkit.training.collapse import CollapseWatch
from dsrkit.training.loop import Fit, fit
from dsrkit.training.setting import Setting


@dataclass
class FaceBatch:
    restored: Tensor
    hr: Tensor
    labels: Tensor
    embeddings: Tensor  # of the HR faces, by the original recogniser


@dataclass
class EdgeFaceTask:
    """One stage of the fine-tune. See ``loop.Task``. ``trained`` is the head alone while the backbone is frozen."""

    setting: Setting
    edgeface: EdgeFace
    head: ArcFace
    weights: EdgeFaceLosses
    restored: UInt8[np.ndarray, "n 112 112 3"]
    validation_restored: UInt8[np.ndarray, "v 112 112 3"]
    batch_size: int
    head_lr: float
    backbone_lr: float
    path: Path
    origin: dict[str, Any]

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleList([self.edgeface, self.head] if self.backbone_lr else [self.head])

    def parameter_groups(self) -> list[dict[str, Any]]:
        self.edgeface.requires_grad_(self.backbone_lr > 0).eval()
        groups = [{"params": list(self.head.parameters()), "lr": self.head_lr}]
        if self.backbone_lr:
            groups.append({"params": list(self.edgeface.parameters()), "lr": self.backbone_lr})
        return groups

    def steps(self) -> int:
        return len(self.setting.batches(len(self.restored), self.batch_size))

    def batches(self, epoch: int) -> Iterator[FaceBatch]:
        setting, sampler = self.setting, self.setting.batches(len(self.restored), self.batch_size)
        augment, generator = setting.augmentation(), sampler.generator(epoch)
        for rows in sampler.epoch(epoch):
            restored, hr = (as_tensor(faces[rows]).to(setting.device) for faces in (self.restored, setting.train.hr))
            labels, wanted = torch.from_numpy(setting.train.labels[rows]), torch.from_numpy(setting.hr_embeddings[rows])
            count = round(self.weights.hr_fraction * len(rows))
            yield FaceBatch(
                augment(restored, generator), augment(hr[:count], generator), labels.to(setting.device), wanted.to(setting.device)
            )

    def losses(self, batch: FaceBatch) -> dict[str, Tensor]:
        """The whole of the fine-tune's objective."""
        weights, count = self.weights, len(batch.hr)
        embeddings = self.edgeface.embed(torch.cat([batch.restored, batch.hr]))
        restored, hr = embeddings[: len(batch.restored)], embeddings[len(batch.restored) :]
        losses = {}
        if weights.lambda_arcface:
            losses["arcface"] = weights.lambda_arcface * self.head(restored, batch.labels)
        if weights.lambda_distill:
            losses["distill"] = weights.lambda_distill * identity_loss(restored, batch.embeddings)
        if weights.lambda_hr and count:
            losses["hr"] = weights.lambda_hr * identity_loss(hr, batch.embeddings[:count])
        return losses

    def validate(self) -> dict[str, float]:
        validation = self.setting.validation
        return validation.verification(self.edgeface, self.validation_restored) | validation.hr_kept(self.edgeface)

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        save_edgeface(self.path, self.edgeface, self.head, self.setting, epoch, metrics, self.origin)


def save_edgeface(
    path: Path, edgeface: EdgeFace, head: ArcFace | None, setting: Setting, epoch: int, metrics: dict, origin: dict
) -> None:
    """Write ``edgeface.pt``: the backbone, the ArcFace head where there is one, and which subject is which class."""
    content = {
        "backbone_state_dict": {key: value.cpu() for key, value in edgeface.state_dict().items()},
        "arcface_state_dict": {key: value.cpu() for key, value in head.state_dict().items()} if head else {},
        "subject_to_id": setting.train.subject_to_id if head else {},
        "variant": edgeface.variant,
        "epoch": epoch,
        "metrics": metrics,
        "provenance": origin,
    }
    save_checkpoint(path, "edgeface", content)


@dataclass(frozen=True)
class Recipe:
    """Lengths and speeds of the two stages."""

    stage1_epochs: int
    stage2_epochs: int
    head_lr: float
    backbone_lr: float
    head_lr_stage2: float
    batch_size: int


def finetune(
    setting: Setting,
    edgeface: EdgeFace,
    dsr: nn.Module | None,
    recipe: Recipe,
    path: Path,
    origin: dict[str, Any],
    on_epoch=lambda history: None,
) -> Fit:
    """Fine-tune a copy of ``edgeface`` on faces restored by ``dsr`` (None: bicubic); the best goes to ``path``.

    The restored faces are made once. Both stages stand in one history: stage 1 counts up to epoch 0, where stage 2 starts.
    Raises ValueError with one subject only, when ArcFace is on.
    """
    weights = setting.params
    assert isinstance(weights, EdgeFaceLosses)
    subjects = len(setting.train.subject_to_id)
    if weights.lambda_arcface and subjects < 2:
        raise ValueError(
            f"ArcFace: expected two training subjects or more, got {subjects}. Add subjects, or set lambda_arcface to 0."
        )
    head = ArcFace(subjects, weights.arcface_scale, weights.arcface_margin, weights.label_smoothing).to(setting.device)
    task = EdgeFaceTask(
        setting, copy.deepcopy(edgeface), head, weights, restore(setting.train.vlr, dsr),
        restore(setting.validation.faces.vlr, dsr), recipe.batch_size, recipe.head_lr, 0.0, path,
        origin,
    )  # fmt: skip
    keep_previous(path)
    watch = CollapseWatch(weights.collapse_d_prime, weights.collapse_effective_rank)
    earlier: list[dict[str, float]] = []
    if weights.lambda_arcface and recipe.stage1_epochs:  # without ArcFace there is no head to train
        schedule = setting.schedule(epochs=recipe.stage1_epochs, patience=recipe.stage1_epochs)
        head_only = fit(task, schedule, on_epoch, watch, "EdgeFace head").history
        earlier = [record | {"epoch": record["epoch"] - recipe.stage1_epochs} for record in head_only]

    def joined(history: list[dict[str, float]]) -> list[dict[str, float]]:
        return earlier + history[1:] if earlier else history  # stage 2 starts where stage 1 ended

    task.backbone_lr, task.head_lr = recipe.backbone_lr, recipe.head_lr_stage2
    schedule = setting.schedule(epochs=recipe.stage2_epochs)
    done = fit(task, schedule, lambda history: on_epoch(joined(history)), watch, "EdgeFace")
    done.history = joined(done.history)
    return done


def train_edgeface(setting: Setting, on_epoch=lambda history: None) -> Fit:
    """The stage ``03_edgeface_finetune``: the original EdgeFace on the faces of ``dsr.pt``; the best goes to ``edgeface.pt``."""
    params = setting.params
    assert isinstance(params, EdgeFaceFinetune)
    dsr_path = resolve(params.dsr, setting.run.dsr, "DSR (dsr)")
    recipe = Recipe(
        params.stage1_epochs, params.stage2_epochs, params.head_lr, params.backbone_lr, params.head_lr_stage2, params.batch_size
    )
    dsr, origin = load_dsr(dsr_path, setting.device), setting.origin(dsr=dsr_path)
    return finetune(setting, setting.original, dsr, recipe, setting.run.edgeface, origin, on_epoch)
