"""What a gallery takes: each check raises an error that says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from dsrkit.gallery.files import GalleryError
from dsrkit.metrics import unit_length
from dsrkit.recognition import UNKNOWN
from dsrkit.runs import file_hash


def embeddings(given: Float[np.ndarray, "n d"], width: int, what: str) -> Float32[np.ndarray, "n d"]:
    """Rows of unit length, float32. Raises ValueError for none, another width, NaN, infinity and zeros."""
    unit = unit_length(np.asarray(given, np.float32))
    if not len(unit):
        raise ValueError(f"{what}: expected at least one embedding, got none. Leave the call out.")
    if unit.shape[1] != width:
        raise ValueError(
            f"{what}: expected embeddings of width {width}, got {unit.shape[1]}. Embed them with the gallery's model."
        )
    return np.ascontiguousarray(unit)


def names(given: Sequence[str], count: int) -> list[str]:
    """One text a face, any text but an empty one and the answer for strangers. Raises ValueError."""
    several = list(given) if not isinstance(given, str) else [given]
    if len(several) != count:
        raise ValueError(f"Expected one name a face, got {len(several)} names for {count} faces.")
    for name in several:
        if not isinstance(name, str) or not name or name == UNKNOWN:
            raise ValueError(
                f"Expected names that are texts, not empty and not {UNKNOWN!r} (the answer for strangers), got {name!r}. "
                "Numbers go in as text: '007'."
            )
    return [str(name) for name in several]


def threshold(value: float) -> None:
    if not -1 <= value <= 1:
        raise ValueError(f"threshold: expected a cosine from -1 to 1, got {value}.")


def enough(k: int, faces: int) -> None:
    if not faces:
        raise ValueError("Expected faces in the gallery, got none. Call enroll(embeddings, names) first.")
    if not 1 <= k <= faces:
        raise ValueError(f"k: expected 1 to {faces:,}, the faces in the gallery, got {k}. Ask for fewer.")


def settings(given: Mapping[str, int | None], defaults: dict[str, int]) -> dict[str, int]:
    """The defaults with what was given (None: the default). Raises ValueError for another name, and for less than 1."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if name not in defaults:
            raise ValueError(f"{name}: expected a setting among {', '.join(defaults)}, got another. Look at default_settings.")
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a whole number of 1 or more, got {value!r}. The default is {defaults[name]}.")
    return defaults | chosen


def made_by(edgeface: Path | str, dsr: Path | str | Sequence[Path | str] | None = None) -> dict[str, str]:
    """What makes embeddings, as SHA-256 of the files: the recogniser, and the DSR or ensemble of them (None: bicubic).

    A gallery keeps it, and opens for the same only. Raises FileNotFoundError.
    """
    several = [] if dsr is None else [dsr] if isinstance(dsr, str | Path) else list(dsr)
    return {"edgeface": file_hash(Path(edgeface)), "dsr": " ".join(file_hash(Path(one)) for one in several) or "none"}


def same_models(folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raises GalleryError when a gallery's embeddings were made by another model."""
    differ = sorted(role for role in found.keys() | expected.keys() if found.get(role) != expected.get(role))
    if differ:
        role = differ[0]
        raise GalleryError(
            f"{folder}: expected a gallery made by {role} {_short(expected.get(role))}, got one by {_short(found.get(role))}. "
            "Embeddings of different models cannot be compared: give the models that made it, or enrol the faces again."
        )


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest if len(digest) <= 12 else f"{digest[:12]}…"


def nobody(name: str, enrolled: list[str]) -> GalleryError:
    """The error for a name that is not enrolled."""
    nearest = difflib.get_close_matches(str(name), enrolled, n=1, cutoff=0.5)
    meant = f"did you mean {nearest[0]!r}?" if nearest else f"{len(enrolled):,} subjects are, such as {enrolled[:3]}."
    return GalleryError(f"Expected the name of an enrolled subject, got {name!r}: {meant}")
