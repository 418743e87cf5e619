"""Training DSR: restored faces must look like, and be recognised as, the HR face they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsrkit.data.augment import DRAWS, look_again
from dsrkit.data.degrade import as_tensor, degrade
from dsrkit.data.nobody import NOBODY_DRAWS
from dsrkit.losses import PerceptualLoss, feature_match_loss, identity_loss, relation_loss, total_variation_loss
from dsrkit.models.checkpoint import save_checkpoint
from dsrkit.models.dsr import DSR, DSRConfig, dsr_content, read_dsr
from dsrkit.models.edgeface import EdgeFace
from dsrkit.params import DSRLosses, DSRTraining
from dsrkit.runs import resolve, seed_everything
from dsrkit.training.launch import in_processes
from dsrkit.training.loop import Fit, fit
from dsrkit.training.sampling import Draw
from dsrkit.training.setting import OnTrainingFaces, Setting


@dataclass
class DSRBatch:
    vlr: Float[Tensor, "n 3 h w"]
    hr: Float[Tensor, "n 3 112 112"]
    embeddings: Float[Tensor, "n 512"]  # of the HR faces, by the teacher
    look: Float[Tensor, "n 4"]  # draws for ``augment.look_again``


@dataclass(frozen=True)
class PairedFaces:
    """Augmented HR faces (or faces of nobody, made of them), VLR faces degraded from these, and the teacher's embeddings.

    Args:
        embeddings: the teacher's of every training face as it is. They serve for the augmented faces too: flips, turns of a
            few degrees and faint jitter do not change who it is, and a teacher's forward pass is a large part of a CPU step.
        teacher: given, it embeds the augmented faces themselves instead (a "consistent" teacher, Beyer et al. 2022, arXiv
            2106.05237).
        sizes: VLR sizes; each step draws one, and one that stands there twice is drawn twice as often.
    """

    setting: Setting
    embeddings: Float[Tensor, "n 512"]
    teacher: EdgeFace | None
    sizes: tuple[str, ...]

    def __call__(self, draw: Draw) -> DSRBatch:
        setting = self.setting
        hr = self._augmented(draw.rows, draw.uniform)
        others = self._augmented(draw.partners, draw.uniform) if setting.nobody.mixes else hr
        hr = setting.nobody(hr, others, draw.uniform)
        size = self.sizes[int(draw.of_step * len(self.sizes))]
        if self.teacher is None:
            wanted = self.embeddings[torch.from_numpy(draw.rows).to(setting.device)]
        else:
            with torch.no_grad():
                wanted = self.teacher(hr)
        vlr = degrade(hr, size, setting.degradation, draw.uniform[:, DRAWS:-NOBODY_DRAWS])
        return DSRBatch(vlr, hr, wanted, draw.look)

    def _augmented(self, rows: Int[np.ndarray, " n"], uniform: Float[Tensor, "n draws"]) -> Float[Tensor, "n 3 112 112"]:
        return self.setting.augmentation(as_tensor(self.setting.train.hr[rows]).to(self.setting.device), uniform)


@dataclass
class DSRTask(OnTrainingFaces):
    """DSR against a frozen teacher. See ``loop.Task``."""

    dsr: DSR
    teacher: EdgeFace
    weights: DSRLosses
    embeddings: Float[Tensor, "n 512"]
    learning_rate: float
    path: Path
    origin: dict[str, Any]
    sizes: tuple[str, ...] = ()
    perceptual: nn.Module | None = field(init=False)

    def __post_init__(self) -> None:
        self.teacher.requires_grad_(False).eval()
        wanted = self.weights.lambda_perceptual > 0
        self.perceptual = PerceptualLoss(vgg_file(self.weights) or "").to(self.setting.device) if wanted else None
        teacher = self.teacher if self.weights.identity_target == "augmented" else None
        self.batch = PairedFaces(self.setting, self.embeddings, teacher, self.sizes or (self.setting.params.vlr_size,))

    @property
    def trained(self) -> nn.Module:
        return self.dsr

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.dsr.parameters()), "lr": self.learning_rate}]

    def losses(self, batch: DSRBatch) -> dict[str, Tensor]:
        """The whole of DSR's objective: each term weighted, logged apart; a weight of 0 costs nothing."""
        weights, sr, hr = self.weights, self.dsr(batch.vlr), batch.hr
        losses = {}
        if weights.lambda_l1:
            losses["l1"] = weights.lambda_l1 * F.l1_loss(sr, hr)
        if weights.lambda_identity or weights.lambda_relation or weights.lambda_feature_match:
            stages, embedding = self.teacher.stages_and_embedding(look_again(sr, weights.diversity, batch.look))
        if weights.lambda_identity:
            losses["identity"] = weights.lambda_identity * identity_loss(embedding, batch.embeddings)
        if weights.lambda_relation:
            relation = relation_loss(embedding, batch.embeddings, self.embeddings, weights.relation_temperature)
            losses["relation"] = weights.lambda_relation * relation
        if weights.lambda_feature_match:
            with torch.no_grad():
                wanted, _ = self.teacher.stages_and_embedding(look_again(hr, weights.diversity, batch.look))
            losses["feature_match"] = weights.lambda_feature_match * feature_match_loss(stages, wanted)
        if self.perceptual is not None:
            losses["perceptual"] = weights.lambda_perceptual * self.perceptual(sr, hr)
        if weights.lambda_tv:
            losses["tv"] = weights.lambda_tv * total_variation_loss(sr)
        return losses

    def validate(self) -> dict[str, float]:
        return self.setting.validation.measure(self.dsr, self.teacher, self.sizes)

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        save_checkpoint(self.path, "dsr", dsr_content(self.dsr) | {"epoch": epoch, "metrics": metrics, "provenance": self.origin})


def vgg_file(weights: DSRLosses) -> Path | None:
    """The file of VGG19 weights that the parameters name; None leaves it to torch's cache. Raises FileNotFoundError."""
    name = weights.vgg_weights
    return resolve(name, Path(), "VGG19 weights (vgg_weights)") if name else None


@in_processes
def train_dsr(setting: Setting, on_epoch=lambda history: None) -> Fit:
    """The stage ``02_dsr_training``: a new DSR, or one continued from ``initial_dsr``; the best goes to ``dsr.pt``.

    With ``members`` above 1, further ones with the next seeds go to ``dsr_member2.pt``, …: an ensemble, ``load_dsr([…])``.
    The first member's training is returned. Raises TrainingError, CheckpointError, FileNotFoundError, or ValueError for an
    ``initial_dsr`` of another width or depth.
    """
    params = setting.params
    assert isinstance(params, DSRTraining)
    files = {}
    if params.initial_dsr:
        files["initial_dsr"] = resolve(params.initial_dsr, Path(), "DSR to continue from (initial_dsr)")
    if params.lambda_perceptual and (vgg := vgg_file(params)):
        files["vgg_weights"] = vgg
    paths = [setting.run.dsr_member(number) for number in range(1, params.members + 1)]
    surplus = setting.run.dsr_members(params.members + 1)  # no member of a larger ensemble may be taken for one of this
    progress = setting.progress("02_dsr_training", setting.origin(**files), paths + surplus, list(files.values()))
    embeddings = torch.from_numpy(setting.hr_embeddings).to(setting.device)
    schedule = setting.schedule(epochs=params.epochs, warmup_epochs=params.warmup_epochs)
    fits = []
    for number, path in enumerate(paths):
        member = setting.with_params(seed=params.seed + number)
        task = DSRTask(
            member, _first_dsr(member, files.get("initial_dsr")), setting.original, params, embeddings, params.learning_rate,
            path, member.origin(**files), params.sizes,
        )  # fmt: skip
        title = f"DSR, member {number + 1}" if params.members > 1 else "DSR"
        fits.append(fit(task, schedule, on_epoch, title=title, progress=progress))
    progress.finish()
    return fits[0]


def _first_dsr(setting: Setting, initial: Path | None) -> DSR:
    """The DSR that a training starts from: fresh, of the setting's seed, or read."""
    params = setting.params
    assert isinstance(params, DSRTraining)
    config = DSRConfig(params.base_channels, params.residual_blocks)
    if initial is None:
        seed_everything(params.seed)
        return DSR(config).to(setting.device).to(memory_format=torch.channels_last)
    dsr = read_dsr(initial, setting.device)
    if dsr.config != config:
        raise ValueError(
            f"initial_dsr: expected {config} as the parameters say, got {dsr.config}. Give the same width and depth."
        )
    return dsr
