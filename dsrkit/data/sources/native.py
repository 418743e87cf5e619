"""Faces of native low resolution, as a camera took them: used at their own size, never degraded.

What degradation by a kernel hides, these show: a method that is best on shrunk photos may be the worst here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dsrkit.data.sources.files import FileSource, scan_images
from dsrkit.data.sources.records import Face, as_composed

_TINYFACE_ROLES = {"Gallery_Match": "gallery", "Gallery_Distractor": "distractor", "Probe": "probe"}
_SCFACE_FOLDERS = (("mugshot_frontal_cropped_all", "mugshot_frontal_original_all"), ("surveillance_cameras_all",))
_SCFACE_NAME = re.compile(r"(?P<subject>\d{3,})_(frontal|cam(?P<camera>\d)_(?P<distance>\d))", re.ASCII)


def tinyface(root: Path) -> FileSource:
    """TinyFace (Cheng et al. 2018): ``Training_Set/<id>/*.jpg`` and ``Testing_Set/{Gallery_Match,Gallery_Distractor,Probe}/``.

    Split ``train`` or ``test``, and the folder's role. Subjects of gallery and probes stand in the names, ``<id>_<n>.jpg``; a
    distractor is nobody else, so each is a subject of its own. Other images below the root are counted as passed over.
    Raises FileNotFoundError or ValueError: no such folders, or a name without an id.
    """
    paths, others = scan_images(root)
    faces = []
    for path in paths:
        match PurePosixPath(path).parts:
            case ("Training_Set", subject, file):
                faces.append(_face(root, path, subject, f"{subject}_{file}", "train"))
            case ("Testing_Set", folder, file) if role := _TINYFACE_ROLES.get(folder, ""):
                faces.append(_face(root, path, _tinyface_subject(root / path, role), f"{role}_{file}", "test", role))
            case _:
                others["other folder"] += 1
    if not faces:
        raise ValueError(f"{root}: expected Training_Set/ and Testing_Set/, got other folders. Give the folder that holds them.")
    return FileSource(root, faces, native=True, passed_over=others)


def _tinyface_subject(path: Path, role: str) -> str:
    if role == "distractor":
        return f"distractor_{path.stem}"
    if match := re.fullmatch(r"(\d+)_\d+", path.stem):
        return match[1]
    raise ValueError(f"{path}: expected a name <id>_<n>, such as 12_3.jpg, got {path.name!r}. Take TinyFace's own file names.")


def scface(root: Path, cameras: Sequence[int] = (1, 2, 3, 4, 5), distances: Sequence[int] = (1, 2, 3)) -> FileSource:
    """SCface (Grgic et al. 2011): frontal mugshots ``001_frontal.jpg`` as gallery, ``001_cam1_2.jpg`` as probes.

    Cameras 1 to 5 see visible light, 6 and 7 infrared; distances are 1 (4.2 m), 2 (2.6 m) and 3 (1 m). Taken from SCface's
    own folders of all mugshots (cropped, else original) and all surveillance photos, or from the root itself where those are
    not there. Crop the faces before: the originals show more. Other images are counted as passed over.
    Raises FileNotFoundError or ValueError: nothing there of this kind, or nothing left by the filters.
    """
    folders = [next((root / name for name in names if (root / name).is_dir()), None) for names in _SCFACE_FOLDERS]
    faces, others = list[Face](), Counter[str]()
    for folder in [folder for folder in folders if folder] or [root]:
        paths, passed_over = scan_images(folder)
        others += passed_over
        for path in paths:
            name = _SCFACE_NAME.fullmatch(Path(path).stem)
            if name is None:
                others["other name"] += 1
            elif name["camera"] is None:
                faces.append(_face(folder, path, name["subject"], Path(path).name, role="gallery"))
            elif int(name["camera"]) in cameras and int(name["distance"]) in distances:
                faces.append(_face(folder, path, name["subject"], Path(path).name, role="probe"))
            else:
                others[f"camera {name['camera']}, distance {name['distance']}"] += 1
    if {face.role for face in faces} != {"gallery", "probe"}:
        raise ValueError(
            f"{root}: expected 001_frontal.jpg, … and 001_cam1_2.jpg, … of cameras {list(cameras)} and distances "
            f"{list(distances)}, got {len(faces)} of them and others: {dict(others)}. Give SCface's root, or widen the filter."
        )
    return FileSource(root, faces, native=True, passed_over=others)


def _face(root: Path, path: str, subject: str, file: str, split: str = "", role: str = "") -> Face:
    return Face(as_composed(subject), as_composed(f"{Path(file).stem}.png"), str(root / path), split, role)
