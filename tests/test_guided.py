"""Guided faces: led towards what the fine-tuned pair saw, each face by itself, and nothing else touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import same_weights

from dsrkit.data.degrade import as_tensor, degrade, to_8_bits
from dsrkit.data.synthetic import render_faces
from dsrkit.models.dsr import DSR, DSRConfig
from dsrkit.models.edgeface import interpolated, load_edgeface
from dsrkit.models.guided import FIRST_STEP, GRID, Guided, changed
from dsrkit.recognition import restore
from dsrkit.training.teacher import fresh_edgeface


@pytest.fixture(scope="module")
def vlr():
    return degrade(as_tensor(render_faces([0, 1, 2], [0, 0, 0], seed=3)), "16x16", "bicubic-antialias", torch.rand(3, 64))


@pytest.fixture(scope="module")
def pair():
    """A DSR that learnt nothing, but adds something of its own, and an EdgeFace a little away from the demo's."""
    torch.manual_seed(1)
    dsr = DSR(DSRConfig(8, 1)).eval()
    torch.nn.init.normal_(dsr.conv_out.weight, std=0.02)
    return dsr, interpolated(fresh_edgeface().eval(), load_edgeface("demo"), 0.8)


def start_and_aim(pair, vlr):
    """The mean of a face's two drawings, and the direction of what the pair makes of both together."""
    dsr, edgeface = pair
    with torch.no_grad():
        drawn, mirrored = dsr(vlr), dsr(vlr.flip(3))
        assert (drawn - mirrored.flip(3)).abs().max() > 0.01
        return (drawn + mirrored.flip(3)) / 2, F.normalize(edgeface.embed(drawn) + edgeface.embed(mirrored), dim=1)


def agreement(faces, aim, original):
    """Cosine of what ``original`` sees in faces and their aim, of each."""
    with torch.no_grad():
        return (original(faces) * aim).sum(1)


def test_the_untouched_recogniser_comes_to_see_what_the_pair_saw(pair, vlr):
    original = load_edgeface("demo")
    start, aim = start_and_aim(pair, vlr)
    seen = [agreement(faces, aim, original) for faces in (start, *(Guided(*pair, original, steps)(vlr) for steps in (2, 6)))]
    assert (seen[1] > seen[0]).all() and (seen[2] > seen[1]).all()


def test_the_drawings_of_another_dsr_are_part_of_where_it_begins(pair, vlr):
    """The aim is the pair's alone; one step from the mean of four drawings goes as far as from any other face."""
    original, other = load_edgeface("demo"), DSR(DSRConfig(8, 1)).eval()
    torch.nn.init.normal_(other.conv_out.weight, std=0.02)
    (start, aim), (of_other, _) = start_and_aim(pair, vlr), start_and_aim((other, pair[1]), vlr)
    both, alone = (Guided(*pair, original, 1, others)(vlr) for others in ([other], []))
    mean = (start + of_other) / 2
    away = [(faces - begun).square().mean().sqrt() for faces, begun in ((both, mean), (alone, start), (both, start))]
    assert away[0] < 1.5 * FIRST_STEP and away[1] < 1.5 * FIRST_STEP and away[2] > 3 * FIRST_STEP
    assert (agreement(both, aim, original) > agreement(mean, aim, original)).all()


def test_a_first_step_is_that_of_a_slow_one(pair, vlr):
    """One face, one step, the gradient by differences along the way that was gone."""
    original, one = load_edgeface("demo").double(), vlr[:1].double()
    networks = tuple(network.double() for network in pair)
    try:
        sr, aim = start_and_aim(networks, one)
        moved = Guided(*networks, original, 1)(one)

        def cosine(change):
            with torch.no_grad():
                return float(F.cosine_similarity(original.embed(changed(sr, change)), aim))

        slopes = torch.zeros(3 * GRID * GRID, dtype=torch.double)
        some = torch.randperm(len(slopes), generator=torch.Generator().manual_seed(0))[:12]
        for number in some:
            tip = torch.zeros_like(slopes)
            tip[number] = 1e-4
            up, down = (cosine(sign * tip.view(1, 3, GRID, GRID)) for sign in (1, -1))
            slopes[number] = (up - down) / 2e-4
        change = torch.zeros(1, 3, GRID, GRID, dtype=torch.double, requires_grad=True)
        (whole,) = torch.autograd.grad(F.cosine_similarity(original.embed(changed(sr, change)), aim).sum(), change)
        assert whole.flatten()[some].numpy() == pytest.approx(slopes[some].numpy(), rel=1e-3, abs=1e-7)
        went = FIRST_STEP * whole / whole.square().mean().sqrt()
        assert torch.allclose(moved, changed(sr, went), atol=1e-9)
        assert float(went.square().mean().sqrt()) == pytest.approx(FIRST_STEP)
    finally:
        for network in networks:
            network.float()


def test_each_face_is_led_by_itself_and_the_same_each_time(pair, vlr):
    guided = Guided(*pair, load_edgeface("demo"), 3)
    together = guided(vlr)
    assert torch.equal(together, guided(vlr)) and together.min() >= 0 and together.max() <= 1
    alone = torch.cat([guided(vlr[number : number + 1]) for number in range(3)])
    assert torch.allclose(alone, together, atol=1e-4)


def test_it_restores_where_gradients_are_switched_off_and_leaves_the_networks_alone(pair, vlr):
    """As ``restore`` does, which an evaluation, the desk and ``Recognizer`` share."""
    original = load_edgeface("demo")
    guided, before = Guided(*pair, original, 2), original.state_dict()
    pixels = (to_8_bits(vlr) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    restored = restore(pixels, guided)
    assert restored.shape == (3, 112, 112, 3) and (restored != restore(pixels, pair[0])).any()
    assert same_weights(before, load_edgeface("demo").state_dict())
    assert all(weight.grad is None for network in (*pair, original) for weight in network.parameters())


def test_no_step_is_no_guidance(pair):
    with pytest.raises(ValueError, match="Guided: expected at least 1 step, got 0"):
        Guided(*pair, load_edgeface("demo"), 0)
