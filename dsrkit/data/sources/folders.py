"""Folders of subjects (LFW's layout), flat folders of telling names, and the paired layout of an existing data set.

File names understood anywhere (both appear in published low-resolution sets):
CMU Multi-PIE ``007_01_01_051_07_crop_128.png`` → subject ``007``; flattened LFW ``1001_0001_lfw.png`` → ``1001``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePath

import pandas as pd

from dsrkit.data.sources.files import FileSource, scan_images
from dsrkit.data.sources.records import Aligner, Face, as_composed

SPLITS = ("train", "val", "test")
_MULTI_PIE = re.compile(r"(?P<subject>\d{3,})_\d{2}_\d{2}_\d{3}_\d{2}_crop_\d+$")
_FLAT_LFW = re.compile(r"(?P<subject>\d+)_\d{4}_lfw$")
_LFW = re.compile(r"(?P<subject>.+)_\d{4}$")


def subject_of_name(name: str) -> str | None:
    """The subject in a CMU Multi-PIE or flattened LFW file name, else None."""
    stem = os.path.splitext(os.path.basename(name))[0]
    match = _MULTI_PIE.match(stem) or _FLAT_LFW.match(stem)
    return match["subject"] if match else None


class FolderSource(FileSource):
    """``root/<subject>/<image>`` (LFW's own layout), or one flat folder of CMU Multi-PIE or flattened LFW names.

    Subjects' folders may lie deeper. Names are composed to Unicode NFC.
    Raises FileNotFoundError when the folder is missing, ValueError when it holds no image, one that does not tell its
    subject, two folders for one subject, or two images that would get the same name.
    """

    def __init__(self, root: Path | str, aligner: Aligner | None = None) -> None:
        root = Path(root)
        paths, others = scan_images(root)
        _check_homes(root, {os.path.dirname(path) for path in paths if not subject_of_name(path)})
        super().__init__(root, [self._face(root, path) for path in paths], aligner, passed_over=others)

    @staticmethod
    def _face(root: Path, path: str) -> Face:
        folder, file = os.path.split(path)
        subject = as_composed(subject_of_name(file) or os.path.basename(folder))
        if not subject:
            raise ValueError(
                f"{root / path}: expected a folder per subject, or names such as 007_01_01_051_07_crop_128.png or "
                f"1001_0001_lfw.png, got {file!r} beside them. Move it into its subject's folder."
            )
        return Face(subject, name_of(subject, file), os.path.join(root, path))


def name_of(subject: str, file: str) -> str:
    """The name a file gets in the data set: PNG, its subject first."""
    stem = as_composed(os.path.splitext(file)[0])
    return f"{stem}.png" if stem.startswith(f"{subject}_") else f"{subject}_{stem}.png"


def _check_homes(root: Path, homes: set[str]) -> None:
    """Raises ValueError where folders that name subjects cannot be told apart, or lie in each other."""
    folder_of: dict[str, str] = {}
    for home in sorted(homes - {""}):
        twin = folder_of.setdefault(as_composed(os.path.basename(home)), home)
        around = [parent for parent in map(str, PurePath(home).parents) if parent in homes]
        if twin != home or around:
            raise ValueError(
                f"{root}: expected one folder of images per subject, got {home!r} and {(around or [twin])[0]!r}. "
                "Put one person's images into one folder; give two people two names."
            )


def processed(root: Path) -> FileSource:
    """HR faces of a paired data set, ``root/{train,val,test}_processed/hr_images/``; each face tells its split.

    Subjects come from ``root/manifest.csv`` where there is one (columns split, subject, name), else from the names: CMU
    Multi-PIE, flattened LFW, or LFW's own ``Name_Surname_0001``. Square HR faces of 112 and more are taken, larger ones shrunk.
    Raises FileNotFoundError when there is no such folder, ValueError for a name that does not tell its subject.
    """
    subjects = _subjects_of_manifest(root / "manifest.csv")
    faces, others = list[Face](), Counter[str]()
    for split in SPLITS:
        folder = root / f"{split}_processed" / "hr_images"
        if not folder.parent.is_dir():
            continue
        paths, passed_over = scan_images(folder)
        others += passed_over
        for path in paths:
            stem = os.path.splitext(os.path.basename(path))[0]
            match = _LFW.match(stem)
            subject = subjects.get((split, path)) or subject_of_name(path) or (match["subject"] if match else None)
            if subject is None:
                raise ValueError(
                    f"{folder / path}: expected a name such as 007_01_01_051_07_crop_128.png, 1001_0001_lfw.png or Bo_0001.png, "
                    f"got {path!r}. Rename it, or list it in {root / 'manifest.csv'} (split, subject, name)."
                )
            faces.append(Face(as_composed(subject), as_composed(f"{stem}.png"), os.path.join(folder, path), split))
    if not faces:
        raise FileNotFoundError(
            f"Expected a paired data set at {root} ({SPLITS[0]}_processed/hr_images, …), got none of "
            f"{', '.join(f'{split}_processed' for split in SPLITS)}. Give the folder that holds them."
        )
    return FileSource(root, faces, passed_over=others)


def _subjects_of_manifest(manifest: Path) -> dict[tuple[str, str], str]:
    if not manifest.is_file():
        return {}
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    if missing := {"split", "subject", "name"} - set(table.columns):
        raise ValueError(f"{manifest}: expected columns split, subject and name, got none called {sorted(missing)}. Add them.")
    return dict(zip(zip(table["split"], table["name"], strict=True), table["subject"], strict=True))
