"""One training loop for everything that trains. It knows no loss by name.

A task hands over its modules, its batches and a dictionary of weighted losses; the loop does epochs, warm-up and cosine,
precision, clipping, validation, the best checkpoint, early stopping, and the record of all that.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm.auto import tqdm

from dsrkit.runs import is_interactive

LOWER_IS_BETTER = {"eer"}


class TrainingError(RuntimeError):
    """Training that cannot go on: says where it stopped, why, and what to do."""


@runtime_checkable
class Task(Protocol):
    """What the loop asks of a task."""

    @property
    def trained(self) -> nn.Module: ...
    def parameter_groups(self) -> list[dict[str, Any]]: ...
    def steps(self) -> int: ...
    def batches(self, epoch: int) -> Iterator[Any]: ...
    def losses(self, batch: Any) -> dict[str, Tensor]: ...
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
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass
class Fit:
    """What a training did: one record an epoch (epoch 0 is the untrained start), and why it ended."""

    history: list[dict[str, float]]
    best: dict[str, float]
    ended: str
    seconds: float

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
) -> Fit:
    """Train ``task``; its best epoch by validation (the untrained start included) is what ``task.save`` wrote last.

    Args:
        on_epoch: sees the whole history after every epoch (live figures).
        watch: sees each validation; a text stops the training and says why.

    Raises TrainingError when a loss is not finite; the last good checkpoint stays.
    """
    started = time.perf_counter()
    AcceleratorState._reset_state(reset_partial_state=True)  # else one kernel cannot train twice at different precisions
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(schedule.precision, schedule.precision), cpu=schedule.device.type == "cpu"
    )
    optimizer = torch.optim.AdamW(task.parameter_groups(), weight_decay=schedule.weight_decay)
    total = schedule.epochs * task.steps()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(round(schedule.warmup_epochs * task.steps()), total))
    optimizer, scheduler = accelerator.prepare(optimizer, scheduler)

    history: list[dict[str, float]] = []
    best = _record(history, task, 0, {}, schedule, started)
    ended = watch(best) or ""
    task.save(0, best)
    on_epoch(history)
    for epoch in range(1, schedule.epochs + 1):
        if ended:
            break
        losses = _epoch(task, accelerator, optimizer, scheduler, schedule, epoch, title)
        record = _record(history, task, epoch, losses | {"learning_rate": scheduler.get_last_lr()[0]}, schedule, started)
        ended = watch(record) or ""
        if not ended and better(record, best, schedule.select_by):
            best = record
            task.save(epoch, best)
        on_epoch(history)
        print(_line(title, record, schedule, best), flush=True)
        if not ended and epoch - best["epoch"] >= schedule.patience:
            ended = f"no better {schedule.select_by} for {schedule.patience} epochs"
    return Fit(history, best, ended or "all epochs done", time.perf_counter() - started)


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


def _epoch(
    task: Task, accelerator: Accelerator, optimizer: Any, scheduler: Any, schedule: Schedule, epoch: int, title: str
) -> dict[str, float]:
    task.trained.train()
    sums: dict[str, float] = defaultdict(float)
    bar = tqdm(task.batches(epoch), total=task.steps(), desc=f"{title}, epoch {epoch}", leave=False, disable=not is_interactive())
    for step, batch in enumerate(bar, 1):
        with accelerator.autocast():
            losses = task.losses(batch)
            if not losses:
                raise TrainingError(f"{title}: expected a loss to train with, got none. Set one lambda_… above 0.")
            total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            terms = {name: float(loss.detach()) for name, loss in losses.items()}
            raise TrainingError(
                f"{title}: expected finite losses, got {terms} in epoch {epoch}, step {step}. The last good checkpoint is "
                "kept. Lower the learning rate, or use precision fp32."
            )
        optimizer.zero_grad()
        accelerator.backward(total)
        if schedule.grad_clip:
            accelerator.clip_grad_norm_(task.trained.parameters(), schedule.grad_clip)
        optimizer.step()
        scheduler.step()
        for name, loss in (losses | {"total": total}).items():
            sums[name] += float(loss.detach())
        bar.set_postfix(loss=f"{sums['total'] / step:.4f}")
    if not all(bool(torch.isfinite(weight).all()) for weight in task.trained.parameters()):
        raise TrainingError(
            f"{title}: expected finite weights, got others after epoch {epoch}. The last good checkpoint is kept. "
            "Lower the learning rate, or set grad_clip."
        )
    return {f"loss_{name}": value / task.steps() for name, value in sums.items()}


def _record(
    history: list[dict[str, float]], task: Task, epoch: int, train: dict[str, float], schedule: Schedule, started: float
) -> dict[str, float]:
    task.trained.eval()
    record = {"epoch": epoch, **train, **task.validate(), "seconds": round(time.perf_counter() - started, 1)}
    if schedule.select_by not in record:
        raise TrainingError(f"select_by: expected one of {sorted(record)}, got {schedule.select_by!r}.")
    history.append(record)
    return record


def _line(title: str, record: dict[str, float], schedule: Schedule, best: dict[str, float]) -> str:
    star = " *" if best is record else ""
    return (
        f"{title} {record['epoch']:.0f}/{schedule.epochs}  loss {record['loss_total']:.4f}  "
        f"{schedule.select_by} {record[schedule.select_by]:.4f}  {record['seconds']:.0f} s{star}"
    )
