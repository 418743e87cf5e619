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

from on_validation import judged, line, markdown

from dsrkit.models import load_dsr, load_edgeface
from dsrkit.params import EdgeFaceFinetune
from dsrkit.recognition import restore
from dsrkit.runs import ROOT, Run, resolve
from dsrkit.training import open_setting
from dsrkit.training.edgeface import finetune
from dsrkit.training.setting import Setting

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
