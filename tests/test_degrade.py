"""Degradations: each against a slow, obvious one; and the realistic one the same wherever, and with whatever, it is made."""

import hashlib
import io
import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image

from dsrkit.data import realistic
from dsrkit.data.augment import DRAWS
from dsrkit.data.degrade import DEGRADATIONS, as_bytes, as_tensor, degradation_settings, degrade, file_draws, parse_size
from dsrkit.data.nobody import NOBODY_DRAWS
from dsrkit.data.realistic import DEGRADE_DRAWS, Realistic, blur, through_jpeg
from dsrkit.data.sources import SyntheticSource
from dsrkit.training import open_setting
from dsrkit.training.dsr import PairedFaces
from dsrkit.training.sampling import Sampler

LAST = 1 - 2**-24  # the largest number below 1 in single precision
PILLOW = {"area": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@pytest.fixture(scope="module")
def faces():
    source = SyntheticSource(3, 4)
    return np.stack(source.read(source.faces))


@pytest.fixture(scope="module")
def names():
    return [f"{subject:03d}_01_01_051_{image:02d}_crop_128.png" for subject in range(1, 4) for image in range(4)]


def drawn(count, seed=0):
    return torch.rand(count, DEGRADE_DRAWS, generator=torch.Generator().manual_seed(seed))


def by_pillow(face, size, filter_):
    """[h, w, 3] in [0, 1], each channel resized by Pillow in floating point."""
    channels = [Image.fromarray(face[..., channel].astype(np.float32)).resize(size, PILLOW[filter_]) for channel in range(3)]
    return np.clip(np.stack([np.asarray(channel, float) for channel in channels], axis=-1), 0, 1)


# --- the deterministic kinds


@pytest.mark.parametrize(("degradation", "filter_"), [("bicubic-antialias", "bicubic"), ("area", "area")])
@pytest.mark.parametrize("size", ["14x16", "16x16", "28"])
def test_antialiased_kinds_are_pillow_s(faces, degradation, filter_, size):
    ours = as_bytes(degrade(as_tensor(faces), size, degradation))
    theirs = np.stack([by_pillow(face / 255, parse_size(size), filter_) for face in faces]) * 255
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 0.51


def keys(distance):
    """Keys' cubic with a = −0.75, as OpenCV's: what four neighbours count for."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_aliased_bicubic_looks_at_four_neighbours_each_way(faces):
    face = faces[0] / 255
    expected = np.zeros((16, 14, 3))
    for row, column in itertools.product(range(16), range(14)):
        y, x = (row + 0.5) * 112 / 16 - 0.5, (column + 0.5) * 112 / 14 - 0.5
        for down, across in itertools.product(range(-1, 3), repeat=2):
            at_y, at_x = math.floor(y) + down, math.floor(x) + across
            weight = keys(y - at_y) * keys(x - at_x)
            expected[row, column] += weight * face[min(max(at_y, 0), 111), min(max(at_x, 0), 111)]
    aliased, filtered = (degrade(as_tensor(faces[:1]), "14x16", kind) for kind in ("bicubic-aliased", "bicubic-antialias"))
    assert np.abs(as_bytes(aliased)[0] - np.clip(expected, 0, 1) * 255).max() <= 0.6
    assert (aliased - filtered).abs().max() > 0.05


def test_deterministic_kinds_do_not_look_at_numbers(faces):
    hr = as_tensor(faces[:2])
    for degradation in set(DEGRADATIONS) - {"realistic"}:
        assert torch.equal(degrade(hr, "16", degradation), degrade(hr, "16", degradation, drawn(2)))


# --- the realistic chain, stage by stage and whole


def slow_blur(image, long, wide, angle, scales):
    """Each pixel's weighted mean over its neighbours, in space; lengths in pixels of the small image."""
    height, width = image.shape[:2]
    reach = [math.ceil(4 * max(long, wide) * scale) for scale in scales]
    padded = np.pad(image, ((reach[0], reach[0]), (reach[1], reach[1]), (0, 0)), mode="reflect")
    total, weights = np.zeros_like(image), 0.0
    for down, across in itertools.product(range(-reach[0], reach[0] + 1), range(-reach[1], reach[1] + 1)):
        y, x = down / scales[0], across / scales[1]
        along, beside = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
        weight = math.exp(-((along / long) ** 2 + (beside / wide) ** 2) / 2)
        total += weight * padded[reach[0] + down :, reach[1] + across :][:height, :width]
        weights += weight
    return total / weights


@pytest.mark.parametrize("size", [(16, 16), (14, 16)])
def test_blur_is_a_weighted_mean(faces, size):
    hr = as_tensor(faces[:3]).double()
    deviations, angles = torch.tensor([[0.6, 0.3], [1.0, 1.0], [0.3, 0.9]]), torch.tensor([0.5, 0.0, 2.4])
    ours = blur(hr, deviations.double(), angles.double(), size, 1.0).permute(0, 2, 3, 1).numpy()
    for face, found, (long, wide), angle in zip(faces, ours, deviations.tolist(), angles.tolist(), strict=False):
        assert np.abs(found - slow_blur(face / 255, long, wide, angle, (112 / size[1], 112 / size[0]))).max() < 2e-4


def slow_jpeg(pixels, quality, top, left):
    """The face in a frame with blocks to spare on every side, its border repeated by taking the nearest pixel."""
    height, width = pixels.shape[:2]
    frame = np.empty((64, 64, 3), np.uint8)
    for y, x in itertools.product(range(64), repeat=2):
        frame[y, x] = pixels[min(max(y - 16 - top, 0), height - 1), min(max(x - 16 - left, 0), width - 1)]
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))[16 + top :, 16 + left :][:height, :width]


@pytest.mark.parametrize(("quality", "top", "left"), [(60, 0, 0), (75, 5, 11), (90, 15, 15)])
def test_jpeg_is_that_of_a_face_within_a_larger_frame(faces, quality, top, left):
    vlr = as_bytes(degrade(as_tensor(faces[:1]), "14x16"))[0]
    found, expected = through_jpeg(vlr, quality, top, left), slow_jpeg(vlr, quality, top, left)
    assert found.shape == vlr.shape and np.abs(found.astype(int) - expected)[1:-1, 1:-1].max() == 0
    assert np.abs(found.astype(int) - expected).max() <= 12  # where colour is interpolated across the frame's end
    other = through_jpeg(vlr, quality, (top + 4) % 16, left)
    assert np.abs(found.astype(int) - other).max() > 2  # the place in the grid matters


def slow(face, size, row, setting):
    """The whole chain for one face, in NumPy, Pillow and loops; ``row`` as a list of numbers."""

    def between(ends, draw):
        return ends[0] + draw * (ends[1] - ends[0])

    one, other, angle, alike, which, shot, level, grey, quality, top, left = row
    long, wide = between(setting.blur, one), between(setting.blur, one if alike < setting.round_blur else other)
    image = slow_blur(face / 255, long, wide, math.pi * angle, (112 / size[1], 112 / size[0]))
    image = by_pillow(image, size, setting.resizes[int(which * len(setting.resizes))])
    bits = iter(np.random.PCG64([int(number * 2**24) for number in row]).random_raw(image.size))
    noise = np.empty_like(image)
    for channel, y, x in itertools.product(range(3), *map(range, image.shape[:2])):
        noise[y, x, channel] = NormalDist().inv_cdf(((int(next(bits)) >> 11) + 0.5) / 2**53)
    noise, light = (noise[..., :1], image.mean(-1, keepdims=True)) if grey < setting.grey_noise else (noise, image)
    strength = between(setting.noise, level) / 255 * (np.sqrt(light) if shot < setting.shot_noise else 1)
    pixels = np.rint(np.clip(image + strength * noise, 0, 1) * 255).astype(np.uint8)
    lowest, highest = setting.jpeg_quality
    return through_jpeg(pixels, int(between((lowest, highest + 1), quality)), int(16 * top), int(16 * left))


@pytest.mark.parametrize("size", [(16, 16), (14, 16)])
def test_the_chain_is_that_of_loops(faces, size):
    setting, faces, uniform = Realistic(blur=(0.25, 0.5)), faces[:6], drawn(6)
    ours = as_bytes(setting(as_tensor(faces), size, uniform)).astype(int)

    def apart(**changes):
        """Levels, on average, from the slow chain under other settings."""
        other = replace(setting, **changes)
        return np.abs(ours - [slow(face, size, row, other) for face, row in zip(faces, uniform.tolist(), strict=True)]).mean()

    assert apart() < 0.05  # a last digit before rounding may tip a coefficient of JPEG
    for changes in ({"blur": (0.25, 0.4)}, {"noise": (0, 8)}, {"jpeg_quality": (50, 100)}, {"resizes": ("area",)}):
        assert apart(**changes) > 0.5


# --- the same numbers, the same face


def test_a_face_depends_on_its_own_numbers_alone(faces, names):
    """Not on its batch, its place there, the threads, or who works beside it."""
    hr, uniform = as_tensor(faces), file_draws(names, 0)
    whole = degrade(hr, "14x16", "realistic", uniform)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(degrade(hr[order], "14x16", "realistic", uniform[order]), whole[order])
    for size in (1, 5, 8):
        parts = zip(hr.split(size), uniform.split(size), strict=True)
        assert torch.equal(torch.cat([degrade(part, "14x16", "realistic", rows) for part, rows in parts]), whole)
    with ThreadPoolExecutor(4) as pool:
        alone = pool.map(lambda row: degrade(hr[[row]], "14x16", "realistic", uniform[[row]]), range(12))
        assert torch.equal(torch.cat(list(alone)), whole)
    assert torch.equal(degrade(hr.contiguous(), "14x16", "realistic", uniform.double()), whole)


def test_the_same_on_any_machine(names):
    """A hash taken once. If it changes, data sets made before are no longer those that are made now."""
    pattern = np.arange(3 * 112 * 112 * 3, dtype=np.int64) ** 2 // 1000 % 256
    hr = as_tensor(pattern.astype(np.uint8).reshape(3, 112, 112, 3))
    vlr = as_bytes(degrade(hr, "16x16", "realistic", file_draws(names[:3], 0)))
    assert hashlib.sha256(vlr.tobytes()).hexdigest()[:16] == "077cf5eb3c9cffeb"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_makes_the_same_faces(faces, names):
    hr, uniform = as_tensor(faces), file_draws(names, 0)
    found = degrade(hr.cuda(), "16", "realistic", uniform)
    assert found.is_cuda and torch.equal(found.cpu(), degrade(hr, "16", "realistic", uniform))


def test_other_seeds_and_other_names_give_other_faces(faces, names):
    hr = as_tensor(faces[[0] * 12])
    vlr = torch.cat([degrade(hr, "16", "realistic", file_draws(names, seed)) for seed in (0, 1)])
    assert len({tuple(face.flatten().tolist()) for face in vlr}) == 24


def test_draws_of_files_are_sha_256(names):
    digest = hashlib.sha256(f"7 {names[0]}".encode()).digest()
    expected = [int.from_bytes(digest[2 * place : 2 * place + 2]) / 2**16 for place in range(DEGRADE_DRAWS)]
    assert file_draws(names, 7)[0].tolist() == expected and file_draws(names, 7).shape == (12, DEGRADE_DRAWS)
    many = file_draws([f"{number}.png" for number in range(2000)], 0)
    assert many.dtype == torch.float32 and many.min() >= 0 and many.max() < 1
    assert (many.mean(0) - 0.5).abs().max() < 0.03 and (many.std(0) - 12**-0.5).abs().max() < 0.02
    assert file_draws([], 0).shape == (0, DEGRADE_DRAWS)


def test_how_a_name_s_accents_are_encoded_does_not_count():
    composed, taken_apart = "Jos\u00e9_0001.png", "Jose\u0301_0001.png"
    assert torch.equal(file_draws([composed], 0), file_draws([taken_apart], 0))


# --- within the ranges


def test_ends_of_the_ranges_stay_images(faces):
    rows = torch.full((2 + 2 * DEGRADE_DRAWS, DEGRADE_DRAWS), 0.5)
    rows[0], rows[1] = 0, LAST
    for column in range(DEGRADE_DRAWS):
        rows[2 + 2 * column, column], rows[3 + 2 * column, column] = 0, LAST
    hr = torch.stack([torch.zeros(3, 56, 56), torch.ones(3, 56, 56), as_tensor(faces)[0, :, 28:84, 28:84]] * 8)
    widest = Realistic(blur=(0, 4), noise=(0, 255), jpeg_quality=(1, 100))
    plan = [*((Realistic(), size) for size in ((16, 16), (14, 16), (4, 4), (56, 56))), (widest, (16, 16))]
    for (setting, size), turn in itertools.product(plan, range(3)):
        vlr = setting(hr.roll(turn, 0), size, rows)
        assert vlr.shape == (24, 3, size[1], size[0]) and vlr.dtype == torch.float32
        assert bool(torch.isfinite(vlr).all()) and vlr.min() >= 0 and vlr.max() <= 1
        assert torch.equal(as_tensor(as_bytes(vlr)), vlr)


def test_what_is_drawn_fills_the_ranges(monkeypatch):
    """Every range from end to end, every share as asked for; the corners of JPEG's grid too."""
    blurs, files = [], []
    monkeypatch.setattr(realistic, "blur", lambda images, *rest: blurs.append(rest) or images)
    monkeypatch.setattr(realistic, "through_jpeg", lambda face, *rest: files.append(rest) or face)
    Realistic(round_blur=0.25)(torch.rand(3000, 3, 8, 8), (4, 4), drawn(3000))
    deviations, angles = torch.cat([one[0] for one in blurs]), torch.cat([one[1] for one in blurs])
    assert 0.1 <= deviations.min() < 0.102 and 0.998 < deviations.max() < 1
    assert 0 <= angles.min() < 0.01 and math.pi - 0.01 < angles.max() < math.pi
    assert float((deviations[:, 0] == deviations[:, 1]).float().mean()) == pytest.approx(0.25, abs=0.03)
    qualities, down, across = zip(*files, strict=True)
    assert set(qualities) == set(range(60, 101)) and set(down) == set(across) == set(range(16))


@pytest.mark.parametrize("light", [0.25, 0.5])
@pytest.mark.parametrize("shot", [0.0, 1.0])
def test_noise_has_the_strength_that_was_drawn(light, shot):
    """Gaussian noise is the same everywhere, shot noise the root of the light as strong; grey noise leaves grey grey."""
    hr, level = torch.full((40, 3, 56, 56), light), 8.0
    setting = Realistic(noise=(level, level), shot_noise=shot, grey_noise=1.0, jpeg_quality=(100, 100))
    levels = setting(hr, (32, 32), drawn(40)) * 255
    assert float(levels.std()) == pytest.approx(level * (light**0.5 if shot else 1), rel=0.03)
    assert float(levels.mean()) == pytest.approx(light * 255, abs=0.3)
    assert float((levels[:, 0] - levels[:, 2]).abs().mean()) < 1
    colour = replace(setting, grey_noise=0.0)(hr, (32, 32), drawn(40)) * 255
    assert float((colour[:, 0] - colour[:, 2]).abs().mean()) > 1.3


def test_stronger_settings_lose_more_of_a_face(faces):
    hr, plain = as_tensor(faces), degrade(as_tensor(faces), "16")
    gentle = {"blur": (0.1, 0.1), "noise": (0.0, 0.0), "jpeg_quality": (100, 100)}

    def lost(**changes):
        return float((Realistic(**(gentle | changes))(hr, (16, 16), drawn(12)) - plain).square().mean().sqrt() * 255)

    assert lost() < 6
    for stronger in ({"blur": (0.8, 0.8)}, {"noise": (10.0, 10.0)}, {"jpeg_quality": (40, 40)}):
        assert lost(**stronger) > lost() + 2


# --- records and errors


def test_settings_go_through_json_and_tell_kinds_apart():
    every = [degradation_settings(name) for name in DEGRADATIONS]
    assert json.loads(json.dumps(every)) == every and [settings["name"] for settings in every] == list(DEGRADATIONS)
    assert degradation_settings("bicubic-antialias")["antialias"] and not degradation_settings("bicubic-aliased")["antialias"]
    settings = degradation_settings("realistic")
    assert set(settings) == {"name", *asdict(Realistic())} and settings["jpeg_quality"] == [60, 100]
    with pytest.raises(ValueError, match=r"expected one of bicubic-antialias, .*got 'bicubic'"):
        degradation_settings("bicubic")


@pytest.mark.parametrize(
    ("uniform", "message"),
    [
        (None, r"shape \[2, 11\], one row an image, got none\. .*file_draws"),
        (torch.rand(2, 5), r"got shape \[2, 5\]"), (torch.rand(3, 11), r"got shape \[3, 11\]"),
        (torch.rand(11), r"got shape \[11\]"),
        (torch.ones(2, 11), "numbers outside"), (-torch.ones(2, 11), "numbers outside"),
        (torch.full((2, 11), torch.nan), "numbers outside"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_serve_are_refused(uniform, message):
    with pytest.raises(ValueError, match=message):
        degrade(torch.rand(2, 3, 112, 112), "16", "realistic", uniform)


@pytest.mark.parametrize(("degradation", "size"), [("Realistic", "16"), ("realistic", "3"), ("realistic", "16*16")])
def test_names_and_sizes_that_are_not_known_are_refused(degradation, size):
    with pytest.raises(ValueError, match=r"expected .*got"):
        degrade(torch.rand(2, 3, 112, 112), size, degradation, drawn(2))


@pytest.mark.parametrize(
    "change",
    [
        {"blur": (1.0, 0.1)}, {"blur": (-0.1, 1.0)}, {"blur": (0.1, 9.0)}, {"noise": (5, -1)}, {"jpeg_quality": (0, 90)},
        {"jpeg_quality": (60, 101)}, {"round_blur": 1.5}, {"shot_noise": -0.1}, {"grey_noise": 2}, {"resizes": ()},
        {"resizes": ("area", "nearest")},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, got "):
        Realistic(**change)


# --- in training


def test_steps_take_the_numbers_they_took_before_and_further_ones_for_degradation():
    for epoch, step in ((1, 0), (3, 2)):
        draw = next(Sampler(40, 8, 0, 5).draws(epoch, first=step))
        generator = np.random.default_rng((5, epoch, step))
        assert np.array_equal(draw.uniform[:, :DRAWS], generator.random((8, DRAWS), dtype=np.float32))
        assert draw.of_step == generator.random() and draw.uniform.shape == (8, DRAWS + DEGRADE_DRAWS + NOBODY_DRAWS)
        assert np.array_equal(draw.uniform[:, DRAWS:-NOBODY_DRAWS], generator.random((8, DEGRADE_DRAWS), dtype=np.float32))
        assert len(np.unique(draw.uniform)) > 8 * (DRAWS + DEGRADE_DRAWS + NOBODY_DRAWS) - 3


def test_training_degrades_by_the_step_s_own_numbers(root, stage_params, realistic_dataset):
    setting = open_setting(stage_params("02_dsr_training", dataset=str(realistic_dataset), rotation_probability=1.0))
    faces = PairedFaces(setting, torch.from_numpy(setting.hr_embeddings), None, ("14x16",))
    draw = next(setting.sampler(8).draws(1))
    batch = faces(draw)
    own = slice(DRAWS, -NOBODY_DRAWS)
    assert torch.equal(batch.vlr, degrade(batch.hr, "14x16", "realistic", draw.uniform[:, own]))
    shares = [faces(draw.share(number, 3)).vlr for number in range(3)]
    assert all(torch.equal(share, batch.vlr[number::3]) for number, share in enumerate(shares))
    again, later = (next(setting.sampler(8).draws(epoch)) for epoch in (1, 2))
    assert torch.equal(faces(again).vlr, batch.vlr) and not torch.equal(later.uniform[:, own], draw.uniform[:, own])


def test_validation_degrades_as_the_data_set_was(root, stage_params, realistic_dataset):
    """Stage 01 wrote 14x16 with the data set's seed; validation at 16x16 makes the very same pixels from HR."""
    one, other = (
        open_setting(stage_params("02_dsr_training", dataset=str(realistic_dataset), vlr_size=size, seed=1))
        for size in ("16x16", "14x16")
    )
    assert np.array_equal(one.validation._vlr("14x16"), other.validation.faces.vlr)
    plain = as_bytes(degrade(as_tensor(other.validation.faces.hr), "14x16"))
    assert np.abs(other.validation.faces.vlr.astype(int) - plain).max() > 20
