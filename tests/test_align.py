"""Faces land on the ArcFace template, filtered when they shrink, never enlarged silently; bad landmarks and tables are named."""

import pickle
import sys

import numpy as np
import pytest
from conftest import given_file
from PIL import Image

from dsrkit.data.align import (
    ALIGNERS,
    ARCFACE_TEMPLATE,
    COLUMNS,
    ByDetector,
    CentreCrop,
    align,
    open_aligner,
    read_landmarks,
    similarity,
)
from dsrkit.data.sources import FolderSource, ImageError, SyntheticSource, open_source
from dsrkit.data.yunet import YuNet, main_face
from dsrkit.models import load_edgeface
from dsrkit.recognition import embed


def matrix_of(scale, degrees, x, y):
    turn = scale * np.exp(1j * np.deg2rad(degrees))
    return np.array([[turn.real, -turn.imag, x], [turn.imag, turn.real, y]])


def moved(points, matrix):
    return points @ matrix[:, :2].T + matrix[:, 2]


def photo_of(face, matrix, size):
    """A square photo, black but for ``face``, laid into it by ``matrix`` (from crop to photo): between its pixels bilinear."""
    rows, columns = np.indices((size, size))
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    places = moved(np.stack([columns, rows], axis=-1), back)
    left, top = np.floor(places).astype(int).clip(0, 110).transpose(2, 0, 1)
    across, down = (places - np.stack([left, top], axis=-1)).transpose(2, 0, 1)[..., None]
    upper, lower = (face[row, left] * (1 - across) + face[row, left + 1] * across for row in (top, top + 1))
    inside = ((places >= 0) & (places <= 111)).all(-1, keepdims=True)
    return ((upper * (1 - down) + lower * down) * inside).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def faces():
    source = SyntheticSource(3, 1)
    return np.stack(source.read(source.faces))


def smooth(face):
    """Without the finest detail, which resampling twice cannot keep."""
    return np.asarray(Image.fromarray(face).resize((56, 56), Image.Resampling.BOX).resize((112, 112), Image.Resampling.BICUBIC))


# --- the transform


def umeyama(points, template):
    """Umeyama (1991), equations 38 to 42, with the singular value decomposition."""
    here, there = points - points.mean(0), template - template.mean(0)
    left, values, right = np.linalg.svd(there.T @ here / len(points))
    sign = np.diag([1, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    turn = left @ sign @ right
    scale = np.trace(np.diag(values) @ sign) / here.var(0).sum()
    return np.column_stack([scale * turn, template.mean(0) - scale * turn @ points.mean(0)])


def test_similarity_is_umeyama_s():
    generator = np.random.default_rng(0)
    for _ in range(200):
        points = generator.normal(size=(generator.integers(2, 9), 2)) * 50
        template = generator.normal(size=points.shape) * 50
        expected = umeyama(points, template)
        assert np.allclose(similarity(points, template), expected, atol=1e-7)


def test_similarity_is_the_least_squares_solution():
    points = np.random.default_rng(1).normal(size=(5, 2)) * 40
    rows = [[x, -y, 1, 0] for x, y in points] + [[y, x, 0, 1] for x, y in points]
    a, b, x, y = np.linalg.lstsq(np.array(rows), ARCFACE_TEMPLATE.T.flatten(), rcond=None)[0]
    assert np.allclose(similarity(points, ARCFACE_TEMPLATE), [[a, -b, x], [b, a, y]])


@pytest.mark.parametrize(("scale", "degrees"), [(0.3, 0), (1, 90), (2.5, -37), (1, 180)])
def test_similarity_undoes_a_similarity(scale, degrees):
    there = matrix_of(scale, degrees, 12.5, -40)
    back = similarity(moved(ARCFACE_TEMPLATE, there), ARCFACE_TEMPLATE)
    assert np.allclose(moved(moved(ARCFACE_TEMPLATE, there), back), ARCFACE_TEMPLATE)


# --- aligning


def test_an_aligned_face_stays_as_it_is(faces):
    assert np.array_equal(align(faces[0], ARCFACE_TEMPLATE), faces[0])


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0), (1.0, 25), (1.6, -15), (2.2, 8)])
def test_a_face_in_a_photo_lands_on_the_template(faces, scale, degrees):
    face = smooth(faces[1])
    size = 400
    middle = matrix_of(scale, degrees, 0, 0) @ [55.5, 55.5, 1]
    matrix = matrix_of(scale, degrees, *(size / 2 - middle + [7.3, -4.6]))
    aligned = align(photo_of(face, matrix, size), moved(ARCFACE_TEMPLATE, matrix))
    inner = (slice(8, 104), slice(8, 104))
    error = np.abs(aligned[inner].astype(float) - face[inner]).mean()
    half_a_pixel = np.abs(face[inner].astype(float) - (face[inner] / 2 + np.roll(face, 1, 1)[inner] / 2)).mean()
    assert error < half_a_pixel / 2  # a convention of pixels off by a half would show


def test_what_opencv_makes_of_the_same_points(faces):
    cv2 = pytest.importorskip("cv2", reason="opencv is an optional extra (dsrkit[align])")
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(photo).resize((300, 300), Image.Resampling.BICUBIC))
    points = moved(ARCFACE_TEMPLATE, matrix_of(1.0, 11, 80.25, 60.5))
    matrix = similarity(points, ARCFACE_TEMPLATE)
    for shift, least, most in ((0, 0, 1), (0.25, 3, 5), (-0.25, 3, 5)):  # their bicubic is a little sharper (a = −0.75)
        theirs = cv2.warpAffine(photo, matrix + np.array([0, 0, shift]), (112, 112), flags=cv2.INTER_CUBIC)
        assert least < np.abs(align(photo, points).astype(int) - theirs).mean() < most


def test_large_faces_are_filtered_before_they_shrink():
    """A board of black and white pixels is grey from afar; without a filter it would stay a pattern."""
    board = np.indices((1120, 1120)).sum(0) % 2 * 255
    photo = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    points = moved(ARCFACE_TEMPLATE, matrix_of(9.5, 4, 20, -30))
    inner = align(photo, points)[20:92, 20:92].astype(int)
    assert np.abs(inner - 127.5).max() < 6
    assert np.abs(CentreCrop(0.9)(photo, "board").astype(int) - 127.5).max() < 6


def test_beyond_the_photo_is_black():
    photo = np.full((140, 112, 3), 200, np.uint8)
    aligned = align(photo, ARCFACE_TEMPLATE + np.array([0, 40]))
    assert (aligned[:98] == 200).all() and (aligned[102:] == 0).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)) + 30, "expected five landmarks, points that differ, got"),
        (np.full((5, 2), np.nan), "expected five landmarks, points that differ, got"),
        (ARCFACE_TEMPLATE[[1, 0, 2, 4, 3]], "got a mirrored face. Swap left and right"),
        (ARCFACE_TEMPLATE + 300, "expected landmarks in a photo of 200x250, got"),
        (ARCFACE_TEMPLATE * 0.5 + 30, "at least 112x112 pixels, got about 56x56. Use a larger photo; faces are never enlarged"),
    ],
)
def test_landmarks_that_cannot_serve(points, message):
    with pytest.raises(ImageError, match=r"^Bo/1\.png: expected") as caught:
        align(np.zeros((250, 200, 3), np.uint8), points, "Bo/1.png")
    assert message in str(caught.value)


def test_small_faces_are_enlarged_where_that_is_asked_for(faces):
    small = np.asarray(Image.fromarray(faces[0]).resize((56, 56), Image.Resampling.BICUBIC))
    aligned = align(small, (ARCFACE_TEMPLATE + 0.5) / 2 - 0.5, enlarge=True)
    again = np.asarray(Image.fromarray(small).resize((112, 112), Image.Resampling.BICUBIC))
    assert np.abs(aligned[4:-4, 4:-4].astype(int) - again[4:-4, 4:-4]).mean() < 1.5
    assert open_aligner("none", enlarge=True)(small, "x").shape == (112, 112, 3)
    assert open_aligner("centre-crop", share=0.9, enlarge=True)(small, "x").shape == (112, 112, 3)


# --- the table of landmarks


def table_of(path, rows, columns=COLUMNS):
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def test_a_table_of_landmarks(tmp_path, faces):
    rows = [["Bo/1.jpg", *range(10)], ["Zoe\u0301/NA.jpg", *np.arange(10) / 4]]
    landmarks = read_landmarks(table_of(tmp_path / "points.csv", rows))
    assert list(landmarks) == ["Bo/1.jpg", "Zo\u00e9/NA.jpg"]
    assert landmarks["Bo/1.jpg"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert COLUMNS[:3] == ("name", "left_eye_x", "left_eye_y") and COLUMNS[-1] == "right_mouth_y"


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], COLUMNS[:-1], "got none called right_mouth_y. Add them"),
        ([["a", *range(9), "wide"]], COLUMNS, "expected a number in every cell, got line 2: a, 0, 1"),
        ([["a", *range(10)], ["b", *range(9), ""]], COLUMNS, "expected a number in every cell, got line 3: b"),
        ([["a", *range(9), "inf"]], COLUMNS, "expected a number in every cell, got line 2"),
        ([["a", *range(10)], ["a", *range(10)]], COLUMNS, "expected each name once, got line 3: a"),
        ([["\u00e9", *range(10)], ["e\u0301", *range(10)]], COLUMNS, "expected each name once, got line 3"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, rows, columns, message):
    with pytest.raises(ValueError, match=r"points\.csv: expected") as caught:
        read_landmarks(table_of(tmp_path / "points.csv", rows, columns))
    assert message in str(caught.value)


def test_tables_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv, got nothing there\. Columns: name, left_eye_x"):
        open_aligner("landmarks", landmarks=tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("empty", "binary"):
        with pytest.raises(ValueError, match=rf"{name}\.csv: expected a CSV table, got a file that cannot be read"):
            read_landmarks(tmp_path / f"{name}.csv")


# --- choices by name


def folder_of_photos(root, faces):
    """Photos of 200×240 with the face turned, and the table that tells where; the second photo has no row."""
    rows = []
    for number, face in enumerate(faces):
        matrix = matrix_of(1.2, 6 * number, 30 + 3 * number, 40)
        photo = photo_of(face, matrix, 240)[:, :200]
        (root / "people" / f"P{number}").mkdir(parents=True)
        Image.fromarray(photo).save(root / "people" / f"P{number}" / "1.png")
        if number != 1:
            rows.append([f"P{number}/1.png", *moved(ARCFACE_TEMPLATE, matrix).flatten()])
    return root / "people", table_of(root / "points.csv", rows)


def test_a_source_with_landmarks(tmp_path, faces):
    root, table = folder_of_photos(tmp_path, faces)
    source = open_source("folder", root, aligner=open_aligner("landmarks", landmarks=table))
    first, second, third = pickle.loads(pickle.dumps(source)).read(source.faces)
    assert str(second).startswith("P1/1.png: expected a row of that name in the table of landmarks, got none. Add")
    for number, aligned in ((0, first), (2, third)):
        distances = [np.abs(aligned[8:104, 8:104].astype(int) - face[8:104, 8:104]).mean() for face in faces]
        assert np.argmin(distances) == number and distances[number] < 12
    plain = open_source("folder", root).read(source.faces[:1])[0]
    assert "expected an aligned square face" in str(plain)


def test_centre_crop_is_what_pillow_cuts(faces):
    photo = np.asarray(Image.fromarray(faces[0]).resize((400, 300), Image.Resampling.BICUBIC))
    cut = Image.fromarray(photo).crop((50 + 75, 75, 275, 225)).resize((112, 112), Image.Resampling.BICUBIC)
    ours = open_aligner("centre-crop", share=0.5)(photo, "x").astype(int)
    assert np.abs(ours - np.asarray(cut))[3:-3, 3:-3].max() <= 1  # at the border ours sees the pixels beyond
    with pytest.raises(
        ImageError, match=r"^x: expected the centre crop to be at least 112x112, got 90x90, 0\.3 of 400x300\. Take"
    ):
        open_aligner("centre-crop", share=0.3)(photo, "x")


@pytest.mark.parametrize("share", [None, 0, -1, 1.01, float("nan")])
def test_a_share_that_cannot_be(share):
    with pytest.raises(ValueError, match="centre-crop: expected a share of the shorter side, above 0 and at most 1, got"):
        open_aligner("centre-crop", share=share)


def test_unknown_aligner():
    assert set(ALIGNERS) == {"none", "centre-crop", "landmarks", "yunet"}
    with pytest.raises(ValueError, match="aligner: expected one of none, centre-crop, landmarks, yunet, got 'mtcnn'"):
        open_aligner("mtcnn")


# --- the detector


class StandIn:
    """OpenCV's detector as its interface has it, with the faces given: rows of box, five points, score."""

    def __init__(self, faces):
        self.faces = faces

    def setInputSize(self, size):  # noqa: N802  # OpenCV's name
        self.size = size

    def detect(self, image):
        assert image.shape == (self.size[1], self.size[0], 3) and image.flags.c_contiguous
        self.seen = image
        return 1, self.faces


def row_of(points, box=(0, 0, 100, 100)):
    return np.array([*box, *np.asarray(points).flatten(), 0.9], np.float32)


def detector_of(faces):
    detector = YuNet.__new__(YuNet)
    detector.model, detector.least_score, detector._detector = "stand-in.onnx", 0.6, StandIn(faces)
    return detector


def test_detected_points_align_the_face(faces):
    matrix = matrix_of(1.3, 10, 60, 40)
    photo = photo_of(faces[0], matrix, 300)
    points = moved(ARCFACE_TEMPLATE, matrix)
    detector = detector_of(row_of(points)[None])
    assert np.allclose(detector(photo), points, atol=1e-4)
    assert np.array_equal(detector._detector.seen, photo[..., ::-1])  # blue first
    assert pickle.loads(pickle.dumps(detector))._detector is None  # made again from its file where it arrives
    aligned = ByDetector(detector)(photo, "x")
    assert np.abs(aligned.astype(int) - align(photo, points)).max() <= 1


def test_large_photos_are_shrunk_for_the_detector_and_points_come_back_in_their_pixels():
    found = ARCFACE_TEMPLATE + np.array([200, 100])
    detector = detector_of(row_of(found)[None])
    points = detector(np.zeros((960, 1280, 3), np.uint8))
    assert detector._detector.size == (640, 480)
    assert np.allclose(points, (found + 0.5) * 2 - 0.5, atol=1e-4)


@pytest.mark.parametrize("found", [None, np.zeros((0, 15), np.float32)])
def test_no_face_found(found):
    with pytest.raises(ImageError, match=r"^Bo/1\.png: expected a face, got none that scores 0\.6\. Crop it by hand"):
        detector_of(found)(np.zeros((200, 200, 3), np.uint8), "Bo/1.png")


def test_of_several_faces_the_large_central_one_is_meant():
    aside, small, meant = (0, 0, 110, 110), (140, 140, 20, 20), (90, 100, 100, 100)
    rows = np.stack([row_of(ARCFACE_TEMPLATE + number, box) for number, box in enumerate((aside, small, meant))])
    assert main_face(rows, (300, 300)) == 2 and main_face(rows[:2], (300, 300)) == 1
    best = max(
        range(3), key=lambda k: rows[k, 2] * rows[k, 3] - 2 * sum((rows[k, i] + rows[k, i + 2] / 2 - 150) ** 2 for i in (0, 1))
    )
    assert best == 2
    assert np.allclose(detector_of(rows)(np.zeros((300, 300, 3), np.uint8)), ARCFACE_TEMPLATE + 2, atol=1e-4)


def test_a_missing_model_or_opencv_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx', got nothing there\. Fetch face_detection_yunet.*MIT"):
        open_aligner("yunet", detector=tmp_path / "nowhere.onnx")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"expected OpenCV, got no module cv2\. Install it: pip install 'dsrkit\[align\]'"):
        open_aligner("yunet", detector=tmp_path / "model.onnx")


def test_a_file_that_is_no_model(tmp_path):
    pytest.importorskip("cv2", reason="opencv is an optional extra (dsrkit[align])")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model\.onnx: expected YuNet's ONNX file, got one that OpenCV cannot read"):
        open_aligner("yunet", detector=tmp_path / "model.onnx")


# --- on real photos


def cosines_to_twins(aligner, raw, lfw, edgeface):
    """Cosine of each raw photo's embedding, aligned so, to that of its official aligned copy."""
    twin_of = {face.name: face for face in FolderSource(lfw).faces}
    source = open_source("folder", raw, aligner=aligner)
    faces = [face for face in source.faces if face.name in twin_of]
    twins = FolderSource(lfw).read([twin_of[face.name] for face in faces])
    ours, theirs = (embed(np.stack(images), edgeface) for images in (source.read(faces), twins))
    return (ours * theirs).sum(1)


@pytest.mark.slow
def test_real_centre_crops_match_their_aligned_twins(lfw, real_edgeface):
    raw, edgeface = given_file("DSRKIT_LFW_RAW"), load_edgeface(real_edgeface)
    shares = (0.46, 0.52, 0.58, 1.0)
    cosines = {share: cosines_to_twins(open_aligner("centre-crop", share=share), raw, lfw, edgeface) for share in shares}
    means = {share: values.mean() for share, values in cosines.items()}
    assert len(cosines[0.52]) > 100 and max(means, key=means.get) == 0.52 and means[0.52] > 0.75 and means[1.0] < 0.3


@pytest.mark.slow
def test_real_detector_matches_the_aligned_twins(lfw, real_edgeface):
    pytest.importorskip("cv2", reason="opencv is an optional extra (dsrkit[align])")
    aligner = open_aligner("yunet", detector=given_file("DSRKIT_YUNET"))
    assert cosines_to_twins(aligner, given_file("DSRKIT_LFW_RAW"), lfw, load_edgeface(real_edgeface)).mean() > 0.9
