"""Fine-tuning EdgeFace on restored faces, in two stages: the head alone, then everything at a low learning rate.

The terms: a margin softmax on the training subjects (ArcFace is the seeds' recipe), distillation to the original
recogniser's embedding of the HR face (no labels, no collapse), and the same on a share of HR faces, so that HR accuracy is
kept, and on a share of bicubic faces, so that the recogniser does not need the DSR.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from dsrkit.data.degrade import as_tensor, upscale
from dsrkit.losses import MarginHead, identity_loss, relation_loss
from dsrkit.models.checkpoint import save_checkpoint
from dsrkit.models.edgeface import EdgeFace, interpolated
from dsrkit.models.lora import add_lora, merged_state_dict
from dsrkit.params import EdgeFaceFinetune, EdgeFaceLosses
from dsrkit.runs import resolve, seed_everything
from dsrkit.training.collapse import CollapseWatch
from dsrkit.training.launch import in_processes
from dsrkit.training.loop import Fit, fit
from dsrkit.training.restored import restored_faces
from dsrkit.training.resume import Progress
from dsrkit.training.sampling import Draw
from dsrkit.training.setting import OnTrainingFaces, Setting


@dataclass
class FaceBatch:
    restored: Float[Tensor, "n 3 112 112"]
    hr: Float[Tensor, "h 3 112 112"]  # of the first h faces
    direct: Float[Tensor, "d 3 112 112"]  # of the first d faces: bicubic
    labels: Int[Tensor, " n"]
    embeddings: Float[Tensor, "n 512"]  # of the HR faces, by the original recogniser
    hr_weight: float = 1.0  # what a mean over ``hr`` counts for: see ``Draw.first``
    direct_weight: float = 1.0


def backbone_groups(edgeface: EdgeFace, rate: float, decay: float) -> list[dict[str, Any]]:
    """EdgeFace's trainable weights by part: the stem at the learning rate ``rate``, each later part at ``decay`` of that before.

    What changed is the input, and that is best met in the first layers; the last tell people apart, and have seen many more of
    them than any fine-tune will (surgical fine-tuning, Lee et al. 2022, arXiv 2210.11466).
    """
    parts = [[weight for weight in part.parameters() if weight.requires_grad] for part in edgeface.parts()]
    if decay == 1:
        return [{"params": [weight for part in parts for weight in part], "lr": rate}]
    return [{"params": part, "lr": rate * decay**number} for number, part in enumerate(parts) if part]


@dataclass
class EdgeFaceTask(OnTrainingFaces):
    """One stage of the fine-tune. See ``loop.Task``. ``trained`` is the head alone while the backbone is frozen."""

    edgeface: EdgeFace
    head: MarginHead
    weights: EdgeFaceLosses
    restored: UInt8[np.ndarray, "n 112 112 3"]
    validation_restored: UInt8[np.ndarray, "v 112 112 3"]
    head_lr: float
    backbone_lr: float
    path: Path
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        self.backbone = add_lora(self.edgeface, self.weights.lora_rank) if self.weights.lora_rank else []
        self.anchors = torch.from_numpy(self.setting.hr_embeddings).to(self.setting.device)

    @property
    def trained(self) -> nn.Module:
        head = [self.head] if self.weights.lambda_arcface else []
        return nn.ModuleList([self.edgeface, *head] if self.backbone_lr else head)

    def parameter_groups(self) -> list[dict[str, Any]]:
        backbone = self.backbone or list(self.edgeface.parameters())
        self.edgeface.requires_grad_(False).eval()
        groups = []
        if self.backbone_lr:
            for weight in backbone:
                weight.requires_grad_(True)
            groups += backbone_groups(self.edgeface, self.backbone_lr, self.weights.stage_decay)
        if self.weights.lambda_arcface:
            groups.append({"params": list(self.head.parameters()), "lr": self.head_lr})
        return groups

    def batch(self, draw: Draw) -> FaceBatch:
        setting, rows, augment = self.setting, draw.rows, self.setting.augmentation

        def faces(pixels: np.ndarray, count: int) -> Tensor:
            return augment(as_tensor(pixels[rows[:count]]).to(setting.device), draw.uniform[:count])

        hr_count, hr_weight = draw.first(self.weights.hr_fraction)
        direct_count, direct_weight = draw.first(self.weights.direct_fraction)
        direct = as_tensor(setting.train.vlr[rows[:direct_count]]).to(setting.device)
        return FaceBatch(
            restored=faces(self.restored, len(rows)),
            hr=faces(setting.train.hr, hr_count),
            direct=augment(upscale(direct), draw.uniform[:direct_count]),
            labels=torch.from_numpy(setting.train.labels[rows]).to(setting.device),
            embeddings=torch.from_numpy(setting.hr_embeddings[rows]).to(setting.device),
            hr_weight=hr_weight,
            direct_weight=direct_weight,
        )

    def losses(self, batch: FaceBatch) -> dict[str, Tensor]:
        """The whole of the fine-tune's objective."""
        weights = self.weights
        kinds = [batch.restored, batch.hr, batch.direct]
        restored, hr, direct = self.edgeface.embed(torch.cat(kinds)).split([len(kind) for kind in kinds])
        losses = {}
        if weights.lambda_arcface:
            losses["margin"] = weights.lambda_arcface * self.head(restored, batch.labels)
        if weights.lambda_distill:
            losses["distill"] = weights.lambda_distill * identity_loss(restored, batch.embeddings)
        if weights.lambda_relation:
            relation = relation_loss(restored, batch.embeddings, self.anchors, weights.relation_temperature)
            losses["relation"] = weights.lambda_relation * relation
        if weights.lambda_hr and weights.hr_fraction:
            losses["hr"] = weights.lambda_hr * distance_of_some(hr, batch.embeddings, batch.hr_weight)
        if weights.lambda_direct and weights.direct_fraction:
            losses["direct"] = weights.lambda_direct * distance_of_some(direct, batch.embeddings, batch.direct_weight)
        return losses

    def validate(self) -> dict[str, float]:
        validation, edgeface = self.setting.validation, self.result()
        return validation.verification(edgeface, self.validation_restored) | validation.hr_kept(edgeface)

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        head = self.head if self.weights.lambda_arcface else None
        save_edgeface(self.path, self.result(), head, self.setting, epoch, metrics, self.origin)

    def result(self) -> EdgeFace:
        """What is validated and saved: the network in training, or one between it and the original."""
        return interpolated(self.edgeface, self.setting.original, self.weights.original_share)


def distance_of_some(found: Float[Tensor, "h d"], wanted: Float[Tensor, "n d"], weight: float) -> Float[Tensor, ""]:
    """Identity loss of the first h of n faces, weighted; 0 where this share of a step holds none of them."""
    return weight * identity_loss(found, wanted[: len(found)]) if len(found) else found.sum()


def save_edgeface(
    path: Path, edgeface: EdgeFace, head: MarginHead | None, setting: Setting, epoch: int, metrics: dict, origin: dict
) -> None:
    """Write ``edgeface.pt``: the backbone (low-rank updates merged), the head if any, which subject is which class."""
    content = {
        "backbone_state_dict": {key: value.cpu() for key, value in merged_state_dict(edgeface).items()},
        "arcface_state_dict": {key: value.cpu() for key, value in head.state_dict().items()} if head else {},
        "subject_to_id": setting.train.subject_to_id,
        "variant": edgeface.variant,
        "epoch": epoch,
        "metrics": metrics,
        "provenance": origin,
    }
    save_checkpoint(path, "edgeface", content)


def margin_head(setting: Setting, imprinted: bool) -> MarginHead:
    """The head that the parameters describe: fresh, or with each subject's mean HR embedding as its class centre.

    Raises ValueError with one subject only, when a margin softmax is wanted.
    """
    params, subjects = setting.params, len(setting.train.subject_to_id)
    assert isinstance(params, EdgeFaceLosses)
    if params.lambda_arcface and subjects < 2:
        raise ValueError(
            f"Margin head: expected two training subjects or more, got {subjects}. Add subjects, or set lambda_arcface to 0."
        )
    head = MarginHead(subjects, params.arcface_scale, params.arcface_margin, params.label_smoothing, params.margin_head)
    if imprinted:
        head.imprint(torch.from_numpy(setting.hr_embeddings), torch.from_numpy(setting.train.labels))
    return head.to(setting.device)


def finetune(
    setting: Setting,
    edgeface: EdgeFace,
    dsr: Path | None,
    path: Path,
    origin: dict[str, Any],
    progress: Progress | None = None,
    on_epoch=lambda history: None,
    title: str = "EdgeFace",
) -> Fit:
    """Fine-tune a copy of ``edgeface`` on faces restored by the DSR of a file (None: bicubic); the best goes to ``path``.

    Both stages stand in one history: stage 1 counts up to epoch 0, where stage 2 starts.
    Raises ValueError with one subject only, when the margin softmax is on.
    """
    params = setting.params
    assert isinstance(params, EdgeFaceLosses)
    restored = restored_faces(setting, "train", setting.train, dsr)
    validation_restored = restored_faces(setting, "val", setting.validation.faces, dsr)
    seed_everything(params.seed)  # the head, and low-rank updates, start alike whatever was done before, or resumed
    head = margin_head(setting, imprinted=params.stage1_epochs == 0)
    task = EdgeFaceTask(
        setting, copy.deepcopy(edgeface), head, params, restored, validation_restored, params.head_lr,
        0.0, path, origin,
    )  # fmt: skip
    watch = CollapseWatch.of(params)
    earlier: list[dict[str, float]] = []
    if params.lambda_arcface and params.stage1_epochs:  # without a head there is none to train
        schedule = setting.schedule(epochs=params.stage1_epochs, patience=params.stage1_epochs)

        def shifted(history: list[dict[str, float]]) -> list[dict[str, float]]:
            return [record | {"epoch": record["epoch"] - params.stage1_epochs} for record in history]

        head_only = fit(task, schedule, lambda history: on_epoch(shifted(history)), watch, f"{title} head", progress)
        earlier = shifted(head_only.history)

    def joined(history: list[dict[str, float]]) -> list[dict[str, float]]:
        return earlier + history[1:] if earlier else history  # stage 2 starts where stage 1 ended

    task.backbone_lr, task.head_lr = params.backbone_lr, params.head_lr_stage2
    schedule = setting.schedule(epochs=params.stage2_epochs)
    done = fit(task, schedule, lambda history: on_epoch(joined(history)), watch, title, progress)
    done.history = joined(done.history)
    return done


@in_processes
def train_edgeface(setting: Setting, on_epoch=lambda history: None) -> Fit:
    """The stage ``03_edgeface_finetune``: the original EdgeFace on the faces of ``dsr.pt``; the best goes to ``edgeface.pt``.

    With ``control`` the same is then done on bicubic faces, into ``edgeface_direct.pt``: what the fine-tune brings without
    any DSR. The fine-tune on restored faces is returned, with the control's in its ``control``.
    """
    params = setting.params
    assert isinstance(params, EdgeFaceFinetune)
    dsr = resolve(params.dsr, setting.run.dsr, "DSR (dsr)")
    origin, control = setting.origin(dsr=dsr), setting.origin()
    replaced = [setting.run.edgeface, setting.run.edgeface_direct]  # a control of another fine-tune would be none
    progress = setting.progress("03_edgeface_finetune", origin, replaced, [dsr])
    done = finetune(setting, setting.original, dsr, setting.run.edgeface, origin, progress, on_epoch)
    if params.control:
        done.control = finetune(
            setting, setting.original, None, setting.run.edgeface_direct, control, progress, title="EdgeFace, no DSR"
        )
    progress.finish()
    return done
