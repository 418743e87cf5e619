"""One training step, on whatever there is: precision, processes, memory, averaged weights.

A step's faces are shared out among the processes and, within each, over as many parts as memory asks for; gradients add up
to those of the whole batch, so neither changes what is learned: no network and no loss here looks across a batch, but for
AdaFace's running mean of lengths, which is that of a share.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dsrkit.training.sampling import Draw


class TrainingError(RuntimeError):
    """Training that cannot go on: says where it stopped, why, and what to do."""


@runtime_checkable
class Losses(Protocol):
    """What a step asks of a task."""

    @property
    def trained(self) -> nn.Module: ...
    def parameter_groups(self) -> list[dict[str, Any]]: ...
    def batch(self, draw: Draw) -> Any: ...
    def losses(self, batch: Any) -> dict[str, Tensor]: ...
    def names(self, rows: np.ndarray) -> list[str]: ...


class _Objective(nn.Module):
    """A task's losses as one module: data-parallel training and autocast work on a single forward call."""

    def __init__(self, task: Losses) -> None:
        super().__init__()
        self.trained = task.trained
        self.losses = task.losses

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.losses(batch)


class Stepper:
    """Optimiser, precision, gradient accumulation, several processes, and the moving average of the weights.

    Args:
        parts: a step's faces are computed in so many parts; doubled when memory runs out.
        ema_decay: share of the old average kept at each step (0: no average).
        compiled: whether ``torch.compile`` compiles the step.
    """

    def __init__(
        self,
        task: Losses,
        device: torch.device,
        precision: str = "fp32",
        weight_decay: float = 0.0,
        grad_clip: float = 0.0,
        parts: int = 1,
        ema_decay: float = 0.0,
        compiled: bool = False,
    ) -> None:
        if precision == "fp16" and device.type == "cpu":  # accelerate would train in fp32 without a word
            raise TrainingError("precision: expected fp32 or bf16 on a CPU, got fp16. Change it, or train on a GPU.")
        # else one kernel cannot train twice at different precisions; a group of processes is joined once and stays
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        self.accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision), cpu=device.type == "cpu")
        self.task, self.grad_clip, self.parts, self.compiled = task, grad_clip, parts, compiled
        self.parameters = [weight for group in task.parameter_groups() for weight in group["params"]]
        objective = _Objective(task)
        if compiled:
            objective.compile()
        self.objective: Any = self.accelerator.prepare(objective)
        self.optimizer: Any = self.accelerator.prepare(torch.optim.AdamW(task.parameter_groups(), weight_decay=weight_decay))
        self.trained = objective.trained
        self.average = (
            AveragedModel(self.trained, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True) if ema_decay else None
        )

    def step(self, draw: Draw, measure_gradients: bool = False) -> dict[str, float]:
        """Learn from one batch; its losses (``loss_…``), and on request each term's gradient norm (``gradient_…``).

        Raises TrainingError, naming the faces, when a loss is not finite; nothing is learned from such a batch.
        """
        while True:
            try:
                logged = self._gradients(draw, measure_gradients)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if self.accelerator.num_processes > 1 or self.parts >= len(draw):  # others would wait for these gradients
                    raise TrainingError(
                        f"expected memory for a step of {len(draw)} faces in {self.parts} parts, got: "
                        f"{str(error).rstrip('.')}. Raise accumulate, lower batch_size, or take smaller networks."
                    ) from error
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.parts = min(2 * self.parts, len(draw))
            print(f"out of memory: each step of {len(draw)} faces is now computed in {self.parts} parts", flush=True)
        if self.grad_clip:
            self.accelerator.clip_grad_norm_(self.parameters, self.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.trained)
        losses = {name: value for name, value in logged.items() if name.startswith("loss")}
        return logged | self.sum_over_processes(losses)

    def _gradients(self, draw: Draw, measure: bool) -> dict[str, float]:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if world > len(draw):
            raise ValueError(f"processes: expected at most {len(draw)}, the faces of a step, got {world}. Raise batch_size.")
        parts = min(self.parts, len(draw) // world)
        logged: dict[str, float] = {}
        self.optimizer.zero_grad()
        for part in range(parts):
            share = draw.share(rank + world * part, world * parts)
            whole = part == parts - 1  # processes exchange gradients once, when a step is complete
            with nullcontext() if whole else self.accelerator.no_sync(self.objective):
                losses = self.objective(self.task.batch(share))
                total = self._total(losses, share)
                if measure and part == 0 and not self.compiled:  # a compiled step gives its buffers away
                    logged |= self._norms(losses)
                weight = len(share) * world / len(draw)
                self.accelerator.backward(total * weight)
            for name, loss in (losses | {"total": total}).items():
                key = f"loss_{name}"
                logged[key] = logged.get(key, 0.0) + float(loss.detach()) * len(share) / len(draw)
        return logged

    def _total(self, losses: dict[str, Tensor], share: Draw) -> Tensor:
        if not losses:
            raise TrainingError(
                "expected a loss to train with, got none. Set one lambda_… above 0, with its share of faces (hr_fraction)."
            )
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            terms = {name: float(loss.detach()) for name, loss in losses.items()}
            raise TrainingError(
                f"expected finite losses, got {terms}, from the faces {', '.join(self.task.names(share.rows))}. The last good "
                "checkpoint is kept. Look at these faces, lower the learning rate, or use precision fp32."
            )
        return total

    def _norms(self, losses: dict[str, Tensor]) -> dict[str, float]:
        norms = {}
        for name, loss in losses.items():
            if loss.requires_grad:
                found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
                squares = [gradient.float().square().sum() for gradient in found if gradient is not None]
                norms[f"gradient_{name}"] = float(torch.stack(squares).sum().sqrt())
        return norms

    def finite(self) -> bool:
        """Whether every trained weight is a finite number."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.parameters)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the trained networks hold their averaged weights, where an average is kept."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        if self.average is None:
            return
        plain, averaged = ([*module.parameters(), *module.buffers()] for module in (self.trained, self.average.module))
        for one, other in zip(plain, averaged, strict=True):
            one.data, other.data = other.data, one.data

    def sum_over_processes(self, values: dict[str, float]) -> dict[str, float]:
        """Each value summed over all processes."""
        if self.accelerator.num_processes == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        summed: Any = self.accelerator.reduce(numbers, reduction="sum")
        return dict(zip(values, summed.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values."""
        scaler = self.accelerator.scaler
        return {
            "trained": self.trained.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "parts": self.parts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.parts = max(self.parts, state["parts"])
