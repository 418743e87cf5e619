"""Each loss beside a slow, obvious version of itself."""

import math

import pytest
import torch
import torchvision
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import nn

from dsrkit.losses import (
    MarginHead,
    PerceptualLoss,
    automatic_scale,
    feature_match_loss,
    identity_loss,
    relation_loss,
    total_variation_loss,
)
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


def test_relation_loss():
    sr, hr, anchors, temperature = drawn(3, 7).requires_grad_(), drawn(3, 7, seed=1), drawn(6, 7, seed=2), 0.2

    def shares(face):
        """The softmax of one face's cosines with the anchors."""
        cosines = []
        for anchor in anchors.tolist():
            dot = sum(a * b for a, b in zip(face, anchor, strict=True))
            cosines.append(dot / math.sqrt(sum(a * a for a in face)) / math.sqrt(sum(b * b for b in anchor)))
        powers = [math.exp(cosine / temperature) for cosine in cosines]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for one, other in zip(sr.tolist(), hr.tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(shares(other), shares(one), strict=True))
    loss = relation_loss(sr, hr, anchors, temperature)
    assert loss.item() == pytest.approx(temperature * total / 3, rel=1e-4)
    assert relation_loss(5 * sr, hr, 2 * anchors, temperature).item() == pytest.approx(loss.item(), rel=1e-4)
    assert relation_loss(3 * hr, hr, anchors, temperature).item() == pytest.approx(0, abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert relation_loss(sr, hr, anchors, temperature).item() == pytest.approx(loss.item(), rel=1e-4)
    finite_gradient(loss, sr)


def test_feature_match_loss():
    sr = [drawn(2, 3, 4, 4).requires_grad_(), drawn(2, 5, 2, 2, seed=1).requires_grad_()]
    hr = [drawn(2, 3, 4, 4, seed=2), 100 * drawn(2, 5, 2, 2, seed=3)]
    stages = []
    for one, other in zip(sr, hr, strict=True):
        faces = []
        for ours, theirs in zip(one.flatten(1).tolist(), other.flatten(1).tolist(), strict=True):
            differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
            faces.append(sum(differences) / sum(abs(b) for b in theirs))
        stages.append(sum(faces) / len(faces))
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


# --- margin heads


def slow_cosine(one, other):
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def slow_margin_loss(weight, embeddings, labels, scale, smoothing, with_margin):
    """Cross-entropy, one face and one class at a time; ``with_margin(row, cosine)`` is the true class's logit before s."""
    total, classes = 0.0, len(weight)
    for row, (embedding, label) in enumerate(zip(embeddings.tolist(), labels.tolist(), strict=True)):
        logits = []
        for number, centre in enumerate(weight.tolist()):
            cosine = slow_cosine(embedding, centre)
            logits.append(scale * (with_margin(row, cosine) if number == label else cosine))
        top = max(logits)
        norm = top + math.log(sum(math.exp(logit - top) for logit in logits))
        for number, logit in enumerate(logits):
            wanted = smoothing / classes + (1 - smoothing if number == label else 0)
            total -= wanted * (logit - norm)
    return total / len(labels)


def slow_arcface(margin):
    def with_margin(row, cosine):
        angle = math.acos(cosine) + margin
        return math.cos(angle) if angle <= math.pi else cosine - margin * math.sin(margin)

    return with_margin


def slow_qualities(batches, newest=0.01):
    """The adaptive part of AdaFace for the last of several batches, with the running mean and spread of all."""
    mean, std = 20.0, 100.0
    for count, batch in enumerate(batches, 1):
        lengths = [math.sqrt(sum(value * value for value in embedding)) for embedding in batch.tolist()]
        middle = sum(lengths) / len(lengths)
        spread = math.sqrt(sum((length - middle) ** 2 for length in lengths) / (len(lengths) - 1))
        share = max(newest, 1 / count)
        mean, std = (1 - share) * mean + share * middle, (1 - share) * std + share * spread
    return [max(-1, min(1, 0.333 * (length - mean) / (std + 1e-3))) for length in lengths]


def slow_adaface(margin, qualities):
    def with_margin(row, cosine):
        angle = math.acos(cosine) - margin * qualities[row]
        return math.cos(max(1e-3, min(math.pi - 1e-3, angle))) - (margin + margin * qualities[row])

    return with_margin


def faces_and_labels():
    return 3 * drawn(5, 6).requires_grad_(), torch.tensor([0, 3, 1, 1, 2])


def head_of(kind, scale=64, margin=0.5, smoothing=0.0, classes=4, size=6):
    torch.manual_seed(0)
    return MarginHead(classes, scale, margin, smoothing, kind, size).double()


@pytest.mark.parametrize(
    ("scale", "margin", "smoothing"), [(64, 0.5, 0.1), (64, 0.5, 0.0), (8, 0.1, 0.0), (30, 0.0, 0.2), (4, 2.5, 0.1)]
)
@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_arcface_and_cosface(kind, scale, margin, smoothing):
    head, (embeddings, labels) = head_of(kind, scale, margin, smoothing), faces_and_labels()
    with_margin = slow_arcface(margin) if kind == "arcface" else lambda row, cosine: cosine - margin
    loss = head(embeddings, labels)
    slow = slow_margin_loss(head.weight, embeddings, labels, scale, smoothing, with_margin)
    assert loss.item() == pytest.approx(slow, rel=1e-6)
    finite_gradient(loss, embeddings, head.weight)
    assert head(7 * embeddings, labels).item() == pytest.approx(loss.item())  # only directions count


@pytest.mark.parametrize(("scale", "margin"), [(64, 0.5), (8, 0.1), (10, 0.0), (4, 2.5)])
@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_arcface_and_cosface_are_those_of_pytorch_metric_learning(kind, scale, margin):
    head, (embeddings, labels) = head_of(kind, scale, margin), faces_and_labels()
    reference = (
        ArcFaceLoss(4, 6, margin=math.degrees(margin), scale=scale)
        if kind == "arcface"
        else CosFaceLoss(4, 6, margin=margin, scale=scale)
    )
    reference.W = nn.Parameter(head.weight.detach().T.clone())
    ours, theirs = head(embeddings, labels), reference(embeddings, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(ours, [embeddings, head.weight])
    wanted = torch.autograd.grad(theirs, [embeddings, reference.W])
    torch.testing.assert_close(gradients[0], wanted[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gradients[1], wanted[1].T, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("scale", "margin", "smoothing"), [(64, 0.4, 0.1), (16, 0.4, 0.0), (8, 0.0, 0.0), (8, 1.5, 0.2)])
def test_adaface(scale, margin, smoothing):
    head, (embeddings, labels) = head_of("adaface", scale, margin, smoothing), faces_and_labels()
    earlier = [20 * drawn(7, 6, seed=seed) for seed in (1, 2)]
    for batch in earlier:
        head(batch, torch.zeros(7, dtype=torch.long))
    loss = head(embeddings, labels)
    with_margin = slow_adaface(margin, slow_qualities([*earlier, embeddings]))
    slow = slow_margin_loss(head.weight, embeddings, labels, scale, smoothing, with_margin)
    assert loss.item() == pytest.approx(slow, rel=1e-6)
    finite_gradient(loss, embeddings, head.weight)


def test_adaface_forgets_early_batches():
    head, labels = head_of("adaface"), torch.zeros(6, dtype=torch.long)
    batches = [(1 + number % 3) * drawn(6, 6, seed=number) for number in range(130)]
    for batch in batches:
        head(batch, labels)
    torch.testing.assert_close(head._quality(batches[-1])[:5], torch.tensor(slow_qualities([*batches, batches[-1]])[:5]).double())


def test_adaface_pushes_long_embeddings_when_hard_and_short_ones_when_easy():
    """Figure 3 of the paper: gradients of long embeddings grow with the angle, those of short ones fall."""
    head = head_of("adaface", scale=1, margin=0.4).eval()
    head.length_mean.fill_(10)
    head.length_std.fill_(1)
    steepness = {}
    for length in (13.0, 7.0):
        for angle in (0.6, 1.4):
            cosine = torch.tensor([[math.cos(angle)]], dtype=torch.float64, requires_grad=True)
            quality = head._quality(torch.tensor([[length, 0, 0, 0, 0, 0]], dtype=torch.float64))
            head._adaface(cosine, quality[:, None]).sum().backward()
            steepness[length, angle] = cosine.grad.item()
    assert steepness[13.0, 1.4] > steepness[13.0, 0.6]
    assert steepness[7.0, 1.4] < steepness[7.0, 0.6]


def test_adaface_learns_lengths_in_training_only_and_keeps_them():
    head, (embeddings, labels) = head_of("adaface"), faces_and_labels()
    head(embeddings, labels)
    head(embeddings[:1], labels[:1])  # a last batch of one face has no spread
    before = {key: value.clone() for key, value in head.state_dict().items()}
    lengths = embeddings.detach().norm(dim=1)
    torch.testing.assert_close(before["length_mean"], lengths.mean())
    torch.testing.assert_close(before["length_std"], lengths.std())
    loss = head.eval()(9 * embeddings, labels)
    torch.testing.assert_close(head.state_dict(), before)
    resumed = head_of("adaface").eval()
    resumed.load_state_dict(before)
    assert resumed(9 * embeddings, labels).item() == loss.item()
    assert list(head_of("arcface").state_dict()) == list(head_of("cosface").state_dict()) == ["weight"]


@pytest.mark.parametrize("kind", ["arcface", "cosface", "adaface"])
def test_margin_heads_at_their_ends(kind):
    """On a class centre, and right opposite, where arccos has no gradient."""
    head = head_of(kind, classes=2, size=4)
    nn.init.eye_(head.weight)
    on = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    loss = head(on, torch.tensor([0, 0]))
    loss.backward()
    assert bool(torch.isfinite(on.grad).all()) and math.isfinite(loss.item())
    torch.testing.assert_close(head.cosines(on.detach())[0], torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_arcface_still_pulls_a_face_far_from_its_class():
    """Where θ + m is beyond π, cos(θ + m) itself would push it further away, and a clamp would leave it there."""
    cosines = torch.linspace(-0.999, 0.999, 200, dtype=torch.float64)[:, None].requires_grad_()
    logits = head_of("arcface")._arcface(cosines)
    logits.sum().backward()
    assert cosines.grad.min() > 0 and bool((logits.diff(dim=0) > 0).all())


@pytest.mark.parametrize("kind", ["arcface", "cosface", "adaface"])
def test_margin_heads_count_in_fp32_under_autocast(kind):
    torch.manual_seed(0)
    head, embeddings, labels = MarginHead(4, 64, 0.5, kind=kind, size=6).eval(), drawn(5, 6).bfloat16(), torch.arange(5) % 4
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(embeddings, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, head(embeddings.float(), labels))


@pytest.mark.parametrize("kind", ["arcface", "cosface", "adaface"])
def test_a_face_that_is_not_counted_teaches_nothing(kind):
    head, (embeddings, labels) = head_of(kind, scale=8).eval(), faces_and_labels()
    counted = torch.arange(len(labels)) % 2 == 0
    loss = head(embeddings, labels, counted)
    torch.testing.assert_close(loss, head(embeddings[counted], labels[counted]) * counted.double().mean())
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert bool((gradient[~counted] == 0).all()) and bool((gradient[counted].abs().amax(dim=1) > 0).all())
    assert head(embeddings, labels, counted & False).item() == 0


@pytest.mark.parametrize("kind", ["arcface", "cosface", "adaface"])
def test_every_class_gets_a_gradient(kind):
    head, (embeddings, labels) = head_of(kind, scale=8), faces_and_labels()
    for gradient in torch.autograd.grad(head(embeddings, labels), [embeddings, head.weight]):
        assert bool((gradient.abs().amax(dim=1) > 0).all())


@pytest.mark.parametrize("kind", ["arcface", "cosface", "adaface"])
def test_without_margin_every_head_is_a_cosine_softmax(kind):
    head = MarginHead(3, 10, 0.0, kind=kind, size=8)
    embeddings, labels = drawn(4, 8).float(), torch.tensor([0, 1, 2, 0])
    expected = nn.functional.cross_entropy(10 * head.cosines(embeddings), labels)
    torch.testing.assert_close(head(embeddings, labels), expected, atol=1e-4, rtol=1e-4)
    assert head.weight.norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_automatic_scale():
    assert automatic_scale(85_742) == pytest.approx(16.07, abs=0.01)  # MS1MV2
    assert automatic_scale(251) == pytest.approx(math.sqrt(2) * math.log(250))
    assert [automatic_scale(classes) for classes in (1, 2, 3, 10)] == [math.log(99)] * 4
    assert math.exp(automatic_scale(2)) / (math.exp(automatic_scale(2)) + 1) == pytest.approx(0.99)
    assert MarginHead(251, 0, 0.5, size=4).scale == automatic_scale(251)
    assert MarginHead(251, 64, 0.5, size=4).scale == 64


def test_margin_heads_refuse_what_they_cannot_be():
    with pytest.raises(ValueError, match=r"expected kind arcface, cosface, adaface, got 'sphereface'"):
        MarginHead(4, 64, 0.5, kind="sphereface")
    with pytest.raises(ValueError, match=r"expected scale and margin of 0 or more, got -1 and 0\.5"):
        MarginHead(4, -1, 0.5)
    with pytest.raises(ValueError, match=r"expected scale and margin of 0 or more, got 64 and -0\.5"):
        MarginHead(4, 64, -0.5)
    with pytest.raises(ValueError, match="classes: expected one or more, got 0"):
        automatic_scale(0)


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


def test_imprinted_centres_are_the_mean_directions():
    head, labels = MarginHead(3, 64.0, 0.5, size=4), torch.tensor([0, 0, 1, 2, 2])
    embeddings = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    head.imprint(7 * embeddings, labels)
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    for label in range(3):
        expected = unit[labels == label].mean(0)
        torch.testing.assert_close(head.weight[label].detach(), expected / expected.norm())
    with pytest.raises(ValueError, match=r"expected embeddings of every class, got none of \[2\]"):
        head.imprint(embeddings[:3], labels[:3])
