"""What every training stage opens first: the run, the device, the data, the recogniser."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from dsrkit.data.augment import Augmentation
from dsrkit.data.faces import FaceSet, open_split
from dsrkit.data.layout import degradation_of, read_settings
from dsrkit.data.nobody import Nobody
from dsrkit.models.edgeface import EdgeFace, edgeface_file, load_edgeface
from dsrkit.params import Teacher
from dsrkit.recognition import embed
from dsrkit.runs import Run, pick_device, pick_precision, provenance, resolve, seed_everything
from dsrkit.training.loop import Schedule
from dsrkit.training.resume import Progress, open_progress
from dsrkit.training.sampling import Sampler
from dsrkit.training.validation import Validation, pairs_of


@dataclass(frozen=True)
class Setting:
    """One stage's surroundings. ``hr_embeddings`` are the training faces' by the original, untouched recogniser."""

    params: Teacher
    run: Run
    device: torch.device
    inputs: dict[str, Path]
    degradation: str
    train: FaceSet
    validation: Validation
    original: EdgeFace
    hr_embeddings: Float[np.ndarray, "n 512"]
    finishes: bool = True  # whether a stage that is done closes its state file; see ``resume.Progress``

    def origin(self, **files: Path) -> dict[str, Any]:
        """Provenance of what this stage makes: its parameters, the manifest, the recogniser, and the ``files`` read besides."""
        return provenance(self.params.model_dump(), self.device, **self.inputs, **files)

    def schedule(self, **changes: Any) -> Schedule:
        """The loop's settings of this stage, with those given."""
        params = self.params
        common: dict[str, Any] = {
            "weight_decay": params.weight_decay,
            "grad_clip": params.grad_clip,
            "patience": params.early_stop_patience,
            "select_by": params.select_by,
            "precision": pick_precision(params.precision, self.device),
            "accumulate": params.accumulate,
            "ema_decay": params.ema_decay,
            "compile": params.compile,
            "device": self.device,
        }
        return Schedule(**(common | changes))

    def with_params(self, **changes: Any) -> Setting:
        """The same surroundings with some parameters changed."""
        return replace(self, params=self.params.model_copy(update=changes))

    @functools.cached_property
    def augmentation(self) -> Augmentation:
        """The augmentation that the stage's parameters describe."""
        return Augmentation(**self._fields_of(Augmentation))

    @functools.cached_property
    def nobody(self) -> Nobody:
        """The faces of nobody that the stage's parameters describe."""
        return Nobody(**self._fields_of(Nobody))

    def _fields_of(self, kind: type[Augmentation] | type[Nobody]) -> dict[str, Any]:
        return {name: value for name, value in self.params.model_dump().items() if name in kind.__dataclass_fields__}

    def sampler(self, batch_size: int) -> Sampler:
        """Shuffled batches over the training faces, as many an epoch as the parameters say."""
        return Sampler(len(self.train), batch_size, self.params.steps_per_epoch, self.params.seed)

    def progress(self, stage: str, origin: dict[str, Any], results: list[Path], inputs: Sequence[Path]) -> Progress:
        """The state file of ``stage``; see ``resume.open_progress``.

        Raises ValueError when a result would take the place of a file that the stage starts from: it could not be resumed.
        """
        read = {file.resolve() for file in (*self.inputs.values(), *inputs)}
        for result in results:
            if result.resolve() in read:
                raise ValueError(
                    f"{result}: expected an input that stays, got a file that this stage replaces. Copy it under another "
                    "name and give that, or change run."
                )
        path = self.run.folder / f"{stage}.state.pt"
        progress = open_progress(path, origin, self.params.resume, self.params.checkpoint_minutes, results)
        progress.finishes = self.finishes
        return progress


@dataclass
class OnTrainingFaces:
    """What every task over a setting's training faces shares."""

    setting: Setting

    @property
    def sampler(self) -> Sampler:
        return self.setting.sampler(self.setting.params.batch_size)

    def names(self, rows: Int[np.ndarray, " n"]) -> list[str]:
        return [self.setting.train.names[row] for row in rows]


def open_setting(params: Teacher) -> Setting:
    """Open everything a training stage reads; embeds the HR faces once.

    Raises FileNotFoundError or ValueError when something is missing.
    """
    seed_everything(params.seed)
    run, device = Run(params.run), pick_device(params.device)
    dataset = resolve(params.dataset, run.dataset, "data set (dataset)")
    train = open_split(dataset, "train", params.vlr_size)
    faces = open_split(dataset, "val", params.vlr_size)
    if not (train.has_hr and faces.has_hr):
        raise ValueError(
            f"{dataset}: expected HR faces to learn from, got a native low-resolution data set, which has none. Train on a data "
            "set made from HR photos; evaluate on this one."
        )
    inputs = {
        "manifest": dataset / "manifest.csv",
        "dataset": dataset / "dataset.json",
        "original_edgeface": edgeface_file(params.edgeface),
    }
    original = load_edgeface(inputs["original_edgeface"], device).requires_grad_(False)
    degradation = degradation_of(dataset)
    seed = read_settings(dataset)["seed"]  # of the data set, not of this stage
    validation = Validation(faces, degradation, *pairs_of(faces, seed), embed(faces.hr, original), seed)
    return Setting(params, run, device, inputs, degradation, train, validation, original, embed(train.hr, original))
