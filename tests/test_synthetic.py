"""Made-up faces: reproducible, one person per number, and recognisable by the face only."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dsrkit.data.synthetic import face_names, render_faces
from dsrkit.data.synthetic.traits import CAMERAS, MOST_IMAGES, draw_conditions

SUBJECTS, IMAGES = 100, 8
CHANCE = (IMAGES - 1) / (SUBJECTS * IMAGES - 1)


def grid(subjects: range, images: range) -> tuple[list[int], list[int]]:
    """Every image of every subject, as two lists."""
    return [who for who in subjects for _ in images], [which for _ in subjects for which in images]


@pytest.fixture(scope="module")
def crowd() -> tuple[np.ndarray, np.ndarray]:
    subjects, images = grid(range(SUBJECTS), range(IMAGES))
    return render_faces(subjects, images), np.array(subjects)


def right_neighbours(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose nearest other image shows the same person."""
    features = features.reshape(len(features), -1).astype(np.float64)
    squares = (features**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * features @ features.T
    np.fill_diagonal(distances, np.inf)
    return float((labels[distances.argmin(1)] == labels).mean())


def test_shape_and_contrast(crowd):
    faces, _ = crowd
    assert faces.shape == (SUBJECTS * IMAGES, 112, 112, 3) and faces.dtype == np.uint8
    assert faces.std(axis=(1, 2, 3)).min() > 8
    assert 60 < faces.mean() < 190


def test_border_does_not_tell_the_person(crowd):
    faces, labels = crowd
    frame = np.ones((112, 112), bool)
    frame[4:-4, 4:-4] = False
    assert right_neighbours(faces[:, frame], labels) <= 2 * CHANCE


def test_mean_colour_does_not_tell_the_person(crowd):
    faces, labels = crowd
    assert right_neighbours(faces.mean(axis=(1, 2)), labels) <= 0.10


def test_the_face_tells_the_person():
    """With the nuisance off the same measure is sure, and rendering noise aside no two people look alike."""
    subjects, images = grid(range(40), range(2))
    faces = render_faces(subjects, images, neutral=True)[:, 20:100, 20:92]
    assert right_neighbours(faces, np.array(subjects)) > 0.95


def test_a_picture_does_not_depend_on_its_company(crowd):
    faces, labels = crowd
    order = [605, 3, 87, 410, 3]
    again = render_faces(labels[order], [index % IMAGES for index in order])
    difference = np.abs(again.astype(int) - faces[order].astype(int))
    assert difference.max() <= 1


def test_seed_changes_the_person_and_the_photo():
    first, other = (render_faces([4], [2], seed=seed).astype(int) for seed in (0, 1))
    assert np.abs(first - other).mean() > 5


def test_other_sizes_show_the_same_scene():
    full = render_faces([7], [0], neutral=True, size=112)[0].astype(float)
    half = render_faces([7], [0], neutral=True, size=56)[0].astype(float)
    boxed = full.reshape(56, 2, 56, 2, 3).mean(axis=(1, 3))
    assert np.abs(boxed - half).mean() < 6


def test_names_are_multi_pie_and_unique():
    subjects, images = grid(range(995, 1003), range(400))
    names = face_names(subjects, images)
    assert len(set(names)) == len(names)
    pattern = re.compile(r"(\d{3,4})_0[1-4]_(\d\d)_(080|130|140|051|050|041|190)_([01]\d)_crop_128\.png")
    matches = [pattern.fullmatch(name) for name in names]
    assert all(matches)
    assert [int(match[1]) for match in matches] == subjects
    assert all(1 <= int(match[2]) <= 99 for match in matches)
    assert face_names([7], [3])[0].startswith("007_")


def test_names_tell_what_was_drawn():
    subjects, images = grid(range(5), range(20))
    mood = draw_conditions(np.array(subjects), np.array(images), seed=0)
    angles = {code: angle for angle, code in CAMERAS.items()}
    yaw = np.degrees(mood.yaw.flatten().numpy())
    for name, angle, expression in zip(face_names(subjects, images), yaw, mood.expression.flatten(), strict=True):
        _, _, recording, camera, *_ = name.split("_")
        assert abs(angles[camera] - angle) <= 7.6
        assert (int(recording) - 1) // 19 == int(expression)
    assert len({name.split("_")[4] for name in face_names([0] * 20, range(20))}) == 20


@pytest.mark.parametrize(
    ("subjects", "images", "size"),
    [([0, 1], [0], 112), ([-1], [0], 112), ([0], [-1], 112), ([0], [MOST_IMAGES], 112), ([], [], 112), ([0], [0], 8)],
)
def test_bad_input_is_refused(subjects, images, size):
    with pytest.raises(ValueError, match=r"expected .*, got .*; "):
        render_faces(subjects, images, size=size)
