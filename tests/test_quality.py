"""How close a restored face is to the true one, beside loops that follow the definitions."""

import numpy as np
import pytest
import torch
from conftest import given_file
from torchvision.models.vgg import cfgs, make_layers

from dsrkit import metrics
from dsrkit.bootstrap import bootstrap_interval, measured
from dsrkit.data.degrade import as_tensor
from dsrkit.evaluation import quality as quality_module
from dsrkit.evaluation.quality import identity_similarity, image_quality, load_lpips


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A file laid out like torchvision's VGG16, of weights that learnt nothing."""
    torch.manual_seed(0)
    features = make_layers(cfgs["D"], batch_norm=False)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    return path, features.eval()


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    hr = generator.integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    return np.clip(hr.astype(int) + generator.integers(-40, 40, hr.shape), 0, 255).astype(np.uint8), hr


@torch.inference_mode()
def slow_lpips(features, heads, one, other):
    """Zhang et al. 2018: unit-length features at five depths, squared differences, weighted, averaged over places, summed."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    total, pictures = 0.0, [(part[None] - mean) / std for part in (one, other)]
    for number, layer in enumerate(features):
        pictures = [layer(part) for part in pictures]
        if number in (3, 8, 15, 22, 29):
            depth = (3, 8, 15, 22, 29).index(number)
            unit = [part / (part.square().sum(1, keepdim=True).sqrt() + 1e-10) for part in pictures]
            total += float((heads[f"lin{depth}.model.1.weight"] * (unit[0] - unit[1]).square()).sum(1).mean())
    return total


def test_lpips_against_its_definition(trunk, pictures):
    path, features = trunk
    network = load_lpips(path)
    heads = network.state_dict()
    values = image_quality(*pictures, network)["lpips"]
    for value, one, other in zip(values, *map(as_tensor, pictures), strict=True):
        assert value == pytest.approx(slow_lpips(features, heads, one, other), rel=1e-3)
    assert image_quality(pictures[0], pictures[0], network)["lpips"] == pytest.approx(0, abs=1e-7)


def test_a_file_of_another_network_is_refused(tmp_path, trunk):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: expected torchvision's VGG16 .* got 1 tensors"):
        load_lpips(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError):
        load_lpips(tmp_path / "none.pth")


def test_the_heads_are_those_of_lpips(trunk):
    given = torch.load(given_file("DSRKIT_LPIPS_HEADS"), map_location="cpu", weights_only=True)
    heads = load_lpips(trunk[0]).state_dict()
    assert len(given) == 5 and all(torch.equal(heads[key], value) for key, value in given.items())


def test_psnr_and_ssim_of_each_face(pictures, monkeypatch):
    monkeypatch.setattr(quality_module, "_FACES_AT_ONCE", 2)
    values = image_quality(*pictures)
    assert list(values) == ["psnr", "ssim"]
    one, other = map(as_tensor, pictures)
    assert values["psnr"] == pytest.approx(metrics.psnr(one, other).numpy())
    assert values["ssim"] == pytest.approx(metrics.ssim(one, other).numpy(), abs=1e-6)


def people(count=20, images=3, noise=0.7):
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(count), images)
    hr = generator.normal(size=(count, 12))[labels] + 0.3 * generator.normal(size=(count * images, 12))
    return hr + noise * generator.normal(size=hr.shape), hr, labels


def test_similarity_to_the_true_face_and_the_nearest_impostor(monkeypatch):
    monkeypatch.setattr(quality_module, "_SCORES_AT_ONCE", 200)
    seen, hr, labels = people()
    values = identity_similarity(seen, hr, labels)

    def cosine(one, other):
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    for face, (vector, label) in enumerate(zip(seen, labels, strict=True)):
        impostor = max(cosine(vector, hr[other]) for other in range(len(hr)) if labels[other] != label)
        assert values["similarity_to_true"][face] == pytest.approx(cosine(vector, hr[face]), abs=1e-6)
        assert values["similarity_to_impostor"][face] == pytest.approx(impostor, abs=1e-6)
        assert values["nearer_to_impostor"][face] == (impostor >= cosine(vector, hr[face]))
    assert 0 < values["nearer_to_impostor"].mean() < 1


def test_perfect_faces_are_nobody_else_s_and_collapsed_ones_are_everybody_s():
    _, hr, labels = people()
    assert identity_similarity(hr, hr, labels)["nearer_to_impostor"].sum() == 0
    ones = np.ones_like(hr)
    assert identity_similarity(ones, ones, labels)["nearer_to_impostor"].all()
    with pytest.raises(ValueError, match="two subjects or more, got one among 60"):
        identity_similarity(hr, hr, np.zeros(60, int))


def test_means_of_faces_have_intervals_by_subject():
    seen, hr, labels = people()
    result = {"means": identity_similarity(seen, hr, labels)}
    values, interval = measured(result, labels), bootstrap_interval(result, labels, 300)
    for measure, of_faces in result["means"].items():
        assert values[measure] == pytest.approx(of_faces.mean())
        assert interval[measure][0] < values[measure] < interval[measure][1]
    drawn = np.random.default_rng(0).integers(20, size=(1, 20))
    once = bootstrap_interval(result, labels, 1)
    faces = np.concatenate([np.flatnonzero(labels == person) for person in drawn[0]])
    assert once["similarity_to_true"][0] == pytest.approx(result["means"]["similarity_to_true"][faces].mean())
