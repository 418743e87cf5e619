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
from on_validation import all_pairs, judged, line, markdown
from search_variants import DSR_VARIANTS, JOINT_VARIANTS, PLAIN, PLAIN_OF, Variants

from dsrkit.models import load_dsr, load_edgeface
from dsrkit.models.checkpoint import read_weights
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

Row = dict[str, Any]
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
        fit(dsr_task(part, number, load_dsr(files[0]), load_edgeface(edgeface), {}), part.schedule(epochs=1))
        files = dsr, edgeface
    return files


def at_a_glance(setting: Setting, some: int = 48) -> Setting:
    """The setting with some training faces and two validation subjects: to time steps, not what stands around them.

    In a run of its own: restored faces are kept by run, and these are few.
    """
    whole = setting.validation
    rows = np.flatnonzero(np.isin(whole.faces.labels, np.unique(whole.faces.labels)[:2]))
    faces = whole.faces.rows(rows)
    pairs, same = all_pairs(faces)
    return replace(
        setting,
        run=Run(f"{setting.run.name}-glance"),
        train=setting.train.first(some),
        hr_embeddings=setting.hr_embeddings[:some],
        validation=replace(whole, faces=faces, pairs=pairs, same=same, hr_embeddings=whole.hr_embeddings[rows]),
    )


def seconds_of(train: Callable[[int], Any], steps: int = 25) -> float:
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
    faces, restorer = setting.validation.faces, load_dsr(dsr) if dsr else None
    restored, mirrored = restore(faces.vlr, restorer), restore(faces.mirrored.vlr, restorer)
    files = {"own": edgeface} | ({"judge": edgeface_file(judge, "EdgeFace that took no part (--judge)")} if judge else {})
    found = {who: judged(setting, load_edgeface(file), restored) for who, file in files.items()}
    return found | {"tta": judged(setting, load_edgeface(edgeface), restored, mirrored)}


def measured(setting: Setting, name: str, first: str, variants: Variants, rows: list[Row], options: argparse.Namespace) -> Row:
    """Train one variant; judge it beside what it started from, or the ``first`` of its kind, whose scores are kept."""
    tried, train = trainer_of(setting, name, variants[name], options.own)
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
    if options.own:
        before = seen_by(setting, start_of(tried, name, own=True), options.judge)
    else:
        before = kept_of(setting, name, first, found)
    row = line(name, found["own"], before.get("own"), "", seconds)
    row["tta"] = line(name, found["tta"], found["own"], "", seconds)
    if options.judge:
        row["judge"] = line(name, found["judge"], before.get("judge"), "", seconds)
    row["kept_start"] = never_beat_its_start(setting.run, trained)
    return row | {"faces": steps * tried.params.batch_size, "batch": tried.params.batch_size}


def never_beat_its_start(run: Run, trained: Trained) -> bool:
    """Whether the networks kept are those from before the first step: what is judged then is the start."""
    dsr, edgeface = trained
    files = [*(dsr if isinstance(dsr, list) else [dsr] if dsr else []), edgeface]
    return all(read_weights(file)["epoch"] == 0 for file in files if file.parent == run.folder)


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


def rows_in(path: Path) -> list[Row]:
    return json.loads(path.read_text()) if path.exists() else []


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
    rows = rows_in(path)
    for variants, kind, stage in KINDS:
        first = next(iter(variants))
        wanted = {name: one for name, one in variants.items() if any(part in name for part in options.only.split("|"))}
        setting = open_stage(kind, stage, options.run) if wanted else None
        for name in wanted:
            assert setting is not None
            row = measured(setting, name, first, variants, rows, options)
            rows = [other for other in rows_in(path) if other["recipe"] != name] + [row]  # another search may have added some
            print(markdown([row]).splitlines()[-1], flush=True)
            path.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
