"""An exported file answers what PyTorch answers; what cannot be exported or read says so, and leaves nothing behind."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

onnx = pytest.importorskip("onnx", reason="needs the optional packages: pip install 'dsrkit[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the optional packages: pip install 'dsrkit[onnx]'")
pytest.importorskip("onnxscript", reason="needs the optional packages: pip install 'dsrkit[onnx]'")

from dsrkit.data.degrade import mirror  # noqa: E402
from dsrkit.data.faces import open_split, read_pairs  # noqa: E402
from dsrkit.evaluation import evaluation_row, verification, write_metrics  # noqa: E402
from dsrkit.export import export_edgeface, export_pipeline, load_onnx, parity, parity_table, quantise  # noqa: E402
from dsrkit.export.latency import PYTORCH, by_turns, latency, latency_table, torch_threads  # noqa: E402
from dsrkit.export.network import RestoredFromBytes  # noqa: E402
from dsrkit.export.parity import choose_int8, open_task  # noqa: E402
from dsrkit.export.quantise import WAYS  # noqa: E402
from dsrkit.export.settings import Export  # noqa: E402
from dsrkit.export.stage import calibration_faces, file_facts, open_row, output_files, split_task, write_int8, write_models  # noqa: E402
from dsrkit.models import CheckpointError, edgeface_file, load_dsr, load_edgeface  # noqa: E402
from dsrkit.models.checkpoint import save_checkpoint  # noqa: E402
from dsrkit.models.lora import add_lora, merged_state_dict  # noqa: E402
from dsrkit.models.onnx import OnnxRecognizer  # noqa: E402
from dsrkit.recognition import embed, embed_vlr, restore  # noqa: E402
from dsrkit.runs import Run, file_hash  # noqa: E402

SETTINGS = {
    "run": "tiny", "seed": 0, "device": "cpu", "dataset": "", "edgeface": "demo", "hr_edgeface": "own", "row": "dsr",
    "vlr_size": "16x16", "tta": False, "int8": "static-dsr", "validation_faces": 8, "limit": 0, "bootstrap_draws": 20,
    "rounds": 2, "batches": [1], "threads": [1],
}  # fmt: skip


@pytest.fixture(scope="module")
def edgeface():
    return load_edgeface("demo")


@pytest.fixture(scope="module")
def dsr(dsr_path):
    return load_dsr(dsr_path)


@pytest.fixture(scope="module")
def faces(tiny_dataset):
    return open_split(tiny_dataset, "test", "16x16")


@pytest.fixture(scope="module")
def system(tmp_path_factory, edgeface, dsr):
    """The tiny DSR and the demo's EdgeFace in one file."""
    path = tmp_path_factory.mktemp("onnx") / "dsrkit.onnx"
    export_pipeline(path, edgeface, dsr, "16x16", about={"row": "dsr"})
    return path


def one_by_one(images, dsr, edgeface, tta=False):
    """The slow way: every face alone through PyTorch."""
    restored = np.concatenate([restore(images[row : row + 1], dsr) for row in range(len(images))])
    return np.concatenate([embed_vlr(images[row : row + 1], dsr, edgeface, tta) for row in range(len(images))]), restored


def assert_alike(model, images, expected):
    embeddings, restored = expected
    # rounding in another order moves a few bytes by one level, and the embedding by that much
    np.testing.assert_allclose(model(images), embeddings, atol=1e-3)
    assert (model(images) * embeddings).sum(1).min() > 0.9999
    apart = np.abs(model.restore(images).astype(int) - restored)
    assert apart.max() <= 1 and (apart > 0).mean() < 1e-3


@pytest.mark.parametrize("count", [1, 3, 7])
def test_file_answers_what_pytorch_answers_whatever_the_batch(system, faces, dsr, edgeface, count):
    images = np.ascontiguousarray(faces.vlr[:count])
    model = load_onnx(system)
    assert_alike(model, images, one_by_one(images, dsr, edgeface))
    np.testing.assert_allclose(np.linalg.norm(model(images), axis=1), 1, atol=1e-5)


def test_more_faces_than_one_batch_and_none(system, faces):
    model = load_onnx(system)
    many = np.resize(faces.vlr, (131, 16, 16, 3))
    np.testing.assert_allclose(model(many)[128:], model(many[128:]), atol=1e-5)
    assert model(many[:0]).shape == (0, 512) and model.restore(many[:0]).shape == (0, 112, 112, 3)


def test_the_file_says_what_it_is_and_nothing_of_this_machine(system):
    model = load_onnx(system)
    assert model.about == {"row": "dsr", "vlr_size": "16x16", "tta": "False"} and model.vlr_size == "16x16"
    assert model.sha256 == file_hash(system)
    assert str(Run("tiny").root).encode() not in system.read_bytes()


@pytest.mark.slow
def test_direct_feed_is_pillows_bicubic(tmp_path, tiny_dataset, edgeface):
    images = np.ascontiguousarray(open_split(tiny_dataset, "test", "14x16").vlr[:5])
    export_pipeline(tmp_path / "direct.onnx", edgeface, None, "14x16")
    model = load_onnx(tmp_path / "direct.onnx")
    assert model.vlr_size == "14x16"
    assert_alike(model, images, one_by_one(images, None, edgeface))
    pillow = np.stack([np.asarray(Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC)) for image in images])
    assert np.abs(model.restore(images).astype(int) - pillow).max() <= 2  # Pillow rounds between its two passes, torch does not


@pytest.mark.slow
def test_ensemble_with_tta_and_lora(tmp_path, faces, dsr_path, dsr):
    edgeface = load_edgeface("demo")
    before = {key: value.clone() for key, value in edgeface.state_dict().items()}
    for update in add_lora(edgeface, rank=2)[1::2]:
        torch.nn.init.normal_(update, std=0.01)
    ensemble = load_dsr([dsr_path, dsr_path])
    with torch.no_grad():
        ensemble.members[1].conv_out.bias += 0.05
    images = np.ascontiguousarray(faces.vlr[:4])
    export_pipeline(tmp_path / "all.onnx", edgeface, ensemble, "16x16", tta=True)
    assert_alike(load_onnx(tmp_path / "all.onnx"), images, one_by_one(images, ensemble, edgeface, tta=True))
    plain = load_edgeface("demo")
    assert not np.allclose(load_onnx(tmp_path / "all.onnx")(images), one_by_one(images, dsr, plain)[0], atol=1e-3)
    assert any("parametrizations" in key for key in edgeface.state_dict())  # what was given is left as it was
    assert merged_state_dict(edgeface).keys() == before.keys()


@pytest.mark.slow
def test_recogniser_alone_for_hr_faces(tmp_path, faces, edgeface):
    export_edgeface(tmp_path / "edgeface.onnx", edgeface)
    model, images = OnnxRecognizer(tmp_path / "edgeface.onnx"), np.ascontiguousarray(faces.hr[:5])
    np.testing.assert_allclose(model.embed(images), embed(images, edgeface), atol=1e-5)
    both = embed(images, edgeface) + embed(mirror(images), edgeface)
    np.testing.assert_allclose(model.embed(images, mirror(images)), both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow if "static" in way else ()) for way in WAYS])
def test_int8_is_smaller_and_near(tmp_path, system, faces, way):
    quantise(system, tmp_path / "int8.onnx", way, faces.vlr)
    model, reference = load_onnx(tmp_path / "int8.onnx"), load_onnx(system)
    assert (tmp_path / "int8.onnx").stat().st_size < system.stat().st_size
    assert (model(faces.vlr) * reference(faces.vlr)).sum(1).min() > 0.8
    assert model.about == reference.about | {"int8": way, "int8_calibration_faces": str(len(faces))}
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_choice_of_int8_is_by_accuracy_then_by_cosine():
    def made(accuracy, cosine):
        return {"verification_accuracy": accuracy, "cosine_mean": cosine}

    assert choose_int8({"static": made(0.9, 0.99), "dynamic": made(0.91, 0.95)}) == "dynamic"
    assert choose_int8({"static": made(0.9, 0.99), "dynamic": made(0.9, 0.95)}) == "static"


def test_parity_says_how_far_apart(system, tiny_dataset, faces, dsr, edgeface):
    pairs, same, _ = read_pairs(tiny_dataset, "test", faces)
    pairs = (pairs, same, np.arange(len(pairs)) % 2)  # three people are one fold: two are needed
    task, model = open_task(faces, pairs, dsr, edgeface, False), load_onnx(system)
    found, own = parity(model, task, 20, 0), model(faces.vlr)
    assert found["embedding_difference_max"] == pytest.approx(np.abs(own - task.embeddings).max(), rel=0.01)
    slow = [abs(float(own[a] @ own[b]) - float(task.embeddings[a] @ task.embeddings[b])) for a, b in pairs[0]]
    assert found["score_difference_max"] == pytest.approx(max(slow), abs=1e-6)
    assert found["points_lost"] == {"value": 0, "low": 0, "high": 0}
    assert found["verification_accuracy"] == verification(own, *pairs)["accuracy"]
    other = open_task(faces, pairs, None, edgeface, False)  # the direct feed is another system: that must show
    apart = np.abs(model.restore(faces.vlr).astype(int) - other.restored)
    different = parity(model, other, 20, 0)
    assert different["restored_difference_max"] == apart.max() > 1
    assert different["restored_bytes_differing"] == pytest.approx((apart > 0).mean())
    text = parity_table({"float": found | {"megabytes": 1.0}}).loc["float"]
    assert text["points lost"] == "+0.00 [+0.00, +0.00] not shown" and text["MB"] == "1.00"


def test_sides_take_turns_and_threads_come_back(system, faces, dsr, edgeface):
    seen = []
    medians = by_turns({"one": lambda: seen.append("one"), "two": lambda: seen.append("two")}, 4)
    assert seen == ["one", "two"] * (len(seen) // 2) and set(medians) == {"one", "two"}
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    rows = latency({"float": system}, RestoredFromBytes(edgeface, dsr).eval(), faces.vlr[:2], [1, 3], [1], 2)
    assert [(row["batch"], row["side"]) for row in rows] == [(1, PYTORCH), (1, "float"), (3, PYTORCH), (3, "float")]
    assert all(row["milliseconds"] > 0 for row in rows)
    assert rows[1]["ratio"] == pytest.approx(rows[0]["milliseconds"] / rows[1]["milliseconds"])
    assert list(latency_table(rows).columns) == [PYTORCH, "float"]


def recogniser(path, shape, kind=None, outputs=("GlobalAveragePool", "Flatten"), inputs=1):
    """Somebody else's recogniser: the mean of each channel; bytes are cast first."""
    kind = kind or onnx.TensorProto.FLOAT
    helper, given = onnx.helper, [onnx.helper.make_tensor_value_info(f"input{one}", kind, shape) for one in range(inputs)]
    nodes, name = [], "input0"
    if kind == onnx.TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [name], ["cast"], to=onnx.TensorProto.FLOAT))
        name = "cast"
    if shape[3] == 3:
        nodes.append(helper.make_node("Transpose", [name], ["turned"], perm=[0, 3, 1, 2]))
        name = "turned"
    for operator in outputs:
        nodes.append(helper.make_node(operator, [name], [operator]))
        name = operator
    out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None if "Flatten" in outputs else [None, 3, 1, 1])
    if "Flatten" in outputs:
        out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [shape[0], 3])
    graph = helper.make_graph(nodes, "foreign", given, [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("shape", [["n", 3, 112, 112], [2, 3, 112, 112], ["n", 112, 112, 3], [None, 3, "h", "w"]])
@pytest.mark.parametrize("settings", [{}, {"mean": 0, "std": 255}])
def test_any_recogniser_of_floats(tmp_path, faces, shape, settings):
    model = OnnxRecognizer(recogniser(tmp_path / "judge.onnx", shape), **settings)
    mean, std = settings.get("mean", 127.5), settings.get("std", 127.5)
    expected = ((faces.hr[:5].astype(np.float64) - mean) / std).mean((1, 2))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.embed(faces.hr[:5]), expected, atol=1e-4)
    assert model.input_size == (112, 112)


def test_a_recogniser_of_bytes_gets_bytes(tmp_path, faces):
    model = OnnxRecognizer(recogniser(tmp_path / "judge.onnx", ["n", 112, 112, 3], onnx.TensorProto.UINT8))
    expected = faces.hr[:3].astype(np.float64).mean((1, 2))
    np.testing.assert_allclose(model.embed(faces.hr[:3]), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outputs": ("GlobalAveragePool",)}, "embeddings"),
        ({"shape": ["n", 4, 112, 112]}, "one input"),
        ({"inputs": 2}, "one input"),
    ],
)
def test_a_model_that_is_no_recogniser(tmp_path, change, words):
    path = recogniser(tmp_path / "other.onnx", **({"shape": ["n", 3, 112, 112]} | change))
    with pytest.raises(CheckpointError, match=words):
        OnnxRecognizer(path)


def test_a_recogniser_that_answers_nothing(tmp_path):
    model = OnnxRecognizer(recogniser(tmp_path / "judge.onnx", ["n", 3, 112, 112]), mean=0)
    with pytest.raises(CheckpointError, match="finite embeddings"):
        model.embed(np.zeros((1, 112, 112, 3), np.uint8))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 24, 24, 3), np.uint8), np.zeros((1, 3, 16, 16), np.uint8), np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 16, 16, 3), np.float32), torch.zeros(1, 16, 16, 3), [[1]],
    ],
)  # fmt: skip
def test_images_of_another_kind_are_refused(system, images):
    with pytest.raises(ValueError, match=r"expected bytes \(uint8\), RGB, \[N, 16, 16, 3\], got"):
        load_onnx(system)(images)


def test_files_that_cannot_be_read(tmp_path, system):
    with pytest.raises(FileNotFoundError, match="07_export"):
        load_onnx(tmp_path / "none.onnx")
    for content in (system.read_bytes()[:100_000], b"no model", b""):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match="truncated or of another kind"):
            load_onnx(tmp_path / "bad.onnx")
    with pytest.raises(CheckpointError, match="system of 07_export"):
        load_onnx(recogniser(tmp_path / "judge.onnx", ["n", 3, 112, 112]))


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "onnxscript"])
def test_without_the_optional_packages(tmp_path, monkeypatch, system, faces, dsr, edgeface, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'dsrkit\[onnx\]'"):
        if package == "onnxruntime":
            load_onnx(system)
        else:
            export_pipeline(tmp_path / "x.onnx", edgeface, dsr, "16x16")
    with pytest.raises(ImportError, match=r"pip install 'dsrkit\[onnx\]'"):
        quantise(system, tmp_path / "x.onnx", "dynamic", faces.vlr)
    assert not list(tmp_path.iterdir())


def test_what_failed_leaves_the_old_file_whole(tmp_path, monkeypatch, system, faces, dsr, edgeface):
    target = tmp_path / "kept.onnx"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="VLR size"):
        export_pipeline(target, edgeface, dsr, "200x200")
    with pytest.raises(ValueError, match="expected one of dynamic"):
        quantise(system, target, "int4", faces.vlr)
    with pytest.raises(ValueError, match="faces to calibrate on"):
        quantise(system, target, "static", faces.vlr[:0])
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space"):
        quantise(system, target, "dynamic", faces.vlr)
    assert target.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["kept.onnx"]


@pytest.fixture
def run(tmp_path, dsr_path, tiny_dataset):
    """A run with a DSR and a data set, and nothing else."""
    run = Run("tiny", tmp_path)
    run.folder.mkdir(parents=True)
    run.dsr.write_bytes(dsr_path.read_bytes())
    shutil.copytree(tiny_dataset, run.dataset)
    table = pd.read_csv(run.dataset / "val_pairs.csv")
    table.assign(fold=table.index % 2).to_csv(run.dataset / "val_pairs.csv", index=False)  # three people are one fold
    return run


@pytest.mark.slow
def test_stage_writes_all_its_files(run):
    params = Export.check(SETTINGS)
    exported = open_row(run, params)
    write_models(run, params, exported)
    int8 = write_int8(run, params, exported, split_task(run, params, "val", exported))
    assert int8["chosen"] == "static-dsr" and int8["calibration_faces"] == 8 and set(int8["tried"]) == {"static-dsr"}
    json.dumps(int8, allow_nan=False)
    about = load_onnx(output_files(run)["int8"]).about
    assert about["dsr_sha256"] == file_hash(run.dsr) and about["run"] == "tiny" and about["int8"] == "static-dsr"
    assert "BSD-3-Clause" in about["licence_of_edgeface_weights"] and about["threshold"] == ""
    assert {fact["file"] for fact in file_facts(run).values()} == {"dsrkit.onnx", "dsrkit_int8.onnx", "edgeface.onnx"}
    assert "dsr_sha256" not in OnnxRecognizer(output_files(run)["edgeface"]).about


def test_hr_faces_may_be_left_to_the_original(run):
    torch.manual_seed(1)
    tuned = {name: value + 0.01 * torch.randn_like(value) for name, value in load_edgeface("demo").state_dict().items()}
    inputs = {"dsr": {"file": "dsr.pt", "sha256": file_hash(run.dsr)}}
    about = {"provenance": {"inputs": inputs}, "metrics": {}}
    save_checkpoint(run.edgeface, "edgeface", {"backbone_state_dict": tuned} | about)
    own, original = (
        open_row(run, Export.check(SETTINGS | {"row": "dsr_finetuned", "hr_edgeface": choice})) for choice in ("own", "original")
    )
    faces = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(original.hr_edgeface(faces), load_edgeface("demo")(faces))
        assert torch.equal(own.hr_edgeface(faces), own.edgeface(faces))
    assert own.about == original.about and own.hr_about["edgeface_sha256"] == file_hash(run.edgeface)
    assert original.hr_about["edgeface_sha256"] == file_hash(edgeface_file("demo"))


def test_threshold_is_that_of_the_evaluation_of_these_very_files(run):
    params = Export.check(SETTINGS)
    row = evaluation_row("dsr", "16x16", "both-lr") | {"threshold": 0.4}
    edgeface = open_row(run, params).about["edgeface_sha256"]
    for digest, expected in ((file_hash(run.dsr), "0.400000"), ("another", "")):
        inputs = {"dsr, dsr": {"sha256": digest}, "dsr, edgeface": {"sha256": edgeface}}
        write_metrics(run.metrics, "tiny", {"inputs": inputs}, [row])
        assert open_row(run, params).about["threshold"] == expected


def test_rows_that_cannot_be_exported(run):
    for row in ("cycle_1", "hr", ""):
        with pytest.raises(ValueError, match="one of direct_feed, dsr, got"):
            open_row(run, Export.check(SETTINGS | {"row": row}))
    run.dsr.unlink()
    with pytest.raises(FileNotFoundError, match="02_dsr_training"):
        open_row(run, Export.check(SETTINGS))


def test_calibration_faces_are_spread():
    vlr = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    assert calibration_faces(vlr, 4).ravel().tolist() == [0, 3, 6, 9]
    assert len(calibration_faces(vlr, 99)) == 10
