"""What ``search.py`` tries: each variant's changes on plain parameters."""

from __future__ import annotations

from typing import Any

from dsrkit.params import CyclicCycle, DSRTraining
from dsrkit.runs import ROOT

Variants = dict[str, dict[str, Any]]
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
    "learning_rate_cycle2": 3e-4,  # the second cycle like the first
    "lambda_identity_cycle2": 1.0,
    "lambda_feature_match_cycle2": 0.0,
}
FIRST_LAYERS = {"stage_decay": 0.7, "backbone_lr": 6e-4}  # twice the rate in the stem, a third of it in the head
JOINT_VARIANTS: Variants = {
    "control: EdgeFace alone, no DSR": {},
    "control: + relation": {"lambda_relation": 1.0},
    "control: the first layers most": FIRST_LAYERS,
    "control: no HR faces": {"hr_fraction": 0.0},
    "joint": {},
    "joint: need not look like a face (no L1)": {"lambda_l1": 0.0},
    "joint: no HR faces": {"hr_fraction": 0.0},
    "joint: no HR faces, the first layers most": FIRST_LAYERS | {"hr_fraction": 0.0},
    "joint: no HR faces, rates 5e-4": {"hr_fraction": 0.0, "learning_rate": 5e-4, "backbone_lr": 5e-4},
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
    "joint: moved, blends .4, CutMix .3 + 0.2 ArcFace on whole faces": MOVED
    | {"blend_probability": 0.4, "cutmix_probability": 0.3, "lambda_arcface": 0.2},
    "control: moved + 0.1 ArcFace": MOVED | {"lambda_arcface": 0.1},
}
