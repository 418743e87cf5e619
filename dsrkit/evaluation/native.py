"""Who is gallery and who is probe: as the data set's manifest says, else by a seeded draw; and SCface's camera distances.

TinyFace (Cheng et al. 2018) and SCface (Grgic et al. 2011) name their gallery, their probes and, TinyFace, 153,428 faces that
belong to nobody asked for. Their faces were photographed small: there is no HR to compare with. ``enrolled`` of
01_data_migration names a gallery in the same way.

SCface's own protocol compares with a mugshot. Networks take one size, so 01_data_migration writes every native face at each size
asked for; where ``112x112`` is one of them, the gallery is there as HR faces too: see ``hr_gallery``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.faces import FaceSet, open_split, vlr_folders
from dsrkit.data.layout import read_manifest
from dsrkit.evaluation.open_set import gallery_split

IN_GALLERY = ("gallery", "distractor")
NATIVE = "native"
NATIVE_HR = "native-hr"  # the same probes, and a gallery of HR faces
SCFACE_DISTANCES = {"1": "4.2m", "2": "2.6m", "3": "1m"}  # of the camera, by the last number of the file's name
_SCFACE_NAME = re.compile(r"\d{3,}_cam\d_([123])\.png", re.ASCII)


def searched(
    faces: FaceSet, enrolled: int, seed: int
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " q"], Int[np.ndarray, " u"]]:
    """Row numbers of gallery, probes and strangers (probes of nobody in the gallery), each sorted.

    Where the manifest has roles they are followed to the letter. Else ``enrolled`` images of every subject with more than that
    are drawn into the gallery; subjects with fewer are strangers, and where there are none, every fifth subject is made one.
    Raises ValueError when roles name no gallery or no probe, or nobody has enough images.
    """
    if any(faces.roles):
        return _by_role(faces)
    gallery, probes, strangers = gallery_split(faces.labels, enrolled, seed)
    if not len(strangers):
        apart = faces.labels % 5 == 4
        strangers = np.sort(np.concatenate([gallery[apart[gallery]], probes[apart[probes]]]))
        gallery, probes = gallery[~apart[gallery]], probes[~apart[probes]]
    return gallery, probes, strangers


def _by_role(faces: FaceSet) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " q"], Int[np.ndarray, " u"]]:
    roles = np.array(faces.roles)
    if unknown := set(roles.tolist()) - {*IN_GALLERY, "probe"}:
        raise ValueError(
            f"Roles: expected gallery, distractor or probe for every face once the manifest gives roles, got {sorted(unknown)}. "
            "Make the data set again with 01_data_migration."
        )
    gallery, probes = np.flatnonzero(np.isin(roles, IN_GALLERY)), np.flatnonzero(roles == "probe")
    known = np.isin(faces.labels[probes], faces.labels[gallery])
    if not known.any():
        raise ValueError(
            f"Roles: expected a gallery and probes of its subjects, got {len(gallery)} gallery faces and {len(probes)} probes, "
            "none of somebody enrolled. Raise limit, or make the data set again with 01_data_migration."
        )
    return gallery, probes[known], probes[~known]


def hr_gallery(dataset: Path, split: str, faces: FaceSet, gallery: Int[np.ndarray, " g"]) -> FaceSet | None:
    """The gallery of a native split as HR faces, in the order of ``gallery``: SCface's mugshots.

    None unless the data set holds the split at 112x112 and every gallery photo had as many pixels: one that a camera took
    small is not made HR by enlarging it.
    """
    whole = f"{HR_SIZE}x{HR_SIZE}"
    if faces.has_hr or whole not in vlr_folders(dataset, split, faces.names[0]):
        return None
    manifest = read_manifest(dataset)
    photos = manifest[manifest.split == split].set_index("name").loc[[faces.names[row] for row in gallery]]
    if photos[["width", "height"]].to_numpy(int).min() < HR_SIZE:
        return None
    enrolled = open_split(dataset, split, whole).rows(gallery)
    return replace(enrolled, packed_hr=enrolled.vlr)


def conditions_of(names: Sequence[str]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which faces were taken under which condition, where their names tell: SCface's distances, the farthest first.

    ``{}`` where names tell nothing. A mugshot (``001_frontal.png``) belongs to none.
    """
    matches = [_SCFACE_NAME.fullmatch(name) for name in names]
    found = np.array([match[1] if match else "" for match in matches])
    return {distance: found == number for number, distance in SCFACE_DISTANCES.items() if (found == number).any()}
