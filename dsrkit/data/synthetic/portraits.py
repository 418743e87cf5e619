"""Made-up faces: a small seeded renderer of head portraits, so that everything can be tried without any data set.

Identity is shape and appearance, nuisance is pose, expression, light, backdrop and camera: the axes of CMU Multi-PIE (Gross et
al. 2010), whose file names are used too. A head is a radius map met by parallel camera rays (`shape`), painted from soft
masks (`paint`), then lit here: Lambert's diffuse light, Blinn's half-vector highlight (1977), ambient light scaled by a
fake occlusion, and a shadow marched towards the flash. Eyes lie near x = 39 and 73, y = 51, nose tip near y = 71, mouth near
y = 88: ArcFace's places, but with the chin kept inside the crop, so that the outer frame of pixels shows backdrop only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dsrkit.data.synthetic import traits
from dsrkit.data.synthetic.paint import Canvas, paint_head, skin_colour
from dsrkit.data.synthetic.shape import bell, cast_rays, head_maps, outside, ramp, rotation, sample, unit
from dsrkit.data.synthetic.traits import Traits

CROP = 112
SMALLEST = 16
CHUNK = 8


def render_faces(
    subjects: Sequence[int], images: Sequence[int], *, seed: int = 0, size: int = 112, neutral: bool = False
) -> UInt8[np.ndarray, "n size size 3"]:
    """Photos of made-up people: `images[i]` of person `subjects[i]`, RGB in 0..255.

    The same (seed, subject, image) gives the same picture whatever else is asked for with it; subject k of one seed is always
    the same person. `neutral` leaves out pose and expression and lights softly, for figures. Raises ValueError for
    numbers that are negative or too large, lists of different lengths, or a size below 16.
    """
    people, photos = _checked(subjects, images)
    if size < SMALLEST:
        raise ValueError(f"expected a size of at least {SMALLEST} pixels, got {size}; draw larger, then degrade")
    faces = np.empty((len(people), size, size, 3), np.uint8)

    @torch.inference_mode()
    def draw(start: int) -> None:
        part = slice(start, start + CHUNK)
        person = traits.draw_people(people[part], seed)
        mood = traits.draw_conditions(people[part], photos[part], seed, size)
        faces[part] = _photograph(person, traits.neutralise(mood) if neutral else mood, size)

    _side_by_side(draw, range(0, len(people), CHUNK))
    return faces


def _side_by_side(work: Callable[[int], None], starts: range) -> None:
    """Run the chunks on torch's number of threads, each chunk on a single one.

    Threads inside one operation gain little on tensors this small, and when another program holds a core their waiting for
    each other made rendering a hundred times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    finally:
        torch.set_num_threads(threads)


def face_names(subjects: Sequence[int], images: Sequence[int], *, seed: int = 0) -> list[str]:
    """CMU Multi-PIE file names of the same photos, telling the camera, flash and expression that were drawn.

    Recording 1-19 is neutral, 20-38 smile, 39-57 surprise, 58-76 squint, 77-95 talk; cameras are Multi-PIE's codes from -45
    to 45 degrees; the flash number is our own 5 x 4 grid of directions. Raises ValueError like `render_faces`.
    """
    people, photos = _checked(subjects, images)
    mood = traits.draw_conditions(people, photos, seed)
    yaw, expression = np.degrees(traits.to_numbers(mood.yaw)), traits.to_numbers(mood.expression)
    flashes = traits.light_bins(people, photos)
    rows = zip(people, photos, flashes, yaw, expression, strict=True)
    return [
        traits.multi_pie_name(int(who), int(which), int(flash), float(angle), int(face))
        for who, which, flash, angle, face in rows
    ]


def _checked(subjects: Sequence[int], images: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    people, photos = np.asarray(subjects, np.int64), np.asarray(images, np.int64)
    if people.ndim != 1 or people.shape != photos.shape or not len(people):
        raise ValueError(f"expected as many subjects as images, got shapes {people.shape} and {photos.shape}; pair them up")
    if people.min() < 0 or photos.min() < 0:
        raise ValueError(f"expected numbers from 0 up, got subject {people.min()}, image {photos.min()}; count from 0")
    if photos.max() >= traits.MOST_IMAGES:
        raise ValueError(f"expected image numbers below {traits.MOST_IMAGES}, got {photos.max()}; use more subjects")
    return people, photos


def _photograph(person: Traits, mood: Traits, size: int) -> UInt8[np.ndarray, "n size size 3"]:
    pixel = CROP / size
    line = (torch.arange(size, dtype=torch.float32) + 0.5) * pixel - CROP / 2
    frame_y, frame_x = line[None, :, None], line[None, None, :]
    turn = rotation(mood.yaw, mood.pitch, mood.roll)
    # crops are aligned on the face, not the skull: part of the face's sideways move is taken back
    x = (frame_x - mood.shift_x) / mood.zoom + 9.0 * torch.sin(mood.yaw) + 0 * frame_y
    y = (frame_y - mood.shift_y) / mood.zoom + 14.0 * torch.sin(mood.pitch) + 0 * frame_x
    radius, maps = head_maps(person, mood)
    head_x, head_y, head_z, longitude, nearest = cast_rays(radius, person, turn, x, y)
    names = ("openness", "hair", "neck", "strands", "grain")
    looked_up = sample(maps, longitude, head_y)
    layers = dict(zip(names, looked_up[:, 3:].unbind(1), strict=True))
    canvas = Canvas(
        longitude * person.head_width, head_y, longitude, torch.empty_like(looked_up[:, :3]), torch.empty_like(x), pixel
    )
    paint_head(canvas, person, mood, layers)
    shadow = _shadow(radius, person, mood, turn, head_x, head_y, head_z)
    normal = torch.einsum("nij,njhw->nihw", turn, unit(looked_up[:, :3]))
    light = _lit(canvas, normal, layers["openness"], shadow, person, mood)
    scene = _backdrop(mood, frame_x, frame_y)
    cover = _cover(looked_up, longitude, nearest, pixel)[:, None]
    scene = torch.lerp(scene, light, cover)
    collar = _collar(mood, layers["neck"], cover[:, 0], frame_x, frame_y)
    scene = torch.lerp(scene, _cloth(mood, frame_x, frame_y), collar[:, None])
    return _develop(scene, mood)


def _cover(normal: Tensor, longitude: Tensor, nearest: Tensor, pixel: float) -> Tensor:
    """Share of the pixel filled by the head. A slanted surface is nearer than it looks along the radius."""
    normal = unit(normal[:, :3])
    upright = (normal[:, 0] * torch.sin(longitude) + normal[:, 2] * torch.cos(longitude)).clamp(0.3, 1)
    return (1 - nearest * upright / pixel).clamp(0, 1)


def _flash(mood: Traits) -> Float[Tensor, "n 3"]:
    """Unit vector from the face to the light, in camera coordinates (y down)."""
    azimuth, elevation = mood.light_azimuth[:, 0, 0], mood.light_elevation[:, 0, 0]
    flat = elevation.cos()
    return torch.stack([azimuth.sin() * flat, -elevation.sin(), azimuth.cos() * flat], 1)


def _tint(warmth: Tensor) -> Float[Tensor, "n 3 1 1"]:
    """Colour of a light, warm above 0 and cold below, green kept."""
    return torch.cat([1 + warmth, torch.ones_like(warmth), 1 - warmth], 1)[..., None]


def _shadow(radius: Tensor, person: Traits, mood: Traits, turn: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Share of the flash that is blocked by nose, brow or hair: three looks along the way to it."""
    direction = torch.einsum("nij,ni->nj", turn, _flash(mood))[:, :, None, None]
    blocked = torch.zeros_like(x)
    for way in (3.0, 7.0, 13.0):
        gap, _ = outside(radius, person, x + way * direction[:, 0], y + way * direction[:, 1], z + way * direction[:, 2])
        blocked = torch.maximum(blocked, ((-gap - 0.25) / (0.8 + 0.12 * way)).clamp(0, 1))
    return blocked


def _lit(
    canvas: Canvas, normal: Tensor, openness: Tensor, shadow: Tensor, person: Traits, mood: Traits
) -> Float[Tensor, "n 3 h w"]:
    flash = _flash(mood)[:, :, None, None]
    facing = (normal * flash).sum(1, keepdim=True)
    # red light leaves skin further from where it entered, so the edge of the shade is reddish
    soft = torch.tensor([0.26, 0.13, 0.09])[:, None, None]
    diffuse = ((facing + soft) / (1 + soft)).clamp(min=0) * (1 - 0.85 * shadow[:, None])
    half = unit(_flash(mood) + torch.tensor([0.0, 0.0, 1.0]))[:, :, None, None]
    highlight = (normal * half).sum(1, keepdim=True).clamp(min=0) ** 16 * (1 - shadow[:, None]) * ramp(facing, 0.0, 0.3)
    key, ambient = mood.key[:, None], mood.ambient[:, None]
    from_above = (0.72 - 0.28 * normal[:, 1:2]) * openness[:, None]
    received = key * _tint(mood.warmth) * diffuse + ambient * _tint(mood.fill_warmth) * from_above
    # the photographer opens up for a dark skin or a weak lamp; done here, so that the backdrop's brightness tells neither
    meter = 0.8 * (skin_colour(person).mean(1)[:, None, None] / 0.4) ** -0.45 * (0.6 * mood.key + 0.7 * mood.ambient) ** -0.6
    lit = canvas.colour * received + 0.16 * key * _tint(mood.warmth) * (highlight * canvas.gloss[:, None]) * openness[:, None]
    return lit * meter[:, None]


def _palette(mood: Traits) -> Float[Tensor, "n 6 3 1 1"]:
    """Colours of backdrop and clothes, from nearly grey to strong."""
    colours = mood.palette**2
    return torch.lerp(colours.mean(2, keepdim=True), colours, mood.saturation)[..., None, None]


def _backdrop(mood: Traits, x: Tensor, y: Tensor) -> Float[Tensor, "n 3 h w"]:
    """Two colours running into each other, blobs of two more, and a coarse texture."""
    colours = _palette(mood)
    along = (x * mood.backdrop_angle.cos() + y * mood.backdrop_angle.sin()) / CROP + 0.5
    scene = torch.lerp(colours[:, 0], colours[:, 1], ramp(along, 0.1, 0.9)[:, None])
    for index, blob in enumerate(mood.blobs.unbind(1)):
        across, down, wide, strength = (blob[:, field, None, None] for field in range(4))
        reach = 6.0 + 24.0 * wide
        spot = bell(x - CROP * (across - 0.5), reach) * bell(y - CROP * (down - 0.5), reach)
        scene = torch.lerp(scene, colours[:, 2 + index % 2], (0.9 * strength * spot)[:, None])
    grain = F.interpolate(mood.backdrop, scene.shape[-2:], mode="bicubic", align_corners=True)
    return scene * torch.exp(mood.backdrop_grain[:, None] * grain)


def _cloth(mood: Traits, x: Tensor, y: Tensor) -> Float[Tensor, "n 3 h w"]:
    shade = 0.55 + 0.45 * bell(x - 30 * torch.sin(mood.light_azimuth), 40.0) + 0 * y
    return _palette(mood)[:, 4] * shade[:, None]


def _collar(mood: Traits, neck: Tensor, cover: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Coverage of clothes: over the neck, behind the chin."""
    body = ramp(y - mood.collar_y - mood.collar_slope * (x.abs() - 14).clamp(min=0) ** 1.6, -0.8, 0.8)
    return body * (1 - cover * (1 - ramp(neck, 0.3, 0.8)))


def _develop(scene: Tensor, mood: Traits) -> UInt8[np.ndarray, "n size size 3"]:
    """The camera: exposure, white balance, tone curve, blur, sensor noise."""
    balance = torch.cat([1 + mood.white_red, torch.ones_like(mood.white_red), 1 + mood.white_blue], 1)[..., None]
    scene = scene * torch.exp(mood.exposure)[:, None] * balance
    scene = scene / (1 + 0.25 * scene)
    picture = scene.clamp(min=1e-5) ** (mood.gamma[:, None] / 2.2)
    blurred = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    picture = torch.lerp(picture, blurred, mood.blur[:, None]) + mood.noise[:, None] * mood.sensor
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
