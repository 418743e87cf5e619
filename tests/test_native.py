"""TinyFace's and SCface's protocols on their own layouts, roles that the manifest names, and data sets that cannot serve."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import REPOSITORY
from papermill import execute_notebook
from PIL import Image
from test_systems import CPU, save_run

from dsrkit.data.layout import read_manifest
from dsrkit.data.migration import Migration, migrate
from dsrkit.data.sources import SyntheticSource, open_source
from dsrkit.data.splits import enrolled_roles
from dsrkit.evaluation import control_sentence, headline_table, identification, read_metrics, tables, write_metrics
from dsrkit.evaluation.native import conditions_of, searched
from dsrkit.evaluation.page import export_html
from dsrkit.evaluation.rows import decisions, pair_decisions, rows_of
from dsrkit.evaluation.systems import distinct_restorers, open_systems
from dsrkit.evaluation.trial import evaluate, frozen_threshold, open_trial
from dsrkit.params import Evaluation
from dsrkit.recognition import embed, restore
from dsrkit.runs import Run


def put(path, generator, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def tinyface(root, subjects=5):
    """One gallery face and two probes of each subject, and three faces of nobody."""
    generator = np.random.default_rng(0)
    for subject in range(subjects):
        put(root / "Testing_Set" / "Gallery_Match" / f"{subject}_1.png", generator)
        for number in (2, 3):
            put(root / "Testing_Set" / "Probe" / f"{subject}_{number}.png", generator)
    for number in range(3):
        put(root / "Testing_Set" / "Gallery_Distractor" / f"{number}.png", generator)
    return open_source("tinyface", root)


def scface(root, mugshot=(60, 48)):
    generator = np.random.default_rng(1)
    for subject in ("101", "102", "103", "104"):  # made-up people of the validation split are 000 and so on
        put(root / f"{subject}_frontal.png", generator, mugshot)
        for camera, distance in ((1, 1), (2, 1), (1, 3)):
            put(root / f"{subject}_cam{camera}_{distance}.png", generator)
    return open_source("scface", root)


def data_set(folder, source, sizes=("16x16",)):
    """A native test split beside made-up faces to validate on."""
    people = SyntheticSource(6, 3, 5)
    migrate({"val": (people, people.faces), "test": (source, source.faces)}, folder, Migration(sizes, "bicubic-antialias", 0))


@pytest.fixture(scope="module")
def params(edgeface_path):
    demo = Evaluation.read(REPOSITORY / "params" / "demo" / "05_evaluation.yaml")
    here = {"run": "native", "edgeface": str(edgeface_path), "bootstrap_draws": 20, "device": "cpu"}
    return demo.model_copy(update=here)


@pytest.fixture(scope="module", params=["tinyface", "scface"])
def evaluated(request, tmp_path_factory, params):
    run = Run("native", tmp_path_factory.mktemp(request.param))
    data_set(run.dataset, (tinyface if request.param == "tinyface" else scface)(run.root / "photos"))
    save_run(run)
    torch.manual_seed(0)
    trial = open_trial(run, params)
    systems = trial.takes(open_systems(run, params, CPU))
    outcomes = list(evaluate(trial, systems))
    return request.param, trial, systems, outcomes, rows_of(trial, outcomes)


def test_what_needs_hr_falls_away_by_rule(evaluated):
    name, trial, systems, outcomes, rows = evaluated
    assert not trial.faces.has_hr and "hr" not in {system.row for system in systems}
    expected = ["native"] if name == "tinyface" else ["native", "native-4.2m", "native-1m"]
    assert list(trial.protocols) == expected
    assert [row["row"] for row in rows] == [system.row for system in systems for _ in expected]
    for row in rows:
        for measure in ("psnr", "ssim", "lpips", "similarity_to_true", "hr_verification_accuracy"):
            assert row[measure] is None
    assert "hr" not in [system.restorer for system in distinct_restorers(systems)]
    assert all(outcome.hr_embeddings is None for outcome in outcomes)


def test_the_given_gallery_is_searched(evaluated):
    name, trial, _, outcomes, rows = evaluated
    roles = np.array(trial.faces.roles)
    assert set(roles[trial.gallery]) == ({"gallery", "distractor"} if name == "tinyface" else {"gallery"})
    assert set(roles[trial.probes]) == {"probe"}
    dsr = next(outcome for outcome in outcomes if outcome.system.row == "dsr")
    low = embed(restore(trial.faces.vlr, dsr.system.restorer), dsr.system.edgeface)
    labels = trial.faces.labels
    slow = []
    for probe in np.flatnonzero(roles == "probe"):
        scores = {labels[face]: float(low[probe] @ low[face]) for face in np.flatnonzero(roles != "probe")}
        slow.append(1 + sum(score > scores[labels[probe]] for score in scores.values()))
    assert sorted(dsr.identified["rank"]) == sorted(slow)
    row = next(row for row in rows if row["row"] == "dsr")
    assert row["rank20"] == 1 and row["map"] == pytest.approx(np.mean([1 / rank for rank in slow]))
    assert row["strangers"] == 0 and row["false_positive_identification_rate"] is None
    assert row["gallery_images"] == (8 if name == "tinyface" else 4)
    assert row["interval"]["map"][0] <= row["map"] <= row["interval"]["map"][1]


def test_rows_by_distance(evaluated):
    name, trial, _, outcomes, rows = evaluated
    if name == "tinyface":
        pytest.skip("TinyFace has no distances")
    far = [row for row in rows if row["protocol"] == "native-4.2m"]
    assert {row["enrolled_probes"] for row in far} == {8} and all(row["verification_accuracy"] is None for row in far)
    assert {row["enrolled_probes"] for row in rows if row["protocol"] == "native-1m"} == {4}
    outcome = next(one for one in outcomes if one.protocol == "native-1m")
    assert {trial.faces.names[probe][-6:] for probe in outcome.probes} == {"_3.png"}
    assert len(headline_table(far)) == 4


def test_mugshots_are_an_hr_gallery_too(tmp_path, params):
    run = Run("native", tmp_path)
    data_set(run.dataset, scface(tmp_path / "photos", (140, 120)), ("16x16", "112x112"))
    save_run(run)
    trial = open_trial(run, params)
    assert list(trial.protocols)[3:] == ["native-hr", "native-hr-4.2m", "native-hr-1m"]
    systems = trial.takes(open_systems(run, params, CPU))
    outcomes = {one.protocol: one for one in evaluate(trial, systems) if one.system.row == "dsr"}
    system, labels = outcomes["native"].system, trial.faces.labels
    mugshots = [np.asarray(Image.open(tmp_path / "photos" / trial.faces.names[face])) for face in trial.gallery]
    whole = np.stack([np.asarray(Image.fromarray(one).resize((112, 112), Image.Resampling.BICUBIC)) for one in mugshots])
    high, low = embed(whole, system.edgeface), embed(restore(trial.faces.vlr, system.restorer), system.edgeface)
    for protocol in ("native-hr", "native-hr-1m"):
        found = outcomes[protocol].identified
        for probe, face in enumerate(outcomes[protocol].probes):
            scores = dict(zip(labels[trial.gallery], high @ low[face], strict=True))
            assert found["top_score"][probe] == pytest.approx(max(scores.values()), abs=1e-5)
            assert found["rank"][probe] == 1 + sum(score > scores[labels[face]] for score in scores.values())
    val = trial.validation
    seen = embed(val.hr, system.edgeface), embed(restore(val.vlr, system.restorer), system.edgeface)
    threshold = frozen_threshold(trial, *seen).value
    assert outcomes["native-hr"].identified["threshold"] == pytest.approx(threshold, abs=1e-6)
    assert outcomes["native-hr"].verified is None and outcomes["native"].hr_verified is None
    assert headline_table(rows_of(trial, list(outcomes.values()))).shape[0] == 6


def test_small_gallery_photos_are_never_hr(tmp_path, params):
    run = Run("native", tmp_path)
    data_set(run.dataset, tinyface(tmp_path / "photos"), ("16x16", "112x112"))
    assert open_trial(run, params).mugshots is None


def test_tables_and_files_of_native_faces(evaluated, tmp_path):
    _, trial, _, outcomes, rows = evaluated
    write_metrics(tmp_path / "metrics.json", "native", {}, rows)
    assert read_metrics(tmp_path / "metrics.json")["rows"] == rows
    assert len(headline_table(rows)) == len(rows)
    assert "There is no control" in control_sentence(rows)
    shown = tables.measures_table(rows, tables.IDENTIFICATION)
    assert "mAP %" in shown and "strangers named %" not in shown
    assert tables.measures_table(rows, tables.RESTORATION).empty
    probes, pairs = decisions(trial, outcomes), pair_decisions(trial, outcomes)
    assert len(probes) == sum(len(outcome.probes) for outcome in outcomes)
    assert probes.enrolled.all() and set(pairs.protocol) == {"native"}


def test_roles_of_the_manifest_are_followed_on_hr_faces(tmp_path, params, edgeface_path):
    people = SyntheticSource(8, 4, 3)
    roles = enrolled_roles([face.name for face in people.faces], [face.subject for face in people.faces], 2, 0)
    strangers = {face.subject for face in people.faces[-8:]}
    faces = [
        type(face)(face.subject, face.name, face.origin, face.split, "probe" if face.subject in strangers else role)
        for face, role in zip(people.faces, roles, strict=True)
    ]
    other = SyntheticSource(14, 3, 9)
    people_of_val = [face for face in other.faces if face.subject not in {one.subject for one in faces}]
    run = Run("native", tmp_path)
    splits = {"val": (other, people_of_val), "test": (people, faces)}
    migrate(splits, run.dataset, Migration(("16x16",), "bicubic-antialias", 0))
    trial = open_trial(run, params.model_copy(update={"enrolled": 3}))
    manifest = read_manifest(run.dataset)
    test = manifest[manifest.split == "test"]
    assert [trial.faces.names[row] for row in trial.gallery] == test[test.role == "gallery"].name.tolist()
    labels = trial.faces.labels
    assert {trial.faces.subjects[row] for row in trial.probes if labels[row] not in labels[trial.gallery]} == strangers


def of_roles(*roles_and_labels):
    roles, labels = zip(*roles_and_labels, strict=True)
    return SimpleNamespace(roles=list(roles), labels=np.array(labels))


def test_roles_that_cannot_serve():
    gallery, probes, strangers = searched(of_roles(("probe", 0), ("gallery", 0), ("probe", 2), ("distractor", 1)), 1, 0)
    assert (gallery.tolist(), probes.tolist(), strangers.tolist()) == ([1, 3], [0], [2])
    with pytest.raises(ValueError, match="expected gallery, distractor or probe for every face"):
        searched(of_roles(("probe", 0), ("", 0)), 1, 0)
    with pytest.raises(ValueError, match="none of somebody enrolled"):
        searched(of_roles(("probe", 0), ("gallery", 1)), 1, 0)


def test_conditions_come_from_scface_names_alone():
    found = conditions_of(["001_cam1_1.png", "001_cam5_3.png", "002_frontal.png", "12_3.png", "Ann_0001.png"])
    assert list(found) == ["4.2m", "1m"]
    assert found["1m"].tolist() == [False, True, False, False, False]
    assert conditions_of(["Ann_0001.png"]) == {}


def test_pairs_that_name_missing_files_and_pairs_of_one_kind(tmp_path, params):
    run = Run("native", tmp_path)
    data_set(run.dataset, tinyface(tmp_path / "photos"))
    path = run.dataset / "test_pairs.csv"
    table = pd.read_csv(path)
    table.assign(left=["nobody.png", *table.left[1:]]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"got 1 that name others, such as nobody\.png"):
        open_trial(run, params)
    table[~table.same].to_csv(path, index=False)
    with pytest.raises(ValueError, match="got 0 genuine ones of"):
        open_trial(run, params)


def test_without_validation_faces_the_threshold_is_given(tmp_path, params):
    run = Run("native", tmp_path)
    source = tinyface(tmp_path / "photos")
    migrate({"test": (source, source.faces)}, run.dataset, Migration(("16x16",), "bicubic-antialias", 0))
    with pytest.raises(ValueError, match="expected validation subjects to choose a threshold on, got none"):
        open_trial(run, params)
    save_run(run)
    given = params.model_copy(update={"threshold_fpir": 0.0, "threshold": 0.4})
    trial = open_trial(run, given)
    outcome = next(iter(evaluate(trial, trial.takes(open_systems(run, given, CPU)))))
    assert outcome.identified["threshold"] == 0.4 and "probability" not in outcome.verified


def test_a_probe_of_nobody_in_the_gallery_is_a_stranger_and_one_subject_is_enough():
    eye = np.eye(3)
    result = identification(eye, [0, 1, 0], eye[:1], [0], 0.5)
    assert (result["strangers"], result["enrolled_probes"], result["rank1"]) == (1, 2, 1)


@pytest.mark.slow
def test_evaluation_of_another_run_on_scface_as_a_page(tmp_path, edgeface_path, monkeypatch):
    data_set(Run("scface", tmp_path).dataset, scface(tmp_path / "photos"))
    save_run(Run("trained", tmp_path))
    given = {"run": "scface", "of_run": "trained", "edgeface": str(edgeface_path), "device": "cpu", "strips": 2}
    monkeypatch.setenv("DSRKIT_ROOT", str(tmp_path))
    done = tmp_path / "outputs" / "scface" / "05_evaluation.ipynb"
    done.parent.mkdir(parents=True, exist_ok=True)
    execute_notebook(REPOSITORY / "notebooks" / done.name, done, given | {"bootstrap_draws": 20}, progress_bar=False)
    rows = read_metrics(done.with_name("metrics.json"))["rows"]
    assert {row["protocol"] for row in rows} == {"native", "native-4.2m", "native-1m"}
    page = export_html(done, done.with_suffix(".html")).read_text()
    words = BeautifulSoup(page, "html.parser").get_text(" ")
    for shown in ("native-4.2m", "as photographed; validation degraded by", "There are no HR faces to compare with."):
        assert shown in words
    assert "HR (upper bound)" not in words and "nan" not in words.split()
