"""Enrol, identify, answer unknown; and inputs that must not pass."""

import numpy as np
import pytest
import torch
from torch import nn

from dsrkit.data.degrade import as_tensor, mirror, to_8_bits, upscale
from dsrkit.data.faces import open_split
from dsrkit.models import load_dsr, load_edgeface
from dsrkit.recognition import UNKNOWN, Recognizer, embed, quality, restore
from dsrkit.training.teacher import fresh_edgeface


@pytest.fixture(scope="module")
def edgeface(edgeface_path):
    return load_edgeface(edgeface_path)


@pytest.fixture(scope="module")
def dsr(dsr_path):
    return load_dsr(dsr_path)


@pytest.fixture(scope="module")
def faces(tiny_dataset):
    """One face of each of the six training people."""
    split = open_split(tiny_dataset, "train", "16x16")
    return split.rows(np.unique(split.labels, return_index=True)[1])


def test_who_was_enrolled_is_found_again(edgeface, faces):
    hr = as_tensor(faces.hr)
    recognizer = Recognizer(edgeface, threshold=0.999)
    recognizer.enroll(hr, faces.subjects)
    table = recognizer.identify(hr)
    assert list(table.columns) == ["identity", "score", "nearest", "runner_up"]
    assert table.identity.tolist() == faces.subjects
    assert np.allclose(table.score, 1, atol=1e-5)


def test_scores_are_cosines_and_the_runner_up_is_another_identity(edgeface, faces):
    recognizer = Recognizer(edgeface, threshold=-1)
    twice = [*faces.subjects[:3], *faces.subjects[:3]]  # two faces each of three identities
    recognizer.enroll(as_tensor(faces.hr), twice)
    probes = as_tensor(faces.vlr)
    table = recognizer.identify(probes)
    with torch.inference_mode():
        gallery, asked = edgeface(as_tensor(faces.hr)), edgeface(upscale(probes))
    for row, embedding in zip(table.itertuples(), asked, strict=True):
        best: dict[str, float] = {}
        for one, name in zip(gallery, twice, strict=True):
            best[name] = max(best.get(name, -2.0), float(one @ embedding))
        ranked = sorted(best, key=lambda name: -best[name])
        assert (row.identity, row.nearest, row.runner_up) == (ranked[0], ranked[0], ranked[1])
        assert row.score == pytest.approx(best[ranked[0]], abs=1e-5)


def test_below_the_threshold_is_unknown(edgeface, faces):
    recognizer = Recognizer(edgeface, threshold=-1)
    recognizer.enroll(as_tensor(faces.hr[:3]), faces.subjects[:3])
    scores = recognizer.identify(as_tensor(faces.vlr)).score
    recognizer.threshold = float(np.median(scores)) + 1e-7
    table = recognizer.identify(as_tensor(faces.vlr))
    assert (table.identity == UNKNOWN).tolist() == (scores < recognizer.threshold).tolist()
    assert 0 < (table.identity == UNKNOWN).sum() < 6
    assert table.nearest.isin(faces.subjects).all()  # who it would have been is still told
    recognizer.threshold = float(scores[0])
    assert recognizer.identify(as_tensor(faces.vlr[:1])).identity[0] != UNKNOWN  # at the threshold is accepted


def test_one_identity_has_no_runner_up(edgeface, faces):
    recognizer = Recognizer(edgeface, threshold=-1)
    recognizer.enroll(as_tensor(faces.hr[:2]), ["a", "a"])
    assert recognizer.identify(as_tensor(faces.hr[:2])).runner_up.tolist() == [None, None]


def test_enrolling_adds_to_the_gallery(edgeface, faces):
    recognizer = Recognizer(edgeface)
    for row in range(2):
        recognizer.enroll(as_tensor(faces.hr[row : row + 1]), [faces.subjects[row]])
    assert recognizer.labels == faces.subjects[:2] and recognizer.gallery.shape == (2, 512)


def test_vlr_faces_go_through_dsr_and_hr_faces_only_when_asked(edgeface, dsr, faces):
    vlr, hr = as_tensor(faces.vlr), as_tensor(faces.hr)
    direct, restoring, asked = Recognizer(edgeface), Recognizer(edgeface, dsr), Recognizer(edgeface, dsr)
    for recognizer in (direct, restoring):
        recognizer.enroll(hr, faces.subjects)
    asked.enroll(hr, faces.subjects, through_dsr=True)
    assert np.array_equal(direct.gallery, restoring.gallery)
    assert not np.allclose(asked.gallery, restoring.gallery, atol=1e-4)
    direct.enroll(vlr, faces.subjects)
    restoring.enroll(vlr, faces.subjects)
    assert np.allclose(direct.gallery[6:], embed(restore(faces.vlr, None), edgeface), atol=1e-6)
    assert np.allclose(restoring.gallery[6:], embed(restore(faces.vlr, dsr), edgeface), atol=1e-6)
    assert not np.allclose(direct.gallery[6:], restoring.gallery[6:], atol=1e-4)


def test_another_edgeface_may_embed_hr_faces(edgeface, dsr, faces):
    another = fresh_edgeface()
    recognizer = Recognizer(edgeface, dsr, hr_edgeface=another)
    recognizer.enroll(as_tensor(faces.hr), faces.subjects)
    recognizer.enroll(as_tensor(faces.vlr), faces.subjects)
    recognizer.enroll(as_tensor(faces.hr), faces.subjects, through_dsr=True)
    count = len(faces)
    assert np.allclose(recognizer.gallery[:count], embed(faces.hr, another), atol=1e-6)
    assert np.allclose(recognizer.gallery[count : 2 * count], embed(restore(faces.vlr, dsr), edgeface), atol=1e-6)
    assert np.allclose(recognizer.gallery[2 * count :], embed(restore(faces.hr, dsr), edgeface), atol=1e-6)


def test_tta_adds_the_mirror_image_before_normalising(edgeface, faces):
    images = as_tensor(faces.hr)
    with torch.inference_mode():
        raw = edgeface.embed(images) + edgeface.embed(images.flip(3))
    expected = nn.functional.normalize(raw, dim=1).numpy()
    found = embed(faces.hr, edgeface, mirror(faces.hr))
    assert np.allclose(found, expected, atol=1e-5)
    assert np.allclose(embed(mirror(faces.hr), edgeface, faces.hr), found, atol=1e-5)
    assert not np.allclose(embed(faces.hr, edgeface), found, atol=1e-4)
    recognizer = Recognizer(edgeface, tta=True)
    recognizer.enroll(images, faces.subjects)
    assert np.allclose(recognizer.gallery, found, atol=1e-6)


@torch.inference_mode()
def test_with_tta_a_vlr_face_is_mirrored_before_it_is_restored(edgeface, dsr, faces):
    vlr = as_tensor(faces.vlr)
    restored = [to_8_bits(dsr(vlr)), to_8_bits(dsr(vlr.flip(3)))]
    expected = nn.functional.normalize(sum(edgeface.embed(images) for images in restored), dim=1).numpy()
    recognizer = Recognizer(edgeface, dsr, tta=True)
    recognizer.enroll(vlr, faces.subjects)
    assert np.allclose(recognizer.gallery, expected, atol=1e-5)
    once = restore(faces.vlr, dsr)  # a DSR does not draw a mirrored face as the mirror image of what it drew
    assert not np.allclose(recognizer.gallery, embed(once, edgeface, mirror(once)), atol=1e-4)
    mirrored = Recognizer(edgeface, dsr, tta=True)
    mirrored.enroll(vlr.flip(3), faces.subjects)
    assert np.allclose(recognizer.gallery, mirrored.gallery, atol=1e-5)


@pytest.mark.parametrize("threshold", [-1.1, 1.5, float("nan")])
def test_a_threshold_is_a_cosine(edgeface, threshold):
    with pytest.raises(ValueError, match="expected a cosine from -1 to 1, got"):
        Recognizer(edgeface, threshold=threshold)


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 1, 16, 16), torch.rand(3, 16, 16), torch.rand(2, 16, 16, 3), torch.rand(0, 3, 16, 16),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8), np.zeros((2, 3, 16, 16), np.float32),
    ],
    ids=["grey", "one", "channels last", "none", "bytes", "numpy"],
)  # fmt: skip
def test_other_shapes_and_types_are_refused(edgeface, images):
    recognizer = Recognizer(edgeface)
    with pytest.raises(ValueError, match=r"Expected a tensor of images \[N, 3, H, W\].*got .*as_tensor turns bytes"):
        recognizer.enroll(images, ["a"] * len(images))
    assert recognizer.labels == [] and len(recognizer.gallery) == 0


@pytest.mark.parametrize("value", [-0.1, 1.01, 255.0, float("nan"), float("inf")])
def test_values_outside_0_to_1_are_refused(edgeface, value):
    images = torch.full((1, 3, 16, 16), 0.5)
    images[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=r"values in \[0, 1\], got others\. Divide bytes by 255"):
        Recognizer(edgeface).enroll(images, ["a"])


def test_an_empty_gallery_and_labels_that_do_not_fit(edgeface, faces):
    recognizer = Recognizer(edgeface)
    with pytest.raises(ValueError, match=r"faces in the gallery, got none\. Call enroll"):
        recognizer.identify(as_tensor(faces.vlr))
    with pytest.raises(ValueError, match="one label an image, got 1 labels for 6 images"):
        recognizer.enroll(as_tensor(faces.hr), ["a"])


def test_restore_and_embed_work_in_batches(edgeface, dsr, faces, monkeypatch):
    whole = restore(faces.vlr, dsr), embed(faces.hr, edgeface)
    monkeypatch.setattr("dsrkit.recognition.BATCH", 4)
    assert np.abs(restore(faces.vlr, dsr).astype(int) - whole[0]).max() <= 1
    assert np.allclose(embed(faces.hr, edgeface), whole[1], atol=1e-5)
    assert restore(faces.vlr[:0], None).shape == (0, 112, 112, 3) and embed(faces.hr[:0], edgeface).shape == (0, 512)


def test_restoring_without_dsr_is_bicubic(faces):
    expected = (upscale(as_tensor(faces.vlr)) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(restore(faces.vlr, None), expected)


def test_quality(faces):
    same = quality(faces.hr, faces.hr)
    assert same["ssim"] == pytest.approx(1)
    off = np.clip(faces.hr.astype(int) + np.where(faces.hr < 128, 10, -10), 0, 255).astype(np.uint8)
    assert quality(off, faces.hr)["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
