"""From HR to VLR by name, and reading a data set back."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import made_up_splits
from PIL import Image

from dsrkit.data.degrade import as_tensor, degrade, parse_size, to_8_bits, upscale
from dsrkit.data.faces import batches_of, open_split, read_pairs
from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import SyntheticSource

PLAIN = Migration(("16x16",), "bicubic-antialias", 0)


@pytest.fixture(scope="module")
def faces():
    source = SyntheticSource(3, 2)
    return np.stack(source.read(source.faces))


# --- degradation


@pytest.mark.parametrize("size", ["14x16", "16", "24x24", "32x32", "8", "112"])
def test_bicubic_antialias_is_pillow_s_bicubic(faces, size):
    width, height = parse_size(size)
    ours = (degrade(as_tensor(faces), size) * 255).permute(0, 2, 3, 1).numpy()
    theirs = np.stack([np.asarray(Image.fromarray(face).resize((width, height), Image.Resampling.BICUBIC)) for face in faces])
    assert ours.shape == theirs.shape == (6, height, width, 3)
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("size", [(14, 16), (16, 16), (32, 32)])
def test_direct_feed_is_pillow_s_bicubic(faces, size):
    small = [Image.fromarray(face).resize(size, Image.Resampling.BICUBIC) for face in faces]
    ours = (upscale(as_tensor(np.stack([np.asarray(one) for one in small]))) * 255).permute(0, 2, 3, 1).numpy()
    theirs = np.stack([np.asarray(one.resize((112, 112), Image.Resampling.BICUBIC)) for one in small])
    assert np.abs(ours - theirs).max() <= 1


def test_area_is_the_mean_of_blocks_and_aliased_bicubic_is_another(faces):
    hr = as_tensor(faces)
    blocks = hr.reshape(6, 3, 16, 7, 16, 7).mean((3, 5))
    torch.testing.assert_close(degrade(hr, "16", "area"), blocks, atol=0.51 / 255, rtol=0)
    assert (degrade(hr, "16", "bicubic-aliased") - degrade(hr, "16")).abs().max() > 0.02


def test_vlr_faces_are_bytes(faces):
    for degradation in ("bicubic-antialias", "bicubic-aliased", "area"):
        levels = degrade(as_tensor(faces), "16x16", degradation) * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert levels.min() >= 0 and levels.max() <= 255.001
    values = torch.tensor([-0.2, 0.5 / 255 + 1e-4, 1.3]).view(1, 3, 1, 1)
    assert torch.equal(to_8_bits(values).flatten(), torch.tensor([0, 1 / 255, 1]))


@pytest.mark.parametrize(
    ("size", "expected"), [("14x16", (14, 16)), ("16", (16, 16)), (" 24×32 ", (24, 32)), ("112", (112, 112))]
)
def test_sizes_are_width_by_height(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["3", "113", "16x", "x16", "16*16", "", "16x16x16", "-16"])
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match=r"expected width x height such as .*got"):
        parse_size(size)


def test_a_degradation_has_a_known_name(faces):
    with pytest.raises(ValueError, match=r"expected one of bicubic-antialias, .*got 'bicubic'"):
        degrade(as_tensor(faces), "16", "bicubic")


# --- reading


def test_open_split(tiny_dataset):
    faces = open_split(tiny_dataset, "train", "14x16")
    assert faces.hr.shape == (24, 112, 112, 3) and faces.vlr.shape == (24, 16, 14, 3)
    assert isinstance(faces.hr, np.memmap) and not faces.hr.flags.writeable
    assert faces.subject_to_id == {subject: number for number, subject in enumerate(sorted(set(faces.subjects)))}
    assert [faces.subject_to_id[subject] for subject in faces.subjects] == faces.labels.tolist()
    path = tiny_dataset / "train_processed" / "hr_images" / faces.names[5]
    assert np.array_equal(np.asarray(Image.open(path)), faces.hr[5])
    part = faces.rows(np.array([5, 2]))
    assert part.names == [faces.names[5], faces.names[2]] and np.array_equal(part.vlr[1], faces.vlr[2])
    assert len(faces.first(3)) == 3 and len(faces.first(0)) == 24


def test_open_split_says_what_is_missing(tiny_dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.csv\), got none\. Run 01_data_migration first"):
        open_split(tmp_path, "train", "16x16")
    with pytest.raises(ValueError, match=r"expected a split 'dev', got \['test', 'train', 'val'\]"):
        open_split(tiny_dataset, "dev", "16x16")
    with pytest.raises(ValueError, match=r"vlr_images_24x24, got VLR sizes \['14x16', '16x16'\]\. Add the size"):
        open_split(tiny_dataset, "train", "24x24")
    with pytest.raises(ValueError, match="expected width x height"):
        open_split(tiny_dataset, "train", "big")


def test_a_size_may_be_written_short(tmp_path):
    migrate(made_up_splits(6, 2), tmp_path / "set", Migration(("16",), "bicubic-antialias", 0))
    assert open_split(tmp_path / "set", "train", "16x16").vlr.shape[1:] == (16, 16, 3)
    assert open_split(tmp_path / "set", "train", "16").vlr.shape[1:] == (16, 16, 3)


def test_a_file_of_another_size_is_named(tmp_path):
    manifest = migrate(made_up_splits(6, 2), tmp_path, PLAIN)
    name = manifest.name[manifest.split == "train"].iloc[-1]
    Image.new("RGB", (16, 20)).save(tmp_path / "train_processed" / "vlr_images_16x16" / name)
    with pytest.raises(ValueError, match=rf"{name}: expected \(16, 16, 3\), got \(20, 16, 3\)\. Run stage 01 again"):
        open_split(tmp_path, "train", "16x16")
    assert not list((tmp_path / "packed").glob("train_vlr*"))


def test_read_pairs_gives_rows(tiny_dataset):
    faces = open_split(tiny_dataset, "val", "16x16")
    table = pd.read_csv(tiny_dataset / "val_pairs.csv")
    pairs, same, folds = read_pairs(tiny_dataset, "val", faces)
    assert len(pairs) == len(table) and np.array_equal(folds, table.fold)
    for (left, right), genuine, row in zip(pairs, same, table.itertuples(), strict=True):
        assert (faces.names[left], faces.names[right]) == (row.left, row.right)
        assert (faces.subjects[left] == faces.subjects[right]) == genuine
    few, kinds, _ = read_pairs(tiny_dataset, "val", faces.first(4), limited=True)
    assert 0 < len(few) < len(pairs) and few.max() < 4 and len(kinds) == len(few)


def test_pairs_that_cannot_be_read_are_no_pairs(tiny_dataset, tmp_path):
    faces = open_split(tiny_dataset, "val", "16x16")
    with pytest.raises(ValueError, match=r"pairs of faces of the split, got \d+ that name others, such as"):
        read_pairs(tiny_dataset, "val", faces.first(4))
    with pytest.raises(FileNotFoundError, match=r"val_pairs\.csv.*01_data_migration"):
        read_pairs(tmp_path, "val", faces)
    table = pd.read_csv(tiny_dataset / "val_pairs.csv", dtype=str)
    for word in ("", "no", "Ture"):  # NumPy takes any text for True
        table.assign(same=[word, *table.same[1:]]).to_csv(tmp_path / "val_pairs.csv", index=False)
        with pytest.raises(ValueError, match=rf"val_pairs\.csv, line 2: expected same to be True or False, got '{word}'"):
            read_pairs(tmp_path, "val", faces)


def test_batches_of():
    assert [(part.start, part.stop) for part in batches_of(5, 2)] == [(0, 2), (2, 4), (4, 5)]
    assert list(batches_of(0, 2)) == []
