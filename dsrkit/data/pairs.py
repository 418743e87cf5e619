"""Pairs for 1:1 verification: LFW's own list, or seeded pairs over subject-disjoint folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        people = [images[person] for person in order[fold::folds]]
        kinds = ((*_genuine(people), True), (*_impostor(people), False))
        count = min(kinds[0][0], kinds[1][0], max(1, most // folds))
        for total, pair, same in kinds:
            chosen = generator.choice(total, count, replace=False)
            rows += [(*pair(number), same, fold) for number in sorted(chosen.tolist())]
    return pd.DataFrame(rows, columns=COLUMNS)


# Pairs are numbered, person by person and image by image, and made when their number is drawn: large splits have billions.
Pairs = tuple[int, Callable[[int], tuple[str, str]]]  # how many there are, and the one of a number


def _genuine(people: Sequence[list[str]]) -> Pairs:
    """All pairs of two images of one person, in the order of ``itertools.combinations``."""
    ends = np.cumsum([len(images) * (len(images) - 1) // 2 for images in people])

    def pair(number: int) -> tuple[str, str]:
        person = int(np.searchsorted(ends, number, side="right"))
        images, rest = people[person], number - (int(ends[person - 1]) if person else 0)
        rows = np.cumsum(np.arange(len(images) - 1, 0, -1))  # the first image is in most pairs, the last but one in one
        left = int(np.searchsorted(rows, rest, side="right"))
        right = left + 1 + rest - (int(rows[left - 1]) if left else 0)
        return images[left], images[right]

    return int(ends[-1]), pair


def _impostor(people: Sequence[list[str]]) -> Pairs:
    """All pairs of images of two people, in the order of ``itertools.combinations`` of people, ``product`` of their images."""
    counts = np.array([len(images) for images in people])
    upto = np.cumsum(counts)
    ends = np.cumsum(counts * (upto[-1] - upto))

    def pair(number: int) -> tuple[str, str]:
        one = int(np.searchsorted(ends, number, side="right"))
        rest = number - (int(ends[one - 1]) if one else 0)
        after = upto - upto[one]  # images of the people after `one`, up to and with each
        other = int(np.searchsorted(after, rest // int(counts[one]), side="right"))
        left, right = divmod(rest - int(counts[one] * after[other - 1]), int(counts[other]))
        return people[one][left], people[other][right]

    return int(ends[-1]), pair
