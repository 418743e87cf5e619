"""Who stands where: seeded ratios, lists, the source's own splits, galleries, pairs; and no leak, however a name is written."""

import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import made_up_splits
from photos import contents, folder_of, write
from PIL import Image

from dsrkit.data.migration import Migration, migrate
from dsrkit.data.pairs import make_pairs, read_lfw_pairs
from dsrkit.data.planning import migration_of, plan_splits, source_settings, upgrade_source
from dsrkit.data.sources import Face, SyntheticSource
from dsrkit.data.splits import alike_key, check_disjoint, check_names, enrolled_roles, read_split_list, split_subjects
from dsrkit.params import DataMigration, ParameterError

PLAIN = Migration(("16x16",), "bicubic-antialias", 0)


def subjects_of(splits):
    return {split: sorted({face.subject for face in faces}) for split, (_, faces) in splits.items()}


# --- by ratio


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


# --- leaks


def test_a_subject_in_two_splits_is_a_leak(tmp_path):
    splits = made_up_splits(4, 1)
    source, train = splits["train"]
    leaking = splits | {"test": (source, [*splits["test"][1], train[0]])}
    with pytest.raises(ValueError, match=rf"Leak: subject {train[0].subject} stands in train and in test\..*remove"):
        migrate(leaking, tmp_path / "set", PLAIN)
    assert not (tmp_path / "set").exists()
    check_disjoint(splits)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Bo Li", "bo li"), ("José", "Jose\u0301"), ("Bo", "Bo "), ("Bo_Li", "Bo  Li"), ("Straße", "STRASSE"), ("Ａda", "Ada")],
)
@pytest.mark.parametrize("second", ["train", "test"])
def test_names_of_one_person_written_in_two_ways_are_an_error(one, other, second):
    source = SyntheticSource(2, 1)
    faces = [Face(one, "1.png", "a/1"), Face(other, "2.png", "b/2")]
    splits = {"train": (source, faces[:1]), second: (source, faces[1:])} if second == "test" else {"train": (source, faces)}
    with pytest.raises(ValueError, match=rf"^Alike: .*in train and .* in {second}\. Merge their folders, or rename"):
        check_disjoint(splits)


@pytest.mark.parametrize(("one", "other"), [("007", "7"), ("Ann", "Anne"), ("é", "e")])
def test_names_of_two_people_stay_two(one, other):
    assert alike_key(one) != alike_key(other)


@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", "A.PNG"), ("é.png", "e\u0301.png")])
def test_two_faces_of_one_file_name_are_refused(names):
    source = SyntheticSource(2, 1)
    faces = [Face("x", names[0], "one/a"), Face("y", names[1], "two/a")]
    with pytest.raises(ValueError, match=r"test: expected a file name of its own .* for one/a and for two/a\. Rename"):
        check_names({"test": (source, faces)})
    check_names({"train": (source, faces[:1]), "test": (source, faces[1:])})


# --- by list


@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_a_list_gives_every_subject_its_split(tmp_path, suffix):
    rows = [("Bo Li", "train"), ("007", "test"), ("NA", "none"), ("Jose\u0301", "val")]
    text = "subject,split\n" * (suffix == "csv") + "".join(
        f"{who}{',' if suffix == 'csv' else chr(9)}{split}\n" for who, split in rows
    )
    (tmp_path / f"list.{suffix}").write_text("\ufeff" + text, encoding="utf-8")
    found = read_split_list(tmp_path / f"list.{suffix}", ["Bo Li", "007", "NA", "José"])
    assert found == {"Bo Li": "train", "007": "test", "NA": "none", "José": "val"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a train\nb dev\n", r"expected a split among train, val, test, or none, got 'dev' for b\."),
        ("a train\na test\nb val\n", "expected one split for a, got train and test"),
        ("a train\nb val\nc test\n", "expected subjects of the source, got 1 others, such as c"),
        ("a train\n", r"expected every subject of the source, got none of 1, such as b\. Add them; the split none leaves"),
        ("a train\nb\n", r"expected a subject and a split on each line, got \['b'\]"),
        ("", "expected every subject of the source, got none of 2, such as a"),
    ],
)
def test_a_list_that_cannot_serve(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split_list(tmp_path / "list.txt", ["a", "b"])


def test_a_list_that_is_not_there_or_has_other_columns(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"list\.csv, got nothing there"):
        read_split_list(tmp_path / "list.csv", ["a"])
    (tmp_path / "list.csv").write_text("name,split\na,train\n")
    with pytest.raises(ValueError, match=r"expected columns subject and split, got \['name', 'split'\]"):
        read_split_list(tmp_path / "list.csv", ["a"])


# --- from the stage's parameters


def test_plan_of_made_up_faces(stage_params):
    params = stage_params("01_data_migration", subjects=8, images_per_subject=2, validation_fraction=0.25, test_fraction=0.25)
    splits, pairs = plan_splits(params)
    assert {split: len(faces) for split, (_, faces) in splits.items()} == {"train": 8, "val": 4, "test": 4}
    assert pairs == {}
    without, _ = plan_splits(params.model_copy(update={"test_fraction": 0.0}))
    assert set(without) == {"train", "val"}


def test_plan_of_folders_with_a_test_folder_and_its_pairs(root, stage_params):
    folder_of(root / "faces", ["A", "B", "C", "D"])
    folder_of(root / "lfw", ["X", "Y"], seed=1)
    (root / "pairs.txt").write_text("1\t1\nX\t1\t2\nX\t1\tY\t2\n")
    changes = {"source": "folder", "source_root": "faces", "validation_fraction": 0.5}
    params = stage_params("01_data_migration", **changes, test_source_root="lfw", test_pairs="pairs.txt")
    splits, pairs = plan_splits(params)
    assert {face.subject for face in splits["test"][1]} == {"X", "Y"}
    assert len(splits["train"][1]) == 4 and len(splits["val"][1]) == 4
    manifest = migrate(splits, root / "set", migration_of(params), pairs)
    assert set(manifest.split) == {"train", "val", "test"}
    assert pd.read_csv(root / "set" / "test_pairs.csv").same.tolist() == [True, False]
    folder_of(root / "lfw", ["A"])
    with pytest.raises(ValueError, match="Leak: subject A"):
        plan_splits(params)


def test_plan_by_list(root, stage_params):
    folder_of(root / "faces", ["A", "B", "C", "D", "E"])
    (root / "list.txt").write_text("A train\nB train\nC test\nD none\nE val\n")
    changes = {"source": "folder", "source_root": "faces", "split_by": "list", "split_list": "list.txt"}
    splits, _ = plan_splits(stage_params("01_data_migration", **changes))
    assert subjects_of(splits) == {"train": ["A", "B"], "val": ["E"], "test": ["C"]}
    (root / "list.txt").write_text("A train\nB train\nC test\nD none\nE train\n")
    splits, _ = plan_splits(stage_params("01_data_migration", **changes, validation_fraction=0.3))
    assert {split: len(people) for split, people in subjects_of(splits).items()} == {"train": 2, "val": 1, "test": 1}
    assert subjects_of(splits)["test"] == ["C"] and not any("D" in people for people in subjects_of(splits).values())
    folder_of(root / "lfw", ["X"])
    with pytest.raises(ValueError, match="test_source_root: expected no other test split beside it, got 2 faces"):
        plan_splits(stage_params("01_data_migration", **changes, test_source_root="lfw"))


def test_plan_as_the_source_says(root, stage_params):
    for split, people in {"train": "0001 0002", "val": "0003", "test": "0004 0005"}.items():
        for person in people.split():
            write(root / "old" / f"{split}_processed" / "hr_images" / f"{person}_0001_lfw.png")
    changes = {"source": "processed", "source_root": "old"}
    splits, _ = plan_splits(stage_params("01_data_migration", **changes, split_by="source"))
    assert subjects_of(splits) == {"train": ["0001", "0002"], "val": ["0003"], "test": ["0004", "0005"]}
    write(root / "old" / "val_processed" / "hr_images" / "0001_0002_lfw.png")
    with pytest.raises(ValueError, match="Leak: subject 0001 stands in train and in val"):
        plan_splits(stage_params("01_data_migration", **changes, split_by="source"))
    folder_of(root / "faces", ["A"])
    with pytest.raises(
        ValueError, match=r"folder: expected a source that tells the split of each face, got '' for .*Split by ratio"
    ):
        plan_splits(stage_params("01_data_migration", source="folder", source_root="faces", split_by="source"))


def test_an_older_data_set_is_upgraded_before_it_is_migrated(root, stage_params):
    noise = np.random.default_rng(0).integers(0, 256, (12, 160, 160, 3), dtype=np.uint8)
    for number, face in enumerate(noise):  # two people in each split, two faces each
        split = ("train", "val", "test")[number // 4]
        write(root / "old" / f"{split}_processed" / "hr_images" / f"{number // 2:04d}_000{number % 2 + 1}_lfw.png", face)
    changes = {"source": "processed", "source_root": "old", "split_by": "source"}
    asked = {upgrade: stage_params("01_data_migration", **changes, upgrade=upgrade) for upgrade in ("none", "dry-run", "beside")}
    before = contents(root / "old")
    assert upgrade_source(asked["none"]) is None
    assert upgrade_source(asked["dry-run"]).table.to_shrink.sum() == 12 and contents(root / "old") == before
    params = asked["beside"]
    assert migration_of(params) == migration_of(asked["none"])  # the data set is the same whenever it is upgraded
    early = migrate(plan_splits(params)[0], root / "early", migration_of(params))
    assert upgrade_source(params).table.shrunk.sum() == 12
    assert Image.open(root / "old" / "train_processed" / "hr_images" / "0000_0001_lfw.png").size == (112, 112)
    assert Image.open(root / "old" / "train_processed" / "hr_images_160x160" / "0000_0001_lfw.png").size == (160, 160)
    again = migrate(plan_splits(params)[0], root / "early", migration_of(params))
    assert again.sha256.tolist() == early.sha256.tolist()  # whole already: left alone
    late = migrate(plan_splits(params)[0], root / "late", migration_of(params))
    assert late.sha256.tolist() == early.sha256.tolist()
    assert "nothing to do" in str(upgrade_source(params))
    with pytest.raises(ParameterError, match="upgrade: expected none with source folder, got in-place"):
        stage_params("01_data_migration", source="folder", source_root="faces", upgrade="in-place")


def test_pairs_need_a_test_split(root, stage_params):
    (root / "pairs.txt").write_text("1\t1\nX\t1\t2\nX\t1\tY\t2\n")
    with pytest.raises(ValueError, match="test_pairs: expected a test split beside the pairs, got none"):
        plan_splits(stage_params("01_data_migration", subjects=4, test_fraction=0.0, test_pairs="pairs.txt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_by": "list"}, r"split_list: expected a path with split_by list, and none without, got ''\. Give the path"),
        ({"split_list": "a.csv"}, r"got 'a\.csv'\. Set split_by to list, or leave split_list empty"),
        ({"align": "landmarks"}, "landmarks: expected a path with align landmarks"),
        ({"test_align": "yunet"}, "detector: expected a path with align or test_align yunet"),
        ({"cameras": ["o51"]}, "cameras"),
        ({"cameras": [51]}, "cameras"),
        ({"vlr_sizes": []}, "vlr_sizes"),
        ({"vlr_sizes": ["16*16"]}, "vlr_sizes"),
        ({"workers": 0}, "workers"),
        ({"set_aside": ["blurred"]}, "set_aside"),
        ({"validation_fraction": 1.5}, "validation_fraction"),
        ({"source": "insightface-bin"}, "source"),
        ({"centre_share": 0.0}, "centre_share"),
    ],
)
def test_parameters_that_cannot_be_are_named(stage_params, changes, message):
    with pytest.raises(ParameterError, match=message):
        stage_params("01_data_migration", **changes)


def test_settings_tell_sources_apart_and_hold_no_path(root, stage_params):
    folder_of(root / "faces", ["A"])
    folder_of(root / "lfw", ["X"])
    changes = {"source": "folder", "source_root": str(root / "faces"), "test_source_root": str(root / "lfw")}
    plain = source_settings(stage_params("01_data_migration", **changes))
    assert plain == {
        "source": "folder", "align": "none", "root": "faces", "test_source": "folder", "test_align": "none", "test_root": "lfw"
    }  # fmt: skip
    cropped = source_settings(stage_params("01_data_migration", **changes, align="centre-crop", centre_share=0.5, enlarge=True))
    assert cropped == plain | {"align": "centre-crop", "centre_share": "0.5", "enlarge": "true", "test_enlarge": "true"}
    assert source_settings(stage_params("01_data_migration")) == {"source": "made-up"}


def test_every_kind_that_the_parameters_know_is_there():
    from dsrkit.data.align import ALIGNERS
    from dsrkit.data.checks import FLAGS
    from dsrkit.data.degrade import DEGRADATIONS
    from dsrkit.data.sources import KINDS

    def values(name):
        kind = DataMigration.model_fields[name].annotation
        return set(str(kind).split("'")[1::2])

    assert values("source") | values("test_source") == {"made-up", *KINDS}
    assert values("align") == values("test_align") == set(ALIGNERS)
    assert values("degradation") == set(DEGRADATIONS) and values("set_aside") == set(FLAGS)


# --- gallery and probes


def test_roles_are_drawn_by_hash_alone():
    names = [f"{person}_{number}.png" for person in "abcd" for number in range(5)] + ["e_0.png", "e_1.png"]
    subjects = [name[0] for name in names]
    roles = enrolled_roles(names, subjects, 2, seed=3)
    for person in "abcde":
        draws = {name: hashlib.sha256(f"3 {name}".encode()).hexdigest() for name in names if name[0] == person}
        gallery = set(sorted(draws, key=draws.get)[:2]) if person != "e" else set()  # two images only: nothing left to probe with
        assert {name for name, role in zip(names, roles, strict=True) if role == "gallery" and name[0] == person} == gallery
    order = np.random.default_rng(0).permutation(len(names))
    again = enrolled_roles([names[n] for n in order], [subjects[n] for n in order], 2, seed=3)
    assert again == [roles[n] for n in order] and set(roles) == {"gallery", "probe"}
    assert enrolled_roles(names[:5], subjects[:5], 2, seed=3) == roles[:5] and roles != enrolled_roles(names, subjects, 2, seed=4)


def test_roles_need_somebody_to_enrol(root, stage_params):
    with pytest.raises(ValueError, match="expected a subject with more than 3 images, got 2 at most"):
        enrolled_roles(["1", "2", "3"], ["a", "a", "b"], 3, 0)
    with pytest.raises(ValueError, match="expected 1 or more gallery images a subject, got 0"):
        enrolled_roles(["1"], ["a"], 0, 0)
    shape = {"subjects": 8, "images_per_subject": 3, "validation_fraction": 0.25}
    params = stage_params("01_data_migration", **shape, enrolled=1)
    splits, _ = plan_splits(params)
    manifest = migrate(splits, root / "set", migration_of(params))
    test = manifest[manifest.split == "test"]
    assert (
        test.groupby("subject").role.apply(list).map(sorted).tolist() == [["gallery", "probe", "probe"]] * test.subject.nunique()
    )
    assert set(manifest.role[manifest.split != "test"]) == {""}


def test_a_source_with_a_gallery_of_its_own_keeps_it(root, stage_params):
    folder_of(root / "faces", ["A", "B", "C", "D"])
    for person in ("001", "002"):
        write(root / "scface" / f"{person}_frontal.jpg")
        write(root / "scface" / f"{person}_cam1_1.jpg", size=(20, 24))
    changes = {"source": "folder", "source_root": "faces", "test_source": "scface", "test_source_root": "scface"}
    splits, _ = plan_splits(stage_params("01_data_migration", **changes))
    assert sorted(face.role for face in splits["test"][1]) == ["gallery", "gallery", "probe", "probe"]
    with pytest.raises(ValueError, match="expected 0 with a test source that names its own gallery, got 1 and 4 faces"):
        plan_splits(stage_params("01_data_migration", **changes, enrolled=1))


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


def enumerated_pairs(names, subjects, seed, folds, most):
    """As ``make_pairs``, with every pair written out first."""
    generator = np.random.default_rng(seed)
    images = pd.Series(names).groupby(pd.Series(subjects)).apply(list)
    several = [subject for subject in images.index if len(images[subject]) > 1]
    folds = min(folds, len(several) // 2)
    order, rows = generator.permutation(several), []
    for fold in range(folds):
        people = order[fold::folds]
        genuine = [pair for person in people for pair in itertools.combinations(images[person], 2)]
        impostor = [
            pair for one, other in itertools.combinations(people, 2) for pair in itertools.product(images[one], images[other])
        ]
        count = min(len(genuine), len(impostor), max(1, most // folds))
        for kind, same in ((genuine, True), (impostor, False)):
            rows += [(*kind[number], same, fold) for number in sorted(generator.choice(len(kind), count, replace=False))]
    return pd.DataFrame(rows, columns=["left", "right", "same", "fold"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [40, 100_000])
def test_pairs_made_by_number_are_those_of_a_full_list(seed, most):
    counts = np.random.default_rng(seed).integers(1, 8, 30)
    names, subjects = named({f"s{number}": count for number, count in enumerate(counts)})
    ours = make_pairs(names, subjects, seed=seed, folds=4, most=most)
    pd.testing.assert_frame_equal(ours, enumerated_pairs(names, subjects, seed, 4, most))


def test_pairs_of_a_large_split_are_not_written_out():
    names, subjects = named({f"s{number}": 100 for number in range(400)})  # 80 million impostor pairs in each of ten folds
    table = make_pairs(names, subjects)
    assert len(table) == 6000 and not table.duplicated(["left", "right"]).any()
