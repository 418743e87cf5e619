"""Which faces and subjects a figure shows: chosen by a stated rule and a seed, never by eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from dsrkit.evaluation.headline import row_label


def choose_faces(gain: Float[np.ndarray, " n"], count: int, seed: int) -> pd.DataFrame:
    """Best, median and worst faces: a table of columns face (row number), group and gain, from the highest gain down.

    A third of ``count`` each is drawn from the tenth of faces that gained most, the tenth around the median and the tenth
    that gained least; what is left over is drawn from all the others. All faces when there are no more than ``count``.

    Args:
        gain: of each face, such as its cosine to the true HR embedding less that of the direct feed.

    Raises ValueError for a gain that is NaN or infinite, and for a count below 1.
    """
    gain = np.asarray(gain, np.float64)
    if gain.ndim != 1 or not len(gain) or not np.isfinite(gain).all():
        raise ValueError(f"gain: expected a finite number for each face, got {gain[:3]} … Look for NaN embeddings.")
    if count < 1:
        raise ValueError(f"count: expected one face or more, got {count}.")
    generator, order, each = np.random.default_rng(seed), np.argsort(-gain, kind="stable"), min(count, len(gain)) // 3
    tenth = max(each, len(gain) // 10)
    middle = (len(gain) - tenth) // 2
    pools = {"best tenth": order[:tenth], "median": order[middle : middle + tenth], "worst tenth": order[-tenth:]}
    groups = {face: name for name, pool in pools.items() for face in generator.choice(pool, each, replace=False)}
    others = np.setdiff1d(order, list(groups))
    left = min(count, len(gain)) - len(groups)
    groups |= dict.fromkeys(generator.choice(others, left, replace=False), "others")
    faces = np.array([face for face in order if face in groups])
    return pd.DataFrame({"face": faces, "group": [groups[face] for face in faces], "gain": gain[faces]})


def strip_rule(row: str, chosen: pd.DataFrame, faces: int, seed: int) -> str:
    """The sentence that says beneath a figure how ``choose_faces`` chose; ``row`` is whose gain it was."""
    counts = chosen["group"].value_counts()
    parts = [f"{counts[group]} {name}" for group, name in _PLACES.items() if group in counts]
    return (
        f"{len(chosen)} of {faces} faces, by what {row_label(row)} gains over the direct feed in cosine to the true HR "
        f"embedding: {', '.join(parts)}; within these drawn by seed {seed}."
    )


_PLACES = {
    "best tenth": "from the best tenth",
    "median": "from the tenth around the median",
    "worst tenth": "from the worst tenth",
    "others": "from all others",
}


def choose_subjects(subjects: Sequence[Any], count: int, each: int, seed: int) -> Int[np.ndarray, " n"]:
    """Rows of the faces of ``count`` subjects, at most ``each`` a subject, both drawn by seed.

    Drawn from the subjects with at least ``each`` faces; where these are too few, the subjects with most faces are taken.
    Raises ValueError without two faces.
    """
    names, person, faces = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    if len(person) < 2 or count < 1 or each < 1:
        raise ValueError(f"Expected two faces or more, a count and a number of each, got {len(person)}, {count} and {each}.")
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(names))
    rich = [one for one in shuffled if faces[one] >= each]
    taken = rich[:count] if len(rich) >= count else sorted(shuffled, key=lambda one: -faces[one])[:count]
    rows = [generator.permutation(np.flatnonzero(person == one))[:each] for one in taken]
    return np.sort(np.concatenate(rows))
