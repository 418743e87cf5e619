"""One pass from sources to a data set: the right files, whatever stops it on the way, and nothing dropped in silence."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import made_up_splits
from photos import contents, folder_of, smooth, write
from PIL import Image

from dsrkit.data import onepass
from dsrkit.data.degrade import as_bytes, as_tensor, degrade, file_draws
from dsrkit.data.faces import open_split
from dsrkit.data.layout import read_flags, read_set_aside, read_settings, set_aside_picture
from dsrkit.data.migration import Migration, dataset_hash, degradation_of, hr_folder, migrate, read_manifest, vlr_folder
from dsrkit.data.sources import FolderSource, SyntheticSource, open_source
from dsrkit.data.workers import in_order

PLAIN = Migration(("16x16",), "bicubic-antialias", 0)
TWO_SIZES = Migration(("16x16", "24x24"), "bicubic-antialias", 0)


def whole(dataset: Path) -> dict[str, bytes]:
    """The files of a data set that must not depend on how it was made."""
    return {path: content for path, content in contents(dataset).items() if not path.startswith("packed")}


def made_by(monkeypatch) -> list[str]:
    """The paths that are written from now on, without the temporary part of their names."""
    written, save = [], onepass._save_all

    def spy(folder, names, images):
        written.extend(f"{folder.name}/{name}" for name in names)
        save(folder, names, images)

    monkeypatch.setattr(onepass, "_save_all", spy)
    return written


# --- what is written


def test_both_sides_of_every_pair_lie_under_one_name(tiny_dataset):
    manifest = read_manifest(tiny_dataset)
    assert len(manifest) == 48
    for split in ("train", "val", "test"):
        names = set(manifest.name[manifest.split == split])
        folder = tiny_dataset / f"{split}_processed"
        for part, size in (("hr_images", (112, 112)), ("vlr_images_16x16", (16, 16)), ("vlr_images_14x16", (14, 16))):
            assert {path.name for path in (folder / part).iterdir()} == names
            with Image.open(folder / part / min(names)) as image:
                assert image.size == size  # width × height
    assert not set(manifest.subject[manifest.split == "train"]) & set(manifest.subject[manifest.split != "train"])
    assert len(read_set_aside(tiny_dataset)) == 0 and not (tiny_dataset / "unfinished.jsonl").exists()


@pytest.mark.parametrize("degradation", ["bicubic-antialias", "area", "realistic"])
def test_files_are_those_of_a_plain_loop(tmp_path, degradation):
    source = folder_of(tmp_path / "faces", ["A", "B"], images=20)  # more than a chunk
    migrate({"train": (source, source.faces)}, tmp_path / "set", Migration(("16x16", "14x16"), degradation, 3))
    for face in source.faces:
        with Image.open(face.origin) as image:
            hr = np.asarray(image)
        with Image.open(hr_folder(tmp_path / "set", "train") / face.name) as image:
            assert np.array_equal(np.asarray(image), hr)
        for size in ("16x16", "14x16"):
            expected = as_bytes(degrade(as_tensor(hr[None]), size, degradation, file_draws([face.name], 3)))[0]
            with Image.open(vlr_folder(tmp_path / "set", "train", size) / face.name) as image:
                assert np.array_equal(np.asarray(image), expected)


def test_the_manifest_tells_one_row_a_file(tmp_path):
    source = folder_of(tmp_path / "faces", ["A", "B"])
    large = np.random.default_rng(1).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    write(tmp_path / "faces" / "B" / "B_0009.png", large)
    source = FolderSource(tmp_path / "faces")
    manifest = migrate({"train": (source, source.faces)}, tmp_path / "set", TWO_SIZES)
    assert read_manifest(tmp_path / "set").equals(manifest.astype(str))
    assert manifest.name.tolist() == [face.name for face in source.faces]
    row = manifest.iloc[-1]
    with Image.open(hr_folder(tmp_path / "set", "train") / "B_0009.png") as image:
        digest = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
    assert row.to_dict() == {
        "split": "train", "subject": "B", "name": "B_0009.png", "role": "", "origin": "B/B_0009.png", "width": 160, "height": 160,
        "vlr_sizes": "16x16 24x24", "degradation": "bicubic-antialias", "sha256": digest, "status": "ok",
    }  # fmt: skip
    texts = [(tmp_path / "set" / name).read_text() for name in ("manifest.csv", "dataset.json", "set_aside.csv", "flags.csv")]
    assert not any(str(tmp_path) in text for text in texts)


def test_the_record_names_the_degradation_and_its_settings(tmp_path):
    migrate(made_up_splits(6, 2), tmp_path / "set", Migration(("16",), "realistic", 7))
    record = read_settings(tmp_path / "set")
    assert degradation_of(tmp_path / "set") == record["degradation"] == "realistic" and record["seed"] == 7
    assert record["degradation_settings"]["name"] == "realistic" and len(record["degradation_settings"]) > 3


def test_the_hash_is_the_same_on_any_machine_and_another_for_other_pixels(tmp_path):
    hashes = []
    for place, seed in (("one", 0), ("two/deeper", 0), ("three", 1)):
        source = folder_of(tmp_path / place / "faces", ["A", "B"], seed=seed)
        migrate({"train": (source, source.faces)}, tmp_path / place / "set", PLAIN)
        hashes.append(dataset_hash(tmp_path / place / "set"))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("subject", ["NA", "null", "007", "nan", "1e5", "True", 'Zoë, "Z"', "Ли"])
def test_subjects_keep_odd_names(tmp_path, subject):
    source = folder_of(tmp_path / "faces", [subject, "B"], images=1)
    splits = {"train": (source, source.faces)}
    migrate(splits, tmp_path / "set", PLAIN)
    assert set(migrate(splits, tmp_path / "set", PLAIN).subject) == {subject, "B"}
    assert set(open_split(tmp_path / "set", "train", "16x16").subject_to_id) == {subject, "B"}


# --- native low resolution


def native_folder(root: Path):
    generator = np.random.default_rng(0)
    for person in ("001", "002"):
        write(root / f"{person}_frontal.jpg", generator.integers(0, 256, (200, 160, 3), dtype=np.uint8))
        write(root / f"{person}_cam1_1.png", generator.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    return open_source("scface", root)


def test_native_faces_are_resampled_and_nothing_else(tmp_path):
    source = native_folder(tmp_path / "scface")
    migration = Migration(("16x16",), "realistic", 0)
    manifest = migrate({"test": (source, source.faces)}, tmp_path / "set", migration)
    assert not hr_folder(tmp_path / "set", "test").exists()
    probe = manifest[manifest.name == "001_cam1_1.png"].iloc[0]
    assert (probe.role, probe.width, probe.height, probe.degradation) == ("probe", 20, 24, "native")
    with Image.open(tmp_path / "scface" / "001_cam1_1.png") as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    faces = open_split(tmp_path / "set", "test", "16x16")
    assert not faces.has_hr and np.array_equal(faces.vlr[faces.names.index("001_cam1_1.png")], expected)
    assert faces.roles == manifest.role.tolist() and sorted(set(faces.roles)) == ["gallery", "probe"]
    more = migrate({"test": (source, source.faces)}, tmp_path / "set", Migration(("16x16", "24x24"), "realistic", 0))
    assert more.vlr_sizes.tolist() == ["16x16 24x24"] * 4
    with Image.open(tmp_path / "scface" / "001_cam1_1.png") as image:
        expected = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(open_split(tmp_path / "set", "test", "24x24").vlr[faces.names.index("001_cam1_1.png")], expected)


# --- set aside, flagged


def test_files_that_cannot_serve_are_set_aside_and_named(tmp_path):
    folder_of(tmp_path / "faces", ["A", "B"], images=3)
    (tmp_path / "faces" / "A" / "A_0002.png").write_bytes(b"")
    write(tmp_path / "faces" / "A" / "A_0003.png", size=(60, 40))
    source = FolderSource(tmp_path / "faces")
    manifest = migrate({"train": (source, source.faces)}, tmp_path / "set", PLAIN)
    assert sorted(manifest.name) == ["A_0001.png", "B_0001.png", "B_0002.png", "B_0003.png"]
    aside = read_set_aside(tmp_path / "set")
    assert aside.name.tolist() == ["A_0002.png", "A_0003.png"] and aside.subject.tolist() == ["A", "A"]
    assert aside.flag.tolist() == ["unusable", "unusable"]
    assert "cannot be read" in aside.reason[0] and "got 60x40" in aside.reason[1]
    assert aside.origin.tolist() == ["A/A_0002.png", "A/A_0003.png"]
    assert not (hr_folder(tmp_path / "set", "train") / "A_0002.png").exists()
    with Image.open(set_aside_picture(tmp_path / "set", "train", "A_0003.png")) as image:
        assert image.size == (60, 40)  # to be looked at


def test_a_file_outside_the_root_is_not_shown(tmp_path):
    folder_of(tmp_path / "faces", ["A", "B"])
    secret = write(tmp_path / "elsewhere" / "secret.png", size=(50, 50))
    (tmp_path / "faces" / "A" / "A_0007.png").symlink_to(secret)
    source = FolderSource(tmp_path / "faces")
    migrate({"train": (source, source.faces)}, tmp_path / "set", PLAIN)
    assert "link to" in read_set_aside(tmp_path / "set").reason[0]
    assert not set_aside_picture(tmp_path / "set", "train", "A_0007.png").exists()


def doubtful_folder(root: Path) -> FolderSource:
    """A: a picture that B has too. B: a picture twice, a black one. C, D: nothing special."""
    source = folder_of(root, ["A", "B", "C", "D"], images=3)
    picture = smooth(5)
    write(root / "A" / "A_0001.png", picture)
    Image.fromarray(picture).save(root / "B" / "B_0008.jpg", quality=60)
    write(root / "B" / "B_0005.png", np.asarray(Image.open(root / "B" / "B_0001.png")))
    write(root / "B" / "B_0009.png", np.zeros((112, 112, 3), np.uint8))
    return FolderSource(source.root)


def test_one_picture_under_two_names_is_set_aside_and_other_doubts_are_flagged(tmp_path):
    source = doubtful_folder(tmp_path / "faces")
    manifest = migrate({"train": (source, source.faces)}, tmp_path / "set", PLAIN)
    aside, flags = read_set_aside(tmp_path / "set"), read_flags(tmp_path / "set")
    assert aside.name.tolist() == ["A_0001.png", "B_0008.png"] and aside.other_name.tolist() == ["B_0008.png", "A_0001.png"]
    assert aside.reason[0].startswith("the same picture as train/B_0008.png of subject B (")
    assert aside.flag.tolist() == ["conflict", "conflict"] and len(manifest) + len(aside) == len(source.faces)
    assert sorted(zip(flags.name, flags.flag, strict=True)) == [
        ("B_0005.png", "duplicate"), ("B_0009.png", "dark"), ("B_0009.png", "flat"), ("B_0009.png", "grey")
    ]  # fmt: skip
    status = dict(zip(manifest.name, manifest.status, strict=True))
    assert status["B_0005.png"] == "duplicate" and status["B_0009.png"] == "dark flat grey" and status["B_0001.png"] == "ok"
    for folder in (hr_folder(tmp_path / "set", "train"), vlr_folder(tmp_path / "set", "train", "16")):
        assert {path.name for path in folder.iterdir()} == set(manifest.name)
    with Image.open(set_aside_picture(tmp_path / "set", "train", "A_0001.png")) as image:
        assert image.size == (112, 112)
    assert migrate({"train": (source, source.faces)}, tmp_path / "set", PLAIN).equals(read_manifest(tmp_path / "set"))
    more = migrate({"train": (source, source.faces)}, tmp_path / "set", TWO_SIZES)
    assert more.name.tolist() == manifest.name.tolist() and read_flags(tmp_path / "set").equals(flags)


@pytest.mark.parametrize(
    ("policy", "leaves"),
    [((), set()), (("duplicate", "dark"), {"B_0005.png", "B_0009.png"}), (("conflict",), {"A_0001.png", "B_0008.png"})],
)
def test_what_is_set_aside_is_a_choice(tmp_path, policy, leaves):
    source = doubtful_folder(tmp_path / "faces")
    migration = Migration(("16x16",), "bicubic-antialias", 0, policy)
    manifest = migrate({"train": (source, source.faces)}, tmp_path / "set", migration)
    assert {face.name for face in source.faces} - set(manifest.name) == leaves == set(read_set_aside(tmp_path / "set").name)


def test_a_protocol_keeps_its_faces_and_the_training_copy_leaves(tmp_path):
    source = doubtful_folder(tmp_path / "faces")
    train = [face for face in source.faces if face.subject in "AC"]
    test = [face for face in source.faces if face.subject in "BD"]
    splits = {"train": (source, train), "test": (source, test)}
    pairs = pd.DataFrame({"left": ["B_0008.png"], "right": ["D_0001.png"], "same": [False], "fold": [0]})
    manifest = migrate(splits, tmp_path / "set", PLAIN, {"test": pairs})
    assert read_set_aside(tmp_path / "set").name.tolist() == ["A_0001.png"]
    assert "B_0008.png" in set(manifest.name)
    flags = read_flags(tmp_path / "set")
    assert flags.flag[flags.name == "B_0008.png"].tolist() == ["conflict"]


def test_a_split_without_a_usable_face_is_an_error(tmp_path):
    source = folder_of(tmp_path / "faces", ["A", "B"])
    with pytest.raises(ValueError, match=r"test: expected faces, got none\. Give it some"):
        migrate({"train": (source, source.faces[:2]), "test": (source, [])}, tmp_path / "set", PLAIN)
    assert not (tmp_path / "set").exists()
    for path in (tmp_path / "faces").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train: expected faces, got none that can be used of 4\..*cannot be read"):
        migrate({"train": (source, source.faces)}, tmp_path / "other", PLAIN)
    assert not (tmp_path / "other" / "manifest.csv").exists()


def test_subjects_with_one_image_train_but_make_no_pairs(tmp_path):
    for person, images in {"A": 1, "B": 1, "C": 3, "D": 2, "E": 1}.items():
        folder_of(tmp_path / "faces", [person], images, seed=ord(person))
    source = FolderSource(tmp_path / "faces")
    train = [face for face in source.faces if face.subject in "AB"]
    splits = {"train": (source, train), "val": (source, [face for face in source.faces if face.subject in "CDE"])}
    assert len(migrate(splits, tmp_path / "set", PLAIN)) == 8
    pairs = pd.read_csv(tmp_path / "set" / "val_pairs.csv")
    assert not pairs.left.str.startswith("E").any() and len(pairs) == 8
    alone = splits | {"val": (source, [face for face in source.faces if face.subject in "CE"])}
    with pytest.raises(ValueError, match=r"expected two subjects with two images or more, got 1 of 2 subjects\. Add images"):
        migrate(alone, tmp_path / "alone", PLAIN)
    assert not (tmp_path / "alone").exists()  # seen before anything is written


def test_pairs_of_other_images_are_refused(tmp_path):
    source = folder_of(tmp_path / "faces", ["A", "B"])
    pairs = pd.DataFrame({"left": ["A_0001.png"], "right": ["Z_0001.png"], "same": [False], "fold": [0]})
    with pytest.raises(ValueError, match=r"got 1 that are not there, such as Z_0001\.png\. Give the list"):
        migrate({"test": (source, source.faces)}, tmp_path / "set", PLAIN, {"test": pairs})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("changes", "workers", "message"),
    [
        ({}, 0, "workers: expected 1 process or more, got 0"),
        ({"vlr_sizes": ()}, 1, "vlr_sizes: expected one VLR size or more"),
        ({"vlr_sizes": ("200",)}, 1, "VLR size: expected width x height"),
        ({"degradation": "bicubic"}, 1, "degradation: expected one of"),
        ({"set_aside": ("blurred",)}, 1, "set_aside: expected flags among conflict, .*, got blurred"),
    ],
)
def test_requests_that_cannot_be_met_write_nothing(tmp_path, changes, workers, message):
    values = {"vlr_sizes": ("16x16",), "degradation": "area", "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        migrate(made_up_splits(6, 2), tmp_path / "set", Migration(**values), workers=workers)
    assert not (tmp_path / "set").exists()


# --- again


def test_migrating_again_does_nothing_and_other_settings_are_refused(tmp_path):
    splits, dataset = made_up_splits(6, 2), tmp_path / "set"
    first = migrate(splits, dataset, PLAIN)
    times = {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()}
    assert migrate(splits, dataset, PLAIN).equals(first.astype(str))
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()} == times
    changes = ({"degradation": "area"}, {"seed": 1}, {"set_aside": ()}, {"source": {"align": "yunet"}})
    for change in changes:
        other = Migration(**(vars(PLAIN) | change))
        with pytest.raises(
            ValueError, match=rf"this very data set, got one made with other settings \(.*{next(iter(change))}.*\)\."
        ):
            migrate(splits, dataset, other)
    with pytest.raises(ValueError, match=r"made with other settings \(faces\)"):
        migrate(made_up_splits(6, 3), dataset, PLAIN)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()} == times


def test_a_data_set_without_its_record_is_not_touched(tmp_path):
    splits, dataset = made_up_splits(6, 2), tmp_path / "set"
    migrate(splits, dataset, PLAIN)
    (dataset / "dataset.json").unlink()
    before = contents(dataset)
    with pytest.raises(ValueError, match="got one made with other settings"):
        migrate(splits, dataset, PLAIN)
    assert contents(dataset) == before


def test_a_folder_of_another_making_is_not_touched(tmp_path):
    write(tmp_path / "set" / "train_processed" / "hr_images" / "001_01_01_051_07_crop_160.png", size=(160, 160))
    source = open_source("processed", tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match=r"got an unfinished one made with other settings .*older data set to 112×112 in place"):
        migrate({"train": (source, source.faces)}, tmp_path / "set", PLAIN)
    assert contents(tmp_path / "set") == before


def test_sizes_are_added_without_touching_the_others(tmp_path, monkeypatch):
    splits, dataset = made_up_splits(6, 2), tmp_path / "set"
    migrate(splits, dataset, PLAIN)
    digest, before = dataset_hash(dataset), {path: path.stat().st_mtime_ns for path in dataset.rglob("*.png")}
    written = made_by(monkeypatch)
    source = splits["train"][0]
    monkeypatch.setattr(source, "read", lambda faces: pytest.fail("HR faces are there: nothing need be read"))
    manifest = migrate(splits, dataset, Migration(("24x24", "14x16"), "bicubic-antialias", 0))
    assert {path.split("/")[0] for path in written} == {"vlr_images_24x24", "vlr_images_14x16"} and len(written) == 24
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(manifest.vlr_sizes) == {"14x16 16x16 24x24"} and dataset_hash(dataset) == digest
    assert open_split(dataset, "val", "24x24").vlr.shape[1:] == (24, 24, 3)
    monkeypatch.undo()
    migrate(made_up_splits(6, 2), tmp_path / "straight", Migration(("14", "24", "16", "14x16")[1:], "bicubic-antialias", 0))
    assert whole(dataset) == whole(tmp_path / "straight")


def test_lost_and_empty_files_are_made_again(tmp_path, monkeypatch):
    splits, dataset = made_up_splits(6, 2), tmp_path / "set"
    manifest = migrate(splits, dataset, TWO_SIZES)
    before = whole(dataset)
    row, other = manifest.iloc[0], manifest.iloc[-1]
    (hr_folder(dataset, row["split"]) / row["name"]).unlink()
    (vlr_folder(dataset, other["split"], "24") / other["name"]).write_bytes(b"")  # what a power cut leaves
    written = made_by(monkeypatch)
    migrate(splits, dataset, TWO_SIZES)
    names = [f"{folder}/{row['name']}" for folder in ("hr_images", "vlr_images_16x16", "vlr_images_24x24")]
    assert sorted(written) == sorted([*names, f"vlr_images_24x24/{other['name']}"])
    assert whole(dataset) == before


def test_an_hr_file_that_changed_is_not_taken_for_the_first(tmp_path):
    splits, dataset = made_up_splits(6, 2), tmp_path / "set"
    row = migrate(splits, dataset, PLAIN).iloc[3]
    file = hr_folder(dataset, row["split"]) / row["name"]
    kept = file.read_bytes()
    write(file, np.full((112, 112, 3), 9, np.uint8))
    with pytest.raises(ValueError, match=rf"{row['name']}: expected the HR face that was made first, got other pixels\. Remove"):
        migrate(splits, dataset, TWO_SIZES)
    assert set(read_manifest(dataset).vlr_sizes) == {"16x16"}
    file.write_bytes(kept[:400])
    with pytest.raises(ValueError, match=r"hr_images.*got a file that cannot be read .* Remove that file and run again"):
        migrate(splits, dataset, TWO_SIZES)
    file.unlink()
    migrate(splits, dataset, TWO_SIZES)
    assert file.read_bytes() == kept and set(read_manifest(dataset).vlr_sizes) == {"16x16 24x24"}


# --- stopped on the way


def noise_splits(root: Path):
    """60 faces to train on, two portions, and 20 to validate."""
    source = folder_of(root, "ABCDEFGH", images=10)
    return {"train": (source, source.faces[:60]), "val": (source, source.faces[60:])}


@pytest.mark.parametrize("after", [0, 1, 5, 40, 97])
def test_a_full_disk_stops_clearly_and_the_run_goes_on_later(tmp_path, monkeypatch, after):
    source = folder_of(tmp_path / "faces", "ABCDEFGH", images=5)
    splits = {"train": (source, source.faces[:20]), "val": (source, source.faces[20:])}
    migrate(splits, tmp_path / "straight", TWO_SIZES)
    saved, save = [], Image.Image.save

    def full(image, path, **options):
        if len(saved) == after:
            Path(path).write_bytes(b"\x89PNG half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(path)
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(
        OSError, match=r"set: expected room on the disk, got .* MB free of it\. Make room\. What is done stays: run"
    ):
        migrate(splits, tmp_path / "set", TWO_SIZES)
    assert not list((tmp_path / "set").rglob("*.tmp")) and not (tmp_path / "set" / "manifest.csv").exists()
    for path in (tmp_path / "set").rglob("*.png"):
        Image.open(path).load()  # whole
    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(ValueError, match=r"got an unfinished one made with other settings \(degradation, degradation_settings\)"):
        migrate(splits, tmp_path / "set", Migration(("16x16", "24x24"), "area", 0))
    written = made_by(monkeypatch)
    migrate(splits, tmp_path / "set", TWO_SIZES)
    assert len(written) == 3 * 40 - (3 * 20 if after > 3 * 20 else 0)  # a split of 20 faces is a portion
    assert whole(tmp_path / "set") == whole(tmp_path / "straight")


def test_a_torn_journal_and_files_of_a_killed_run(tmp_path, monkeypatch):
    splits, dataset = noise_splits(tmp_path / "faces"), tmp_path / "set"
    migrate(splits, tmp_path / "straight", PLAIN)
    original = onepass.make

    def killed(job, task):
        if task.split == "val":
            raise KeyboardInterrupt
        return original(job, task)

    monkeypatch.setattr(onepass, "make", killed)
    with pytest.raises(KeyboardInterrupt):
        migrate(splits, dataset, PLAIN, workers=1)
    monkeypatch.setattr(onepass, "make", original)
    journal = dataset / "unfinished.jsonl"
    whole_lines = journal.read_bytes()
    journal.write_bytes(whole_lines[: whole_lines.index(b"\n") + 100])
    (hr_folder(dataset, "train") / ".x.png.123.tmp").write_bytes(b"half")
    written = made_by(monkeypatch)
    migrate(splits, dataset, PLAIN)
    done = len(json.loads(whole_lines[: whole_lines.index(b"\n")]))
    assert len(written) == 2 * (80 - done) and done == onepass.CHUNK
    assert whole(dataset) == whole(tmp_path / "straight")


def test_a_size_that_was_begun_is_finished_too(tmp_path, monkeypatch):
    splits, dataset = noise_splits(tmp_path / "faces"), tmp_path / "set"
    migrate(splits, dataset, PLAIN)
    original, calls = onepass.make, []

    def killed(job, task):
        calls.append(task)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(job, task)

    monkeypatch.setattr(onepass, "make", killed)
    with pytest.raises(KeyboardInterrupt):
        migrate(splits, dataset, TWO_SIZES)
    assert set(read_manifest(dataset).vlr_sizes) == {"16x16"}  # what is whole stays whole meanwhile
    monkeypatch.setattr(onepass, "make", original)
    assert set(migrate(splits, dataset, PLAIN).vlr_sizes) == {"16x16 24x24"}
    migrate(splits, tmp_path / "straight", TWO_SIZES)
    assert whole(dataset) == whole(tmp_path / "straight")


# --- processes


SCRIPT = """
import sys
from pathlib import Path
from dsrkit.data import onepass
from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import FolderSource
onepass.WORTH_A_PROCESS = 1
if __name__ == "__main__":
    source = FolderSource(sys.argv[1])
    faces = {"train": (source, source.faces[:360]), "val": (source, source.faces[360:])}
    migrate(faces, Path(sys.argv[2]), Migration(("16x16", "24x24"), "realistic", 0), workers=2)
"""


@pytest.fixture(scope="module")
def many_faces(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("many") / "faces"
    folder_of(root, [f"s{number:02d}" for number in range(40)], images=12)
    return root


def migration_of(faces: Path, script: Path, into: Path, text: str = SCRIPT) -> tuple[list[str], dict[str, str]]:
    """The command that migrates ``faces`` in two processes, and its environment."""
    script.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return [sys.executable, str(script), str(faces), str(into)], environment


@pytest.fixture(scope="module")
def straight(many_faces, tmp_path_factory) -> Path:
    """Those faces, migrated by a process that nobody killed."""
    folder = tmp_path_factory.mktemp("straight")
    words, environment = migration_of(many_faces, folder / "script.py", folder / "set")
    subprocess.run(words, env=environment, check=True, capture_output=True)
    return folder / "set"


def children_of(process: int) -> set[int]:
    return {int(path.parts[2]) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == process}


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):  # gone meanwhile
        return 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("whom", ["all processes", "the parent alone"])
def test_killed_at_any_instant(tmp_path, many_faces, straight, whom):
    words, environment = migration_of(many_faces, tmp_path / "script.py", tmp_path / "set")
    generator, kills = np.random.default_rng(len(whom)), 0
    for _ in range(3):
        run = subprocess.Popen(words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        journal, lines = tmp_path / "set" / "unfinished.jsonl", 0
        had = len(journal.read_bytes().splitlines()) if journal.exists() else 0
        while run.poll() is None and lines <= had:  # until it has done something
            time.sleep(0.01)
            lines = len(journal.read_bytes().splitlines()) if journal.exists() else 0
        time.sleep(generator.uniform(0, 0.3))
        children = children_of(run.pid)
        if run.poll() is None:
            kills += 1
            (os.killpg if whom == "all processes" else os.kill)(run.pid, signal.SIGKILL)
        run.wait()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [child for child in children if Path(f"/proc/{child}").exists()]  # nobody waits for work for ever
        if (tmp_path / "set" / "manifest.csv").exists():
            break
    assert kills
    subprocess.run(words, env=environment, check=True, capture_output=True)
    assert whole(tmp_path / "set") == whole(straight)


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tmp_path, many_faces, monkeypatch):
    monkeypatch.setattr(onepass, "WORTH_A_PROCESS", 1)
    source = FolderSource(many_faces)
    splits = {"train": (source, source.faces[:96]), "val": (source, source.faces[96:144])}
    for workers in (1, 3):
        migrate(splits, tmp_path / str(workers), Migration(("16x16", "14x16"), "realistic", 0), workers=workers)
    assert whole(tmp_path / "1") == whole(tmp_path / "3")


class Dying(SyntheticSource):
    """Ends the process that reads, as a system short of memory does."""

    def read(self, faces):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_is_killed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(onepass, "WORTH_A_PROCESS", 1)
    source = Dying(10, 10)
    with pytest.raises(
        RuntimeError, match=r"got one that ended at once or was killed.*give fewer workers\..* What is done stays"
    ):
        migrate({"train": (source, source.faces)}, tmp_path / "set", PLAIN, workers=2)


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_and_does_not_hang(tmp_path, many_faces):
    text = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    words, environment = migration_of(many_faces, tmp_path / "script.py", tmp_path / "set", text)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "call it below `if __name__ == '__main__':`" in done.stderr


def test_results_come_in_order_and_few_tasks_are_handed_out_at_a_time():
    asked, given = [], []

    def tasks():
        for number in range(20):
            assert len(asked) - len(given) <= 5
            asked.append(number)
            yield number

    def work(number):
        time.sleep(0.002 * (number % 3))
        return -number

    with ThreadPoolExecutor(3) as pool:
        for result in in_order(pool, work, tasks(), ahead=4):
            given.append(result)
    assert given == [-number for number in range(20)]


def test_what_is_printed_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.setattr(onepass, "SECONDS_A_LINE", -1)
    chunks = [[{}] * 10] * 3
    assert list(onepass.with_progress(iter(chunks), 30)) == chunks
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("10 of 30 images, ") and lines[0].endswith(" s left") and len(lines) == 3
    assert lines[-1].startswith("30 images in ") and lines[-1].endswith(" images/s")
    monkeypatch.setenv("JPY_SESSION_NAME", "desk")
    assert list(onepass.with_progress(iter(chunks), 30)) == chunks
    shown = capsys.readouterr()
    assert not shown.out.strip().startswith("10 of") and "30/30" in shown.err and "images/s" in shown.err
