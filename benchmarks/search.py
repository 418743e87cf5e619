"""Where is identity won? Variants of one training, each for the same time, judged on validation subjects.

    python benchmarks/search.py vlr16 --minutes 8 --only joint

reads ``params/<run>`` and the run's data set. Variants of the DSR (names that begin with "DSR") start untrained and leave
EdgeFace as it is; the others start from the run's ``dsr.pt`` and the original EdgeFace. Each trains for so many minutes of
*processor time of one thread*: its number of steps is set by timing a few of them. ``--steps`` gives all the same number
instead, for variants that cost alike or where other programs make the timing doubtful. The table says how each verifies pairs of
validation faces, with the paired bootstrap interval (over subjects) of the gain over the first of its kind.
``outputs/<run>-search/search.json`` keeps the numbers; a variant that is run again replaces its row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from on_validation import judged, line, markdown

from dsrkit.models import load_dsr, load_edgeface
from dsrkit.params import CyclicCycle, DSRTraining
from dsrkit.recognition import restore
from dsrkit.runs import ROOT, Run, resolve
from dsrkit.training import open_setting
from dsrkit.training.cycle import control_task, joint_task
from dsrkit.training.dsr import train_dsr
from dsrkit.training.loop import fit
from dsrkit.training.setting import Setting

EPOCHS = 4  # of each variant: so often it is validated, and the best is kept
MOVED = {"rotation_probability": 1.0, "rotation_degrees": 8.0, "zoom": 0.08, "shift": 0.035, "identity_target": "augmented"}
NOBODY = {"warp": 0.027, "cutmix_probability": 0.4, "blend_probability": 0.4}
PLAIN = dict.fromkeys((*MOVED, *NOBODY, "lambda_relation"), 0.0) | {"identity_target": "stored", "train_sizes": []}
DSR_VARIANTS: dict[str, dict[str, Any]] = {
    "DSR: L1 + identity": {},
    "DSR: L1 alone": {"lambda_identity": 0.0},
    "DSR: identity alone": {"lambda_l1": 0.0},
    "DSR: L1 + a tenth of identity": {"lambda_identity": 0.1},
    "DSR: + feature matching .2": {"lambda_feature_match": 0.2},
    "DSR: + relation": {"lambda_relation": 1.0},
    "DSR: + perceptual .025": {"lambda_perceptual": 0.025, "vgg_weights": "$DSRKIT_VGG"},
    "DSR: + total variation 3e-6": {"lambda_tv": 3e-6},
    "DSR: batch of 32": {"batch_size": 32},
    "DSR: batch of 8": {"batch_size": 8},
    "DSR: 32 channels, 6 blocks": {"base_channels": 32, "residual_blocks": 6},
    "DSR: 80 channels, 12 blocks": {"base_channels": 80, "residual_blocks": 12},
    "DSR: 120 channels, 16 blocks": {"base_channels": 120, "residual_blocks": 16},
    "DSR: rotation, zoom, shift": MOVED,
    "DSR: the same + blends .3": MOVED | {"blend_probability": 0.3},
    "DSR: faces of nobody": MOVED | NOBODY,
    "DSR: averaged weights": {"ema_decay": 0.998},
    "DSR: three sizes": {"train_sizes": ["16x16", "24x24", "32x32"]},
}
JOINT_VARIANTS: dict[str, dict[str, Any]] = {
    "control: EdgeFace alone, no DSR": {},
    "control: + relation": {"lambda_relation": 1.0},
    "joint": {},
    "joint: + relation": {"lambda_relation": 1.0},
    "joint: rates 5e-4": {"learning_rate": 5e-4, "backbone_lr": 5e-4},
    "joint: rotation, zoom, shift": MOVED,
    "joint: the same + blends .3": MOVED | {"blend_probability": 0.3},
    "joint: the same + warps": MOVED | {"blend_probability": 0.3, "warp": 0.027},
    "joint: faces of nobody": MOVED | NOBODY,
    "joint: moved + 0.1 ArcFace": MOVED | {"lambda_arcface": 0.1},
    "joint: moved + 0.1 ArcFace, half of HR faces": MOVED | {"lambda_arcface": 0.1, "hr_fraction": 0.5},
    "control: moved + 0.1 ArcFace": MOVED | {"lambda_arcface": 0.1},
}
KINDS = ((DSR_VARIANTS, DSRTraining, "02_dsr_training"), (JOINT_VARIANTS, CyclicCycle, "04_cyclic_cycle"))
Trained = tuple[Path | None, Path]  # a DSR (None: bicubic) and the recogniser of its faces


def train_variant(setting: Setting, name: str) -> Trained:
    """Train one variant as its setting says; the best epoch's files."""
    run, params, original = setting.run, setting.params, setting.inputs["original_edgeface"]
    if isinstance(params, DSRTraining):
        train_dsr(setting)
        return run.dsr, original
    assert isinstance(params, CyclicCycle)
    alone = name.startswith("control")
    start = (load_dsr(params.dsr), load_edgeface(original))
    task = control_task(setting, 1, {}) if alone else joint_task(setting, 1, *start, {})
    fit(task, setting.schedule(epochs=params.epochs))
    return (None, run.edgeface_direct) if alone else run.cycle(1)


def steps_in(minutes: float, train: Callable[[int], Any]) -> int:
    """Steps that fit, from two short trainings: what comes before and after the steps cancels."""
    seconds = []
    for steps in (4, 20):
        started = time.process_time()
        train(steps)
        seconds.append(time.process_time() - started)
    return max(EPOCHS, int(60 * minutes / (seconds[1] - seconds[0]) * 16))


def variant_of(setting: Setting, changes: dict[str, Any]) -> Setting:
    """The setting with a variant's changes on plain parameters. Raises ParameterError for what cannot be together."""
    alike = {"resume": "never", "select_by": "auc", "warmup_epochs": 0, "epochs": EPOCHS, "batch_size": 16}
    if isinstance(setting.params, CyclicCycle):
        alike |= {"mode": "joint", "lambda_arcface": 0.0}
    params = setting.params.model_dump() | alike | PLAIN | changes
    return replace(setting, params=type(setting.params).check(params))


def open_stage(kind: type[DSRTraining] | type[CyclicCycle], stage: str, run: str) -> Setting:
    """The stage's setting of ``run``, whose results go to ``<run>-search``."""
    params = kind.read(ROOT / "params" / run / f"{stage}.yaml")
    read: dict[str, Any] = {"dataset": params.dataset or str(Run(run).dataset)}
    if isinstance(params, CyclicCycle):
        read["dsr"] = str(resolve(params.dsr, Run(run).dsr, "DSR (dsr)"))
    return replace(open_setting(params.model_copy(update=read)), run=Run(f"{run}-search"))


def measured(setting: Setting, name: str, first: str, changes: dict[str, Any], minutes: float, steps: int = 0) -> dict[str, Any]:
    """Train one variant for ``minutes`` (or ``steps``); judge it beside the ``first`` of its kind, whose scores are kept."""
    tried = variant_of(setting, changes)
    steps = steps or steps_in(minutes, lambda steps: train_variant(tried.with_params(epochs=1, steps_per_epoch=steps), name))
    tried = tried.with_params(steps_per_epoch=steps // EPOCHS)
    started = time.process_time()
    dsr, edgeface = train_variant(tried, name)
    seconds = time.process_time() - started
    restored = restore(setting.validation.faces.vlr, load_dsr(dsr) if dsr else None)
    found = judged(setting, load_edgeface(edgeface), restored)
    kept = setting.run.folder / f"{first.split(':')[0]}.npz"
    if name == first:
        np.savez(kept, scores=found["scores"], same=found["same"], correct=found["correct"])
    start = dict(np.load(kept)) if name != first and kept.exists() else None
    return line(name, found, start, "", seconds) | {"faces": steps // EPOCHS * EPOCHS * tried.params.batch_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with a data set and, for the joint variants, a dsr.pt")
    parser.add_argument("--minutes", type=float, default=8, help="processor time of each variant")
    parser.add_argument("--steps", type=int, default=0, help="of each variant, instead of minutes")
    parser.add_argument("--only", default="", help="variants whose name holds this text; several with | between")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = Run(f"{options.run}-search").folder / "search.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for variants, kind, stage in KINDS:
        first = next(iter(variants))
        wanted = {name: one for name, one in variants.items() if any(part in name for part in options.only.split("|"))}
        setting = open_stage(kind, stage, options.run) if wanted else None
        for name, changes in wanted.items():
            assert setting is not None
            row = measured(setting, name, first, changes, options.minutes, options.steps)
            rows = [other for other in rows if other["recipe"] != name] + [row]
            print(markdown([row]).splitlines()[-1], flush=True)
            path.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
