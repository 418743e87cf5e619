"""Each loss beside a slow, obvious version of itself."""

import math

import pytest
import torch
import torchvision
from torch import nn

from dsrkit.losses import ArcFace, PerceptualLoss, feature_match_loss, identity_loss, total_variation_loss
from dsrkit.models.checkpoint import CheckpointError


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def finite_gradient(loss, *values):
    gradients = torch.autograd.grad(loss, values)
    assert all(bool(torch.isfinite(gradient).all()) and gradient.abs().max() > 0 for gradient in gradients)


def test_identity_loss():
    sr, hr = drawn(5, 7).requires_grad_(), drawn(5, 7, seed=1)
    total = 0.0
    for one, other in zip(sr.tolist(), hr.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(one, other, strict=True))
        lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
        total += 1 - dot / lengths
    assert identity_loss(sr, hr).item() == pytest.approx(total / 5)
    assert identity_loss(3 * hr, hr).item() == pytest.approx(0, abs=1e-12)
    assert identity_loss(-hr, hr).item() == pytest.approx(2)
    finite_gradient(identity_loss(sr, hr), sr)


def test_feature_match_loss():
    sr = [drawn(2, 3, 4, 4).requires_grad_(), drawn(2, 5, 2, 2, seed=1).requires_grad_()]
    hr = [drawn(2, 3, 4, 4, seed=2), 100 * drawn(2, 5, 2, 2, seed=3)]
    stages = []
    for one, other in zip(sr, hr, strict=True):
        differences = [abs(a - b) for a, b in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)]
        sizes = [abs(b) for b in other.flatten().tolist()]
        stages.append((sum(differences) / len(differences)) / (sum(sizes) / len(sizes)))
    loss = feature_match_loss(sr, hr)
    assert loss.item() == pytest.approx(sum(stages) / 2)
    assert feature_match_loss(hr, hr).item() == 0
    scaled = feature_match_loss([sr[0] * 10, sr[1]], [hr[0] * 10, hr[1]])
    assert scaled.item() == pytest.approx(loss.item())  # stages of different scale count alike
    finite_gradient(loss, *sr)
    assert math.isfinite(feature_match_loss([torch.ones(1, 1, 1, 1)], [torch.zeros(1, 1, 1, 1)]).item())
    with pytest.raises(ValueError, match="zip"):
        feature_match_loss(sr, hr[:1])


def test_total_variation_loss():
    images = drawn(2, 3, 4, 5).requires_grad_()
    values, total = images.tolist(), 0.0
    for image in values:
        for channel in image:
            for y in range(4):
                for x in range(5):
                    total += abs(channel[y][x] - channel[y - 1][x]) if y else 0
                    total += abs(channel[y][x] - channel[y][x - 1]) if x else 0
    assert total_variation_loss(images).item() == pytest.approx(total / 2)
    assert total_variation_loss(torch.ones(1, 3, 8, 8)).item() == 0
    finite_gradient(total_variation_loss(images), images)


def slow_arcface(weight, embeddings, labels, scale, margin, smoothing):
    total, classes = 0.0, len(weight)
    for embedding, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        logits = []
        for number, centre in enumerate(weight.tolist()):
            dot = sum(a * b for a, b in zip(embedding, centre, strict=True))
            cosine = dot / math.sqrt(sum(a * a for a in embedding)) / math.sqrt(sum(b * b for b in centre))
            angle = math.acos(cosine) + (margin if number == label else 0)
            logits.append(scale * math.cos(min(angle, math.pi)))
        top = max(logits)
        norm = top + math.log(sum(math.exp(logit - top) for logit in logits))
        for number, logit in enumerate(logits):
            wanted = smoothing / classes + (1 - smoothing if number == label else 0)
            total -= wanted * (logit - norm)
    return total / len(labels)


@pytest.mark.parametrize(
    ("scale", "margin", "smoothing"), [(64, 0.5, 0.1), (64, 0.5, 0.0), (8, 0.1, 0.0), (30, 0.0, 0.2), (4, 2.5, 0.1)]
)
def test_arcface(scale, margin, smoothing):
    torch.manual_seed(0)
    head = ArcFace(4, scale, margin, smoothing, size=6).double()
    embeddings, labels = 3 * drawn(5, 6).requires_grad_(), torch.tensor([0, 3, 1, 1, 2])
    loss = head(embeddings, labels)
    assert loss.item() == pytest.approx(slow_arcface(head.weight, embeddings, labels, scale, margin, smoothing), rel=1e-6)
    finite_gradient(loss, embeddings, head.weight)
    longer = head(7 * embeddings, labels)
    assert longer.item() == pytest.approx(loss.item())  # only directions count


def test_arcface_at_its_ends():
    """On a class centre, and right opposite, where arccos has no gradient."""
    head = ArcFace(2, 64, 0.5, size=4).double()
    nn.init.eye_(head.weight)
    on = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    loss = head(on, torch.tensor([0, 0]))
    loss.backward()
    assert bool(torch.isfinite(on.grad).all()) and math.isfinite(loss.item())
    torch.testing.assert_close(head.cosines(on.detach())[0], torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_arcface_without_margin_is_a_cosine_softmax():
    head = ArcFace(3, 10, 0.0, size=8)
    embeddings, labels = drawn(4, 8).float(), torch.tensor([0, 1, 2, 0])
    expected = nn.functional.cross_entropy(10 * head.cosines(embeddings), labels)
    torch.testing.assert_close(head(embeddings, labels), expected, atol=1e-4, rtol=1e-4)
    assert ArcFace(3, 10, 0.5, size=8).weight.norm(dim=1).tolist() == pytest.approx([1, 1, 1])


# --- perceptual loss


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """torchvision's VGG19 with random weights, and its file (the trunk only: the classifier is not needed)."""
    torch.manual_seed(0)
    features = torchvision.models.vgg19(weights=None).features
    path = tmp_path_factory.mktemp("vgg") / "vgg19-random.pth"
    torch.save({f"features.{key}": value for key, value in features.state_dict().items() if int(key.split(".")[0]) <= 12}, path)
    return features.eval(), path


def test_perceptual_loss_of_torchvision_s_vgg(vgg):
    features, path = vgg
    sr, hr = torch.rand(2, 3, 24, 24, requires_grad=True), torch.rand(2, 3, 24, 24)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def taps(images):
        images, found = (images - mean[:, None, None]) / std[:, None, None], {}
        for number, layer in enumerate(features[:12]):
            images = layer(images.clone())
            found[number] = images
        return found[1], found[6], found[11]  # relu1_1, relu2_1, relu3_1

    perceptual = PerceptualLoss(path)
    for ours, theirs in zip(perceptual.features(hr), taps(hr), strict=True):
        torch.testing.assert_close(ours, theirs)
    expected = sum((one - other).abs().mean() for one, other in zip(taps(sr), taps(hr), strict=True)) / 3
    torch.testing.assert_close(perceptual(sr, hr), expected)
    finite_gradient(perceptual(sr, hr), sr)
    assert perceptual(hr, hr).item() == 0
    assert not any(weight.requires_grad for weight in perceptual.parameters())


def normalised_layers():
    torch.manual_seed(1)
    sizes = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256)]
    return [nn.Conv2d(3, 3, 1), *(nn.Conv2d(inside, outside, 3) for inside, outside in sizes)]


def test_perceptual_loss_of_the_normalised_vgg(tmp_path):
    layers = normalised_layers()
    numbers = [0, 2, 5, 9, 12, 16]  # as its layers stand, with paddings, ReLUs and poolings between
    content = {f"{n}.{key}": value for n, one in zip(numbers, layers, strict=True) for key, value in one.state_dict().items()}
    torch.save(content, tmp_path / "vgg.pth")

    def conv(images, layer):
        return layer(nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")).relu()

    hr = torch.rand(2, 3, 24, 24)
    first = conv(layers[0](hr), layers[1])
    second = conv(nn.functional.max_pool2d(conv(first, layers[2]), 2), layers[3])
    third = conv(nn.functional.max_pool2d(conv(second, layers[4]), 2), layers[5])
    perceptual = PerceptualLoss(tmp_path / "vgg.pth")
    for ours, theirs in zip(perceptual.features(hr), (first, second, third), strict=True):
        torch.testing.assert_close(ours, theirs)
    sr = torch.rand(2, 3, 24, 24, requires_grad=True)
    finite_gradient(perceptual(sr, hr), sr)


def test_the_real_normalised_vgg_loads(real_vgg):
    features = PerceptualLoss(real_vgg).features(torch.rand(1, 3, 112, 112))
    assert [tuple(one.shape[1:]) for one in features] == [(64, 112, 112), (128, 56, 56), (256, 28, 28)]
    assert all(0.1 < one.mean() < 10 for one in features)  # activations were normalised to a mean near 1


def test_missing_vgg_weights_are_named_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"expected VGG19 weights at .*nowhere\.pth.*set lambda_perceptual to 0"):
        PerceptualLoss(tmp_path / "nowhere.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"checkpoints/vgg19-dcbb9e9d\.pth, got nothing there"):
        PerceptualLoss()


def test_the_torch_cache_is_looked_into(tmp_path, vgg, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth").write_bytes(vgg[1].read_bytes())
    assert len(PerceptualLoss().taps) == 3


@pytest.mark.parametrize(
    "content", [{"weight": torch.ones(2)}, {"0.weight": torch.ones(2)}, {"features.0.weight": torch.ones(2)}]
)
def test_weights_that_are_no_vgg_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: expected .*Give|other\.pth: expected .*give"):
        PerceptualLoss(tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="got a list"):
        PerceptualLoss(tmp_path / "other.pth")
