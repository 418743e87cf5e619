"""Low-rank updates of EdgeFace: where they sit, what trains, and that they merge away without a trace."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dsrkit.models import EdgeFace, load_edgeface
from dsrkit.models.checkpoint import load_strict
from dsrkit.models.lora import LowRankUpdate, add_lora, merged_state_dict, remove_lora

# Parameters of rank-4 updates of EdgeFace-xxs, r·(in + out) a layer: EdgeNeXt-xxs is 24, 48, 88, 168 wide, 2, 2, 6, 2 blocks
# deep; every block has d → 4d → d, the last block of stages 2 to 4 d → 3d and d → d, one of them a 1×1 position code 64 → d.
XXS_RANK_4 = 4 * (10 * (2 * 24 + 2 * 48 + 6 * 88 + 2 * 168) + 6 * (48 + 88 + 168) + (64 + 48) + (168 + 512))


def faces(count=2, seed=0):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(seed))


def fresh(variant="edgeface_xxs"):
    torch.manual_seed(0)
    edgeface = EdgeFace(variant).eval()
    for name, weight in edgeface.named_parameters():
        if name.endswith(".gamma"):  # layer scales of 1e-6 would hide what the layers behind them do
            nn.init.constant_(weight, 0.1)
    return edgeface


def perturb(module, std=0.05):
    """As if trained: every update different from zero."""
    for part in module.modules():
        if isinstance(part, LowRankUpdate):
            nn.init.normal_(part.up, std=std)


@pytest.fixture
def images():
    return faces()


@pytest.mark.parametrize("variant", ["edgeface_xxs", "edgeface_xs_gamma_06"])
def test_training_starts_at_the_network_given(images, variant):
    edgeface = fresh(variant)
    with torch.inference_mode():
        before = edgeface.embed(images)
        add_lora(edgeface, 4)
        torch.testing.assert_close(edgeface.embed(images), before, rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["edgeface_xxs", "edgeface_xs_gamma_06"])
def test_every_linear_layer_and_pointwise_convolution_has_an_update_and_no_other(variant):
    edgeface = fresh(variant)
    wanted = [
        name
        for name, layer in edgeface.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.weight.shape[2:] == (1, 1) and layer.groups == 1)
    ]
    add_lora(edgeface, 4)
    found = [name.partition(".parametrizations")[0] for name, one in edgeface.named_modules() if isinstance(one, LowRankUpdate)]
    assert found == wanted
    assert any("token_projection" in name for name in found) and any(name.startswith("model.head.fc") for name in found)


def test_trained_parameters_are_as_many_as_counted_by_hand():
    edgeface = fresh()
    trained = add_lora(edgeface, 4)
    assert sum(weight.numel() for weight in trained) == XXS_RANK_4 == 50_784
    assert [id(one) for one in edgeface.parameters() if one.requires_grad] == [id(one) for one in trained]


def test_a_layer_narrower_than_the_rank_gets_its_full_rank():
    layer = nn.Sequential(nn.Linear(3, 10), nn.Linear(10, 20))
    assert [tuple(weight.shape) for weight in add_lora(layer, 5)] == [(3, 3), (10, 3), (5, 10), (20, 5)]


def test_only_updates_get_gradients_and_each_gets_one(images):
    edgeface = fresh().train()
    plain = {name: weight.clone() for name, weight in edgeface.state_dict().items()}
    trained = add_lora(edgeface, 4)
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):  # A has a gradient as soon as B is not zero
        optimizer.zero_grad()
        edgeface.embed(images).square().sum().backward()
        optimizer.step()
    assert all(bool(torch.isfinite(weight.grad).all()) and weight.grad.abs().max() > 0 for weight in trained)
    assert all(weight.abs().max() > 0 for weight in trained)  # B has left zero
    for name, weight in edgeface.named_parameters():
        if not name.endswith((".up", ".down")):
            assert weight.grad is None
            torch.testing.assert_close(weight, plain[name.replace("parametrizations.weight.original", "weight")], rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["edgeface_xxs", "edgeface_xs_gamma_06"])
def test_merged_weights_are_those_of_a_plain_edgeface(images, variant):
    edgeface = fresh(variant)
    with torch.inference_mode():
        before = edgeface.embed(images)
    keys = {key: value.shape for key, value in edgeface.state_dict().items()}
    add_lora(edgeface, 4, alpha=8)
    perturb(edgeface)
    state = {key: value.clone() for key, value in edgeface.state_dict().items()}
    merged = merged_state_dict(edgeface)
    assert {key: value.shape for key, value in merged.items()} == keys
    assert not any(value.requires_grad for value in merged.values())
    plain = EdgeFace(variant).eval()
    load_strict(plain, merged, "merged")
    with torch.inference_mode():
        updated = edgeface.embed(images)
        torch.testing.assert_close(plain.embed(images), updated, rtol=1e-5, atol=1e-5)
    assert (updated - before).abs().max() > 1e-2  # else nothing was tested
    torch.testing.assert_close(edgeface.state_dict(), state, rtol=0, atol=0)  # asking changes nothing


def test_the_update_is_alpha_over_rank_times_the_product():
    for layer in (nn.Linear(6, 10), nn.Conv2d(6, 10, 1)):
        weight = layer.weight.detach().clone()
        down, up = add_lora(layer, 2, alpha=6)
        nn.init.normal_(up)
        wanted = weight.clone().view(10, 6)
        for row in range(10):
            for column in range(6):
                wanted[row, column] += 3 * sum(up[row, rank] * down[rank, column] for rank in range(2)).detach()
        torch.testing.assert_close(layer.weight.detach().view(10, 6), wanted)
        torch.testing.assert_close(merged_state_dict(layer)["weight"].view(10, 6), wanted)  # the root itself is a layer
        remove_lora(layer)
        torch.testing.assert_close(layer.weight.detach().view(10, 6), wanted)


def test_other_convolutions_are_left_alone():
    layers = nn.Sequential(nn.Conv2d(8, 8, 1, groups=8), nn.Conv2d(8, 8, 3), nn.LayerNorm(8), nn.Linear(8, 8))
    assert len(add_lora(layers, 2)) == 2


def test_removing_merges_in_place(images):
    edgeface = fresh()
    kind, keys = type(edgeface.model.head.fc), set(edgeface.state_dict())
    add_lora(edgeface, 4)
    perturb(edgeface)
    with torch.inference_mode():
        updated = edgeface.embed(images)
    remove_lora(edgeface)
    assert type(edgeface.model.head.fc) is kind and set(edgeface.state_dict()) == keys
    assert not any(isinstance(part, LowRankUpdate) for part in edgeface.modules())
    with torch.inference_mode():
        torch.testing.assert_close(edgeface.embed(images), updated, rtol=1e-5, atol=1e-5)
    remove_lora(edgeface)  # nothing left to remove
    add_lora(edgeface, 4)  # and ready for another


def test_a_module_without_updates_merges_to_its_own_weights():
    edgeface = fresh()
    torch.testing.assert_close(merged_state_dict(edgeface), dict(edgeface.state_dict()), rtol=0, atol=0)


def test_a_copy_and_an_average_are_of_their_own(images):
    edgeface = fresh()
    trained = add_lora(edgeface, 4)
    perturb(edgeface)
    twin, average = copy.deepcopy(edgeface), AveragedModel(edgeface, use_buffers=True)
    with torch.inference_mode():
        before = edgeface.embed(images)
        for weight in trained:
            weight.zero_()
        torch.testing.assert_close(twin.embed(images), before, rtol=0, atol=0)
        torch.testing.assert_close(average.module.embed(images), before, rtol=0, atol=0)
        assert (edgeface.embed(images) - before).abs().max() > 1e-2
    assert sum(weight.requires_grad for weight in twin.parameters()) == len(trained)


def test_an_exact_resume(images, tmp_path):
    edgeface = fresh()
    add_lora(edgeface, 4)
    perturb(edgeface)
    torch.save(edgeface.state_dict(), tmp_path / "resume.pt")
    resumed = EdgeFace().eval()
    add_lora(resumed, 4)
    resumed.load_state_dict(torch.load(tmp_path / "resume.pt", weights_only=True))
    with torch.inference_mode():
        torch.testing.assert_close(resumed.embed(images), edgeface.embed(images), rtol=0, atol=0)


def test_channels_last_before_and_after(images):
    """``load_edgeface`` gives channels_last; whoever loads a resumed one may ask for it again."""
    edgeface = load_edgeface("demo")
    with torch.inference_mode():
        before = edgeface.embed(images)
    add_lora(edgeface, 2)
    edgeface.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(edgeface.embed(images), before, rtol=1e-5, atol=1e-4)
    edgeface.embed(images).sum().backward()
    remove_lora(edgeface)


def test_autocast_adds_the_update_in_full_precision():
    layer = nn.Linear(4, 4)
    nn.init.ones_(layer.weight)
    down, up = add_lora(layer, 1)
    nn.init.ones_(down)
    nn.init.constant_(up, 1e-3)  # below half a step of bfloat16 at 1
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.weight, torch.full((4, 4), 1.001), rtol=1e-6, atol=0)
        layer(torch.ones(2, 4)).sum().backward()
    assert up.grad.abs().min() > 0 and up.grad.dtype == torch.float32


def test_updates_refuse_what_they_cannot_be():
    with pytest.raises(ValueError, match=r"expected rank ≥ 1 and alpha > 0, got rank 0 and alpha None"):
        add_lora(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match=r"got rank 2 and alpha 0"):
        add_lora(nn.Linear(2, 2), 2, alpha=0)
    with pytest.raises(ValueError, match=r"expected linear layers or 1×1 convolutions, got none in Conv2d"):
        add_lora(nn.Conv2d(2, 2, 3), 2)
    layer = nn.Linear(2, 2)
    add_lora(layer, 1)
    with pytest.raises(ValueError, match=r"got one that has them\. Call remove_lora first"):
        add_lora(layer, 1)


def test_every_parameter_of_an_edgeface_gets_a_gradient_without_updates(images):
    edgeface = load_edgeface("demo").train()
    edgeface.embed(images).square().sum().backward()
    without = [name for name, weight in edgeface.named_parameters() if weight.grad is None or not weight.grad.abs().max() > 0]
    assert not without
