"""The cycle: DSR goes on learning with the fine-tuned EdgeFace as its teacher, and EdgeFace from the new DSR.

Two modes. *Alternate* is the seeds' recipe: cycle 1 continues DSR; from cycle 2 on EdgeFace is fine-tuned again first.
*Joint* (``joint.py``) trains both at once. A step is accepted only when validation improves by more than the paired
bootstrap interval of the gain; a refused step is rolled back, and the next starts from what was there before. What was refused
stays beside it (``dsr_cycle1.refused.pt``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dsrkit.models.checkpoint import copy_checkpoint, read_about, refused
from dsrkit.models.dsr import DSR, read_dsr
from dsrkit.models.edgeface import EdgeFace, edgeface_file, load_edgeface
from dsrkit.params import CyclicCycle
from dsrkit.recognition import embed
from dsrkit.runs import is_main, resolve
from dsrkit.training.collapse import CollapseWatch
from dsrkit.training.dsr import DSRTask
from dsrkit.training.edgeface import finetune, margin_head
from dsrkit.training.joint import Bicubic, JointTask
from dsrkit.training.launch import in_processes, together
from dsrkit.training.loop import Fit, fit
from dsrkit.training.resume import Progress
from dsrkit.training.setting import Setting

OnStep = Callable[[str, list[dict[str, float]]], None]
Files = tuple[Path, Path]  # a DSR and an EdgeFace


@dataclass
class Step:
    """One step of a cycle that was tried (cycle 0: the control). ``gain``: of the measure that selects, with its interval."""

    cycle: int
    step: str
    fit: Fit
    gain: dict[str, float]
    accepted: bool

    def record(self, measure: str) -> dict[str, Any]:
        """For a table: the measure before and after, the gain, and whether the step was accepted."""
        start = next(row for row in self.fit.history if row["epoch"] == 0)
        return {
            "cycle": self.cycle, "step": self.step, "before": start[measure], "best": self.fit.best[measure],
            "gain": self.gain["value"], "gain_low": self.gain["low"], "gain_high": self.gain["high"],
            "accepted": self.accepted, "epochs": self.fit.history[-1]["epoch"], "ended": self.fit.ended,
            "seconds": round(self.fit.seconds),
        }  # fmt: skip


@dataclass
class Cycles:
    """What every step of the stage shares."""

    setting: Setting
    first: Files
    progress: Progress
    on_epoch: OnStep
    steps: list[Step]

    @property
    def params(self) -> CyclicCycle:
        assert isinstance(self.setting.params, CyclicCycle)
        return self.setting.params

    def origin(self, previous: Files) -> dict[str, Any]:
        """Provenance of a cycle's networks: what the stage started from, and what this cycle did."""
        of_cycle = {"previous_dsr": previous[0], "previous_edgeface": previous[1]}
        return self.setting.origin(dsr=self.first[0], edgeface=self.first[1], **of_cycle)

    def carry_over(self, old: Path, new: Path) -> None:
        """A network that this cycle leaves as it is."""
        if is_main():
            self.progress.begin()
            self._copy(old, new)
        together()

    def _copy(self, old: Path, new: Path) -> None:
        """A copy belongs to the networks that the stage started from, whatever it was made with (an original names nothing)."""
        inputs = self.setting.origin(dsr=self.first[0], edgeface=self.first[1])["inputs"]
        copy_checkpoint(old, new, carried_over={"from": str(old), "inputs": inputs})

    def watch(self) -> CollapseWatch:
        return CollapseWatch.of(self.params)

    def judge(self, cycle: int, step: str, done: Fit, before: Files, after: Files) -> None:
        """Accept the step that left ``after``, or roll it back to ``before``."""
        setting, level, title = self.setting, self.params.accept_level, f"cycle {cycle}, {step}"
        verdict = self.progress.notes.get(title)  # judged before the training was interrupted
        if verdict is None:
            old, new = (
                (read_dsr(dsr, setting.device), load_edgeface(edgeface, setting.device)) for dsr, edgeface in (before, after)
            )
            gain = setting.validation.gain(old, new, self.params.select_by, level or 0.95, self.params.sizes)
            verdict = {"gain": gain, "accepted": done.improved and gain["low" if level else "value"] > 0}
            together()  # everyone has read the files
            if is_main():
                self.progress.note(title, verdict)  # first: a roll-back that is interrupted must not be judged
        if not verdict["accepted"] and is_main():
            for kept, trained in zip(before, after, strict=True):
                rolled_back = "carried_over" in read_about(trained)  # by a stage that was then killed
                if done.improved and trained != kept and not rolled_back:
                    copy_checkpoint(trained, refused(trained))
                self._copy(kept, trained)
        together()
        self.steps.append(Step(cycle, step, done, **verdict))


@in_processes
def run_cycles(setting: Setting, on_epoch: OnStep = lambda title, history: None) -> list[Step]:
    """The stage ``04_cyclic_cycle``: ``cycles`` cycles from ``dsr.pt`` and ``edgeface.pt``.

    Cycle k leaves ``dsr_cycle<k>.pt`` and ``edgeface_cycle<k>.pt``, the same networks as before where its steps were refused.
    """
    files = first_files(setting)
    run, params = setting.run, setting.params
    assert isinstance(params, CyclicCycle)
    if params.mode == "alternate" and params.cycles > 1 and not params.skip_edgeface:  # fail now, not hours later
        setting.sampler(params.finetune_batch_size)
        margin_head(setting, imprinted=False)
    surplus = run.cycles(params.cycles + 1)  # no cycle of an earlier training may be taken for one of this
    trained = [file for files in (*map(run.cycle, range(1, params.cycles + 1)), *surplus) for file in files]
    replaced = [*trained, *map(refused, trained)]
    inputs = {"dsr": files[0], "edgeface": files[1]}
    if params.control_epochs:
        replaced.append(run.edgeface_direct)
        inputs["control"] = control_start(setting)
    progress = setting.progress("04_cyclic_cycle", setting.origin(**inputs), replaced, list(inputs.values()))
    cycles = Cycles(setting, files, progress, on_epoch, [])
    if params.control_epochs:
        _control(cycles)
    for number in range(1, params.cycles + 1):
        (_joint if params.mode == "joint" else _alternate)(cycles, number, files)
        files = run.cycle(number)
    progress.finish()
    return cycles.steps


def first_files(setting: Setting) -> Files:
    """The DSR and the EdgeFace that the first cycle starts from. Raises FileNotFoundError."""
    params, what = setting.params, "fine-tuned EdgeFace (finetuned_edgeface)"
    assert isinstance(params, CyclicCycle)
    return (
        resolve(params.dsr, setting.run.dsr, "DSR (dsr)"),
        (
            edgeface_file(params.finetuned_edgeface, what)
            if params.finetuned_edgeface
            else resolve("", setting.run.edgeface, what)
        ),
    )


def control_start(setting: Setting) -> Path:
    """The EdgeFace that the first control starts from. Raises FileNotFoundError."""
    params = setting.params
    assert isinstance(params, CyclicCycle)
    if params.initial_control:
        return edgeface_file(params.initial_control, "EdgeFace of the control (initial_control)")
    return setting.inputs["original_edgeface"]


def of_finetune(setting: Setting) -> Setting:
    """The setting as an EdgeFace step takes it."""
    assert isinstance(setting.params, CyclicCycle)
    return replace(setting, params=setting.params.of_finetune())


def joint_task(setting: Setting, number: int, dsr: DSR, edgeface: EdgeFace, origin: dict[str, Any]) -> JointTask:
    """Both networks of cycle ``number`` at once."""
    params = setting.params
    assert isinstance(params, CyclicCycle)
    return JointTask(setting, params.of_joint(number), dsr, edgeface, setting.run.cycle(number), origin)


def dsr_task(setting: Setting, number: int, dsr: DSR, teacher: EdgeFace, origin: dict[str, Any]) -> DSRTask:
    """DSR goes on in cycle ``number`` with ``teacher``; from cycle 2 on at that cycle's weights and learning rate."""
    params = setting.params
    assert isinstance(params, CyclicCycle)
    weights, rate = params, params.learning_rate
    if number > 1:
        changes = {"lambda_identity": params.lambda_identity_cycle2, "lambda_feature_match": params.lambda_feature_match_cycle2}
        weights, rate = params.model_copy(update=changes), params.learning_rate_cycle2
    embeddings = torch.from_numpy(embed(setting.train.hr, teacher)).to(setting.device)
    return DSRTask(setting, dsr, teacher, weights, embeddings, rate, setting.run.cycle(number)[0], origin, params.sizes)


def control_task(setting: Setting, number: int, origin: dict[str, Any]) -> JointTask:
    """EdgeFace alone, on bicubic faces: from ``initial_control`` or the original in cycle 1, then what the cycle before left."""
    params = setting.params
    assert isinstance(params, CyclicCycle)
    start = control_start(setting) if number == 1 else setting.run.edgeface_direct
    edgeface, paths = load_edgeface(start, setting.device), (None, setting.run.edgeface_direct)
    return JointTask(setting, params.of_joint(number), Bicubic(), edgeface, paths, origin)


def _joint(cycles: Cycles, number: int, files: Files) -> None:
    setting, params, title = cycles.setting, cycles.params, f"cycle {number}, joint"
    dsr, edgeface = read_dsr(files[0], setting.device), load_edgeface(files[1], setting.device)
    task = joint_task(setting, number, dsr, edgeface, cycles.origin(files))
    schedule = setting.schedule(epochs=params.of_joint(number).epochs, warmup_epochs=params.warmup_epochs)
    done = fit(task, schedule, partial(cycles.on_epoch, title), cycles.watch(), title, cycles.progress)
    cycles.judge(number, "joint", done, files, setting.run.cycle(number))


def _control(cycles: Cycles) -> None:
    """EdgeFace trained the same way on bicubic faces, into ``edgeface_direct.pt``: what is gained without a DSR."""
    setting, params, start = cycles.setting, cycles.params, control_start(cycles.setting)
    schedule = setting.schedule(epochs=params.control_epochs, warmup_epochs=params.warmup_epochs)
    for number in range(1, params.cycles + 1):
        title, task = control_title(number), control_task(setting, number, setting.origin(control=start))
        done = fit(task, schedule, partial(cycles.on_epoch, title), cycles.watch(), title, cycles.progress)
    before, after = ((None, load_edgeface(file, setting.device)) for file in (start, setting.run.edgeface_direct))
    gain = setting.validation.gain(before, after, params.select_by, params.accept_level or 0.95, params.sizes)
    cycles.steps.append(Step(0, title, done, gain, gain["value"] > 0))


def control_title(number: int) -> str:
    """What the control of a cycle is called in figures, tables and the state file."""
    return "control, no DSR" if number == 1 else f"control, cycle {number}"


def _alternate(cycles: Cycles, number: int, files: Files) -> None:
    setting, params = cycles.setting, cycles.params
    paths = setting.run.cycle(number)
    origin = cycles.origin(files)
    if number > 1 and not params.skip_edgeface:
        title = f"cycle {number}, EdgeFace"
        done = finetune(
            of_finetune(setting), load_edgeface(files[1], setting.device), files[0], paths[1],
            origin, cycles.progress, partial(cycles.on_epoch, title), title,
        )  # fmt: skip
        cycles.judge(number, "EdgeFace", done, files, (files[0], paths[1]))
    else:
        cycles.carry_over(files[1], paths[1])
    if params.skip_dsr:
        cycles.carry_over(files[0], paths[0])
    else:
        title = f"cycle {number}, DSR"
        dsr, teacher = read_dsr(files[0], setting.device), load_edgeface(paths[1], setting.device)
        schedule = setting.schedule(
            epochs=params.epochs if number == 1 else params.epochs_cycle2, warmup_epochs=params.warmup_epochs
        )
        done = fit(
            dsr_task(setting, number, dsr, teacher, origin), schedule, partial(cycles.on_epoch, title),
            cycles.watch(), title, cycles.progress,
        )  # fmt: skip
        cycles.judge(number, "DSR", done, (files[0], paths[1]), paths)
