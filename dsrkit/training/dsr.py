"""Training DSR: restored faces must look like, and be recognised as, the HR face they came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsrkit.data.degrade import as_tensor, degrade
from dsrkit.losses import PerceptualLoss, feature_match_loss, identity_loss, total_variation_loss
from dsrkit.models.checkpoint import keep_previous, save_checkpoint
from dsrkit.models.dsr import DSR, DSRConfig, dsr_content, read_dsr
from dsrkit.models.edgeface import EdgeFace
from dsrkit.params import DSRLosses, DSRTraining
from dsrkit.recognition import restore
from dsrkit.runs import resolve
from dsrkit.training.loop import Fit, fit
from dsrkit.training.setting import Setting


@dataclass
class DSRBatch:
    vlr: Tensor
    hr: Tensor
    embeddings: Tensor  # of the HR faces, by the teacher


def pair_batches(setting: Setting, embeddings: Tensor, batch_size: int, epoch: int) -> Iterator[DSRBatch]:
    """Augmented HR faces, VLR faces degraded from them on the device, and the stored embeddings of the originals."""
    params, sampler = setting.params, setting.batches(len(setting.train), batch_size)
    augment, generator = setting.augmentation(), sampler.generator(epoch)
    for rows in sampler.epoch(epoch):
        hr = augment(as_tensor(setting.train.hr[rows]).to(setting.device), generator)
        yield DSRBatch(degrade(hr, params.vlr_size, setting.degradation), hr, embeddings[rows])


@dataclass
class DSRTask:
    """DSR against a frozen teacher. See ``loop.Task``.

    The teacher's embedding of an HR face is computed once, before training: flips, turns of a few degrees and faint
    jitter do not change who it is, and a teacher's forward pass is a large part of a CPU step.
    """

    setting: Setting
    dsr: DSR
    teacher: EdgeFace
    weights: DSRLosses
    embeddings: Tensor
    learning_rate: float
    path: Path
    origin: dict[str, Any]
    perceptual: nn.Module | None = field(init=False)

    def __post_init__(self) -> None:
        self.teacher.requires_grad_(False).eval()
        wanted = self.weights.lambda_perceptual > 0
        self.perceptual = PerceptualLoss(self.vgg_weights()).to(self.setting.device) if wanted else None

    def vgg_weights(self) -> Path | str:
        name = self.weights.vgg_weights
        return resolve(name, Path(), "VGG19 weights (vgg_weights)") if name else ""

    @property
    def trained(self) -> nn.Module:
        return self.dsr

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.dsr.parameters()), "lr": self.learning_rate}]

    def steps(self) -> int:
        return len(self.setting.batches(len(self.setting.train), self.setting.params.batch_size))

    def batches(self, epoch: int) -> Iterator[DSRBatch]:
        return pair_batches(self.setting, self.embeddings, self.setting.params.batch_size, epoch)

    def losses(self, batch: DSRBatch) -> dict[str, Tensor]:
        """The whole of DSR's objective: each term weighted, logged apart; a weight of 0 costs nothing."""
        weights, sr, hr = self.weights, self.dsr(batch.vlr), batch.hr
        losses = {"l1": weights.lambda_l1 * F.l1_loss(sr, hr)}
        if weights.lambda_identity or weights.lambda_feature_match:
            stages, embedding = self.teacher.stages_and_embedding(sr)
            losses["identity"] = weights.lambda_identity * identity_loss(embedding, batch.embeddings)
        if weights.lambda_feature_match:
            with torch.no_grad():
                wanted, _ = self.teacher.stages_and_embedding(hr)
            losses["feature_match"] = weights.lambda_feature_match * feature_match_loss(stages, wanted)
        if self.perceptual is not None:
            losses["perceptual"] = weights.lambda_perceptual * self.perceptual(sr, hr)
        if weights.lambda_tv:
            losses["tv"] = weights.lambda_tv * total_variation_loss(sr)
        return losses

    def validate(self) -> dict[str, float]:
        restored = restore(self.setting.validation.faces.vlr, self.dsr)
        return self.setting.validation.images(restored) | self.setting.validation.verification(self.teacher, restored)

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        save_checkpoint(self.path, "dsr", dsr_content(self.dsr) | {"epoch": epoch, "metrics": metrics, "provenance": self.origin})


def train_dsr(setting: Setting, on_epoch=lambda history: None) -> Fit:
    """The stage ``02_dsr_training``: a new DSR, or one continued from ``initial_dsr``; the best goes to ``dsr.pt``.

    Raises TrainingError, CheckpointError, FileNotFoundError, or ValueError for an ``initial_dsr`` of another width or depth.
    """
    params = setting.params
    assert isinstance(params, DSRTraining)
    config, files = DSRConfig(params.base_channels, params.residual_blocks), {}
    dsr = DSR(config).to(setting.device).to(memory_format=torch.channels_last)
    if params.initial_dsr:
        files["initial_dsr"] = resolve(params.initial_dsr, Path(), "DSR to continue from (initial_dsr)")
        dsr = read_dsr(files["initial_dsr"], setting.device)
        if dsr.config != config:
            raise ValueError(
                f"initial_dsr: expected {config} as the parameters say, got {dsr.config}. Give the same width and depth."
            )
    embeddings = torch.from_numpy(setting.hr_embeddings).to(setting.device)
    origin = setting.origin(**files)
    keep_previous(setting.run.dsr)
    task = DSRTask(setting, dsr, setting.original, params, embeddings, params.learning_rate, setting.run.dsr, origin)
    return fit(task, setting.schedule(epochs=params.epochs, warmup_epochs=params.warmup_epochs), on_epoch, title="DSR")
