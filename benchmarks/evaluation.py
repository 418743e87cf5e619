"""How long everything after the embeddings takes, at the size of the published test split, on made-up embeddings.

    OMP_NUM_THREADS=2 python benchmarks/evaluation.py [--subjects 1761] [--probes 16708] [--enrolled 3] [--draws 1000]

HR, the direct feed and a DSR, under each protocol: thresholds, 6,000 pairs over ten folds, all pairs, 1:N identification,
similarity to the true face and to the nearest impostor, and rows with every interval and every paired difference. Prints the
seconds of each part and the largest memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from torch import nn

from dsrkit.data.faces import FaceSet
from dsrkit.data.pairs import make_pairs
from dsrkit.evaluation.material import Trial
from dsrkit.evaluation.rows import rows_of
from dsrkit.evaluation.systems import System
from dsrkit.evaluation.trial import Seen, outcomes_of
from dsrkit.models.edgeface import EdgeFace
from dsrkit.params import Evaluation
from dsrkit.runs import ROOT

WIDTH = 512
NOISE = {"hr": 0.8, "direct_feed": 2.0, "dsr": 1.4}  # of unit length is who it is


def made_up(count: int, subjects: int, prefix: str, generator: np.random.Generator) -> FaceSet:
    """Names and subjects without pixels; some subjects have many more faces than others."""
    shares = generator.exponential(size=subjects)
    labels = np.sort(np.concatenate([np.arange(subjects), generator.choice(subjects, count - subjects, p=shares / shares.sum())]))
    names = [f"{prefix}_{number:06d}.png" for number in range(count)]
    people = [f"{prefix}{label:05d}" for label in labels]
    pixels = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (count, 112, 112, 3), (0, 0, 0, 0))
    return FaceSet(pixels, pixels[:, :16, :16], "16x16", names, people, labels)


def embedded(faces: FaceSet, noise: float, generator: np.random.Generator) -> np.ndarray:
    centres = generator.normal(size=(faces.labels.max() + 1, WIDTH)).astype(np.float32)
    embeddings = centres[faces.labels] + noise * generator.normal(size=(len(faces), WIDTH)).astype(np.float32)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def material(arguments: argparse.Namespace, generator: np.random.Generator) -> Trial:
    """``enrolled`` gallery faces of each of so many subjects, so many probes, and a validation split a tenth as large."""
    gallery_faces = arguments.subjects * arguments.enrolled
    faces = made_up(arguments.probes + gallery_faces, arguments.subjects, "test", generator)
    validation = made_up(len(faces) // 10, arguments.subjects // 5, "val", generator)
    order = generator.permutation(len(faces))
    _, first = np.unique(faces.labels[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(faces)), order[first])
    gallery = np.sort(np.concatenate([order[first], generator.choice(rest, gallery_faces - len(first), replace=False)]))
    apart = faces.labels[gallery] % 5 == 4  # every fifth subject is a stranger
    pairs = [make_pairs(part.names, part.subjects, most=3000) for part in (faces, validation)]
    rows = [{name: row for row, name in enumerate(part.names)} for part in (faces, validation)]
    numbered = [np.stack([t.left.map(r), t.right.map(r)], axis=1) for t, r in zip(pairs, rows, strict=True)]
    demo = Evaluation.read(ROOT / "params" / "demo" / "05_evaluation.yaml")
    params = demo.model_copy(update={"bootstrap_draws": arguments.draws, "threshold_fpir": 0.01, "all_pairs_faces": 10**9})
    same, folds = pairs[0].same.to_numpy(bool), pairs[0].fold.to_numpy(int)
    probes = np.setdiff1d(np.arange(len(faces)), gallery)
    of_validation = (numbered[1], pairs[1].same.to_numpy(bool))
    return Trial(params, faces, numbered[0], same, folds, gallery[~apart], probes, validation, {}, of_validation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("subjects", 1761), ("probes", 16708), ("enrolled", 3), ("draws", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    trial = material(arguments, generator)
    edgeface = EdgeFace("edgeface_xxs")
    restorers = {"hr": "hr", "direct_feed": "bicubic", "dsr": nn.Identity()}
    systems = [System(row, edgeface, restorer, {"edgeface": Path("none")}) for row, restorer in restorers.items()]
    seen, subjects = {}, np.random.default_rng(1).integers(2**31)
    for system in systems:  # one centre a subject, whatever the noise
        people = np.random.default_rng(subjects)
        both = (embedded(part, NOISE[system.row], people) for part in (trial.faces, trial.validation))
        seen[system.restorer, edgeface, False] = Seen(*both)
    started, processor = time.perf_counter(), time.process_time()
    outcomes = []
    for outcome in outcomes_of(trial, systems, seen, {}):
        outcomes.append(outcome)
        wall, busy = time.perf_counter() - started, time.process_time() - processor
        print(f"{outcome.system.row:>12} {outcome.protocol:>8}: {wall:6.1f} s ({busy:.1f} s of processor time)", flush=True)
    judged = time.perf_counter() - started
    rows = rows_of(trial, outcomes)
    total, memory = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(trial.probes)} probes, {len(np.unique(trial.faces.labels))} subjects, {len(trial.gallery)} gallery faces")
    print(f"{len(rows)} rows: judged in {judged:.1f} s, intervals of {arguments.draws} draws in {total - judged:.1f} s")
    busy = time.process_time() - processor  # of all cores: what the machine's other programs take does not count
    print(f"{total:.1f} s in all ({busy:.1f} s of processor time), {total / len(rows):.1f} s a row; {memory:.2f} GB at most")


if __name__ == "__main__":
    main()
