"""The judge: EdgeFace weights, an ONNX file or a function, each scoring the same faces and named with its SHA-256."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dsrkit.data.degrade import as_tensor, mirror
from dsrkit.evaluation.judge import CalledRecognizer, embeddings_of, open_judge
from dsrkit.evaluation.systems import System, judge_about, judge_systems
from dsrkit.models.checkpoint import CheckpointError
from dsrkit.models.edgeface import load_edgeface
from dsrkit.params import Evaluation
from dsrkit.recognition import embed
from dsrkit.runs import file_hash

MODULE = '''"""Recognisers, good and bad."""
import torch

def rows_and_columns(faces):
    """Embeddings of 224: means of rows and of columns."""
    return torch.cat([faces.mean((1, 3)), faces.mean((1, 2))], 1)

def as_array(faces):
    return faces.mean((2, 3)).numpy()

def half(faces):
    return faces[::2].mean((2, 3))

def nothing(faces):
    return faces.mean((2, 3)) * 0

number = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_faces.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_faces", raising=False)  # that of another test
    return tmp_path / "my_faces.py"


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)


def systems_of(edgeface_path):
    edgeface = load_edgeface(edgeface_path)
    return [
        System(row, edgeface, shown, {"edgeface": edgeface_path}) for row, shown in (("hr", "hr"), ("direct_feed", "bicubic"))
    ]


def asked(params_path, judge):
    return Evaluation.read(params_path).model_copy(update={"judge": str(judge)})


@pytest.fixture
def params_path():
    return Path(__file__).parents[1] / "params" / "demo" / "05_evaluation.yaml"


@pytest.mark.parametrize("tta", [False, True])
def test_a_function_judges(module, faces, tta):
    judge, path = open_judge("my_faces:rows_and_columns", "cpu")
    assert path == module
    images = as_tensor(faces)
    raw = torch.cat([images.mean((1, 3)), images.mean((1, 2))], 1)
    if tta:
        raw = raw + torch.cat([images.flip(3).mean((1, 3)), images.flip(3).mean((1, 2))], 1)
    expected = raw / raw.norm(dim=1, keepdim=True)
    assert embeddings_of(faces, judge, mirror(faces) if tta else None) == pytest.approx(expected.numpy(), abs=1e-6)
    assert open_judge("my_faces:as_array", "cpu")[0].embed(faces).shape == (5, 3)
    assert len(judge.embed(faces[:0])) == 0


def test_a_function_is_named_with_the_hash_of_its_file(module, params_path, edgeface_path):
    judges = judge_systems(asked(params_path, "my_faces:rows_and_columns"), systems_of(edgeface_path), torch.device("cpu"))
    assert [judge.row for judge in judges] == ["hr", "direct_feed"] and {judge.recognizer for judge in judges} == {"judge"}
    about = judge_about(judges, [])
    assert about == {"recognizer": "my_faces:rows_and_columns", "sha256": file_hash(module), "rows": []}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("no_such_module:embed", ImportError, "no module 'no_such_module'"),
        ("my_faces:missing", ValueError, "expected a function 'missing' in my_faces"),
        ("my_faces:number", ValueError, "expected a function 'number'"),
        ("none.onnx", FileNotFoundError, "an independent recogniser"),
    ],
)
def test_a_judge_that_is_not_there(module, name, error, words):
    with pytest.raises(error, match=words):
        open_judge(name, "cpu")


@pytest.mark.parametrize(
    ("name", "words"), [("half", r"expected embeddings \[5, D\]"), ("nothing", "finite embeddings that are not zero")]
)
def test_a_function_that_gives_no_embeddings(module, faces, name, words):
    with pytest.raises(ValueError, match=words):
        CalledRecognizer(f"my_faces:{name}").embed(faces)


class Means(torch.nn.Module):
    """A recogniser of anybody: a linear map of a face shrunk to 7×7, as [N, 3, 112, 112] from −1 to 1."""

    def __init__(self, width=32):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(147, width)

    def forward(self, images):
        return self.linear(torch.nn.functional.avg_pool2d(images, images.shape[-1] // 7).flatten(1))


def export(path, side=112):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = Means().eval()
    images = torch.zeros(2, 3, side, side)
    dynamic = {"images": {0: torch.export.Dim("faces")}}
    torch.onnx.export(network, (images,), str(path), input_names=["images"], dynamic_shapes=dynamic, dynamo=True, verbose=False)
    return network


@torch.inference_mode()
def test_an_onnx_file_judges(tmp_path, faces, params_path, edgeface_path):
    network, path = export(tmp_path / "other.onnx"), tmp_path / "other.onnx"
    judge, named = open_judge(str(path), "cpu")
    raw = network((as_tensor(faces) - 0.5) / 0.5)
    assert named == path
    assert embeddings_of(faces, judge) == pytest.approx((raw / raw.norm(dim=1, keepdim=True)).numpy(), abs=1e-5)
    judges = judge_systems(asked(params_path, path), systems_of(edgeface_path), torch.device("cpu"))
    assert judge_about(judges, []) == {"recognizer": "other.onnx", "sha256": file_hash(path), "rows": []}


def test_an_onnx_file_of_another_size_or_kind_is_refused(tmp_path):
    export(tmp_path / "small.onnx", side=56)
    with pytest.raises(ValueError, match=r"ONNX recogniser of faces of 112×112, got small\.onnx"):
        open_judge(str(tmp_path / "small.onnx"), "cpu")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match="expected an ONNX model"):
        open_judge(str(tmp_path / "text.onnx"), "cpu")


def test_weights_of_an_edgeface_judge_as_before(edgeface_path, faces):
    judge, path = open_judge(str(edgeface_path), "cpu")
    assert path == edgeface_path
    assert np.array_equal(embeddings_of(faces, judge), embed(faces, load_edgeface(edgeface_path)))
