"""Doubts about faces: measured as said, found where they were planted, and nowhere else."""

import io

import numpy as np
import pandas as pd
import pytest
from conftest import made_up_splits
from photos import folder_of, smooth, write
from PIL import Image

from dsrkit.data import checks, duplicates, summary
from dsrkit.data.checks import doubtful_names, pair_distances, quality_flags, unlike_pairs
from dsrkit.data.degrade import DEGRADATIONS, as_bytes, as_tensor, degrade, file_draws
from dsrkit.data.duplicates import alike, difference_hash, differing_bits, duplicate_flags
from dsrkit.data.layout import hr_folder, read_flags, read_set_aside, vlr_folder
from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import FolderSource, SyntheticSource
from dsrkit.plots.faces import plot_face_grid


@pytest.fixture(scope="module")
def faces():
    source = SyntheticSource(10, 4)
    return np.stack(source.read(source.faces))


# --- a face by itself


def plain(value, spread=0, tint=0):
    """Half the pixels ``value + spread``, half ``value − spread``; red brighter by ``tint``."""
    image = np.full((112, 112, 3), value, float)
    image[:56] += spread
    image[56:] -= spread
    image[..., 0] += tint
    return image.round().astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "flags"),
    [
        (plain(128, 60, 20), set()),
        (plain(20, 14, 12), set()),  # mean (0.299 × 32 + 0.701 × 20) / 255 = 0.092
        (plain(16, 14, 8), {"dark"}),  # mean 0.072
        (plain(236, 14, 5), {"bright", "grey"}),
        (plain(128, 12, 20), {"flat"}),  # deviation 12 / 255 = 0.047
        (plain(128, 14, 20), set()),
        (plain(128, 60, 4), {"grey"}),
        (plain(128, 60, 6), set()),
        (plain(0), {"dark", "flat", "grey"}),
        (plain(255), {"bright", "flat", "grey"}),
    ],
)
def test_flags_by_hand(image, flags):
    assert set(quality_flags(image[None])[0]) == flags


def test_flags_are_measured_pixel_by_pixel(faces, monkeypatch):
    for name, value in (("DARKEST", 2), ("BRIGHTEST", -1), ("FLATTEST", 2), ("GREYEST", 2)):
        monkeypatch.setattr(checks, name, value)  # every face gets every flag, with what was measured
    for face, flags in zip(faces[:4], quality_flags(faces[:4]), strict=True):
        pixels = [tuple(map(int, face[y, x])) for y in range(0, 112, 2) for x in range(0, 112, 2)]
        luma = [(0.299 * red + 0.587 * green + 0.114 * blue) / 255 for red, green, blue in pixels]
        colour = sum(max(pixel) - min(pixel) for pixel in pixels) / 255 / len(pixels)
        measured = {"dark": np.mean(luma), "bright": np.mean(luma), "flat": np.std(luma), "grey": colour}
        assert {flag: float(text.split(", ")[0].split()[-1]) for flag, text in flags.items()} == {
            flag: pytest.approx(value, abs=6e-4) for flag, value in measured.items()
        }


def test_made_up_faces_raise_no_doubt(faces):
    assert quality_flags(faces) == [{}] * len(faces)
    assert len(set(alike(difference_hash(faces)))) == len(faces)


# --- the same picture twice


def test_the_hash_is_that_of_its_definition(faces):
    for face, words in zip(faces[:3], difference_hash(faces[:3]), strict=True):
        small = Image.fromarray(face).convert("L").resize((17, 16), Image.Resampling.LANCZOS)
        bits = [small.getpixel((x + 1, y)) > small.getpixel((x, y)) for y in range(16) for x in range(16)]
        assert np.unpackbits(words.view(np.uint8)).tolist() == bits


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resaved(image):
    return np.asarray(Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC).resize((112, 112)))


@pytest.mark.parametrize(
    "change",
    [lambda face: jpeg(face, 70), resaved, lambda face: (face * 0.7 + 20).round().astype(np.uint8)],
    ids=["compressed", "resized", "brightness"],
)
def test_copies_are_found_and_other_photos_are_not(faces, change):
    both = np.concatenate([faces, np.stack([change(face) for face in faces])])
    groups = alike(difference_hash(both))
    assert np.array_equal(groups[:40], groups[40:]) and len(set(groups)) == 40


def test_groups_are_those_of_comparing_everything_with_everything():
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**16, (300, 16), dtype=np.uint16)
    hashes[:, :12] = hashes[generator.integers(0, 4, 300), :12]  # words in common, as aligned faces have
    for row in range(0, 280, 4):  # copies that differ in 1, 15, 16 bits
        bits = np.unpackbits(hashes[row].view(np.uint8))
        for place, count in enumerate((1, 15, 16), 1):
            changed = bits.copy()
            changed[generator.choice(256, count, replace=False)] ^= 1
            hashes[row + place] = np.packbits(changed).view(np.uint16)
    hashes[290:] = hashes[290]
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(int)
    near = (bits[:, None] != bits[None]).sum(2) <= 15
    groups = list(range(len(hashes)))
    for _ in range(len(hashes)):
        smaller = [min(groups[other] for other in np.flatnonzero(near[row])) for row in range(len(hashes))]
        if smaller == groups:
            break
        groups = smaller
    ours = alike(hashes)
    assert len(set(ours)) == len(set(groups)) == len(set(zip(ours.tolist(), groups, strict=True))) < 280


def test_no_pictures_and_one_picture(faces):
    assert alike(np.zeros((0, 16), np.uint16)).tolist() == []
    assert len(alike(difference_hash(faces[:1]))) == 1
    assert duplicate_flags(pd.DataFrame(columns=["split", "subject", "name"]), []).empty


def test_every_copy_under_several_names_is_a_conflict_the_first_duplicate_is_none():
    table = pd.DataFrame(
        [
            ("train", "A", "a1"),
            ("train", "A", "a2"),
            ("val", "B", "b1"),
            ("test", "C", "c1"),
            ("test", "C", "c2"),
            ("test", "C", "c3"),
        ],
        columns=["split", "subject", "name"],
    )
    hashes = np.zeros((6, 16), np.uint16)
    hashes[2, 0], hashes[3:, 1:9], hashes[5, 3] = 3, 0x5555, 0x5554
    flags = duplicate_flags(table, [row.tobytes().hex() for row in hashes])
    assert flags[["name", "flag", "other_split", "other_name"]].values.tolist() == [
        ["a1", "conflict", "val", "b1"], ["a2", "conflict", "val", "b1"], ["b1", "conflict", "train", "a1"],
        ["c2", "duplicate", "test", "c1"], ["c3", "duplicate", "test", "c1"],
    ]  # fmt: skip
    assert flags.reason[0] == "the same picture as val/b1 of subject B (2 of 256 bits differ)"
    assert flags.reason[4] == "the same picture as test/c1 (1 of 256 bits differ)"


def test_a_known_pair_of_lfw(lfw):
    """One photo stands in LFW as Gabrielle_Rose_0001 and as Martha_Bowen_0002 differently compressed."""
    names = ["Gabrielle_Rose/Gabrielle_Rose_0001.jpg", "Martha_Bowen/Martha_Bowen_0002.jpg"]
    others = sorted(lfw.rglob("*.jpg"))[:300]
    photos = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in [*(lfw / name for name in names), *others]])
    groups = alike(difference_hash(photos))
    assert groups[0] == groups[1] and len(set(groups)) == len(photos) - 1


# --- pairs of HR and VLR


@pytest.mark.parametrize("degradation", sorted(DEGRADATIONS))
@pytest.mark.parametrize("size", ["14x16", "32x32"])
def test_swapped_and_stale_files_are_found(faces, degradation, size):
    names = [f"{number}.png" for number in range(len(faces))]
    vlr = as_bytes(degrade(as_tensor(faces), size, degradation, file_draws(names, 5)))
    assert unlike_pairs(faces, vlr, names, degradation, seed=5).empty
    swapped = vlr.copy()
    swapped[[3, 7]] = swapped[[7, 3]]
    found = unlike_pairs(faces, swapped, names, degradation, seed=5)
    assert found.name.tolist() == ["3.png", "7.png"] and (found.distance > found.bound).all()
    other = next(kind for kind in DEGRADATIONS if kind not in (degradation, "realistic"))
    assert len(unlike_pairs(faces, vlr, names, other, seed=5)) > 0.9 * len(faces)
    if degradation == "realistic":
        assert len(unlike_pairs(faces, vlr, names, degradation, seed=6)) > 0.9 * len(faces)


def test_pairs_of_a_degradation_that_nobody_named(faces):
    names = [f"{number}.png" for number in range(len(faces))]
    vlr = np.stack([np.asarray(Image.fromarray(jpeg(face, 50)).resize((16, 16), Image.Resampling.BILINEAR)) for face in faces])
    assert unlike_pairs(faces, vlr, names, "theirs").empty
    assert len(unlike_pairs(faces, np.roll(vlr, 1, axis=0), names, "theirs")) > 0.6 * len(faces)
    distances, bound = pair_distances(faces, vlr, names, "theirs")
    expected = as_bytes(degrade(as_tensor(faces), "16"))
    assert distances[4] == pytest.approx(np.abs(expected[4].astype(int) - vlr[4]).mean() / 255)
    others = [np.abs(expected[row].astype(int) - vlr[row - 1]).mean() / 255 for row in range(len(faces))]
    assert bound == pytest.approx(np.median(others) / 2)


# --- names that may be wrong


def people(generator, count, images, size=64, noise=0.6):
    centres = generator.normal(size=(count, size))
    vectors = (centres[:, None] + noise * generator.normal(size=(count, images, size))).reshape(-1, size)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_swapped_names_are_found_and_explained():
    vectors = people(np.random.default_rng(0), 12, 6)
    subjects = [f"s{row // 6:02d}" for row in range(72)]
    names = [f"{row}.png" for row in range(72)]
    assert doubtful_names("train", names, subjects, vectors).empty
    subjects[8], subjects[50] = subjects[50], subjects[8]
    flags = doubtful_names("train", names, subjects, vectors)
    assert sorted(flags.name) == ["50.png", "8.png"] and set(flags.flag) == {"mislabelled"}
    row = flags[flags.name == "8.png"].iloc[0]
    assert row.subject == "s08" and row.other_name == "6.png" and row.other_split == "train"
    own = np.mean([vectors[other] for other in range(72) if subjects[other] == "s08" and other != 8], axis=0)
    theirs = np.mean([vectors[other] for other in range(72) if subjects[other] == "s01"], axis=0)
    cosines = [vectors[8] @ centre / np.linalg.norm(centre) for centre in (own, theirs)]
    assert row.reason.startswith("cosine {:.2f} to its own subject, {:.2f} to s01; usual here 0.".format(*cosines))


def test_a_subject_of_few_faces_is_not_judged():
    vectors = people(np.random.default_rng(1), 4, 2)
    subjects = ["a", "b", "b", "a", "c", "c", "d", "d"]  # a and b exchanged a face
    assert doubtful_names("val", list("12345678"), subjects, vectors).empty
    assert doubtful_names("val", ["1", "2", "3"], ["a"] * 3, vectors[:3]).empty


# --- the report


@pytest.fixture
def dataset(tmp_path):
    folder_of(tmp_path / "faces", "ABCDEFGH", images=4)
    write(tmp_path / "faces" / "A" / "A_0009.png", smooth(1))
    write(tmp_path / "faces" / "B" / "B_0009.png", smooth(1))
    write(tmp_path / "faces" / "C" / "C_0009.png", np.zeros((112, 112, 3), np.uint8))
    write(tmp_path / "faces" / "D" / "D_0009.png", size=(60, 50))
    source = FolderSource(tmp_path / "faces")
    train, val = ([face for face in source.faces if (face.subject in "ABCD") == first] for first in (True, False))
    migrate({"train": (source, train), "val": (source, val)}, tmp_path / "set", Migration(("16", "14x16"), "area", 0))
    return tmp_path / "set"


def test_counts_are_those_of_the_folders(dataset):
    table = summary.count_table(dataset)
    assert table.columns.tolist() == ["subjects", "faces", "HR images", "VLR 14x16", "VLR 16x16", "set aside", "flagged, kept"]
    assert table.loc["train"].tolist() == [4, 17, 17, 17, 17, 3, 1] and table.loc["val"].tolist() == [4, 16, 16, 16, 16, 0, 0]
    assert table.loc["total"].tolist() == [8, 33, 33, 33, 33, 3, 1]
    next(vlr_folder(dataset, "val", "16").iterdir()).unlink()
    assert summary.count_table(dataset).loc["val", "VLR 16x16"] == 15


def test_reading_back_shows_what_was_touched(dataset):
    table = summary.checked_table(dataset)
    assert table.index.tolist() == ["train, 14x16", "train, 16x16", "val, 14x16", "val, 16x16"]
    assert set(table["HR changed"]) == set(table["not its HR"]) == {0} and table.checked.tolist() == [17, 17, 16, 16]
    assert set(table["HR"]) == {"112x112"} and table["VLR"].tolist() == ["14x16", "16x16"] * 2
    one, other = sorted(vlr_folder(dataset, "val", "16").iterdir())[2:4]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    write(sorted(hr_folder(dataset, "train").iterdir())[0], np.full((112, 112, 3), 77, np.uint8))
    for path in (dataset / "packed").iterdir():
        path.unlink()
    table = summary.checked_table(dataset)
    assert table["HR changed"].tolist() == [1, 1, 0, 0] and table["not its HR"].tolist() == [1, 1, 0, 2]
    assert table.loc["val, 16x16", "for example"] == one.name
    assert summary.checked_table(dataset, most=5).checked.tolist() == [5] * 4


def test_pictures_of_doubtful_faces(dataset):
    aside, flags = read_set_aside(dataset), read_flags(dataset)
    pictures, captions = summary.thumbnails(dataset, aside, ["name", "flag", "reason"])
    assert [picture.shape for picture in pictures] == [(112, 228, 3), (112, 112, 3)]  # A and B are shown once, beside each other
    assert np.abs(pictures[0][:, :112].astype(int) - pictures[0][:, 116:]).max() == 0
    assert captions[0].startswith("A_0009.png\nconflict\nthe same picture as train/B_0009.png")
    assert "got 60x50" in captions[1] and pictures[1].std() == 0
    dark, _ = summary.thumbnails(dataset, flags[flags.other_name == ""], ["flag"], most=1)
    assert len(dark) == 1 and dark[0].max() == 0
    figure = plot_face_grid(pictures, captions, columns=4)
    assert [axis.get_xlabel().split("\n")[0] for axis in figure.axes] == ["A_0009.png", "D_0009.png"]


def test_what_the_sources_held(dataset):
    source = FolderSource(dataset.parent / "faces")
    splits = {"train": (source, source.faces[:10]), "test": (source, source.faces[10:12])}
    row = summary.source_table(splits).iloc[0]
    assert (row["faces"], row["in"], row["in no split"]) == (36, "train, test", 24)
    assert summary.planned_table(splits).loc["train"].tolist() == [2, 10]
    assert summary.source_table(made_up_splits(4, 1))["files passed over"].tolist() == ["none"]


def test_wrong_names_are_written_down_once(dataset):
    vectors = {len(part): people(np.random.default_rng(len(part)), 4, 5)[: len(part)] for part in (range(17), range(16))}
    for _ in range(2):
        found = summary.look_for_wrong_names(dataset, lambda faces: vectors[len(faces)])
        flags = read_flags(dataset)
        assert flags.flag.value_counts().to_dict() == {"dark": 1, "flat": 1, "grey": 1} | (
            {"mislabelled": len(found)} if len(found) else {}
        )
    assert len(found) > 0


@pytest.mark.parametrize(("faces", "captions"), [([], []), ([np.zeros((4, 4, 3), np.uint8)], ["a", "b"])])
def test_a_grid_needs_faces_and_as_many_captions(faces, captions):
    with pytest.raises(ValueError, match=r"Expected one face or more and as many captions, got \d faces and \d captions"):
        plot_face_grid(faces, captions)


def test_every_flag_can_be_raised():
    assert set(checks.FLAGS) == {"conflict", "duplicate", "dark", "bright", "flat", "grey"}
    assert duplicates.MOST_BITS == 15 and differing_bits(np.zeros((1, 16), np.uint16), np.ones((1, 16), np.uint16)).tolist() == [
        16
    ]
