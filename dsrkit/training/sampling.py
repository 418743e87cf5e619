"""Which faces a step sees, and how they are augmented: a function of the seed, the epoch and the step alone.

No generator is carried from step to step, so a training that was killed goes on with exactly the draws that it would have
had, and several processes, or the parts of a step that does not fit into memory, take their share of one and the same step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsrkit.data.augment import DRAWS, LOOK_DRAWS
from dsrkit.data.nobody import NOBODY_DRAWS
from dsrkit.data.realistic import DEGRADE_DRAWS


@dataclass(frozen=True)
class Draw:
    """One step, or a share of it: row numbers, uniform draws in [0, 1) for each row's augmentation (``DRAWS``), then for its
    degradation (``DEGRADE_DRAWS``), then for a face of nobody (``NOBODY_DRAWS``); of its own, those for how a recogniser
    looks at the restored face (``LOOK_DRAWS``); and one for the step."""

    rows: Int[np.ndarray, " n"]
    uniform: Float[Tensor, "n draws"]
    look: Float[Tensor, "n 4"]
    of_step: float
    partners: Int[np.ndarray, " n"]  # another face of the step for each, to make a face of nobody of both
    number: int = 0  # a share's faces are those at number, number + shares, … of the step's ``whole``
    shares: int = 1
    whole: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def share(self, number: int, shares: int) -> Draw:
        """Every ``shares``-th face from ``number`` on."""
        mine = slice(number, None, shares)
        faces = (self.rows[mine], self.uniform[mine], self.look[mine])
        return Draw(*faces, self.of_step, self.partners[mine], number, shares, len(self))

    def first(self, fraction: float) -> tuple[int, float]:
        """How many of these faces are among the first ``fraction`` of the whole step's (one at least, but for a fraction of 0),
        and what a mean over them counts for.

        With that weight the shares of a step, each counted by its faces, add up to the mean over that part of the step.
        """
        whole = self.whole or len(self)
        wanted = max(1, round(fraction * whole)) if fraction else 0
        here = len(range(self.number, wanted, self.shares))
        return here, here / wanted * whole / len(self) if here else 0.0


@dataclass(frozen=True)
class Sampler:
    """Shuffled batches over ``count`` faces; ``steps_per_epoch`` 0 is one pass.

    Raises ValueError with fewer faces than one batch.
    """

    count: int
    batch_size: int
    steps_per_epoch: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < self.batch_size:
            raise ValueError(
                f"Training: expected at least one batch of {self.batch_size} faces, got {self.count}. "
                "Lower batch_size or add faces."
            )

    def __len__(self) -> int:
        return self.steps_per_epoch or self.count // self.batch_size

    def epoch(self, epoch: int) -> list[Int[np.ndarray, " n"]]:
        """Row numbers, in random order within each batch too: a share of a batch is a share of all faces."""
        order = np.random.default_rng((self.seed, epoch))
        needed = len(self) * self.batch_size
        rounds = -(-needed // self.count)
        rows = np.concatenate([order.permutation(self.count) for _ in range(rounds)])[:needed]
        return list(rows.reshape(len(self), self.batch_size))

    def draws(self, epoch: int, first: int = 0) -> Iterator[Draw]:
        """The epoch's steps from step ``first`` (0 is the first) on."""
        for step, rows in enumerate(self.epoch(epoch)):
            if step >= first:
                generator = np.random.default_rng((self.seed, epoch, step))
                augmenting = generator.random((len(rows), DRAWS), dtype=np.float32)
                of_step = generator.random()
                degrading = generator.random((len(rows), DEGRADE_DRAWS), dtype=np.float32)
                mixing = generator.random((len(rows), NOBODY_DRAWS), dtype=np.float32)
                look = torch.from_numpy(generator.random((len(rows), LOOK_DRAWS), dtype=np.float32))  # last: the rest stays
                uniform = torch.from_numpy(np.concatenate([augmenting, degrading, mixing], axis=1))
                yield Draw(rows, uniform, look, of_step, np.roll(rows, 1))
