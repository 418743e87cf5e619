"""How much of the original recogniser to keep in a fine-tuned one, and who embeds HR faces: told by validation subjects.

    python benchmarks/share.py vlr16 [--row cycle_1] [--keep 0.2]

goes from a trained EdgeFace to the original in steps (WiSE-FT, as ``original_share`` does while it trains) and prints AUC over
all pairs of validation faces, with the gain over the fine-tuned one: both faces VLR; one face HR, embedded by the recogniser
itself or by the original (``hr_edgeface``). ``--keep`` writes the recogniser with that share in place of the run's, which stays
as ``….previous.pt``.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from on_validation import all_pairs, gain_of

from dsrkit import metrics
from dsrkit.bootstrap import bootstrap_difference
from dsrkit.data.faces import open_split
from dsrkit.evaluation.systems import rows_on_disk
from dsrkit.models import edgeface_file, load_dsr, load_edgeface
from dsrkit.models.checkpoint import keep_previous, read_weights, save_checkpoint
from dsrkit.models.edgeface import interpolated
from dsrkit.params import Evaluation
from dsrkit.recognition import embed, restore
from dsrkit.runs import ROOT, Run, resolve

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
HEADS = ("share of the original", "VLR–VLR", "gain", "HR–VLR, by itself", "HR–VLR, HR by the original", "gain", "HR cosine kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with a data set and checkpoints")
    parser.add_argument("--row", default="cycle_1", help="of its evaluation: cycle_1, direct_feed_finetuned (the control), …")
    parser.add_argument("--keep", type=float, default=None, help="write the recogniser with this share")
    options = parser.parse_args()
    run = Run(options.run)
    params = Evaluation.read(ROOT / "params" / options.run / "05_evaluation.yaml")
    original_file = edgeface_file(params.edgeface)
    dsrs, file = next((dsrs, file) for row, dsrs, file in rows_on_disk(run, original_file) if row == options.row)
    original, tuned = load_edgeface(original_file), load_edgeface(file)
    if options.keep is not None:
        content = read_weights(file)
        kept = content | {"backbone_state_dict": interpolated(tuned, original, options.keep).state_dict()}
        keep_previous(file)
        save_checkpoint(file, "edgeface", kept | {"original_share": options.keep})
        print(f"{file}: {options.keep:g} of {original_file.name}; what stood there is {file.stem}.previous.pt")
        return
    faces = open_split(resolve(params.dataset, run.dataset, "data set (dataset)"), "val", params.vlr_size)
    restored, hr = restore(faces.vlr, load_dsr(list(dsrs)) if dsrs else None), embed(faces.hr, original)
    pairs, same = all_pairs(faces)
    subjects = np.array(faces.subjects)[pairs]

    def judged(left: np.ndarray, right: np.ndarray) -> dict[str, Any]:
        scores = metrics.cosine_scores(np.concatenate([left, right]), pairs + np.array([0, len(left)]))
        correct = (scores >= metrics.eer(scores, same)[1]) == same
        return {"scores": scores, "same": same, "correct": correct, "auc": metrics.auc(scores, same)}

    print(f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS), sep="\n")
    first: list[dict[str, Any]] = []
    for share in SHARES:
        between = interpolated(tuned, original, share)
        low, own = embed(restored, between), embed(faces.hr, between)
        by_itself, found = judged(own, low), [judged(low, low), judged(hr, low)]
        first = first or found
        both, by_original = (
            [f"{100 * one['auc']:.2f}", gain_of({"gain": bootstrap_difference(one, start, subjects, 200)}, "auc")]
            for one, start in zip(found, first, strict=True)
        )
        cells = [f"{share:g}", *both, f"{100 * by_itself['auc']:.2f}", *by_original, f"{(own * hr).sum(1).mean():.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
