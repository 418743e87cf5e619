"""How each recogniser of an evaluation was trained, so that a reader sees what a row and the control differ in.

*Fine-tuned the same way* holds between rows of one stage: the control of ``03_edgeface_finetune`` is the twin of
``dsr_finetuned``, that of ``04_cyclic_cycle`` the twin of its joint cycles. A row of the other stage is held against another
recipe, and its difference to the control is then one of recipes, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dsrkit.evaluation.headline import CONTROL, row_label
from dsrkit.evaluation.systems import System
from dsrkit.models.checkpoint import read_about

# What an EdgeFace is trained with, as 03 and 04 call it; what is 0 is not done.
RECIPE = (
    "lambda_distill", "lambda_arcface", "lambda_hr", "hr_fraction", "lambda_direct", "direct_fraction", "lora_rank",
    "original_share", "warp", "cutmix_probability", "blend_probability", "rotation_probability", "zoom", "shift",
    "jitter_probability",
)  # fmt: skip


def trainings_table(systems: Sequence[System]) -> pd.DataFrame:
    """Each system whose EdgeFace was trained: stage, epoch that was kept, minutes until then, recipe, and whether the
    control is its twin. Empty when every EdgeFace is the original one."""
    original = {system.files["edgeface"] for system in systems if system.row == "direct_feed"}
    tuned = [system for system in systems if not system.tta and system.files["edgeface"] not in original]
    trained = {system.row: about for system in tuned if "provenance" in (about := read_about(system.files["edgeface"]))}
    made = {
        row_label(row): {
            "trained in": _stage(row, about),
            "epoch kept": about.get("epoch", "–"),
            "minutes": f"{seconds / 60:.1f}" if (seconds := about.get("metrics", {}).get("seconds")) else "–",
            "recipe": ", ".join(f"{name} {value:g}" for name, value in _recipe(about).items()),
            "control is its twin": _twin(row, about, trained.get(CONTROL)),
        }
        for row, about in trained.items()
    }
    return pd.DataFrame.from_dict(made, orient="index")


def _recipe(about: Mapping[str, Any]) -> dict[str, float]:
    parameters = about["provenance"].get("parameters", {})
    return {name: parameters[name] for name in RECIPE if parameters.get(name)}


def _stage(row: str, about: Mapping[str, Any]) -> str:
    mode = about["provenance"].get("parameters", {}).get("mode")
    if mode is None:
        return "03_edgeface_finetune"
    return "04_cyclic_cycle" + ("" if row == CONTROL else f", {mode}")


def _twin(row: str, about: Mapping[str, Any], control: Mapping[str, Any] | None) -> str:
    if row == CONTROL or control is None:
        return "–"
    alike = _recipe(about) == _recipe(control) and _stage(CONTROL, about) == _stage(CONTROL, control)
    return "yes" if alike else "no: another recipe"
