"""The recogniser that ships knows people it never saw at 112 pixels; the direct feed at 16 pixels takes much of that away."""

import json

import numpy as np
import pytest

from dsrkit.data.degrade import as_tensor, degrade
from dsrkit.data.synthetic import render_faces
from dsrkit.models import load_edgeface
from dsrkit.models.edgeface import DEMO_WEIGHTS
from dsrkit.recognition import embed, restore
from dsrkit.runs import file_hash

PEOPLE, IMAGES = 100, 8


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    people, images = np.repeat(np.arange(PEOPLE), IMAGES), np.tile(np.arange(IMAGES), PEOPLE)
    return render_faces(people.tolist(), images.tolist(), seed=4242)


def nearest_is_the_same_person(embeddings: np.ndarray) -> float:
    """Leave-one-out: how often the nearest other image shows the same person."""
    people = np.repeat(np.arange(PEOPLE), IMAGES)
    scores = embeddings @ embeddings.T
    np.fill_diagonal(scores, -1)
    return float((people[scores.argmax(1)] == people).mean())


@pytest.mark.slow
def test_unseen_people_at_112_and_16_pixels(faces: np.ndarray) -> None:
    edgeface = load_edgeface("demo")
    at_112 = nearest_is_the_same_person(embed(faces, edgeface))
    vlr = (degrade(as_tensor(faces), "16x16") * 255).round().byte().permute(0, 2, 3, 1).numpy()
    at_16 = nearest_is_the_same_person(embed(restore(vlr, None), edgeface))
    print(f"rank-1 at 112 pixels {at_112:.4f}, direct feed at 16 pixels {at_16:.4f}")
    assert at_112 >= 0.97
    assert at_112 - at_16 >= 0.10


def test_the_file_is_the_one_its_record_describes() -> None:
    about = json.loads(DEMO_WEIGHTS.with_suffix(".json").read_text())
    assert about["sha256"] == file_hash(DEMO_WEIGHTS)
    assert about["metrics"]["rank1"] > 0.95 and about["provenance"]["parameters"]["people"] > 0
    assert DEMO_WEIGHTS.stat().st_size < 5_000_000
