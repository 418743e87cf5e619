"""What a single parameter may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Draws = Annotated[int, Field(ge=20)]  # of a bootstrap: fewer have no 95 % interval to give
Rate = Annotated[float, Field(gt=0)]
Size = Annotated[
    str, Field(pattern=r"^\d+(x\d+)?$"), AfterValidator(lambda size: size if "x" in size else f"{size}x{size}")
]  # "16" and "16x16" are one size
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Degradation = Literal["bicubic-antialias", "bicubic-aliased", "area", "realistic"]
FileKind = Literal["folder", "multi-pie", "processed", "insightface-rec", "tinyface", "scface"]
Aligned = Literal["none", "centre-crop", "landmarks", "yunet"]
Flag = Literal["conflict", "duplicate", "dark", "bright", "flat", "grey"]
Code = Annotated[str, Field(pattern=r"^\d+$")]  # in quotes: YAML reads a bare 051 as 41
