"""Every kind of source lists the right faces and reads the right pixels; bad files, names, links and packs are named."""

import io
import os
import pickle
import struct
import unicodedata
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_dataset import write_dataset

from dsrkit.data.pairs import COLUMNS, read_lfw_pairs
from dsrkit.data.sources import (
    KINDS,
    Face,
    FolderSource,
    ImageError,
    MultiPieName,
    Source,
    SyntheticSource,
    open_source,
    parse_multi_pie,
    read_hr,
    subject_of_name,
)
from dsrkit.data.sources.plain_pickle import read_plain_pickle


def noise(seed=0, size=(112, 112)):
    """An array [height, width, 3] of random bytes; ``size`` is width × height."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def put(path, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if array is None else array).save(path, **options)
    return path


def encoded(array, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def error_of(source, face=0):
    (answer,) = source.read([source.faces[face]])
    assert isinstance(answer, ImageError)
    return str(answer)


# --- one picture


@pytest.mark.parametrize("size", [112, 113, 160, 256])
def test_read_hr_gives_112_as_pillow_shrinks(tmp_path, size):
    whole = Image.fromarray(noise(size=(size, size)))
    whole.save(tmp_path / "a.png")
    assert np.array_equal(read_hr(tmp_path / "a.png"), np.asarray(whole.resize((112, 112), Image.Resampling.BICUBIC)))


def test_grey_becomes_rgb(tmp_path):
    Image.fromarray(noise()[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(read_hr(tmp_path / "a.png"), np.repeat(noise()[..., :1], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotation_is_applied(tmp_path, orientation):
    upright = noise()
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2)}
    stored |= {6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    put(tmp_path / "a.png", np.ascontiguousarray(stored[orientation]), exif=exif)
    assert np.array_equal(read_hr(tmp_path / "a.png"), upright)


def png_of_header(width, height, bits, colour, rows=b""):
    """A PNG written by hand, to claim what Pillow would not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def spoilt(what):
    """Bytes of a file with that fault, and its suffix."""
    stream = io.BytesIO()
    match what.split():
        case ["zero", "bytes"]:
            return b"", "png"
        case ["no", "image"]:
            return b"not an image at all", "jpg"
        case ["postscript"]:
            return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 112 112\n%%EndComments\nshowpage\n", "png"
        case ["truncated", kind]:
            whole = encoded(noise(), kind)
            return whole[: len(whole) // 2], kind
        case ["bomb", width, height]:
            return png_of_header(int(width), int(height), 8, 2), "png"
        case ["16", "bit", "rgb"]:
            return png_of_header(112, 112, 16, 2, (b"\0" + bytes(112 * 6)) * 112), "png"
        case ["16", "bit", "grey"]:
            return png_of_header(112, 112, 16, 0, (b"\0" + bytes(112 * 2)) * 112), "png"
        case ["mode", mode]:
            Image.new(mode, (112, 112)).save(stream, "JPEG" if mode == "CMYK" else "PNG")
            return stream.getvalue(), "png"
        case _:
            width, height = map(int, what.split("x"))
            return encoded(noise(size=(width, height))), "png"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        *((what, "expected an image, got a file that cannot be read") for what in ("zero bytes", "no image", "postscript")),
        *((f"truncated {kind}", "got a file that cannot be read") for kind in ("png", "jpeg", "webp", "bmp")),
        ("bomb 100000 100000", "got a file that cannot be read (Image size (10000000000 pixels) exceeds limit"),
        ("bomb 9000 9000", "expected at most 64 million pixels, got 9000x9000. Shrink it"),
        *((f"mode {mode}", f"expected 8-bit RGB or grey, got mode {mode}. Convert") for mode in ("RGBA", "LA", "P", "1", "CMYK")),
        ("16 bit grey", "expected 8-bit RGB or grey, got mode I;16. Convert"),
        ("16 bit rgb", "expected 8-bit RGB or grey, got 16 bits a channel. Convert"),
        ("1x1", "expected an aligned square face of at least 112x112, got 1x1. Align and crop"),
        ("111x111", "got 111x111"),
        ("160x120", "got 160x120"),
        ("250x250", "got 250x250, the size of LFW's photos, which show more than the face. Take the aligner centre-crop"),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_read(tmp_path, what, message):
    content, suffix = spoilt(what)
    put(tmp_path / "Al" / "good.png")
    put(tmp_path / "Cy" / "good.png")
    bad = tmp_path / "Bo" / f"bad.{suffix}"
    bad.parent.mkdir()
    bad.write_bytes(content)
    source = FolderSource(tmp_path)
    first, answer, last = source.read(source.faces)
    assert np.array_equal(first, noise()) and np.array_equal(last, noise())
    assert isinstance(answer, ImageError) and str(answer).startswith(f"Bo/bad.{suffix}: ") and message in str(answer)
    with pytest.raises(ImageError, match=rf"^bad\.{suffix}: expected"):
        read_hr(bad)
    assert bad.read_bytes() == content


# --- folders


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("007_01_01_010_00_crop_128.png", "007"), ("1001_0001_lfw.png", "1001"), ("250_04_20_051_07_crop_112.jpg", "250"),
        ("Aaron_Eckhart_0001.jpg", None), ("07_01_01_010_00_crop_128.png", None), ("1001_01_lfw.png", None), ("face.png", None),
    ],
)  # fmt: skip
def test_subject_of_name(name, subject):
    assert subject_of_name(name) == subject


def test_folders_of_subjects_at_any_depth(tmp_path):
    put(tmp_path / "Aaron_Eckhart" / "Aaron_Eckhart_0001.jpg")
    put(tmp_path / "more" / "Bo" / "IMG_7.PNG")
    put(tmp_path / "more" / ".trash" / "Bo" / "a.png")
    (tmp_path / "more" / "Bo" / "notes.txt").write_text("no face")
    (tmp_path / "more" / "Bo" / "._IMG_7.PNG").write_bytes(b"what macOS leaves beside files")
    source = open_source("folder", tmp_path)
    assert isinstance(source, Source) and not source.native
    found = {(face.subject, face.name) for face in source.faces}
    assert found == {("Aaron_Eckhart", "Aaron_Eckhart_0001.png"), ("Bo", "Bo_IMG_7.png")}
    assert source.passed_over == {".txt": 1, "hidden": 2}


def test_one_flat_folder(tmp_path):
    for name in ("007_01_01_051_07_crop_128.png", "1001_0001_lfw.png", "1001_0002_lfw.png"):
        put(tmp_path / name)
    assert [(face.subject, face.name) for face in FolderSource(tmp_path).faces] == [
        ("007", "007_01_01_051_07_crop_128.png"), ("1001", "1001_0001_lfw.png"), ("1001", "1001_0002_lfw.png"),
    ]  # fmt: skip


def test_folders_that_cannot_serve(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere, got nothing there\. Give"):
        FolderSource(tmp_path / "nowhere")
    (tmp_path / "scan.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected images in folders of subjects, got none .*\{'\.tif': 1\}\. Give"):
        FolderSource(tmp_path)
    put(tmp_path / "holiday.png")
    with pytest.raises(ValueError, match=r"got 'holiday\.png' beside them\. Move it"):
        FolderSource(tmp_path)


@pytest.mark.parametrize("other", ["a.jpg", "A.png"])
def test_two_files_of_one_name(tmp_path, other):
    put(tmp_path / "Bo" / "a.png")
    put(tmp_path / "Bo" / other)
    with pytest.raises(ValueError, match=r"a\.png and .*(a\.jpg|A\.png) would both be named Bo_a\.png\. Rename"):
        FolderSource(tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [("x/Bo", "y/Bo"), ("Bo", "Bo/2020"), ("Zoé", unicodedata.normalize("NFD", "Zoé")), ("a", "a/b/c")],
)
def test_two_folders_for_one_subject(tmp_path, one, other):
    put(tmp_path / one / "1.png")
    put(tmp_path / other / "2.png")
    with pytest.raises(ValueError, match=r"expected one folder of images per subject, got .*\. Put one person's images into one"):
        FolderSource(tmp_path)


def test_unicode_names_are_composed(tmp_path):
    put(tmp_path / unicodedata.normalize("NFD", "Zoé Ünal") / "é.png", noise(1))
    put(tmp_path / "李小龙" / "1.png", noise(2))
    source = FolderSource(tmp_path)
    assert [(face.subject, face.name) for face in source.faces] == [("Zoé Ünal", "Zoé Ünal_é.png"), ("李小龙", "李小龙_1.png")]
    assert [np.array_equal(face, noise(1 + row)) for row, face in enumerate(source.read(source.faces))] == [True, True]


@pytest.mark.parametrize("folder", [b"line\nbreak", b"back\\slash", b"latin-1 \xe9", b"x" * 180, b"bell\x07"])
def test_names_that_would_not_travel(tmp_path, folder):
    path = os.path.join(os.fsencode(tmp_path), folder)
    os.mkdir(path)
    with open(os.path.join(path, b"a_long_enough_name_of_a_file.png"), "wb") as stream:
        stream.write(encoded(noise()))
    with pytest.raises(ValueError, match=r"expected names of letters, digits and marks, at most 200 bytes, got .*\. Rename"):
        FolderSource(tmp_path)


def test_a_link_to_a_file_outside_is_set_aside_and_one_inside_is_read(tmp_path):
    put(tmp_path / "secret" / "x.png")
    put(tmp_path / "faces" / "Bo" / "a.png")
    for name, target in {"b": tmp_path / "secret" / "x.png", "c": "../../secret/x.png", "d": "a.png", "e": "nothing.png"}.items():
        (tmp_path / "faces" / "Bo" / f"{name}.png").symlink_to(target)
    (tmp_path / "alias").symlink_to("faces")
    for root in ("faces", "alias"):
        source = FolderSource(tmp_path / root)
        answers = source.read(source.faces)
        assert [isinstance(answer, ImageError) for answer in answers] == [False, True, True, False, True]
        assert str(answers[1]).startswith("Bo/b.png: expected a file below") and "got a link to" in str(answers[2])
        assert "got a broken link or a device. Put the image" in str(answers[4])


def test_a_sibling_that_begins_with_the_root_s_name_is_outside(tmp_path):
    put(tmp_path / "faces_private" / "x.png")
    (tmp_path / "faces" / "Bo").mkdir(parents=True)
    (tmp_path / "faces" / "Bo" / "a.png").symlink_to(tmp_path / "faces_private" / "x.png")
    assert "expected a file below" in error_of(FolderSource(tmp_path / "faces"))


def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "Bo").mkdir()
    os.mkfifo(tmp_path / "Bo" / "a.png")
    assert "got a broken link or a device" in error_of(FolderSource(tmp_path))


@pytest.mark.parametrize("target", ["..", "../secret", "."])
def test_a_link_to_a_folder_is_refused(tmp_path, target):
    put(tmp_path / "secret" / "x.png")
    put(tmp_path / "faces" / "Bo" / "a.png")
    (tmp_path / "faces" / "more").symlink_to(target)
    with pytest.raises(ValueError, match=r"expected folders, got 'more', a link to .*\. Put the folder itself there"):
        FolderSource(tmp_path / "faces")


def test_a_folder_of_many_files_is_looked_at_once(tmp_path, monkeypatch):
    asked = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: asked.append(path) or scandir(path))
    for person in range(20):
        (tmp_path / f"{person:02d}").mkdir()
        for number in range(100):
            (tmp_path / f"{person:02d}" / f"{number}.png").touch()
    source = FolderSource(tmp_path)
    assert len(source.faces) == 2000 and len(asked) == 21
    assert [face.origin for face in source.faces] == sorted(face.origin for face in source.faces)


# --- Multi-PIE


def multi_pie_tree(root):
    for subject in ("001", "346"):
        for session, recording, camera, flash in [
            ("01", "01", "051", "07"),
            ("01", "02", "140", "07"),
            ("04", "01", "051", "18"),
        ]:
            folder = root / f"session{session}" / subject / recording / f"{camera[:2]}_{camera[2]}"
            put(folder / f"{subject}_{session}_{recording}_{camera}_{flash}.png")
    return root


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("007_01_02_051_18.png", ("007", "01", "02", "051", "18")),
        ("007_01_02_051_18_crop_128.png", ("007", "01", "02", "051", "18")),
        ("a/b/1007_04_02_191_00_v2.jpg", ("1007", "04", "02", "191", "00")),
        ("007_01_02_051.png", None), ("007_01_02_51_18.png", None), ("007_01_02_051_18x.png", None),
        ("x007_01_02_051_18.png", None),
        ("٠٠٧_01_02_051_18.png", None),
    ],
)  # fmt: skip
def test_five_fields_of_a_multi_pie_name(name, fields):
    assert parse_multi_pie(name) == (MultiPieName(*fields) if fields else None)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({}, 6), ({"cameras": ["051"]}, 4), ({"cameras": ["051", "140"]}, 6), ({"illuminations": ["18"]}, 2),
        ({"recordings": ["01"]}, 4), ({"sessions": ["04"]}, 2), ({"cameras": ["051"], "sessions": ["01"]}, 2),
    ],
)  # fmt: skip
def test_multi_pie_is_filtered_by_any_field(tmp_path, filters, kept):
    source = open_source("multi-pie", multi_pie_tree(tmp_path), **filters)
    assert len(source.faces) == kept and {face.subject for face in source.faces} == {"001", "346"}
    assert source.passed_over.get("filtered out", 0) == 6 - kept
    for face in source.faces:
        name = parse_multi_pie(face.name)
        for field in ("camera", "illumination", "recording", "session"):
            assert getattr(name, field) in filters.get(f"{field}s", [getattr(name, field)])


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"cameras": ["051", "999"]}, r"expected values of camera among \['051', '140'\], got \['999'\]\. Correct"),
        ({"cameras": ["140"], "sessions": ["04"]}, r"pass all filters, got none; there are .*'session': \['01', '04'\].*Widen"),
        ({"cameras": [41]}, r"camera: expected a list of codes in quotes, such as \['051'\], got \[41\]\. YAML reads"),
        ({"cameras": "051"}, r"camera: expected a list of codes in quotes, .*got '051'"),
    ],
)
def test_multi_pie_refuses_filters_that_leave_nothing(tmp_path, filters, message):
    with pytest.raises(ValueError, match=message):
        open_source("multi-pie", multi_pie_tree(tmp_path), **filters)


def test_multi_pie_among_other_names(tmp_path):
    put(multi_pie_tree(tmp_path) / "holiday.png")
    with pytest.raises(ValueError, match=r"got 1 others of 7, such as 'holiday\.png'\. Move them"):
        open_source("multi-pie", tmp_path)


# --- an existing data set


def test_processed_layout(tmp_path):
    names = {"train": ["007_01_01_010_00_crop_128.png", "1001_0001_lfw.png"], "test": ["Bo_Li_0002.png"]}
    for split, files in names.items():
        for number, name in enumerate(files):
            put(tmp_path / f"{split}_processed" / "hr_images" / name, noise(number, (160, 160)))
            put(tmp_path / f"{split}_processed" / "vlr_images" / name, noise(number, (16, 16)))
    source = open_source("processed", tmp_path)
    assert [(face.split, face.subject, face.name) for face in source.faces] == [
        ("train", "007", names["train"][0]), ("train", "1001", names["train"][1]), ("test", "Bo_Li", names["test"][0]),
    ]  # fmt: skip
    shrunk = Image.fromarray(noise(1, (160, 160))).resize((112, 112), Image.Resampling.BICUBIC)
    assert np.array_equal(source.read([source.faces[1]])[0], np.asarray(shrunk))


def test_processed_subjects_come_from_the_manifest_where_there_is_one(tmp_path):
    dataset = write_dataset(tmp_path / "set")
    found = {(face.split, face.subject, face.name) for face in open_source("processed", dataset).faces}
    assert found == set(pd.read_csv(dataset / "manifest.csv")[["split", "subject", "name"]].itertuples(index=False, name=None))
    put(tmp_path / "train_processed" / "hr_images" / "Bo_IMG_0007.png")
    (tmp_path / "manifest.csv").write_text("split,subject,name\ntrain,Bo,Bo_IMG_0007.png\n")
    assert [face.subject for face in open_source("processed", tmp_path).faces] == ["Bo"]
    (tmp_path / "manifest.csv").write_text("split,name\ntrain,Bo_IMG_0007.png\n")
    with pytest.raises(ValueError, match=r"expected columns split, subject and name, got none called \['subject'\]\. Add"):
        open_source("processed", tmp_path)


def test_processed_layout_that_does_not_tell(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got none of train_processed, val_processed, test_processed\. Give"):
        open_source("processed", tmp_path)
    (tmp_path / "val_processed").mkdir()
    with pytest.raises(FileNotFoundError, match=r"hr_images, got nothing there"):
        open_source("processed", tmp_path)
    put(tmp_path / "val_processed" / "hr_images" / "holiday.png")
    with pytest.raises(ValueError, match=r"expected a name such as .*, got 'holiday\.png'\. Rename it, or list it"):
        open_source("processed", tmp_path)


# --- InsightFace's verification pack


def pack_content(people=4, pairs=12):
    """Images of ``people`` in turn, two a pair; a person's image is always the same bytes."""
    images = [encoded(noise(person)) for person in range(people)]
    left, right = [k % people for k in range(pairs)], [(k + k % 2) % people for k in range(pairs)]
    order = [side for pair in zip(left, right, strict=True) for side in pair]
    return [images[k] for k in order], [one == other for one, other in zip(left, right, strict=True)]


def python_2_pickle(images, same):
    """Protocol 2 as Python 2 wrote it: byte strings as BINSTRING, each with its place in the memo."""
    strings = b"".join(b"T" + struct.pack("<I", len(one)) + one + b"r" + struct.pack("<I", k + 2) for k, one in enumerate(images))
    return b"\x80\x02]q\x00(" + strings + b"e]q\x01(" + b"".join(b"\x88" if one else b"\x89" for one in same) + b"e\x86."


@pytest.mark.parametrize("writer", [*(f"Python 3, protocol {number}" for number in range(1, 6)), "Python 2"])
def test_bin_of_every_writer(tmp_path, writer):
    images, same = pack_content()
    content = python_2_pickle(images, same) if writer == "Python 2" else pickle.dumps((images, same), protocol=int(writer[-1]))
    (tmp_path / "lfw.bin").write_bytes(content)
    source = open_source("insightface-bin", tmp_path / "lfw.bin", folds=5)
    assert isinstance(source, Source) and not source.native
    assert [(face.subject, face.name) for face in source.faces] == [
        (f"lfw_{n:05d}", f"lfw_{n:05d}_{n:05d}.png") for n in (0, 2, 3, 6)
    ]
    assert [np.array_equal(face, noise(person)) for person, face in enumerate(source.read(source.faces))] == [True] * 4
    assert list(source.pairs.columns) == COLUMNS and source.pairs.same.tolist() == same
    assert source.pairs.fold.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    pixels = dict(zip([face.name for face in source.faces], source.read(source.faces), strict=True))
    for number, (left, right) in enumerate(zip(source.pairs.left, source.pairs.right, strict=True)):
        for side, name in enumerate((left, right)):
            assert np.array_equal(pixels[name], np.asarray(Image.open(io.BytesIO(images[2 * number + side]))))


def test_bin_subjects_are_what_chains_of_same_pairs_link(tmp_path):
    images = [encoded(noise(number)) for number in range(6)]
    chain = [(0, 1, True), (2, 3, True), (1, 3, True), (0, 4, False), (4, 5, False)]
    content = [images[k] for one, other, _ in chain for k in (one, other)], [kind for *_, kind in chain]
    (tmp_path / "x.bin").write_bytes(pickle.dumps(content))
    source = open_source("insightface-bin", tmp_path / "x.bin", folds=1)
    assert [face.subject for face in source.faces] == ["x_00000"] * 4 + ["x_00007", "x_00009"]
    subject = {face.name: face.subject for face in source.faces}
    for row in source.pairs.itertuples():
        assert (subject[row.left] == subject[row.right]) == row.same


class Exploit:
    def __reduce__(self):
        return os.mkdir, (os.environ["DSRKIT_EXPLOIT"],)


@pytest.mark.parametrize(
    "crafted",
    [
        *(f"object, protocol {number}" for number in range(6)), "os.system", "build", "new", "extension", "persistent",
        "memo bomb", "length bomb", "marks", "no stop", "other codec", "class", "none", "unequal", "text", "numbers",
        "empty lists", "truncated", "no pickle", "dictionary", "nothing",
    ],
)  # fmt: skip
def test_a_crafted_bin_is_refused_and_nothing_in_it_runs(tmp_path, monkeypatch, crafted):
    monkeypatch.setenv("DSRKIT_EXPLOIT", str(tmp_path / "exploited"))
    images, same = pack_content()
    crafts = {
        "os.system": b"\x80\x02cos\nsystem\n(S'mkdir exploited'\ntR.",
        "build": b"\x80\x02c_codecs\nencode\n}U\x08__code__U\x01xsb.",
        "new": b"\x80\x02c_codecs\nencode\n)\x81.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02U\x01xQ.",
        "memo bomb": b"\x80\x02]r\xff\xff\xff\x7f.",  # Python's own unpickler claims 32 GiB here
        "length bomb": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
        "marks": b"\x80\x02" + b"(" * 10_000 + b"e.",
        "no stop": b"\x80\x02]q\x00",
        "other codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86R.",
        "class": pickle.dumps((images, [np.True_, *same[1:]])),
        "none": pickle.dumps((images, [None, *same[1:]])),
        "unequal": pickle.dumps((images[1:], same)),
        "text": pickle.dumps((["../../x.png"] * len(images), same)),
        "numbers": pickle.dumps((images, [2] * len(same))),
        "empty lists": pickle.dumps(([], [])),
        "truncated": pickle.dumps((images, same))[:-100],
        "no pickle": b"\xff\xd8\xff\xe0" + bytes(100),
        "dictionary": pickle.dumps({"images": images}),
        "nothing": b"",
    }
    content = crafts[crafted] if crafted in crafts else pickle.dumps((images, [Exploit()]), protocol=int(crafted[-1]))
    (tmp_path / "bad.bin").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"bad\.bin: expected .*, got .*Fetch (it|the pack) again"):
        open_source("insightface-bin", tmp_path / "bad.bin")
    assert os.listdir(tmp_path) == ["bad.bin"] and (tmp_path / "bad.bin").read_bytes() == content


def test_the_exploit_is_one(tmp_path, monkeypatch):
    """The crafted pack above does harm to whoever unpickles it: else the test would show nothing."""
    monkeypatch.setenv("DSRKIT_EXPLOIT", str(tmp_path / "exploited"))
    pickle.loads(pickle.dumps(Exploit()))
    assert (tmp_path / "exploited").is_dir()


def test_a_bad_picture_in_a_bin_is_set_aside(tmp_path):
    small = encoded(noise(size=(96, 112)))
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([encoded(noise()), b"no image", small, small], [True, True])))
    source = open_source("insightface-bin", tmp_path / "x.bin")
    good, broken, oblong = source.read(source.faces)
    assert np.array_equal(good, noise())
    assert str(broken).startswith("x.bin#1: expected an image") and "got 96x112" in str(oblong)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.bin, got nothing there"):
        open_source("insightface-bin", tmp_path / "nowhere.bin")


def test_one_text_asked_for_often_is_encoded_once():
    text = "x" * 100_000
    times = 3000
    call = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text.encode() + b"X\x06\x00\x00\x00latin1\x86q\x01R"
    content = read_plain_pickle(b"\x80\x02](" + call + b"h\x00h\x01R" * times + b"e.")
    assert len(content) == times + 1 and len({id(one) for one in content}) == 1 and content[0] == text.encode()


# --- InsightFace's training pack

MAGIC = struct.pack("<I", 0xCED7230A)


def record(label, image, key):
    """One record as MXNet writes it: in several parts where the data holds the magic number, which is left out between them."""
    labels = list(label) if isinstance(label, tuple | list) else []
    header = struct.pack("<IfQQ", len(labels), 0.0 if labels else label, key, 0) + struct.pack(f"<{len(labels)}f", *labels)
    content = header + image
    parts = content.split(MAGIC)
    kinds = [0] if len(parts) == 1 else [1] + [2] * (len(parts) - 2) + [3]
    out = b""
    for kind, part in zip(kinds, parts, strict=True):
        out += MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
    return out


def write_pack(folder, people=3, images=2, header=True, several=False, extra=()):
    """A pack like CASIA's: record 0 tells where images end, then images, then one record a person with the keys of theirs."""
    count = people * images
    records = {}
    if header:
        records[0] = record([count + 1, count + 1 + people], b"", 0)
    for number in range(count):
        label = number // images
        records[number + 1] = record((label, 7.0) if several else float(label), encoded(noise(number)), number + 1)
    if header:
        for person in range(people):
            records[count + 1 + person] = record([1.0 + person * images, 1.0 + (person + 1) * images], b"", 0)
    records |= dict(extra)
    lines, content = [], b""
    for key, one in records.items():
        lines.append(f"{key}\t{len(content)}\n")
        content += one
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text("".join(reversed(lines)))  # an index need not be in order
    return folder


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("several", [True, False])
def test_rec(tmp_path, header, several):
    source = open_source("insightface-rec", write_pack(tmp_path, header=header, several=several))
    assert [(face.subject, face.name) for face in source.faces] == [(f"{n // 2}", f"{n // 2}_{n + 1}.png") for n in range(6)]
    order = [4, 0, 5]
    pixels = pickle.loads(pickle.dumps(source)).read([source.faces[n] for n in order])
    assert all(np.array_equal(face, noise(n)) for n, face in zip(order, pixels, strict=True))
    same = open_source("insightface-rec", tmp_path / "train.rec")
    assert same.faces == source.faces


def test_rec_in_several_parts(tmp_path):
    """RecordIO takes the magic number out of data where it would look like a new record, and readers put it back."""
    image = encoded(noise())
    comment = MAGIC * 2
    text = b"tEXt" + b"c\0xx" + comment  # a PNG comment that holds the magic number twice, at a multiple of 4
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    image = image[:33] + chunk + image[33:]  # after the PNG's signature and header
    split = record(1.0, image, 9)
    assert split.count(MAGIC) == 3  # one for each part
    source = open_source("insightface-rec", write_pack(tmp_path, header=False, extra={9: split}))
    assert source.faces[-1].subject == "1" and np.array_equal(source.read(source.faces[-1:])[0], noise())


@pytest.mark.parametrize("fault", ["offset", "beyond", "text", "label", "fraction", "infinite", "other pack"])
def test_rec_with_an_index_that_does_not_fit(tmp_path, fault):
    labels = {"label": -1.0, "fraction": 0.5, "infinite": float("inf")}
    extra = {9: record(labels[fault], encoded(noise()), 9)} if fault in labels else {}
    write_pack(tmp_path, header=False, extra=extra)
    index = tmp_path / "train.idx"
    wrong = {"offset": "1\t8\n", "beyond": "1\t99999999\n", "text": "one\ttwo\n", "other pack": "1\t-4\n"}
    index.write_text(wrong.get(fault, index.read_text()))
    with pytest.raises(ValueError, match=r"train\.(idx|rec): expected .*, got .*Fetch"):
        open_source("insightface-rec", tmp_path)


def test_rec_that_is_not_there(tmp_path):
    write_pack(tmp_path)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.idx, got nothing there\. Give the \.rec"):
        open_source("insightface-rec", tmp_path)


@pytest.mark.parametrize("fault", ["no image", "cut off", "not begun", "overwritten", "huge"])
def test_a_bad_record_is_set_aside(tmp_path, fault):
    content = record(1.0, b"no image" if fault == "no image" else encoded(noise()), 9)
    if fault == "not begun":
        content = content[:4] + struct.pack("<I", 2 << 29 | len(content) - 8) + content[8:]
    if fault == "huge":
        content = content[:4] + struct.pack("<I", 2**29 - 1) + content[8:]
    source = open_source("insightface-rec", write_pack(tmp_path, header=False, extra={9: content}))
    pack = tmp_path / "train.rec"
    at = pack.stat().st_size - len(content)
    if fault == "cut off":
        os.truncate(pack, at + 200)
    if fault == "overwritten":
        pack.write_bytes(pack.read_bytes()[:at] + bytes(len(content)))
    *good, bad = source.read(source.faces)
    assert all(np.array_equal(face, noise(n)) for n, face in enumerate(good))
    assert isinstance(bad, ImageError) and str(bad).startswith(f"train.rec@{at}: expected")


# --- native low resolution


def test_tinyface(tmp_path):
    sizes = {
        "Training_Set/5/a_1.jpg": (20, 16), "Testing_Set/Gallery_Match/12_1.jpg": (18, 22), "Testing_Set/Probe/12_2.jpg": (6, 7),
        "Testing_Set/Gallery_Distractor/77.jpg": (30, 30), "Testing_Set/Gallery_Distractor/78.jpg": (3, 30),
        "Testing_Set/other/1_1.jpg": (20, 20),
    }  # fmt: skip
    for name, size in sizes.items():
        put(tmp_path / name, noise(size=size), quality=100)
    source = open_source("tinyface", tmp_path)
    assert source.native and source.passed_over == {"other folder": 1}
    found = {face.name: (face.subject, face.split, face.role) for face in source.faces}
    assert found == {
        "5_a_1.png": ("5", "train", ""), "gallery_12_1.png": ("12", "test", "gallery"), "probe_12_2.png": ("12", "test", "probe"),
        "distractor_77.png": ("distractor_77", "test", "distractor"),
        "distractor_78.png": ("distractor_78", "test", "distractor"),
    }  # fmt: skip
    for face, pixels in zip(source.faces, source.read(source.faces), strict=True):
        if face.subject == "distractor_78":
            assert "expected at least 4x4 pixels, got 3x30" in str(pixels)
        else:
            assert np.array_equal(pixels, np.asarray(Image.open(face.origin)))


def test_tinyface_that_does_not_tell(tmp_path):
    put(tmp_path / "elsewhere" / "1.jpg")
    with pytest.raises(ValueError, match=r"expected Training_Set/ and Testing_Set/, got other folders\. Give"):
        open_source("tinyface", tmp_path)
    put(tmp_path / "Testing_Set" / "Probe" / "face.jpg")
    with pytest.raises(ValueError, match=r"face\.jpg: expected a name <id>_<n>, .*got 'face\.jpg'\. Take"):
        open_source("tinyface", tmp_path)


def scface_files(mugshots, photos):
    files = {f"{mugshots}{subject}_frontal.JPG": (200, 260) for subject in ("001", "002")}
    return files | {
        f"{photos}{s}_cam{c}_{d}.jpg": (75 * d, 100 * d) for s in ("001", "002") for c in (1, 5, 6) for d in (1, 2, 3)
    }


@pytest.mark.parametrize("layout", ["SCface", "flat"])
def test_scface(tmp_path, layout):
    folders = ("mugshot_frontal_original_all/", "surveillance_cameras_all/") if layout == "SCface" else ("", "")
    files = scface_files(*folders)
    if layout == "SCface":  # the same photos stand in other folders too
        files |= {"surveillance_cameras_distance_1/cam_1/001_cam1_1.jpg": (75, 100), "mugshot_rotation_all/001_L1.jpg": (90, 90)}
    for name, size in files.items():
        put(tmp_path / name, noise(size=size))
    source = open_source("scface", tmp_path)
    assert source.native and sum(face.role == "gallery" for face in source.faces) == 2
    assert sum(face.role == "probe" for face in source.faces) == 12  # without the infrared camera
    assert source.passed_over == {f"camera 6, distance {distance}": 2 for distance in (1, 2, 3)}
    near = open_source("scface", tmp_path, cameras=[1, 6], distances=[3])
    assert [face.name for face in near.faces if face.role == "probe"] == [
        f"{subject}_cam{camera}_3.png" for subject in ("001", "002") for camera in (1, 6)
    ]
    assert near.read([near.faces[-1 if layout == "SCface" else 1]])[0].shape == (300, 225, 3)


def test_scface_takes_cropped_mugshots_first(tmp_path):
    for name, size in scface_files("mugshot_frontal_cropped_all/", "surveillance_cameras_all/").items():
        put(tmp_path / name, noise(size=size))
    put(tmp_path / "mugshot_frontal_original_all" / "001_frontal.jpg", noise(size=(400, 400)))
    source = open_source("scface", tmp_path)
    assert source.read([source.faces[0]])[0].shape == (260, 200, 3)


@pytest.mark.parametrize(("keep", "options"), [("frontal", {}), ("cam", {}), ("", {"cameras": [3]}), ("", {"distances": [9]})])
def test_scface_without_a_gallery_or_probes(tmp_path, keep, options):
    for name, size in scface_files("", "").items():
        if keep in name:
            put(tmp_path / name, noise(size=size))
    with pytest.raises(ValueError, match=r"expected 001_frontal\.jpg, … and 001_cam1_2\.jpg, .*Give SCface's root"):
        open_source("scface", tmp_path, **options)


# --- all of them


def test_made_up_source():
    source = SyntheticSource(3, 2, seed=5)
    assert isinstance(source, Source) and not source.native
    assert len(source.faces) == 6 and len({face.name for face in source.faces}) == 6
    assert len({face.subject for face in source.faces}) == 3
    assert all(subject_of_name(face.name) == face.subject for face in source.faces)
    images = source.read(source.faces[2:4])
    assert np.array_equal(images[1], SyntheticSource(3, 2, seed=5).read([source.faces[3]])[0])
    assert not np.array_equal(images[1], SyntheticSource(3, 2, seed=6).read([source.faces[3]])[0])
    with pytest.raises(ValueError, match="at least one subject and one image each, got 0 and 2"):
        SyntheticSource(0, 2)


def small_source(kind, root):
    """A source of that kind, of a few faces, made on the spot."""
    match kind:
        case "folder":
            put(root / "Bo" / "1.png")
        case "multi-pie":
            multi_pie_tree(root)
        case "processed":
            put(root / "val_processed" / "hr_images" / "Bo_0001.png")
        case "insightface-bin":
            (root / "x.bin").write_bytes(pickle.dumps(pack_content()))
            return open_source(kind, root / "x.bin")
        case "insightface-rec":
            write_pack(root)
        case "tinyface":
            put(root / "Testing_Set" / "Probe" / "1_1.png", noise(size=(20, 24)))
        case "scface":
            for name, size in scface_files("", "").items():
                put(root / name, noise(size=size))
    return open_source(kind, root)


@pytest.mark.parametrize("kind", KINDS)
def test_sources_travel_to_other_processes(tmp_path, kind):
    source = small_source(kind, tmp_path)
    assert isinstance(source, Source) and source.faces
    luggage = pickle.dumps(source)
    for here, there in zip(source.read(source.faces), pickle.loads(luggage).read(source.faces), strict=True):
        assert np.array_equal(here, there) and here.dtype == np.uint8
        assert source.native or here.shape == (112, 112, 3)
    assert len(luggage) < 20_000  # names, not pixels


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lfw", {}, "source: expected one of folder, multi-pie, .*, got 'lfw'"),
        ("folder", {"camera": ["051"]}, r"source folder: expected options among \['aligner'\], got \['camera'\]\. Leave"),
        ("tinyface", {"aligner": None}, r"source tinyface: expected options among \[\], got \['aligner'\]"),
    ],
)
def test_unknown_kinds_and_options(tmp_path, kind, options, message):
    with pytest.raises(ValueError, match=message):
        open_source(kind, tmp_path, **options)


def test_a_face_is_a_plain_record():
    assert vars(Face("007", "a.png", "somewhere")) == {
        "subject": "007", "name": "a.png", "origin": "somewhere", "split": "", "role": ""
    }  # fmt: skip


def test_real_lfw_holds_all_that_its_pairs_name(lfw, lfw_pairs):
    names = {face.name for face in FolderSource(lfw).faces}
    table = read_lfw_pairs(lfw_pairs)
    assert set(table.left) | set(table.right) <= names
