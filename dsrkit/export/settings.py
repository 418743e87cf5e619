"""Parameters of ``07_export``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dsrkit.params import Stage
from dsrkit.params.kinds import Count, Draws, Positive, Size

Counts = Annotated[list[Positive], Field(min_length=1), AfterValidator(lambda counts: list(dict.fromkeys(counts)))]  # each once


class Export(Stage):
    """What ``07_export`` takes. ONNX Runtime and the PyTorch that it is held against run on the CPU."""

    device: Literal["cpu"]
    dataset: str
    edgeface: str
    hr_edgeface: Literal["own", "original"]
    row: str
    vlr_size: Size
    tta: bool
    int8: Literal["auto", "dynamic", "static", "static-dsr", "mixed"]
    validation_faces: Positive
    limit: Count
    bootstrap_draws: Draws
    rounds: Positive
    batches: Counts
    threads: Counts
