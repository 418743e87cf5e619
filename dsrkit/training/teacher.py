"""Make the small recogniser of made-up faces that ships with the kit.

    python -m dsrkit.training.teacher

renders made-up people (none of whom any run meets: they have a seed of their own), trains EdgeFace-xxs on them from
scratch with ArcFace, and writes ``dsrkit/models/edgeface_demo.safetensors`` (half precision, 2.5 MB) and a JSON beside it
that says how well it recognises people it never saw.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from dsrkit import metrics
from dsrkit.data.augment import Augmentation
from dsrkit.data.degrade import as_tensor
from dsrkit.data.faces import batches_of
from dsrkit.data.pairs import make_pairs
from dsrkit.data.synthetic import render_faces
from dsrkit.losses import ArcFace
from dsrkit.models.edgeface import DEMO_WEIGHTS, EdgeFace, load_edgeface
from dsrkit.recognition import embed
from dsrkit.runs import ROOT, atomic_path, file_hash, pick_device, provenance, seed_everything
from dsrkit.training.loop import Schedule, fit
from dsrkit.training.setting import Sampler

TEACHER_SEED = 20_000  # runs draw people from small seeds; the teacher's people must not be among them
AUGMENTATION = Augmentation(
    flip_probability=0.5, rotation_probability=0.3, rotation_degrees=5.0, jitter_probability=0.5,
    jitter_brightness_contrast=0.15, jitter_saturation=0.15,
)  # fmt: skip


def render_people(people: range, images: int, path: Path) -> UInt8[np.ndarray, "n 112 112 3"]:
    """Render (or reopen) ``images`` images of each person into a memory-mapped file."""
    if not path.exists():
        subjects, numbers = np.repeat(people, images), np.tile(np.arange(images), len(people))
        with atomic_path(path) as temporary:
            shape = (len(subjects), 112, 112, 3)
            faces = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for part in tqdm(list(batches_of(len(subjects), 256)), desc=f"rendering {path.stem}", mininterval=30):
                faces[part] = render_faces(subjects[part], numbers[part], seed=TEACHER_SEED)
            faces.flush()
    return np.load(path, mmap_mode="r")


@dataclass
class TeacherTask:
    """EdgeFace from scratch on made-up people. See ``loop.Task``."""

    edgeface: EdgeFace
    head: ArcFace
    faces: UInt8[np.ndarray, "n 112 112 3"]
    labels: Int[np.ndarray, " n"]
    validation: UInt8[np.ndarray, "n 112 112 3"]
    validation_labels: Int[np.ndarray, " n"]
    sampler: Sampler
    learning_rate: float
    device: torch.device
    path: Path

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleList([self.edgeface, self.head])

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.trained.parameters()), "lr": self.learning_rate}]

    def steps(self) -> int:
        return len(self.sampler)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = self.sampler.generator(epoch)
        for rows in self.sampler.epoch(epoch):
            faces = AUGMENTATION(as_tensor(self.faces[rows]).to(self.device), generator)
            yield faces, torch.from_numpy(self.labels[rows]).to(self.device)

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        faces, labels = batch
        return {"arcface": self.head(self.edgeface.embed(faces), labels)}

    def validate(self) -> dict[str, float]:
        """Verification and rank-1 on people that were not trained on; one enrolled image each."""
        embeddings = embed(self.validation, self.edgeface)
        rows, people = np.arange(len(self.validation)).astype(str), self.validation_labels.astype(str)
        table = make_pairs(rows.tolist(), people.tolist())
        pairs, same = table[["left", "right"]].astype(int).to_numpy(), table.same.to_numpy()
        scores = metrics.cosine_scores(embeddings, pairs)
        first = np.unique(self.validation_labels, return_index=True)[1]
        probes = np.setdiff1d(np.arange(len(embeddings)), first)
        nearest = (embeddings[probes] @ embeddings[first].T).argmax(1)
        return {
            "rank1": float((self.validation_labels[first][nearest] == self.validation_labels[probes]).mean()),
            "eer": metrics.eer(scores, same)[0],
            "effective_rank": metrics.effective_rank(embeddings),
        }

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        weights = {key: value.detach().half().contiguous().cpu() for key, value in self.edgeface.state_dict().items()}
        with atomic_path(self.path) as temporary:
            save_file(weights, temporary)
        with atomic_path(self.path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps({"epoch": epoch, "metrics": metrics, "sha256": file_hash(self.path)}, indent=1))


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=3000)
    parser.add_argument("--images", type=int, default=12, help="images of each person")
    parser.add_argument("--validation-people", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--scale", type=float, default=24.0)
    parser.add_argument("--margin", type=float, default=0.2)
    parser.add_argument("--start", help="weights to go on from")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--path", type=Path, default=DEMO_WEIGHTS)
    options = parser.parse_args()
    seed_everything(0)
    device, folder = pick_device(options.device), ROOT / "outputs" / "teacher"
    known, unseen = range(options.people), range(100_000, 100_000 + options.validation_people)
    edgeface = load_edgeface(options.start, device) if options.start else EdgeFace().to(device, memory_format=torch.channels_last)
    task = TeacherTask(
        edgeface, ArcFace(len(known), options.scale, options.margin).to(device),
        render_people(known, options.images, folder / f"train-{options.people}x{options.images}.npy"), np.repeat(known, options.images),
        render_people(unseen, 8, folder / f"val-{options.validation_people}.npy"), np.repeat(unseen, 8),
        Sampler(options.people * options.images, options.batch_size, 0, 0), options.learning_rate, device, options.path,
    )  # fmt: skip
    schedule = Schedule(options.epochs, warmup_epochs=0.3, weight_decay=0.05, grad_clip=1.0, select_by="rank1", device=device)
    done = fit(task, schedule, title="teacher")
    about = json.loads(options.path.with_suffix(".json").read_text())
    about["provenance"] = provenance({**vars(options), "path": options.path.name}, device)
    with atomic_path(options.path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(about, indent=1))
    print(f"{done.ended} after {done.seconds:.0f} s: {about['metrics']}")


if __name__ == "__main__":
    main()
