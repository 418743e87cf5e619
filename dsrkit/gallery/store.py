"""The Gallery: embeddings with names, on disk. Enrol, remove, search, name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from jaxtyping import Float, Float32

from dsrkit import __version__
from dsrkit.gallery import checks, files, search
from dsrkit.gallery import index as indexes
from dsrkit.gallery.files import GalleryError, IndexPart, Manifest, Segment
from dsrkit.gallery.search import Found
from dsrkit.gallery.state import State
from dsrkit.models.edgeface import EMBEDDING_SIZE

WAIT = 30.0  # seconds that a writer waits for another one


class Gallery:
    """A gallery on disk, in the state it had when it was opened; what others write later is seen after ``refresh``.

    Opening maps the embeddings into memory and reads the names only. One process writes at a time; any number read, and each
    sees a whole state.

    Args:
        folder: where ``Gallery.create`` made it.
        models: what made the embeddings, see ``made_by``.

    Raises FileNotFoundError without a gallery, GalleryError for one of other models, truncated, or not of this kit.
    """

    def __init__(self, folder: Path | str, models: Mapping[str, str]) -> None:
        self.folder, self.models = Path(folder), dict(models)
        self.refresh()

    @classmethod
    def create(cls, folder: Path | str, models: Mapping[str, str], width: int = EMBEDDING_SIZE) -> Gallery:
        """An empty gallery in a folder that is empty or does not exist yet.

        Raises GalleryError when the folder holds anything.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            others = [path.name for path in folder.iterdir() if path.name != files.LOCK]
            if others:
                raise GalleryError(
                    f"{folder}: expected an empty folder, got {others[0]!r} in it. Open a gallery with Gallery.open, or take "
                    "another folder."
                )
            files.commit(folder, Manifest(width=width, models=dict(models)))
        return cls(folder, models)

    @classmethod
    def open(cls, folder: Path | str, models: Mapping[str, str]) -> Gallery:
        """The gallery that is there: ``Gallery(folder, models)``, and raises as it does."""
        return cls(folder, models)

    def refresh(self) -> None:
        """See what has been written since. Raises as ``open``."""
        while True:
            manifest = files.read_manifest(self.folder)
            checks.same_models(self.folder, manifest.models, self.models)
            try:
                self._state, self._index = State(self.folder, manifest), None
                return
            except FileNotFoundError:  # replaced by a writer just now; if not, read_manifest will say what is missing
                continue

    def __len__(self) -> int:
        """Faces enrolled, without those removed."""
        return len(self._state)

    @property
    def width(self) -> int:
        return self._state.manifest.width

    @property
    def subjects(self) -> list[str]:
        """The names, each once, in the order of enrolment."""
        return list(dict.fromkeys(self._state.names_of(~self._state.removed)))

    @property
    def index(self) -> IndexPart | None:
        """What approximate index there is, with its settings."""
        return self._state.manifest.index

    def check(self) -> None:
        """Read every file whole and compare its SHA-256. Raises GalleryError naming one that was changed or damaged."""
        files.check_parts(self.folder, self._state.manifest)

    def search(
        self,
        probes: Float[np.ndarray, "p d"],
        k: int = 10,
        approximate: bool = False,
        effort: int | None = None,
        shortlist: int | None = None,
    ) -> Found:
        """The k faces of the highest cosine for each probe.

        Args:
            approximate: ask the index (``build_index``) instead of comparing with every face.
            effort, shortlist: of the approximate search, instead of those the index was built with.

        Raises ValueError for bad probes, for more k than faces and for an empty gallery; GalleryError without an index.
        """
        unit = checks.embeddings(probes, self.width, "probes")
        checks.enough(k, len(self))
        if not approximate:
            return search.exact(self._state, unit, k)
        about, content = self.index, self._state.index_bytes
        if about is None or content is None:
            raise GalleryError(f"{self.folder}: expected an index for an approximate search, got none. Call build_index first.")
        if self._index is None:
            self._index = indexes.read(content)
        asked = checks.settings({"effort": effort, "shortlist": shortlist}, about.settings)
        return search.approximate(self._state, self._index, about, unit, k, asked)

    def identify(
        self, probes: Float[np.ndarray, "p d"], threshold: float, approximate: bool = False, effort: int | None = None
    ) -> pd.DataFrame:
        """Name each probe: columns identity (or ``unknown``), score (cosine), nearest and runner_up (another subject).

        A subject's score is that of its best face; of equal scores, the face enrolled first comes first.

        Args:
            threshold: a best score below it is answered ``unknown`` (cosine, −1 to 1).

        Raises ValueError as ``search``, and for a threshold outside −1 to 1.
        """
        checks.threshold(threshold)
        unit = checks.embeddings(probes, self.width, "probes")
        checks.enough(1, len(self))
        return search.two_subjects(lambda some, k: self.search(some, k, approximate, effort), unit, len(self), threshold)

    @contextmanager
    def _writing(self) -> Iterator[str]:
        """Alone, on the newest state; gives a new number for the names of files."""
        with _lock(self.folder):
            self.refresh()
            yield f"{self._state.manifest.generation + 1:06}"
            self.refresh()

    def _commit(self, **changes: Any) -> None:
        manifest = self._state.manifest
        changes |= {"generation": manifest.generation + 1, "dsrkit": __version__}
        files.commit(self.folder, manifest.model_copy(update=changes))

    def enroll(self, embeddings: Float[np.ndarray, "n d"], names: Sequence[str]) -> None:
        """Add faces. Embeddings are brought to unit length; a subject may have several faces, at once or later.

        Segments no larger than what is added are merged with it, so that enrolling one by one leaves few files.
        Raises ValueError for embeddings of another width, NaN or zero, and for names that are not texts, one a face.
        """
        unit = checks.embeddings(embeddings, self.width, "faces to enrol")
        added = checks.names(names, len(unit))
        with self._writing() as number:
            state, kept, rows = self._state, list(self._state.manifest.segments), len(unit)
            while kept and kept[-1].rows <= rows:
                rows += kept.pop().rows
            first = sum(segment.rows for segment in kept)

            def blocks() -> Iterator[Float32[np.ndarray, "n d"]]:
                yield from (block for _, block, _ in state.blocks(first))
                yield unit

            self._commit(segments=[*kept, self._write(number, state.names_of(slice(first, None)) + added, blocks())])

    def _write(self, number: str, names: list[str], blocks: Iterator[Float32[np.ndarray, "n d"]]) -> Segment:
        embeddings = files.write_rows(self.folder, f"embeddings-{number}.npy", len(names), self.width, blocks)
        return Segment(rows=len(names), embeddings=embeddings, names=files.write_json(self.folder, f"names-{number}.json", names))

    def remove(self, name: str) -> int:
        """Take every face of a subject out; returns how many. The space comes back with ``compact``.

        Raises GalleryError for a name that is not enrolled, with the nearest that is.
        """
        with self._writing() as number:
            rows = self._state.rows_of(name)
            if not len(rows):
                raise checks.nobody(name, self.subjects)
            every = np.union1d(np.flatnonzero(self._state.removed), rows)
            part = files.write_part(self.folder, f"removed-{number}.npy", lambda stream: np.save(stream, every))
            self._commit(removed=part)
        return len(rows)

    def compact(self) -> None:
        """Write the faces that count as one segment. Rows close up, so an index is dropped where faces had been removed."""
        with self._writing() as number:
            state, removed = self._state, self._state.removed
            if not removed.any() and len(state.manifest.segments) < 2:
                return
            names = state.names_of(~removed)
            segments = (
                [self._write(number, names, (np.delete(block, gone, 0) for _, block, gone in state.blocks()))] if names else []
            )
            self._commit(segments=segments, removed=None, index=None if removed.any() else self.index)

    def build_index(self, kind: str = "ivf", seed: int = 0, **settings: int) -> None:
        """Make, or replace, the approximate index: ``ivf``, ``pq`` or ``hnsw``, with settings of ``default_settings``.

        Faces enrolled later are searched exactly beside it, until it is built again.
        Raises ImportError without FAISS, ValueError for another kind or setting, GalleryError for fewer than 1,000 faces.
        """
        indexes.faiss_module()
        with self._writing() as number:
            state, rows = self._state, self._state.manifest.rows
            indexes.check_kind(kind, len(state))
            chosen = checks.settings(settings, indexes.default_settings(kind, rows, self.width))
            some = np.random.default_rng(seed).permutation(np.flatnonzero(~state.removed))[: indexes.TRAINING_ROWS]
            index = indexes.train(kind, chosen, state.embeddings(np.sort(some)), seed)
            indexes.add_rows(index, (block for _, block, _ in state.blocks()))
            content = indexes.serialised(index)
            part = files.write_part(self.folder, f"index-{number}.faiss", lambda stream: stream.write(content.data))
            self._commit(index=IndexPart(part=part, kind=kind, rows=rows, settings=chosen))


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / files.LOCK, timeout=WAIT):  # the system opens it when its holder dies
            yield
    except Timeout as error:
        raise GalleryError(
            f"{folder}: expected to be the only writer, got another one at work for {WAIT:g} seconds. Wait until it is done, "
            "then try again."
        ) from error
