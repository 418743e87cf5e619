"""Faces of nobody: each image by its own numbers, nothing where nothing is asked, and moved as far as is said."""

import pytest
import torch

from dsrkit.data.augment import DRAWS
from dsrkit.data.nobody import NOBODY_DRAWS, Nobody, blend, half_plane, warp

EVERYTHING = Nobody(0.03, 0.5, 0.5)


def images(count=8, size=16, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def numbers(seed=0, count=8):
    return torch.rand(count, DRAWS + NOBODY_DRAWS, generator=torch.Generator().manual_seed(seed))


def test_the_numbers_given_decide_everything_for_each_image():
    faces, others = images(), images(seed=1)
    made = EVERYTHING(faces, others, numbers(1))
    assert torch.equal(made, EVERYTHING(faces, others, numbers(1))) and made.min() >= 0 and made.max() <= 1
    assert not torch.equal(made, EVERYTHING(faces, others, numbers(2)))
    torch.testing.assert_close(EVERYTHING(faces[3:5], others[3:5], numbers(1)[3:5]), made[3:5])


def test_nothing_is_changed_where_nothing_is_asked():
    faces = images()
    assert torch.equal(Nobody()(faces, images(seed=1), numbers()), faces) and not Nobody(warp=0.02).mixes


@pytest.mark.parametrize("setting", [Nobody(warp=0.03), Nobody(cutmix_probability=1.0), Nobody(blend_probability=1.0)])
def test_the_least_and_the_greatest_numbers_make_faces_too(setting):
    for number in (0.0, 1 - 2**-24):
        made = setting(images(1), images(1, seed=1), torch.full((1, DRAWS + NOBODY_DRAWS), number))
        assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1


def test_blends_are_at_most_halves_of_the_other_face():
    faces, others = torch.zeros(200, 3, 2, 2), torch.ones(200, 3, 2, 2)
    share = blend(faces, others, 0.5, numbers(count=200))[:, 0, 0, 0]
    assert share.max() <= 0.5 and share.max() > 0.45 and 0.35 < (share == 0).float().mean() < 0.65
    assert torch.equal(blend(faces, others, 0.0, numbers(count=200)), faces)


def test_cutmix_puts_a_part_of_the_other_face_in():
    faces, others = torch.zeros(400, 3, 32, 32), torch.ones(400, 3, 32, 32)
    share = Nobody(cutmix_probability=0.4)(faces, others, numbers(count=400)).mean((1, 2, 3))
    made = share[share > 0]
    assert 0.33 < len(made) / 400 < 0.47 and 0.25 < made.min() < 0.4 and 0.6 < made.max() < 0.75


def test_unmixed_faces_are_those_that_no_other_is_in():
    faces, others = torch.zeros(400, 3, 8, 8), torch.ones(400, 3, 8, 8)
    for mixing in (Nobody(cutmix_probability=0.4), Nobody(blend_probability=0.3), Nobody(0.0, 0.4, 0.3)):
        other = mixing(faces, others, numbers(count=400)).amax((1, 2, 3))
        unmixed = mixing.unmixed(numbers(count=400))
        assert 0.3 < unmixed.float().mean() < 0.8 and other[unmixed].max() == 0 and other[~unmixed].min() > 0
    assert Nobody(warp=0.02).unmixed(numbers()).all()


def test_the_border_goes_through_the_middle_at_the_angle_given():
    mask = half_plane(torch.Size([33, 33]), torch.tensor([0.0, 0.25]), torch.tensor([0.5, 0.5]))
    assert torch.allclose(mask[0], mask[0, :1].expand(33, 33)) and torch.allclose(mask[1], mask[0].T, atol=1e-5)
    assert mask[0, 0, 0] < 1e-4 and mask[0, 0, 16] == 0.5 and mask[0, 0, 32] > 1 - 1e-4


def test_a_warp_of_every_knot_alike_is_a_shift():
    faces = images(2, 32)
    knots = torch.tensor([4 / 32, 0.0]).view(1, 2, 1, 1).expand(2, 2, 5, 5)
    torch.testing.assert_close(warp(faces, knots)[..., :28], faces[..., 4:], atol=1e-4, rtol=0)
    torch.testing.assert_close(warp(faces, torch.zeros(2, 2, 5, 5)), faces, atol=1e-5, rtol=0)


def test_a_warp_moves_as_far_as_it_says():
    """Read off a picture whose pixels say where they are: the displacement's deviation at the knots."""
    ramp = torch.linspace(0.5 / 96, 1 - 0.5 / 96, 96).expand(300, 3, 96, 96)
    moved = (Nobody(warp=0.03)(ramp, ramp, numbers(count=300)) - ramp)[:, 0, 48, 48]
    expected = 0.03 / 3**0.5  # each image takes an even share of it: the mean of their squares is a third
    assert moved.std() == pytest.approx(expected, rel=0.2) and abs(moved.mean()) < 0.004
