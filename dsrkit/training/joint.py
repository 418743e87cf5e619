"""DSR and EdgeFace trained together, end to end, towards the original recogniser's embedding of the HR face.

Distillation in the manner of Hinton et al. 2015 (arXiv 1503.02531) needs no labels and does not collapse; a margin softmax
on the training subjects, held by it, can be added: it counts the faces that are not put together with another's. EdgeFace
sees a share of HR faces beside the restored ones, so that HR accuracy is kept; L1 keeps the restored face a face. With
``Bicubic`` in DSR's place EdgeFace learns alone: the control, which tells what the DSR adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dsrkit.data.augment import look_again
from dsrkit.data.degrade import upscale
from dsrkit.losses import identity_loss, relation_loss
from dsrkit.models.checkpoint import save_checkpoint
from dsrkit.models.dsr import DSR, dsr_content
from dsrkit.models.edgeface import EdgeFace, interpolated
from dsrkit.params import CyclicCycle
from dsrkit.training.dsr import DSRBatch, PairedFaces
from dsrkit.training.edgeface import backbone_groups, distance_of_some, margin_head, save_edgeface
from dsrkit.training.sampling import Draw
from dsrkit.training.setting import OnTrainingFaces


@dataclass
class JointBatch:
    faces: DSRBatch
    hr_count: int  # of the first so many faces EdgeFace sees HR too
    hr_weight: float  # what a mean over these counts for: see ``Draw.first``
    labels: Int[Tensor, " n"]
    unmixed: Bool[Tensor, " n"]  # faces of a subject, not put together with another: the margin softmax counts these


class Bicubic(nn.Module):
    """The direct feed as a network without weights."""

    def forward(self, vlr: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 112 112"]:
        return upscale(vlr)


@dataclass
class JointTask(OnTrainingFaces):
    """Both networks at once, or EdgeFace alone on bicubic faces, and where each is saved. See ``loop.Task``."""

    params: CyclicCycle
    dsr: DSR | Bicubic
    edgeface: EdgeFace
    paths: tuple[Path | None, Path]
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        embeddings = torch.from_numpy(self.setting.hr_embeddings).to(self.setting.device)
        teacher = self.setting.original if self.params.identity_target == "augmented" else None
        self.faces = PairedFaces(self.setting, embeddings, teacher, self.params.sizes)
        self.head = margin_head(self.setting, imprinted=True) if self.params.lambda_arcface else None

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleList([self.dsr, self.edgeface, *([self.head] if self.head else [])])

    def parameter_groups(self) -> list[dict[str, Any]]:
        params = self.params
        dsr, head = (list(module.parameters()) if module else [] for module in (self.dsr, self.head))
        edgeface = backbone_groups(self.edgeface.requires_grad_(True), params.backbone_lr, params.stage_decay)
        groups = [{"params": dsr, "lr": params.learning_rate}, *edgeface, {"params": head, "lr": params.backbone_lr}]
        return [group for group in groups if group["params"]]

    def batch(self, draw: Draw) -> JointBatch:
        labels = torch.from_numpy(self.setting.train.labels[draw.rows]).to(self.setting.device)
        unmixed = self.setting.nobody.unmixed(draw.uniform).to(self.setting.device)
        return JointBatch(self.faces(draw), *draw.first(self.params.hr_fraction), labels, unmixed)

    def losses(self, batch: JointBatch) -> dict[str, Tensor]:
        """Restored and HR faces (a share of them) towards the original's embedding, L1, and on request a margin softmax."""
        params, faces, count = self.params, batch.faces, batch.hr_count
        sr = self.dsr(faces.vlr)
        restored, hr = self.edgeface.embed(torch.cat([sr, faces.hr[:count]])).split([len(sr), count])
        losses = {"identity": params.lambda_identity * identity_loss(restored, faces.embeddings)}
        if params.lambda_relation:
            relation = relation_loss(restored, faces.embeddings, self.faces.embeddings, params.relation_temperature)
            losses["relation"] = params.lambda_relation * relation
        if isinstance(self.dsr, DSR):
            if params.lambda_l1:
                losses["l1"] = params.lambda_l1 * F.l1_loss(sr, faces.hr)
            if params.lambda_original:
                seen = look_again(sr, params.diversity, faces.look)
                losses["original"] = params.lambda_original * identity_loss(self.setting.original(seen), faces.embeddings)
        if self.head is not None:
            losses["margin"] = params.lambda_arcface * self.head(restored, batch.labels, batch.unmixed)
        if params.hr_fraction:
            losses["hr"] = params.lambda_hr * distance_of_some(hr, faces.embeddings, batch.hr_weight)
        return losses

    def validate(self) -> dict[str, float]:
        validation, dsr = self.setting.validation, self.dsr if isinstance(self.dsr, DSR) else None
        edgeface = self.result()
        return validation.measure(dsr, edgeface, self.params.sizes) | validation.hr_kept(edgeface)

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        about = {"epoch": epoch, "metrics": metrics, "provenance": self.origin}
        if isinstance(self.dsr, DSR) and self.paths[0]:
            save_checkpoint(self.paths[0], "dsr", dsr_content(self.dsr) | about)
        save_edgeface(self.paths[1], self.result(), self.head, self.setting, epoch, metrics, self.origin)

    def result(self) -> EdgeFace:
        """The recogniser that is validated and saved: the one in training, or one between it and the original."""
        return interpolated(self.edgeface, self.setting.original, self.params.original_share)
