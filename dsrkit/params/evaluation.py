"""What ``05_evaluation`` and ``06_comparison`` take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dsrkit.params.kinds import Count, Draws, Positive, Size
from dsrkit.params.settings import Settings, Stage


class Evaluation(Stage):
    of_run: str
    dataset: str
    split: Literal["val", "test"]
    edgeface: str
    hr_edgeface: Literal["own", "original"]
    vlr_size: Size
    threshold: Annotated[float, Field(ge=-1, le=1)]
    threshold_fpir: Annotated[float, Field(ge=0, lt=1)]
    enrolled: Positive
    tta: bool
    guide_steps: Count
    judge: str
    lpips_weights: str
    all_pairs_faces: Count
    limit: Count
    bootstrap_draws: Draws
    show_faces: bool
    strips: Positive


class Comparison(Settings):
    """What ``06_comparison`` takes: it is of several runs, so it is no stage of one."""

    runs: Annotated[list[str], BeforeValidator(lambda runs: runs.split() if isinstance(runs, str) else runs)]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    reference: str
    tta: bool
    seed: Count
    bootstrap_draws: Draws
