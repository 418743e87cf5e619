"""A dry run of the cycle: what would be done, from which files, and how many hours it would take."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from dsrkit.models.dsr import DSR, read_dsr
from dsrkit.models.edgeface import EdgeFace, load_edgeface
from dsrkit.params import CyclicCycle
from dsrkit.training.cycle import control_task, control_title, dsr_task, first_files, joint_task, of_finetune
from dsrkit.training.edgeface import EdgeFaceTask, margin_head
from dsrkit.training.loop import Task
from dsrkit.training.setting import Setting
from dsrkit.training.stepper import Stepper

TIMED_STEPS = 3


def plan_cycles(setting: Setting) -> pd.DataFrame:
    """What ``run_cycles`` would do: a row a step, with the hours expected of it from a few steps measured here.

    Making the restored faces of an EdgeFace step is not counted. Nothing is written.
    Raises FileNotFoundError when a network to start from is missing.
    """
    params, seconds, planned = setting.params, {}, []
    assert isinstance(params, CyclicCycle)
    for number in range(0 if params.control_epochs else 1, params.cycles + 1):
        for step, epochs, batch_size, task in _planned(setting, params, number):
            if step not in seconds:
                seconds[step] = seconds_of(task(), setting)
            steps = epochs * len(setting.sampler(batch_size))
            hours = (steps * seconds[step][0] / params.processes + epochs * seconds[step][1]) / 3600
            planned.append({"cycle": number, "step": step, "epochs": epochs, "steps": steps, "expected hours": hours})
    return pd.DataFrame(planned)


def _planned(setting: Setting, params: CyclicCycle, number: int) -> list[tuple[str, int, int, Callable[[], Task]]]:
    """The steps of one cycle: name, epochs, batch size, and what makes their task."""

    def networks() -> tuple[DSR, EdgeFace]:
        dsr, edgeface = first_files(setting)
        return read_dsr(dsr, setting.device), load_edgeface(edgeface, setting.device)

    if number == 0:
        titles = map(control_title, range(1, params.cycles + 1))
        return [(title, params.control_epochs, params.batch_size, lambda: control_task(setting, 1, {})) for title in titles]
    if params.mode == "joint":
        return [
            ("joint", params.of_joint(number).epochs, params.batch_size, lambda: joint_task(setting, number, *networks(), {}))
        ]
    steps: list[tuple[str, int, int, Callable[[], Task]]] = []
    if number > 1 and not params.skip_edgeface:
        epochs = params.stage2_epochs + (params.stage1_epochs if params.lambda_arcface else 0)
        steps.append(("EdgeFace", epochs, params.finetune_batch_size, lambda: _edgeface_task(setting, networks()[1])))
    if not params.skip_dsr:
        epochs = params.epochs if number == 1 else params.epochs_cycle2
        steps.append(("DSR", epochs, params.batch_size, lambda: dsr_task(setting, number, *networks(), {})))
    return steps


def _edgeface_task(setting: Setting, edgeface: EdgeFace) -> EdgeFaceTask:
    """A fine-tune's task for its speed alone: HR faces stand for restored ones, which would take minutes to make."""
    params = setting.params
    assert isinstance(params, CyclicCycle)
    return EdgeFaceTask(
        of_finetune(setting), edgeface, margin_head(setting, imprinted=True), params, setting.train.hr,
        setting.validation.faces.hr, params.head_lr, params.backbone_lr, setting.run.edgeface, {},
    )  # fmt: skip


def seconds_of(task: Task, setting: Setting) -> tuple[float, float]:
    """Median seconds of a step, and seconds of a validation. The task's networks learn from these steps: give copies."""
    schedule, taken = setting.schedule(epochs=1), []
    stepper = Stepper(task, schedule.device, schedule.precision, grad_clip=schedule.grad_clip, parts=schedule.accumulate)
    for draw, _ in zip(task.sampler.draws(0), range(TIMED_STEPS + 1), strict=False):
        started = time.perf_counter()
        stepper.step(draw)  # ends with reading the loss, which waits for the device
        taken.append(time.perf_counter() - started)
    task.trained.eval()
    started = time.perf_counter()
    task.validate()
    return float(np.median(taken[1:] or taken)), time.perf_counter() - started  # the first step warms up
