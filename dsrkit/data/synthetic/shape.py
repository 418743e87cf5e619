"""The shape of a made-up head and where each camera ray meets it.

A head is a radius over (longitude, height): x = radius * width * sin(longitude), y = height, z = radius * depth *
cos(longitude). The radius is kept as a small map per image; camera rays are marched against that map (sphere tracing, Hart
1996), so one lookup per step replaces the evaluation of every bump. Nose, lips, brows and the rest are bumps on a
superellipse whose width follows skull, cheek, jaw and chin; the neck is what is left below the jaw line.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dsrkit.data.synthetic.traits import Traits

LONGITUDE = 2.7
TOP, BOTTOM = -58.0, 62.0
ROWS, COLUMNS = 120, 168
STEPS = 20


def ramp(position: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 below low, 1 above high, smooth between (the classic smoothstep)."""
    share = ((position - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def bell(position: Tensor, width: float | Tensor) -> Tensor:
    return torch.exp(-0.5 * (position / width) ** 2)


def unit(vectors: Float[Tensor, "n 3 ..."]) -> Float[Tensor, "n 3 ..."]:
    x, y, z = vectors.unbind(1)
    return vectors * torch.rsqrt(x * x + y * y + z * z + 1e-12)[:, None]


def map_axes() -> tuple[Float[Tensor, "1 1 columns"], Float[Tensor, "1 rows 1"]]:
    """Longitude and height of the cells of every map."""
    return torch.linspace(-LONGITUDE, LONGITUDE, COLUMNS)[None, None], torch.linspace(TOP, BOTTOM, ROWS)[None, :, None]


def sample(maps: Float[Tensor, "n c rows columns"], longitude: Tensor, height: Tensor) -> Float[Tensor, "n c h w"]:
    """Bilinear lookup of maps at longitudes and heights of shape [n, h, w]."""
    across, down = longitude / LONGITUDE, (height - TOP) * (2 / (BOTTOM - TOP)) - 1
    return F.grid_sample(maps, torch.stack([across, down], -1), align_corners=True, padding_mode="border")


def _cross_section(person: Traits, longitude: Tensor, height: Tensor, swell: Tensor | float, hang: Tensor | float) -> Tensor:
    """Radius of the bare skull or, with `swell` pixels more, of the hair over it.

    `hang` 1 is long hair, which follows the jaw inwards only a little; 0 follows the skull.
    """
    above = ((person.head_top + 37.0 - height) / (37.0 + swell)).clamp(min=0)
    # below zero above the crown, so that no ray meets the axis there
    dome = (1 - above**2.15).clamp(min=1e-6) ** (1 / 2.15) - 2 * (above - 1).clamp(min=0)
    below = (1 - 0.65 * hang) * height
    width = person.cheek_width - (person.cheek_width - person.jaw_width) * ramp(below, 4.0, 27.0)
    width = width - (person.jaw_width - person.chin_width) * ramp(below, 22.0, person.chin_y + 5) ** 1.3
    depth = 0.97 - person.forehead_slope * ramp(-height, 8.0, 36.0)
    width, depth = width + swell / person.head_width, depth + swell / person.head_depth
    side, front = torch.sin(longitude).abs() / width, torch.cos(longitude).abs() / depth
    back = 1 - 0.12 * ramp(longitude.abs(), 1.5, 2.6)
    return dome * back * (side**person.roundness + front**person.roundness) ** (-1 / person.roundness)


def _bumps(person: Traits, mood: Traits) -> list[tuple]:
    """(size, distance from the midline, its width, height, its width) of every rounded rise or hollow of the face."""
    mouth, drop = person.mouth_y, 4.0 * mood.opening.clamp(min=0)
    lift = 2.5 * mood.smile.clamp(min=0)
    lips_width = 0.55 * person.mouth_width
    return [
        (-person.socket_depth, person.eye_x - 1, 7.5, person.eye_y - 0.5, 4.6),
        (2.2 + 0 * drop, person.eye_x, 4.6, person.eye_y, 3.2),
        (person.brow_ridge, person.brow_x - 2, 8.5, person.brow_y + 1.5 - 1.5 * mood.brow_raise, 3.0),
        (person.cheekbone + 0.5 * lift, person.eye_x + 4.5, 7.5, person.cheekbone_y - 0.6 * lift, 6.0),
        (-person.cheek_hollow, person.eye_x + 6, 6.0, 23.0, 7.0),
        (person.muzzle, 0.0, 12.0, mouth - 1, 9.0),
        (-person.philtrum, 0.0, 1.5, mouth - 8.0, 3.0),
        (0.55 * person.lip_upper, 0.0, lips_width, mouth - 0.45 * person.lip_upper, 1.5),
        (0.4 * person.lip_lower, 0.0, lips_width, mouth + 0.5 * person.lip_lower + drop, 1.9),
        (-1.3 - drop, 0.0, lips_width, mouth + 0.4 * drop, 1.1 + 0.4 * drop),
        (-1.0 + 0 * drop, person.mouth_width + 1.5, 2.0, mouth, 2.2),
        (-1.4 + 0 * drop, 0.0, 7.0, mouth + person.lip_lower + 4.0 + drop, 2.2),
        (person.chin_out, 0.0, 7.0, person.chin_y - 6.0 + 0.6 * drop, 4.5),
        (-person.chin_cleft, 0.0, 1.5, person.chin_y - 6.0 + 0.6 * drop, 3.0),
        (person.wing_size, person.wing_x, 2.5, person.nose_tip_y + 0.8, 2.6),
    ]


def _relief(person: Traits, mood: Traits, across: Tensor, height: Tensor) -> Tensor:
    """Sum of the bumps, in pixels. Each is a product of a row and a column profile, so all are one matrix product."""
    bumps = _bumps(person, mood)
    columns = torch.cat([bell(across.abs() - bump[1], bump[2]) for bump in bumps], dim=1)
    rows = torch.cat([bump[0] * bell(height - bump[3], bump[4]) for bump in bumps], dim=2)
    return rows @ columns


def _nose(person: Traits, across: Tensor, height: Tensor) -> Tensor:
    """A ridge that rises and widens from the bridge to the tip, then ends within a few pixels."""
    along = ((height - person.eye_y) / (person.nose_tip_y - person.eye_y)).clamp(-1, 1.3)
    rise = person.nose_bridge + (person.nose_length_out - person.nose_bridge) * along.clamp(min=0) ** 1.3
    rise = rise + person.nose_hump * bell(along - 0.45, 0.2)
    rise = rise * ramp(along, -0.75, 0.1)
    underside = person.nose_tip_y + 1.5 + person.nose_tip_drop
    rise = rise * (1 - ramp(height, underside, underside + 5.5))
    width = person.nose_width + (person.nose_tip_width - person.nose_width) * ramp(along, 0.45, 0.95)
    bend = person.asymmetry_nose * along
    return rise * torch.exp(-0.5 * ((across - bend) / width).abs() ** 2.2)


def _hair_depth(person: Traits, longitude: Tensor, height: Tensor, fray: Tensor) -> Tensor:
    """Distance from the edge of the hair in pixels, positive inside; fringe, temples, sideburns, nape or long hair."""
    turn = longitude.abs()
    side = person.hair_side + person.sideburn * ramp(person.hair_side, -20.0, 0.0)
    line = person.hair_front + (side - person.hair_front) * ramp(turn, 0.78, 1.4)
    line = line + (person.hair_back - side) * ramp(turn, 1.45, 1.8)
    line = line - person.hairline_recede.clamp(min=0) * bell(turn - 0.55, 0.2) + person.hairline_peak * bell(turn, 0.15)
    line = line + person.hair_parting * (longitude / 0.6).clamp(-1, 1) * (1 - ramp(turn, 0.5, 0.9))
    (slope,) = torch.gradient(line, spacing=2 * LONGITUDE / (COLUMNS - 1), dim=2)
    steepness = torch.sqrt(1 + (slope / person.head_width) ** 2)
    return ((line - height) / steepness + fray).clamp(-6, 9)


def _skin_radius(person: Traits, mood: Traits, longitude: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Radius of the head without hair, and the share of neck: 1 well below the jaw line."""
    across, turn = longitude * person.head_width, longitude.abs()
    relief = _relief(person, mood, across, height) + _nose(person, across, height)
    radius = _cross_section(person, longitude, height, 0.0, 0.0) + (1 - ramp(turn, 1.0, 1.5)) * relief / person.head_depth
    lobe = (height - person.ear_y) / person.ear_size
    ear = person.ear_out * bell(turn - 1.62 + 0.05 * lobe, 0.11) * torch.exp(-((lobe + 0.25) ** 4))
    radius = radius + ear / person.head_width
    jaw = person.chin_y + 2.4 * mood.opening.clamp(min=0) - person.jaw_rise * ramp(turn, 0.15, 1.6) ** 0.8
    neck = ramp(height - jaw + 14.0 * ramp(turn, 1.6, 2.3), -1.5, 3.5)
    return radius + neck * (_neck_radius(longitude) - radius).clamp(max=0), neck


def _neck_radius(longitude: Tensor) -> Tensor:
    return 0.45 + 0.17 * torch.sin(longitude) ** 2 + 0.1 * ramp(longitude.abs(), 1.2, 2.4)


def head_maps(person: Traits, mood: Traits) -> tuple[Float[Tensor, "n 1 rows columns"], Float[Tensor, "n 8 rows columns"]]:
    """The radius map, and eight maps to be looked up once per pixel.

    The eight are: outward normal (x, y, z, not of unit length), openness to ambient light, depth into the hair (pixels), neck
    share, strands, skin grain. The last two are zero-mean textures that belong to the person.
    """
    longitude, height = map_axes()
    radius, neck = _skin_radius(person, mood, longitude, height)
    strands = F.interpolate(person.strands[:, None], (ROWS, COLUMNS), mode="bicubic", align_corners=True)
    grain = F.interpolate(person.grain[:, None], (ROWS, COLUMNS), mode="bilinear", align_corners=True)
    volume = (person.hair_volume + mood.hair_jitter).clamp(min=1.0) + person.hair_curl * strands[:, 0]
    hang = ramp(person.hair_side, 5.0, 30.0)
    hair = _hair_depth(person, longitude, height, 0.5 * strands[:, 0])
    shell = _cross_section(person, longitude, height, volume, hang)
    shell = shell + (1 - hang) * neck * (_neck_radius(longitude) - shell).clamp(max=0)
    radius = radius + ramp(hair, -1.0, 4.5) * (shell - radius).clamp(min=0)
    openness = _openness(radius, person)
    normal = _normals(radius, longitude, person)
    maps = torch.cat([normal, torch.stack([openness, hair, neck * (1 - ramp(hair, -1.0, 1.0))], 1), strands, grain], 1)
    return radius[:, None], maps


def _openness(radius: Tensor, person: Traits) -> Tensor:
    """How much ambient light reaches each cell: less where the surroundings stand higher (fake ambient occlusion)."""
    around = F.avg_pool2d(radius[:, None], 9, stride=1, padding=4, count_include_pad=False)[:, 0]
    return (1 - 0.16 * person.head_depth * (around - radius)).clamp(0.35, 1.12)


def _normals(radius: Tensor, longitude: Tensor, person: Traits) -> Float[Tensor, "n 3 rows columns"]:
    """Cross product of the surface's derivatives along longitude and height."""
    step_across, step_down = 2 * LONGITUDE / (COLUMNS - 1), (BOTTOM - TOP) / (ROWS - 1)
    along_height, along_longitude = torch.gradient(radius, spacing=(step_down, step_across), dim=(1, 2))
    sine, cosine = torch.sin(longitude), torch.cos(longitude)
    right_x = person.head_width * (along_longitude * sine + radius * cosine)
    right_z = person.head_depth * (along_longitude * cosine - radius * sine)
    down_x, down_z = person.head_width * along_height * sine, person.head_depth * along_height * cosine
    return torch.stack([-right_z, right_z * down_x - right_x * down_z, right_x], 1)


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Float[Tensor, "n 3 3"]:
    """Head to camera; positive yaw turns the face to the image's right, positive pitch down."""
    yaw, pitch, roll = yaw.flatten(), pitch.flatten(), roll.flatten()
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, -1).view(-1, 3, 3)

    turn = matrix(yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos())
    nod = matrix(one, zero, zero, zero, pitch.cos(), pitch.sin(), zero, -pitch.sin(), pitch.cos())
    tilt = matrix(roll.cos(), -roll.sin(), zero, roll.sin(), roll.cos(), zero, zero, zero, one)
    return tilt @ nod @ turn


def outside(radius_map: Tensor, person: Traits, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Distance above the surface along the radius (negative inside), in pixels, and the longitude."""
    across, forward = x / person.head_width, z / person.head_depth
    longitude = torch.atan2(across, forward)
    distance = torch.sqrt(across * across + forward * forward) - sample(radius_map, longitude, y)[:, 0]
    return distance * person.head_width, longitude


def cast_rays(radius_map: Tensor, person: Traits, turn: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Where parallel rays through the image points (x, y), each [n, h, w], meet the head.

    Returns the hit points in head coordinates (x, y, z), their longitude, and the closest approach along the radius in pixels
    (at most 0 for a hit), each [n, h, w]. Steps are cut to 0.65 of the radial distance, since that overstates the distance
    beside the nose, but are at least 2.5 px, lest a ray that grazes the cheek never arrives at the hair behind it. Once a ray
    is inside, the place where it entered is found by halving.
    """
    into_head = turn.transpose(1, 2)[:, :, :, None, None]
    base = into_head[:, :, 0] * x[:, None] + into_head[:, :, 1] * y[:, None]
    forward = into_head[:, :, 2]
    depth = torch.full_like(x, 58.0)
    outer, inner, best = depth, torch.full_like(x, -1e3), depth
    nearest = torch.full_like(x, 1e3)
    for _ in range(STEPS):
        point = base + forward * depth[:, None]
        gap, _ = outside(radius_map, person, point[:, 0], point[:, 1], point[:, 2])
        best = torch.where(gap < nearest, depth, best)
        nearest = torch.minimum(nearest, gap)
        inner, outer = torch.where(gap < 0, depth, inner), torch.where(gap < 0, outer, depth)
        depth = torch.where(inner > -1e3, (inner + outer) / 2, depth - (0.65 * gap).clamp(min=2.5))
    point = base + forward * torch.where(nearest > 0, best, outer)[:, None]
    _, longitude = outside(radius_map, person, point[:, 0], point[:, 1], point[:, 2])
    return point[:, 0], point[:, 1], point[:, 2], longitude, nearest
