"""One training loop for everything that trains. It knows no loss by name.

A task hands over its modules, its batches and a dictionary of weighted losses; the loop does epochs, warm-up and cosine,
validation, the best checkpoint, early stopping, exact resume, and the record of all that. ``Stepper`` does a single step.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from dsrkit.runs import is_interactive, is_main
from dsrkit.training.records import Records
from dsrkit.training.resume import Progress, generator_states, restore_generators
from dsrkit.training.sampling import Sampler
from dsrkit.training.stepper import Losses, Stepper, TrainingError

LOWER_IS_BETTER = {"eer"}


@runtime_checkable
class Task(Losses, Protocol):
    """What the loop asks of a task, beside what a step asks."""

    @property
    def sampler(self) -> Sampler: ...
    def validate(self) -> dict[str, float]: ...
    def save(self, epoch: int, metrics: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, how careful: see ``params``."""

    epochs: int
    warmup_epochs: float = 0
    weight_decay: float = 0.0
    grad_clip: float = 0.0
    patience: int = 15
    select_by: str = "eer"
    precision: str = "fp32"
    accumulate: int = 1
    ema_decay: float = 0.0
    compile: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass
class Fit:
    """What a training did: one record an epoch (epoch 0 is the untrained start), and why it ended."""

    history: list[dict[str, float]]
    best: dict[str, float]
    ended: str
    seconds: float
    control: Fit | None = None  # the same without a DSR

    @property
    def improved(self) -> bool:
        """True when some epoch validated better than the start."""
        return self.best["epoch"] > 0


Watch = Callable[[dict[str, float]], str | None]


def fit(
    task: Task,
    schedule: Schedule,
    on_epoch: Callable[[list[dict[str, float]]], None] = lambda history: None,
    watch: Watch = lambda metrics: None,
    title: str = "training",
    progress: Progress | None = None,
) -> Fit:
    """Train ``task``; its best epoch by validation (the untrained start included) is what ``task.save`` wrote last.

    Args:
        on_epoch: sees the whole history after every epoch (live figures).
        watch: sees each validation; a text stops the training and says why.
        progress: keeps where the training stands; one that was interrupted goes on to the very weights, on a CPU to the
            bit, that it would have had.

    Raises TrainingError when a loss or a weight is not finite; the last good checkpoint stays.
    """
    return _Training(task, schedule, on_epoch, watch, title, progress).run()


class _Training:
    """One ``fit``: what it holds between epochs is what its state file holds."""

    def __init__(self, task: Task, schedule: Schedule, on_epoch: Any, watch: Watch, title: str, progress: Progress | None):
        self.task, self.schedule, self.on_epoch, self.watch, self.title = task, schedule, on_epoch, watch, title
        self.progress = progress
        self.stepper = Stepper(
            task, schedule.device, schedule.precision, schedule.weight_decay, schedule.grad_clip, schedule.accumulate,
            schedule.ema_decay, schedule.compile,
        )  # fmt: skip
        steps = len(task.sampler)
        factor = warmup_cosine(round(schedule.warmup_epochs * steps), schedule.epochs * steps)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.stepper.optimizer, factor)
        self.records: Records | None = None
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.sums: dict[str, float] = defaultdict(float)  # of the losses of the epoch so far
        self.epoch, self.step, self.ended, self.seconds = 0, 0, "", 0.0

    def run(self) -> Fit:
        known = self.progress.of(self.title) if self.progress else None
        started = time.perf_counter()
        if known:
            self._load_state(known)
            started -= self.seconds
        if self.progress and is_main():
            self.records = Records(self.progress, self.title, begins=not self.history)
        if not self.history:
            self._validate({}, started)
        while not self.ended:
            self._epoch(started)
            self._validate(self._means(), started)
        if self.records:
            self.records.close()
        self.stepper.accelerator.wait_for_everyone()  # the best checkpoint is on disk for all
        return Fit(self.history, self.best, self.ended, self.seconds)

    def _epoch(self, started: float) -> None:
        """The steps of an epoch that are left."""
        if self.step == 0:
            self.epoch, self.sums = self.epoch + 1, defaultdict(float)
        steps = len(self.task.sampler)
        draws = self.task.sampler.draws(self.epoch, self.step)
        self.task.trained.train()
        hidden = not (is_interactive() and is_main())
        bar = tqdm(draws, total=steps, initial=self.step, desc=f"{self.title}, epoch {self.epoch}", leave=False, disable=hidden)
        for draw in bar:
            try:
                logged = self.stepper.step(draw, measure_gradients=self.step == 0)
            except TrainingError as error:
                raise TrainingError(f"{self.title}, epoch {self.epoch}, step {self.step + 1}: {error}") from error
            self.scheduler.step()
            self.step += 1
            for name, value in logged.items():
                self.sums[name] += value
            bar.set_postfix(loss=f"{self.sums['loss_total'] / self.step:.4f}")
            if self.progress and self.step < steps and self.progress.due():
                self.seconds = time.perf_counter() - started
                self._keep_state()
        if not self.stepper.finite():
            raise TrainingError(
                f"{self.title}: expected finite weights, got others after epoch {self.epoch}. The last good checkpoint is kept. "
                "Lower the learning rate, or set grad_clip."
            )
        self.step = 0

    def _means(self) -> dict[str, float]:
        """Mean losses of the epoch; gradient norms are those of its first step (of a share of it, where it is shared)."""
        losses = {name: value / len(self.task.sampler) for name, value in self.sums.items() if name.startswith("loss")}
        norms = {name: value for name, value in self.sums.items() if name.startswith("gradient")}
        return losses | norms | {"learning_rate": float(self.scheduler.get_last_lr()[0])}

    def _validate(self, train: dict[str, float], started: float) -> None:
        """End an epoch: validate (the averaged weights, where an average is kept), keep the best, decide whether to stop."""
        self.task.trained.eval()
        with self.stepper.averaged():
            measured = self.task.validate() if is_main() else {}
            self.seconds = time.perf_counter() - started
            record = {"epoch": self.epoch, **train, **measured, "seconds": round(self.seconds, 1)}
            record = self._same_everywhere(record)
            measure = self.schedule.select_by
            if measure not in record:
                raise TrainingError(f"select_by: expected one of {sorted(record)}, got {measure!r}.")
            self.history.append(record)
            self.ended = self.watch(record) or ""
            if not self.best or (not self.ended and better(record, self.best, measure)):
                self.best = record
                if self.progress:
                    self.progress.begin()
                if is_main():
                    self.task.save(self.epoch, record)
        if not self.ended and self.epoch - self.best["epoch"] >= self.schedule.patience:
            self.ended = f"no better {measure} for {self.schedule.patience} epochs"
        if not self.ended and self.epoch >= self.schedule.epochs:
            self.ended = "all epochs done"
        self._keep_state()
        if self.records:
            self.records.write(record)
        if is_main():
            self.on_epoch(self.history)
            if self.epoch:
                print(_line(self.title, record, self.schedule, self.best), flush=True)

    def _same_everywhere(self, record: dict[str, float]) -> dict[str, float]:
        """The first process's record, so that all of them decide alike."""
        if self.stepper.accelerator.num_processes == 1:
            return record
        shared = [record]
        broadcast_object_list(shared)
        return shared[0]

    def _keep_state(self) -> None:
        if self.progress is None or not is_main():
            return
        self.progress.save(
            {
                "title": self.title,
                "epoch": self.epoch,
                "step": self.step,
                "ended": self.ended,
                "history": self.history,
                "best": self.best,
                "sums": dict(self.sums),
                "seconds": self.seconds,
                "stepper": self.stepper.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "generators": generator_states(),
            }
        )

    def _load_state(self, state: dict[str, Any]) -> None:
        if state["ended"]:
            self.stepper.trained.load_state_dict(state["stepper"]["trained"])
        else:
            self.stepper.load_state_dict(state["stepper"])
        self.scheduler.load_state_dict(state["scheduler"])
        restore_generators(state["generators"])
        self.history, self.best, self.ended, self.seconds = state["history"], state["best"], state["ended"], state["seconds"]
        self.epoch, self.step = state["epoch"], state["step"]
        self.sums = defaultdict(float, state["sums"])
        for record in self.history:  # a watch holds later validations against the first
            self.watch(record)


def better(one: dict[str, float], other: dict[str, float], measure: str) -> bool:
    """Whether ``one`` is the better by ``measure``; equal measures are decided by identity similarity where it is known."""
    sign = -1 if measure in LOWER_IS_BETTER else 1

    def key(record: dict[str, float]) -> tuple[float, float]:
        return sign * record[measure], record.get("identity_similarity", 0.0)

    return key(one) > key(other)


def warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear over ``warmup`` steps, then half a cosine to 0 at ``total``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return factor


def _line(title: str, record: dict[str, float], schedule: Schedule, best: dict[str, float]) -> str:
    star = " *" if best is record else ""
    return (
        f"{title} {record['epoch']:.0f}/{schedule.epochs}  loss {record['loss_total']:.4f}  "
        f"{schedule.select_by} {record[schedule.select_by]:.4f}  {record['seconds']:.0f} s{star}"
    )
