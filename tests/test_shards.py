"""Tar shards: every face exactly once whoever reads, the same faces as the data set's files, and damage that is seen."""

import collections
import hashlib
import json
import resource
import shutil
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest
from small_dataset import write_dataset
from torch.utils.data import DataLoader

from dsrkit.data.faces import open_split
from dsrkit.data.shards import check_shards, pack_shards, read_index, read_shards, write_shards

pytest.importorskip("webdataset", reason="the optional extra 'shards' is not installed")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """40 training faces and 5 validation faces, with roles."""
    return write_dataset(tmp_path_factory.mktemp("shards") / "set", {"train": 40, "val": 5}, roles=["gallery", "probe"])


@pytest.fixture(scope="module")
def written(dataset):
    """Shards of at most six faces: seven of the training split, one of the validation split."""
    write_shards(dataset, dataset.parent / "written", faces_per_shard=6)
    return dataset.parent / "written"


@pytest.fixture
def folder(written, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(written, tmp_path / "copy")


def names_of(batches):
    return [name for batch in batches for name in batch.names]


# --- what is written


def test_tar_files_hold_the_data_set_s_files_byte_for_byte(dataset, written):
    names = pd.read_csv(dataset / "manifest.csv").query("split == 'train'").name.tolist()
    rows = []
    for path in sorted(written.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for key in {name.split(".")[0] for name in members}:
            rows.append(int(key))
            for suffix, images in (("hr", "hr_images"), ("vlr_16x16", "vlr_images_16x16"), ("vlr_14x16", "vlr_images_14x16")):
                file = dataset / "train_processed" / images / names[int(key)]
                assert members[f"{key}.{suffix}.png"] == file.read_bytes()
            assert json.loads(members[f"{key}.json"])["name"] == names[int(key)]
        assert len(members) == 4 * len({name.split(".")[0] for name in members})
    assert sorted(rows) == list(range(40))


def test_the_index_says_what_is_there(dataset, written):
    index = json.loads((written / "train_shards.json").read_text())
    assert [shard["faces"] for shard in index["shards"]] == [6, 6, 6, 6, 6, 5, 5]
    for number, shard in enumerate(index["shards"]):
        content = (written / f"train-{number:06d}.tar").read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert index["subjects"] == sorted(set(pd.read_csv(dataset / "manifest.csv").query("split == 'train'").subject))
    assert index["vlr_sizes"] == ["14x16", "16x16"] and index["has_hr"]
    assert (written / "manifest.csv").read_bytes() == (dataset / "manifest.csv").read_bytes()
    check_shards(written)


def test_writing_again_gives_the_same_bytes_or_leaves_them_alone(dataset, written, tmp_path):
    write_shards(dataset, tmp_path / "again", faces_per_shard=6)
    for path in written.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").iterdir()}
    write_shards(dataset, tmp_path / "again", faces_per_shard=6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "again").iterdir()} == times


def test_a_size_that_was_added_and_a_writing_that_was_interrupted_are_written_again(tmp_path):
    dataset, folder = write_dataset(tmp_path / "set", sizes=["16x16"]), tmp_path / "shards"
    write_shards(dataset, folder, faces_per_shard=2)
    assert read_index(folder, "train").vlr_sizes == ["16x16"] and len(list(folder.glob("train-*.tar"))) == 5
    images = dataset / "train_processed" / "vlr_images_16x16"
    shutil.copytree(images, images.with_name("vlr_images"))  # flat: a size that is there already is not taken twice
    for split in ("train", "val"):
        shutil.copytree(dataset / f"{split}_processed" / "hr_images", dataset / f"{split}_processed" / "vlr_images_112x112")
    write_shards(dataset, folder, faces_per_shard=5)
    assert read_index(folder, "train").vlr_sizes == ["112x112", "16x16"] and len(list(folder.glob("train-*.tar"))) == 2
    (folder / "manifest.csv").unlink()
    (folder / "train-000001.tar").unlink()
    write_shards(dataset, folder, faces_per_shard=5)
    check_shards(folder)
    (folder / "train-000001.tar").unlink()  # damaged later
    write_shards(dataset, folder, faces_per_shard=5)
    check_shards(folder)


# --- what is read


def test_batches_are_the_data_set_s_faces(dataset, written):
    faces = open_split(dataset, "train", "14x16")
    row_of = {name: row for row, name in enumerate(faces.names)}
    sizes = []
    for batch in read_shards(written, "train", "14x16", batch_size=16):
        same = faces.rows(np.array([row_of[name] for name in batch.names]))
        assert np.array_equal(batch.hr, same.hr) and np.array_equal(batch.vlr, same.vlr)
        assert batch.subjects == same.subjects and batch.roles == same.roles and batch.vlr_size == "14x16"
        assert np.array_equal(batch.labels, same.labels)
        sizes.append(len(batch))
    assert sizes == [16, 16, 8]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("processes", "workers", "shuffle"), [(1, 0, 10), (1, 2, 10), (2, 0, 0), (3, 2, 10), (7, 0, 10), (1, 9, 0)]
)
def test_every_face_is_read_exactly_once(written, processes, workers, shuffle):
    read = collections.Counter()
    for process in range(processes):
        epoch = read_shards(written, "train", "16x16", 4, epoch=3, shuffle=shuffle, process=process, processes=processes)
        read.update(names_of(DataLoader(epoch, batch_size=None, num_workers=workers)))
    manifest = pd.read_csv(written / "manifest.csv").query("split == 'train'")
    assert read == dict.fromkeys(manifest.name, 1)


def test_the_order_follows_from_seed_and_epoch(written):
    def order(**changes):
        return names_of(read_shards(written, "train", "16x16", 8, **changes))

    first = order(seed=1, epoch=0)
    assert order(seed=1, epoch=0) == first
    others = [order(seed=1, epoch=1), order(seed=2, epoch=0), order(shuffle=0), order(seed=1, epoch=0, shuffle=5)]
    assert len({tuple(names) for names in [first, *others]}) == 5
    assert all(sorted(names) == sorted(first) for names in others)
    assert order(shuffle=0) == order(shuffle=0, epoch=5, seed=7)
    epoch = read_shards(written, "train", "16x16", 8, seed=1)
    assert names_of(epoch) == names_of(epoch) == first


def test_the_buffer_mixes_faces_of_several_files(written):
    shard_of = {}
    for path in written.glob("train-*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    shard_of[json.load(tar.extractfile(member))["name"]] = path.name
    first = names_of(read_shards(written, "train", "16x16", 8))[:8]
    assert len({shard_of[name] for name in first}) > 2
    assert len({shard_of[name] for name in names_of(read_shards(written, "train", "16x16", 8, shuffle=0))[:6]}) == 1


def test_a_native_split_has_no_hr(tmp_path):
    write_shards(write_dataset(tmp_path / "set", native=True), tmp_path / "shards", faces_per_shard=4)
    batches = list(read_shards(tmp_path / "shards", "train", "16x16", 4))
    assert len(names_of(batches)) == 10 and not any(batch.has_hr for batch in batches)
    pack_shards(tmp_path / "shards", tmp_path / "packed")
    assert not open_split(tmp_path / "packed", "train", "16x16").has_hr


@pytest.mark.parametrize("elsewhere", [True, False])
def test_packed_shards_open_like_the_data_set(dataset, folder, tmp_path, elsewhere):
    target = tmp_path / "fast disk" if elsewhere else folder
    pack_shards(folder, target)
    pack_shards(folder, target)
    for split in ("train", "val"):
        for size in ("16x16", "14x16"):
            ours, theirs = open_split(target, split, size), open_split(dataset, split, size)
            assert np.array_equal(ours.hr, theirs.hr) and np.array_equal(ours.vlr, theirs.vlr)
            assert (ours.names, ours.subjects, ours.roles) == (theirs.names, theirs.subjects, theirs.roles)
    assert not list(target.glob("*_processed")) and len(list((target / "packed").glob("*.npy"))) == 6


# --- what cannot serve


def spoil(folder, kind):
    tar = folder / "train-000003.tar"
    content = bytearray(tar.read_bytes())
    if kind == "missing":
        tar.unlink()
        return
    if kind == "cut off":
        del content[-1:]
    elif kind == "header":  # the second face's first member no longer looks like one
        start = next(
            at for at in range(512, len(content), 512) if content[at : at + 9].isdigit() and content[at : at + 9] != content[:9]
        )
        content[start : start + 512] = b"x" * 512
    elif kind == "pixel":
        content[1024] ^= 1
    elif kind == "no tar":
        content = bytearray(len(content))
    tar.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"train-000003\.tar: expected \d+ bytes, got no such file\. Copy it again"),
        ("cut off", r"train-000003\.tar: expected \d+ bytes, got \d+\. Copy it again"),
        ("header", r"train-000003\.tar: expected 6 faces, got 1\. Copy it again"),
        ("no tar", r"train-000003\.tar: expected .*6 faces, got .*\. Copy it again"),
        ("pixel", r"000000\d+\.(hr|vlr_16x16)\.png: expected an image .*cannot be read"),
    ],
)
def test_a_tar_file_that_is_not_whole_is_named(folder, tmp_path, kind, message):
    spoil(folder, kind)
    with pytest.raises(ValueError, match=message):
        names_of(read_shards(folder, "train", "16x16", 8))
    with pytest.raises(ValueError, match=r"train-000003\.tar: expected (SHA-256|\d+ bytes).*Copy it again"):
        check_shards(folder)
    with pytest.raises(ValueError, match=message):
        pack_shards(folder, tmp_path / "packed")
    assert not (tmp_path / "packed" / "manifest.csv").exists() and not list((tmp_path / "packed").rglob("train_hr*"))


def test_a_tar_file_cut_off_where_the_index_does_not_know(folder):
    """An index that was made for the damaged file: the reading itself sees it."""
    tar = folder / "train-000003.tar"
    content = tar.read_bytes()
    index = json.loads((folder / "train_shards.json").read_text())
    for length in (len(content) // 2, 512, 700):
        tar.write_bytes(content[:length])
        index["shards"][3]["bytes"] = length
        (folder / "train_shards.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"train-000003\.tar: expected .*6 faces, got .*Copy it again"):
            names_of(read_shards(folder, "train", "16x16", 8))


def test_a_worker_s_error_arrives(folder):
    spoil(folder, "header")
    with pytest.raises(ValueError, match="expected 6 faces, got 1"):
        names_of(DataLoader(read_shards(folder, "train", "16x16", 8), batch_size=None, num_workers=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vlr_size": "24x24"}, r"expected VLR size 24x24, got \['14x16', '16x16'\]\. Write shards that have it"),
        ({"vlr_size": "large"}, "expected width x height"),
        ({"batch_size": 0}, "got batch_size 0"),
        ({"process": 2, "processes": 2}, "process 2 of 2"),
        ({"process": -1, "processes": 2}, "process -1 of 2"),
        ({"processes": 8}, r"process 0 of 8, and 7 shards\. Write smaller shards"),
    ],
)
def test_requests_that_cannot_be_met(written, changes, message):
    wanted = {"split": "train", "vlr_size": "16x16", "batch_size": 8} | changes
    with pytest.raises(ValueError, match=message):
        read_shards(written, **wanted)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"subjects": ["a"]}', '{"subjects": 1, "vlr_sizes": [], "has_hr": 2, "shards": 3}']
)
def test_an_index_that_is_none(folder, content):
    (folder / "train_shards.json").write_text(content)
    with pytest.raises(ValueError, match=r"train_shards\.json: expected an index of shards, got another file .*Copy it again"):
        read_shards(folder, "train", "16x16", 8)


def test_shards_that_are_not_there(written, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected .*test_shards\.json, got nothing there\. Run write_shards"):
        read_shards(written, "test", "16x16", 8)
    for function in (write_shards, pack_shards):
        with pytest.raises(FileNotFoundError, match="Expected a data set at"):
            function(tmp_path, tmp_path / "other")


def test_no_folder_is_overwritten(dataset, written, tmp_path):
    other = write_dataset(tmp_path / "other", {"train": 3})
    before = {path: path.read_bytes() for path in written.iterdir()}
    with pytest.raises(ValueError, match="expected an empty folder, got another data set"):
        write_shards(other, written)
    with pytest.raises(ValueError, match="expected another folder than the data set's own"):
        write_shards(dataset, dataset)
    with pytest.raises(ValueError, match="faces_per_shard: expected 1 or more, got 0"):
        write_shards(dataset, tmp_path / "new", faces_per_shard=0)
    with pytest.raises(ValueError, match="expected an empty folder, got another data set"):
        pack_shards(written, other)
    assert {path: path.read_bytes() for path in written.iterdir()} == before


def test_an_image_that_is_missing_is_named(tmp_path):
    dataset = write_dataset(tmp_path / "set")
    image = next((dataset / "train_processed" / "vlr_images_16x16").iterdir())
    image.unlink()
    with pytest.raises(ValueError, match=rf"{image.name}: expected an image, got 'No such file or directory'"):
        write_shards(dataset, tmp_path / "shards")
    assert not list((tmp_path / "shards").glob("*train*")) and not (tmp_path / "shards" / "manifest.csv").exists()


def test_a_disk_that_fills_up_stops_clearly(dataset, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(OSError, match=r"train-000000\.tar: expected to write a shard of 40 faces, got .*Make room"):
            write_shards(dataset, tmp_path / "shards")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "shards").glob("train*")) and not list((tmp_path / "shards").glob(".*"))
    write_shards(dataset, tmp_path / "shards")
    check_shards(tmp_path / "shards")


def test_without_the_package(dataset, written, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    for attempt in (
        lambda: write_shards(dataset, tmp_path / "shards"),
        lambda: read_shards(written, "train", "16x16", 8),
        lambda: pack_shards(written, tmp_path / "packed"),
    ):
        with pytest.raises(ImportError, match=r"expected the package webdataset, got none\. Run: pip install 'dsrkit\[shards\]'"):
            attempt()
