"""Which stages a run has, and what it reads of other runs.

A run has all stages, or the last ones where it only evaluates what another one trained (``of_run``). A training may start from
another run's networks or read its data set: parameters that name a file under ``outputs/<run>``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from dsrkit.params import STAGES
from dsrkit.runs import ROOT

# what Snakemake is asked for in place of what a parameter names: its rules know one file of each stage, or two
_OF_ITS_STAGE = {"dataset": "dataset/manifest.csv", "edgeface_direct.pt": "edgeface_cycle1.pt"}


def _parameters(run: str, stage: str) -> dict[str, Any]:
    file = ROOT / "params" / run / f"{stage}.yaml"
    return (yaml.safe_load(file.read_text()) or {}) if file.is_file() else {}


def trained_by(run: str) -> str:
    """The run whose checkpoints ``run`` evaluates: ``of_run`` in its ``05_evaluation.yaml``, or itself."""
    return _parameters(run, "05_evaluation").get("of_run") or run


def stages_of(run: str) -> list[str]:
    """The stages that a run needs parameters for.

    One that evaluates another run's checkpoints has its last, and its first where it names no data set.
    """
    if trained_by(run) == run:
        return list(STAGES)
    first, *_, last = STAGES
    return [last] if _parameters(run, "05_evaluation").get("dataset") else [first, last]


def only_plans(run: str) -> bool:
    """Whether a run's cycle is a dry run, which leaves no networks."""
    return "04_cyclic_cycle" in stages_of(run) and bool(_parameters(run, "04_cyclic_cycle").get("dry_run"))


def read_by_evaluation(run: str) -> list[str]:
    """Paths, from the repository's root, of what must be there before ``run`` can be evaluated."""
    of, own = trained_by(run), [f"outputs/{run}/dataset/manifest.csv"]
    files = [f"outputs/{of}/dsr_cycle1.pt", f"outputs/{of}/edgeface_cycle1.pt"]
    return [*files, *(own if of != run and "01_data_migration" in stages_of(run) else [])]


def read_of_other_runs(run: str, stage: str) -> list[str]:
    """Paths, from the repository's root, of other runs' files that a stage's parameters name, or of what comes with them.

    Of files that no other run of ``params`` makes nothing is said: they are the user's.
    """
    named = [PurePosixPath(value) for value in _parameters(run, stage).values() if isinstance(value, str)]
    others = [path for path in named if path.parts[:1] == ("outputs",) and len(path.parts) > 2 and path.parts[1] != run]
    made = [path for path in others if (ROOT / "params" / path.parts[1]).is_dir()]
    return [str(path.parent / _OF_ITS_STAGE.get(path.name, path.name)) for path in made]


def with_runs_they_need(runs: Sequence[str]) -> list[str]:
    """The runs, each after those that it starts from or evaluates. Raises ValueError where runs start from each other."""
    ordered: dict[str, None] = {}

    def add(run: str, on_the_way: tuple[str, ...]) -> None:
        if run in on_the_way:
            raise ValueError(
                f"params: expected runs that start from earlier ones, got a circle: {' → '.join((*on_the_way, run))}. "
                "Let one of them start from nothing."
            )
        for other in _needed(run):
            add(other, (*on_the_way, run))
        ordered[run] = None

    for run in runs:
        add(run, ())
    return list(ordered)


def _needed(run: str) -> Iterator[str]:
    if (of := trained_by(run)) != run:
        yield of
    for stage in stages_of(run):
        yield from (path.split("/")[1] for path in read_of_other_runs(run, stage))
