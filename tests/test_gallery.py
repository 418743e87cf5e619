"""Galleries on disk: searches against a slow re-derivation, kills at any instant, and files that must not pass."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock

from dsrkit import __version__
from dsrkit.gallery import Gallery, GalleryError, made_by, measure_recall, store
from dsrkit.gallery.exact import best_rows
from dsrkit.gallery.files import LOCK, MANIFEST
from dsrkit.recognition import UNKNOWN
from dsrkit.runs import file_hash

MODELS = {"edgeface": "e" * 64, "dsr": "none"}
WIDTH = 16


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def empty(tmp_path) -> Gallery:
    return Gallery.create(tmp_path / "people.gallery", MODELS, WIDTH)


@pytest.fixture
def people(empty, rng) -> Gallery:
    """Sixty faces of twenty subjects, enrolled in three lots; every third face is of one subject."""
    faces = rng.standard_normal((60, WIDTH))
    for lot in (slice(0, 35), slice(35, 40), slice(40, 60)):
        empty.enroll(faces[lot], [f"s{row % 20}" for row in range(60)][lot])
    return empty


def everything(gallery: Gallery) -> dict[str, list]:
    """What a gallery holds, by reading it back."""
    state = gallery._state
    rows = np.flatnonzero(~state.removed)
    return {"names": state.names_of(rows), "faces": state.embeddings(rows).tolist()}


def slow_search(gallery: Gallery, probes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows by sorting one probe's cosines at a time; equal ones by the lower row."""
    state, scores, rows = gallery._state, [], []
    for probe in probes / np.linalg.norm(probes, axis=1, keepdims=True):
        cosines = {}
        for row in np.flatnonzero(~state.removed):
            embedding = state.embeddings(np.array([row]))[0].astype(np.float64)
            cosines[int(row)] = float(np.float32(embedding @ probe.astype(np.float32).astype(np.float64)))
        order = sorted(cosines, key=lambda row: (-cosines[row], row))[:k]
        rows.append(order)
        scores.append([cosines[row] for row in order])
    return np.array(scores), np.array(rows)


# ---- searching


@pytest.mark.parametrize("at_once", [4, 7, 4096])
def test_exact_search_is_sorting_all_cosines(people, rng, monkeypatch, at_once):
    monkeypatch.setattr("dsrkit.gallery.exact.ROWS_AT_ONCE", at_once)
    monkeypatch.setattr("dsrkit.gallery.state.ROWS_AT_ONCE", at_once)
    monkeypatch.setattr("dsrkit.gallery.exact.PROBES_AT_ONCE", 5)
    people.remove("s7")
    probes = rng.standard_normal((12, WIDTH)) * 3
    for k in (1, 10, len(people)):
        found = people.search(probes, k)
        scores, rows = slow_search(people, probes, k)
        assert np.allclose(found.scores, scores, atol=1e-6) and np.array_equal(found.rows, rows)
        assert found.names.tolist() == [[f"s{row % 20}" for row in several] for several in rows]


@pytest.mark.parametrize("at_once", [3, 4096])
def test_equal_scores_come_in_the_order_of_enrolment(empty, monkeypatch, at_once):
    monkeypatch.setattr("dsrkit.gallery.exact.ROWS_AT_ONCE", at_once)
    monkeypatch.setattr("dsrkit.gallery.state.ROWS_AT_ONCE", at_once)
    empty.enroll(np.ones((40, WIDTH)), [f"s{row}" for row in range(40)])  # a collapsed recogniser: all faces alike
    empty.remove("s0")
    probes = np.stack([np.ones(WIDTH), -np.ones(WIDTH), np.eye(WIDTH)[0]])
    found = empty.search(probes, 5)
    assert found.rows.tolist() == [[1, 2, 3, 4, 5]] * 3
    assert found.scores[:, 0].tolist() == pytest.approx([1, -1, 0.25])
    assert empty.identify(probes, -1).nearest.tolist() == ["s1"] * 3


def test_keys_rise_with_scores_of_any_sign(rng):
    """Cosines below zero, both zeros and the smallest differences keep their order."""
    values = np.array([0.5, -0.0, 0.0, -0.25, np.nextafter(np.float32(0.5), np.float32(1)), -1, 1e-40], np.float32)
    rows = best_rows(np.ones((1, 1), np.float32), lambda: [(0, values[:, None], np.array([], int))], len(values))
    flushed = np.where(np.abs(values) < 1e-38, 0, values)  # torch may flush denormal numbers to zero
    assert rows[0].tolist() in [sorted(range(len(values)), key=lambda row: (-kept[row], row)) for kept in (values, flushed)]


def test_a_subject_scores_as_its_best_face_does(people, rng):
    probes = rng.standard_normal((9, WIDTH))
    table = people.identify(probes, threshold=0.6)
    assert list(table.columns) == ["identity", "score", "nearest", "runner_up"]
    scores, rows = slow_search(people, probes, len(people))
    for number, answer in enumerate(table.itertuples()):
        best = {}
        for score, row in zip(scores[number], rows[number], strict=True):
            best.setdefault(f"s{row % 20}", score)
        first, second = list(best)[:2]
        assert (answer.nearest, answer.runner_up) == (first, second)
        assert answer.score == pytest.approx(best[first], abs=1e-6)
        assert answer.identity == (first if best[first] >= 0.6 else UNKNOWN)
    assert 0 < (table.identity == UNKNOWN).sum() < len(table)
    at = float(table.score[0])
    assert people.identify(probes[:1], at).identity[0] == table.nearest[0]  # at the threshold is accepted
    assert people.identify(probes[:1], float(np.nextafter(at, 2))).identity[0] == UNKNOWN


def test_a_runner_up_behind_many_faces_of_one_subject(empty, rng):
    mine = np.ones(WIDTH) + 0.01 * rng.standard_normal((50, WIDTH))
    empty.enroll(mine, ["many"] * 50)
    assert empty.identify(mine[:2], 0.5).runner_up.tolist() == [None, None]
    empty.enroll(np.eye(WIDTH)[:2], ["one", "two"])
    table = empty.identify(np.stack([mine[0], np.eye(WIDTH)[1]]), 0.5)
    assert table.nearest.tolist() == ["many", "two"] and table.runner_up[0] in ("one", "two") and table.runner_up[1] == "many"


def test_evaluation_names_the_same_subjects(people, rng):
    from dsrkit.evaluation import identification

    probes = rng.standard_normal((15, WIDTH)).astype(np.float32)
    held = everything(people)
    result = identification(probes, ["s1"] * 15, np.array(held["faces"], np.float32), held["names"], 0.5)
    table = people.identify(probes, 0.5)
    assert table.nearest.tolist() == result["nearest"].tolist() and table.runner_up.tolist() == result["runner_up"].tolist()
    assert np.allclose(table.score, result["top_score"], atol=1e-6)


# ---- enrolling and removing


NAMES = ["NA", "007", "7", "nan", "Łukasz", "李小龍", 'O\'Neill, "Shaq"', "two\nlines", " spaces ", "None", "True", "a/b", "🙂"]


def test_names_are_any_text(empty, rng):
    faces = rng.standard_normal((len(NAMES), WIDTH))
    empty.enroll(faces, NAMES)
    again = Gallery.open(empty.folder, MODELS)
    assert again.subjects == NAMES and again.identify(faces, 0.9).identity.tolist() == NAMES
    assert again.remove("7") == 1 and again.identify(faces[1:3], 0.9).identity.tolist() == ["007", UNKNOWN]


def test_one_by_one_is_as_all_at_once_and_leaves_few_files(tmp_path, rng):
    faces, names = rng.standard_normal((70, WIDTH)), [f"s{row // 2}" for row in range(70)]
    single, whole = (Gallery.create(tmp_path / name, MODELS, WIDTH) for name in ("single", "whole"))
    for row in range(70):
        single.enroll(faces[row : row + 1], [names[row]])
    whole.enroll(faces, names)
    assert everything(single) == everything(whole)
    assert len(list(single.folder.glob("embeddings-*.npy"))) <= 7  # log2 of 70
    assert np.allclose(np.array(everything(whole)["faces"]), faces / np.linalg.norm(faces, axis=1, keepdims=True), atol=1e-6)


def test_removing_takes_all_faces_of_a_subject_and_compacting_takes_the_space(people, rng):
    before = everything(people)
    assert people.remove("s3") == 3 and len(people) == 57
    people.remove("s19")
    kept = [row for row in range(60) if row % 20 not in (3, 19)]
    expected = {name: [values[row] for row in kept] for name, values in before.items()}
    assert everything(people) == everything(Gallery.open(people.folder, MODELS)) == expected
    probes = rng.standard_normal((5, WIDTH))
    scores = people.search(probes, 54).scores
    people.compact()
    assert everything(people) == expected and np.array_equal(people.search(probes, 54).scores, scores)
    assert sorted(path.name[:5] for path in people.folder.iterdir()) == [".lock", "embed", "galle", "names"]
    people.enroll(np.ones((1, WIDTH)), ["s3"])
    assert people.subjects[-1] == "s3" and people.remove("s3") == 1
    for name in people.subjects:
        people.remove(name)
    people.compact()
    assert len(people) == 0 and not list(people.folder.glob("*.npy"))


def test_opening_reads_no_embeddings(tmp_path):
    """2 GB of (sparse) embeddings are opened, and two of them asked for."""
    width, rows = 4096, 2**17
    gallery = Gallery.create(tmp_path / "big", MODELS, width)
    gallery.enroll(np.ones((2, width)), ["a", "b"])
    file = next(gallery.folder.glob("embeddings-*.npy"))
    with open(file, "r+b") as stream:  # grow the one segment, sparsely
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
        stream.truncate(stream.tell() + rows * width * 4)
    names = next(gallery.folder.glob("names-*.json"))
    names.write_text(json.dumps([str(row) for row in range(rows)]))
    manifest = json.loads((gallery.folder / MANIFEST).read_text())
    manifest["segments"][0]["rows"] = rows
    for part, path in (("embeddings", file), ("names", names)):
        manifest["segments"][0][part]["bytes"] = path.stat().st_size
    (gallery.folder / MANIFEST).write_text(json.dumps(manifest))
    before = psutil.Process().memory_info().rss
    opened = Gallery.open(gallery.folder, MODELS)
    assert opened._state.embeddings(np.array([0, rows - 1])).tolist()[0][:2] == pytest.approx([width**-0.5] * 2)
    after = psutil.Process().memory_info().rss
    assert len(opened) == rows and after - before < 200e6 < file.stat().st_size / 10


# ---- one writer, many readers, kills


def test_readers_keep_their_state_until_they_refresh(people, rng):
    reader, held = Gallery.open(people.folder, MODELS), everything(people)
    people.remove("s1")
    people.compact()
    people.enroll(rng.standard_normal((5, WIDTH)), ["new"] * 5)
    assert everything(reader) == held and "s1" in reader.subjects  # though its files have been deleted
    reader.refresh()
    assert everything(reader) == everything(people) and "new" in reader.subjects


def test_a_writer_sees_what_another_has_written(people, rng):
    other = Gallery.open(people.folder, MODELS)
    people.enroll(rng.standard_normal((1, WIDTH)), ["mine"])
    other.enroll(rng.standard_normal((1, WIDTH)), ["theirs"])
    people.refresh()
    assert people.subjects[-2:] == ["mine", "theirs"] and len(people) == 62


def test_two_writers_at_once(people, monkeypatch):
    monkeypatch.setattr(store, "WAIT", 0.05)
    held = everything(people)
    with FileLock(people.folder / LOCK):
        for change in (lambda: people.enroll(np.ones((1, WIDTH)), ["a"]), lambda: people.remove("s1"), people.compact):
            with pytest.raises(GalleryError, match=r"expected to be the only writer, got another one.*try again"):
                change()
        assert everything(Gallery.open(people.folder, MODELS)) == held  # reading needs no lock
    people.enroll(np.ones((1, WIDTH)), ["a"])


def _enrol_lots(folder: str, who: str, lots: int, start) -> None:
    gallery = Gallery.open(folder, MODELS)
    start.wait()
    for number in range(lots):
        gallery.enroll(np.eye(WIDTH)[[number % WIDTH] * 3], [f"{who}{number}"] * 3)


def test_two_processes_enrolling_at_once_lose_nothing(people):
    """Each waits for the other: every lot is whole and in its order, none has taken another's place, no file is left over."""
    held, lots, before = everything(people), 40, people._state.manifest.generation
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    writers = [context.Process(target=_enrol_lots, args=(str(people.folder), who, lots, start)) for who in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    people.refresh()
    people.check()
    found = everything(people)
    assert found["names"][:60] == held["names"] and len(people) == 60 + 2 * 3 * lots
    for who in ("a", "b"):
        own = [(name, face) for name, face in zip(found["names"], found["faces"], strict=True) if name.startswith(who)]
        assert own == [(f"{who}{number}", np.eye(WIDTH)[number % WIDTH].tolist()) for number in range(lots) for _ in range(3)]
    assert people._state.manifest.generation == before + 2 * lots
    counts = {part.file for part in people._state.manifest.parts} | {MANIFEST, LOCK}
    assert {path.name for path in people.folder.iterdir()} == counts


def _write_for_ever(folder: str) -> None:
    gallery, rng = Gallery.open(folder, MODELS), np.random.default_rng()
    for number in range(10**9):
        gallery.enroll(rng.standard_normal((40, WIDTH)), [f"lot{number}"] * 40)
        if number % 3 == 2:
            gallery.remove(f"lot{number - 1}")
        if number % 7 == 6:
            gallery.compact()


def test_a_kill_at_any_instant_leaves_a_whole_gallery(people):
    """A writer is killed at ten random instants; each time the gallery opens, every lot is whole, and the next writer goes on."""
    held, seen = everything(people), set()
    for seed in range(10):
        writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(str(people.folder),))
        writer.start()
        time.sleep(np.random.default_rng(seed).uniform(0.02, 0.25))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        gallery = Gallery.open(people.folder, MODELS)
        gallery.check()
        names = everything(gallery)["names"]
        assert [name for name in names if name.startswith("s")] == held["names"]
        assert all(names.count(name) % 40 == 0 for name in set(names) if name.startswith("lot"))
        seen.add(gallery._state.manifest.generation)
    assert len(seen) > 5  # it had written in between
    gallery.enroll(np.ones((1, WIDTH)), ["after"])
    counts = {part.file for part in gallery._state.manifest.parts} | {MANIFEST, LOCK}
    assert {path.name for path in gallery.folder.iterdir()} == counts  # what the killed ones left is gone


@pytest.mark.parametrize("stop", range(1, 4))
def test_an_error_between_any_two_writes_changes_nothing(people, monkeypatch, stop):
    """A full disk at each file of a change: embeddings, names, manifest."""
    held, written = everything(people), []
    whole = store.files.write_part

    def failing(*words):
        written.append(words[1])
        if len(written) == stop:
            raise OSError(28, "No space left on device")
        return whole(*words)

    monkeypatch.setattr(store.files, "write_part", failing)
    with pytest.raises(OSError, match="No space left"):
        people.enroll(np.ones((3, WIDTH)), ["a"] * 3)
    assert everything(people) == everything(Gallery.open(people.folder, MODELS)) == held


# ---- files that must not pass


def test_a_gallery_of_another_model_is_refused(people, tmp_path):
    for name, text in (("edgeface.pt", "one"), ("other.pt", "two"), ("dsr.pt", "three")):
        (tmp_path / name).write_text(text)
    models = made_by(tmp_path / "edgeface.pt", tmp_path / "dsr.pt")
    assert models == {"edgeface": file_hash(tmp_path / "edgeface.pt"), "dsr": file_hash(tmp_path / "dsr.pt")}
    Gallery.create(tmp_path / "g", models)
    Gallery.open(tmp_path / "g", models)
    for other, role in (
        (made_by(tmp_path / "other.pt", tmp_path / "dsr.pt"), "edgeface"),
        (made_by(tmp_path / "edgeface.pt"), "dsr"),
        (made_by(tmp_path / "edgeface.pt", [tmp_path / "dsr.pt", tmp_path / "other.pt"]), "dsr"),
    ):
        with pytest.raises(GalleryError, match=f"expected a gallery made by {role} .*, got one by .*enrol the faces again"):
            Gallery.open(tmp_path / "g", other)
    manifest = json.loads((tmp_path / "g" / MANIFEST).read_text())
    assert manifest["models"] == models and manifest["dsrkit"] == __version__


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
@pytest.mark.parametrize("pattern", [MANIFEST, "embeddings-*.npy", "names-*.json", "removed-*.npy", "index-*.faiss"])
def test_a_truncated_file_is_refused(people, pattern, keep):
    people.remove("s2")
    (people.folder / "index-000099.faiss").write_bytes(b"x" * 200)  # stands for an index, named in the manifest
    text = json.loads((people.folder / MANIFEST).read_text())
    part = {"file": "index-000099.faiss", "bytes": 200, "sha256": ""}
    text["index"] = {"part": part, "kind": "pq", "rows": 60, "settings": {}}
    (people.folder / MANIFEST).write_text(json.dumps(text))
    Gallery.open(people.folder, MODELS)
    file = next(people.folder.glob(pattern))
    os.truncate(file, keep if keep >= 0 else file.stat().st_size - 1)
    with pytest.raises(GalleryError, match=r"expected .*, got .*Put back a copy"):
        Gallery.open(people.folder, MODELS)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "other"}', "PK\x03\x04", "null"])
def test_a_foreign_file_is_refused(people, text):
    (people.folder / MANIFEST).write_text(text)
    with pytest.raises(GalleryError, match=r"gallery\.json: expected the manifest .* truncated or foreign .*Put back a copy"):
        Gallery.open(people.folder, MODELS)


def test_a_missing_file_and_no_gallery(people, tmp_path):
    next(people.folder.glob("names-*.json")).unlink()
    with pytest.raises(GalleryError, match=r"expected .* bytes, got 0 .*truncated or missing"):
        Gallery.open(people.folder, MODELS)
    with pytest.raises(FileNotFoundError, match=r"Expected a gallery at .*Gallery\.create"):
        Gallery.open(tmp_path / "nothing", MODELS)


def test_a_changed_byte_is_found_by_check(people):
    people.check()
    file = next(people.folder.glob("embeddings-*.npy"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(GalleryError, match=r"embeddings-.*expected SHA-256 .*, got .*changed or damaged"):
        Gallery.open(people.folder, MODELS).check()


def test_a_folder_with_something_in_it_is_left_alone(people, tmp_path):
    with pytest.raises(GalleryError, match=r"expected an empty folder, got .*Gallery\.open"):
        Gallery.create(people.folder, MODELS, WIDTH)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "embeddings-1.npy").write_text("mine")
    with pytest.raises(GalleryError, match=r"expected an empty folder, got 'embeddings-1\.npy'"):
        Gallery.create(tmp_path / "mine", MODELS)
    assert (tmp_path / "mine" / "embeddings-1.npy").read_text() == "mine"


# ---- bad input


ROW = np.ones((1, WIDTH))
BAD = {
    "NaN": (ROW * np.nan, "Expected finite embeddings"),
    "infinite": (ROW * np.inf, "Expected finite embeddings"),
    "zero": (ROW * 0, "not all zero"),
    "narrow": (ROW[:, :4], "expected embeddings of width 16, got 4"),
    "one": (ROW[0], r"Expected embeddings \[N, D\]"),
    "none": (ROW[:0], "expected at least one embedding, got none"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_embeddings_are_refused_and_nothing_changes(people, case):
    faces, message = BAD[case]
    held = everything(people)
    with pytest.raises(ValueError, match=message):
        people.enroll(faces, ["a"] * len(faces))
    with pytest.raises(ValueError, match=message):
        people.search(faces, 1)
    with pytest.raises(ValueError, match=message):
        people.identify(faces, 0.3)
    assert everything(Gallery.open(people.folder, MODELS)) == held


@pytest.mark.parametrize(
    "names", [["a"], ["a", "b", "c"], "ab", ["a", 7], ["a", None], ["a", float("nan")], ["a", ""], ["a", UNKNOWN]]
)
def test_bad_names_are_refused(people, names):
    with pytest.raises(ValueError, match=r"Expected (one name a face|names that are texts).*, got"):
        people.enroll(np.ones((2, WIDTH)), names)
    assert len(people) == 60


@pytest.mark.parametrize("k", [0, -1, 61])
def test_more_than_there_are(people, k):
    with pytest.raises(ValueError, match=f"k: expected 1 to 60, the faces in the gallery, got {k}"):
        people.search(ROW, k)


def test_an_empty_gallery(empty):
    assert len(empty) == 0 and empty.subjects == []
    for ask in (lambda: empty.search(ROW, 1), lambda: empty.identify(ROW, 0.3)):
        with pytest.raises(ValueError, match=r"Expected faces in the gallery, got none\. Call enroll"):
            ask()
    empty.compact()


@pytest.mark.parametrize(
    "name, message", [("s11x", "did you mean 's11'"), ("?", "20 subjects are, such as"), (7, "did you mean 's7'")]
)
def test_removing_who_is_not_there(people, name, message):
    with pytest.raises(GalleryError, match=f"Expected the name of an enrolled subject, got .*{message}"):
        people.remove(name)
    people.remove("s4")
    with pytest.raises(GalleryError, match="got 's4'"):
        people.remove("s4")


@pytest.mark.parametrize("threshold", [-1.1, 1.5, float("nan")])
def test_a_threshold_is_a_cosine(people, threshold):
    with pytest.raises(ValueError, match="threshold: expected a cosine from -1 to 1, got"):
        people.identify(ROW, threshold)


# ---- approximate indexes


@pytest.fixture(scope="module")
def crowd(tmp_path_factory) -> tuple[Gallery, np.ndarray]:
    """1,500 faces of 500 subjects, and a probe of each."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((500, 32))
    gallery = Gallery.create(tmp_path_factory.mktemp("crowd") / "g", MODELS, 32)
    gallery.enroll(np.repeat(centres, 3, 0) + 0.8 * rng.standard_normal((1500, 32)), [f"s{row // 3}" for row in range(1500)])
    return gallery, centres + 0.8 * rng.standard_normal((500, 32))


@pytest.fixture(params=["pq", "ivf", "hnsw"])
def indexed(crowd, request, tmp_path) -> Gallery:
    pytest.importorskip("faiss")
    shutil.copytree(crowd[0].folder, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g", MODELS)
    gallery.build_index(request.param)
    return gallery


def test_recall_is_what_counting_gives(indexed, crowd):
    probes = crowd[1]
    exact, found = indexed.search(probes, 10), indexed.search(probes, 10, approximate=True)
    result = measure_recall(indexed, probes)
    for k in (1, 10):
        shares = [len(set(one[:k]) & set(other[:k])) / k for one, other in zip(exact.rows, found.rows, strict=True)]
        assert result[f"recall@{k}"] == pytest.approx(np.mean(shares))
    assert result["recall@1"] > 0.95
    same = exact.rows == found.rows
    assert np.array_equal(exact.scores[same], found.scores[same])  # a score does not depend on how the face was found
    assert measure_recall(indexed, probes[:50], effort=64, shortlist=1500)["recall@10"] == 1
    poor = measure_recall(indexed, probes, effort=1, shortlist=1)
    assert poor["recall@10"] < result["recall@10"]


def test_an_index_sees_what_was_enrolled_and_removed_since(indexed, crowd, rng):
    later = rng.standard_normal((3, 32))
    indexed.enroll(later, ["new"] * 3)
    indexed.remove("s8")
    again = Gallery.open(indexed.folder, MODELS)
    assert again.index.rows == 1500 and again.identify(later, 0.9, approximate=True).identity.tolist() == ["new"] * 3
    gone = again.search(crowd[1][8:9], 10, approximate=True)
    assert "s8" not in gone.names and (gone.rows >= 0).all()
    indexed.compact()
    assert indexed.index is None  # its row numbers no longer hold
    with pytest.raises(GalleryError, match=r"expected an index .*, got none. Call build_index first"):
        indexed.search(later, 1, approximate=True)


def test_a_shortlist_full_of_removed_faces_is_drawn_longer(indexed, crowd, rng):
    near = crowd[1][0] + 0.01 * rng.standard_normal((200, 32))
    indexed.enroll(near, ["crowd"] * 200)
    indexed.build_index(indexed.index.kind)
    indexed.remove("crowd")
    found = indexed.search(crowd[1][:1], 5, approximate=True, effort=indexed.index.settings.get("nlist", 1))
    assert np.array_equal(found.rows, indexed.search(crowd[1][:1], 5).rows)


def test_compacting_without_removals_keeps_the_index(indexed, rng):
    indexed.enroll(rng.standard_normal((3, 32)), ["new"] * 3)
    indexed.compact()
    assert indexed.index.rows == 1500 and len(list(indexed.folder.glob("embeddings-*.npy"))) == 1
    assert indexed.search(rng.standard_normal((2, 32)), 2, approximate=True).rows.min() >= 0


def test_bad_indexes(people, crowd):
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="kind: expected one of pq, ivf, hnsw, got 'lsh'"):
        people.build_index("lsh")
    with pytest.raises(GalleryError, match="Expected at least 1,000 faces for an index, got 60"):
        people.build_index("ivf")
    for settings in ({"nprobe": 3}, {"pca": 0}, {"effort": 2.5}):
        with pytest.raises(ValueError, match=r"expected a (setting among|whole number)"):
            crowd[0].build_index("ivf", **settings)


def test_without_faiss_exact_search_works_and_an_index_names_the_extra(crowd, indexed, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it fails, as where it is not installed
    gallery = Gallery.open(indexed.folder, MODELS)
    assert np.array_equal(gallery.search(crowd[1][:5], 3).rows, crowd[0].search(crowd[1][:5], 3).rows)
    for ask in (gallery.build_index, lambda: gallery.search(crowd[1][:1], 1, approximate=True)):
        with pytest.raises(ImportError, match=r"not installed.*pip install 'dsrkit\[gallery\]'"):
            ask()


def test_embeddings_of_the_kit_go_in(edgeface_path, tiny_dataset, tmp_path):
    from dsrkit.data.faces import open_split
    from dsrkit.models import load_edgeface
    from dsrkit.recognition import embed

    split = open_split(tiny_dataset, "train", "16x16")
    faces = split.rows(np.arange(6))
    embeddings = embed(faces.hr, load_edgeface(edgeface_path))
    gallery = Gallery.create(tmp_path / "g", made_by(edgeface_path))
    gallery.enroll(torch.from_numpy(embeddings).numpy(), faces.subjects)
    assert gallery.identify(embeddings, 0.999).identity.tolist() == faces.subjects
