"""Packed faces: the files' own pixels, one packing among many readers, and nothing half-written ever read."""

import io
import mmap
import multiprocessing
import os
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image
from small_dataset import pixels_of, write_dataset

from dsrkit.data import packing
from dsrkit.data.faces import open_split
from dsrkit.data.packing import check_room, packed

FORK = multiprocessing.get_context("fork")  # a fresh process would import torch first


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "set")


def files_of(folder: Path, names):
    return [(row, folder / name, name) for row, name in enumerate(names)]


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises a huge picture."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, format="PNG")
    whole = stream.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


# --- what is read


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("size", ["16x16", "14x16"])
def test_pixels_are_those_of_the_files(dataset, split, size):
    faces = open_split(dataset, split, size)
    assert np.array_equal(faces.hr, pixels_of(dataset, split, "hr_images", faces.names))
    assert np.array_equal(faces.vlr, pixels_of(dataset, split, f"vlr_images_{size}", faces.names))
    manifest = pd.read_csv(dataset / "manifest.csv").query("split == @split")
    assert faces.names == manifest.name.tolist() and faces.subjects == manifest.subject.tolist()
    assert faces.labels.tolist() == [sorted(set(faces.subjects)).index(subject) for subject in faces.subjects]


@pytest.mark.parametrize("rows", [[3, 1, 1, 9], [0], [], list(range(9, -1, -1))])
def test_rows_come_in_the_order_asked_for(dataset, rows):
    faces = open_split(dataset, "train", "16x16")
    part = faces.rows(np.array(rows, int))
    for number, row in enumerate(rows):
        assert np.array_equal(part.hr[number], faces.hr[row]) and np.array_equal(part.vlr[number], faces.vlr[row])
        assert (part.names[number], part.labels[number]) == (faces.names[row], faces.labels[row])
    assert len(part) == len(part.hr) == len(part.roles) == len(rows)


def test_roles_are_the_manifest_s_or_empty(tmp_path, dataset):
    assert open_split(dataset, "train", "16x16").roles == [""] * 10
    faces = open_split(write_dataset(tmp_path / "roles", roles=["gallery", "probe", ""]), "train", "16x16")
    assert faces.roles[:3] == ["gallery", "probe", ""]
    assert faces.rows(np.array([2, 1])).roles == ["", "probe"] and faces.first(1).roles == ["gallery"]


def test_a_native_split_opens_and_says_so_where_hr_is_asked_for(tmp_path):
    dataset = write_dataset(tmp_path, native=True)
    faces = open_split(dataset, "val", "16x16")
    assert not faces.has_hr and len(faces.first(2).vlr) == 2 and not faces.first(2).has_hr
    with pytest.raises(ValueError, match=r"expected the split's hr_images, got a native low-resolution split.*has_hr first"):
        faces.hr
    assert open_split(write_dataset(tmp_path / "other"), "val", "16x16").has_hr


def test_a_flat_folder_serves_where_its_size_is_asked_for(dataset):
    (dataset / "train_processed" / "vlr_images_14x16").rename(dataset / "train_processed" / "vlr_images")
    faces = open_split(dataset, "train", "14x16")
    assert np.array_equal(faces.vlr, pixels_of(dataset, "train", "vlr_images", faces.names))
    with pytest.raises(
        ValueError, match=r"expected faces in vlr_images_32x32, got VLR sizes \['14x16', '16x16'\]\. Add the size"
    ):
        open_split(dataset, "train", "32x32")
    (dataset / "train_processed" / "vlr_images" / faces.names[0]).write_bytes(b"no image")
    with pytest.raises(ValueError, match="expected an image, got a file that cannot be read"):
        open_split(dataset, "train", "32x32")


def test_a_folder_with_the_size_in_its_name_comes_first(dataset):
    flat = dataset / "train_processed" / "vlr_images"
    flat.mkdir()
    for path in (dataset / "train_processed" / "vlr_images_16x16").iterdir():
        Image.new("RGB", (16, 16)).save(flat / path.name)
    assert open_split(dataset, "train", "16x16").vlr.any()


def test_arrays_are_read_only_maps_of_shared_pages(dataset):
    faces = open_split(dataset, "train", "16x16")
    with pytest.raises(ValueError, match="read-only"):
        faces.hr[0] = 0
    assert isinstance(faces.hr, np.memmap) and isinstance(faces.vlr, np.memmap)
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("/proc/self/smaps is there on Linux only")
    faces.hr.sum()  # every page is read
    after = smaps.read_text().split(str(faces.hr.filename))[1].splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in after[1:23] if line.endswith("kB")}
    assert values["Rss"] >= faces.hr.nbytes // 1024 and values["Anonymous"] == values["Private_Dirty"] == 0


def test_prefetch_asks_for_the_pages_of_the_rows_and_changes_nothing(dataset):
    whole = open_split(dataset, "train", "16x16")
    file = Path(whole.hr.filename).read_bytes()
    for faces in (whole, whole.rows(slice(3, 9, 2))):
        rows = np.array([2, 0, len(faces) - 1])
        for row, (offset, length) in zip(rows, packing.spans(faces.hr, faces.hr._mmap, rows), strict=True):
            assert offset % mmap.PAGESIZE == 0
            assert file[offset : offset + length].find(faces.hr[row].tobytes()) in range(mmap.PAGESIZE)
        before = np.array(faces.hr), np.array(faces.vlr)
        faces.prefetch(rows)
        assert np.array_equal(faces.hr, before[0]) and np.array_equal(faces.vlr, before[1])
    whole.rows(np.array([1, 2])).prefetch(np.array([0]))  # in memory already
    with pytest.raises(ValueError, match=r"offset|bounds"):
        whole.prefetch(np.array([1000]))


# --- when it is packed


def packs(dataset):
    return sorted(path.name for path in (dataset / "packed").glob("*.npy"))


def test_packed_once_for_all_spellings_of_a_size(dataset):
    open_split(dataset, "train", "16x16")
    times = {path: path.stat().st_mtime_ns for path in (dataset / "packed").glob("*.npy")}
    assert len(times) == 2
    open_split(dataset, "train", "16")
    assert {path: path.stat().st_mtime_ns for path in (dataset / "packed").glob("*.npy")} == times


def test_packs_of_a_data_set_that_changed_are_removed_and_their_readers_read_on(dataset):
    old = open_split(dataset, "train", "16x16")
    open_split(dataset, "val", "14x16")
    before, stale = np.array(old.hr), packs(dataset)
    assert len(stale) == 4
    manifest = pd.read_csv(dataset / "manifest.csv")
    manifest[manifest.name != old.names[0]].to_csv(dataset / "manifest.csv", index=False)
    new = open_split(dataset, "train", "16x16")
    assert len(packs(dataset)) == 2 and not set(packs(dataset)) & set(stale)
    assert np.array_equal(new.hr, before[1:]) and np.array_equal(old.hr, before)


def damage(path: Path, kind: str) -> None:
    array = np.load(path)
    if kind == "cut off":
        os.truncate(path, path.stat().st_size - 1)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no array":
        path.write_bytes(b"x" * 100_000)
    elif kind == "pickle":
        np.save(path, np.array([{}]), allow_pickle=True)
    else:
        np.save(path, {"other shape": array[:-1], "other type": array.astype(np.float32), "flat": array.ravel()}[kind])


@pytest.mark.parametrize("kind", ["cut off", "empty", "no array", "pickle", "other shape", "other type", "flat"])
def test_a_damaged_pack_is_noticed_and_made_again(dataset, kind):
    good = np.array(open_split(dataset, "train", "16x16").hr)
    (path,) = (dataset / "packed").glob("train_hr*.npy")
    damage(path, kind)
    with pytest.warns(
        UserWarning, match=r"train_hr-.*expected uint8 \(10, 112, 112, 3\), got a damaged file\. It is packed again"
    ):
        faces = open_split(dataset, "train", "16x16")
    assert np.array_equal(faces.hr, good) and len(packs(dataset)) == 2


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_a_damaged_pack_without_its_images_is_refused(dataset):
    name = open_split(dataset, "train", "16x16").names[0]
    (path,) = (dataset / "packed").glob("train_hr*.npy")
    damage(path, "cut off")
    for image in (dataset / "train_processed" / "hr_images").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match=rf"{name}: expected an image .* cannot be read .*No such file.*Run stage 01 again"):
        open_split(dataset, "train", "16x16")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got a file that cannot be read"),
        (b"GIF89a", "got a file that cannot be read"),
        (None, r"cannot be read .*No such file"),
        ((20, 16), r"expected \(16, 16, 3\), got \(16, 20, 3\)\. Run stage 01 again"),
        (bomb(12_000, 12_000), r"expected \(16, 16, 3\), got \(12000, 12000, 3\)"),
        (bomb(30_000, 30_000), r"cannot be read .*decompression bomb"),
    ],
)
def test_an_image_that_cannot_serve_is_named_and_no_pack_is_left(dataset, content, message):
    name = pd.read_csv(dataset / "manifest.csv").query("split == 'train'").name.iloc[-1]
    image = dataset / "train_processed" / "vlr_images_16x16" / name
    if content is None:
        image.unlink()
    elif isinstance(content, bytes):
        image.write_bytes(content)
    else:
        Image.new("L", content).save(image)
    with pytest.raises(ValueError, match=message) as caught:
        open_split(dataset, "train", "16x16")
    assert name in str(caught.value) and packs(dataset) == [path for path in packs(dataset) if "hr" in path]
    assert not list((dataset / "packed").glob(".*.tmp"))


@pytest.mark.parametrize("order", [1, -1])
def test_blocks_and_rows_in_any_order(tmp_path, dataset, monkeypatch, order):
    monkeypatch.setattr(packing, "BLOCK", 3)
    folder = dataset / "train_processed" / "hr_images"
    names = sorted(path.name for path in folder.iterdir())
    array = packed(tmp_path / "any-1.npy", (10, 112, 112, 3), lambda: files_of(folder, names)[::order])
    assert np.array_equal(array, pixels_of(dataset, "train", "hr_images", names))


def test_too_few_files_make_no_pack(tmp_path, dataset):
    folder = dataset / "train_processed" / "hr_images"
    names = [path.name for path in folder.iterdir()]
    with pytest.raises(ValueError, match=r"any-1\.npy: expected 11 faces, got 10\. Run stage 01 again"):
        packed(tmp_path / "any-1.npy", (11, 112, 112, 3), lambda: files_of(folder, names))
    assert not list(tmp_path.glob("*any-1*"))


# --- disks and other processes


def test_a_disk_that_is_too_small_is_seen_before_any_image_is_read(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device.*GB free"):
        check_room(tmp_path, 2**62)
    check_room(tmp_path, 1)
    with pytest.raises(OSError, match=r"expected to write .* GB of packed faces, got 'No space left.*Make room"):
        packed(tmp_path / "any-1.npy", (10**14, 112, 112, 3), lambda: pytest.fail("was read"))


def test_a_disk_that_fills_up_stops_clearly_and_leaves_nothing(dataset):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # write() now fails as on a full disk, after five faces
    try:
        with pytest.raises(OSError, match=r"train_hr-.*expected to write 0\.000 GB .*got 'File too large'\. Make room") as caught:
            open_split(dataset, "train", "16x16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "nothing half-written stays" in str(caught.value)
    assert not list((dataset / "packed").glob("*.npy")) + list((dataset / "packed").glob(".*.tmp"))
    assert len(open_split(dataset, "train", "16x16").hr) == 10


def start(function, *arguments):
    """A forked process that runs ``function`` and puts what it says into the pipe that is returned with it."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=function, args=(there, *arguments))
    process.start()
    there.close()
    return process, here


def on_read(monkeypatched) -> None:
    """In a forked process: what every reading of an image goes through."""
    read = packing.read_pixels
    packing.read_pixels = lambda *arguments: (monkeypatched(), read(*arguments))[1]


def open_and_count(pipe, dataset):
    counted = []
    on_read(lambda: counted.append(1))
    pipe.send("ready")
    faces = open_split(dataset, "train", "16x16")
    pipe.send((len(counted), np.array(faces.hr), np.array(faces.vlr)))


def test_two_processes_that_open_at_once_pack_once_and_read_the_same(dataset):
    (dataset / "packed").mkdir()
    with FileLock(dataset / "packed" / ".lock"):
        started = [start(open_and_count, dataset) for _ in range(2)]
        assert [pipe.recv() for _, pipe in started] == ["ready", "ready"]
    names = pd.read_csv(dataset / "manifest.csv").query("split == 'train'").name.tolist()
    total = 0
    for process, pipe in started:
        count, hr, vlr = pipe.recv()
        process.join(60)
        total += count
        assert np.array_equal(hr, pixels_of(dataset, "train", "hr_images", names))
        assert np.array_equal(vlr, pixels_of(dataset, "train", "vlr_images_16x16", names))
    assert total == 20  # ten HR and ten VLR files, by one process or the other
    assert len(packs(dataset)) == 2 and not list((dataset / "packed").glob(".*.tmp"))


def stop_halfway(pipe, dataset):
    counted = []

    def stop():
        counted.append(1)
        if len(counted) > 6:
            pipe.send("half")
            time.sleep(600)

    on_read(stop)
    packing.BLOCK, packing.THREADS = 2, 1
    open_split(dataset, "train", "16x16")


def test_a_packing_that_was_killed_leaves_nothing_that_is_taken_for_whole(dataset):
    process, pipe = start(stop_halfway, dataset)
    assert pipe.recv() == "half"
    process.kill()
    process.join(60)
    assert not packs(dataset) and len(list((dataset / "packed").glob(".train_hr*.tmp"))) == 1
    faces = open_split(dataset, "train", "16x16")  # the lock of the dead does not hold
    assert np.array_equal(faces.hr, pixels_of(dataset, "train", "hr_images", faces.names))
    assert not list((dataset / "packed").glob(".*.tmp"))
