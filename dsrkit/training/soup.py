"""A model soup: joint trainings that differ in their seeds alone, and the mean of their weights.

Fine-tunes of one network lie in one basin, so that their mean is about as good as their ensemble, for the price of a single
one, and depends less on what each happened to learn (Wortsman et al. 2022, arXiv 2203.05482).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.optim.swa_utils import AveragedModel

from dsrkit.runs import is_main
from dsrkit.training.joint import JointTask
from dsrkit.training.launch import together
from dsrkit.training.loop import Fit


def member_file(path: Path, number: int) -> Path:
    """Where training ``number`` (1, 2, …) of a soup leaves a network: ``dsr_cycle1.pt`` → ``soup/dsr_cycle1_2.pt``."""
    return path.parent / "soup" / f"{path.stem}_{number}{path.suffix}"


def fit_soup(members: list[JointTask], train: Callable[[JointTask, int], Fit], mean: JointTask) -> Fit:
    """Train every member; the mean of the networks that each kept is validated and saved by ``mean``, whose networks it takes.

    The fit of the first member is returned, with the mean in place of its best epoch, the seconds of all, and all fits in
    ``members``. The mean counts as an improvement when some member's is.
    """
    fits, average = [], AveragedModel(mean.trained, use_buffers=True)
    for number, task in enumerate(members, 1):
        fits.append(train(task, number))
        together()  # what was kept is on disk for all
        task.load_kept()
        average.update_parameters(task.trained)
    mean.trained.load_state_dict(average.module.state_dict())
    mean.trained.eval()
    epoch = max(one.best["epoch"] for one in fits)
    best = {"epoch": epoch, **(mean.validate() if is_main() else {}), "seconds": sum(one.seconds for one in fits)}
    if is_main():
        mean.save(int(epoch), best)
    together()
    return Fit(fits[0].history, best, f"mean of {len(fits)} trainings", best["seconds"], members=fits)
