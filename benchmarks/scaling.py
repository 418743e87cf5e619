"""Weak scaling of the trainings: faces a second of a DSR step and of the joint step, with one process and with two, by turns.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py --results docs/results/benchmarks/scaling.json

Every process has the same number of faces a step and one thread, the processes are started as every training starts them
(``dsrkit.training.launch``, gloo), and the faces are made up. Efficiency is the ratio of medians over the rounds: faces a second
of two processes over twice those of one; 1 where a second process costs nothing. Processes of one machine share its memory
and caches, so this tells the cost of exchanging gradients and of sharing, not what a network of machines does.

That is *computed*: a ring sends 2 (n - 1) / n of the gradient's bytes through each link every step. With none of it hidden behind
the backward pass, and without latency, n processes reach step / (step + sending) of n times one. The step is what one process
took here, and a tenth and a hundredth of that, as on a GPU: the faster a step, the more its exchange counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import SyntheticSource
from dsrkit.data.splits import split_subjects
from dsrkit.models import DSR, DSRConfig
from dsrkit.params import STAGES, CyclicCycle, Teacher
from dsrkit.runs import ROOT, atomic_path
from dsrkit.training import open_setting
from dsrkit.training.cycle import joint_task
from dsrkit.training.dsr import DSRTask
from dsrkit.training.joint import JointTask
from dsrkit.training.launch import in_processes
from dsrkit.training.setting import Setting
from dsrkit.training.stepper import Stepper

STEPS = {"DSR": "02_dsr_training", "joint": "04_cyclic_cycle"}
LINKS = {"10 GbE": 1.25e9, "100 Gb InfiniBand": 12.5e9, "PCIe 4 x16": 31.5e9, "NVLink 4": 450e9}  # bytes a second, one way
PROCESSES = (2, 8, 64)
FASTER = (1, 10, 100)  # how many times as fast as here a step may be
WARM_UP = 2  # AdamW's state is made in the first step, buffers in the first two


def made_up(dataset: Path, size: str, train: int) -> None:
    """A paired data set with at least ``train`` made-up faces to train on; eight a subject, a sixth of the subjects elsewhere."""
    source = SyntheticSource(-(-train // 8) * 3 // 2 + 6, 8, 0)
    shares = split_subjects([face.subject for face in source.faces], 1 / 6, 1 / 6, 0)
    splits = {split: (source, [face for face in source.faces if face.subject in shares[split]]) for split in shares}
    migrate(splits, dataset, Migration((size,), "bicubic-antialias", 0))


def task_of(setting: Setting) -> DSRTask | JointTask:
    """The step of the stage that the parameters belong to, on networks that have learned nothing (EdgeFace: the demo's)."""
    params: Any = setting.params
    of_dsr = STAGES["02_dsr_training"].read(ROOT / "params" / params.run / "02_dsr_training.yaml")
    dsr = DSR(DSRConfig(of_dsr.base_channels, of_dsr.residual_blocks)).to(setting.device).to(memory_format=torch.channels_last)
    if isinstance(params, CyclicCycle):
        return joint_task(setting, 1, dsr, copy.deepcopy(setting.original), {})
    embeddings = torch.from_numpy(setting.hr_embeddings).to(setting.device)
    return DSRTask(
        setting, dsr, setting.original, params, embeddings, params.learning_rate, setting.run.dsr, {}, (params.vlr_size,)
    )


@in_processes
def measure(setting: Setting, on_epoch: object = None) -> dict[str, float]:
    """Seconds of the median step, after the warm-up, and the bytes of the gradient. Nothing is validated or written."""
    torch.set_num_threads(1)
    params = setting.params
    task = task_of(setting)
    stepper = Stepper(task, setting.device, params.precision, params.weight_decay, params.grad_clip, params.accumulate)
    seconds = []
    for draw in task.sampler.draws(epoch=1):
        started = time.perf_counter()
        stepper.step(draw)
        seconds.append(time.perf_counter() - started)
    gradient = sum(weight.numel() * 4 for weight in stepper.parameters if weight.requires_grad)
    return {"seconds": statistics.median(seconds[WARM_UP:]), "gradient_bytes": gradient}


def parameters(step: str, run: str, dataset: Path, processes: int, steps: int) -> Teacher:
    """A run's, on made-up faces, the batch multiplied by the processes."""
    params: Any = STAGES[STEPS[step]].read(ROOT / "params" / run / f"{STEPS[step]}.yaml")
    return params.model_copy(
        update={"dataset": str(dataset), "edgeface": "demo", "device": "cpu", "precision": "fp32", "processes": processes}
        | {"batch_size": params.batch_size * processes, "steps_per_epoch": WARM_UP + steps, "lambda_perceptual": 0.0}
    )


def measured(run: str, rounds: int, steps: int) -> list[dict[str, Any]]:
    """A row for each step and number of processes: medians over the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, sides = Path(folder) / "dataset", [(step, processes) for step in STEPS for processes in (1, 2)]
        wanted = {side: parameters(side[0], run, dataset, side[1], steps) for side in sides}
        made_up(dataset, wanted[sides[0]].vlr_size, max(params.batch_size for params in wanted.values()))
        runs: dict[tuple[str, int], list[dict[str, float]]] = {side: [] for side in sides}
        for number in range(rounds):
            for side, params in wanted.items():
                runs[side].append(measure(open_setting(params)))
                print(f"round {number + 1}: {side[0]}, {side[1]} process(es): {runs[side][-1]['seconds']:.3f} s", flush=True)
    rows = []
    for (step, processes), several in runs.items():
        speeds = [wanted[step, processes].batch_size / one["seconds"] for one in several]
        row: dict[str, Any] = {"step": step, "processes": processes, "faces": wanted[step, processes].batch_size}
        row |= {"seconds": statistics.median(one["seconds"] for one in several), "faces_per_second": statistics.median(speeds)}
        row |= {"lowest": min(speeds), "highest": max(speeds), "gradient_mb": several[0]["gradient_bytes"] / 1e6}
        alone = row if processes == 1 else rows[-1]
        rows.append(row | {"efficiency": row["faces_per_second"] / processes / alone["faces_per_second"]})
    return rows


def computed(step: str, gradient: float, measured_seconds: float) -> list[dict[str, Any]]:
    """The efficiency that each link leaves: ``gradient`` bytes by a ring, a step of one process as long as here, or shorter."""
    rows = []
    for faster in FASTER:
        seconds = measured_seconds / faster
        for link, speed in LINKS.items():
            sending = {count: 2 * (count - 1) / count * gradient / speed for count in PROCESSES}
            efficiencies = {f"efficiency_{count}": seconds / (seconds + sending[count]) for count in PROCESSES}
            rows.append({"step": step, "link": link, "gb_per_second": speed / 1e9, "step_seconds": seconds, **efficiencies})
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Both tables, from what ``--results`` wrote."""
    lines = ["| step | processes | faces a step | ms a step | faces/s (lowest–highest) | efficiency |", "|" + "---|" * 6]
    for row in results["measured"]:
        speeds = f"{row['faces_per_second']:.1f} ({row['lowest']:.1f}–{row['highest']:.1f}) | {row['efficiency']:.3f}"
        lines.append(f"| {row['step']} | {row['processes']} | {row['faces']} | {1000 * row['seconds']:.0f} | {speeds} |")
    counts = " | ".join(f"{count} processes" for count in PROCESSES)
    lines += ["", f"| step | MB of gradient | ms a step | link | {counts} |", "|" + "---|" * (4 + len(PROCESSES))]
    sizes = {row["step"]: row["gradient_mb"] for row in results["measured"]}
    for row in results["computed"]:
        shares = " | ".join(f"{row[f'efficiency_{count}']:.3f}" for count in PROCESSES)
        lines.append(
            f"| {row['step']} | {sizes[row['step']]:.2f} | {1000 * row['step_seconds']:.1f} | {row['link']} | {shares} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="vlr16", help="whose networks, batch and losses (without the perceptual)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="timed steps a round")
    parser.add_argument("--results", type=Path, help="write the numbers here, as JSON")
    options = parser.parse_args()
    rows = measured(options.run, options.rounds, options.steps)
    alone = [row for row in rows if row["processes"] == 1]
    limits = [line for row in alone for line in computed(row["step"], 1e6 * row["gradient_mb"], row["seconds"])]
    about = {
        "date": date.today().isoformat(), "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads_per_process": 1, "torch": torch.__version__, "backend": "gloo", "run": options.run, "rounds": options.rounds,
        "steps": options.steps,
    }  # fmt: skip
    results = {"about": about, "measured": rows, "computed": limits}
    print("\n" + markdown(results))
    if options.results:
        with atomic_path(options.results) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
