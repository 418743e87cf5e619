"""The desk without a browser: what it answers, against slow re-derivations; what it does with what cannot serve."""

from __future__ import annotations

import csv
import io
import shutil
import time
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event

import numpy as np
import pytest
import torch
from desk_run import make_run, save_parameters
from matplotlib.figure import Figure
from PIL import Image

from dsrkit import runs
from dsrkit.data.degrade import as_bytes, as_tensor, degrade
from dsrkit.desk import Desk, Explore, stills
from dsrkit.desk import app as app_module
from dsrkit.desk import embeddings as embeddings_module
from dsrkit.desk import state as state_module
from dsrkit.desk.looks import NAMED, NOT_NAMED, look_at_probes, mark
from dsrkit.desk.photos import as_probe, read_photo
from dsrkit.desk.pictures import beside, enlarged
from dsrkit.desk.settings import evaluation_of
from dsrkit.desk.state import ANSWERS, FAILURES, DeskState
from dsrkit.desk.views import points_at, roc_chart, sweep_chart
from dsrkit.evaluation.open_set import threshold_sweep
from dsrkit.evaluation.systems import open_systems
from dsrkit.evaluation.trial import evaluate, open_trial
from dsrkit.models import Guided, load_edgeface
from dsrkit.params import ParameterError
from dsrkit.runs import Run, pick_device


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def here(run, monkeypatch):
    """Runs are looked for where the tiny one lies."""
    monkeypatch.setattr(runs, "ROOT", run.root)
    return run


def settings(*names, **changes):
    return Explore.check({"runs": list(names) or ["tiny"], "seed": 0, "device": "cpu", "limit": 0, "faces": 2} | changes)


@pytest.fixture(scope="module")
def state(run):
    return DeskState(run, evaluation_of(run, settings()))


@pytest.fixture(scope="module")
def judged(state):
    return state.judged("dsr", "both-lr")


@pytest.fixture
def desk(here):
    return Desk(settings())


def said(desk):
    return desk.message.value


def upload(desk, name, content):
    about = {"name": name, "type": "image/png", "size": len(content), "last_modified": datetime.now(UTC)}
    desk.own.upload.value = (about | {"content": memoryview(content)},)


def png_header(width, height, depth=8):
    """A PNG that claims a size and holds a few bytes: what a decompression bomb looks like before it goes off."""

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def encoded(image, kind="PNG", **more):
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


# --- what it knows


def test_results_are_those_of_the_evaluation(run, state):
    params = evaluation_of(run, settings())
    outcomes = list(evaluate(open_trial(run, params), open_systems(run, params, pick_device("cpu"))))
    assert {outcome.system.row for outcome in outcomes} == set(state.rows)
    for outcome in outcomes:
        mine = state.judged(outcome.system.row, outcome.protocol)
        assert mine.frozen == pytest.approx(outcome.identified["threshold"], abs=1e-6)
        assert np.allclose(mine.identified["top_score"], outcome.identified["top_score"], atol=1e-6)
        assert mine.identified["rank"].tolist() == outcome.identified["rank"].tolist()
        assert mine.verified["auc"] == pytest.approx(outcome.verified["auc"])


def test_hr_faces_may_be_left_to_another(run, state, tmp_path):
    mixed, path = DeskState(run, evaluation_of(run, settings())), tmp_path / "another.pt"
    torch.manual_seed(5)
    another = {name: value + 0.01 * torch.randn_like(value) for name, value in load_edgeface("demo").state_dict().items()}
    torch.save(another, path)
    system = replace(mixed.systems["dsr"], hr_edgeface=load_edgeface(path))
    mixed.systems["dsr"] = replace(system, files=system.files | {"hr_edgeface": path})
    expected = next(one for one in evaluate(mixed.trial, [mixed.systems["dsr"]]) if one.protocol == "hr-lr")
    found, own = mixed.judged("dsr", "hr-lr"), state.judged("dsr", "hr-lr")
    assert found.verified["auc"] == pytest.approx(expected.verified["auc"])
    assert not np.allclose(found.gallery, own.gallery) and np.array_equal(found.embeddings, own.embeddings)


def test_guided_faces_are_kept_by_how_far_they_were_led(state, tmp_path):
    """The number of steps is in no file: embeddings of another number must not be taken for these."""
    dsr, faces, found = state.systems["dsr"], state.trial.faces.first(4), []
    torch.manual_seed(5)
    another = load_edgeface("demo")
    with torch.no_grad():
        for weight in another.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    for steps in (1, 3):
        guided = replace(dsr, restorer=Guided(dsr.restorer, another, dsr.edgeface, steps))
        found.append(embeddings_module.embedded(guided, faces, "data", tmp_path, embeddings_module.silent))
        assert found[-1] == pytest.approx(guided.embedded(faces), abs=1e-6)
    assert not np.allclose(*found, atol=1e-3) and len(list(tmp_path.glob("*.npy"))) == 2


def test_a_run_that_evaluates_another_s_networks_opens_with_these(run, state, tmp_path):
    elsewhere = Run("elsewhere", tmp_path)
    elsewhere.folder.mkdir(parents=True)
    shutil.copytree(run.folder, Run("trained", tmp_path).folder, ignore=shutil.ignore_patterns("dataset"))
    params = evaluation_of(run, settings()).model_copy(update={"of_run": "trained", "dataset": str(run.dataset)})
    opened = DeskState(elsewhere, params)
    assert opened.rows == state.rows
    assert opened.systems["dsr"].files["dsr"] == Run("trained", tmp_path).dsr


def test_answers_are_a_slow_search_s(state, judged):
    subjects = np.array(state.trial.faces.subjects)
    enrolled = subjects[state.trial.gallery]
    assert set(judged.answers(judged.frozen)) <= set(ANSWERS)
    for threshold in (judged.frozen, 0.2, 0.8):
        for probe, answer in zip(judged.probes, judged.answers(threshold), strict=True):
            scores = [float(judged.embeddings[probe] @ judged.embeddings[face]) for face in state.trial.gallery]
            best, name = max(scores), enrolled[int(np.argmax(scores))]
            if best < threshold:
                expected = "enrolled, unknown" if subjects[probe] in enrolled else "stranger, unknown"
            elif subjects[probe] not in enrolled:
                expected = "stranger named"
            else:
                expected = "named rightly" if name == subjects[probe] else "named wrongly"
            assert answer == expected


def test_shares_are_those_of_the_sweep(state, judged):
    labels = state.trial.faces.labels
    searched = judged.embeddings[judged.probes], labels[judged.probes], judged.gallery, labels[state.trial.gallery]
    for threshold in (judged.lowest, 0.3, judged.frozen, 1.0):
        expected = threshold_sweep(*searched, np.array([threshold])).iloc[0]
        shares = judged.at(threshold)
        assert [shares[name] for name in ("correct", "wrong", "unknown", "fpir")] == pytest.approx(
            [expected[name] for name in ("correct", "wrong", "unknown", "fpir")]
        )
        scores, same = judged.verified["scores"], judged.verified["same"]
        accepted = [score >= threshold for score in scores]
        assert shares["tar"] == pytest.approx(sum(a and s for a, s in zip(accepted, same, strict=True)) / sum(same))
        assert shares["far"] == pytest.approx(sum(a and not s for a, s in zip(accepted, same, strict=True)) / sum(~same))


def test_failures_are_the_answers_of_their_kind_surest_first(judged):
    for threshold in (0.2, judged.frozen, 0.7):
        answers, top = judged.answers(threshold), judged.identified["top_score"]
        for kind, of_kind in FAILURES.items():
            found = judged.failures(kind, threshold)
            assert sorted(found) == [probe for probe, answer in enumerate(answers) if answer in of_kind]
            assert list(top[found]) == sorted(top[found], reverse=True)


def test_matches_are_the_nearest_subjects_once_each(state, judged):
    face = int(judged.probes[0])
    found = state.matches(judged, judged.embeddings[face])
    assert found.subject.is_unique and found.score.is_monotonic_decreasing
    assert found.score[0] == pytest.approx(judged.identified["top_score"][0], abs=1e-6)
    for one in found.itertuples():
        assert state.trial.faces.subjects[one.face] == one.subject and one.face in state.trial.gallery


def test_a_subject_in_probe_but_not_in_gallery_is_a_stranger(state, judged):
    enrolled = {state.trial.faces.subjects[face] for face in state.trial.gallery}
    strangers = [n for n, face in enumerate(judged.probes) if state.trial.faces.subjects[face] not in enrolled]
    assert strangers
    [named] = look_at_probes(state, judged, strangers[:1], -1.0)
    [unknown] = look_at_probes(state, judged, strangers[:1], 1.01)
    assert named.answer == "stranger named" and "not in the gallery" in named.verdict and mark(named.answer) == "✘"
    assert unknown.answer == "stranger, unknown" and unknown.verdict.startswith("Right") and mark(unknown.answer) == "✔"


def test_embeddings_are_made_once_and_kept(run, state, judged, monkeypatch):
    def never(*_):
        raise AssertionError("restored anew")

    monkeypatch.setattr("dsrkit.desk.embeddings._made", never)
    again = DeskState(run, evaluation_of(run, settings())).judged("dsr", "both-lr")
    assert np.array_equal(again.embeddings, judged.embeddings)
    with pytest.raises(AssertionError, match="restored anew"):  # another size is another matter
        DeskState(run, evaluation_of(run, settings()).model_copy(update={"vlr_size": "14x16"})).judged("dsr", "both-lr")


# --- one's own photo


def test_a_face_of_112_is_taken_as_it_is_and_made_small_as_the_data_set_was(state):
    face = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    hr = read_photo(encoded(Image.fromarray(face)), "me.png", 0.5)
    assert np.array_equal(hr, face)
    probe = as_probe(hr, "me.png", state.dataset, "14x16")
    assert np.array_equal(probe.vlr, as_bytes(degrade(as_tensor(face[None]), "14x16", "bicubic-antialias")))


def test_other_photos_are_turned_upright_and_cropped_about_the_centre():
    image = Image.new("RGB", (400, 300), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 200, 300))  # the left half is blue; turned by EXIF, the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90°
    hr = read_photo(encoded(image, "JPEG", exif=exif, quality=95), "phone.jpg", 0.5)
    assert hr.shape == (112, 112, 3)
    assert hr[:50, :, 2].min() > 200 and hr[62:, :, 0].min() > 200


BAD_PHOTOS = {
    "nothing": (b"", "expected an image"),
    "cut short": (encoded(Image.effect_noise((200, 200), 80).convert("RGB"))[:5000], "expected an image"),
    "text": (b"hello", "expected an image"),
    "100 megapixels": (png_header(10_000, 10_000), "expected at most 64 million pixels, got 10000x10000"),
    "a bomb": (png_header(60_000, 60_000), "bomb|million pixels"),
    "16 bits": (png_header(200, 200, depth=16), "expected 8-bit RGB or grey"),
    "transparent": (encoded(Image.new("RGBA", (200, 200))), "expected 8-bit RGB or grey, got mode RGBA"),
    "too small": (encoded(Image.new("RGB", (100, 80))), "centre crop to be at least 112x112"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("content, words", BAD_PHOTOS.values(), ids=BAD_PHOTOS)
def test_a_photo_that_cannot_serve_leaves_the_desk_alive(desk, content, words):
    with pytest.raises(ValueError, match=words):
        read_photo(content, "mine.png", 0.52)
    upload(desk, "<b>mine.png", content)
    assert "Not done" in said(desk) and "&lt;b&gt;mine.png" in said(desk)
    assert desk.photo is None
    desk.turn(1)
    assert desk.face.probe == 1
    upload(desk, "ok.png", encoded(Image.effect_noise((300, 260), 60).convert("RGB")))
    assert "Not done" not in said(desk) and desk.photo.answer in (NAMED, NOT_NAMED)


def test_a_face_of_the_gallery_as_own_photo_is_that_person(here, desk, tmp_path):
    row = int(desk.state.trial.gallery[0])
    Image.fromarray(desk.state.trial.faces.hr[row]).save(tmp_path / "face.png")
    desk.own.path.value = str(tmp_path / "face.png")
    assert desk.photo.matches.subject[0] == desk.state.trial.faces.subjects[row]
    assert desk.photo.matches.score[0] == pytest.approx(1, abs=1e-3)
    assert np.array_equal(desk.photo.versions["VLR"], desk.state.trial.faces.vlr[row])
    assert desk.photo.answer == NAMED and desk.photo.at(desk.judged, 1.01).answer == NOT_NAMED
    desk.own.path.value = str(tmp_path / "none.png")
    assert "none.png" in said(desk) and desk.photo.matches.subject[0] == desk.state.trial.faces.subjects[row]


# --- the desk


def test_threshold_moves_decision_numbers_and_points_together(desk):
    ring, numbers, verdict = desk.curves.sweep.over.value, desk.curves.numbers.value, desk.faces.view.verdict.value
    face = [cell.image.value for cell in desk.faces.view.versions]
    desk.controls.threshold.value = desk.controls.threshold.max
    assert desk.curves.sweep.over.value != ring and desk.curves.numbers.value != numbers
    assert desk.faces.view.verdict.value != verdict and "unknown" in desk.faces.view.verdict.value
    assert [cell.image.value for cell in desk.faces.view.versions] == face
    desk.controls.frozen.click()
    assert desk.threshold == desk.judged.frozen and desk.faces.view.verdict.value == verdict


def test_size_system_and_gallery_change_what_is_seen(desk):
    seen = {desk.faces.view.versions[0].image.value}
    desk.controls.size.value = "14x16"
    assert desk.state.params.vlr_size == "14x16" and desk.state.trial.faces.vlr.shape[1:3] == (16, 14)
    assert desk.faces.view.versions[0].image.value not in seen
    for row, title in (("hr", "HR"), ("direct_feed", "bicubic"), ("dsr", "DSR")):
        desk.controls.row.value = row
        assert desk.face.recognised == title and desk.judged.system.row == row
    before = desk.faces.view.matches[0].image.value
    desk.controls.gallery.value = "hr-lr"
    assert desk.judged.protocol == "hr-lr" and desk.faces.view.matches[0].image.value != before


def test_failures_turn_pages_and_open(desk):
    desk.controls.threshold.value = desk.controls.threshold.max
    desk.tabs.selected_index = app_module.FAILURES
    desk.failures.kind.value = "unknowns"
    every = desk.judged.failures("unknowns", desk.threshold)
    assert len(every) == len(desk.judged.probes) > 6
    seen = list(desk.failures.probes)
    while not desk.failures.after.disabled:
        desk.failures.after.click()
        seen += desk.failures.probes
    assert seen == every.tolist()
    desk.failures.before.click()
    chosen = desk.failures.probes[2]
    desk.failures.buttons[2].click()
    assert desk.tabs.selected_index == app_module.FACES and desk.face.probe == chosen
    desk.tabs.selected_index = app_module.FAILURES
    desk.controls.threshold.value = desk.controls.threshold.min
    assert desk.failures.probes == [] and "<b>0</b> unknowns" in desk.failures.where.value
    desk.controls.export.click()
    assert "Expected unknowns to export, got none" in said(desk)


def test_export_writes_a_picture_and_a_table_whole(desk, here):
    desk.controls.threshold.value = 0.4
    desk.controls.export.click()
    desk.tabs.selected_index = app_module.FAILURES
    desk.failures.kind.value = "false accepts"
    desk.controls.export.click()
    assert "Written" in said(desk)
    folder = here.folder / "desk"
    picture, table = (next(folder.glob(f"16x16-dsr-both-lr-t0.400-false_accepts.{kind}")) for kind in ("png", "csv"))
    assert min(Image.open(picture).size) > 500
    rows = list(csv.DictReader(table.open()))
    expected = desk.judged.failures("false accepts", 0.4)
    assert [row["probe"] for row in rows] == [desk.state.trial.faces.names[desk.judged.probes[one]] for one in expected]
    assert {row["threshold"] for row in rows} == {"0.4"} and {row["run"] for row in rows} == {"tiny"}
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.csv"))) == 2
    assert not list(folder.glob(".*"))


def test_an_export_that_cannot_be_written_is_said(desk, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dsrkit.runs.os.replace", full)
    desk.controls.export.click()
    assert "No space left" in said(desk) and desk.face is not None


def test_a_run_that_cannot_open_leaves_the_other_on_the_desk(here):
    bare = Run("bare", here.root)
    bare.folder.mkdir(parents=True)
    save_parameters(bare, dataset=str(here.dataset))
    desk = Desk(settings("tiny", "bare", "gone"))
    for name, words in (("bare", "run 02_dsr_training first"), ("gone", "expected a run at")):
        desk.controls.run.value = name
        assert words in said(desk)
        assert desk.controls.run.value == "tiny" and desk.state.run.name == "tiny"
    desk.turn(1)
    assert "Not done" not in said(desk) and desk.face.probe == 1


def test_a_desk_whose_only_run_does_not_open_says_so_and_stays(here):
    desk = Desk(settings("gone"))
    assert "There are: " in said(desk)
    for button in (desk.faces.after, desk.controls.export, desk.controls.frozen):
        button.click()
        assert "Not done" in said(desk)
    with pytest.raises(FileNotFoundError, match="expected a run at"):
        list(stills(settings("gone")))


def until(true, what):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, f"expected {what}"
        time.sleep(0.01)


def test_the_desk_serves_while_faces_are_embedded(here, monkeypatch):
    at_work, go_on, embedded = Event(), Event(), state_module.embedded

    def slow(*asked):
        at_work.set()
        while not go_on.is_set():
            asked[-1]("restoring", 0.5)
            time.sleep(0.01)
        return embedded(*asked)

    monkeypatch.setattr(state_module, "embedded", slow)
    desk = Desk(settings(), in_background=True)
    desk.guarded.page.set()
    until(lambda: '<progress value="0.5' in desk.progress.value, "progress to be seen")
    desk.faces.after.click()
    assert "Wait for it to open" in said(desk)
    go_on.set()
    until(lambda: desk.face is not None and not desk.progress.value, "the run to open")
    assert desk.state.params.vlr_size == "16x16"

    at_work.clear()
    go_on.clear()
    desk.controls.size.value = "14x16"
    until(at_work.is_set, "the other size to be embedded")
    desk.faces.after.click()
    desk.controls.threshold.value = desk.controls.threshold.max
    assert desk.face.probe == 1 and "unknown" in desk.faces.view.verdict.value and desk.state.params.vlr_size == "16x16"
    desk.controls.size.value = "16x16"  # which is there already: the other size is given up
    until(lambda: not desk.progress.value, "the first size to come back")
    go_on.set()
    time.sleep(0.1)
    assert desk.state.params.vlr_size == desk.controls.size.value == "16x16" and "Not done" not in said(desk)


def test_nothing_is_told_to_a_page_that_is_not_there(here):
    desk = Desk(settings(), in_background=True)
    until(lambda: len(desk.states) == 1, "the run to be read")
    time.sleep(1)
    assert desk.face is None and not desk.controls.size.options
    desk.guarded.page._there.value = True  # as the link does, in a page
    until(lambda: desk.face is not None, "the run to be shown")
    assert desk.controls.size.value == "16x16"


def test_an_error_beside_the_desk_is_said(here):
    desk = Desk(settings("gone", "tiny"), in_background=True)
    desk.guarded.page.set()
    until(lambda: "expected a run at" in said(desk), "the error to be said")
    desk.controls.run.value = "tiny"
    until(lambda: desk.face is not None, "the other run to open")


def test_progress_tells_the_time_left(state, monkeypatch):
    told = []
    monkeypatch.setattr(embeddings_module, "AT_ONCE", 16)
    faces = state.trial.faces.first(40)
    embeddings_module._made(state.systems["direct_feed"], faces, lambda *said: told.append(said))
    assert [share for _, share in told] == [0, 0.4, 0.8]
    assert "left" not in told[0][0] and all(text.endswith(" s left") for text, _ in told[1:])


def test_embeddings_with_nan_are_said_and_never_kept(here, monkeypatch):
    broken = Run("broken", here.root)
    shutil.copytree(here.folder, broken.folder, ignore=shutil.ignore_patterns("desk"))
    save_parameters(broken)
    desk = Desk(settings("tiny", "broken"))

    def nan(images, recogniser, mirrored=None):
        return np.full((len(images), 512), np.nan, np.float32)

    monkeypatch.setattr("dsrkit.evaluation.systems.embeddings_of", nan)
    desk.controls.run.value = "broken"
    assert "finite embeddings" in said(desk) and desk.state.run.name == "tiny"
    assert not list((broken.folder / "desk").glob("cache/*"))


def test_a_programming_error_is_not_swallowed(desk, monkeypatch):
    monkeypatch.setattr(app_module, "look_at_probes", lambda *_: {}["no such key"])
    with pytest.raises(KeyError):
        desk.show_face()
    with pytest.raises(KeyError):
        desk.guarded(desk.show_face)


# --- parameters, pictures, stills


def test_parameters_are_checked_by_name_and_the_run_s_evaluation_is_taken(here):
    with pytest.raises(ParameterError, match=r"'run'.*'runs'"):
        Explore.check({"run": "tiny", "runs": ["tiny"], "seed": 0, "device": "cpu", "limit": 0, "faces": 2})
    assert settings(runs="one two").runs == ["one", "two"]
    assert evaluation_of(here, settings(limit=12)).limit == 12
    empty = Run("empty", here.root)
    empty.folder.mkdir(exist_ok=True)
    with pytest.raises(FileNotFoundError, match="Run 05_evaluation first"):
        evaluation_of(empty, settings())


def test_vlr_pixels_stay_squares():
    face = np.random.default_rng(0).integers(0, 256, (16, 14, 3), dtype=np.uint8)
    large = np.asarray(enlarged(face, 160))
    assert large.shape == (160, 140, 3)
    assert np.array_equal(large, face.repeat(10, axis=0).repeat(10, axis=1))
    assert beside([face, face, face], 96).size == (3 * 96 + 8, 96)


def test_points_lie_on_the_drawn_axes(judged):
    on_roc, on_sweep = points_at(judged, judged.frozen)
    for chart, points in ((roc_chart(judged), on_roc), (sweep_chart(judged), on_sweep)):
        for x, y in points:
            across, down, within = chart.place(x, y)
            assert 0 <= across <= chart.width and 0 <= down <= chart.height
            if within:
                back = chart.axis.transData.inverted().transform(
                    [across / chart.width * chart.figure.bbox.width, (1 - down / chart.height) * chart.figure.bbox.height]
                )
                assert back == pytest.approx([x, y], abs=1e-6)
        assert chart.overlay(points).count("<circle") == sum(not np.isnan(point).any() for point in points)


def test_stills_show_faces_only_where_allowed(here):
    shown = list(stills(settings()))
    assert sum(isinstance(one, Figure) for one in shown) >= 3 and "threshold" in shown[0]
    save_parameters(here, show_faces=False)
    try:
        shown = list(stills(settings()))
    finally:
        save_parameters(here)
    assert sum(isinstance(one, Figure) for one in shown) == 2 and "not shown" in shown[-1]
