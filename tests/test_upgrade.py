"""An upgrade of an older tree: Pillow's own pixels, nothing lost whatever happens, and every odd file named."""

import errno
import functools
import io
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dsrkit.data import shrink
from dsrkit.data.upgrade import dry_run, plan, steps, upgrade
from dsrkit.data.upgrade.ledger import LEDGER, Ledger

ROOT = Path(__file__).parents[1]
REPORTS = {"upgrade_report.json", "upgrade_files.csv"}


def face(number: int, size: tuple[int, int] = (160, 160), mode: str = "RGB") -> Image.Image:
    """Blobs of colour with a little noise, so that PNG does with it what it does with photographs."""
    generator = np.random.default_rng(number)
    blobs = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = generator.integers(-3, 4, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(blobs) + noise, 0, 255).astype(np.uint8)).convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"compress_level": 1} if kind == "PNG" else {}), **options)
    return stream.getvalue()


@functools.cache
def face_file(number: int, side: int) -> bytes:
    return file_of(face(number, (side, side)))


@functools.cache
def straight(content: bytes) -> np.ndarray:
    """What the users' own loop makes of a file: open, resize, nothing else."""
    return np.asarray(Image.open(io.BytesIO(content)).resize((112, 112), Image.Resampling.BICUBIC))


def make_tree(root: Path, counts: dict[str, int]) -> dict[str, bytes]:
    """A tree of the older layout, of a hundred different faces at most; returns the HR files, by path below ``root``."""
    originals = {}
    for split, count in counts.items():
        hr, vlr = (root / f"{split}_processed" / folder for folder in ("hr_images", "vlr_images"))
        hr.mkdir(parents=True)
        vlr.mkdir()
        for number in range(count):
            name = f"{number % 7:03d}_01_01_051_{number:04d}_crop_128.png"
            originals[str((hr / name).relative_to(root))] = face_file(number % 100, 160)
            (hr / name).write_bytes(face_file(number % 100, 160))
            (vlr / name).write_bytes(face_file(number % 100, 32))
    return originals


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check_upgraded(
    root: Path, originals: dict[str, bytes], others: dict[str, bytes], in_place: bool, size: str = "160x160"
) -> None:
    """The tree holds exactly the upgraded faces, the originals where they are kept, what else there was, and the reports."""
    found = files_of(root)
    kept = {} if in_place else {path.replace("hr_images", f"hr_images_{size}"): content for path, content in originals.items()}
    assert found.keys() == originals.keys() | others.keys() | kept.keys() | REPORTS
    assert all(found[path] == content for path, content in (others | kept).items())
    for path, content in originals.items():
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[path]))), straight(content)), path


@pytest.fixture
def tree(tmp_path) -> tuple[Path, dict[str, bytes], dict[str, bytes]]:
    """The root, its HR files, its other files."""
    root = tmp_path / "faces"
    originals = make_tree(root, {"train": 9, "val": 3, "test": 2})
    return root, originals, {path: content for path, content in files_of(root).items() if path not in originals}


# --- the ordinary way


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_face_is_pillow_s_bicubic_and_nothing_else_changes(tree, in_place, workers):
    root, originals, others = tree
    report = upgrade(root, workers, in_place)
    check_upgraded(root, originals, others, in_place)
    assert report.table.shrunk.tolist() == [9, 3, 2]
    before = files_of(root)
    assert not upgrade(root, workers, in_place).table.shrunk.any()
    assert files_of(root) == before


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [113, 128, 250])
def test_other_sizes_and_grey(tmp_path, mode, size):
    originals = {"train_processed/hr_images/a.PNG": file_of(face(1, (size, size), mode))}
    path = tmp_path / next(iter(originals))
    path.parent.mkdir(parents=True)
    path.write_bytes(originals[str(path.relative_to(tmp_path))])
    upgrade(tmp_path, 1)
    check_upgraded(tmp_path, originals, {}, False, f"{size}x{size}")


def test_the_report_is_exact(tree):
    root, originals, _ = tree
    report = upgrade(root, 1)
    files = pd.read_csv(root / "upgrade_files.csv")
    written = json.loads((root / "upgrade_report.json").read_text())
    assert written["splits"] == report.table.to_dict("records") and written["originals"]["val"] == "hr_images_160x160"
    for row in report.table.itertuples():
        before = [content for path, content in originals.items() if path.startswith(row.split)]
        after = [content for path, content in files_of(root).items() if path.startswith(f"{row.split}_processed/hr_images/")]
        assert (row.images, row.bytes_before, row.bytes_after) == (len(before), sum(map(len, before)), sum(map(len, after)))
        assert row.shrunk / row.images_per_second == pytest.approx(row.seconds, abs=0.01)
    for row in files.itertuples():
        content = (root / f"{row.split}_processed/hr_images/{row.name}").read_bytes()
        assert shrink._sha256(content) == row.sha256_after and len(content) == row.bytes_after
        assert shrink._sha256(originals[f"{row.split}_processed/hr_images/{row.name}"]) == row.sha256_before


def test_faces_of_the_right_size_and_other_files_are_carried_over_as_they_are(tree):
    root, originals, others = tree
    hr = root / "train_processed/hr_images"
    ready = {
        f"train_processed/hr_images/{name}": content
        for name, content in (("ready.png", file_of(face(50, (112, 112)))), ("notes.txt", b"whose faces"), (".DS_Store", b"\0"))
    }
    for path, content in ready.items():
        (root / path).write_bytes(content)
    for path in (root / "val_processed/hr_images").iterdir():
        Image.open(path).resize((112, 112)).save(path)
    val = {path: content for path, content in files_of(root).items() if path.startswith("val_processed/hr")}
    originals = {path: content for path, content in originals.items() if path not in val}
    report = upgrade(root, 1)
    old = {path.replace("hr_images", "hr_images_160x160"): content for path, content in ready.items()}
    check_upgraded(root, originals, others | ready | val | old, False)
    assert report.table.images.tolist() == [10, 3, 2] and report.table.shrunk.tolist() == [9, 0, 2]
    assert sorted(path.name for path in hr.parent.iterdir()) == ["hr_images", "hr_images_160x160", "vlr_images"]


def test_permissions_stay(tree):
    root = tree[0]
    hr = root / "val_processed/hr_images"
    private = sorted(hr.iterdir())[0]
    hr.chmod(0o750)
    private.chmod(0o640)
    upgrade(root, 1)
    assert (hr.stat().st_mode & 0o777, private.stat().st_mode & 0o777) == (0o750, 0o640)


def test_names_of_any_kind(tmp_path):
    hr = tmp_path / "test_processed/hr_images"
    hr.mkdir(parents=True)
    names = [os.fsencode("Žofie Müller 人.png"), b"latin-\xe9.png", b"two\nlines.png", b'a, b "c".png']
    for number, name in enumerate(names):
        (hr / os.fsdecode(name)).write_bytes(file_of(face(number)))
    upgrade(tmp_path, 2)
    assert sorted(os.listdir(os.fsencode(hr))) == sorted(names)
    assert {Image.open(path).size for path in hr.iterdir()} == {(112, 112)}
    table = pd.read_csv(tmp_path / "upgrade_files.csv", encoding_errors="surrogateescape")
    assert sorted(map(os.fsencode, table.name)) == sorted(names)


# --- the dry run


def test_plan_says_what_upgrade_does_and_touches_nothing(tree):
    root, originals, _ = tree
    (root / "train_processed/vlr_images" / os.path.basename(next(iter(originals)))).unlink()
    (root / "val_processed/vlr_images/alone.png").write_bytes(file_of(face(3, (32, 32))))
    broken = sorted((root / "test_processed/vlr_images").iterdir())[0]
    broken.write_bytes(b"")
    before = files_of(root)
    planned = plan(root, 2)
    assert files_of(root) == before
    table = planned.table.set_index(["split", "folder"])
    assert table.loc[("train", "hr_images"), ["images", "sizes", "to_shrink"]].tolist() == [9, "160x160: 9", 9]
    assert table.loc[("val", "vlr_images"), ["images", "sizes", "to_shrink"]].tolist() == [4, "32x32: 4", 0]
    named = {(row.split, row.folder, row.name): row.problem for row in planned.problems.itertuples()}
    assert not planned.problems.stops.any() and len(planned.problems) == len(named) == 3
    assert "expected a VLR face of that name" in named["train", "hr_images", os.path.basename(next(iter(originals)))]
    assert "expected an HR face of that name" in named["val", "vlr_images", "alone.png"]
    assert "cannot be read" in named["test", "vlr_images", broken.name]
    report = upgrade(root, 2)
    assert table.to_shrink.sum() == report.table.shrunk.sum() and "14 images" in str(planned)
    assert table.bytes_after[table.to_shrink > 0].sum() == pytest.approx(report.table.bytes_after.sum(), rel=0.05)
    assert planned.needed_bytes == pytest.approx(report.table.bytes_after.sum() + 14 * 4096, rel=0.05)


def test_in_place_needs_little_room(tree, monkeypatch):
    monkeypatch.setattr(dry_run, "PORTION", 2)
    assert plan(tree[0], 1, in_place=True).needed_bytes < plan(tree[0], 1).needed_bytes / 5


def test_plan_of_a_tree_that_is_ready(tree):
    upgrade(tree[0], 1)
    planned = plan(tree[0], 1)
    assert not planned.table.to_shrink.any() and planned.seconds == 0 and planned.problems.empty


# --- files that cannot be shrunk


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(face(1), exif=exif)


WHOLE = file_of(face(1))
BAD = {
    "zero bytes": (b"", "cannot be read"),
    "text": (b"no image at all", "cannot be read"),
    "cut in the header": (WHOLE[:20], "cannot be read"),
    "cut in the middle": (WHOLE[: len(WHOLE) // 2], "without an end"),
    "cut at the end": (WHOLE[:-12], "without an end"),
    "JPEG called png": (file_of(face(1), "JPEG"), "cannot be read"),
    "16-bit RGB": (png(160, 160, 16, 2, (b"\0" + bytes(160 * 6)) * 160), "expected 8-bit RGB or grey, got 16 bits"),
    "16-bit grey": (file_of(Image.fromarray(np.full((160, 160), 40_000, np.uint16))), "expected 8-bit RGB or grey, got 16 bits"),
    **{mode: (file_of(face(1, mode=mode)), f"expected 8-bit RGB or grey, got {mode}") for mode in ("P", "RGBA", "LA", "1")},
    "not square": (file_of(face(1, (160, 120))), "expected a square face, got 160x120"),
    "too small": (file_of(face(1, (100, 100))), "expected at least 112x112, got 100x100; faces are never enlarged"),
    "1x1": (file_of(face(1, (1, 1))), "got 1x1"),
    "large": (png(5000, 5000, 8, 2, b""), "expected at most 4096x4096, got 5000x5000"),
    "bomb": (png(60_000, 60_000, 8, 2, b""), "cannot be read"),
    "turned by EXIF": (turned(), "expected an upright image"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_named_and_nothing_is_lost(tmp_path, what, in_place):
    content, message = BAD[what]
    originals = make_tree(tmp_path, {"train": 2, "val": 1})
    others = {path: content for path, content in files_of(tmp_path).items() if path not in originals}
    bad = tmp_path / "train_processed/hr_images/bad.png"
    bad.write_bytes(content)
    planned = plan(tmp_path, 1)
    assert planned.problems[planned.problems.stops].name.tolist() == ["bad.png"]
    with pytest.raises(ValueError, match=r"got 1 that cannot:\n  train: bad\.png: expected") as caught:
        upgrade(tmp_path, 1, in_place)
    assert message in str(caught.value) and message in planned.problems.problem[0]
    assert pd.read_csv(tmp_path / "upgrade_problems.csv").name.tolist() == ["bad.png"]
    found = files_of(tmp_path)
    assert bad.read_bytes() == content
    assert in_place or all(found[path] == original for path, original in originals.items())
    bad.unlink()
    upgrade(tmp_path, 1, in_place)
    check_upgraded(tmp_path, originals, others, in_place)


DAMAGED = {
    "other bytes": WHOLE[:900] + b"\xff" * 40 + WHOLE[940:],
    "no rows": png(160, 160, 8, 2, b""),
    "no pixels": png(160, 160, 8, 2, b"")[:33] + WHOLE[-12:],
}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("what", DAMAGED)
def test_damage_in_the_middle_is_found_when_pixels_are_read(tree, what, in_place):
    root, originals, others = tree
    path = sorted(originals)[4]
    (root / path).write_bytes(DAMAGED[what])
    assert not plan(root, 1).problems.stops.any()
    with pytest.raises(ValueError, match=r"got 1 that cannot(.|\n)*cannot be read"):
        upgrade(root, 1, in_place)
    (root / path).write_bytes(originals[path])
    upgrade(root, 1, in_place)
    check_upgraded(root, originals, others, in_place)


def test_damaged_bytes_of_any_kind_are_refused_and_nothing_else():
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(face_file(2, 160))
        for _ in range(generator.choice([1, 3, 50])):
            content[generator.choice([generator.randrange(60), generator.randrange(len(content))])] = generator.randrange(256)
        try:
            _, after = shrink.shrunk(bytes(content), "a.png", 112, True)
            assert Image.open(io.BytesIO(after)).size == (112, 112)
        except shrink.RefusedError as error:
            assert str(error).startswith("a.png: expected")
            refused += 1
    assert 200 < refused < 300


@pytest.mark.parametrize("what", ["link", "folder", "jpg"])
def test_what_is_no_file_of_the_layout_is_named(tree, tmp_path, what):
    root = tree[0]
    odd = root / "train_processed/hr_images" / ("odd.jpg" if what == "jpg" else "odd.png")
    (tmp_path / "outside.png").write_bytes(WHOLE)
    if what == "link":
        odd.symlink_to(tmp_path / "outside.png")
    elif what == "folder":
        odd.mkdir()
    else:
        face(1).save(odd)
    with pytest.raises(ValueError, match=r"odd\.(png|jpg): expected (a file, got a (link|folder)|PNG images, got \.jpg)"):
        upgrade(root, 1, in_place=True)
    assert (tmp_path / "outside.png").read_bytes() == WHOLE and os.path.lexists(odd)


def test_roots_that_cannot_serve(tree, tmp_path):
    root, originals, _ = tree
    for call in (plan, upgrade):
        with pytest.raises(FileNotFoundError, match=r"got no folder there\. Give"):
            call(tmp_path / "nowhere", 1)
        with pytest.raises(ValueError, match=r"expected train_processed/hr_images \(or val, test\), got 'faces'\. Give"):
            call(tmp_path, 1)
    assert os.listdir(tmp_path) == ["faces"]
    shutil.move(root / "val_processed/hr_images", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"val_processed/hr_images: expected a folder, got none\. Put"):
        upgrade(root, 1)
    (root / "val_processed/hr_images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"val_processed/hr_images: expected a folder, got a link\. Put"):
        upgrade(root, 1)
    assert all((root / path).read_bytes() == content for path, content in originals.items() if "val" not in path)
    assert not (root / "upgrade_ledger.jsonl").exists()


def test_nothing_that_is_there_is_overwritten(tree):
    root, originals, _ = tree
    (root / "test_processed/hr_images_160x160").mkdir()
    with pytest.raises(ValueError, match=r"hr_images_160x160: expected the name to be free .*got something there\. Move it"):
        upgrade(root, 1)
    (root / "test_processed/hr_images_160x160").rmdir()
    (root / "manifest.csv").write_text("split,subject,name\n")
    with pytest.raises(ValueError, match=r"got one with a manifest"):
        upgrade(root, 1)
    assert {path: (root / path).read_bytes() for path in originals} == originals


def test_a_tree_that_changes_meanwhile_is_not_swapped(tree, monkeypatch):
    root, originals, others = tree
    late = root / "val_processed/hr_images/late.png"
    flush = steps._flush
    monkeypatch.setattr(
        steps, "_write_beside", lambda *given, real=steps._write_beside: (late.write_bytes(WHOLE), real(*given))[1]
    )
    with pytest.raises(ValueError, match=r"expected the 3 files of the start, got changes: 'late\.png'"):
        upgrade(root, 1)
    assert {path: (root / path).read_bytes() for path in originals} == originals and flush is steps._flush
    upgrade(root, 1)
    check_upgraded(root, originals | {"val_processed/hr_images/late.png": WHOLE}, others, False)


def test_two_upgrades_at_once(tree):
    with Ledger(tree[0]) as held:
        with pytest.raises(RuntimeError, match="got another upgrade of this tree at work"):
            upgrade(tree[0], 1)
        assert held.empty
    assert upgrade(tree[0], 1).table.shrunk.sum() == 14


# --- a full disk


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tree, monkeypatch):
    root = tree[0]
    before, free = files_of(root), 100_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    planned = plan(root, 1)
    assert planned.free_bytes == free < planned.needed_bytes and "NOT ENOUGH" in str(planned)
    short = f"{(planned.needed_bytes - free) / 1e6:.1f} MB short"
    with pytest.raises(OSError, match=rf"expected room .* full, {short}\. Free it, or upgrade in place") as caught:
        upgrade(root, 1)
    assert caught.value.errno == errno.ENOSPC and files_of(root) == before


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("after", [0, 5, 13])
def test_a_disk_that_fills_up(tree, monkeypatch, after, in_place):
    root, originals, others = tree
    monkeypatch.setattr(steps, "try_some", lambda *given: (0.001, 0.5))
    monkeypatch.setattr(steps, "CHUNK", 1)
    real, calls = shrink.write_whole, []

    def full(path, *rest):
        calls.append(path)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *rest)

    monkeypatch.setattr(shrink, "write_whole", full)
    with pytest.raises(OSError, match=rf"expected room .*run again: the originals are safe, and {after} new files are kept"):
        upgrade(root, 1, in_place)
    assert all((root / path).exists() for path in originals)
    made = len(calls) - 1
    monkeypatch.setattr(shrink, "write_whole", lambda path, *rest: (calls.append(path), real(path, *rest)))
    upgrade(root, 1, in_place)
    check_upgraded(root, originals, others, in_place)
    assert len(calls) - 1 - made == 14 - after  # nothing is made twice


def test_files_that_the_system_cuts_off(tree, nursery):
    """A real write error, from the system: files may have 12,000 bytes."""
    root, originals, others = tree
    assert nursery.run(f"resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)); upgrade({str(root)!r}, 2)") != 0
    assert "expected room for the new files" in nursery.said()
    assert {path: (root / path).read_bytes() for path in originals} == originals
    upgrade(root, 1)
    check_upgraded(root, originals, others, False)


FULL_DISK = """
import pathlib, shutil, subprocess, sys
from dsrkit.data.upgrade import steps
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "none", "disk"], check=True)
shutil.copytree("faces", "disk/faces")
pathlib.Path("disk/ballast").write_bytes(bytes(200_000))
steps.try_some = lambda *given: (0.0, 0.0)  # foresees nothing
try:
    steps.upgrade("disk/faces", 2)
except OSError as error:
    print(error)
shutil.copytree("disk/faces", "stopped")
pathlib.Path("disk/ballast").unlink()
steps.upgrade("disk/faces", 2)
shutil.copytree("disk/faces", "after")
"""


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 900 kB, where the machine lets us mount one."""
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let its users mount a file system")
    originals = make_tree(tmp_path / "faces", {"train": 12})
    others = {path: content for path, content in files_of(tmp_path / "faces").items() if path not in originals}
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "a disk that is full" in done.stdout, done
    stopped = files_of(tmp_path / "stopped")
    assert {path: stopped[path] for path in originals} == originals
    check_upgraded(tmp_path / "after", originals, others, False)


# --- kills, made exact: the step that comes next does not happen


class KilledError(BaseException):
    """Stands for a kill: no handler of the code under test takes it."""


def killing(real, after: int):
    calls = []

    def call(*given):
        calls.append(given)
        if len(calls) > after:
            raise KilledError
        return real(*given)

    return call


@pytest.mark.parametrize("after", range(7))
def test_killed_between_the_renames(tree, monkeypatch, after):
    root, originals, others = tree
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killing(os.rename, after))  # two renames a split
        if after < 6:
            with pytest.raises(KilledError):
                upgrade(root, 1)
            if after in (1, 3, 5):
                with pytest.raises(ValueError, match="after an upgrade that was killed, run the upgrade again"):
                    plan(root, 1)
    report = upgrade(root, 1)
    check_upgraded(root, originals, others, False)
    assert report.table.shrunk.tolist() == [9, 3, 2] and report.kept.keys() == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("place", "step"),
    [(steps, "_write_beside"), (steps, "_flush"), (steps, "write_report"), *((Ledger, name) for name in ("end_swaps", "remove"))],
)
def test_killed_at_a_step(tree, monkeypatch, place, step):
    root, originals, others = tree
    with monkeypatch.context() as patch:
        patch.setattr(place, step, killing(None, 0))
        with pytest.raises(KilledError):
            upgrade(root, 1)
    assert upgrade(root, 1).table.shrunk.tolist() == [9, 3, 2]
    check_upgraded(root, originals, others, False)


@pytest.mark.parametrize("after", [0, 1, 5, 13])
def test_killed_while_files_are_moved_in_place(tree, monkeypatch, after):
    root, originals, others = tree
    monkeypatch.setattr(steps, "PORTION", 4)
    real, moved = os.replace, []

    def move(source, target):
        if "hr_images/" in str(target):
            moved.append(target)
            if len(moved) > after:
                raise KilledError
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", move)
        with pytest.raises(KilledError):
            upgrade(root, 1, in_place=True)
    upgrade(root, 1, in_place=True)
    check_upgraded(root, originals, others, True)


def test_an_upgrade_begun_one_way_can_be_ended_the_other(tree, monkeypatch):
    root, originals, others = tree
    with monkeypatch.context() as patch:
        patch.setattr(steps, "_swap_folders", killing(None, 0))
        with pytest.raises(KilledError):
            upgrade(root, 1)
    upgrade(root, 1, in_place=True)
    check_upgraded(root, originals, others, True)


def stopped_before_the_swap(root: Path, monkeypatch) -> Path:
    """Everything written, nothing swapped; the folder of new files of the training split."""
    with monkeypatch.context() as patch:
        patch.setattr(steps, "_swap_folders", killing(None, 0))
        with pytest.raises(KilledError):
            upgrade(root, 1)
    return root / "train_processed/hr_images.112.partial"


def test_new_files_are_believed_only_as_the_ledger_says(tree, monkeypatch):
    root, originals, others = tree
    new = stopped_before_the_swap(root, monkeypatch)
    names = sorted(os.listdir(new))
    (new / names[0]).write_bytes(b"")  # a power cut
    (new / names[1]).write_bytes((new / names[2]).read_bytes())
    (new / names[3]).unlink()
    (new / ".4711.upgrade.tmp").write_bytes(b"half")
    (new / "of_nobody.png").write_bytes(WHOLE)
    (root / ".upgrade_report.json.4711.tmp").write_text("{")
    ledger = root / "upgrade_ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-30])  # the last line, val's or test's, is half written
    changed, gone = (f"train_processed/hr_images/{names[number]}" for number in (5, 6))
    originals[changed] = file_of(face(99))
    (root / changed).write_bytes(originals[changed])
    (root / gone).unlink()
    del originals[gone]
    made = []
    real = shrink.write_whole
    monkeypatch.setattr(shrink, "write_whole", lambda path, *rest: (made.append(path.name), real(path, *rest)))
    upgrade(root, 1)
    check_upgraded(root, originals, others, False)
    last = {path.rsplit("/", 1)[1] for path in originals if path.startswith("test")}
    assert set(made) == {names[0], names[1], names[3], names[5]} | last


def test_a_finished_swap_is_not_done_again_with_later_files(tree, monkeypatch):
    root = tree[0]
    with monkeypatch.context() as patch:
        patch.setattr(steps, "write_report", killing(None, 0))
        with pytest.raises(KilledError):
            upgrade(root, 1)
    for split in ("train", "val", "test"):
        shutil.rmtree(root / f"{split}_processed/hr_images_160x160")
    (root / "val_processed/hr_images/later.png").write_bytes(WHOLE)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "_write_beside", lambda part, names, work: (part.new.mkdir(), killing(None, 0)())[0])
        with pytest.raises(KilledError):
            upgrade(root, 1)
    upgrade(root, 1)
    assert len(os.listdir(root / "val_processed/hr_images")) == 4
    assert (root / "val_processed/hr_images_160x160/later.png").read_bytes() == WHOLE


def test_a_file_added_after_a_kill_before_the_first_rename_is_not_left_out(tree, monkeypatch):
    root, originals, others = tree
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killing(None, 0))
        with pytest.raises(KilledError):
            upgrade(root, 1)
    originals["train_processed/hr_images/late.png"] = WHOLE
    (root / "train_processed/hr_images/late.png").write_bytes(WHOLE)
    upgrade(root, 1)
    check_upgraded(root, originals, others, False)


def test_a_worker_that_dies(tree, monkeypatch):
    root, originals, others = tree
    real = Ledger.add

    def add(*given):
        real(*given)
        for child in multiprocessing.active_children():
            child.kill()

    monkeypatch.setattr(steps, "CHUNK", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add", add)
        with pytest.raises(RuntimeError, match="expected the worker processes to live, got one that was ended"):
            upgrade(root, 2)
    upgrade(root, 1)
    check_upgraded(root, originals, others, False)


# --- kills by the system, at any instant, of the process and its workers

NURSERY = """
import json, os, resource, sys, traceback
from dsrkit.data.upgrade import upgrade
from dsrkit.data.upgrade.ledger import Ledger
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        print(os.getpid(), flush=True)
        try:
            exec(json.loads(line))
        except Exception:
            traceback.print_exc(file=open(sys.argv[1], "w"))
            os._exit(1)
        os._exit(0)
    sys.stdin.readline()
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """Runs code in process groups of their own, without importing torch for each."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        words = [sys.executable, "-c", NURSERY, str(errors)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def run(self, code: str, kill_when: Callable[[], bool] | None = None) -> int:
        """Run ``code``; once the condition holds, kill its process group with signal 9. Returns what waitpid says."""
        self._tell(json.dumps(code))
        group = int(self.process.stdout.readline())
        if kill_when:
            while not kill_when() and " Z " not in Path(f"/proc/{group}/stat").read_text():  # Z: it has ended
                time.sleep(0.001)
            os.killpg(group, signal.SIGKILL)
        self._tell("wait for it")
        return int(self.process.stdout.readline())

    def _tell(self, line: str) -> None:
        print(line, file=self.process.stdin, flush=True)

    def said(self) -> str:
        return self.errors.read_text()

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "errors")
    yield nursery
    nursery.close()


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def check_nothing_lost(root: Path, originals: dict[str, bytes], upgraded: dict[str, bytes]) -> None:
    """In the middle of things: every face is there, as it was or as it will be, and no HR file is anything else."""
    for path, content in originals.items():
        found = [root / path, root / path.replace("hr_images", "hr_images_160x160")]
        contents = [one.read_bytes() for one in found if one.exists()]
        assert contents and all(one in (content, upgraded[path]) for one in contents), path


def test_kill_9_at_random_instants(tmp_path, nursery):
    """Fresh trees, in turn swapped and in place: each killed, run again and killed again, run to the end.

    An instant is a share of the work, told by the size of the ledger (the clock tells little where other programs run), and a
    few milliseconds more, so that it falls anywhere within a chunk, a flush, the renames or the report.
    ``DSRKIT_KILLS="5000 20"`` takes so many files, and so many trees.
    """
    files, trees = map(int, os.environ.get("DSRKIT_KILLS", "120 3").split())
    originals = make_tree(tmp_path / "model", {"train": files * 8 // 10, "val": files // 10, "test": files - files * 9 // 10})
    others = {path: content for path, content in files_of(tmp_path / "model").items() if path not in originals}
    instants = random.Random(0)
    killed = 0
    shutil.copytree(tmp_path / "model", tmp_path / "whole")
    assert nursery.run(f"Ledger.remove = lambda self: None; upgrade({str(tmp_path / 'whole')!r}, 2)") == 0
    whole = size_of(tmp_path / "whole" / LEDGER)
    upgraded = {path: (tmp_path / "whole" / path).read_bytes() for path in originals}
    for number in range(trees):
        root, in_place = tmp_path / f"tree{number}", number % 2 == 1
        shutil.copytree(tmp_path / "model", root)
        for _ in range(2):
            start = size_of(root / LEDGER)
            aim, delay = start + instants.random() * max(whole - start, 0), instants.random() * 0.05

            def there(aim: float = aim, delay: float = delay, ledger: Path = root / LEDGER) -> bool:
                return size_of(ledger) >= aim and time.sleep(delay) is None

            killed += nursery.run(f"upgrade({str(root)!r}, 2, {in_place})", there) == signal.SIGKILL
            check_nothing_lost(root, originals, upgraded)
        assert nursery.run(f"upgrade({str(root)!r}, 2, {in_place})") == 0
        check_upgraded(root, originals, others, in_place)
        shutil.rmtree(root)
    print(f"\n{killed} of {2 * trees} upgrades of {files} files were killed before their end; all recovered")
    assert killed >= trees


def test_workers_end_with_a_parent_that_is_killed(tree):
    code = """
import os, time
from dsrkit.data.shrink import worker_pool
with worker_pool(2) as pool:
    print(*{pool.submit(os.getpid).result() for _ in range(50)}, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text() for worker in workers):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)


# --- the command line


def command(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["upgrade", *map(str, words)])
        runpy.run_module("dsrkit.data.upgrade", run_name="__main__")


def test_command_line(tree, capsys):
    root, originals, others = tree
    before = files_of(root)
    command(root, "--dry-run")
    said = capsys.readouterr().out
    assert "14 images to shrink to 112x112" in said and "160x160: 9" in said and files_of(root) == before
    command(root, "--in-place", "--workers=1")
    assert "14 images shrunk to 112x112" in capsys.readouterr().out
    check_upgraded(root, originals, others, True)
    with pytest.raises(SystemExit, match="FileNotFoundError: Expected a data set at"):
        command(root / "nowhere")
