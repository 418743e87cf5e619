"""What the stages that train take: ``02_dsr_training``, ``03_edgeface_finetune``, ``04_cyclic_cycle``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from dsrkit.params.kinds import Count, Positive, Precision, Probability, Rate, Size, Weight
from dsrkit.params.settings import Stage


class Teacher(Stage):
    """What every training stage takes: the data, a recogniser, and the loop."""

    dataset: str
    edgeface: str
    vlr_size: Size
    batch_size: Positive
    weight_decay: Weight
    early_stop_patience: Positive
    grad_clip: Weight
    steps_per_epoch: Count
    select_by: Literal["eer", "auc", "psnr", "ssim", "identity_similarity"]
    precision: Precision
    accumulate: Positive
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    compile: bool
    processes: Positive
    resume: Literal["auto", "never", "must"]
    checkpoint_minutes: Weight
    flip_probability: Probability
    rotation_probability: Probability
    rotation_degrees: Weight
    zoom: Probability
    shift: Probability
    jitter_probability: Probability
    jitter_brightness_contrast: Weight
    jitter_saturation: Weight
    jitter_hue: Weight


class Relation(BaseModel):
    """The match of a face's cosines with the training faces: see ``losses.relation_loss``."""

    lambda_relation: Weight
    relation_temperature: Rate


class DSRLosses(Relation):
    """Weights of the losses of one DSR step."""

    lambda_l1: Weight
    lambda_identity: Weight
    lambda_feature_match: Weight
    lambda_perceptual: Weight
    lambda_tv: Weight
    vgg_weights: str
    identity_target: Literal["stored", "augmented"]
    diversity: Probability
    warp: Probability
    cutmix_probability: Probability
    blend_probability: Probability

    @property
    def _of_nobody(self) -> dict[str, float]:
        """What makes faces of nobody, where it is asked for."""
        names = ("warp", "cutmix_probability", "blend_probability")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @model_validator(mode="after")
    def _a_face_of_nobody_needs_its_own_embedding(self) -> Self:
        if self._of_nobody and self.identity_target == "stored":
            raise ValueError(
                f"{', '.join(self._of_nobody)}: expected 0 with identity_target stored, whose embeddings are of plain faces, "
                f"got {list(self._of_nobody.values())}. Set identity_target to augmented"
            )
        return self


class Sizes(BaseModel):
    """The VLR sizes that one DSR is trained for."""

    vlr_size: Size
    train_sizes: list[Size]

    @property
    def sizes(self) -> tuple[str, ...]:
        """What each step draws one of: a size that stands there twice is drawn twice as often."""
        return tuple(self.train_sizes) or (self.vlr_size,)


class DSRTraining(Teacher, DSRLosses, Sizes):
    base_channels: Positive
    residual_blocks: Positive
    initial_dsr: str
    members: Positive
    epochs: Positive
    learning_rate: Rate
    warmup_epochs: Count


class EdgeFaceLosses(Relation):
    """The EdgeFace fine-tune: its recipe and its limits."""

    stage1_epochs: Count
    stage2_epochs: Count
    head_lr: Rate
    backbone_lr: Rate
    head_lr_stage2: Rate
    stage_decay: Annotated[float, Field(gt=0, le=1)]
    margin_head: Literal["arcface", "cosface", "adaface"]
    arcface_scale: Weight
    arcface_margin: Weight
    label_smoothing: Probability
    lambda_arcface: Weight
    lambda_distill: Weight
    lambda_hr: Weight
    hr_fraction: Probability
    lambda_direct: Weight
    direct_fraction: Probability
    lora_rank: Count
    original_share: Probability
    collapse_d_prime: Probability
    collapse_effective_rank: Probability
    collapse_hr_similarity: Probability


class EdgeFaceFinetune(Teacher, EdgeFaceLosses):
    select_by: Literal["eer", "auc", "identity_similarity"]
    dsr: str
    control: bool


class CyclicCycle(Teacher, DSRLosses, EdgeFaceLosses, Sizes):
    select_by: Literal["eer", "auc"]
    dsr: str
    finetuned_edgeface: str
    mode: Literal["alternate", "joint"]
    cycles: Positive
    skip_dsr: bool
    skip_edgeface: bool
    control_epochs: Count
    initial_control: str
    lambda_original: Weight
    accept_level: Annotated[float, Field(ge=0, lt=1)]
    dry_run: bool
    epochs: Positive
    learning_rate: Rate
    warmup_epochs: Count
    epochs_cycle2: Positive
    learning_rate_cycle2: Rate
    lambda_identity_cycle2: Weight
    lambda_feature_match_cycle2: Weight
    finetune_batch_size: Positive
    finetune_weight_decay: Weight
    finetune_early_stop_patience: Positive
    finetune_rotation_probability: Probability
    finetune_rotation_degrees: Weight
    finetune_zoom: Probability
    finetune_shift: Probability
    finetune_jitter_probability: Probability
    finetune_jitter_brightness_contrast: Weight
    finetune_jitter_saturation: Weight
    finetune_jitter_hue: Weight

    @model_validator(mode="after")
    def _what_goes_with_the_mode(self) -> Self:
        of_alternate = ("skip_dsr", "skip_edgeface", "lora_rank", "lambda_direct")
        without = (
            of_alternate if self.mode == "joint" else ("control_epochs", "initial_control", "train_sizes", "lambda_original")
        )
        if silent := [name for name in without if getattr(self, name)]:
            raise ValueError(
                f"{', '.join(silent)}: expected 0, false or empty with mode {self.mode}, where it has no meaning, got "
                f"{[getattr(self, name) for name in silent]}. Leave it out, or change mode"
            )
        if self.mode == "joint" and self.warp and self.lambda_arcface:
            raise ValueError(
                f"warp: expected 0 beside a margin softmax (a face whose features are moved is no subject's), got {self.warp}. "
                "Set it to 0, or lambda_arcface"
            )
        return self

    def of_joint(self, number: int) -> Self:
        """The parameters of joint cycle ``number``: from cycle 2 on its own epochs and rate; EdgeFace's rate falls alike."""
        if number == 1:
            return self
        slower = self.backbone_lr * self.learning_rate_cycle2 / self.learning_rate
        return self.model_copy(
            update={"epochs": self.epochs_cycle2, "learning_rate": self.learning_rate_cycle2, "backbone_lr": slower}
        )

    def of_finetune(self) -> Self:
        """The same parameters as the EdgeFace step takes them: each ``finetune_x`` in place of ``x``."""
        prefix = "finetune_"
        return self.model_copy(
            update={name.removeprefix(prefix): value for name, value in self.model_dump().items() if name.startswith(prefix)}
        )
