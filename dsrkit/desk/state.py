"""What the desk knows, without a single widget: one run at one VLR size, and what each of its systems answers.

A probe's answer at a threshold is one of ``ANSWERS``. The shares that the desk shows are counted from these answers, so the
numbers, the marks beside the faces and the lists of failures cannot disagree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from torch import nn

from dsrkit.data.faces import FaceSet, vlr_folders
from dsrkit.data.layout import dataset_hash
from dsrkit.desk.embeddings import Report, embedded, silent
from dsrkit.evaluation.native import NATIVE_HR
from dsrkit.evaluation.open_set import identification, sweep_of
from dsrkit.evaluation.protocols import verification
from dsrkit.evaluation.systems import Restorer, System, open_systems, shown_by
from dsrkit.evaluation.trial import NATIVE, Seen, Trial, frozen_threshold, gallery_version, open_trial, version_of
from dsrkit.metrics import unit_length
from dsrkit.params import Evaluation
from dsrkit.runs import Run, pick_device, resolve

ANSWERS = ("named rightly", "named wrongly", "stranger named", "enrolled, unknown", "stranger, unknown")
RIGHT = ("named rightly", "stranger, unknown")
FAILURES = {
    "false accepts": ("named wrongly", "stranger named"),
    "false rejects": ("enrolled, unknown",),
    "unknowns": ("enrolled, unknown", "stranger, unknown"),
}
# what stands in the gallery, by protocol
GALLERIES = {"both-lr": "VLR faces, seen as the probes are", "hr-lr": "HR faces", "hr+lr": "HR and VLR, embeddings summed"}
MATCHES = 5
_KEPT_PICTURES = 2000  # restored faces of 112×112: 75 MB


@dataclass(frozen=True)
class Judged:
    """One system under one protocol: its embeddings, its results, and its answers at any threshold.

    ``verified`` is None for a protocol of some of the probes, which has no pairs of its own.
    """

    system: System
    protocol: str
    frozen: float  # the threshold chosen on validation subjects
    probes: Int[np.ndarray, " q"]  # rows of the split
    embeddings: Float[np.ndarray, "n 512"]  # of every face of the split, as the system sees probes
    gallery: Float[np.ndarray, "g 512"]
    verified: dict[str, Any] | None
    identified: dict[str, Any]
    sweep: pd.DataFrame

    @property
    def lowest(self) -> float:
        """The lowest threshold worth trying: below it everybody is named."""
        return float(min(0.0, np.floor(self.identified["top_score"].min() * 20) / 20))

    def answers(self, threshold: float) -> np.ndarray:
        """One of ``ANSWERS`` for each probe, as text."""
        rank, named = self.identified["rank"], self.identified["top_score"] >= threshold
        cases = [named & (rank == 1), named & (rank > 1), named & (rank == 0), ~named & (rank > 0)]
        return np.select(cases, ANSWERS[:4], ANSWERS[4])

    def at(self, threshold: float) -> dict[str, float]:
        """Shares at a threshold: correct, wrong, unknown (of enrolled probes), fpir (of strangers), far and tar (of pairs).

        NaN where there is nothing to count.
        """
        answers, enrolled = self.answers(threshold), self.identified["rank"] > 0
        shares = {
            "correct": (answers == "named rightly")[enrolled],
            "wrong": (answers == "named wrongly")[enrolled],
            "unknown": (answers == "enrolled, unknown")[enrolled],
            "fpir": (answers == "stranger named")[~enrolled],
            "far": np.empty(0),
            "tar": np.empty(0),
        }
        if self.verified is not None:
            accepted, same = self.verified["scores"] >= threshold, self.verified["same"]
            shares |= {"far": accepted[~same], "tar": accepted[same]}
        return {name: float(np.mean(part)) if len(part) else float("nan") for name, part in shares.items()}

    def failures(self, kind: str, threshold: float) -> Int[np.ndarray, " k"]:
        """Probes (places in the list of probes) of one of ``FAILURES``: the surest false accept, the nearest miss first."""
        places = np.flatnonzero(np.isin(self.answers(threshold), FAILURES[kind]))
        return places[np.argsort(-self.identified["top_score"][places], kind="stable")]


class DeskState:
    """One run at one VLR size: opens its test split and its systems, embeds lazily and once.

    Raises FileNotFoundError or ValueError for a run that cannot be evaluated (see ``open_trial``, ``open_systems``).
    """

    def __init__(self, run: Run, params: Evaluation) -> None:
        self.run, self.params = run, params
        self.trial: Trial = open_trial(run, params)
        systems = open_systems(run, params, pick_device(params.device))
        self.systems = {system.row: system for system in self.trial.takes(systems)}
        self.dataset = resolve(params.dataset, run.dataset, "data set (dataset)")
        self._dataset_hash = dataset_hash(self.dataset)
        self._judged: dict[tuple[str, str], Judged] = {}
        self._known: dict[tuple[Any, ...], Seen] = {}
        self._pictures: OrderedDict[tuple[Restorer, int], UInt8[np.ndarray, "112 112 3"]] = OrderedDict()

    @property
    def rows(self) -> list[str]:
        return list(self.systems)

    @property
    def sizes(self) -> list[str]:
        """The VLR sizes that the data set holds for this split."""
        found = vlr_folders(self.dataset, self.params.split, self.trial.faces.names[0])
        return sorted({*found, self.params.vlr_size}, key=lambda size: [int(number) for number in size.split("x")])

    @property
    def galleries(self) -> dict[str, str]:
        """What may stand in the gallery, in words → the protocol; mugshots are not shown here."""
        return {GALLERIES.get(one, one): one for one in self.trial.protocols if not one.startswith(NATIVE_HR)}

    def _seen(self, system: System, report: Report) -> Seen:
        """The embeddings of the split and of the validation split, as the system sees them."""
        key = version_of(system)
        if key not in self._known:
            parts = (self.trial.faces, self.trial.validation)
            made = [embedded(system, part, self._dataset_hash, self.run.folder / "desk" / "cache", report) for part in parts]
            self._known[key] = Seen(*made)
        return self._known[key]

    def judged(self, row: str, protocol: str, report: Report = silent) -> Judged:
        """What the system of ``row`` does under ``protocol``; kept after the first time.

        Args:
            report: told how far it is while faces are embedded.

        Raises ValueError for embeddings with NaN, and when no probe is enrolled.
        """
        if (row, protocol) not in self._judged:
            self._judged[row, protocol] = self._judge(self.systems[row], protocol, report)
        return self._judged[row, protocol]

    def _judge(self, system: System, protocol: str, report: Report) -> Judged:
        trial, labels, probes = self.trial, self.trial.faces.labels, self.trial.protocols[protocol]
        low, high = self._seen(system, report), None
        if trial.faces.has_hr and protocol != "both-lr":
            high = self._seen(replace(system.at_hr(), row=f"HR faces, as {system.row} sees them"), report)
        left = gallery_version(protocol, low, high)
        frozen = frozen_threshold(trial, left.validation, low.validation).value
        gallery = left.faces[trial.gallery]
        identified = identification(low.faces[probes], labels[probes], gallery, labels[trial.gallery], frozen)
        sweep = sweep_of(identified, np.linspace(min(0.0, float(identified["top_score"].min())), 1, 201))
        verified = None
        if not protocol.startswith(f"{NATIVE}-"):
            # the left face of a pair as enrolled, the right one as a probe
            shifted = trial.pairs + np.array([0, len(left.faces)])
            verified = verification(np.concatenate([left.faces, low.faces]), shifted, trial.same, trial.folds)
        return Judged(system, protocol, frozen, probes, low.faces, gallery, verified, identified, sweep)

    def matches(self, judged: Judged, embedding: Float[np.ndarray, " 512"], count: int = MATCHES) -> pd.DataFrame:
        """The nearest subjects of the gallery, best first: subject, score (cosine), face (row of the split) of its best image."""
        scores, subjects = judged.gallery @ embedding, self.trial.faces.subjects
        order = np.argsort(-scores, kind="stable")
        best: dict[str, tuple[float, int]] = {}
        for place in order:
            face = int(self.trial.gallery[place])
            best.setdefault(subjects[face], (float(scores[place]), face))
            if len(best) == count:
                break
        return pd.DataFrame([(name, *found) for name, found in best.items()], columns=["subject", "score", "face"])

    def table(self, judged: Judged, probes: Int[np.ndarray, " k"], threshold: float) -> pd.DataFrame:
        """One row a probe: probe (file), subject, answer, nearest (subject), score, rank of the own subject (0: a stranger)."""
        answers, faces, rows = judged.answers(threshold), self.trial.faces, []
        for probe in probes:
            face = int(judged.probes[probe])
            nearest = self.matches(judged, judged.embeddings[face], 1)
            about = {"probe": faces.names[face], "subject": faces.subjects[face], "answer": answers[probe]}
            found = {"nearest": nearest.subject[0], "score": nearest.score[0], "rank": int(judged.identified["rank"][probe])}
            rows.append(about | found)
        return pd.DataFrame(rows)

    def identify(self, judged: Judged, faces: FaceSet) -> pd.DataFrame:
        """``matches`` of the first of ``faces``, which need not be of this data set: restored, embedded, compared.

        Raises ValueError for an embedding with NaN.
        """
        with one_thread():
            return self.matches(judged, unit_length(judged.system.embedded(faces.first(1)))[0])

    def restorer_beside(self, row: str) -> nn.Module | None:
        """The DSR to show for a row: its own, or the run's first where the row has none."""
        systems = [self.systems[row], *self.systems.values()]
        return next((system.restorer for system in systems if isinstance(system.restorer, nn.Module)), None)

    def versions(self, row: str, faces: Sequence[int]) -> list[dict[str, UInt8[np.ndarray, "h w 3"]]]:
        """Faces of the split (row numbers), each as VLR, bicubic, DSR and (where there is one) HR face."""
        dsr, every = self.restorer_beside(row), self.trial.faces
        columns = {"VLR": [np.asarray(every.vlr[face]) for face in faces], "bicubic": self.pictures("bicubic", faces)}
        columns |= {} if dsr is None else {"DSR": self.pictures(dsr, faces)}
        columns |= {"HR": self.pictures("hr", faces)} if every.has_hr else {}
        return [{title: pictures[number] for title, pictures in columns.items()} for number in range(len(faces))]

    def photo_versions(self, row: str, photo: FaceSet) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """The same of a photo that is not of this data set."""
        dsr = self.restorer_beside(row)
        with one_thread():
            restored = {} if dsr is None else {"DSR": shown_by(dsr, photo)[0]}
            return {"VLR": photo.vlr[0], "bicubic": shown_by("bicubic", photo)[0]} | restored | {"HR": photo.hr[0]}

    def pictures(self, restorer: Restorer, rows: Sequence[int]) -> list[UInt8[np.ndarray, "112 112 3"]]:
        """Faces of the split as a recogniser sees them; restored in one batch, and kept."""
        missing = [row for row in dict.fromkeys(map(int, rows)) if (restorer, row) not in self._pictures]
        if missing:
            with one_thread():
                made = shown_by(restorer, self.trial.faces.rows(np.array(missing)))
            self._pictures.update({(restorer, row): np.asarray(face) for row, face in zip(missing, made, strict=True)})
        found = [self._pictures[restorer, int(row)] for row in rows]
        while len(self._pictures) > _KEPT_PICTURES:
            self._pictures.popitem(last=False)
        return found

    def enrolled_as(self, judged: Judged) -> Restorer:
        """What the gallery's faces look like to the recogniser."""
        return "hr" if judged.protocol in ("hr-lr", "hr+lr") else judged.system.restorer


@contextmanager
def one_thread() -> Iterator[None]:
    """A handful of faces takes milliseconds on one core; threads that wait for each other on a busy machine take seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
