"""Which fine-tune? Every recipe from one DSR, on the same faces, for the same number of them, judged on validation subjects.

    python benchmarks/recipes.py cpu16 --epochs 3

reads ``params/<run>/03_edgeface_finetune.yaml`` and the run's data set and ``dsr.pt``, fine-tunes with each recipe, and prints
a Markdown table: verification of all genuine pairs of validation faces and 40,000 impostor pairs, with the paired bootstrap
interval (over subjects) of the gain over the recogniser that was not fine-tuned. ``outputs/<run>-recipes/recipes.json`` keeps
the numbers; a recipe that is run again replaces its row.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from dsrkit import metrics
from dsrkit.bootstrap import bootstrap_difference
from dsrkit.models import load_dsr, load_edgeface
from dsrkit.models.edgeface import EdgeFace
from dsrkit.params import EdgeFaceFinetune
from dsrkit.recognition import embed, restore
from dsrkit.runs import ROOT, Run, resolve
from dsrkit.training import open_setting
from dsrkit.training.edgeface import finetune
from dsrkit.training.setting import Setting

IMPOSTORS = 40_000
ONLY_ARCFACE = {"lambda_arcface": 1.0, "lambda_distill": 0.0, "lambda_hr": 0.0, "hr_fraction": 0.0, "arcface_scale": 64.0}
TENTH = {"lambda_arcface": 0.1, "arcface_scale": 64.0}
RECIPES: dict[str, dict] = {
    "ArcFace, two stages, the published rates": ONLY_ARCFACE | {"backbone_lr": 5e-6, "stage1_epochs": 1},
    "ArcFace, two stages, backbone 1e-4": ONLY_ARCFACE | {"backbone_lr": 1e-4, "stage1_epochs": 1},
    "the same, s by number of subjects": ONLY_ARCFACE | {"backbone_lr": 1e-4, "stage1_epochs": 1, "arcface_scale": 0.0},
    "ArcFace from mean embeddings, backbone 1e-4": ONLY_ARCFACE | {"backbone_lr": 1e-4},
    "distilled": {},
    "distilled, 3e-4": {"backbone_lr": 3e-4},
    "distilled, 3e-4, moving average": {"backbone_lr": 3e-4, "ema_decay": 0.98},
    "distilled, no HR faces": {"lambda_hr": 0.0, "hr_fraction": 0.0},
    "distilled, a quarter bicubic": {"lambda_direct": 1.0, "direct_fraction": 0.25},
    "distilled, low rank 8 at 1e-3": {"lora_rank": 8, "backbone_lr": 1e-3},
    "distilled + ArcFace": {"lambda_arcface": 1.0, "arcface_scale": 64.0},
    "distilled + 0.1 ArcFace": TENTH,
    "distilled + 0.1 ArcFace, s by number of subjects": TENTH | {"arcface_scale": 0.0},
    "distilled + 0.1 ArcFace, two stages": TENTH | {"stage1_epochs": 1},
    "distilled + 0.1 CosFace": TENTH | {"margin_head": "cosface", "arcface_margin": 0.35},
    "distilled + 0.1 AdaFace": TENTH | {"margin_head": "adaface", "arcface_margin": 0.4},
}


def judged(setting: Setting, edgeface: EdgeFace, restored: np.ndarray) -> dict:
    """Verification of pairs of validation faces, and what is left of the recogniser on HR faces."""
    faces = setting.validation.faces
    pairs = np.stack(np.triu_indices(len(faces), 1), axis=1)
    same = faces.labels[pairs[:, 0]] == faces.labels[pairs[:, 1]]
    keep = same | (np.random.default_rng(0).random(len(same)) < IMPOSTORS / (~same).sum())
    pairs, same = pairs[keep], same[keep]
    embeddings = embed(restored, edgeface)
    scores = metrics.cosine_scores(embeddings, pairs)
    correct = (scores >= metrics.eer(scores, same)[1]) == same
    return {
        "scores": scores,
        "same": same,
        "correct": correct,
        "subjects": np.array(faces.subjects)[pairs],
        "auc": metrics.auc(scores, same),
        "eer": metrics.eer(scores, same)[0],
        "tar_at_far_0.01": metrics.tar_at_far(scores, same, 0.01),
        "d_prime": metrics.d_prime(scores, same),
        "effective_rank": metrics.effective_rank(embeddings),
        "hr_similarity": setting.validation.hr_kept(edgeface)["hr_similarity"],
    }


def line(name: str, found: dict, start: dict | None, ended: str, seconds: float) -> dict:
    """One row: the measures, and the gain over ``start`` with its interval."""
    row = {"recipe": name, "ended": ended, "seconds": round(seconds)} | {
        key: value for key, value in found.items() if isinstance(value, float)
    }
    if start is not None:
        row["gain"] = bootstrap_difference(found, start, found["subjects"], draws=200)
    return row


def markdown(rows: list[dict]) -> str:
    lines = ["| recipe | AUC | gain in AUC | TAR@1% | gain | d′ | effective rank | HR cosine kept | seconds |", "|" + "---|" * 9]
    for row in rows:
        gains = ["–", "–"]
        if "gain" in row:
            parts = [row["gain"][measure] for measure in ("auc", "tar_at_far_0.01")]
            gains = [f"{100 * part['value']:+.2f} [{100 * part['low']:+.2f}, {100 * part['high']:+.2f}]" for part in parts]
        lines.append(
            f"| {row['recipe']} | {100 * row['auc']:.2f} | {gains[0]} | {100 * row['tar_at_far_0.01']:.1f} | {gains[1]} | "
            f"{row['d_prime']:.2f} | {row['effective_rank']:.0f} | {row['hr_similarity']:.3f} | {row['seconds']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with a data set and a dsr.pt")
    parser.add_argument("--epochs", type=int, default=3, help="of each recipe, its stage 1 included")
    parser.add_argument("--only", default="", help="recipes whose name holds this text")
    options = parser.parse_args()
    base = EdgeFaceFinetune.read(ROOT / "params" / options.run / "03_edgeface_finetune.yaml")
    setting = open_setting(base.model_copy(update={"select_by": "auc", "resume": "never", "stage1_epochs": 0}))
    folder = Run(f"{options.run}-recipes").folder
    setting = Setting(**(vars(setting) | {"run": Run(f"{options.run}-recipes")}))
    dsr = resolve(base.dsr, Run(options.run).dsr, "DSR (dsr)")
    restored = restore(setting.validation.faces.vlr, load_dsr(dsr))
    start = judged(setting, setting.original, restored)
    path = folder / "recipes.json"
    rows = json.loads(path.read_text()) if path.exists() else [line("not fine-tuned", start, None, "", 0)]
    for name, changes in RECIPES.items():
        if options.only not in name:
            continue
        stage1 = changes.get("stage1_epochs", 0)
        tried = setting.with_params(**changes, stage2_epochs=options.epochs - stage1)
        started = time.process_time()
        done = finetune(tried, setting.original, dsr, folder / "edgeface.pt", setting.origin(dsr=dsr))
        found = judged(setting, load_edgeface(folder / "edgeface.pt"), restored)
        rows = [row for row in rows if row["recipe"] != name] + [
            line(name, found, start, done.ended, time.process_time() - started)
        ]
        print(markdown(rows[-1:]).splitlines()[-1], done.ended, flush=True)
        path.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
