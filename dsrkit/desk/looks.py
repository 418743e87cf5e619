"""One face on the desk, a probe or one's own photo: its versions, its nearest subjects, and what the system answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from torch import nn

from dsrkit.data.faces import FaceSet
from dsrkit.desk.state import MATCHES, RIGHT, DeskState, Judged
from dsrkit.plots.style import COLOURS, GREY
from dsrkit.recognition import UNKNOWN

BLUE, ORANGE = COLOURS[0], COLOURS[1]
# answers that are not right or wrong: nobody told the desk who is on one's own photo
NAMED, NOT_NAMED = "own photo, named", "own photo, unknown"
_MARKS = {"named wrongly": "✘", "stranger named": "✘", "enrolled, unknown": "?", NOT_NAMED: "?", NAMED: "●"}

Face = UInt8[np.ndarray, "h w 3"]


def mark(answer: str) -> str:
    """✔ right, ✘ a false accept, ? unknown: told apart without colour."""
    return "✔" if answer in RIGHT else _MARKS[answer]


def colour(answer: str) -> str:
    return {"✔": BLUE, "✘": ORANGE, "?": GREY, "●": "#000000"}[mark(answer)]


@dataclass(frozen=True)
class Look:
    """A face, looked at.

    Args:
        probe: its number among the split's probes; None for one's own photo.
        name: the file. subject: whose face it is, "" where nobody knows.
        versions: title → picture: VLR, bicubic, DSR, HR. recognised: the title of the one that the recogniser was shown.
        matches: subject, score and face of the nearest subjects, best first. pictures: their faces, as they were enrolled.
        answer: one of ``state.ANSWERS``, ``NAMED`` or ``NOT_NAMED``, at ``threshold``.
    """

    probe: int | None
    name: str
    subject: str
    versions: dict[str, Face]
    recognised: str
    matches: pd.DataFrame
    pictures: list[Face]
    answer: str = ""
    threshold: float = 0.0

    def at(self, judged: Judged, threshold: float) -> Look:
        """The same face, decided at a threshold."""
        if self.probe is None:
            answer = NAMED if self.matches.score[0] >= threshold else NOT_NAMED
        else:
            answer = str(judged.answers(threshold)[self.probe])
        return replace(self, answer=answer, threshold=threshold)

    @property
    def verdict(self) -> str:
        """The decision in words, with the score that made it."""
        nearest, score = self.matches.subject[0], self.matches.score[0]
        named = f"named {nearest} (score {score:.3f}, threshold {self.threshold:.3f})"
        unknown = f"answered {UNKNOWN} (nearest {nearest}, score {score:.3f}, below {self.threshold:.3f})"
        return {
            "named rightly": f"Right: {named}",
            "named wrongly": f"Wrong: {named}, is {self.subject}",
            "stranger named": f"Wrong: {named}, is {self.subject}, who is not in the gallery",
            "enrolled, unknown": f"Unknown: {unknown}, is {self.subject}, who is in the gallery",
            "stranger, unknown": f"Right: {unknown}, is {self.subject}, who is not in the gallery",
            NAMED: f"Your photo: {named}",
            NOT_NAMED: f"Your photo: {unknown}",
        }[self.answer]

    @property
    def table(self) -> pd.DataFrame:
        """One row a match: probe, subject, answer, threshold, match, score."""
        about = {"probe": self.name, "subject": self.subject, "answer": self.answer, "threshold": self.threshold}
        return pd.DataFrame([about | {"match": one.subject, "score": one.score} for one in self.matches.itertuples()])


def _title(judged: Judged) -> str:
    restorer = judged.system.restorer
    return "DSR" if isinstance(restorer, nn.Module) else {"hr": "HR", "bicubic": "bicubic"}[restorer]


def look_at_probes(
    state: DeskState, judged: Judged, probes: Sequence[int], threshold: float, matches: int = MATCHES
) -> list[Look]:
    """Some of the split's probes. What is to be restored for all of them is restored in one batch."""
    rows, faces, enrolled_as = [int(judged.probes[probe]) for probe in probes], state.trial.faces, state.enrolled_as(judged)
    every = [state.matches(judged, judged.embeddings[row], matches) for row in rows]
    state.pictures(enrolled_as, [face for found in every for face in found.face])
    versions = state.versions(judged.system.row, rows)
    looks = []
    for probe, row, found, seen in zip(probes, rows, every, versions, strict=True):
        pictures = state.pictures(enrolled_as, found.face.tolist())  # kept since the batch above
        look = Look(probe, faces.names[row], faces.subjects[row], seen, _title(judged), found, pictures)
        looks.append(look.at(judged, threshold))
    return looks


def look_at_photo(state: DeskState, judged: Judged, photo: FaceSet, threshold: float) -> Look:
    """One's own photo, as ``photos.as_probe`` gives it. Raises ValueError for an embedding with NaN."""
    found = state.identify(judged, photo)
    pictures = state.pictures(state.enrolled_as(judged), found.face.tolist())
    look = Look(None, photo.names[0], "", state.photo_versions(judged.system.row, photo), _title(judged), found, pictures)
    return look.at(judged, threshold)
