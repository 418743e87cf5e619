"""Make the small recogniser of made-up faces that ships with the kit.

    python -m dsrkit.training.teacher

renders made-up people (none of whom any run meets: they have a seed of their own), trains EdgeFace-xxs on them from
scratch, and writes ``dsrkit/models/edgeface_demo.safetensors`` (half precision, 2.5 MB) and a JSON beside it
that says how well it recognises people it never saw.

Two losses: ArcFace on the people, and the squared error of a linear read-out of the traits that they were drawn from
(nose length, brow tilt, …). The renderer knows these, and dozens of numbers a face teach a fresh network far faster than
one label does. And a curriculum (Bengio et al. 2009): first one frontal, neutral, softly lit image of everybody, and the
traits alone; then pose, expression, light and noise.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from dsrkit import metrics
from dsrkit.data.augment import Augmentation
from dsrkit.data.degrade import as_tensor
from dsrkit.data.faces import batches_of
from dsrkit.data.pairs import make_pairs
from dsrkit.data.synthetic import render_faces
from dsrkit.data.synthetic.traits import draw_people
from dsrkit.losses import MarginHead
from dsrkit.models.edgeface import DEMO_WEIGHTS, EMBEDDING_SIZE, EdgeFace
from dsrkit.recognition import embed
from dsrkit.runs import ROOT, atomic_path, file_hash, pick_device, provenance, seed_everything
from dsrkit.training.loop import Schedule, fit
from dsrkit.training.sampling import Draw, Sampler

TEACHER_SEED = 20_000  # runs draw people from small seeds; the teacher's people must not be among them
TRAIT_WEIGHT = 10.0
READOUT_SCALE = 16.0  # unit embeddings are read out at this length, so that the read-out's weights can stay small
AUGMENTATION = Augmentation(
    flip_probability=0.5, rotation_probability=0.3, rotation_degrees=5.0, jitter_probability=0.5,
    jitter_brightness_contrast=0.15, jitter_saturation=0.15,
)  # fmt: skip


def render_people(people: range, images: int, folder: Path, neutral: bool = False) -> UInt8[np.ndarray, "n 112 112 3"]:
    """Render (or reopen) ``images`` images of each person into a memory-mapped file."""
    path = folder / f"{people.start}-{people.stop}x{images}{'-neutral' if neutral else ''}.npy"
    if not path.exists():
        subjects, numbers = np.repeat(people, images), np.tile(np.arange(images), len(people))
        with atomic_path(path) as temporary:
            shape = (len(subjects), 112, 112, 3)
            faces = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for part in tqdm(list(batches_of(len(subjects), 256)), desc=f"rendering {path.stem}", mininterval=30):
                faces[part] = render_faces(subjects[part].tolist(), numbers[part].tolist(), seed=TEACHER_SEED, neutral=neutral)
            faces.flush()
    return np.load(path, mmap_mode="r")


def traits_of(people: range) -> Float[Tensor, "people traits"]:
    """The traits each person was drawn from (lengths, angles, colours, not skin texture), standardised."""
    drawn = draw_people(np.array(people), TEACHER_SEED)
    arrays = [values for values in drawn.arrays.values() if values[0].numel() <= 16]
    table = torch.cat([values.reshape(len(people), -1) for values in [*drawn.values.values(), *arrays]], dim=1)
    table = table[:, table.std(0) > 1e-4]
    return (table - table.mean(0)) / table.std(0)


def fresh_edgeface() -> EdgeFace:
    """EdgeFace-xxs whose residual branches count from the start.

    EdgeNeXt begins with layer scales of 1e-6, which suits hundreds of epochs (Touvron et al. 2021, arXiv 2103.17239, use
    larger ones for shallow networks); with 0.1 a few epochs are enough.
    """
    edgeface = EdgeFace()
    with torch.no_grad():
        for name, weight in edgeface.named_parameters():
            if "gamma" in name:
                weight.fill_(0.1)
    return edgeface


@dataclass
class TeacherTask:
    """EdgeFace from scratch on made-up people. See ``loop.Task``."""

    edgeface: EdgeFace
    head: MarginHead
    traits: Float[Tensor, "people traits"]
    readout: nn.Linear
    faces: UInt8[np.ndarray, "n 112 112 3"]
    labels: Int[np.ndarray, " n"]
    validation: UInt8[np.ndarray, "v 112 112 3"]
    validation_labels: Int[np.ndarray, " v"]
    sampler: Sampler
    learning_rate: float
    arcface_weight: float
    device: torch.device
    path: Path

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleList([self.edgeface, self.head, self.readout])

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.trained.parameters()), "lr": self.learning_rate}]

    def names(self, rows: np.ndarray) -> list[str]:
        return [f"made-up face {row}" for row in rows]

    def batch(self, draw: Draw) -> tuple[Tensor, Tensor]:
        faces = AUGMENTATION(as_tensor(self.faces[draw.rows]).to(self.device), draw.uniform)
        return faces, torch.from_numpy(self.labels[draw.rows]).to(self.device)

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        faces, labels = batch
        embeddings = self.edgeface.embed(faces)
        told = F.mse_loss(self.readout(READOUT_SCALE * F.normalize(embeddings, dim=1)), self.traits[labels])
        losses = {"traits": TRAIT_WEIGHT * told}
        if self.arcface_weight:
            losses["arcface"] = self.arcface_weight * self.head(embeddings, labels)
        return losses

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
    parser.add_argument("--people", type=int, default=5000)
    parser.add_argument("--images", type=int, default=6, help="images of each person")
    parser.add_argument("--validation-people", type=int, default=100)
    parser.add_argument("--neutral-epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--scale", type=float, default=24.0)
    parser.add_argument("--margin", type=float, default=0.1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--path", type=Path, default=DEMO_WEIGHTS)
    options = parser.parse_args()
    seed_everything(0)
    device, folder = pick_device(options.device), ROOT / "outputs" / "teacher"
    known, unseen = range(options.people), range(100_000, 100_000 + options.validation_people)
    origin, traits = provenance({**vars(options), "path": options.path.name}, device), traits_of(known)
    task = TeacherTask(
        edgeface=fresh_edgeface().to(device).to(memory_format=torch.channels_last),
        head=MarginHead(len(known), options.scale, options.margin).to(device),
        traits=traits.to(device),
        readout=nn.Linear(EMBEDDING_SIZE, traits.shape[1]).to(device),
        faces=render_people(known, 1, folder, neutral=True),
        labels=np.array(known),
        validation=render_people(unseen, 8, folder),
        validation_labels=np.repeat(unseen, 8),
        sampler=Sampler(options.people, options.batch_size, 0, 0),
        learning_rate=options.learning_rate,
        arcface_weight=0.0,
        device=device,
        path=options.path,
    )
    common: dict[str, Any] = {
        "warmup_epochs": 0.3,
        "weight_decay": 0.05,
        "grad_clip": 5.0,
        "select_by": "rank1",
        "device": device,
    }
    fit(task, Schedule(options.neutral_epochs, **common), title="teacher, neutral")
    task.faces, task.labels = render_people(known, options.images, folder), np.repeat(known, options.images)
    task.sampler, task.arcface_weight = Sampler(len(task.faces), options.batch_size, 0, 1), 1.0
    done = fit(task, Schedule(options.epochs, **common), title="teacher")
    about = json.loads(options.path.with_suffix(".json").read_text())
    about["provenance"] = origin
    with atomic_path(options.path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(about, indent=1))
    print(f"{done.ended} after {done.seconds:.0f} s: {about['metrics']}")


if __name__ == "__main__":
    main()
