"""The same picture twice: found by a perceptual hash, whatever its compression, size or brightness.

The hash is the difference hash ("dHash", N. Krawetz 2013, hackerfactor.com; the same bits as ``imagehash.dhash`` with
``hash_size=16``): the picture as 17×16 grey pixels, one bit for each that is brighter than its left neighbour. The customary
64 bits are too few here: aligned faces are so alike that different photos share them. Of 256 bits, copies differ in 15 at
most, and other photos of LFW and CelebA in 24 and more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8, UInt16
from PIL import Image

from dsrkit.data.layout import FLAG_COLUMNS

BITS = 256
WORDS = 16
MOST_BITS = WORDS - 1  # that copies may differ in: then one of the 16 words, at least, is the same
_BLOCK = 256


def difference_hash(images: UInt8[np.ndarray, "n h w 3"]) -> UInt16[np.ndarray, "n 16"]:
    """The 256 bits of each picture, as 16 words."""
    small = [Image.fromarray(image).convert("L").resize((WORDS + 1, WORDS), Image.Resampling.LANCZOS) for image in images]
    grey = np.stack([np.asarray(one) for one in small])
    return np.packbits(grey[:, :, 1:] > grey[:, :, :-1], axis=2).reshape(-1, 2 * WORDS).view(np.uint16)


def differing_bits(left: UInt16[np.ndarray, "n 16"], right: UInt16[np.ndarray, "n 16"]) -> Int[np.ndarray, " n"]:
    return np.bitwise_count(left ^ right).sum(1, dtype=int)


def alike(hashes: UInt16[np.ndarray, "n 16"]) -> Int[np.ndarray, " n"]:
    """The number of the group of alike pictures that each belongs to; most are alone in theirs.

    Pictures that differ in at most 15 bits are alike, and so are those that a chain of such pictures links. Only pairs with a
    word in common are compared (multi-index hashing, Norouzi et al. 2012, arXiv 1307.2982): every such pair has one.
    """
    distinct, number = np.unique(hashes, axis=0, return_inverse=True)
    links = [np.zeros((2, 0), int)]
    for word in distinct.T:
        order = np.argsort(word, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(word[order])) + 1)  # of an equal word
        links += [_near(distinct, run) for run in runs if len(run) > 1]
    return _linked(len(distinct), *np.concatenate(links, axis=1))[number.reshape(-1)]


def _near(hashes: UInt16[np.ndarray, "n 16"], rows: Int[np.ndarray, " k"]) -> Int[np.ndarray, "2 p"]:
    """Pairs of ``rows`` that differ in few bits."""
    first = hashes[rows].view(np.uint64)[:, 0]  # a quarter of the bits rules nearly all pairs out
    found = []
    for start in range(0, len(rows), _BLOCK):
        block = first[start : start + _BLOCK, None] ^ first[None, start:]
        left, right = np.nonzero(np.bitwise_count(block) <= MOST_BITS)
        pairs = rows[np.stack([left[left < right], right[left < right]]) + start]
        found.append(pairs[:, differing_bits(hashes[pairs[0]], hashes[pairs[1]]) <= MOST_BITS])
    return np.concatenate(found, axis=1)


def _linked(count: int, left: Int[np.ndarray, " k"], right: Int[np.ndarray, " k"]) -> Int[np.ndarray, " n"]:
    """For each of ``count`` numbers the smallest one that a chain of links leads to; chains of copies are short."""
    smallest = np.arange(count)
    while True:
        before = smallest.copy()
        np.minimum.at(smallest, left, smallest[right])
        np.minimum.at(smallest, right, smallest[left])
        if np.array_equal(smallest, before):
            return smallest


def duplicate_flags(faces: pd.DataFrame, hashes: Sequence[str]) -> pd.DataFrame:
    """Flags ``conflict`` (the picture stands under several subjects) and ``duplicate`` (again under the same subject).

    Every copy is in a conflict, since none is known to be right; the first of several duplicates is none.

    Args:
        faces: columns split, subject and name, with flat pictures left out: those show nobody.
        hashes: the bits of each, in hexadecimal.
    """
    bits = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint16).reshape(-1, WORDS)
    table = faces.reset_index(drop=True).assign(picture=alike(bits))
    flags = []
    for _, group in table[table.picture.duplicated(keep=False)].groupby("picture", sort=False):
        for face in group.itertuples():
            strangers = group[group.subject != face.subject]
            if strangers.empty and face.Index == group.index[0]:
                continue
            other = (group if strangers.empty else strangers).reset_index().iloc[0]
            apart = int(differing_bits(*bits[[[face.Index], [other["index"]]]])[0])
            about = f"the same picture as {other['split']}/{other['name']}"
            flag = "duplicate" if strangers.empty else "conflict"
            whose = "" if strangers.empty else f" of subject {other['subject']}"
            reason = f"{about}{whose} ({apart} of {BITS} bits differ)"
            flags.append((face.split, face.subject, face.name, flag, reason, other["split"], other["name"]))
    return pd.DataFrame(flags, columns=FLAG_COLUMNS)
