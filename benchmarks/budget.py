"""Whole lines for the same time: runs cut to one budget, such as the published settings and ours.

    python benchmarks/budget.py seed-vlr16 vlr16 --minutes 30

Stages 02, 03 (where 04 goes on from it) and 04 of each run take a share of the steps that its parameters ask for, one share for
all its stages, so that a line ends after so many minutes of training by the pace of a few steps measured here. At most four
epochs a training, as validations are not counted; no control. Then 05, on the test set or, with ``--split val``, on validation
subjects (the published networks restore a few faces a second on a CPU). The data set is the run's own, or ``--dataset``; results
go to ``outputs/<run>-budget``; ``make comparison RUNS="seed-vlr16-budget vlr16-budget"`` sets them side by side.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import papermill
import torch

from dsrkit.models.checkpoint import save_checkpoint
from dsrkit.models.dsr import DSR, DSRConfig, dsr_content
from dsrkit.params import STAGES, CyclicCycle, DSRTraining, EdgeFaceFinetune
from dsrkit.runs import ROOT, Run
from dsrkit.training import open_setting
from dsrkit.training.dsr import DSRTask
from dsrkit.training.edgeface import EdgeFaceTask, margin_head
from dsrkit.training.plan import plan_cycles, seconds_of

EPOCHS = 4
NO_CONTROL = {"control": False, "control_epochs": 0}
Changes = dict[str, Any]
Trained = dict[str, tuple[int, int, float]]  # by the parameter that counts its epochs: epochs, steps of one, seconds of a step


def parameters(of: str, stage: str, **changes: Any) -> Changes:
    return STAGES[stage].read(ROOT / "params" / of / f"{stage}.yaml").model_dump() | changes


def of_dsr(run: str, common: Changes) -> Trained:
    params = DSRTraining.check(parameters(run, "02_dsr_training", **common))
    setting, config = open_setting(params), DSRConfig(params.base_channels, params.residual_blocks)
    dsr = DSR(config).to(setting.device).to(memory_format=torch.channels_last)
    save_checkpoint(untrained(common), "dsr", dsr_content(dsr))
    embeddings = torch.from_numpy(setting.hr_embeddings).to(setting.device)
    task = DSRTask(setting, dsr, setting.original, params, embeddings, 0.0, Path(), {}, params.sizes)
    return {"epochs": (params.epochs, len(task.sampler), seconds_of(task, setting)[0])}


def of_edgeface(run: str, common: Changes) -> Trained:
    params = EdgeFaceFinetune.check(parameters(run, "03_edgeface_finetune", **common))
    setting = open_setting(params)
    hr = setting.train.hr, setting.validation.faces.hr  # to time, as good as restored faces, which would have to be made
    head, rates = margin_head(setting, imprinted=True), (params.head_lr, params.backbone_lr)
    task = EdgeFaceTask(setting, setting.original, head, params, *hr, *rates, Path(), {})
    steps, step = len(task.sampler), seconds_of(task, setting)[0]
    return {"stage1_epochs": (params.stage1_epochs, steps, step), "stage2_epochs": (params.stage2_epochs, steps, step)}


def of_cycle(run: str, common: Changes) -> Trained:
    start = {"dsr": str(untrained(common)), "finetuned_edgeface": parameters(run, "04_cyclic_cycle")["edgeface"]}
    params = CyclicCycle.check(parameters(run, "04_cyclic_cycle", **common, **start, control_epochs=0))
    setting = open_setting(params)
    plan = plan_cycles(setting).groupby("step")[["steps", "expected hours"]].sum()
    pace = 3600 * plan["expected hours"] / plan["steps"]
    steps, few = (len(setting.sampler(size)) for size in (params.batch_size, params.finetune_batch_size))
    first = {"epochs": (params.epochs, steps, pace["joint" if params.mode == "joint" else "DSR"])}
    if params.cycles == 1:
        return first
    second = {"epochs_cycle2": (params.epochs_cycle2, *first["epochs"][1:])}
    if params.mode == "alternate":
        second |= {name: (getattr(params, name), few, pace["EdgeFace"]) for name in ("stage1_epochs", "stage2_epochs")}
    return first | second


def untrained(common: Changes) -> Path:
    """A DSR to time the cycle with, before there is a trained one."""
    return Run(common["run"]).folder / "untrained.pt"


def trainings(run: str, common: Changes) -> dict[str, Trained]:
    """What each stage of a line trains, and its pace here."""
    found = {"02_dsr_training": of_dsr(run, common)}
    if not parameters(run, "04_cyclic_cycle")["finetuned_edgeface"]:  # else 04 starts from another recogniser
        found["03_edgeface_finetune"] = of_edgeface(run, common)
    return found | {"04_cyclic_cycle": of_cycle(run, common)}


def seconds(trained: Trained) -> float:
    """What a stage's parameters ask for."""
    return sum(epochs * steps * pace for epochs, steps, pace in trained.values())


def cut(trained: Trained, share: float) -> Changes:
    """Epochs and steps of a stage that take a share of its time."""
    divisor = max(1.0, max(epochs for epochs, _, _ in trained.values()) / EPOCHS)
    fewer = {name: max(1, round(epochs / divisor)) for name, (epochs, _, _) in trained.items() if epochs}
    of_one_step = sum(fewer[name] * trained[name][2] for name in fewer)
    return fewer | {"steps_per_epoch": max(1, round(share * seconds(trained) / of_one_step)), "warmup_epochs": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each run")
    parser.add_argument("--dataset", default="", help="folder of the data set; empty is the run's own")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="what 05 judges them on")
    options = parser.parse_args()
    judging: Changes = {"split": options.split}
    if options.split == "val":  # whose subjects cannot choose the threshold that judges them
        judging["threshold_fpir"] = 0.0
    for run in options.runs:
        own = Run(f"{run}-budget")
        common = {"run": own.name, "dataset": options.dataset or str(Run(run).dataset)}
        lines = trainings(run, common)
        share = 60 * options.minutes / sum(map(seconds, lines.values()))
        for stage in (*lines, "05_evaluation"):
            changes = common | (NO_CONTROL | cut(lines[stage], share) if stage in lines else judging)
            if stage in lines:
                print(f"{run}, {stage}: {100 * share:.2g} % of its steps, {changes}", flush=True)
            known, notebook = parameters(run, stage), f"{stage}.ipynb"
            wanted = known | {name: value for name, value in changes.items() if name in known}
            papermill.execute_notebook(ROOT / "notebooks" / notebook, own.folder / notebook, wanted, progress_bar=False)


if __name__ == "__main__":
    main()
