"""What ``explore`` takes, and with which parameters each of its runs was evaluated."""

from __future__ import annotations

from typing import Annotated

import yaml
from pydantic import BeforeValidator, Field

from dsrkit.evaluation.report import read_metrics
from dsrkit.params import Evaluation, ParameterError, Settings
from dsrkit.params.kinds import Count, Positive
from dsrkit.runs import Run


class Explore(Settings):
    """Parameters of the notebook ``explore``: of several runs, so it is no stage of one."""

    runs: Annotated[list[str], Field(min_length=1), BeforeValidator(lambda runs: runs.split() if isinstance(runs, str) else runs)]
    seed: Count
    device: str
    limit: Count
    faces: Positive


def evaluation_of(run: Run, settings: Explore) -> Evaluation:
    """The parameters of a run's evaluation: its ``metrics.json`` says what they were, else its YAML what they shall be.

    Seed, device and (where it is not 0) ``limit`` are those of ``settings``.
    Raises FileNotFoundError when the run has neither file, ParameterError for values that do not serve.
    """
    if not run.folder.is_dir():
        there = sorted(folder.name for folder in run.folder.parent.glob("*") if folder.is_dir())
        raise FileNotFoundError(
            f"runs: expected a run at {run.folder}, got nothing there. There are: {', '.join(there) or 'none'}."
        )
    planned = run.root / "params" / run.name / "05_evaluation.yaml"
    if not planned.exists() and not run.metrics.exists():
        raise FileNotFoundError(
            f"{run.name}: expected the parameters of its evaluation in {planned} or {run.metrics}, got neither. "
            "Run 05_evaluation first."
        )
    values = yaml.safe_load(planned.read_text()) if planned.exists() else {}
    if not isinstance(values, dict):
        raise ParameterError(f"{planned}: expected lines such as 'seed: 0', got a {type(values).__name__}. Write flat keys.")
    if run.metrics.exists():
        recorded = read_metrics(run.metrics)["provenance"].get("parameters", {})
        values |= {name: value for name, value in recorded.items() if name in Evaluation.model_fields}
    here = {"run": run.name, "seed": settings.seed, "device": settings.device, "judge": ""}
    return Evaluation.check(values | here | ({"limit": settings.limit} if settings.limit else {}))
