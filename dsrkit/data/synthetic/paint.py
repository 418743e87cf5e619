"""The colour of a made-up head at each pixel: skin, eyes, brows, lips, hair, beard, moles, glasses.

Every part is a soft mask over face coordinates (distance along the skin from the midline, height), mixed over the colours
below it. Edges are as soft as a pixel is wide, so that the picture is antialiased without being drawn larger.
Colours are linear light, [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsrkit.data.synthetic.shape import bell, ramp
from dsrkit.data.synthetic.traits import GLASSES_SHARE, Traits

LIGHTEST_SKIN, DARKEST_SKIN = (0.74, 0.47, 0.345), (0.085, 0.046, 0.030)
SCLERA = (0.62, 0.58, 0.55)
TEETH = (0.66, 0.60, 0.50)
MOUTH_INSIDE = (0.035, 0.010, 0.010)
LASH = (0.016, 0.011, 0.009)


@dataclass
class Canvas:
    """What is known of each pixel while painting: where it lies on the face, and what has been painted so far."""

    across: Float[Tensor, "n h w"]
    height: Float[Tensor, "n h w"]
    longitude: Float[Tensor, "n h w"]
    colour: Float[Tensor, "n 3 h w"]
    gloss: Float[Tensor, "n h w"]
    pixel: float

    def edge(self, inside: Tensor, softness: float = 1.0) -> Tensor:
        """Coverage of a region from its signed distance in pixels, positive inside."""
        return (0.5 + inside / (softness * max(self.pixel, 0.8))).clamp(0, 1)

    def mix(self, colour: Tensor | tuple[float, ...], share: Tensor) -> None:
        """Lay a colour, `[n, 3]` or three numbers, over what is there."""
        colour = torch.as_tensor(colour, dtype=torch.float32)
        self.colour.lerp_(colour.expand(len(share), 3)[:, :, None, None], share[:, None])

    def darken(self, share: Tensor) -> None:
        self.colour.mul_(1 - share[:, None])


def skin_colour(person: Traits) -> Float[Tensor, "n 3"]:
    light, dark = torch.tensor(LIGHTEST_SKIN), torch.tensor(DARKEST_SKIN)
    melanin, undertone = person.melanin[:, 0], person.undertone[:, 0]
    colour = light * (dark / light) ** melanin.clamp(0, 1)
    return colour * torch.cat([1 + 0.3 * undertone, torch.ones_like(undertone), 1 - undertone], 1)


def paint_head(canvas: Canvas, person: Traits, mood: Traits, maps: dict[str, Tensor]) -> None:
    """Fill the canvas; `maps` holds `hair`, `neck`, `strands` and `grain` looked up at each pixel, `[n, h, w]`."""
    skin = skin_colour(person)
    canvas.colour.copy_(skin[:, :, None, None].expand_as(canvas.colour))
    canvas.gloss.copy_((0.35 + 0.5 * person.oiliness).expand_as(canvas.gloss))
    _paint_skin(canvas, person, mood, maps)
    front = canvas.edge(34.0 - canvas.across.abs(), 4.0)
    _paint_beard(canvas, person, mood, maps, front)
    _paint_mouth(canvas, person, mood, skin)
    _paint_eyes(canvas, person, mood, skin)
    _paint_brows(canvas, person, mood, maps)
    _paint_hair(canvas, person, maps)
    _paint_glasses(canvas, person, mood)


def _paint_skin(canvas: Canvas, person: Traits, mood: Traits, maps: dict[str, Tensor]) -> None:
    across, height = canvas.across, canvas.height
    side = across.abs()
    blush = bell(side - person.eye_x - 3, 6.5) * bell(height - 11, 6.5) + bell(side, 4.5) * bell(height - person.nose_tip_y, 4.0)
    fair = (1 - person.melanin).clamp(0.15, 1)
    redden = (0.32 * person.blush * fair * blush)[:, None] * torch.tensor([0.1, 0.75, 0.65])[:, None, None]
    canvas.colour.mul_(1 - redden)
    freckle = person.freckles * ramp(maps["grain"], 0.7, 1.5) * bell(side - 9, 9.0) * bell(height - 8, 7.0)
    canvas.darken((0.42 * freckle).clamp(0, 0.6) - 0.035 * person.mottle * maps["grain"])
    nostril = torch.exp(-(((side - person.wing_x + 2.2) / 1.9) ** 2) - ((height - person.nose_tip_y - 3.3) / 1.15) ** 2)
    canvas.darken(0.95 * (person.nostril * nostril).clamp(0, 1))
    fold_x = person.wing_x + 3.0 + 0.42 * (height - person.nose_tip_y) + 1.5 * mood.smile.clamp(min=0)
    fold_y = ramp(height, person.nose_tip_y - 3, person.nose_tip_y + 4) * (
        1 - ramp(height, person.mouth_y - 6, person.mouth_y + 2)
    )
    canvas.darken((person.fold_smile.clamp(min=0) * 0.5 + 0.3 * mood.smile.clamp(0, 1)) * bell(side - fold_x, 1.2) * fold_y)
    lines = torch.cos(1.5 * height) ** 6 * bell(side, 10.0) * bell(height + 24, 3.0)
    canvas.darken(0.22 * (person.fold_brow.clamp(min=0) + 0.5 * mood.brow_raise.clamp(0, 1)) * lines)
    bag = bell(side - person.eye_x + 0.5, 5.0) * bell(height - person.eye_y - 5.2, 1.4)
    canvas.darken(0.35 * person.eye_bag.clamp(min=0) * bag)
    for x, y, size, strength in _moles(person):
        spot = torch.exp(-(((across - x) ** 2 + (height - y) ** 2) / (2 * size**2)))
        canvas.darken(strength * spot)


def _moles(person: Traits) -> list[tuple[Tensor, ...]]:
    """(x, y, size, strength) of each mole, each [n, 1, 1]."""
    return [tuple(mole[:, field, None, None] for field in range(4)) for mole in person.moles.unbind(1)]


def _paint_beard(canvas: Canvas, person: Traits, mood: Traits, maps: dict[str, Tensor], front: Tensor) -> None:
    side, height = canvas.across.abs(), canvas.height
    mouth, drop = person.mouth_y, 4.0 * mood.opening.clamp(min=0)
    lip_top = mouth - person.lip_upper
    reach = person.mouth_width + 3 - 0.9 * (lip_top - height).clamp(min=0)
    moustache = ramp(height, person.nose_tip_y + 4.0, person.nose_tip_y + 8.5) * (1 - ramp(height, lip_top - 1.0, lip_top + 1.5))
    moustache = moustache * (1 - ramp(side - reach, -4.0, 1.0)) * (1 - 0.4 * bell(side, 1.5))
    below_lip, beside = mouth + person.lip_lower + drop + 1.0, mouth - 5 - 0.5 * (side - person.mouth_width)
    edge = torch.lerp(below_lip, beside, ramp(side, person.mouth_width - 1, person.mouth_width + 4))
    grown = ramp(height - edge, -2.0, 5.0)
    chin = 1 - ramp(side, 11.0, 17.0)
    beard = torch.maximum(
        person.moustache * moustache, grown * torch.maximum(person.goatee * chin, person.cheek_beard + 0 * chin)
    )
    beard = beard * (1 - ramp(maps["neck"], 0.5, 0.9)) * (1 + 0.06 * maps["grain"])
    canvas.mix(0.8 * person.hair_colour + 0.01, (0.9 * beard).clamp(0, 0.95))
    canvas.gloss.mul_(1 - 0.7 * beard.clamp(0, 1))


def _paint_mouth(canvas: Canvas, person: Traits, mood: Traits, skin: Tensor) -> None:
    across = canvas.across
    width = person.mouth_width * (1 + 0.16 * mood.smile - 0.1 * mood.opening.clamp(min=0))
    along = across / width
    arc = (1 - along * along).clamp(min=0)
    corner = (person.lip_curve - 3.2 * mood.smile) * along * along + person.asymmetry_mouth * along
    middle = canvas.height - person.mouth_y - corner
    gap = 4.0 * mood.opening.clamp(min=0) * arc
    bow = 1 + person.lip_bow * (0.6 * bell(along.abs() - 0.24, 0.13) - 0.35 * bell(along, 0.1))
    upper = person.lip_upper * (1 - 0.25 * mood.smile.clamp(min=0)) * arc**0.75 * bow
    lower = person.lip_lower * (1 - 0.2 * mood.smile.clamp(min=0)) * arc**0.65
    inside = (along.abs() < 1.0).float()
    lips = canvas.edge(middle + upper, 1.4) * canvas.edge(lower + gap - middle, 1.6) * inside
    red = 0.25 + 0.75 * person.lip_redness[:, 0].clamp(0, 1)
    lip_colour = skin * (1 - red * torch.tensor([0.25, 0.66, 0.54]))
    canvas.mix(lip_colour, (0.9 * lips).clamp(0, 1))
    canvas.darken(0.22 * lips * canvas.edge(-middle, 1.5))
    canvas.gloss.add_(0.15 * lips)
    hole = canvas.edge(middle - 0.2, 1.0) * canvas.edge(gap - middle - 0.2, 1.0) * inside * ramp(gap, 0.2, 1.0)
    canvas.mix(MOUTH_INSIDE, hole)
    teeth = hole * canvas.edge(0.55 * gap + 0.5 - middle, 1.2) * canvas.edge(0.8 - along.abs(), 0.3)
    canvas.mix(TEETH, 0.85 * teeth)
    seam = torch.exp(-((middle / 0.75) ** 2)) * ramp(arc, 0.0, 0.12) * (1 - ramp(gap, 0.3, 1.2))
    canvas.darken(0.72 * seam)


def _paint_eyes(canvas: Canvas, person: Traits, mood: Traits, skin: Tensor) -> None:
    """Both eyes at once, in coordinates mirrored at the nose: `out` grows away from it."""
    face_side = canvas.across.sign()
    out = canvas.across.abs() - person.eye_x
    down = canvas.height - person.eye_y + person.eye_tilt * out - person.asymmetry_eye * face_side
    along = out / person.eye_width
    arc = 1 - along * along
    open_share = (1 - mood.closing).clamp(0.06, 1.3)
    upper = -person.eye_upper * open_share * arc * (1 - person.eye_skew * along)
    lower = person.eye_lower * (0.75 + 0.25 * open_share) * arc
    eye = canvas.edge(down - upper) * canvas.edge(lower - down)
    near = ramp(arc, -0.25, 0.05)
    canvas.mix(SCLERA, eye)
    canvas.darken(eye * 0.55 * (1 - ramp(down - upper, 0.0, 2.2)))
    iris_x, iris_y = out - 1.1 * mood.gaze_x * face_side + 0.2, down - mood.gaze_y + 0.8
    distance = torch.sqrt(iris_x**2 + iris_y**2 + 1e-6)
    iris = eye * canvas.edge(person.iris_size - distance)
    canvas.mix(person.iris_colour, iris)
    canvas.darken(iris * 0.6 * bell(distance - person.iris_size, 0.7))
    canvas.mix(LASH, iris * canvas.edge(0.45 * person.iris_size - distance))
    glint = torch.exp(-((canvas.across.abs() - person.eye_x + 0.2 - 0.9 * face_side) ** 2 + (iris_y + 1.1) ** 2) / 0.55)
    canvas.mix((0.9, 0.9, 0.9), 0.8 * eye * glint)
    lash = torch.exp(-(((down - upper + 0.3) / 0.8) ** 2)) * near
    canvas.mix(LASH, person.lash.clamp(0, 0.95) * lash)
    crease = torch.exp(-(((down - upper + person.lid_gap) / 0.75) ** 2)) * near
    canvas.darken(0.5 * person.lid_crease.clamp(min=0) * crease * (1 - 0.7 * eye))
    under = torch.exp(-(((down - lower - 0.3) / 0.7) ** 2)) * near
    canvas.darken(0.3 * under)
    tear = bell(along + 0.95, 0.1) * bell(down - 0.2, 0.7)
    canvas.mix(skin * torch.tensor([0.9, 0.5, 0.45]), 0.6 * tear)
    canvas.gloss.mul_(1 - 0.6 * eye)


def _paint_brows(canvas: Canvas, person: Traits, mood: Traits, maps: dict[str, Tensor]) -> None:
    out = canvas.across.abs() - person.brow_x
    along = out / person.brow_length
    bend = person.brow_arch * (along - person.brow_peak) ** 2 - 0.45 * person.brow_arch
    middle = person.brow_y + bend - person.brow_tilt * out - 2.4 * mood.brow_raise
    middle = middle + person.asymmetry_brow * canvas.across.sign() - 0.5 * mood.brow_raise.clamp(max=0) * along
    thickness = person.brow_thickness.clamp(min=0.55) * (1 - person.brow_taper * ramp(along, -0.6, 1.0))
    ends = ramp(along, -1.1, -0.8) * (1 - ramp(along, 0.75, 1.1))
    brow = canvas.edge(thickness - (canvas.height - middle).abs(), 1.6) * ends * (0.9 + 0.12 * maps["grain"])
    canvas.mix(0.45 * person.hair_colour + 0.008, (person.brow_density * brow).clamp(0, 1))


def _paint_hair(canvas: Canvas, person: Traits, maps: dict[str, Tensor]) -> None:
    hair = ramp(maps["hair"], -1.2, 1.6) * (1 - ramp(maps["neck"], 0.2, 0.6))
    shade = torch.exp(0.28 * maps["strands"] + 0.1 * maps["grain"])[:, None]
    canvas.colour.lerp_(person.hair_colour[:, :, None, None] * shade, hair[:, None])
    canvas.gloss.lerp_(torch.tensor(0.55), hair)


def _paint_glasses(canvas: Canvas, person: Traits, mood: Traits) -> None:
    """A rounded frame around each eye, a bridge and temples; they belong to the photo, not to the person."""
    worn = (mood.glasses < GLASSES_SHARE).float()
    out, down = canvas.across.abs() - person.eye_x, canvas.height - person.eye_y - 1.0
    across, tall = out / mood.glasses_width, down / mood.glasses_height
    ring = ((across.abs() ** 3 + tall.abs() ** 3 + 1e-9) ** (1 / 3) - 1) * mood.glasses_height
    frame = canvas.edge(0.75 - ring.abs())
    bridge = canvas.edge(0.7 - (down + 1.5).abs()) * (across < -0.95).float()
    temple = canvas.edge(0.8 - (down + 2.0).abs()) * (across > 0.98).float() * (1 - ramp(canvas.longitude.abs(), 1.5, 1.6))
    share = worn * mood.glasses_dark.clamp(min=0.45) * torch.maximum(frame, torch.maximum(bridge, temple))
    tint = (0.25 * mood.glasses_dark[:, 0] * torch.tensor([0.6, 0.35, 0.3])).clamp(0.01, 0.3)
    canvas.mix(tint, share)
    canvas.darken(0.12 * worn * canvas.edge(-ring))
