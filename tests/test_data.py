"""From files to splits to packed arrays: sizes, names, errors, leaks, and nothing dropped in silence."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import made_up_splits
from PIL import Image

from dsrkit.data.degrade import as_tensor, degrade, parse_size, to_8_bits, upscale
from dsrkit.data.faces import batches_of, open_split, read_pairs
from dsrkit.data.migration import Migration, dataset_hash, migrate
from dsrkit.data.pairs import make_pairs, read_lfw_pairs
from dsrkit.data.sources import Face, FolderSource, ImageError, SyntheticSource, read_hr, subject_of_name
from dsrkit.data.splits import check_disjoint, plan_splits, split_subjects

PLAIN = Migration(("16x16",), "bicubic-antialias", 0)


@pytest.fixture(scope="module")
def faces():
    source = SyntheticSource(3, 2)
    return np.stack(source.read(source.faces))


def write(path, array=None, mode="RGB", size=(112, 112)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, 100 if len(mode) == 1 else None) if array is None else Image.fromarray(array)
    image.save(path)
    return path


def folder_of(root, people, images=2):
    generator = np.random.default_rng(0)
    for person in people:
        for number in range(1, images + 1):
            write(root / person / f"{person}_{number:04d}.png", generator.integers(0, 256, (112, 112, 3), dtype=np.uint8))
    return FolderSource(root)


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


# --- sources


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("007_01_01_010_00_crop_128.png", "007"), ("1001_0001_lfw.png", "1001"), ("250_04_20_051_07_crop_112.jpg", "250"),
        ("Aaron_Eckhart_0001.jpg", None), ("07_01_01_010_00_crop_128.png", None), ("1001_01_lfw.png", None), ("face.png", None),
    ],
)  # fmt: skip
def test_subject_of_name(name, subject):
    assert subject_of_name(name) == subject


def test_folders_of_subjects(tmp_path):
    write(tmp_path / "Aaron_Eckhart" / "Aaron_Eckhart_0001.jpg")
    write(tmp_path / "Bo" / "IMG_7.PNG")
    (tmp_path / "Bo" / "notes.txt").write_text("no face")
    found = {(face.subject, face.name) for face in FolderSource(tmp_path).faces}
    assert found == {("Aaron_Eckhart", "Aaron_Eckhart_0001.png"), ("Bo", "Bo_IMG_7.png")}


def test_one_flat_folder(tmp_path):
    for name in ("007_01_01_051_07_crop_128.png", "1001_0001_lfw.png", "1001_0002_lfw.png"):
        write(tmp_path / name)
    assert [face.subject for face in FolderSource(tmp_path).faces] == ["007", "1001", "1001"]


def test_folders_that_cannot_serve(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere, got nothing there\. Give"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected images in folders of subjects, got none"):
        FolderSource(tmp_path)
    write(tmp_path / "holiday.png")
    with pytest.raises(ValueError, match=r"got 'holiday\.png' beside them\. Move it"):
        FolderSource(tmp_path)


def test_two_files_of_one_name(tmp_path):
    write(tmp_path / "Bo" / "a.png")
    write(tmp_path / "Bo" / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.png and .*a\.jpg would both be named Bo_a\.png\. Rename"):
        FolderSource(tmp_path)


def test_read_hr_of_good_files(tmp_path, faces):
    assert np.array_equal(read_hr(write(tmp_path / "a.png", faces[0])), faces[0])
    grey = read_hr(write(tmp_path / "b.png", mode="L"))
    assert grey.shape == (112, 112, 3) and (grey == 100).all()
    large = Image.fromarray(faces[0]).resize((160, 160), Image.Resampling.BICUBIC)
    large.save(tmp_path / "c.png")
    assert np.array_equal(read_hr(tmp_path / "c.png"), np.asarray(large.resize((112, 112), Image.Resampling.BICUBIC)))


def spoilt(tmp_path, faces, what):
    path = tmp_path / "bad.png"
    if what == "zero bytes":
        path.write_bytes(b"")
    elif what == "no image":
        path.write_text("not an image at all")
    elif what in ("truncated png", "truncated jpeg"):
        whole = io.BytesIO()
        Image.fromarray(faces[0]).save(whole, format=what.split()[1])
        path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    elif what == "16 bit":
        Image.fromarray(np.full((112, 112), 40_000, np.uint16)).save(path)
    elif what in ("RGBA", "LA", "P", "1"):
        Image.new(what, (112, 112)).save(path)
    elif what == "CMYK":
        path = tmp_path / "bad.jpg"
        Image.new("CMYK", (112, 112)).save(path)
    else:
        width, height = map(int, what.split("x"))
        Image.new("RGB", (width, height)).save(path)
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        *((what, "got a file that cannot be read") for what in ("zero bytes", "no image", "truncated png", "truncated jpeg")),
        *((what, f"expected 8-bit RGB or grey, got mode {what}") for what in ("RGBA", "LA", "P", "1", "CMYK")),
        ("16 bit", "expected 8-bit RGB or grey, got mode I;16"),
        ("160x120", "expected an aligned square face of at least 112x112, got 160x120"),
        ("111x111", "got 111x111. Align and crop it first"),
    ],
)
def test_read_hr_says_what_is_wrong_with_a_file(tmp_path, faces, what, message):
    path = spoilt(tmp_path, faces, what)
    with pytest.raises(ImageError, match=rf"^{path.name}: ") as caught:
        read_hr(path)
    assert message in str(caught.value)


def test_made_up_source():
    source = SyntheticSource(3, 2, seed=5)
    assert len(source.faces) == 6 and len({face.name for face in source.faces}) == 6
    assert len({face.subject for face in source.faces}) == 3
    assert all(subject_of_name(face.name) == face.subject for face in source.faces)
    images = source.read(source.faces[2:4])
    assert np.array_equal(images[1], SyntheticSource(3, 2, seed=5).read([source.faces[3]])[0])
    assert not np.array_equal(images[1], SyntheticSource(3, 2, seed=6).read([source.faces[3]])[0])
    with pytest.raises(ValueError, match="at least one subject and one image each, got 0 and 2"):
        SyntheticSource(0, 2)


# --- splits


def test_subjects_are_shared_out_once():
    subjects = [f"{number:03d}" for number in range(40)] * 3
    shares = split_subjects(subjects, 0.15, 0.3, seed=4)
    assert {split: len(people) for split, people in shares.items()} == {"train": 22, "val": 6, "test": 12}
    assert sorted(subject for people in shares.values() for subject in people) == sorted(set(subjects))
    assert shares == split_subjects(subjects[::-1], 0.15, 0.3, seed=4)
    assert shares != split_subjects(subjects, 0.15, 0.3, seed=5)


def test_a_small_fraction_is_at_least_one_subject_and_none_is_none():
    shares = split_subjects(["a", "b", "c"], 0.01, 0.0, seed=0)
    assert (len(shares["train"]), len(shares["val"]), len(shares["test"])) == (2, 1, 0)


@pytest.mark.parametrize(("people", "fractions"), [(["a", "b"], (0.5, 0.5)), (["a"], (0.1, 0.0)), ([], (0.1, 0.1))])
def test_somebody_must_be_left_to_train_on(people, fractions):
    with pytest.raises(ValueError, match=rf"left for training, got {len(people)} subjects .*Lower the fractions"):
        split_subjects(people, *fractions, seed=0)


def test_a_subject_in_two_splits_is_a_leak(tmp_path):
    splits = made_up_splits(4, 1)
    source, train = splits["train"]
    leaking = splits | {"test": (source, [*splits["test"][1], train[0]])}
    with pytest.raises(ValueError, match=rf"Leak: subject {train[0].subject} stands in train and in test\..*remove"):
        migrate(leaking, tmp_path / "set", PLAIN)
    assert not (tmp_path / "set" / "manifest.csv").exists()
    check_disjoint(splits)


def test_plan_of_made_up_faces(stage_params):
    params = stage_params("01_data_migration", subjects=8, images_per_subject=2, validation_fraction=0.25, test_fraction=0.25)
    splits, pairs = plan_splits(params)
    assert {split: len(faces) for split, (_, faces) in splits.items()} == {"train": 8, "val": 4, "test": 4}
    assert pairs == {}
    without, _ = plan_splits(params.model_copy(update={"test_fraction": 0.0}))
    assert set(without) == {"train", "val"}


def test_plan_of_folders_with_a_test_folder_and_its_pairs(root, stage_params):
    folder_of(root / "faces", ["A", "B", "C", "D"])
    folder_of(root / "lfw", ["X", "Y"])
    (root / "pairs.txt").write_text("1\t1\nX\t1\t2\nX\t1\tY\t2\n")
    changes = {
        "source": "folder",
        "source_root": "faces",
        "validation_fraction": 0.5,
        "test_source_root": "lfw",
        "test_pairs": "pairs.txt",
    }
    params = stage_params("01_data_migration", **changes)
    splits, pairs = plan_splits(params)
    assert {face.subject for face in splits["test"][1]} == {"X", "Y"}
    assert len(splits["train"][1]) == 4 and len(splits["val"][1]) == 4
    manifest = migrate(splits, root / "set", PLAIN, pairs)
    assert set(manifest.split) == {"train", "val", "test"}
    assert pd.read_csv(root / "set" / "test_pairs.csv").same.tolist() == [True, False]
    folder_of(root / "lfw", ["A"])
    with pytest.raises(ValueError, match="Leak: subject A"):
        plan_splits(params)


# --- migration


def test_both_sides_of_every_pair_lie_under_one_name(tiny_dataset):
    manifest = pd.read_csv(tiny_dataset / "manifest.csv", dtype=str)
    assert len(manifest) == 48
    for split in ("train", "val", "test"):
        names = set(manifest.name[manifest.split == split])
        folder = tiny_dataset / f"{split}_processed"
        for part, size in (("hr_images", (112, 112)), ("vlr_images_16x16", (16, 16)), ("vlr_images_14x16", (14, 16))):
            assert {path.name for path in (folder / part).iterdir()} == names
            with Image.open(folder / part / min(names)) as image:
                assert image.size == size  # width × height
    assert not set(manifest.subject[manifest.split == "train"]) & set(manifest.subject[manifest.split != "train"])
    assert len(pd.read_csv(tiny_dataset / "set_aside.csv")) == 0


def test_vlr_files_are_the_degraded_hr_files(tiny_dataset):
    for size in ("16x16", "14x16"):
        faces = open_split(tiny_dataset, "val", size)
        again = (degrade(as_tensor(faces.hr), size) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        assert np.array_equal(again, faces.vlr)


def test_files_that_cannot_serve_are_set_aside_and_named(tmp_path):
    source = folder_of(tmp_path / "faces", ["A", "B"], images=3)
    (tmp_path / "faces" / "A" / "A_0002.png").write_bytes(b"")
    Image.new("RGBA", (112, 112)).save(tmp_path / "faces" / "A" / "A_0003.png")
    splits = {"train": (source, source.faces)}
    manifest = migrate(splits, tmp_path / "set", PLAIN)
    assert sorted(manifest.name) == ["A_0001.png", "B_0001.png", "B_0002.png", "B_0003.png"]
    aside = pd.read_csv(tmp_path / "set" / "set_aside.csv")
    assert aside.name.tolist() == ["A_0002.png", "A_0003.png"] and aside.subject.tolist() == ["A", "A"]
    assert "cannot be read" in aside.reason[0] and "mode RGBA" in aside.reason[1]
    assert aside.origin[0].endswith("faces/A/A_0002.png")
    assert not (tmp_path / "set" / "train_processed" / "hr_images" / "A_0002.png").exists()


def test_a_split_without_a_usable_face_is_an_error(tmp_path):
    source = folder_of(tmp_path / "faces", ["A", "B"])
    splits = {"train": (source, source.faces[:2]), "test": (source, [])}
    with pytest.raises(ValueError, match="test: expected faces, got none"):
        migrate(splits, tmp_path / "set", PLAIN)
    for path in (tmp_path / "faces").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train: expected faces, got none.*cannot be read"):
        migrate({"train": (source, source.faces)}, tmp_path / "other", PLAIN)
    assert not (tmp_path / "other" / "manifest.csv").exists()


def test_migrating_again_does_nothing_and_other_settings_are_refused(tmp_path):
    splits, dataset = made_up_splits(6, 2), tmp_path / "set"
    first = migrate(splits, dataset, PLAIN)
    times = {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()}
    assert migrate(splits, dataset, PLAIN).equals(first)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()} == times
    for other in (Migration(("24x24",), "bicubic-antialias", 0), Migration(("16x16",), "area", 0)):
        with pytest.raises(ValueError, match="expected an empty folder or this very data set, got one made with other"):
            migrate(splits, dataset, other)
    with pytest.raises(ValueError, match="made with other settings"):
        migrate(made_up_splits(6, 3), dataset, PLAIN)


def test_a_migration_that_was_interrupted_starts_again(tmp_path):
    splits, dataset = made_up_splits(6, 2), tmp_path / "set"
    first = migrate(splits, dataset, PLAIN)
    (dataset / "manifest.csv").unlink()
    assert migrate(splits, dataset, PLAIN).equals(first)


def test_the_number_of_threads_changes_nothing(tmp_path):
    one = migrate(made_up_splits(20, 2), tmp_path / "1", PLAIN, workers=1)
    three = migrate(made_up_splits(20, 2), tmp_path / "3", PLAIN, workers=3)
    assert one.equals(three)
    name = f"train_processed/vlr_images_16x16/{one.name[one.split == 'train'].iloc[0]}"
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


@pytest.mark.parametrize("subject", ["NA", "null", "007", "nan", "1e5", "True"])
def test_subjects_keep_odd_names(tmp_path, subject):
    source = folder_of(tmp_path / "faces", [subject, "B"], images=1)
    splits = {"train": (source, source.faces)}
    migrate(splits, tmp_path / "set", PLAIN)
    assert set(migrate(splits, tmp_path / "set", PLAIN).subject) == {subject, "B"}
    assert set(open_split(tmp_path / "set", "train", "16x16").subject_to_id) == {subject, "B"}


def test_subjects_with_one_image_train_but_make_no_pairs(tmp_path):
    generator = np.random.default_rng(0)
    for person, images in {"A": 1, "B": 1, "C": 3, "D": 2, "E": 1}.items():
        for number in range(images):
            write(tmp_path / "faces" / person / f"{number}.png", generator.integers(0, 256, (112, 112, 3), dtype=np.uint8))
    source = FolderSource(tmp_path / "faces")
    splits = {
        "train": (source, [face for face in source.faces if face.subject in "AB"]),
        "val": (source, [face for face in source.faces if face.subject in "CDE"]),
    }
    assert len(migrate(splits, tmp_path / "set", PLAIN)) == 8
    pairs = pd.read_csv(tmp_path / "set" / "val_pairs.csv")
    assert not pairs.left.str.startswith("E").any() and len(pairs) == 8
    alone = {"train": splits["train"], "val": (source, [face for face in source.faces if face.subject in "CE"])}
    with pytest.raises(ValueError, match=r"expected two subjects with two images or more, got 1 of 2 subjects\. Add images"):
        migrate(alone, tmp_path / "alone", PLAIN)


def test_pairs_of_other_images_are_refused(tmp_path):
    source = folder_of(tmp_path / "faces", ["A", "B"])
    pairs = pd.DataFrame({"left": ["A_0001.png"], "right": ["Z_0001.png"], "same": [False], "fold": [0]})
    splits = {"test": (source, source.faces)}
    with pytest.raises(ValueError, match=r"got 1 that are not there, such as Z_0001\.png\. Give the list"):
        migrate(splits, tmp_path / "set", PLAIN, {"test": pairs})


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


def test_arrays_are_packed_once_and_again_when_the_data_set_changes(tmp_path):
    dataset = tmp_path / "set"
    manifest = migrate(made_up_splits(6, 2), dataset, PLAIN)
    whole = open_split(dataset, "train", "16x16")
    packed = {path: path.stat().st_mtime_ns for path in (dataset / "packed").iterdir()}
    assert len(packed) == 2
    open_split(dataset, "train", "16x16")
    assert {path: path.stat().st_mtime_ns for path in (dataset / "packed").iterdir()} == packed
    before = dataset_hash(dataset)
    manifest[manifest.name != whole.names[0]].to_csv(dataset / "manifest.csv", index=False)
    smaller = open_split(dataset, "train", "16x16")
    assert dataset_hash(dataset) != before and len(list((dataset / "packed").iterdir())) == 4
    assert len(smaller.hr) == len(whole) - 1 and np.array_equal(smaller.hr[0], whole.hr[1])


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
    few, kinds, _ = read_pairs(tiny_dataset, "val", faces.first(4))
    assert 0 < len(few) < len(pairs) and few.max() < 4 and len(kinds) == len(few)


def test_batches_of():
    assert [(part.start, part.stop) for part in batches_of(5, 2)] == [(0, 2), (2, 4), (4, 5)]
    assert list(batches_of(0, 2)) == []


# --- pairs


def test_lfw_pairs(tmp_path):
    lines = ["2\t1", "Abe\t1\t4", "Abe\t1\tBo_Li\t12", "Cy\t2\t3", "Cy\t3\tAbe\t1"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    table = read_lfw_pairs(tmp_path / "pairs.txt")
    assert table.values.tolist() == [
        ["Abe_0001.png", "Abe_0004.png", True, 0], ["Abe_0001.png", "Bo_Li_0012.png", False, 0],
        ["Cy_0002.png", "Cy_0003.png", True, 1], ["Cy_0003.png", "Abe_0001.png", False, 1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a first line such as '10 300', got"),
        ("ten\t1\n", "expected a first line such as '10 300', got"),
        (
            "1\t1\nAbe\t1\t2\nAbe\t1\n",
            "line 3: expected a name, then numbers and names, 3 or 4 fields with tabs between, got 'Abe",
        ),
        ("1\t1\nAbe 1 2\nAbe\t1\tBo\t1\n", "line 2: expected a name"),
        ("1\t1\nAbe\tone\t2\nAbe\t1\tBo\t1\n", "line 2: expected"),
        ("1\t2\nAbe\t1\t2\nAbe\t1\tBo\t1\n", "expected 4 pairs by its first line, got 2"),
    ],
)
def test_lfw_pairs_that_do_not_fit(tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=r"pairs\.txt") as caught:
        read_lfw_pairs(tmp_path / "pairs.txt")
    assert message in str(caught.value)


def test_lfw_pairs_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pairs\.txt, got nothing there"):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_the_real_lfw_pairs(lfw_pairs):
    table = read_lfw_pairs(lfw_pairs)
    assert len(table) == 6000 and table.groupby(["fold", "same"]).size().tolist() == [300] * 20


def named(counts):
    subjects = [subject for subject, count in counts.items() for _ in range(count)]
    return [f"{subject}/{number}" for number, subject in enumerate(subjects)], subjects


def test_made_pairs_are_balanced_and_their_folds_share_no_subject():
    names, subjects = named({f"s{number}": 1 + number % 4 for number in range(47)})
    table = make_pairs(names, subjects, seed=3, folds=5, most=100)
    of = dict(zip(names, subjects, strict=True))
    seen: dict[str, int] = {}
    for row in table.itertuples():
        assert row.left != row.right and (of[row.left] == of[row.right]) == row.same
        for name in (row.left, row.right):
            assert seen.setdefault(of[name], row.fold) == row.fold
    assert table.fold.nunique() == 5
    for _, fold in table.groupby("fold"):
        assert fold.same.mean() == 0.5 and 0 < fold.same.sum() <= 20
        assert not fold.duplicated(["left", "right"]).any()
    assert table.equals(make_pairs(names, subjects, seed=3, folds=5, most=100))
    assert not table.equals(make_pairs(names, subjects, seed=4, folds=5, most=100))


def test_fewer_folds_for_fewer_subjects():
    assert make_pairs(*named({"a": 2, "b": 2, "c": 3, "d": 2, "e": 2})).fold.nunique() == 2
    with pytest.raises(ValueError, match="got 1 of 3 subjects"):
        make_pairs(*named({"a": 4, "b": 1, "c": 1}))


def test_a_face_is_a_plain_record():
    assert json.dumps(vars(Face("007", "a.png", "somewhere"))) == '{"subject": "007", "name": "a.png", "origin": "somewhere"}'
