"""Which stages a run has: all of them, or those of a run that only evaluates what another one trained (``of_run``)."""

from __future__ import annotations

from typing import Any

import yaml

from dsrkit.params import STAGES
from dsrkit.runs import ROOT


def _evaluation(run: str) -> dict[str, Any]:
    file = ROOT / "params" / run / "05_evaluation.yaml"
    return (yaml.safe_load(file.read_text()) or {}) if file.is_file() else {}


def trained_by(run: str) -> str:
    """The run whose checkpoints ``run`` evaluates: ``of_run`` in its ``05_evaluation.yaml``, or itself."""
    return _evaluation(run).get("of_run") or run


def stages_of(run: str) -> list[str]:
    """The stages that a run needs parameters for.

    One that evaluates another run's checkpoints has its last, and its first where it names no data set.
    """
    if trained_by(run) == run:
        return list(STAGES)
    first, *_, last = STAGES
    return [last] if _evaluation(run).get("dataset") else [first, last]


def read_by_evaluation(run: str) -> list[str]:
    """Paths, from the repository's root, of what must be there before ``run`` can be evaluated."""
    of, own = trained_by(run), [f"outputs/{run}/dataset/manifest.csv"]
    files = [f"outputs/{of}/dsr_cycle1.pt", f"outputs/{of}/edgeface_cycle1.pt"]
    return [*files, *(own if of != run and "01_data_migration" in stages_of(run) else [])]
