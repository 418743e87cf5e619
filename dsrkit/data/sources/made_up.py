"""Made-up faces as a source: no file is read, each face is drawn from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from dsrkit.data.sources.folders import subject_of_name
from dsrkit.data.sources.records import Face, ImageError
from dsrkit.data.synthetic import face_names, render_faces


class SyntheticSource:
    """``subjects`` people × ``images_per_subject`` images, drawn from ``seed``; see ``synthetic``.

    Raises ValueError for fewer than one of either.
    """

    native = False

    def __init__(self, subjects: int, images_per_subject: int, seed: int = 0) -> None:
        if subjects < 1 or images_per_subject < 1:
            raise ValueError(
                f"Made-up faces: expected at least one subject and one image each, got {subjects} and {images_per_subject}."
            )
        self.seed = seed
        people = np.repeat(np.arange(subjects), images_per_subject)
        images = np.tile(np.arange(images_per_subject), subjects)
        names = face_names(people.tolist(), images.tolist(), seed=seed)
        self.faces = [
            Face(subject_of_name(name) or "", name, f"made-up:{person}:{image}")
            for name, person, image in zip(names, people, images, strict=True)
        ]

    def read(self, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "112 112 3"] | ImageError]:
        """Pixels of each face, in order."""
        people, images = zip(*(map(int, face.origin.split(":")[1:]) for face in faces), strict=True)
        return list(render_faces(people, images, seed=self.seed))
