"""Augmentation: what it must keep, what it must change, and that a generator decides all of it."""

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from dsrkit.data.augment import DRAWS, LOOK_DRAWS, Augmentation, jitter, look_again, move, turn_hue

STRONG = Augmentation(0.5, 0.5, 20.0, 0.1, 0.1, 0.5, 0.3, 0.3, 0.2)


def images(count=8, size=16, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0, count=8):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def rotate(faces, degrees):
    zero = torch.zeros(len(degrees))
    return move(faces, degrees, zero + 1, zero, zero)


def test_the_numbers_given_decide_everything():
    faces = images()
    assert torch.equal(STRONG(faces, seeded(1)), STRONG(faces, seeded(1)))
    assert not torch.equal(STRONG(faces, seeded(1)), STRONG(faces, seeded(2)))


def test_images_given_stay_as_they_are_and_those_returned_stay_in_range():
    faces = images()
    before = faces.clone()
    changed = STRONG(faces, seeded())
    assert torch.equal(faces, before)
    assert changed.shape == faces.shape and changed.min() >= 0 and changed.max() <= 1


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(0.0), Augmentation(0.0, 1.0, 0.0), Augmentation(0.0, 0.0, 20.0), Augmentation(0.0, jitter_probability=1.0)],
    ids=["all off", "no degrees", "never turned", "jitter of 0"],
)
def test_factors_of_zero_change_nothing(augmentation):
    torch.testing.assert_close(augmentation(images(), seeded()), images(), atol=1e-5, rtol=0)


def test_of_no_faces_none_come_back():
    """As of a batch that holds no HR faces (the published fine-tune at 32x32)."""
    assert STRONG(images(0), seeded(count=0)).shape == (0, 3, 16, 16)


def test_flip_mirrors_the_share_that_was_asked_for():
    faces = images(400, 4)
    assert torch.equal(Augmentation(1.0)(faces, seeded(count=400)), faces.flip(3))
    changed = Augmentation(0.25)(faces, seeded(count=400))
    mirrored = (changed == faces.flip(3)).flatten(1).all(1)
    kept = (changed == faces).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 0.15 < mirrored.float().mean() < 0.35


def test_each_image_has_its_own_draw():
    one = images(1).expand(20, -1, -1, -1)
    for augmentation in (
        Augmentation(0, 1.0, 10.0),
        Augmentation(0, jitter_probability=1.0, jitter_brightness_contrast=0.2),
        Augmentation(0, jitter_probability=1.0, jitter_hue=0.2),
    ):
        changed = augmentation(one, seeded(count=20))
        assert len({tuple(image.flatten().tolist()) for image in changed}) > 15


def test_quarter_turns_are_exact():
    faces = images(4)
    turned = rotate(faces, torch.tensor([0.0, 90.0, 180.0, -90.0]))
    expected = [faces[0], faces[1].rot90(1, (1, 2)), faces[2].rot90(2, (1, 2)), faces[3].rot90(-1, (1, 2))]
    if not torch.allclose(turned[1], expected[1], atol=1e-4):  # either sense of rotation will do, if it is one sense
        expected[1], expected[3] = faces[1].rot90(-1, (1, 2)), faces[3].rot90(1, (1, 2))
    torch.testing.assert_close(turned, torch.stack(expected), atol=1e-4, rtol=0)


def test_turning_there_and_back_keeps_a_smooth_face():
    ramp = torch.linspace(0.2, 0.8, 32)
    smooth = (ramp[:, None] * ramp[None]).expand(2, 3, 32, 32)
    angles = torch.tensor([5.0, -12.0])
    back = rotate(rotate(smooth, angles), -angles)
    assert (back - smooth)[..., 8:-8, 8:-8].abs().max() < 0.01
    assert (rotate(smooth, angles) - smooth)[..., 8:-8, 8:-8].abs().max() > 0.01


def test_shift_moves_right_and_down_by_shares_of_the_width():
    faces, zero = images(1), torch.zeros(1)
    moved = move(faces, zero, zero + 1, torch.tensor([0.25]), torch.tensor([0.125]))
    torch.testing.assert_close(moved[:, :, 2:, 4:], faces[:, :, :-2, :-4], atol=1e-5, rtol=0)


def test_zoom_enlarges_about_the_centre():
    dot = torch.zeros(1, 1, 33, 33)
    dot[..., 16, 16] = 1
    dot[..., 16, 22] = 1
    zero = torch.zeros(1)
    larger = move(dot, zero, torch.tensor([1.5]), zero, zero)
    assert larger[0, 0, 16, 16] > 0.9 and larger[0, 0, 16, 25] > 0.9 and larger[0, 0, 16, 22] < 0.1


def test_zoom_and_shift_are_drawn_for_every_image():
    one = images(1).expand(20, -1, -1, -1)
    for augmentation in (Augmentation(0, zoom=0.1), Augmentation(0, shift=0.1)):
        assert len({tuple(image.flatten().tolist()) for image in augmentation(one, seeded(count=20))}) == 20


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_another_look_moves_what_it_sees_by_its_share(share):
    """Turn, zoom, and shift across and down at their largest, one at a time, on a mark 30 pixels from the centre."""
    faces = torch.zeros(LOOK_DRAWS, 1, 101, 101)
    faces[..., 50, 79:82] = 1.0
    uniform = torch.full((LOOK_DRAWS, LOOK_DRAWS), 0.5).fill_diagonal_(0.0)  # 0.5 moves nothing
    seen = look_again(faces, share, uniform)[:, 0]
    down, across = torch.meshgrid(*(torch.arange(101) - 50.0,) * 2, indexing="ij")
    moved = torch.stack([(seen * across).sum((1, 2)), (seen * down).sum((1, 2))], 1) / seen.sum((1, 2))[:, None]
    moved[:, 0] -= 30
    of_turn_or_zoom, of_shift = 2 * share * 30, share * 101  # the edge, 50.5 from the centre, would move as the shift does
    expected = torch.tensor([[0, of_turn_or_zoom], [of_turn_or_zoom, 0], [of_shift, 0], [0, of_shift]])
    torch.testing.assert_close(moved.abs(), expected, atol=0.3, rtol=0)
    assert torch.allclose(look_again(faces, share, torch.full((LOOK_DRAWS, LOOK_DRAWS), 0.5)), faces, atol=1e-5)


def test_corners_are_filled_with_face_not_black():
    assert rotate(torch.ones(1, 3, 16, 16), torch.tensor([30.0])).min() > 0.99


def ones(count):
    return torch.ones(count)


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 1.2])
def test_jitter_agrees_with_torchvision(factor):
    faces, factors = images(3), torch.full((3,), factor)
    pairs = (
        (jitter(faces, factors, ones(3), ones(3)), reference.adjust_brightness(faces, factor)),
        (jitter(faces, ones(3), factors, ones(3)), reference.adjust_contrast(faces, factor)),
        (jitter(faces, ones(3), ones(3), factors), reference.adjust_saturation(faces, factor)),
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)  # torchvision rounds the grey weights to four digits


def test_jitter_stays_within_its_width():
    grey = torch.full((200, 3, 2, 2), 0.5)
    changed = Augmentation(0, jitter_probability=1.0, jitter_brightness_contrast=0.1)(grey, seeded(count=200))[:, 0, 0, 0]
    assert 0.45 <= changed.min() < 0.46 and 0.54 < changed.max() <= 0.55


def test_a_third_of_a_turn_passes_each_channel_on():
    faces = images(2) * 0.5 + 0.2
    turned = turn_hue(faces, torch.tensor([1 / 3, -1 / 3]))
    torch.testing.assert_close(turned[0], faces[0].roll(1, 0), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[1], faces[1].roll(-1, 0), atol=1e-5, rtol=0)


def test_hue_keeps_grey_and_mean():
    faces = images(2) * 0.4 + 0.3
    turned = turn_hue(faces, torch.tensor([0.1, -0.05]))
    torch.testing.assert_close(turned.mean(1), faces.mean(1), atol=1e-5, rtol=0)
    grey = faces[:, :1].expand_as(faces)
    torch.testing.assert_close(turn_hue(grey, torch.tensor([0.1, 0.3])), grey, atol=1e-5, rtol=0)
    assert (turned - faces).abs().max() > 0.01
