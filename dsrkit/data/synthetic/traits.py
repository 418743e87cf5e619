"""Who a made-up person is, and what differs from one photo of that person to the next.

Two tables drive everything. TRAITS (identity) is drawn once per subject; NUISANCE once per image. The axes of the second
(camera yaw, flash, expression, session) are those of CMU Multi-PIE (Gross et al., "Multi-PIE", 2010), and so are the file
names. Nothing in NUISANCE depends on the subject but for the flash a subject's round begins with; nothing in TRAITS depends on
the image.

One unit of length is one pixel of the 112-pixel crop; the origin is the crop's centre, x to the right, y down, z towards the
camera. Angles are radians unless a name says degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# name: (mean, spread). A trait is mean + spread * a normal draw clipped to +-2: many small independent differences.
TRAITS: dict[str, tuple[float, float]] = {
    "head_width": (34.5, 1.3), "head_depth": (41.0, 1.5), "head_top": (-44.0, 1.5), "roundness": (2.25, 0.12),
    "cheek_width": (0.99, 0.025), "jaw_width": (0.86, 0.045), "chin_width": (0.50, 0.075), "chin_y": (50.0, 1.3),
    "jaw_rise": (17.0, 3.0), "chin_out": (3.0, 1.5), "chin_cleft": (0.3, 0.5), "forehead_slope": (0.05, 0.035),
    "cheekbone": (2.2, 1.1), "cheekbone_y": (7.0, 1.8), "cheek_hollow": (1.0, 1.0), "muzzle": (2.4, 0.9),
    "brow_ridge": (1.4, 0.9), "socket_depth": (3.6, 0.9),
    "nose_tip_y": (15.0, 1.6), "nose_length_out": (9.5, 1.6), "nose_bridge": (3.2, 1.0), "nose_hump": (0.4, 0.9),
    "nose_width": (2.6, 0.4), "nose_tip_width": (3.5, 0.6), "wing_x": (5.6, 0.8), "wing_size": (3.2, 0.7),
    "nose_tip_drop": (0.0, 1.0), "nostril": (0.6, 0.2),
    "eye_x": (16.8, 1.0), "eye_y": (-5.0, 0.8), "eye_width": (7.1, 0.55), "eye_upper": (3.3, 0.6), "eye_lower": (2.0, 0.4),
    "eye_tilt": (0.07, 0.085), "eye_skew": (0.0, 0.25), "lid_crease": (0.5, 0.4), "lid_gap": (1.9, 0.55),
    "lash": (0.75, 0.15), "iris_size": (3.05, 0.15), "eye_bag": (0.3, 0.25),
    "brow_x": (16.3, 0.9), "brow_y": (-15.0, 1.3), "brow_length": (9.2, 1.0), "brow_thickness": (1.45, 0.45),
    "brow_arch": (2.0, 1.1), "brow_peak": (0.2, 0.2), "brow_tilt": (-0.04, 0.09), "brow_taper": (0.5, 0.2),
    "brow_density": (0.8, 0.1),
    "mouth_y": (32.5, 1.2), "mouth_width": (12.3, 1.2), "lip_upper": (3.0, 0.8), "lip_lower": (4.0, 0.9),
    "lip_bow": (0.5, 0.35), "lip_curve": (-0.3, 0.8), "lip_redness": (0.5, 0.22), "philtrum": (0.6, 0.4),
    "ear_out": (5.0, 1.5), "ear_y": (2.0, 1.5), "ear_size": (6.5, 0.8),
    "hair_volume": (4.0, 1.0), "hairline_recede": (3.0, 3.0), "hairline_peak": (0.5, 2.0), "hair_parting": (0.0, 2.2),
    "sideburn": (5.0, 5.0), "hair_curl": (0.5, 0.25),
    "undertone": (0.0, 0.08), "blush": (0.5, 0.25), "oiliness": (0.35, 0.15), "mottle": (0.5, 0.2),
    "fold_smile": (0.25, 0.25), "fold_brow": (0.0, 0.35), "asymmetry_eye": (0.0, 0.35), "asymmetry_brow": (0.0, 0.5),
    "asymmetry_mouth": (0.0, 0.5), "asymmetry_nose": (0.0, 0.45),
}  # fmt: skip

# What masculine heads have more of, and feminine heads less: small beside the spreads, so the two overlap.
MASCULINE = {
    "jaw_width": 0.025, "chin_width": 0.03, "chin_y": 0.6, "brow_ridge": 0.5, "brow_thickness": 0.25, "brow_y": 0.7,
    "eye_upper": -0.25, "nose_tip_width": 0.25, "nose_length_out": 0.6, "lip_upper": -0.4, "lip_lower": -0.4,
    "lip_redness": -0.12,
}  # fmt: skip

# Coarse cues come from few clusters shared by many people, so that they alone do not say who it is.
SKIN_CLUSTERS = np.array([0.04, 0.12, 0.26, 0.45, 0.7])
HAIR_COLOURS = np.array([
    [0.014, 0.012, 0.011], [0.030, 0.019, 0.013], [0.085, 0.047, 0.027], [0.30, 0.19, 0.085], [0.17, 0.06, 0.025],
    [0.26, 0.25, 0.24],
])  # fmt: skip
HAIR_COLOUR_SHARE = np.array([0.34, 0.26, 0.2, 0.08, 0.05, 0.07])
IRIS_COLOURS = np.array([[0.045, 0.022, 0.012], [0.11, 0.055, 0.022], [0.10, 0.13, 0.07], [0.12, 0.2, 0.3], [0.2, 0.23, 0.25]])
# rows: front hairline, side hairline, back hairline (y of the lowest hair), chance for feminine heads, for masculine heads
HAIR_STYLES = np.array([
    [-27.0, -2.0, 18.0, 0.10, 0.42], [-22.0, 2.0, 18.0, 0.10, 0.22], [-26.0, 16.0, 30.0, 0.22, 0.06],
    [-26.0, 40.0, 46.0, 0.34, 0.05], [-16.0, 36.0, 46.0, 0.22, 0.03], [-40.0, -8.0, 18.0, 0.02, 0.13],
    [-90.0, -90.0, -90.0, 0.0, 0.09],
])  # fmt: skip
BEARDS = np.array([  # moustache, chin, cheeks, chance among masculine heads
    [0.0, 0.0, 0.0, 0.5], [0.3, 0.3, 0.3, 0.2], [0.85, 0.0, 0.0, 0.08], [0.7, 0.8, 0.1, 0.1], [0.8, 0.85, 0.8, 0.12],
])  # fmt: skip
MOLES = 5

# name: (low, high), uniform.
NUISANCE: dict[str, tuple[float, float]] = {
    "yaw_draw": (-1.0, 1.0), "pitch_draw": (-1.0, 1.0), "roll": (-0.07, 0.07), "shift_x": (-1.5, 1.5), "shift_y": (-1.5, 1.5),
    "zoom": (0.97, 1.03), "strength": (0.5, 1.0), "gaze_x": (-1.0, 1.0), "gaze_y": (-0.4, 0.4), "blink": (0.0, 0.25),
    "light_jitter_x": (-0.5, 0.5), "light_jitter_y": (-0.5, 0.5), "key": (0.9, 1.9), "ambient": (0.22, 0.75),
    "warmth": (-0.3, 0.3), "fill_warmth": (-0.3, 0.3), "exposure": (-0.55, 0.55), "white_red": (-0.16, 0.16),
    "white_blue": (-0.2, 0.2), "gamma": (0.86, 1.16), "noise": (0.0, 0.022), "blur": (0.0, 0.6), "hair_jitter": (-0.7, 0.7),
    "glasses": (0.0, 1.0), "glasses_width": (8.6, 11.0), "glasses_height": (5.5, 8.5), "glasses_dark": (0.05, 0.9),
    "collar_y": (48.5, 53.0), "collar_slope": (0.004, 0.012), "backdrop_angle": (0.0, 6.283), "backdrop_grain": (0.0, 0.25),
    "saturation": (0.1, 0.9),
}  # fmt: skip
GLASSES_SHARE = 0.12
EXPRESSIONS = ("neutral", "smile", "surprise", "squint", "talk")
EXPRESSION_SHARE = np.array([0.4, 0.22, 0.12, 0.12, 0.14])
#           columns: smile, mouth opening, brow raise, eye closing (each at full strength)
EXPRESSION_EFFECT = np.array([[0, 0, 0, 0], [1, 0.25, 0.1, 0.15], [-0.1, 0.9, 1, -0.3], [0.3, 0, -0.4, 0.65], [0, 0.6, 0.1, 0]])

CAMERAS = {-45: "080", -30: "130", -15: "140", 0: "051", 15: "050", 30: "041", 45: "190"}
LIGHT_COLUMNS, LIGHT_ROWS = 5, 4
LIGHTS = LIGHT_COLUMNS * LIGHT_ROWS
TAKES = 19
MOST_IMAGES = LIGHTS * TAKES * 4


@dataclass(frozen=True)
class Traits:
    """Named values of n heads or n images, each float32 `[n, 1, 1]`, plus named arrays of other shapes `[n, ...]`."""

    values: dict[str, Tensor]
    arrays: dict[str, Tensor]

    def __getattr__(self, name: str) -> Tensor:
        values, arrays = self.__dict__["values"], self.__dict__["arrays"]
        if name in values:
            return values[name]
        if name in arrays:
            return arrays[name]
        raise AttributeError(name)


def _stack(rows: list[tuple[dict[str, float], dict[str, np.ndarray]]]) -> Traits:
    values = {key: torch.tensor([row[0][key] for row in rows], dtype=torch.float32)[:, None, None] for key in rows[0][0]}
    arrays = {key: torch.from_numpy(np.stack([row[1][key] for row in rows]).astype(np.float32)) for key in rows[0][1]}
    return Traits(values, arrays)


def _draw_person(seed: int, subject: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0, subject]))
    draws = np.clip(rng.standard_normal(len(TRAITS)), -2, 2)
    values = {name: mean + spread * draw for (name, (mean, spread)), draw in zip(TRAITS.items(), draws, strict=True)}
    masculine = rng.random() < 0.5
    style = HAIR_STYLES[rng.choice(len(HAIR_STYLES), p=HAIR_STYLES[:, 4 if masculine else 3])]
    for name, line in zip(("hair_front", "hair_side", "hair_back"), style[:3], strict=True):
        values[name] = line + rng.normal(0, 1.3)
    beard = BEARDS[rng.choice(len(BEARDS), p=BEARDS[:, 3])] * masculine
    for name, amount in zip(("moustache", "goatee", "cheek_beard"), beard[:3], strict=True):
        values[name] = amount * rng.uniform(0.8, 1.1)
    for name, shift in MASCULINE.items():
        values[name] += shift if masculine else -shift
    values["melanin"] = rng.choice(SKIN_CLUSTERS) + rng.normal(0, 0.07)
    values["freckles"] = max(0.0, rng.normal(-0.3, 0.5)) * (values["melanin"] < 0.45)
    fair = values["melanin"] < 0.45
    hair_share = HAIR_COLOUR_SHARE * (fair | (HAIR_COLOURS[:, 0] < 0.05) | (HAIR_COLOURS[:, 2] > 0.2))
    arrays = {
        "hair_colour": rng.choice(HAIR_COLOURS, p=hair_share / hair_share.sum()) * np.exp(rng.normal(0, 0.2)),
        "iris_colour": rng.choice(IRIS_COLOURS if fair else IRIS_COLOURS[:2]) * np.exp(rng.normal(0, 0.2, 3)),
        "moles": np.stack([rng.uniform(-26, 26, MOLES), rng.uniform(-24, 46, MOLES), rng.uniform(0.7, 1.3, MOLES),
                           np.maximum(0, rng.uniform(-0.6, 0.8, MOLES))], axis=1),
        "strands": rng.standard_normal((7, 110)),
        "grain": rng.standard_normal((44, 60)),
    }  # fmt: skip
    return values, arrays


def draw_people(subjects: np.ndarray, seed: int) -> Traits:
    """The identity of each subject: every name of TRAITS, plus what comes from clusters."""
    drawn = {subject: _draw_person(seed, int(subject)) for subject in np.unique(subjects)}
    return _stack([drawn[subject] for subject in subjects])


def light_bins(subjects: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Which of the 20 flashes fires. It cycles, so that name and light are unique; 7 makes neighbours look different."""
    return (7 * images + 3 * subjects) % LIGHTS


def _draw_condition(seed: int, subject: int, image: int, size: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1, subject, image]))
    draws = rng.random(len(NUISANCE))
    values = {name: low + (high - low) * draw for (name, (low, high)), draw in zip(NUISANCE.items(), draws, strict=True)}
    expression = rng.choice(len(EXPRESSIONS), p=EXPRESSION_SHARE)
    values["expression"] = expression
    for name, effect in zip(("smile", "opening", "brow_raise", "closing"), EXPRESSION_EFFECT[expression], strict=True):
        values[name] = effect * values["strength"]
    values["closing"] += values["blink"]
    # slightly more frontal than uniform, like a camera arc whose ends are visited less
    values["yaw"] = np.radians(45) * np.sign(values["yaw_draw"]) * abs(values["yaw_draw"]) ** 1.25
    values["pitch"] = np.radians(20) * np.sign(values["pitch_draw"]) * abs(values["pitch_draw"]) ** 1.5
    arrays = {"palette": rng.random((6, 3)), "blobs": rng.random((4, 4)), "backdrop": rng.standard_normal((1, 9, 9))}
    if size:
        arrays["sensor"] = rng.standard_normal((3, size, size))
    return values, arrays


def draw_conditions(subjects: np.ndarray, images: np.ndarray, seed: int, size: int = 0) -> Traits:
    """Pose, expression, light, backdrop and camera of each image; sensor noise only when `size` is given."""
    rows = [_draw_condition(seed, int(subject), int(image), size) for subject, image in zip(subjects, images, strict=True)]
    for row, flash in zip(rows, light_bins(subjects, images), strict=True):
        column, line = int(flash) % LIGHT_COLUMNS, int(flash) // LIGHT_COLUMNS
        row[0]["light_azimuth"] = np.radians(32) * (column - 2 + row[0]["light_jitter_x"])
        row[0]["light_elevation"] = np.radians(20) * (line - 0.5 + row[0]["light_jitter_y"])
    return _stack(rows)


def neutralise(condition: Traits) -> Traits:
    """The same images without pose or expression, in soft light, before a plain backdrop."""
    centre = {name: torch.full_like(condition.yaw, (low + high) / 2) for name, (low, high) in NUISANCE.items()}
    still = ("yaw", "pitch", "smile", "opening", "brow_raise", "closing", "noise", "blur", "backdrop_grain")
    values = condition.values | centre | {name: torch.zeros_like(condition.yaw) for name in still}
    values |= {"glasses": torch.ones_like(condition.yaw), "key": torch.full_like(condition.yaw, 1.1)}
    values |= {"light_azimuth": torch.full_like(condition.yaw, 0.35), "light_elevation": torch.full_like(condition.yaw, 0.45)}
    values |= {"ambient": torch.full_like(condition.yaw, 0.6)}
    return Traits(values, condition.arrays | {"palette": torch.full_like(condition.palette, 0.5)})


def multi_pie_name(subject: int, image: int, flash: int, yaw_degrees: float, expression: int) -> str:
    """`SUBJ_SESSION_RECORDING_CAMERA_ILLUM_crop_128.png`; the recording number holds the expression and the take."""
    around = image // LIGHTS
    session, take = (image + around) % 4 + 1, around % TAKES
    recording = 1 + expression * TAKES + take
    camera = CAMERAS[min(CAMERAS, key=lambda angle: abs(angle - yaw_degrees))]
    return f"{subject:03d}_{session:02d}_{recording:02d}_{camera}_{flash:02d}_crop_128.png"


def to_numbers(values: Float[Tensor, "n 1 1"]) -> np.ndarray:
    return values.flatten().numpy()
