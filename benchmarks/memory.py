"""Memory of one training step at the published settings (params/seed-vlr32), beside the 7.0 and 7.5 GB that the authors report.

    python benchmarks/memory.py

measures CUDA's peak where there is a GPU. Elsewhere it *computes*, on the CPU: what autograd keeps for the backward pass
(each storage once), weights, gradients, AdamW's state and the batch. Temporary buffers, cuDNN's workspaces and the CUDA
context (about .5 GB) are not in it; the growth of the process's peak memory, temporary buffers included, stands beside.
Every row is a process of its own. Reads $DSRKIT_VGG where it is set; else VGG19's weights are random, which weigh as much.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from dsrkit.losses import MarginHead, PerceptualLoss
from dsrkit.models import DSR, DSRConfig, EdgeFace
from dsrkit.models.lora import add_lora
from dsrkit.params import DSRTraining, EdgeFaceFinetune
from dsrkit.runs import ROOT
from dsrkit.training.dsr import DSRBatch, DSRTask
from dsrkit.training.edgeface import EdgeFaceTask, FaceBatch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SUBJECTS = 3682  # the authors' training subjects
GB = 1e9


@dataclass
class Step:
    """A training step: what it trains, everything that lies on the device, and its losses."""

    trained: list[nn.Parameter]
    modules: list[nn.Module]
    inputs: list[Tensor]
    losses: Callable[[], dict[str, Tensor]]


def ready(module: nn.Module) -> nn.Module:
    return module.to(DEVICE).to(memory_format=torch.channels_last)


def faces(count: int, size: int = 112) -> Tensor:
    return torch.rand(count, 3, size, size, device=DEVICE)


def perceptual() -> PerceptualLoss:
    if os.environ.get("DSRKIT_VGG"):
        return PerceptualLoss(os.environ["DSRKIT_VGG"])
    with tempfile.TemporaryDirectory() as folder:
        trunk = make_layers([64, 64, "M", 128, 128, "M", 256])
        torch.save({f"features.{name}": value for name, value in trunk.state_dict().items()}, Path(folder) / "vgg19.pth")
        return PerceptualLoss(Path(folder) / "vgg19.pth")


def dsr_step(variant: str) -> Step:
    params = DSRTraining.read(ROOT / "params/seed-vlr32/02_dsr_training.yaml")
    dsr = ready(DSR(DSRConfig(params.base_channels, params.residual_blocks))).train()
    teacher, vgg = ready(EdgeFace(variant)).requires_grad_(False).eval(), perceptual().to(DEVICE)
    batch = DSRBatch(
        faces(params.batch_size, 32),
        faces(params.batch_size),
        torch.rand(params.batch_size, 512, device=DEVICE),
        torch.rand(params.batch_size, 4),
    )
    task = SimpleNamespace(weights=params, dsr=dsr, teacher=teacher, perceptual=vgg)  # the task without its data set
    losses = partial(DSRTask.losses, task, batch)
    return Step(list(dsr.parameters()), [dsr, teacher, vgg], [batch.vlr, batch.hr, batch.embeddings], losses)


def finetune_step(variant: str, lora_rank: int = 0) -> Step:
    params = EdgeFaceFinetune.read(ROOT / "params/seed-vlr32/03_edgeface_finetune.yaml")
    edgeface, original = ready(EdgeFace(variant)), ready(EdgeFace(variant)).requires_grad_(False)
    head = MarginHead(SUBJECTS, params.arcface_scale, params.arcface_margin, params.label_smoothing).to(DEVICE)
    trained = add_lora(edgeface, lora_rank) if lora_rank else list(edgeface.parameters())
    size = params.batch_size
    batch = FaceBatch(
        restored=faces(size),
        hr=faces(round(params.hr_fraction * size)),
        direct=faces(round(params.direct_fraction * size)),
        labels=torch.randint(SUBJECTS, (size,), device=DEVICE),
        embeddings=torch.rand(size, 512, device=DEVICE),
    )
    losses = partial(EdgeFaceTask.losses, SimpleNamespace(weights=params, edgeface=edgeface.train(), head=head), batch)
    inputs = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    return Step([*trained, *head.parameters()], [edgeface, head, original], inputs, losses)


CASES: dict[str, tuple[float, Callable[[], Step]]] = {
    "DSR, teacher EdgeFace-xxs": (7.0, partial(dsr_step, "edgeface_xxs")),
    "DSR, teacher EdgeFace-base": (7.0, partial(dsr_step, "edgeface_base")),
    "fine-tune of EdgeFace-xxs": (7.5, partial(finetune_step, "edgeface_xxs")),
    "fine-tune of EdgeFace-base": (7.5, partial(finetune_step, "edgeface_base")),
    "fine-tune of EdgeFace-base, LoRA 8": (7.5, partial(finetune_step, "edgeface_base", 8)),
}


def storages(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes of every storage, by its address: views of one storage count once."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def peak_rss() -> float:
    """Peak of this process's own memory in bytes (``ru_maxrss`` would begin at the parent's); 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measure(make: Callable[[], Step]) -> dict[str, float]:
    """Two steps, since AdamW's state is made by the first; figures in GB."""
    torch.manual_seed(0)
    before = peak_rss()
    step = make()
    optimizer = torch.optim.AdamW(step.trained, lr=1e-5)
    weights = storages([*(tensor for module in step.modules for tensor in (*module.parameters(), *module.buffers()))])
    known, kept = weights | storages(step.inputs), {}

    def keep(tensor: Tensor) -> Tensor:
        kept.update(storages([tensor]))
        return tensor

    for _ in range(2):
        kept.clear()  # addresses of the step before are used again
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = torch.stack(list(step.losses().values())).sum()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(step.trained, 1.0)
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    figures = {
        "activations": sum(size for address, size in kept.items() if address not in known),
        "weights": sum(weights.values()),
        "gradients": sum(storages([weight.grad for weight in step.trained if weight.grad is not None]).values()),
        "AdamW": sum(storages(states).values()),
        "batch": sum(storages(step.inputs).values()),
    }
    figures["computed"] = sum(figures.values())
    if DEVICE.type == "cuda":
        figures["peak"] = torch.cuda.max_memory_allocated()
    else:
        figures["RSS growth"] = peak_rss() - before
    return {name: value / GB for name, value in figures.items()}


def main() -> None:
    rows = {}
    for name, (limit, _) in CASES.items():
        child = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, text=True, check=True)
        rows[name] = json.loads(child.stdout.splitlines()[-1]) | {"limit": limit}
    measured = DEVICE.type == "cuda"
    if measured:
        print(f"Measured on {torch.cuda.get_device_name()}: max_memory_allocated, without the CUDA context. GB = 10⁹ bytes.\n")
    else:
        print("Computed on the CPU, not measured on a GPU: see this file's first lines. GB = 10⁹ bytes.\n")
    figures = [name for name in next(iter(rows.values())) if name != "limit"]
    print("| step | " + " | ".join(figures) + " | limit | |")
    print("|---" * (len(figures) + 3) + "|")
    for name, row in rows.items():
        fits = "within" if row["peak" if measured else "computed"] <= row["limit"] else "above"
        print(f"| {name} | " + " | ".join(f"{row[figure]:.3f}" for figure in figures) + f" | {row['limit']} | {fits} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(CASES[sys.argv[1]][1])))
    else:
        main()
