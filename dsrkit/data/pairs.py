"""Pairs for 1:1 verification: LFW's own list, or seeded pairs over subject-disjoint folds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ["left", "right", "same", "fold"]


def read_lfw_pairs(path: Path | str) -> pd.DataFrame:
    """LFW's ``pairs.txt`` (view 2) → columns left, right (``Name_0001.png``), same, fold.

    The header holds the number of folds and of pairs per kind and fold; three fields are a genuine pair, four an
    impostor pair (Huang et al. 2007).
    Raises FileNotFoundError, or ValueError naming the line that does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected LFW's list of pairs at {path}, got nothing there. Give the path of pairs.txt.")
    lines = path.read_text().splitlines()
    try:
        folds, per_kind = (int(word) for word in lines[0].split())
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected a first line such as '10 300', got {lines[:1]}.") from error
    rows = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split("\t")
        if len(words) not in (3, 4) or not (words[1].isdigit() and words[-1].isdigit()):
            raise ValueError(
                f"{path}, line {number}: expected a name, then numbers and names, 3 or 4 fields with tabs between, got {line!r}. "
                "Fetch it again."
            )
        left, right = (words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])
        rows.append((*(f"{name}_{int(image):04d}.png" for name, image in (left, right)), len(words) == 3))
    if len(rows) != 2 * folds * per_kind:
        raise ValueError(f"{path}: expected {2 * folds * per_kind} pairs by its first line, got {len(rows)}. Fetch it again.")
    table = pd.DataFrame(rows, columns=COLUMNS[:3])
    table["fold"] = np.arange(len(rows)) // (2 * per_kind)
    return table


def make_pairs(names: Sequence[str], subjects: Sequence[str], seed: int = 0, folds: int = 10, most: int = 3000) -> pd.DataFrame:
    """As many impostor as genuine pairs, at most ``most`` of each, in ``folds`` that share no subject.

    Fewer folds are made when there are fewer than two subjects with two images for each.
    Raises ValueError when there is no genuine or no impostor pair.
    """
    generator = np.random.default_rng(seed)
    images = pd.Series(list(names)).groupby(pd.Series(list(subjects))).apply(list)
    several = [subject for subject in images.index if len(images[subject]) > 1]
    folds = min(folds, len(several) // 2)
    if folds < 1:
        raise ValueError(
            f"Pairs: expected two subjects with two images or more, got {len(several)} of {len(images)} subjects. "
            "Add images, or give a larger share of subjects to this split."
        )
    order = generator.permutation(several)
    rows = []
    for fold in range(folds):
        people = order[fold::folds]
        genuine = [pair for person in people for pair in combinations(images[person], 2)]
        impostor = [pair for one, other in combinations(people, 2) for pair in product(images[one], images[other])]
        count = min(len(genuine), len(impostor), max(1, most // folds))
        for kind, same in ((genuine, True), (impostor, False)):
            chosen = generator.choice(len(kind), count, replace=False)
            rows += [(*kind[number], same, fold) for number in sorted(chosen)]
    return pd.DataFrame(rows, columns=COLUMNS)
