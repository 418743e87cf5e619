"""The collapse watch: a fine-tune must not quietly ruin the recogniser.

Fine-tuning with a strong margin on few subjects has been seen to push all faces together (genuine cosine .94, impostor
.86, equal error rate 27 %), while the training loss fell. So every validation is held against the start: how far genuine
and impostor scores stand apart (d′), how many directions the embeddings still use (effective rank), and what is left of HR
embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dsrkit.params import EdgeFaceLosses


@dataclass
class CollapseWatch:
    """Stops a training when a measure falls below a share of what it was before the first step.

    Args:
        d_prime: smallest share of d′ that may be left (0: not watched).
        effective_rank: smallest share of the effective rank that may be left (0: not watched).
        hr_similarity: smallest share of the cosine between HR embeddings now and before (0: not watched; a training that
            does not touch the recogniser does not measure it).
    """

    d_prime: float
    effective_rank: float
    hr_similarity: float = 0.0
    start: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, params: EdgeFaceLosses) -> CollapseWatch:
        """The watch that a stage's parameters ask for."""
        return cls(params.collapse_d_prime, params.collapse_effective_rank, params.collapse_hr_similarity)

    def __call__(self, metrics: dict[str, float]) -> str | None:
        """The reason to stop, or None. The first call is the start that later ones are held against."""
        if not self.start:
            self.start = dict(metrics)
            return None
        shares = {"d_prime": self.d_prime, "effective_rank": self.effective_rank, "hr_similarity": self.hr_similarity}
        for name, share in shares.items():
            if share and name in self.start and not metrics[name] >= share * self.start[name]:  # NaN is a collapse too
                return (
                    f"collapse: {name} fell from {self.start[name]:.2f} to {metrics[name]:.2f}, below {share:.0%}; genuine "
                    f"mean {metrics['genuine_mean']:.2f}, impostor mean {metrics['impostor_mean']:.2f}. "
                    "The last good weights are kept. Lower the learning rates or lambda_arcface, or raise lambda_distill."
                )
        return None
