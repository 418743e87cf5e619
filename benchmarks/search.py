"""Where is identity won? Variants of one training, each for the same time, judged on validation subjects.

    python benchmarks/search.py vlr16 --minutes 8 --only joint

reads ``params/<run>`` and the run's data set. Variants of the DSR (names that begin with "DSR") start untrained and leave
EdgeFace as it is; the others start from the run's ``dsr.pt`` and the original EdgeFace. Each trains for so many minutes of
*processor time of one thread*: the first of a kind takes as many steps as fit, every other as many as cost the same, by
timing a few of both in turn. ``--steps`` gives all the same number instead. The table says how each verifies pairs of
validation faces, with the paired bootstrap interval (over subjects) of the gain over the first of its kind (of joint training
and alternation: the control), and of the gain by test-time augmentation.
``--own`` asks what more training would bring: each variant goes on from the networks that the run's parameters name, with these
parameters under its own changes, and the gain is that over these networks. ``--judge`` adds a recogniser that takes no part.
``outputs/<run>-search/search.json`` keeps the numbers; a variant that is run again replaces its row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from on_validation import judged, line, markdown

from dsrkit.models import load_dsr, load_edgeface
from dsrkit.models.edgeface import edgeface_file
from dsrkit.params import CyclicCycle, DSRTraining
from dsrkit.recognition import restore
from dsrkit.runs import ROOT, Run, resolve
from dsrkit.training import open_setting
from dsrkit.training.cycle import control_start, control_task, dsr_task, first_files, joint_task, of_finetune
from dsrkit.training.dsr import train_dsr
from dsrkit.training.edgeface import finetune
from dsrkit.training.loop import fit
from dsrkit.training.setting import Setting

Variants = dict[str, dict[str, Any]]
Row = dict[str, Any]
MOVED = {"rotation_probability": 1.0, "rotation_degrees": 8.0, "zoom": 0.08, "shift": 0.035, "identity_target": "augmented"}
NOBODY = {"warp": 0.027, "cutmix_probability": 0.4, "blend_probability": 0.4}
OFF = ("jitter_probability", "lambda_relation", "lambda_feature_match", "lambda_tv", "diversity")
PLAIN: dict[str, Any] = dict.fromkeys((*MOVED, *NOBODY, *OFF), 0.0) | {
    "identity_target": "stored",
    "train_sizes": [],
}
PLAIN_OF: dict[type, dict[str, Any]] = {
    DSRTraining: {"initial_dsr": "", "base_channels": 48, "residual_blocks": 8, "learning_rate": 5e-4},
    CyclicCycle: {
        "lambda_original": 0.0,
        "initial_control": "",
        "control_epochs": 0,
        "original_share": 0.0,
        "stage_decay": 1.0,
        "hr_fraction": 0.25,
        "learning_rate": 3e-4,
        "backbone_lr": 3e-4,
    },
}
SEED = DSRTraining.read(ROOT / "params" / "seed-vlr16" / "02_dsr_training.yaml")
OF_SEED = ("base_channels", "residual_blocks", "learning_rate", "lambda_identity", "lambda_feature_match", "lambda_perceptual")
OF_SEED += ("lambda_tv", "vgg_weights", "rotation_probability", "rotation_degrees", "jitter_probability")
PUBLISHED: dict[str, Any] = {name: getattr(SEED, name) for name in OF_SEED}  # all but how long
DSR_VARIANTS: Variants = {
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
    "DSR: 64 channels, 12 blocks": {"base_channels": 64, "residual_blocks": 12},
    "DSR: 32 channels, 20 blocks": {"base_channels": 32, "residual_blocks": 20},
    "DSR: 80 channels, 3 blocks": {"base_channels": 80, "residual_blocks": 3},
    "DSR: 132 channels, 20 blocks": {"base_channels": 132, "residual_blocks": 20},
    "DSR: the published settings": PUBLISHED,
    "DSR: ensemble of 3": {"members": 3},
    "DSR: rotation, zoom, shift": MOVED,
    "DSR: the same + blends .3": MOVED | {"blend_probability": 0.3},
    "DSR: faces of nobody": MOVED | NOBODY,
    "DSR: averaged weights": {"ema_decay": 0.998},
    "DSR: seen from all sides": {"diversity": 0.04},
    "DSR: three sizes": {"train_sizes": ["16x16", "24x24", "32x32"]},
}
ALTERNATE: dict[str, Any] = {
    "mode": "alternate",
    "stage2_epochs": 1,
    "finetune_batch_size": 16,
    "finetune_jitter_probability": 0.0,
    "lambda_l1": 1.0,
}
FIRST_LAYERS = {"stage_decay": 0.7, "backbone_lr": 6e-4}  # twice the rate in the stem, a third of it in the head
JOINT_VARIANTS: Variants = {
    "control: EdgeFace alone, no DSR": {},
    "control: + relation": {"lambda_relation": 1.0},
    "control: the first layers most": FIRST_LAYERS,
    "joint": {},
    "joint: need not look like a face (no L1)": {"lambda_l1": 0.0},
    "joint: no HR faces": {"hr_fraction": 0.0},
    "joint: + relation": {"lambda_relation": 1.0},
    "alternate: EdgeFace, then DSR": ALTERNATE,
    "alternate: two such cycles": ALTERNATE | {"cycles": 2},
    "joint: the first layers most": FIRST_LAYERS,
    "joint: the same + moved, blends .3, relation": FIRST_LAYERS | MOVED | {"blend_probability": 0.3, "lambda_relation": 1.0},
    "joint: moved, blends .3, relation": MOVED | {"blend_probability": 0.3, "lambda_relation": 1.0},
    "joint: a tenth of HR faces": {"hr_fraction": 0.1},
    "joint: rates 5e-4": {"learning_rate": 5e-4, "backbone_lr": 5e-4},
    "joint: rotation, zoom, shift": MOVED,
    "joint: the same + blends .3": MOVED | {"blend_probability": 0.3},
    "joint: the same + warps": MOVED | {"blend_probability": 0.3, "warp": 0.027},
    "joint: faces of nobody": MOVED | NOBODY,
    "joint: + the untouched recogniser .5": {"lambda_original": 0.5},
    "joint: + the untouched recogniser .5, from all sides": {"lambda_original": 0.5, "diversity": 0.04},
    "joint: stronger mixtures": {
        "cutmix_probability": 0.9,
        "blend_probability": 0.8,
        "warp": 0.04,
        "identity_target": "augmented",
    },
    "joint: moved + 0.1 ArcFace": MOVED | {"lambda_arcface": 0.1},
    "joint: moved + 0.1 ArcFace, half of HR faces": MOVED | {"lambda_arcface": 0.1, "hr_fraction": 0.5},
    "control: moved + 0.1 ArcFace": MOVED | {"lambda_arcface": 0.1},
}
KINDS = ((DSR_VARIANTS, DSRTraining, "02_dsr_training"), (JOINT_VARIANTS, CyclicCycle, "04_cyclic_cycle"))
Trained = tuple[Path | list[Path] | None, Path]  # a DSR (None: bicubic; several: an ensemble), the recogniser of its faces


def start_of(setting: Setting, name: str, own: bool) -> Trained:
    """The networks that a variant goes on from; those of a DSR that starts untrained are bicubic faces and the original."""
    params, original = setting.params, setting.inputs["original_edgeface"]
    if isinstance(params, DSRTraining):
        return resolve(params.initial_dsr, Path(), "DSR to continue from (initial_dsr)") if params.initial_dsr else None, original
    if name.startswith("control"):
        return None, control_start(setting)
    dsr, edgeface = first_files(setting)
    return dsr, edgeface if own else original


def train_variant(setting: Setting, name: str, start: Trained) -> Trained:
    """Train one variant as its setting says; the best epoch's files."""
    run, params, (dsr, edgeface) = setting.run, setting.params, start
    if isinstance(params, DSRTraining):
        train_dsr(setting)
        return (run.dsr if params.members == 1 else run.dsr_members()), edgeface
    assert isinstance(params, CyclicCycle)
    if params.mode == "alternate":
        return alternated(setting, start)
    task = joint_task(setting, 1, load_dsr(dsr), load_edgeface(edgeface), {}) if dsr else control_task(setting, 1, {})
    fit(task, setting.schedule(epochs=params.epochs))
    return run.cycle(1) if dsr else (None, run.edgeface_direct)


def alternated(setting: Setting, start: Trained) -> Trained:
    """EdgeFace on the faces of the DSR, then the DSR with it as its teacher, ``cycles`` times; all parts take as many steps."""
    params, files = setting.params, start
    assert isinstance(params, CyclicCycle)
    steps = max(1, params.steps_per_epoch // (2 * params.cycles))
    part = setting.with_params(steps_per_epoch=steps)
    for number in range(1, params.cycles + 1):
        dsr, edgeface = setting.run.cycle(number)
        finetune(of_finetune(part), load_edgeface(files[1]), files[0], edgeface, {})
        fit(dsr_task(part, 1, load_dsr(files[0]), load_edgeface(edgeface), {}), part.schedule(epochs=1))
        files = dsr, edgeface
    return files


def at_a_glance(setting: Setting) -> Setting:
    """The setting with two validation subjects: to time steps, not what stands between them."""
    whole = setting.validation
    rows = np.flatnonzero(np.isin(whole.faces.labels, np.unique(whole.faces.labels)[:2]))
    faces = whole.faces.rows(rows)
    pairs = np.stack(np.triu_indices(len(rows), 1), axis=1)
    same = faces.labels[pairs[:, 0]] == faces.labels[pairs[:, 1]]
    return replace(
        setting, validation=replace(whole, faces=faces, pairs=pairs, same=same, hr_embeddings=whole.hr_embeddings[rows])
    )


def seconds_of(train: Callable[[int], Any], steps: int = 10) -> float:
    """Processor time of so many steps, from two short trainings: what comes before and after the steps cancels."""
    seconds = []
    for some in (2, 2 + steps):
        started = time.process_time()
        train(some)
        seconds.append(time.process_time() - started)
    return seconds[1] - seconds[0]


def steps_in(minutes: float, train: Callable[[int], Any]) -> int:
    """Steps that fit into so many minutes."""
    return max(1, int(60 * minutes / seconds_of(train, 30) * 30))


def steps_beside(steps: int, first: Callable[[int], Any], train: Callable[[int], Any], rounds: int = 2) -> int:
    """Steps that take as long as ``steps`` of the first variant: both timed in turn, as the pace of a machine changes."""
    times = np.array([[seconds_of(first), seconds_of(train)] for _ in range(rounds)]).sum(0)
    return max(1, round(steps * times[0] / times[1]))


def variant_of(setting: Setting, changes: dict[str, Any], own: bool) -> Setting:
    """The setting with a variant's changes on plain parameters, or its own. Raises ParameterError for what cannot be together."""
    alike = {"resume": "never", "select_by": "auc", "precision": "auto", "warmup_epochs": 0, "epochs": 1, "batch_size": 16}
    if isinstance(setting.params, CyclicCycle):
        alike |= {"mode": "joint", "cycles": 1, "lambda_arcface": 0.0}
    plain = {} if own else PLAIN | PLAIN_OF[type(setting.params)]
    params = setting.params.model_dump() | alike | plain | changes
    return replace(setting, params=type(setting.params).check(params))


def open_stage(kind: type[DSRTraining] | type[CyclicCycle], stage: str, run: str) -> Setting:
    """The stage's setting of ``run``, whose results go to ``<run>-search``."""
    params = kind.read(ROOT / "params" / run / f"{stage}.yaml")
    read: dict[str, Any] = {"dataset": params.dataset or str(Run(run).dataset)}
    if isinstance(params, CyclicCycle):
        read["dsr"] = str(resolve(params.dsr, Run(run).dsr, "DSR (dsr)"))
    return replace(open_setting(params.model_copy(update=read)), run=Run(f"{run}-search"))


def seen_by(setting: Setting, trained: Trained, judge: str) -> dict[str, dict[str, Any]]:
    """How the recogniser trained with the faces verifies them, and how the judge does."""
    dsr, edgeface = trained
    restored = restore(setting.validation.faces.vlr, load_dsr(dsr) if dsr else None)
    files = {"own": edgeface} | ({"judge": edgeface_file(judge, "EdgeFace that took no part (--judge)")} if judge else {})
    found = {who: judged(setting, load_edgeface(file), restored) for who, file in files.items()}
    return found | {"tta": judged(setting, load_edgeface(edgeface), restored, tta=True)}


def measured(setting: Setting, name: str, first: str, variants: Variants, rows: list[Row], options: argparse.Namespace) -> Row:
    """Train one variant; judge it beside what it started from, or the ``first`` of its kind, whose scores are kept."""
    tried, train = trainer_of(setting, name, variants[name], options.own)
    start = start_of(tried, name, options.own)
    if options.steps:
        steps = options.steps
    elif name == first or options.own:
        steps = steps_in(options.minutes, partial(train, at_a_glance(tried)))
    else:
        begun = [row["faces"] // row["batch"] for row in rows if row["recipe"] == first]
        if not begun:
            raise SystemExit(f"{name}: expected the row {first!r} in search.json, got none. Run it first (--only).")
        other, train_first = trainer_of(setting, first, variants[first], options.own)
        steps = steps_beside(begun[0], partial(train_first, at_a_glance(other)), partial(train, at_a_glance(tried)))
    started = time.process_time()
    trained = train(tried, steps)
    seconds = time.process_time() - started
    found = seen_by(setting, trained, options.judge)
    before = seen_by(setting, start, options.judge) if options.own else kept_of(setting, name, first, found)
    row = line(name, found["own"], before.get("own"), "", seconds)
    row["tta"] = line(name, found["tta"], found["own"], "", seconds)
    if options.judge:
        row["judge"] = line(name, found["judge"], before.get("judge"), "", seconds)
    return row | {"faces": steps * tried.params.batch_size, "batch": tried.params.batch_size}


def trainer_of(setting: Setting, name: str, changes: dict[str, Any], own: bool) -> tuple[Setting, Callable[..., Trained]]:
    """A variant's setting, and what trains it in such a setting for a number of steps."""
    tried = variant_of(setting, changes, own)
    start = start_of(tried, name, own)

    def train(setting: Setting, steps: int) -> Trained:
        return train_variant(setting.with_params(steps_per_epoch=steps), name, start)

    return tried, train


def kept_of(setting: Setting, name: str, first: str, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The scores of the ``first`` of a kind, for those after it; nothing for itself, whose ``found`` is kept."""
    before = {}
    for who, one in found.items():
        kept = setting.run.folder / f"{first.split(':')[0]}-{who}.npz"
        if name == first:
            np.savez(kept, scores=one["scores"], same=one["same"], correct=one["correct"])
        elif kept.exists():
            before[who] = dict(np.load(kept))
    return before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with a data set and, for the joint variants, a dsr.pt")
    parser.add_argument("--minutes", type=float, default=8, help="processor time of each variant")
    parser.add_argument("--steps", type=int, default=0, help="of each variant, instead of minutes")
    parser.add_argument("--own", action="store_true", help="go on from the run's networks, with its own parameters")
    parser.add_argument("--judge", default="", help="an EdgeFace file that takes no part")
    parser.add_argument("--only", default="", help="variants whose name holds this text; several with | between")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = Run(f"{options.run}-search").folder / "search.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for variants, kind, stage in KINDS:
        first = next(iter(variants))
        wanted = {name: one for name, one in variants.items() if any(part in name for part in options.only.split("|"))}
        setting = open_stage(kind, stage, options.run) if wanted else None
        for name in wanted:
            assert setting is not None
            row = measured(setting, name, first, variants, rows, options)
            rows = [other for other in rows if other["recipe"] != name] + [row]
            print(markdown([row]).splitlines()[-1], flush=True)
            path.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
