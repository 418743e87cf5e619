"""DSR, EdgeFace and their checkpoints: shapes, sizes, files of every kind, and files that must be refused."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsrkit.data.degrade import upscale
from dsrkit.models import DSR, CheckpointError, DSRConfig, EdgeFace, load_dsr, load_edgeface
from dsrkit.models.checkpoint import copy_checkpoint, load_checkpoint, read_weights, save_checkpoint
from dsrkit.models.dsr import DSREnsemble, dsr_content
from dsrkit.models.edgeface import DEMO_WEIGHTS, VARIANTS, LoRaLin, edgeface_file, interpolated, licence

TINY = DSRConfig(base_channels=8, residual_blocks=1)

# George et al. 2024, table 3, and the two int8 files: parameters and MMACs (None: not published).
PUBLISHED = {
    "edgeface_base": (18_225_812, 699.1),
    "edgeface_s_gamma_05": (3_652_520, 152.9),
    "edgeface_xs_gamma_06": (1_770_492, 76.9),
    "edgeface_xxs": (1_244_744, 47.3),
    "edgeface_xs_q": (2_242_620, None),
    "edgeface_xxs_q": (1_244_744, None),
}


def faces(count=2, size=112, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


# --- EdgeFace


@pytest.fixture(scope="module")
def variants():
    return {name: EdgeFace(name).eval() for name in VARIANTS}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters_and_arithmetic_are_the_published_ones(variants, variant):
    """The published count is of multiply-adds in convolutions, linear layers *and* the attention's two matrix products
    (half of torch's FLOPs); leaving the attention out misses it by 2 to 3 %."""
    edgeface, (parameters, mmacs) = variants[variant], PUBLISHED[variant]
    assert sum(weight.numel() for weight in edgeface.parameters()) == parameters
    if mmacs:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            edgeface(faces(1))
        assert counter.get_total_flops() / 2e6 == pytest.approx(mmacs, abs=0.05)


def test_all_variants_are_published():
    assert set(PUBLISHED) == set(VARIANTS)


@pytest.mark.parametrize(("inside", "outside", "gamma", "rank"), [(96, 288, 0.6, 57), (160, 512, 0.5, 80), (512, 3, 0.5, 2)])
def test_low_rank_layers(inside, outside, gamma, rank):
    layer = LoRaLin(inside, outside, gamma, bias=True)
    assert layer.linear1.weight.shape == (rank, inside) and layer.linear1.bias is None
    assert layer.linear2.weight.shape == (outside, rank) and layer.linear2.bias.shape == (outside,)
    values = torch.rand(4, inside)
    whole = values @ (layer.linear2.weight @ layer.linear1.weight).T + layer.linear2.bias
    torch.testing.assert_close(layer(values), whole, atol=1e-5, rtol=1e-4)
    assert LoRaLin(inside, outside, gamma, bias=False).linear2.bias is None


def test_every_linear_layer_of_a_gamma_variant_is_low_rank_the_head_too(variants):
    for variant, edgeface in variants.items():
        gamma = VARIANTS[variant].gamma
        ranks = [module for module in edgeface.modules() if isinstance(module, LoRaLin)]
        linear = [module for module in edgeface.modules() if isinstance(module, nn.Linear)]
        assert bool(ranks) == bool(gamma) and (not gamma or len(linear) == 2 * len(ranks))
        head = edgeface.model.head.fc
        assert isinstance(head, LoRaLin if gamma else nn.Linear)
        for layer in ranks:
            wide = min(layer.linear1.in_features, layer.linear2.out_features)
            assert layer.linear1.out_features == max(2, int(wide * gamma))


def test_embeddings_have_unit_length_and_come_from_normalised_rgb(variants):
    edgeface, images = variants["edgeface_xxs"], faces()
    with torch.inference_mode():
        embeddings, raw = edgeface(images), edgeface.embed(images)
        assert embeddings.shape == (2, 512)
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(raw, edgeface.model((images - 0.5) / 0.5))
        torch.testing.assert_close(embeddings, raw / raw.norm(dim=1, keepdim=True))


def test_stages_have_the_sizes_documented(variants):
    with torch.inference_mode():
        stages, raw = variants["edgeface_xxs"].stages_and_embedding(faces())
    assert [stage.shape[-1] for stage in stages] == [28, 14, 7, 3]
    torch.testing.assert_close(raw, variants["edgeface_xxs"].embed(faces()))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 112, 112), (2, 112, 112, 3), (3, 112, 112), (2, 3, 112, 111)])
def test_edgeface_refuses_other_shapes(variants, shape):
    with pytest.raises(ValueError, match=r"expected images \[N, 3, 112, 112\].*got \[.*Restore them with DSR or resize"):
        variants["edgeface_xxs"](torch.rand(shape))


def test_an_unknown_variant():
    with pytest.raises(ValueError, match=r"expected one of edgeface_base, .*got 'edgeface_m'"):
        EdgeFace("edgeface_m")


@pytest.mark.parametrize("variant", ["edgeface_s_gamma_05", "edgeface_xs_gamma_06", "edgeface_xxs", "edgeface_xs_q"])
def test_the_variant_is_read_from_the_keys(tmp_path, variants, variant):
    torch.save(variants[variant].state_dict(), tmp_path / "a.pt")
    loaded = load_edgeface(tmp_path / "a.pt")
    assert loaded.variant == variant and not loaded.training
    for key, value in variants[variant].state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_the_variant_can_be_given(edgeface_path):
    assert load_edgeface(edgeface_path, variant="edgeface_xxs_q").variant == "edgeface_xxs_q"
    with pytest.raises(CheckpointError, match=r"edgeface_xxs\.pt: .*belongs to another architecture"):
        load_edgeface(edgeface_path, variant="edgeface_s_gamma_05")


def test_the_demo_recogniser_ships_with_the_kit():
    edgeface = load_edgeface("demo")
    assert edgeface.variant == "edgeface_xxs"
    with torch.inference_mode():
        embeddings = edgeface(faces())
    assert bool(torch.isfinite(embeddings).all()) and not torch.allclose(embeddings[0], embeddings[1])


def test_edgeface_file(root, edgeface_path, monkeypatch):
    assert edgeface_file("demo").suffix == ".safetensors"
    monkeypatch.setenv("SOME_WEIGHTS", str(edgeface_path))
    assert edgeface_file("$SOME_WEIGHTS") == edgeface_path
    with pytest.raises(FileNotFoundError, match=r"EdgeFace weights \(edgeface\): expected it at .*nowhere\.pt"):
        edgeface_file("nowhere.pt")


def test_between_two_recognisers(variants, edgeface_path):
    first, second = load_edgeface(edgeface_path), copy.deepcopy(load_edgeface(edgeface_path))
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(torch.rand_like(weight))
    before = copy.deepcopy(second.state_dict())
    assert interpolated(second, first, 0.0) is second
    for share in (0.3, 1.0):
        between = interpolated(second, first, share).state_dict()
        for name, weight in first.state_dict().items():
            assert torch.allclose(between[name], share * weight + (1 - share) * before[name], atol=1e-6), name
    assert all(torch.equal(weight, before[name]) for name, weight in second.state_dict().items())


def test_a_fine_tuned_file_gives_its_backbone(tmp_path, edgeface_path):
    weights = read_weights(edgeface_path)
    save_checkpoint(tmp_path / "edgeface.pt", "edgeface", {"backbone_state_dict": weights, "arcface_state_dict": {}})
    loaded = load_edgeface(tmp_path / "edgeface.pt")
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())


def quantised(edgeface):
    """What an official ``_q`` file is: the state dict after dynamic int8 quantisation of every linear layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(edgeface, {nn.Linear}, dtype=torch.qint8)


def test_an_int8_file_becomes_float_weights_within_half_a_step(tmp_path, variants):
    original = variants["edgeface_xxs"]
    small = quantised(original)
    torch.save(small.state_dict(), tmp_path / "edgeface_xxs_q.pt")
    loaded = load_edgeface(tmp_path / "edgeface_xxs_q.pt")
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    linear = {name for name, module in original.named_modules() if isinstance(module, nn.Linear)}
    assert len(linear) > 10
    for key, value in original.state_dict().items():
        name, _, field = key.rpartition(".")
        if name in linear and field == "weight":
            step = small.get_submodule(name).weight().q_scale()
            assert 0 < (loaded.state_dict()[key] - value).abs().max() <= 0.501 * step
        else:
            assert torch.equal(loaded.state_dict()[key], value)
    assert all(weight.requires_grad for weight in loaded.parameters())  # it can be fine-tuned


@pytest.mark.slow
def test_the_official_int8_file_on_lfw(real_edgeface, lfw, lfw_pairs):
    """FIELD: dequantised EdgeFace-xxs reaches 99.50 % on LFW's ten folds."""
    from dsrkit.data.pairs import read_lfw_pairs
    from dsrkit.evaluation import verification
    from dsrkit.recognition import embed

    table = read_lfw_pairs(lfw_pairs)
    names = sorted(set(table.left) | set(table.right))
    row_of = {name: row for row, name in enumerate(names)}
    pixels = np.stack([np.asarray(Image.open(lfw / name[:-9] / f"{name[:-4]}.jpg").convert("RGB")) for name in names])
    embeddings = embed(pixels, load_edgeface(real_edgeface))
    pairs = np.stack([table.left.map(row_of), table.right.map(row_of)], axis=1)
    result = verification(embeddings, pairs, table.same.to_numpy(bool), table.fold.to_numpy())
    assert result["accuracy"] == pytest.approx(0.995, abs=0.001)


# --- files that must be refused


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("load", [load_edgeface, load_dsr, read_weights])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, load, legacy):
    crater, path = tmp_path / "crater", tmp_path / "bomb.pt"
    torch.save({"kind": "dsr", "x": Bomb(crater)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"bomb\.pt: expected tensors and plain values, got .*could run code"):
        load(path)
    assert not crater.exists()
    torch.load(path, weights_only=False)  # the bomb is live
    assert crater.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
    with pytest.raises(CheckpointError, match=r"bomb\.pt: expected"):
        load_edgeface(tmp_path / "bomb.pt")
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize("load", [load_edgeface, load_dsr])
def test_a_file_that_is_not_there(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"Expected a checkpoint at .*none\.pt, got nothing there\. Train it first"):
        load(tmp_path / "none.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_truncated_file(tmp_path, edgeface_path, name, share):
    from safetensors.torch import save_file

    whole = tmp_path / f"whole-{name}"
    if name.endswith(".safetensors"):
        save_file(read_weights(edgeface_path), whole)
        assert load_edgeface(whole).variant == "edgeface_xxs"
    else:
        whole.write_bytes(edgeface_path.read_bytes())
    content = whole.read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=rf"{name}: expected a checkpoint, got a file that cannot be read .*fetch"):
        load_edgeface(tmp_path / name)


def test_files_of_another_kind(tmp_path, dsr_path, edgeface_path):
    with pytest.raises(CheckpointError, match=r"expected EdgeFace weights .*got keys such as \['kind', 'state_dict'\]"):
        load_edgeface(dsr_path)
    with pytest.raises(CheckpointError, match=r"expected a dsr checkpoint of dsrkit, got kind None\. Give the right file"):
        load_dsr(edgeface_path)
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="expected EdgeFace weights, got a list"):
        load_edgeface(tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="got kind 'list'"):
        load_dsr(tmp_path / "list.pt")


def test_weights_of_another_architecture_are_told_in_one_paragraph(tmp_path, edgeface_path):
    weights = read_weights(edgeface_path)
    changed = {key: value for key, value in weights.items() if key != "model.head.fc.bias"} | {"extra": torch.ones(1)}
    changed["model.head.fc.weight"] = torch.ones(500, 168)
    torch.save(changed, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        load_edgeface(tmp_path / "a.pt")
    text = str(caught.value)
    assert "Missing 1 ['model.head.fc.bias']" in text and "unknown 1 ['extra']" in text
    assert "wrong shape 1 ['model.head.fc.weight: (512, 168) expected, (500, 168) got']" in text


# --- DSR


@pytest.mark.parametrize("size", [(16, 16), (14, 16), (16, 14), (24, 24), (32, 32), (8, 8), (1, 1), (112, 112), (5, 60)])
def test_any_size_becomes_112(size):
    vlr = torch.rand(2, 3, *size)
    assert DSR(TINY)(vlr).shape == (2, 3, 112, 112)


@pytest.mark.parametrize("size", [(16, 14), (16, 16), (32, 32)])
def test_an_untrained_dsr_is_bicubic(size):
    vlr = (torch.rand(2, 3, *size) * 255).round() / 255
    restored = DSR(DSRConfig(12, 2)).eval()(vlr)
    torch.testing.assert_close(restored, upscale(vlr), atol=0.501 / 255, rtol=0)


def perturbed(config=TINY, std=0.05):
    dsr = DSR(config)
    nn.init.normal_(dsr.conv_out.weight, std=std)  # zero at first, which stops every gradient behind it
    return dsr


def test_every_parameter_gets_a_gradient():
    dsr = perturbed(DSRConfig(8, 2))
    (dsr(faces(2, 16)) - 0.5).abs().mean().backward()
    without = [name for name, weight in dsr.named_parameters() if weight.grad is None or not weight.grad.abs().max() > 0]
    assert not without
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in dsr.parameters())


def test_output_is_clamped_only_outside_training():
    dsr = perturbed(std=5.0)
    assert dsr.train()(faces(1, 16)).max() > 1
    restored = dsr.eval()(faces(1, 16))
    assert restored.min() >= 0 and restored.max() <= 1


def test_width_and_depth():
    dsr = DSR(DSRConfig(24, 5))
    assert dsr.conv_in.weight.shape == (24, 3, 3, 3) and len(dsr.body) == 5
    assert DSR().config == DSRConfig(120, 16, 112)


@pytest.mark.parametrize("arguments", [(7, 1), (0, 1), (8, 0), (-2, 1)])
def test_sizes_that_cannot_be_built(arguments):
    with pytest.raises(ValueError, match=r"expected an even base_channels .*got"):
        DSRConfig(*arguments)


def test_another_output_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected output_size 112 .*got 128\..*train it anew"):
        DSRConfig(8, 1, output_size=128)
    content = dsr_content(DSR(TINY))
    content["config"]["output_size"] = 128
    save_checkpoint(tmp_path / "dsr.pt", "dsr", content)
    with pytest.raises(CheckpointError, match=r"dsr\.pt: expected the configuration of a DSR for 112 pixels.*128.*train it anew"):
        load_dsr(tmp_path / "dsr.pt")


def test_an_unknown_configuration_is_refused(tmp_path):
    content = dsr_content(DSR(TINY))
    content["config"]["attention"] = True
    save_checkpoint(tmp_path / "dsr.pt", "dsr", content)
    with pytest.raises(CheckpointError, match=r"expected the configuration of a DSR.*attention"):
        load_dsr(tmp_path / "dsr.pt")


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (3, 16, 16), (2, 3, 113, 16), (2, 16, 16, 3)])
def test_dsr_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"expected VLR faces \[N, 3, H, W\].*got \["):
        DSR(TINY)(torch.rand(shape))


def test_load_dsr_restores_configuration_and_weights(tmp_path):
    dsr = perturbed(DSRConfig(10, 3))
    save_checkpoint(tmp_path / "dsr.pt", "dsr", dsr_content(dsr) | {"epoch": 4})
    loaded = load_dsr(tmp_path / "dsr.pt")
    assert loaded.config == DSRConfig(10, 3, 112) and not loaded.training
    torch.testing.assert_close(loaded(faces(2, 16)), dsr.eval()(faces(2, 16)))
    assert load_dsr(str(tmp_path / "dsr.pt")).config == loaded.config


def test_weights_that_do_not_fit_their_configuration(tmp_path):
    content = dsr_content(DSR(TINY)) | {"config": {"base_channels": 10, "residual_blocks": 1, "output_size": 112}}
    save_checkpoint(tmp_path / "dsr.pt", "dsr", content)
    with pytest.raises(CheckpointError, match=r"expected weights of DSR, got others.*wrong shape"):
        load_dsr(tmp_path / "dsr.pt")


def test_an_ensemble_is_the_mean(tmp_path):
    members = [perturbed(TINY, std) for std in (0.05, 0.1, 0.2)]
    for number, member in enumerate(members):
        save_checkpoint(tmp_path / f"{number}.pt", "dsr", dsr_content(member))
    ensemble = load_dsr([tmp_path / f"{number}.pt" for number in range(3)])
    assert isinstance(ensemble, DSREnsemble) and ensemble.config == TINY
    vlr = faces(2, 16)
    outputs = [member.eval()(vlr) for member in members]
    torch.testing.assert_close(ensemble(vlr), (outputs[0] + outputs[1] + outputs[2]) / 3)
    with pytest.raises(ValueError, match="got an empty list"):
        load_dsr([])


# --- checkpoints


def test_a_checkpoint_has_a_readable_side(tmp_path):
    content = dsr_content(DSR(TINY)) | {"epoch": 2, "metrics": {"eer": 0.1}, "provenance": {"commit": "abc"}}
    save_checkpoint(tmp_path / "new" / "dsr.pt", "dsr", content)
    about = json.loads((tmp_path / "new" / "dsr.pt.json").read_text())
    assert about == {
        "kind": "dsr", "config": {"base_channels": 8, "residual_blocks": 1, "output_size": 112}, "epoch": 2,
        "metrics": {"eer": 0.1}, "provenance": {"commit": "abc"},
    }  # fmt: skip
    read = load_checkpoint(tmp_path / "new" / "dsr.pt", "dsr")
    assert read["epoch"] == 2 and set(read["state_dict"]) == set(DSR(TINY).state_dict())
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"dsr.pt", "dsr.pt.json"}


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "dsr.pt"
    save_checkpoint(path, "dsr", dsr_content(DSR(TINY)) | {"epoch": 1})
    before = path.read_bytes()

    def fails(content, target):
        target.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, "dsr", dsr_content(DSR(TINY)) | {"epoch": 2})
    assert path.read_bytes() == before
    assert json.loads((tmp_path / "dsr.pt.json").read_text())["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 2  # no temporary file is left


def test_a_copied_checkpoint_brings_its_own_readable_side(tmp_path):
    for name, epoch in (("a.pt", 1), ("b.pt", 2)):
        save_checkpoint(tmp_path / name, "dsr", {"epoch": epoch})
    copy_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()
    assert json.loads((tmp_path / "b.pt.json").read_text())["epoch"] == 1
    (tmp_path / "a.pt.json").unlink()
    copy_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    assert not (tmp_path / "b.pt.json").exists()
    copy_checkpoint(tmp_path / "a.pt", tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", "dsr")["epoch"] == 1


def test_licence_is_told_by_the_file(edgeface_path):
    assert "BSD-3" in licence(DEMO_WEIGHTS)
    assert "not a file whose SHA-256" in licence(edgeface_path) and "CC-BY-NC-SA-4.0" in licence(edgeface_path)
