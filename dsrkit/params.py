"""Parameters of every stage, checked by name and by type.

The defaults stand in the notebooks (their ``parameters`` cell), the values of a run in ``params/<run>/<stage>.yaml``;
here stands what each may be. papermill lets a misspelt name pass with a warning and hands ``1e-4`` over as text, so the
first cell after the parameters builds the stage's settings from them, and a wrong one stops the run.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Size = Annotated[
    str, Field(pattern=r"^\d+(x\d+)?$"), AfterValidator(lambda size: size if "x" in size else f"{size}x{size}")
]  # "16" and "16x16" are one size
Precision = Literal["fp32", "bf16", "fp16"]
Degradation = Literal["bicubic-antialias", "bicubic-aliased", "area", "realistic"]
FileKind = Literal["folder", "multi-pie", "processed", "insightface-rec", "tinyface", "scface"]
Aligned = Literal["none", "centre-crop", "landmarks", "yunet"]
Flag = Literal["conflict", "duplicate", "dark", "bright", "flat", "grey"]
Code = Annotated[str, Field(pattern=r"^\d+$")]  # in quotes: YAML reads a bare 051 as 41


class ParameterError(ValueError):
    """A parameter with a wrong name, type or value; says which, and names the nearest that exists."""


class Settings(BaseModel):
    """How the parameters of a notebook are read and checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes(cls, value: Any, info: Any) -> Any:
        # YAML reads `yes` as True, and pydantic would take True for 1
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"got {value}; a bare yes/no/true/false is no number or text")
        return value

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values.

        Raises ParameterError that lists every wrong name (with the nearest valid one), missing name and wrong value.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [cls._explain(one) for one in error.errors()]
            raise ParameterError(f"{cls.__name__}: " + "; ".join(lines)) from None

    @classmethod
    def _explain(cls, error: Any) -> str:
        if not error["loc"]:  # of several parameters together
            return error["msg"].removeprefix("Value error, ")
        name = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
            return f"no parameter {name!r}" + (
                f" (did you mean {nearest[0]!r}?)" if nearest else f"; there are {', '.join(cls.model_fields)}"
            )
        if error["type"] == "missing":
            return f"parameter {name!r} is missing"
        return f"{name}: {error['msg']}, got {error['input']!r} ({type(error['input']).__name__})"

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Settings from a notebook's ``globals()``: the names assigned in its parameter cells, and no other.

        Raises ParameterError.
        """
        names = parameter_names(namespace.get("In", ()))
        return cls.check({name: namespace[name] for name in names if name in namespace})

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Settings from a YAML file of flat keys. Raises FileNotFoundError or ParameterError."""
        values = yaml.safe_load(Path(path).read_text())
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise ParameterError(f"{path}: expected lines such as 'epochs: 20', got a {type(values).__name__}. Write flat keys.")
        return cls.check(values)


class Stage(Settings):
    """What every stage takes."""

    run: str
    seed: Count
    device: str


class Comparison(Settings):
    """What ``06_comparison`` takes: it is of several runs, so it is no stage of one."""

    runs: Annotated[list[str], BeforeValidator(lambda runs: runs.split() if isinstance(runs, str) else runs)]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    reference: str
    tta: bool
    seed: Count
    bootstrap_draws: Positive


def parameter_names(cells: Sequence[str]) -> list[str]:
    """Names assigned in the latest unbroken block of cells that do nothing but assign (executed sources, oldest first).

    Under papermill that block is the ``parameters`` cell and the cell that it injects. The cell that asks has an import,
    so it is no such cell itself; reading the cells, not the namespace, keeps "Run all" twice in one kernel working.
    """
    names: dict[str, None] = {}
    for cell in reversed(cells):
        assigned = list(_assigned(cell))
        if names and not assigned:
            break
        names.update(dict.fromkeys(assigned))
    return list(names)


def _assigned(cell: str) -> Iterator[str]:
    try:
        statements = ast.parse(cell).body
    except SyntaxError:  # a cell of IPython magics is no parameter cell
        return
    names: list[str] = []
    for statement in statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            return
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    yield from names


class DataMigration(Stage):
    source: Literal["made-up"] | FileKind
    source_root: str
    upgrade: Literal["none", "dry-run", "beside", "in-place"]
    subjects: Positive
    images_per_subject: Positive
    cameras: list[Code]
    illuminations: list[Code]
    recordings: list[Code]
    sessions: list[Code]
    align: Aligned
    landmarks: str
    test_source: FileKind | Literal["insightface-bin"]
    test_source_root: str
    test_align: Aligned
    test_landmarks: str
    test_pairs: str
    detector: str
    centre_share: Annotated[float, Field(gt=0, le=1)]
    enlarge: bool
    split_by: Literal["ratio", "list", "source"]
    split_list: str
    validation_fraction: Probability
    test_fraction: Probability
    enrolled: Count
    vlr_sizes: Annotated[list[Size], Field(min_length=1)]
    degradation: Degradation
    set_aside: list[Flag]
    edgeface: str
    workers: Positive

    @model_validator(mode="after")
    def _only_a_paired_data_set_is_upgraded(self) -> Self:
        if self.upgrade != "none" and self.source != "processed":
            raise ValueError(f"upgrade: expected none with source {self.source}, got {self.upgrade}. Set source to processed")
        return self

    @model_validator(mode="after")
    def _files_that_a_choice_needs(self) -> Self:
        needs = {
            "split_list": ("split_by", self.split_by == "list", "list"),
            "landmarks": ("align", self.align == "landmarks", "landmarks"),
            "test_landmarks": ("test_align", self.test_align == "landmarks", "landmarks"),
            "detector": ("align or test_align", "yunet" in (self.align, self.test_align), "yunet"),
        }
        for file, (choice, chosen, value) in needs.items():
            if chosen != bool(getattr(self, file)):
                raise ValueError(
                    f"{file}: expected a path with {choice} {value}, and none without, got {getattr(self, file)!r}. "
                    f"{'Give the path' if chosen else f'Set {choice} to {value}, or leave {file} empty'}"
                )
        return self


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


class DSRLosses(BaseModel):
    """Weights of the losses of one DSR step."""

    lambda_l1: Weight
    lambda_identity: Weight
    lambda_feature_match: Weight
    lambda_perceptual: Weight
    lambda_tv: Weight
    vgg_weights: str
    identity_target: Literal["stored", "augmented"]
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


class DSRTraining(Teacher, DSRLosses):
    base_channels: Positive
    residual_blocks: Positive
    initial_dsr: str
    train_sizes: list[Size]
    members: Positive
    epochs: Positive
    learning_rate: Rate
    warmup_epochs: Count


class EdgeFaceLosses(BaseModel):
    """The EdgeFace fine-tune: its recipe and its limits."""

    stage1_epochs: Count
    stage2_epochs: Count
    head_lr: Rate
    backbone_lr: Rate
    head_lr_stage2: Rate
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


class CyclicCycle(Teacher, DSRLosses, EdgeFaceLosses):
    select_by: Literal["eer", "auc"]
    dsr: str
    finetuned_edgeface: str
    mode: Literal["alternate", "joint"]
    cycles: Positive
    skip_dsr: bool
    skip_edgeface: bool
    control_epochs: Count
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
        without = ("skip_dsr", "skip_edgeface", "lora_rank", "lambda_direct") if self.mode == "joint" else ("control_epochs",)
        if silent := [name for name in without if getattr(self, name)]:
            raise ValueError(
                f"{', '.join(silent)}: expected 0 or false with mode {self.mode}, where it has no meaning, got "
                f"{[getattr(self, name) for name in silent]}. Leave it out, or change mode"
            )
        if self.mode == "joint" and self._of_nobody and self.lambda_arcface:
            raise ValueError(
                f"{', '.join(self._of_nobody)}: expected 0 beside a margin softmax (a face of nobody is no subject), got "
                f"{list(self._of_nobody.values())}. Set these to 0, or lambda_arcface"
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


class Evaluation(Stage):
    of_run: str
    dataset: str
    split: Literal["val", "test"]
    edgeface: str
    vlr_size: Size
    threshold: Annotated[float, Field(ge=-1, le=1)]
    threshold_fpir: Probability
    enrolled: Positive
    tta: bool
    judge: str
    lpips_weights: str
    all_pairs_faces: Count
    limit: Count
    bootstrap_draws: Positive
    show_faces: bool
    strips: Positive


STAGES: dict[str, type[Stage]] = {
    "01_data_migration": DataMigration,
    "02_dsr_training": DSRTraining,
    "03_edgeface_finetune": EdgeFaceFinetune,
    "04_cyclic_cycle": CyclicCycle,
    "05_evaluation": Evaluation,
}
