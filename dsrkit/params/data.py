"""What ``01_data_migration`` takes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dsrkit.params.kinds import Aligned, Code, Count, Degradation, FileKind, Flag, Positive, Probability, Size
from dsrkit.params.settings import Stage


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
