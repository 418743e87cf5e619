"""DSR and EdgeFace trained together, end to end, towards the original recogniser's embedding of the HR face.

Distillation in the manner of Hinton et al. 2015 (arXiv 1503.02531): no labels, and no collapse. EdgeFace sees a share of HR
faces beside the restored ones, so that HR accuracy is kept; L1 keeps the restored face a face.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsrkit.losses import identity_loss
from dsrkit.models.checkpoint import save_checkpoint
from dsrkit.models.dsr import DSR, dsr_content
from dsrkit.models.edgeface import EdgeFace
from dsrkit.params import CyclicCycle
from dsrkit.training.dsr import DSRBatch, PairedFaces
from dsrkit.training.edgeface import save_edgeface
from dsrkit.training.sampling import Sampler
from dsrkit.training.setting import Setting


@dataclass
class JointTask:
    """Both networks at once. See ``loop.Task``."""

    setting: Setting
    params: CyclicCycle
    dsr: DSR
    edgeface: EdgeFace
    paths: tuple[Path, Path]
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        embeddings = torch.from_numpy(self.setting.hr_embeddings).to(self.setting.device)
        teacher = self.setting.original if self.params.identity_target == "augmented" else None
        self.batch = PairedFaces(self.setting, embeddings, teacher, (self.params.vlr_size,))

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleList([self.dsr, self.edgeface])

    @property
    def sampler(self) -> Sampler:
        return self.setting.sampler(self.params.batch_size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        self.edgeface.requires_grad_(True)
        groups = ((self.dsr, self.params.learning_rate), (self.edgeface, self.params.backbone_lr))
        return [{"params": list(module.parameters()), "lr": rate} for module, rate in groups]

    def names(self, rows: np.ndarray) -> list[str]:
        return [self.setting.train.names[row] for row in rows]

    def losses(self, batch: DSRBatch) -> dict[str, Tensor]:
        """Restored and HR faces (a share of them) towards the original's embedding, and L1."""
        params, sr = self.params, self.dsr(batch.vlr)
        count = round(params.hr_fraction * len(sr))
        restored, hr = self.edgeface.embed(torch.cat([sr, batch.hr[:count]])).split([len(sr), count])
        losses = {
            "l1": params.lambda_l1 * F.l1_loss(sr, batch.hr),
            "identity": params.lambda_identity * identity_loss(restored, batch.embeddings),
        }
        if count:
            losses["hr"] = params.lambda_hr * identity_loss(hr, batch.embeddings[:count])
        return losses

    def validate(self) -> dict[str, float]:
        validation = self.setting.validation
        return validation.measure(self.dsr, self.edgeface) | validation.hr_kept(self.edgeface)

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        about = {"epoch": epoch, "metrics": metrics, "provenance": self.origin}
        save_checkpoint(self.paths[0], "dsr", dsr_content(self.dsr) | about)
        save_edgeface(self.paths[1], self.edgeface, None, self.setting, epoch, metrics, self.origin)
